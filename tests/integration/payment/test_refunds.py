"""Refunds on real databases: reserve, submit, and whatever the channel makes of it. Money that left
never exceeds money that came.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from paymesh.payment.v1 import refund_pb2

from mesh.call import Caller, Role
from mesh.errors import IdempotencyKeyReused, InvalidArgument, UpstreamUnavailable
from mesh.idempotency import RECEIPT
from mesh.money import Money, RequestedAmount
from mesh.outbox import OUTBOX
from mesh.validation import violations_of
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import (
    CurrencyMismatch,
    PaymentNotFound,
    RefundExceedsRefundable,
    RefundFailed,
    RefundLimitReached,
    RefundNotAllowed,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.domain.refund import REFUNDS_MAX, Refund, RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, LEDGER_POSTING, MANUAL_REVIEW, PAYMENT, REFUND
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import PAYMENT_RPC, buyer
from tests.builders.payment import (
    LEASE_SECONDS,
    PRICE,
    PaymentWorld,
    an_attempt,
    balance_of,
    payment_world,
)
from tests.builders.payment_steps import CLERK, RefundLine, paid, refund

STRANGER = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="other")


@pytest.fixture
def line(world: PaymentWorld, monkeypatch: pytest.MonkeyPatch) -> RefundLine:
    return RefundLine(world.channel, monkeypatch)


async def columns(world: PaymentWorld, payment: Payment) -> tuple[str, str, str]:
    now = await world.payment(payment.payment_id)
    return now.captured.format(), now.refunded.format(), now.refund_reserved.format()


async def test_everything_goes_back_when_no_amount_is_said(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    done = await refund(world, payment)
    assert (done.state, done.amount.format()) == (RefundState.SUCCESS, "100.00")
    assert await columns(world, payment) == ("100.00", "100.00", "0.00")
    assert (await world.payment(payment.payment_id)).state is PaymentState.SUCCESS
    assert not any(balance_of(await world.rows(LEDGER_POSTING)).values())
    assert [
        await world.debit_balance(name)
        for name in ("channel_receivable", "merchant_payable", "refund_payable")
    ] == [await world.debit_balance("channel_fee_expense") * -1, 0, 0]


async def test_several_partial_refunds_add_up_to_the_payment_and_not_above_it(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    for amount in ("60.00", "30.00"):
        await refund(world, payment, amount)
    with pytest.raises(RefundExceedsRefundable) as refusal:
        await refund(world, payment, "10.01")
    assert refusal.value.metadata["refundable"] == "10.00"
    assert refusal.value.fields.keys() == {"amount"}
    await refund(world, payment, "10.00")
    with pytest.raises(RefundExceedsRefundable):
        await refund(world, payment)


async def test_eight_refunds_of_sixty_at_once_never_exceed_a_hundred(
    world: PaymentWorld, line: RefundLine, rounds: Callable[[int, int], int]
) -> None:
    for _ in range(rounds(4, 40)):
        payment = await paid(world)
        answers = await asyncio.gather(
            *(refund(world, payment, "60.00") for _ in range(8)), return_exceptions=True
        )
        assert sorted(type(answer).__name__ for answer in answers) == [
            "Refund",
            *["RefundExceedsRefundable"] * 7,
        ]
        assert await columns(world, payment) == ("100.00", "60.00", "0.00")


@pytest.mark.parametrize("again", ["key", "request_id"])
async def test_the_same_request_again_is_the_same_refund(
    world: PaymentWorld, line: RefundLine, again: str
) -> None:
    payment = await paid(world)
    name: dict[str, Any] = {again: "r-1"}
    first = await refund(world, payment, "40.00", **name)
    second = await refund(world, payment, "40", **name)
    assert (second.refund_id, second.state) == (first.refund_id, RefundState.SUCCESS)
    with pytest.raises(IdempotencyKeyReused) as refusal:
        await refund(world, payment, "50.00", **name)
    assert "amount" in refusal.value.fields
    assert line.submissions == [first.refund_id]


async def test_twenty_equal_requests_at_once_make_one_refund(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    answers = await asyncio.gather(
        *(refund(world, payment, "40.00", request_id="r-1") for _ in range(20))
    )
    assert len({answer.refund_id for answer in answers}) == 1
    assert await columns(world, payment) == ("100.00", "40.00", "0.00")


async def test_a_refused_refund_frees_its_reservation(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    line.next_status = RefundChannelStatus.FAILED
    with pytest.raises(RefundFailed) as refusal:
        await refund(world, payment, "40.00", key="k")
    assert refusal.value.payment_id == payment.payment_id
    with pytest.raises(RefundFailed):
        await refund(world, payment, "40.00", key="k")
    assert await columns(world, payment) == ("100.00", "0.00", "0.00")
    assert await world.debit_balance("refund_payable") == 0
    line.next_status = RefundChannelStatus.SUCCESS
    assert (await refund(world, payment, "100.00")).state is RefundState.SUCCESS


async def test_an_unknown_refund_stays_reserved_and_is_asked_for(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    line.lose_answers = True
    unknown = await refund(world, payment, "40.00")
    assert unknown.state is RefundState.UNKNOWN
    assert await columns(world, payment) == ("100.00", "0.00", "40.00")
    with pytest.raises(RefundExceedsRefundable):
        await refund(world, payment, "60.01")
    world.clock.advance(LEASE_SECONDS)
    await world.app.refunds.run_once()
    assert await columns(world, payment) == ("100.00", "40.00", "0.00")
    assert line.submissions == [unknown.refund_id]


async def test_a_refund_lost_before_the_channel_is_sent_again_under_its_id(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    line.unreachable = True
    lost = await refund(world, payment, "40.00")
    assert lost.state is RefundState.UNKNOWN
    line.unreachable = False
    world.clock.advance(LEASE_SECONDS)
    await world.app.refunds.run_once()
    assert line.submissions == [lost.refund_id]
    assert await columns(world, payment) == ("100.00", "40.00", "0.00")


async def test_a_bounced_refund_is_visible_and_the_money_is_here_again(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    done = await refund(world, payment, "40.00")
    bounced = await world.app.refund_results.apply(
        RefundFact(refund_id=done.refund_id, status=RefundChannelStatus.REVERSED)
    )
    assert (bounced.state, bounced.needs_attention) == (RefundState.REVERSED, True)
    assert await columns(world, payment) == ("100.00", "0.00", "0.00")
    assert [row["kind"] for row in await world.rows(MANUAL_REVIEW)] == ["REFUND_REVERSED"]
    assert (
        await world.app.refund_results.apply(
            RefundFact(refund_id=done.refund_id, status=RefundChannelStatus.REVERSED)
        )
        == bounced
    )


async def test_a_bounce_whose_success_was_never_heard_is_both(
    world: PaymentWorld, line: RefundLine
) -> None:
    booked, told, answers = {}, {}, {}
    for before in ("SUCCESS", "SUBMITTED", "PENDING", "UNKNOWN", "FAILED"):
        payment = await paid(world)
        line.lose_answers = before == "UNKNOWN"
        line.next_status = (
            RefundChannelStatus.REVERSED if before == "SUBMITTED" else RefundChannelStatus(before)
        )
        with suppress(RefundFailed):
            await refund(world, payment, "40.00", key=before)
        [refund_id] = [
            row["refund_id"]
            for row in await world.rows(REFUND)
            if row["payment_id"] == payment.payment_id
        ]
        for _ in range(2):
            bounced = await world.app.refund_results.apply(
                RefundFact(refund_id=refund_id, status=RefundChannelStatus.REVERSED)
            )
            assert (bounced.state, bounced.needs_attention, bounced.refunded_at is None) == (
                RefundState.REVERSED,
                True,
                False,
            )
        assert await columns(world, payment) == ("100.00", "0.00", "0.00")
        booked[before] = {
            (
                row["business_key"].rpartition(":")[2],
                row["account"],
                row["side"],
                row["amount_minor"],
            )
            for row in await world.rows(LEDGER_POSTING)
            if refund_id in row["business_key"]
        }
        told[before] = sorted(
            row["tag"]
            for row in await world.rows(OUTBOX)
            if refund_id in row["payload"] and row["destination"] != "order_rpc"
        )
        [answers[before]] = [
            json.loads(row["answer"])["state"]
            for row in await world.rows(RECEIPT)
            if row["idempotency_key"] == before
        ]
        assert sorted(await world.attention()) == sorted(
            ("REFUND_REVERSED", row["refund_id"]) for row in await world.rows(REFUND)
        )
    heard, refused = booked["SUCCESS"], booked.pop("FAILED")
    assert booked == dict.fromkeys(booked, heard)
    assert len(heard) == 6  # reserved, gone, bounced
    assert {(name, account) for name, account, side, _ in refused if side == "D"} == {
        ("reserved", "merchant_payable:mall"),
        ("released", "refund_payable:sandbox"),
        ("success", "merchant_payable:mall"),
        ("bounced", "channel_receivable:sandbox"),
    }
    assert told == {
        **{before: ["REFUND_REVERSED", "REFUND_SUCCEEDED"] for before in booked},
        "FAILED": ["REFUND_FAILED", "REFUND_REVERSED", "REFUND_SUCCEEDED"],
    }
    # the first final answer
    assert answers == {
        **dict.fromkeys(booked, "REVERSED"),
        "SUCCESS": "SUCCESS",
        "FAILED": "FAILED",
    }
    assert await world.ledger_problems() == []


async def test_a_bounce_nobody_expected_tells_the_order_once_and_takes_the_share_of_the_fee(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    line.lose_answers = True
    lost = await refund(world, payment)
    world.clock.advance(10)
    await world.app.order_relay.run_once()
    heard = len(world.orders.updates)
    await world.app.refund_results.apply(
        RefundFact(
            refund_id=lost.refund_id,
            status=RefundChannelStatus.REVERSED,
            fee_returned=Money(60, "CNY"),
        )
    )
    await world.app.order_relay.run_once()
    [snapshot] = world.orders.updates[heard:]
    assert (snapshot["refunded"], snapshot["refund_reserved"]) == ("0.00", "0.00")
    assert [refund["state"] for refund in snapshot["refunds"]] == ["REVERSED"]
    assert [
        row["amount_minor"]
        for row in await world.rows(LEDGER_POSTING)
        if row["business_key"] == f"refund:{lost.refund_id}:fee"
    ] == [60, 60]
    assert await world.ledger_problems() == []


async def test_money_that_left_after_all_above_the_cap_is_a_loss(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    line.next_status = RefundChannelStatus.FAILED
    with pytest.raises(RefundFailed) as refusal:
        await refund(world, payment, "60.00")
    line.next_status = RefundChannelStatus.SUCCESS
    await refund(world, payment, "60.00")
    late = await world.app.refund_results.apply(
        RefundFact(
            refund_id=refusal.value.metadata["refund_id"], status=RefundChannelStatus.SUCCESS
        )
    )
    assert (late.state, late.above_cap) == (RefundState.SUCCESS, True)
    assert await columns(world, payment) == ("100.00", "60.00", "0.00")
    assert await world.debit_balance("loss") == 6000
    assert not any(balance_of(await world.rows(LEDGER_POSTING)).values())


async def test_a_payment_that_the_order_refused_goes_back_by_itself(
    world: PaymentWorld, line: RefundLine
) -> None:
    world.orders.answer = Disposition.REFUSED_CANCELLED
    payment = await paid(world)
    assert (await world.payment(payment.payment_id)).state is PaymentState.LATE_SUCCESS
    rows = await world.rows(REFUND)
    assert [(row["automatic_of"], row["state"], bool(row["automatic"])) for row in rows] == [
        (payment.payment_id, "CREATED", True)
    ]
    await world.app.refunds.run_once()
    assert (await world.payment(payment.payment_id)).state is PaymentState.LATE_REFUNDED
    assert await columns(world, payment) == ("100.00", "100.00", "0.00")
    assert [
        await world.debit_balance(name)
        for name in ("unapplied_receipts", "refund_payable", "merchant_payable")
    ] == [0, 0, 0]


async def test_an_automatic_refund_that_fails_calls_a_person(
    world: PaymentWorld, line: RefundLine
) -> None:
    world.orders.answer = Disposition.REFUSED_PAID_BY_OTHER
    line.next_status = RefundChannelStatus.FAILED
    payment = await paid(world)
    await world.app.refunds.run_once()
    assert [(row["state"], bool(row["needs_attention"])) for row in await world.rows(REFUND)] == [
        ("FAILED", True)
    ]
    assert "REFUND_FAILED" in {row["kind"] for row in await world.rows(MANUAL_REVIEW)}
    assert (await world.payment(payment.payment_id)).state is PaymentState.LATE_SUCCESS


async def test_a_refund_that_gets_no_answer_keeps_no_other_one_waiting(
    world: PaymentWorld, line: RefundLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.lose_answers = True
    hung, *others = [await refund(world, await paid(world)) for _ in range(9)]
    line.lose_answers = False
    told, ended = asyncio.Event(), list[str]()

    async def query_refund(refund_id: str, **call: Any) -> RefundFact:
        if refund_id == hung.refund_id:
            await told.wait()  # until all of the others have their answer
        ended.append(refund_id)
        if len(ended) == len(others):
            told.set()
        return await line.query_refund(refund_id, **call)

    monkeypatch.setattr(world.channel, "query_refund", query_refund)
    world.clock.advance(LEASE_SECONDS)
    async with asyncio.timeout(10):
        assert await world.app.refunds.run_once() == 9
    assert ended[-1] == hung.refund_id
    assert {row["state"] for row in await world.rows(REFUND)} == {"SUCCESS"}


@pytest.mark.parametrize(
    ("caller", "changes", "error"),
    [
        (STRANGER, {}, PaymentNotFound),
        (CLERK, {"payment_id": "PAYnone"}, PaymentNotFound),
        (CLERK, {"currency": "USD"}, CurrencyMismatch),
        (CLERK, {"amount": "0"}, InvalidArgument),
        (CLERK, {"amount": "0.001"}, InvalidArgument),
    ],
)
async def test_bad_requests_reserve_nothing(
    world: PaymentWorld,
    line: RefundLine,
    caller: Caller,
    changes: dict[str, str],
    error: type[Exception],
) -> None:
    payment = await paid(world)
    with pytest.raises(error):
        await refund(world, payment, caller=caller, **changes)
    assert await columns(world, payment) == ("100.00", "0.00", "0.00")
    assert await world.rows(REFUND) == []


async def in_minor_units(
    world: PaymentWorld, payment: Payment, minor: int, **changes: str
) -> Refund:
    return await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount.sent("", minor),
            reason="",
            request_id=changes.get("request_id", ""),
            key=changes.get("key", ""),
        ),
        CLERK,
    )


async def test_minor_units_are_of_the_currency_of_the_payment(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    assert (await in_minor_units(world, payment, 1234)).amount.format() == "12.34"
    with pytest.raises(RefundExceedsRefundable):
        await in_minor_units(world, payment, 8767)
    preview = await world.app.refunds.preview_refund(
        payment_id=payment.payment_id, amount=RequestedAmount.sent("", 66), caller=CLERK
    )
    assert preview.amount.format() == "0.66"


@pytest.mark.parametrize("name", ["key", "request_id"])
async def test_a_repetition_in_other_units_is_the_same_refund(
    world: PaymentWorld, line: RefundLine, name: str
) -> None:
    payment = await paid(world)
    first = await in_minor_units(world, payment, 1000, **{name: "K1"})
    changes: dict[str, Any] = {name: "K1"}
    again = await refund(world, payment, "10.0", **changes)
    assert again.refund_id == first.refund_id
    with pytest.raises(IdempotencyKeyReused):
        await in_minor_units(world, payment, 1001, **{name: "K1"})


async def test_a_payment_without_money_cannot_be_refunded(
    world: PaymentWorld, line: RefundLine
) -> None:
    waiting = await world.cashier(await world.order())
    with pytest.raises(RefundNotAllowed):
        await refund(world, waiting, "1.00")


async def test_a_preview_says_what_would_happen_and_moves_nothing(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    before = await world.rows(PAYMENT)
    preview = await world.app.refunds.preview_refund(
        payment_id=payment.payment_id, amount=RequestedAmount("30.00"), caller=CLERK
    )
    assert (
        preview.amount.format(),
        preview.refundable.format(),
        preview.refundable_after.format(),
    ) == ("30.00", "100.00", "70.00")
    assert not any(balance_of(preview.postings).values())
    assert await world.rows(PAYMENT) == before


async def test_a_preview_after_a_bounce_counts_the_fee_that_is_back_already(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> None:
    async with payment_world(
        database_url_factory(), database_url_factory(), tmp_path, fee_basis_points=60
    ) as world:
        payment = await paid(world, "177.42")
        previews = []
        # the channel's name for the first one is refund_bounces
        for amount in ("77.42", "100.00", "70.00"):
            previews.append(
                (
                    await world.app.refunds.preview_refund(
                        payment_id=payment.payment_id, amount=RequestedAmount(amount), caller=CLERK
                    )
                ).fee_returned.minor
            )
            await refund(world, payment, amount)
            for _ in range(3):
                world.clock.advance(3600)
                await world.app.refunds.run_once()
                await world.callbacks()
        everything = await world.app.refunds.preview_refund(
            payment_id=payment.payment_id, amount=RequestedAmount(""), caller=CLERK
        )
        assert [row["state"] for row in await world.rows(REFUND)] == [
            "REVERSED",
            "SUCCESS",
            "SUCCESS",
        ]
        booked = [
            row["amount_minor"]
            for row in await world.rows(LEDGER_POSTING)
            if row["business_key"].endswith(":fee") and row["side"] == "C"
        ]
    assert previews == [46, 13, 42]
    assert sorted(booked[1:]) == sorted(previews)  # after the fee of the capture
    assert everything.fee_returned.minor == 106 - sum(previews)


async def test_each_change_of_a_refund_tells_the_order_of_that_refund_and_the_sums(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    for name, amount in (("a", "10.00"), ("b", "20.00")):
        await refund(world, payment, amount, request_id=name)
    world.clock.advance(10)
    await world.app.order_relay.run_once()
    told = [
        [
            (refund["request_id"], refund["state"], refund["amount"])
            for refund in snapshot["refunds"]
        ]
        for snapshot in sorted(world.orders.updates, key=lambda snapshot: int(snapshot["version"]))
        if snapshot["refunds"]
    ]
    assert told == [
        [("a", "SUBMITTED", "10.00")],
        [("a", "SUCCESS", "10.00")],
        [("b", "SUBMITTED", "20.00")],
        [("b", "SUCCESS", "20.00")],
    ]
    assert (
        max(world.orders.updates, key=lambda snapshot: int(snapshot["version"]))["refunded"]
        == "30.00"
    )


async def test_a_payment_takes_so_many_refunds_and_refuses_one_more_by_name(
    world: PaymentWorld, line: RefundLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REFUNDS_MAX == 100
    monkeypatch.setattr("payment_rpc.usecases.refund_start.REFUNDS_MAX", 10)
    payment = await paid(world)
    for _ in range(10):
        await refund(world, payment, "0.01")
    with pytest.raises(RefundLimitReached) as refusal:
        await refund(world, payment, "0.01")
    assert (refusal.value.reason, refusal.value.metadata["limit"]) == (
        "REFUND_LIMIT_REACHED",
        "10",
    )
    assert await columns(world, payment) == ("100.00", "0.10", "0.00")
    world.clock.advance(10)
    while await world.app.order_relay.run_once():
        pass
    order = await world.order_side.orders.get(
        merchant_id="mall", order_id=payment.order_id, caller=PAYMENT_RPC
    )
    assert (order.refunded.format(), order.refund_status.value) == ("0.10", "PARTIAL")


@pytest.mark.one_database
async def test_a_payment_with_hundreds_of_refunds_of_before_still_tells_its_order_everything(
    world: PaymentWorld, line: RefundLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a time without a limit: no message grows with the number of refunds."""
    monkeypatch.setattr("payment_rpc.usecases.refund_start.REFUNDS_MAX", 1000)
    payment = await paid(world)
    for _ in range(202):
        await refund(world, payment, "0.01")
    await refund(world, payment)
    assert max(len(row["payload"]) for row in await world.rows(OUTBOX)) < 1000
    world.clock.advance(10)
    while await world.app.order_relay.run_once():
        pass
    order = await world.order_side.orders.get(
        merchant_id="mall", order_id=payment.order_id, caller=PAYMENT_RPC
    )
    assert (order.state, order.refunded.format()) == (OrderState.REFUNDED, "100.00")


