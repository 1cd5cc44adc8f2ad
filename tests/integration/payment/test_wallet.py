"""Wallets on real databases: paid in through the channel, spent and given back in one transaction,
never below zero, always what the ledger says.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from mesh.call import Caller, Role
from mesh.errors import IdempotencyKeyReused, InvalidArgument
from mesh.idempotency import RECEIPT
from mesh.money import Money, RequestedAmount
from mesh.outbox import OUTBOX
from order_rpc.domain.order import OrderState
from payment_rpc.channels.sandbox.channel import PUBLISHED_MD5_SECRET
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import (
    CardDeclined,
    ChannelNotSupported,
    InsufficientBalance,
    OrderAlreadyPaid,
    OrderNotPayable,
    PaymentStateInvalid,
    RefundNotAllowed,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import BALANCE, TOP_UP, Disposition, Payment, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, LEDGER_TRANSACTION, PAYMENT, REFUND, WALLET, WALLET_ENTRY
from payment_rpc.usecases.mock_callbacks import Hint
from payment_rpc.usecases.payments import TOP_UP_LIFE
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import ADMIN, buyer
from tests.builders.payment import DECLINED, LEASE_SECONDS, PRICE, PaymentWorld
from tests.builders.payment_steps import RefundLine, spend, top_up

CLERK = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")


async def _crash() -> None:
    raise RuntimeError


async def refund(world: PaymentWorld, payment: Payment, amount: str = "", *, key: str = "") -> Any:
    return await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount(amount),
            reason="",
            request_id="",
            key=key,
        ),
        CLERK,
    )


async def balance(world: PaymentWorld) -> str:
    return (
        await world.app.wallet_queries.get_wallet(
            merchant_id="mall", user_id=buyer().subject, currency=""
        )
    ).balance.format()


async def entries(world: PaymentWorld) -> list[tuple[str, str, str]]:
    found = await world.app.wallet_queries.list_wallet_entries(
        merchant_id="mall", user_id=buyer().subject, currency="", before=None, limit=100
    )
    return [
        (entry.kind.value, entry.amount.format(), entry.balance_after.format()) for entry in found
    ]


@pytest.fixture(autouse=True)
async def books_are_right(world: PaymentWorld) -> AsyncIterator[None]:
    """Whatever a test did, the ledger verifies."""
    yield
    assert await world.ledger_problems() == []
    assert (await world.app.ledger_verification.verify_ledger()).violations == ()


async def test_a_buyer_without_a_top_up_has_an_empty_wallet(world: PaymentWorld) -> None:
    assert await balance(world) == "0.00"
    assert await entries(world) == []
    with pytest.raises(InvalidArgument):
        await world.app.wallet_queries.get_wallet(merchant_id="mall", user_id="u", currency="XXX")


async def test_a_top_up_raises_the_balance_and_tells_no_order(world: PaymentWorld) -> None:
    payment = await top_up(world)
    assert (payment.state, payment.order_id, payment.payment_method, payment.disposition) == (
        PaymentState.SUCCESS,
        payment.payment_id,
        TOP_UP,
        Disposition.APPLIED,
    )
    assert await balance(world) == "100.00"
    assert await entries(world) == [("TOP_UP", "100.00", "100.00")]
    assert [(row["destination"], row["tag"]) for row in await world.rows(OUTBOX)] == [
        ("stream:PAYMENT_TOPIC", "WALLET_TOPPED_UP")
    ]
    assert world.orders.gets == 0


async def test_a_replayed_top_up_credits_once(world: PaymentWorld) -> None:
    first = await top_up(world, key="k-1")
    again = await top_up(world, key="k-1")
    assert again == first
    assert await balance(world) == "100.00"
    with pytest.raises(IdempotencyKeyReused):
        await top_up(world, "101.00", key="k-1")
    assert len(await world.captured_at_sandbox()) == 1


async def test_twenty_equal_top_ups_at_once_credit_once(world: PaymentWorld) -> None:
    answers = await asyncio.gather(*(top_up(world, key="k-1") for _ in range(20)))
    assert len({answer.payment_id for answer in answers}) == 1
    assert await balance(world) == "100.00"
    assert len(await world.captured_at_sandbox()) == 1


async def test_a_top_up_whose_answer_was_lost_is_credited_by_the_question(
    world: PaymentWorld,
) -> None:
    world.channel.lose_answers = True
    payment = await top_up(world, key="k-1")
    assert payment.state is PaymentState.PAYING
    assert await balance(world) == "0.00"
    world.clock.advance(LEASE_SECONDS)
    await world.app.polling.run_once()
    assert await balance(world) == "100.00"
    await world.callbacks()
    assert await balance(world) == "100.00"
    assert (await top_up(world, key="k-1")).state is PaymentState.SUCCESS


async def test_a_capture_after_the_failure_still_credits_once(world: PaymentWorld) -> None:
    with pytest.raises(CardDeclined) as refusal:
        await top_up(world, number=DECLINED, key="k-1")
    attempt = (await world.rows(ATTEMPT))[0]
    late = ChannelFact(
        attempt_id=attempt["attempt_id"], status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9"
    )
    for _ in range(2):
        applied = await world.app.channel_results.apply(late)
    assert (applied.payment.payment_id, applied.payment.state, applied.changed) == (
        refusal.value.payment_id,
        PaymentState.SUCCESS,
        False,
    )
    assert await balance(world) == "100.00"
    with pytest.raises(CardDeclined):  # the first final answer stays the answer of its key
        await top_up(world, number=DECLINED, key="k-1")


async def test_a_declined_top_up_leaves_the_wallet_as_it_was(world: PaymentWorld) -> None:
    with pytest.raises(CardDeclined):
        await top_up(world, number=DECLINED)
    assert await balance(world) == "0.00"
    assert await world.rows(WALLET) == []


async def test_an_abandoned_top_up_is_closed_at_its_deadline(world: PaymentWorld) -> None:
    world.channel.lose_answers = True
    world.channel.before_charge = _crash
    with pytest.raises(RuntimeError):  # after tx1, before the channel
        await top_up(world)
    world.channel.before_charge = None
    payment = (await world.rows(PAYMENT))[0]
    world.clock.advance(TOP_UP_LIFE.total_seconds() + 1)
    await world.finish()
    ended = await world.payment(payment["payment_id"])
    assert (ended.state, ended.failure.reason if ended.failure else "") == (
        PaymentState.CLOSED,
        "LOST_BEFORE_CHANNEL",
    )
    assert await balance(world) == "0.00"


async def test_a_second_capture_of_a_top_up_goes_back_and_is_not_credited(
    world: PaymentWorld,
) -> None:
    payment = await top_up(world)
    second = Attempt.start(
        attempt_id="ATTsecond",
        payment_id=payment.payment_id,
        merchant_id="mall",
        channel="sandbox",
        amount=PRICE,
        lease=timedelta(seconds=1),
        at=world.clock.now(),
    )
    await world.db.run(attempts.insert_attempt, second)
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id="ATTsecond", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9"
        )
    )
    assert await balance(world) == "100.00"
    assert [row["automatic_of"] for row in await world.rows(REFUND)] == ["ATTsecond"]


async def conflicting_top_up(world: PaymentWorld) -> tuple[str, str]:
    """A top-up that failed and for which the channel then took 0.01; its payment and its
    attempt.
    """
    with pytest.raises(CardDeclined) as refusal:
        await top_up(world, number=DECLINED)
    attempt_id = str((await world.rows(ATTEMPT))[0]["attempt_id"])
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=Money(1, "CNY"),
            trade_no="T8",
        )
    )
    return refusal.value.payment_id, attempt_id


async def test_a_conflict_about_a_top_up_goes_back(world: PaymentWorld) -> None:
    payment_id, _ = await conflicting_top_up(world)
    resolved = await world.app.conflicts.resolve_conflict(
        payment_id, state=PaymentState.FAILED, reason="seen", caller=ADMIN
    )
    assert resolved.state is PaymentState.FAILED
    assert await balance(world) == "0.00"


async def test_a_conflict_about_a_top_up_is_credited_when_what_was_owed_is_here(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_id, _ = await conflicting_top_up(world)
    exact = Attempt.start(
        attempt_id="ATTexact",
        payment_id=payment_id,
        merchant_id="mall",
        channel="sandbox",
        amount=PRICE,
        lease=timedelta(seconds=1),
        at=world.clock.now(),
    )
    await world.db.run(attempts.insert_attempt, exact)
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id="ATTexact", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9"
        )
    )
    with pytest.raises(PaymentStateInvalid):  # it is on its way back, as a second capture
        await world.app.conflicts.resolve_conflict(
            payment_id, state=PaymentState.LATE_SUCCESS, reason="seen", caller=ADMIN
        )
    line = RefundLine(world.channel, monkeypatch)
    line.next_status = RefundChannelStatus.FAILED
    await world.app.refunds.run_once()
    assert await balance(world) == "0.00"
    resolved = await world.app.conflicts.resolve_conflict(
        payment_id, state=PaymentState.LATE_SUCCESS, reason="seen", caller=ADMIN
    )
    assert (resolved.state, resolved.disposition) == (PaymentState.SUCCESS, Disposition.APPLIED)
    assert await balance(world) == "100.00"


async def test_an_order_is_asked_about_a_conflict_that_turned_out_to_be_its_money(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await world.order()
    payment = await world.cashier(order)
    attempt_id = str((await world.rows(ATTEMPT))[0]["attempt_id"])
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=Money(1, "CNY"),
            trade_no="T8",
        )
    )
    exact = Attempt.start(
        attempt_id="ATTexact",
        payment_id=payment.payment_id,
        merchant_id="mall",
        channel="sandbox",
        amount=PRICE,
        lease=timedelta(seconds=1),
        at=world.clock.now(),
    )
    await world.db.run(attempts.insert_attempt, exact)
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id="ATTexact", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9"
        )
    )
    RefundLine(world.channel, monkeypatch).next_status = RefundChannelStatus.FAILED
    await world.app.refunds.run_once()
    await world.app.conflicts.resolve_conflict(
        payment.payment_id, state=PaymentState.LATE_SUCCESS, reason="seen", caller=ADMIN
    )
    await world.app.order_relay.run_once()
    assert await world.order_state(order) is OrderState.PAID
    assert (await world.payment(payment.payment_id)).state is PaymentState.SUCCESS


async def test_money_in_a_wallet_is_not_refunded_to_the_card(world: PaymentWorld) -> None:
    payment = await top_up(world)
    with pytest.raises(RefundNotAllowed):
        await refund(world, payment)
    assert await world.rows(REFUND) == []


async def test_an_order_is_paid_out_of_the_wallet_in_one_transaction(world: PaymentWorld) -> None:
    await top_up(world)
    order = await world.order("60.00")
    paid = await spend(world, order, key="k-1")
    assert (paid.state, paid.payment_method, paid.channel, paid.captured.format()) == (
        PaymentState.SUCCESS,
        BALANCE,
        "wallet",
        "60.00",
    )
    assert await world.order_state(order) is OrderState.PAID
    assert (await world.payment(paid.payment_id)).disposition is Disposition.APPLIED
    assert await balance(world) == "40.00"
    assert await entries(world) == [("SPENT", "-60.00", "40.00"), ("TOP_UP", "100.00", "100.00")]
    assert await spend(world, order, key="k-1") == paid
    with pytest.raises(OrderAlreadyPaid):
        await spend(world, order)
    assert await balance(world) == "40.00"


async def test_a_wallet_with_too_little_pays_nothing_and_writes_nothing(
    world: PaymentWorld,
) -> None:
    await top_up(world)
    order = await world.order("100.01")
    before = [
        await world.rows(table)
        for table in (PAYMENT, ATTEMPT, WALLET, WALLET_ENTRY, LEDGER_TRANSACTION, OUTBOX, RECEIPT)
    ]
    with pytest.raises(InsufficientBalance) as refusal:
        await spend(world, order, key="k-1")
    assert refusal.value.message.startswith("余额不足")
    assert [
        await world.rows(table)
        for table in (PAYMENT, ATTEMPT, WALLET, WALLET_ENTRY, LEDGER_TRANSACTION, OUTBOX, RECEIPT)
    ] == before
    await top_up(world, "0.01")
    # a refusal keeps no receipt
    assert (await spend(world, order, key="k-1")).state is PaymentState.SUCCESS
    assert await balance(world) == "0.00"


async def test_a_wallet_pays_only_in_its_own_currency(world: PaymentWorld) -> None:
    await top_up(world)
    with pytest.raises(InsufficientBalance):
        await spend(world, await world.order("1.00", currency="USD"))
    assert await balance(world) == "100.00"


async def test_fifty_spends_of_ten_at_once_on_a_hundred_succeed_ten_times(
    world: PaymentWorld,
) -> None:
    await top_up(world)
    orders = [await world.order("10.00") for _ in range(50)]
    answers = await asyncio.gather(
        *(spend(world, order, key=f"k-{number}") for number, order in enumerate(orders)),
        return_exceptions=True,
    )
    kinds = sorted(type(answer).__name__ for answer in answers)
    assert kinds == ["InsufficientBalance"] * 40 + ["Payment"] * 10
    assert await balance(world) == "0.00"
    assert len(await entries(world)) == 11
    paid = [order for order in orders if await world.order_state(order) is OrderState.PAID]
    assert len(paid) == 10


async def test_one_order_paid_ten_times_at_once_is_paid_once(world: PaymentWorld) -> None:
    await top_up(world)
    order = await world.order("10.00")
    answers = await asyncio.gather(
        *(spend(world, order) for _ in range(10)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["OrderAlreadyPaid"] * 9 + [
        "Payment"
    ]
    assert await balance(world) == "90.00"


async def test_a_refund_of_a_payment_by_balance_is_in_the_wallet_at_once(
    world: PaymentWorld,
) -> None:
    await top_up(world)
    paid = await spend(world, await world.order("60.00"))
    back = await refund(world, paid, "20.00", key="r-1")
    assert (back.state, back.channel) == (RefundState.SUCCESS, "wallet")
    assert await refund(world, paid, "20.00", key="r-1") == back
    assert await balance(world) == "60.00"
    assert (await entries(world))[0] == ("REFUNDED", "20.00", "60.00")
    now = await world.payment(paid.payment_id)
    assert (now.refunded.format(), now.refund_reserved.format()) == ("20.00", "0.00")
    assert await world.app.refunds.run_once() == 0


async def test_ten_refunds_of_a_payment_by_balance_at_once_never_exceed_it(
    world: PaymentWorld,
) -> None:
    await top_up(world)
    paid = await spend(world, await world.order("60.00"))
    answers = await asyncio.gather(
        *(refund(world, paid, "25.00") for _ in range(10)), return_exceptions=True
    )
    assert (
        sorted(type(answer).__name__ for answer in answers)
        == ["Refund"] * 2 + ["RefundExceedsRefundable"] * 8
    )
    assert await balance(world) == "90.00"


async def test_a_payment_by_balance_that_the_order_refused_is_in_the_wallet_again(
    world: PaymentWorld,
) -> None:
    await top_up(world)
    order = await world.order("60.00")
    world.orders.answer = Disposition.REFUSED_CANCELLED
    paid = await spend(world, order)
    assert (await world.payment(paid.payment_id)).state is PaymentState.LATE_REFUNDED
    assert [(row["automatic_of"], row["state"]) for row in await world.rows(REFUND)] == [
        (paid.payment_id, "SUCCESS")
    ]
    assert await balance(world) == "100.00"


async def test_an_order_whose_gate_is_closed_is_not_paid_out_of_the_wallet(
    world: PaymentWorld,
) -> None:
    await top_up(world)
    order = await world.order("60.00")
    await world.close_gate(order)
    with pytest.raises(OrderNotPayable):
        await spend(world, order)
    assert await balance(world) == "100.00"


async def test_nobody_is_asked_about_a_payment_by_balance(world: PaymentWorld) -> None:
    await top_up(world)
    paid = await spend(world, await world.order("60.00"))
    hint = Hint(
        payment_id=paid.payment_id,
        callback_status="SUCCESS",
        timestamp=str(round(world.clock.now().timestamp() * 1000)),
        nonce="abc123",
    )
    text = (
        hint.callback_status + hint.nonce + hint.payment_id + hint.timestamp + PUBLISHED_MD5_SECRET
    )
    signature = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest().upper()
    with pytest.raises(ChannelNotSupported):
        await world.app.mock_callbacks.mock_callback(hint, signature=signature)


async def test_entries_are_listed_in_pages_newest_first(world: PaymentWorld) -> None:
    for amount in ("1.00", "2.00", "3.00"):
        await top_up(world, amount)
    newest = await world.app.wallet_queries.list_wallet_entries(
        merchant_id="mall", user_id=buyer().subject, currency="CNY", before=None, limit=2
    )
    assert [(entry.seq, entry.kind, entry.amount.format()) for entry in newest] == [
        (3, EntryKind.TOP_UP, "3.00"),
        (2, EntryKind.TOP_UP, "2.00"),
    ]
    oldest = await world.app.wallet_queries.list_wallet_entries(
        merchant_id="mall", user_id=buyer().subject, currency="CNY", before=2, limit=2
    )
    assert [entry.balance_after.format() for entry in oldest] == ["1.00"]
