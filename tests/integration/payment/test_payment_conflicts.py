"""What an operator decides about a conflict is the end of it: the key of the payment hears one
answer, and money that leaves against the decision is seen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mesh.audit import AuditTolerance
from mesh.money import Money
from order_rpc.domain.order import Order, OrderState
from payment_rpc.audit.checks import violations
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import ChannelFailed, PaymentConflicted, PaymentStateInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, LEDGER_POSTING, PAYMENT, REFUND
from tests.builders.order import ADMIN
from tests.builders.payment import PRICE, PaymentWorld
from tests.builders.payment_steps import RefundLine

S = PaymentState
LEFT, BOUNCED = RefundChannelStatus.SUCCESS, RefundChannelStatus.REVERSED


async def captured(
    world: PaymentWorld, attempt_id: str, amount: Money = PRICE, *, trade_no: str
) -> None:
    await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id, status=ChannelStatus.CAPTURED, amount=amount, trade_no=trade_no
        )
    )


async def conflicted(world: PaymentWorld, *, key: str = "") -> tuple[Order, Payment]:
    """The channel took 0.01 for an order of 100.00."""
    order = await world.order()
    payment = await world.cashier(order, key=key)
    [attempt_id] = [
        row["attempt_id"]
        for row in await world.rows(ATTEMPT)
        if row["payment_id"] == payment.payment_id
    ]
    await captured(world, attempt_id, Money(1, "CNY"), trade_no=f"WRONG-{attempt_id}")
    return order, payment


async def captured_exactly(world: PaymentWorld, payment: Payment, line: RefundLine) -> str:
    """Then it took what was owed, which it refuses to give back; the refund's id."""
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
    await captured(world, "ATTexact", trade_no="EXACT")
    line.next_status = RefundChannelStatus.FAILED
    await world.app.refunds.run_once()
    [refund] = await world.rows(REFUND)
    assert (refund["attempt_id"], refund["stands_alone"], refund["state"]) == (
        "ATTexact",
        True,
        "FAILED",
    )
    line.next_status = RefundChannelStatus.SUCCESS
    return str(refund["refund_id"])


async def nothing_is_wrong(world: PaymentWorld) -> None:
    assert await world.ledger_problems() == []
    assert list((await world.app.ledger_verification.verify_ledger()).violations) == []


@pytest.mark.parametrize(
    "news",
    [(LEFT,), (LEFT, BOUNCED), (BOUNCED,)],
    ids=["left", "left and bounced", "bounced, which says that it left"],
)
async def test_a_kept_capture_that_goes_back_after_all_is_a_loss_that_a_person_sees(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch, news: tuple[RefundChannelStatus, ...]
) -> None:
    order, payment = await conflicted(world)
    refund_id = await captured_exactly(world, payment, RefundLine(world.channel, monkeypatch))
    await world.app.conflicts.resolve_conflict(
        payment.payment_id, state=S.LATE_SUCCESS, reason="keep it", caller=ADMIN
    )
    await world.app.order_relay.run_once()
    kept, before = await world.payment(payment.payment_id), await world.attention()
    assert (kept.state, kept.captured, await world.order_state(order)) == (
        S.SUCCESS,
        PRICE,
        OrderState.PAID,
    )
    await world.app.refunds.run_once()  # the wrong capture goes back
    for status in news:
        refund = await world.app.refund_results.apply(
            RefundFact(refund_id=refund_id, status=status)
        )
        await nothing_is_wrong(world)
    is_here = BOUNCED in news
    assert (refund.state, refund.above_cap, refund.needs_attention) == (
        RefundState.REVERSED if is_here else RefundState.SUCCESS,
        True,
        True,
    )
    assert set(await world.attention()) - set(before) == {
        ("REFUNDED_ABOVE_CAP", refund_id),
        *([("REFUND_REVERSED", refund_id)] if is_here else []),
    }
    now = await world.payment(payment.payment_id)
    assert (now.state, now.captured, now.refunded.minor, now.refund_reserved.minor) == (
        S.SUCCESS,
        PRICE,
        0,
        0,
    )
    assert [
        await world.debit_balance(name)
        for name in (
            "loss",
            "merchant_payable:mall",
            "unapplied_receipts:sandbox",
            "channel_receivable:sandbox",
        )
    ] == [0 if is_here else 10000, -10000, 0, 10000 if is_here else 0]