@pytest.mark.parametrize("planted", ["the payment", "its attempt"])
async def test_no_request_id_of_a_caller_keeps_refused_money_here(
    world: PaymentWorld, line: RefundLine, planted: str
) -> None:
    other, order = await paid(world), await world.order()

    async def away() -> None:
        raise UpstreamUnavailable("order_rpc is away")

    world.orders.before_update = away
    payment = await world.charge(order)
    [attempt_id] = [
        row["attempt_id"]
        for row in await world.rows(ATTEMPT)
        if row["payment_id"] == payment.payment_id
    ]
    world.orders.before_update = None
    # Past the contract, which refuses such ids: a row of a version before may have one.
    await refund(
        world,
        other,
        "0.01",
        request_id=f"auto:{payment.payment_id if planted == 'the payment' else attempt_id}",
    )
    world.orders.answer = Disposition.REFUSED_CANCELLED
    world.clock.advance(10)
    await world.app.order_relay.run_once()
    [back] = [row for row in await world.rows(REFUND) if row["payment_id"] == payment.payment_id]
    assert (
        back["automatic_of"],
        back["request_id"],
        back["amount_minor"],
        bool(back["automatic"]),
    ) == (payment.payment_id, None, 10000, True)
    second = an_attempt(attempt_id=attempt_id[:-1] + "x", payment_id=other.payment_id)
    await refund(world, other, "0.01", request_id=f"auto:{second.attempt_id}")
    await world.db.run(attempts.insert_attempt, second)
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=second.attempt_id, status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9"
        )
    )
    assert [row["automatic_of"] for row in await world.rows(REFUND) if row["stands_alone"]] == [
        second.attempt_id
    ]


