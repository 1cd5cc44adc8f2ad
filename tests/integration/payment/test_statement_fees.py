"""Fees that only the statement of a channel tells: each is booked once, and none becomes a
difference.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from mesh.call import Caller, Role
from mesh.money import Money, RequestedAmount
from payment_rpc.channels.capabilities import FeeKnown
from payment_rpc.domain.refund import Refund
from payment_rpc.tables import ATTEMPT, LEDGER_TRANSACTION, PAYMENT, REFUND
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.payment import PaymentWorld, payment_world
from tests.builders.payment_steps import DAY_SECONDS, TODAY

FEES = ("FEE", "FEE_RETURNED")


@pytest.fixture
async def silent(
    database_url_factory: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PaymentWorld]:
    """The sandbox as a channel that says nothing of fees before its statement."""
    async with payment_world(
        database_url_factory(), database_url_factory(), tmp_path, fee_basis_points=60
    ) as world:
        hide_fees(world, monkeypatch)
        yield world


def hide_fees(world: PaymentWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = world.channel
    channel._capabilities = replace(channel.capabilities, fee_known=FeeKnown.STATEMENT)

    def without_fees(method: Any) -> Any:
        async def call(*given: Any, **named: Any) -> Any:
            fact = await method(*given, **named)
            name = "fee_returned" if hasattr(fact, "fee_returned") else "fee"
            return replace(fact, **{name: None})

        return call

    for name in ("charge", "query", "refund", "query_refund"):
        monkeypatch.setattr(channel, name, without_fees(getattr(channel, name)))
    receive = channel.receive

    def receive_without_fees(inbound: Any, **named: Any) -> Any:
        message: Any = receive(inbound, **named)
        news = tuple(
            replace(fact, **{"fee_returned" if hasattr(fact, "fee_returned") else "fee": None})
            for fact in message.news
        )
        return replace(message, news=news)

    monkeypatch.setattr(channel, "receive", receive_without_fees)


async def fees(world: PaymentWorld) -> list[str]:
    return sorted(
        row["kind"] for row in await world.rows(LEDGER_TRANSACTION) if row["kind"] in FEES
    )


async def imported(world: PaymentWorld) -> list[str]:
    """The kinds of the differences of today's statement, tomorrow."""
    world.clock.advance(DAY_SECONDS)
    begun = await world.app.statement_imports.import_statement("sandbox", TODAY)
    while await world.app.statement_imports.run_once():
        pass
    found = await world.app.differences.list_differences(
        import_id=begun.import_id, state="", after="", limit=100
    )
    return sorted(difference.finding.kind for difference in found)


async def given_back(world: PaymentWorld, payment_id: str) -> Refund:
    return await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment_id,
            amount=RequestedAmount("10.00"),
            reason="",
            request_id="",
            key="",
        ),
        Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall"),
    )


async def test_fees_of_a_statement_are_booked_once(silent: PaymentWorld) -> None:
    first, second = [await silent.charge(await silent.order()) for _ in range(2)]
    await given_back(silent, first.payment_id)
    assert await fees(silent) == []
    assert await imported(silent) == []
    assert await fees(silent) == ["FEE", "FEE", "FEE_RETURNED"]
    for payment in (first, second):
        assert (await silent.payment(payment.payment_id)).fee == Money(60, "CNY")
    report = await silent.app.ledger_verification.verify_ledger()
    assert not report.violations


async def test_the_fee_of_what_our_books_have_on_another_day_is_booked_too(
    silent: PaymentWorld,
) -> None:
    payment = await silent.charge(await silent.order())
    await given_back(silent, payment.payment_id)
    days_ago = silent.clock.now() - timedelta(seconds=3 * DAY_SECONDS)
    await silent.execute(update(ATTEMPT).values(captured_at=days_ago))
    await silent.execute(update(REFUND).values(refunded_at=days_ago))
    assert await imported(silent) == ["CUTOFF_SHIFT", "CUTOFF_SHIFT"]
    assert await fees(silent) == ["FEE", "FEE_RETURNED"]
    assert (await silent.payment(payment.payment_id)).fee == Money(60, "CNY")
    assert await silent.ledger_problems() == []


async def test_an_import_that_was_cut_books_no_fee_twice(silent: PaymentWorld) -> None:
    await silent.charge(await silent.order())
    imports = silent.app.statement_imports
    book = imports._book_fee

    async def dies(tx: Any, unbooked: Any) -> None:
        await book(tx, unbooked)
        raise RuntimeError

    imports._book_fee = dies  # type: ignore[method-assign]
    silent.clock.advance(DAY_SECONDS)
    await imports.import_statement("sandbox", TODAY)
    await imports.run_once()
    assert await fees(silent) == []
    imports._book_fee = book  # type: ignore[method-assign]
    after_restart = silent.make_app().statement_imports
    while await after_restart.run_once():
        pass
    assert await fees(silent) == ["FEE"]


async def test_a_fee_that_another_process_booked_meanwhile_is_not_booked_again(
    silent: PaymentWorld,
) -> None:
    payment = await silent.charge(await silent.order())
    imports = silent.app.statement_imports
    book, given = imports._book_fee, list[Any]()

    async def remembers(tx: Any, unbooked: Any) -> None:
        given.append(unbooked)
        await book(tx, unbooked)

    imports._book_fee = remembers  # type: ignore[method-assign]
    assert await imported(silent) == []
    for unbooked in list(given):
        await silent.db.run(book, unbooked)
    assert await fees(silent) == ["FEE"]
    assert (await silent.payment(payment.payment_id)).fee == Money(60, "CNY")


async def test_a_statement_says_nothing_about_another_channels_capture(
    silent: PaymentWorld,
) -> None:
    payment = await silent.charge(await silent.order())
    for table in (ATTEMPT, PAYMENT):
        await silent.execute(
            update(table).where(table.c.payment_id == payment.payment_id).values(channel="other")
        )
    assert await imported(silent) == ["MISSING_LOCAL"]
    assert await fees(silent) == []