async def test_a_capture_that_nobody_kept_goes_back_after_all_without_a_loss(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, payment = await conflicted(world)
    refund_id = await captured_exactly(world, payment, RefundLine(world.channel, monkeypatch))
    await world.app.conflicts.resolve_conflict(
        payment.payment_id, state=S.FAILED, reason="give it back", caller=ADMIN
    )
    refund = await world.app.refund_results.apply(RefundFact(refund_id=refund_id, status=LEFT))
    assert (refund.state, refund.above_cap) == (RefundState.SUCCESS, False)
    assert await world.debit_balance("loss") == 0
    await nothing_is_wrong(world)


async def test_the_key_of_a_conflict_hears_that_it_failed_whatever_is_captured_later(
    world: PaymentWorld,
) -> None:
    order, payment = await conflicted(world, key="k1")
    with pytest.raises(PaymentConflicted):
        await world.cashier(order, key="k1")
    await world.app.conflicts.resolve_conflict(
        payment.payment_id, state=S.FAILED, reason="give it back", caller=ADMIN
    )
    late = Attempt.start(
        attempt_id="ATTlate",
        payment_id=payment.payment_id,
        merchant_id="mall",
        channel="sandbox",
        amount=PRICE,
        lease=timedelta(seconds=1),
        at=world.clock.now(),
    )
    for happens in (
        None,
        world.db.run(attempts.insert_attempt, late),
        captured(world, "ATTlate", trade_no="LATE"),
        world.app.order_relay.run_once(),
    ):
        if happens is not None:
            await happens
        with pytest.raises(ChannelFailed) as heard:
            await world.cashier(order, key="k1")
        assert (heard.value.payment_id, heard.value.safe_to_retry) == (payment.payment_id, True)
    assert ((await world.payment(payment.payment_id)).state, await world.order_state(order)) == (
        S.SUCCESS,
        OrderState.PAID,
    )
    assert [
        found
        async for found in violations(world.db, AuditTolerance(now=world.clock.now(), strict=False))
    ] == []


async def test_the_key_of_a_conflict_hears_what_was_kept_for_ever(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, payment = await conflicted(world, key="k1")
    await captured_exactly(world, payment, RefundLine(world.channel, monkeypatch))
    resolved = await world.app.conflicts.resolve_conflict(
        payment.payment_id, state=S.LATE_SUCCESS, reason="keep it", caller=ADMIN
    )
    assert await world.cashier(order, key="k1") == resolved
    world.orders.answer = Disposition.REFUSED_CANCELLED
    await world.app.order_relay.run_once()
    await world.app.refunds.run_once()
    assert (await world.payment(payment.payment_id)).state is S.LATE_REFUNDED
    assert await world.cashier(order, key="k1") == resolved


@pytest.mark.parametrize("decision", [S.FAILED, S.LATE_SUCCESS])
@pytest.mark.parametrize(
    "state", ["PAYING", "CLOSING", "CLOSED", "FAILED", "SUCCESS", "LATE_SUCCESS"]
)
async def test_only_a_conflict_is_resolved(
    world: PaymentWorld, state: str, decision: PaymentState
) -> None:
    """Without that rule a clerk would end a payment that is under way, or book money that is the
    merchant's.
    """
    order = await world.order()
    opened = await world.cashier(order)
    [attempt_id] = [row["attempt_id"] for row in await world.rows(ATTEMPT)]
    if state in ("CLOSING", "CLOSED"):
        world.channel.unreachable = state == "CLOSING"
        await world.app.cancellation.close_one(opened.payment_id)
    if state in ("FAILED", "LATE_SUCCESS"):
        await world.app.channel_results.apply(
            ChannelFact(attempt_id=attempt_id, status=ChannelStatus.DECLINED)
        )
    if state in ("SUCCESS", "LATE_SUCCESS"):
        await captured(world, attempt_id, trade_no="T1")
    before = [await world.rows(table) for table in (PAYMENT, ATTEMPT, LEDGER_POSTING, REFUND)]
    assert before[0][0]["state"] == state
    with pytest.raises(PaymentStateInvalid) as refused:
        await world.app.conflicts.resolve_conflict(
            opened.payment_id, state=decision, reason="no", caller=ADMIN
        )
    assert "is not in conflict" in str(refused.value)
    assert [
        await world.rows(table) for table in (PAYMENT, ATTEMPT, LEDGER_POSTING, REFUND)
    ] == before


async def test_a_conflict_is_not_kept_by_a_capture_of_another_amount_nor_by_one_that_goes_back(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = RefundLine(world.channel, monkeypatch)
    _order, payment = await conflicted(world)
    with pytest.raises(PaymentStateInvalid):
        await world.app.conflicts.resolve_conflict(
            payment.payment_id, state=S.LATE_SUCCESS, reason="no", caller=ADMIN
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
    await captured(world, "ATTexact", trade_no="EXACT")
    for _ in range(2):  # on its way back, and gone
        with pytest.raises(PaymentStateInvalid):
            await world.app.conflicts.resolve_conflict(
                payment.payment_id, state=S.LATE_SUCCESS, reason="no", caller=ADMIN
            )
        await world.app.refunds.run_once()
    assert len(line.submissions) == 1
    assert (await world.payment(payment.payment_id)).state is S.CONFLICTED