@pytest.mark.parametrize(
    ("request_id", "is_taken"),
    [("auto:PAY1", False), ("auto:", False), ("auto", True), ("my-auto:1", True), ("", True)],
)
def test_the_contract_refuses_request_ids_that_look_like_ours(
    request_id: str, is_taken: bool
) -> None:
    message = refund_pb2.CreateRefundRequest(payment_id="PAY1", request_id=request_id)
    assert (violations_of(message) == []) is is_taken


async def test_a_request_id_of_one_payment_is_refused_for_another(
    world: PaymentWorld, line: RefundLine
) -> None:
    one, other = await paid(world), await paid(world)
    first = await refund(world, one, "10.00", request_id="a")
    with pytest.raises(IdempotencyKeyReused) as refusal:
        await refund(world, other, "10.00", request_id="a")
    assert refusal.value.fields.keys() == {"payment_id"}
    assert [row["refund_id"] for row in await world.rows(REFUND)] == [first.refund_id]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_refund_that_the_channel_does_not_know_yet_is_not_sent_again_while_its_lease_runs(
    world: PaymentWorld, line: RefundLine, workers: int
) -> None:
    """Its call may still be on the way: the channel would get it twice."""
    payment = await paid(world)
    line.lose_answers = True
    sent = await refund(world, payment, "40.00")
    line.truth.clear()  # it has not arrived
    world.clock.advance(6)
    assert sum(await asyncio.gather(*(world.app.refunds.run_once() for _ in range(workers)))) == 1
    assert line.submissions == [sent.refund_id]
    world.clock.advance(LEASE_SECONDS)
    assert sum(await asyncio.gather(*(world.app.refunds.run_once() for _ in range(workers)))) == 1
    assert line.submissions == [sent.refund_id] * 2
    world.clock.advance(LEASE_SECONDS + 1)
    await world.app.refunds.run_once()
    assert await columns(world, payment) == ("100.00", "40.00", "0.00")


