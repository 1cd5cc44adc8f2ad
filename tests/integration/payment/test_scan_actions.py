"""The diary of the background scan: whatever it does about a payment or a refund is written down in
the transaction of its effect, and nothing of what callers ask for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mesh import failpoints
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX
from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.tables import ATTEMPT, REFUND, SCAN_ACTION
from tests.builders.order import PAYMENT_WINDOW
from tests.builders.payment import CONFIG, DECLINED, LEASE_SECONDS, PaymentWorld, closes_by


async def diary(world: PaymentWorld) -> list[str]:
    """What was done, in short."""
    return [
        " ".join(
            filter(
                None,
                (
                    row["action"],
                    row["result"],
                    f"{row['state_before']}>{row['state_after']}",
                    "" if row["action"] == "NOTIFY" else row["reason"],
                ),
            )
        )
        for row in await world.rows(SCAN_ACTION)
    ]


async def unanswered(world: PaymentWorld, **changes: Any) -> Payment:
    """A charge whose answer was lost."""
    world.channel.lose_answers = True
    payment = await world.charge(await world.order(), **changes)
    world.channel.lose_answers = False
    return payment


async def test_a_question_that_found_money_is_told_with_the_message_that_tells_the_order(
    world: PaymentWorld,
) -> None:
    payment = await unanswered(world)
    world.clock.advance(5)
    assert await world.app.polling.run_once() == 1
    assert await diary(world) == [
        "QUERY CAPTURED PAYING>SUCCESS",
        "NOTIFY order_rpc PAYING>SUCCESS",
    ]
    question, notice = await world.rows(SCAN_ACTION)
    [attempt], [message] = (
        await world.rows(ATTEMPT),
        [row for row in await world.rows(OUTBOX) if row["destination"] == "order_rpc"],
    )
    assert (question["payment_id"], question["attempt_id"], question["refund_id"]) == (
        payment.payment_id,
        attempt["attempt_id"],
        "",
    )
    assert notice["reason"] == message["event_id"]
    assert question["acted_at"] == world.clock.now()


async def test_a_decline_is_told_with_its_code_and_no_order_hears_of_it(
    world: PaymentWorld,
) -> None:
    await unanswered(world, number=DECLINED)
    world.clock.advance(5)
    await world.app.polling.run_once()
    assert await diary(world) == ["QUERY DECLINED PAYING>FAILED CARD_DECLINED"]


async def test_a_channel_that_never_answers_makes_ever_fewer_rows_and_they_are_purged(
    world: PaymentWorld,
) -> None:
    await unanswered(world)
    world.channel.unreachable = True
    ends = world.clock.now() + timedelta(days=2)
    while (due := (await world.rows(ATTEMPT))[0]["next_query_at"]) <= ends:
        world.clock.advance((due - world.clock.now()).total_seconds())
        assert await world.app.polling.run_once() == 1
    rows = await world.rows(SCAN_ACTION)
    assert len(rows) == 10  # in two days: the schedule is the bound
    assert {
        (row["action"], row["result"], row["state_before"], row["state_after"]) for row in rows
    } == {("QUERY", "UNKNOWN", "PAYING", "PAYING")}
    [purge] = [worker for worker in world.app.workers if worker.name == "purge_scan_actions"]
    assert await purge._run_once() == 0
    world.clock.advance(
        (
            rows[0]["acted_at"]
            + timedelta(days=CONFIG.scan_action_retention_days)
            - world.clock.now()
        ).total_seconds()
    )
    assert await purge._run_once() == 0
    world.clock.advance(1)
    assert await purge._run_once() == 1
    assert [row["id"] for row in await world.rows(SCAN_ACTION)] == [row["id"] for row in rows[1:]]


async def test_an_attempt_that_never_arrived_is_asked_for_and_closed_in_one_round(
    world: PaymentWorld,
) -> None:
    failpoints.arm("payment.charge.after_tx1=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.charge(await world.order())
    world.clock.advance(LEASE_SECONDS)
    await world.app.polling.run_once()
    assert await diary(world) == [
        "QUERY NOT_FOUND PAYING>PAYING",
        "CLOSE CLOSED PAYING>FAILED PAYMENT_CLOSED",
    ]


async def test_a_deadline_is_told_and_the_close_at_the_channel_after_it(
    world: PaymentWorld,
) -> None:
    payment = await world.cashier(await world.order())
    world.clock.advance(PAYMENT_WINDOW.total_seconds() - 1)
    await world.app.polling.run_once()
    world.clock.advance(1)
    await world.app.expiry.run_once()
    await world.app.polling.run_once()
    first, *later = await diary(world)
    assert first == "QUERY PENDING PAYING>PAYING"
    assert later[0] == "CLOSE PAYING>CLOSING DEADLINE"
    assert later[1].startswith("CLOSE CLOSED CLOSING>CLOSED")
    assert {row["payment_id"] for row in await world.rows(SCAN_ACTION)} == {payment.payment_id}


async def test_what_cannot_be_closed_at_the_channel_is_closed_by_a_decision_of_ours(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def query(attempt_id: str, **call: Any) -> ChannelFact:
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.PENDING)

    closes_by(world.channel, Close.NEVER)
    monkeypatch.setattr(world.channel, "query", query)
    app = world.make_app(config=replace(CONFIG, close_grace_seconds=60))
    payment = await world.cashier(await world.order())
    world.clock.advance(PAYMENT_WINDOW.total_seconds())
    for _ in range(2):
        await app.expiry.run_once()
        await app.polling.run_once()
        world.clock.advance(60)
    assert (await world.payment(payment.payment_id)).state is PaymentState.CLOSED
    assert await diary(world) == [
        "CLOSE PAYING>CLOSING DEADLINE",
        "QUERY PENDING CLOSING>CLOSING",
        "QUERY PENDING CLOSING>CLOSING",
        "CLOSE CLOSING>CLOSED PAYMENT_CLOSED",
    ]


async def test_a_refund_of_ours_is_submitted_asked_for_and_told(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "refund": RefundChannelStatus.NOT_SENT,
        "query_refund": RefundChannelStatus.NOT_FOUND,
    }

    async def refund(*, refund_id: str, **_: Any) -> RefundFact:
        return RefundFact(refund_id=refund_id, status=answers["refund"], channel_refund_no="SR1")

    async def query_refund(refund_id: str, **_: Any) -> RefundFact:
        return RefundFact(
            refund_id=refund_id, status=answers["query_refund"], channel_refund_no="SR1"
        )

    monkeypatch.setattr(world.channel, "refund", refund)
    monkeypatch.setattr(world.channel, "query_refund", query_refund)
    world.orders.answer = Disposition.REFUSED_CANCELLED
    await world.charge(await world.order())
    assert await world.rows(SCAN_ACTION) == []
    for seconds, sent, found in (
        (0, "NOT_SENT", "NOT_FOUND"),
        (LEASE_SECONDS, "PENDING", "NOT_FOUND"),
        (300, "PENDING", "PENDING"),
        (300, "PENDING", "SUCCESS"),
    ):
        answers["refund"], answers["query_refund"] = (
            RefundChannelStatus(sent),
            RefundChannelStatus(found),
        )
        world.clock.advance(seconds)
        assert await world.app.refunds.run_once() == 1
    assert await diary(world) == [
        "SUBMIT NOT_SENT CREATED>UNKNOWN",
        "NOTIFY order_rpc SUBMITTED>UNKNOWN",
        "QUERY NOT_FOUND UNKNOWN>UNKNOWN",
        "SUBMIT PENDING UNKNOWN>PENDING",
        "NOTIFY order_rpc UNKNOWN>PENDING",
        "QUERY PENDING PENDING>PENDING",
        "QUERY SUCCESS PENDING>SUCCESS",
        "NOTIFY order_rpc PENDING>SUCCESS",
    ]
    [refunded] = await world.rows(REFUND)
    assert {
        (row["payment_id"], row["attempt_id"], row["refund_id"])
        for row in await world.rows(SCAN_ACTION)
    } == {(refunded["payment_id"], refunded["attempt_id"], refunded["refund_id"])}


async def test_what_callers_ask_for_is_no_scan(world: PaymentWorld) -> None:
    world.channel.lose_answers = True
    await world.charge(order := await world.order(), key="k1")
    world.channel.lose_answers = False
    world.clock.advance(LEASE_SECONDS)
    assert (await world.charge(order, key="k1")).state is PaymentState.SUCCESS  # asks the channel
    assert world.channel.queries == 1
    opened = await world.cashier(order := await world.order())
    await world.app.cancellation.close_payment(merchant_id="mall", order_id=order.order_id)
    assert (await world.payment(opened.payment_id)).state is PaymentState.CLOSED
    assert await diary(world) == []


@pytest.mark.parametrize(
    ("point", "actions"),
    [("payment.fact.before_commit", {}), ("payment.fact.after_commit", {"QUERY": 1, "NOTIFY": 1})],
)
async def test_the_diary_is_as_whole_as_its_effect(
    world: PaymentWorld, point: str, actions: dict[str, int]
) -> None:
    payment = await unanswered(world)
    world.clock.advance(5)
    failpoints.arm(f"{point}=raise", environment="test")
    await world.app.polling.run_once()
    assert Counter(row["action"] for row in await world.rows(SCAN_ACTION)) == actions
    assert (await world.payment(payment.payment_id)).state is (
        PaymentState.SUCCESS if actions else PaymentState.PAYING
    )
