"""VerifyLedger finds nothing wrong in books that were kept by the code, and every single thing that
somebody changed behind its back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from mesh.money import Money
from payment_rpc.domain.errors import RefundFailed
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, PaymentState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import ledger_checks
from payment_rpc.tables import (
    ATTEMPT,
    LEDGER_POSTING,
    LEDGER_TRANSACTION,
    PAYMENT,
    REFUND,
    WALLET,
    WALLET_ENTRY,
)
from payment_rpc.usecases import ledger_verification
from tests.builders.order import ADMIN
from tests.builders.payment import PRICE, PaymentWorld, payment_world
from tests.builders.payment_steps import RefundLine, paid, refund, spend, top_up


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[PaymentWorld]:
    async with payment_world(
        database_url_factory(), database_url_factory(), tmp_path, fee_basis_points=60
    ) as world:
        yield world


@pytest.fixture
def line(world: PaymentWorld, monkeypatch: pytest.MonkeyPatch) -> RefundLine:
    return RefundLine(world.channel, monkeypatch)


async def found(world: PaymentWorld) -> set[str]:
    return {
        problem.invariant
        for problem in (await world.app.ledger_verification.verify_ledger()).violations
    }


async def a_bit_of_everything(world: PaymentWorld, line: RefundLine) -> None:
    """Payments, refunds in every state, late money, second captures, conflicts, wallets."""
    payment = await paid(world)
    await refund(world, payment, "10.00")
    line.lose_answers = True
    await refund(world, payment, "20.00")
    line.lose_answers = False
    line.next_status = RefundChannelStatus.FAILED
    with pytest.raises(RefundFailed) as refusal:
        await refund(world, payment, "70.00")
    line.next_status = RefundChannelStatus.SUCCESS
    bounced = await refund(world, payment, "30.00")
    await world.app.refund_results.apply(
        RefundFact(refund_id=bounced.refund_id, status=RefundChannelStatus.REVERSED)
    )
    await refund(world, payment, "60.00")
    # a loss
    await world.app.refund_results.apply(
        RefundFact(
            refund_id=refusal.value.metadata["refund_id"], status=RefundChannelStatus.SUCCESS
        )
    )
    conflicted = await world.cashier(await world.order())
    attempt = next(
        row for row in await world.rows(ATTEMPT) if row["payment_id"] == conflicted.payment_id
    )
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt["attempt_id"],
            status=ChannelStatus.CAPTURED,
            amount=Money(1, "CNY"),
            trade_no="T8",
        )
    )
    await top_up(world, "100.00")
    await refund(world, await spend(world, await world.order("60.00")), "20.00")
    world.orders.answer = Disposition.REFUSED_CANCELLED
    await paid(world)
    await spend(world, await world.order("30.00"))
    world.orders.answer = None


async def test_books_that_were_kept_by_the_code_are_right(
    world: PaymentWorld, line: RefundLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_bit_of_everything(world, line)
    for page, orphans_page in ((1, 1), (2, 3), (200, 5000)):
        monkeypatch.setattr(ledger_verification, "PAGE", page)
        monkeypatch.setattr(ledger_verification, "ORPHANS_PAGE", orphans_page)
        result = await world.app.ledger_verification.verify_ledger()
        assert result.violations == ()
        assert result.transactions == len(await world.rows(LEDGER_TRANSACTION)) > 10
        assert result.postings == len(await world.rows(LEDGER_POSTING))
    await world.app.refunds.run_once()
    assert await found(world) == set()


async def test_a_resolved_conflict_leaves_right_books(
    world: PaymentWorld, line: RefundLine
) -> None:
    conflicted = await world.cashier(await world.order())
    attempt_id = (await world.rows(ATTEMPT))[0]["attempt_id"]
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=Money(1, "CNY"),
            trade_no="T8",
        )
    )
    assert await found(world) == set()
    await world.app.conflicts.resolve_conflict(
        conflicted.payment_id, state=PaymentState.FAILED, reason="seen", caller=ADMIN
    )
    assert await found(world) == set()
    await world.app.refunds.run_once()
    assert await found(world) == set()


async def test_payments_that_go_on_meanwhile_are_no_violations(
    world: PaymentWorld, line: RefundLine
) -> None:
    await top_up(world, "100.00")
    orders = [await world.order("10.00") for _ in range(20)]

    async def buy(order: Any) -> None:
        await refund(world, await spend(world, order), "5.00")

    async def verify() -> None:
        while not done.is_set():
            assert await found(world) == set()

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(verify())
        await asyncio.gather(
            *(buy(order) for order in orders[:6]), *(world.charge(order) for order in orders[6:])
        )
        done.set()


TAMPERED = [
    (
        "an amount",
        update(LEDGER_POSTING).where(LEDGER_POSTING.c.seq == 0).values(amount_minor=1),
        "transaction_balanced",
    ),
    (
        "both amounts",
        update(LEDGER_POSTING).values(amount_minor=LEDGER_POSTING.c.amount_minor + 1),
        "hash_chain",
    ),
    (
        "a kind",
        update(LEDGER_TRANSACTION)
        .where(LEDGER_TRANSACTION.c.kind == "FEE")
        .values(kind="REFUNDED"),
        "hash_chain",
    ),
    (
        "a removed transaction",
        delete(LEDGER_TRANSACTION).where(LEDGER_TRANSACTION.c.kind == "CAPTURED"),
        "capture_booked",
    ),
    (
        "its postings",
        delete(LEDGER_TRANSACTION).where(LEDGER_TRANSACTION.c.kind == "CAPTURED"),
        "posting_belongs",
    ),
    (
        "the end of a chain",
        delete(LEDGER_TRANSACTION).where(LEDGER_TRANSACTION.c.kind == "REFUNDED"),
        "hash_chain",
    ),
    ("a head", update(PAYMENT).values(ledger_head="0" * 64), "hash_chain"),
    (
        "an attempt that took nothing",
        update(ATTEMPT)
        .where(ATTEMPT.c.channel == "sandbox")
        .values(state="DECLINED", captured_minor=None, captured_currency=None),
        "capture_booked",
    ),
    (
        "an attempt that took more",
        update(ATTEMPT)
        .where(ATTEMPT.c.channel == "sandbox")
        .values(captured_minor=PRICE.minor + 1),
        "capture_booked",
    ),
    (
        "captured",
        update(ATTEMPT)
        .where(ATTEMPT.c.channel == "sandbox")
        .values(captured_minor=PRICE.minor + 1),
        "payment_captured",
    ),
    ("refunded", update(PAYMENT).values(refunded_minor=1), "payment_refunded"),
    (
        "reserved",
        update(PAYMENT)
        .where(PAYMENT.c.payment_method == "credit_card")
        .values(refund_reserved_minor=1),
        "payment_refund_reserved",
    ),
    (
        "an open refund",
        update(REFUND)
        .where(REFUND.c.state == "UNKNOWN")
        .values(state="CANCELED", next_query_at=None),
        "refund_payable",
    ),
    (
        "a state",
        update(PAYMENT)
        .where(PAYMENT.c.payment_method == "credit_card")
        .values(state="LATE_SUCCESS", live_slot=None),
        "unapplied_receipts",
    ),
    (
        "the merchant's money",
        update(PAYMENT)
        .where(PAYMENT.c.payment_method == "credit_card")
        .values(state="LATE_SUCCESS", live_slot=None),
        "merchant_payable",
    ),
    (
        "a balance",
        update(WALLET).values(balance_minor=WALLET.c.balance_minor + 1),
        "wallet_balance",
    ),
    (
        "an entry",
        update(WALLET_ENTRY).where(WALLET_ENTRY.c.kind == "TOP_UP").values(amount_minor=1),
        "wallet_balance",
    ),
    (
        "an entry against its booking",
        update(WALLET_ENTRY).where(WALLET_ENTRY.c.kind == "TOP_UP").values(amount_minor=1),
        "customer_wallet",
    ),
    ("a lost entry", delete(WALLET_ENTRY).where(WALLET_ENTRY.c.kind == "SPENT"), "wallet_entries"),
    ("a lost wallet", delete(WALLET), "entry_belongs"),
    (
        "a lost payment",
        delete(PAYMENT).where(PAYMENT.c.payment_method == "balance"),
        "transaction_belongs",
    ),
    (
        "a loss that nobody made",
        update(LEDGER_POSTING)
        .where(LEDGER_POSTING.c.account == "merchant_payable:mall")
        .values(account="loss"),
        "loss",
    ),
    (
        "money out of nothing",
        update(LEDGER_POSTING)
        .where(LEDGER_POSTING.c.account == "merchant_payable:mall", LEDGER_POSTING.c.side == "D")
        .values(account="unapplied_receipts:sandbox"),
        "never_negative",
    ),
    (
        "an invented transaction",
        insert(LEDGER_TRANSACTION).values(
            business_key="x",
            kind="CAPTURED",
            payment_id="PAYnone",
            previous_hash="",
            hash="",
            booked_at=None,
        ),
        "transaction_belongs",
    ),
]


@pytest.mark.drawn(10)
@pytest.mark.parametrize(
    ("what", "statement", "invariant"),
    TAMPERED,
    ids=[f"{what}-{invariant}" for what, _, invariant in TAMPERED],
)
async def test_whatever_was_changed_behind_its_back_is_found(
    world: PaymentWorld, line: RefundLine, what: str, statement: Any, invariant: str
) -> None:
    payment = await paid(world)
    await refund(world, payment, "10.00")
    line.lose_answers = True
    await refund(world, payment, "20.00")
    await top_up(world, "100.00")
    await spend(world, await world.order("60.00"))
    assert await found(world) == set()
    if what == "an invented transaction":
        statement = statement.values(booked_at=world.clock.now())
    await world.execute(statement)
    assert invariant in await found(world)


async def test_a_wallet_that_is_wrong_is_found_although_it_changed_while_it_was_read(
    world: PaymentWorld, line: RefundLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await top_up(world, "100.00")
    await world.execute(update(WALLET).values(balance_minor=WALLET.c.balance_minor + 1))
    check, looks = ledger_checks.check_wallets, []

    async def busy_at_first(tx: Any, **page: Any) -> Any:
        problems, changed, last = await check(tx, **page)
        looks.append(page.get("only"))
        return ([], [("mall", "u1", "CNY")], last) if len(looks) <= 2 else (problems, changed, last)

    monkeypatch.setattr(ledger_checks, "check_wallets", busy_at_first)
    assert await found(world) == {"wallet_balance"}
    assert looks[:3] == [None, [("mall", "u1", "CNY")], [("mall", "u1", "CNY")]]