async def test_an_answer_that_says_nothing_new_is_told_to_nobody(
    world: PaymentWorld, line: RefundLine
) -> None:
    payment = await paid(world)
    line.lose_answers = True
    await refund(world, payment, "40.00")
    before = len(await world.rows(OUTBOX))
    world.clock.advance(6)
    line.truth = dict.fromkeys(line.truth, RefundChannelStatus.UNKNOWN)
    await world.app.refunds.run_once()
    assert len(await world.rows(OUTBOX)) == before


async def test_a_request_id_belongs_to_its_shop(world: PaymentWorld, line: RefundLine) -> None:
    ours = await refund(world, await paid(world), "10.00", request_id="a")
    theirs = await world.charge(await world.order(caller=buyer("u1", "other")))
    second = await refund(world, theirs, "10.00", request_id="a", caller=STRANGER)
    assert second.refund_id != ours.refund_id
    assert (second.merchant_id, second.payment_id) == ("other", theirs.payment_id)


async def test_refunds_that_we_make_ourselves_leave_a_shop_its_own(
    world: PaymentWorld, line: RefundLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_rpc.usecases.refund_start.REFUNDS_MAX", 1)
    payment = await paid(world)
    await world.db.run(
        attempts.insert_attempt, an_attempt(attempt_id="ATT9", payment_id=payment.payment_id)
    )
    await world.app.channel_results.apply(
        ChannelFact(attempt_id="ATT9", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9")
    )
    await refund(world, payment, "10.00")
    with pytest.raises(RefundLimitReached):
        await refund(world, payment, "10.00")
