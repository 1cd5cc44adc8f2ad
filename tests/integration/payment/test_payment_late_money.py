"""Money that comes late, twice, or in another amount than ours: always booked, never lost, and the
order decides once what it takes.

The sandbox keeps its word about closed attempts, so the channels that do not are played by facts
that arrive late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh import outbox
from mesh.errors import MoneyError, RemoteError, UpstreamUnavailable
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.domain.order import OrderState
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.errors import (
    OrderAlreadyPaid,
    PaymentConflicted,
    PaymentInProgress,
    PaymentNotFound,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Disposition, PaymentState
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT, LEDGER_POSTING, LEDGER_TRANSACTION, PAYMENT, REFUND
from payment_rpc.usecases.messages import order_message
from tests.builders.payment import (
    LEASE_SECONDS,
    PRICE,
    PaymentWorld,
    an_attempt,
)
from tests.builders.payment_steps import attempt_of, capture, declined, relay

S, D = PaymentState, Disposition
Factory = Callable[[], str]


async def books(world: PaymentWorld) -> tuple[int, int]:
    """(owed to the merchant, owed to nobody yet)."""
    assert await world.ledger_problems() == []
    return await world.credit_balance("merchant_payable:mall"), await world.credit_balance(
        "unapplied_receipts:sandbox"
    )


async def goes_back(world: PaymentWorld, payment_id: str) -> None:
    """All of a payment that the order refused is reserved for one automatic refund; no person is
    needed.
    """
    [refund] = [row for row in await world.rows(REFUND) if row["payment_id"] == payment_id]
    assert (refund["automatic_of"], refund["amount_minor"], bool(refund["automatic"])) == (
        payment_id,
        10000,
        True,
    )
    assert await world.credit_balance("refund_payable:sandbox") == 10000
    assert await world.attention() == []


async def test_late_money_that_the_order_takes_becomes_its_payment(world: PaymentWorld) -> None:
    order = await world.order()
    payment_id = await declined(world, order)
    applied = await capture(world, payment_id)
    assert (applied.payment.state, applied.payment.holds_slot, applied.payment.failure) == (
        S.LATE_SUCCESS,
        False,
        None,
    )
    assert await books(world) == (0, 10000)
    assert await relay(world) == 1
    taken = await world.payment(payment_id)
    assert (taken.state, taken.holds_slot, taken.disposition) == (S.SUCCESS, True, D.APPLIED)
    assert await world.order_state(order) is OrderState.PAID
    assert await books(world) == (10000, 0)
    assert [row["kind"] for row in await world.rows(LEDGER_TRANSACTION)] == [
        "CAPTURED_UNAPPLIED",
        "LATE_TAKEN",
    ]
    assert await world.attention() == []
    with pytest.raises(OrderAlreadyPaid):
        await world.charge(order)


async def test_nobody_pays_while_late_money_waits_for_the_orders_answer(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    payment_id = await declined(world, order)
    await capture(world, payment_id)
    for pay in (world.charge, world.cashier):
        with pytest.raises(PaymentInProgress) as refused:
            await pay(order)
        assert (refused.value.payment_id, refused.value.retry_after_seconds) == (payment_id, 2.0)
    assert world.channel.charges == 1  # the declined one


async def test_late_money_of_an_order_that_another_payment_paid_goes_back(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    late_id = await declined(world, order)
    paid = await world.charge(order)
    await capture(world, late_id)
    with capture_logs() as logs:
        assert await relay(world) == 1
    late = await world.payment(late_id)
    assert (late.state, late.disposition, late.holds_slot, late.captured) == (
        S.LATE_SUCCESS,
        D.REFUSED_PAID_BY_OTHER,
        False,
        PRICE,
    )
    assert (await world.payment(paid.payment_id)).state is S.SUCCESS
    assert await books(world) == (10000, 0)
    await goes_back(world, late_id)
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == [
        "payment_refused_by_order"
    ]
    assert await world.order_state(order) is OrderState.PAID
    with pytest.raises(OrderAlreadyPaid):
        await world.charge(order)


async def test_a_success_that_a_cancelled_order_refuses_is_late_money(world: PaymentWorld) -> None:
    order = await world.order()

    async def cancelled_meanwhile() -> None:
        world.orders.before_update = None
        await world.order_side.force_state(order, OrderState.CANCELLED)

    world.orders.before_update = cancelled_meanwhile
    answer = await world.charge(order, key="k1")
    assert answer.state is S.SUCCESS  # what the channel said; the order's answer came after it
    refused = await world.payment(answer.payment_id)
    assert (refused.state, refused.disposition, refused.holds_slot, refused.captured) == (
        S.LATE_SUCCESS,
        D.REFUSED_CANCELLED,
        False,
        PRICE,
    )
    assert await books(world) == (0, 0)
    assert [row["kind"] for row in await world.rows(LEDGER_TRANSACTION)] == [
        "CAPTURED",
        "REFUSED",
        "REFUND_RESERVED",
    ]
    await goes_back(world, answer.payment_id)
    assert await world.charge(order, key="k1") == answer  # the first final answer stays


async def test_an_order_that_takes_late_money_has_the_payment_under_way_closed(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    late_id = await declined(world, order)
    waiting = await world.cashier(order)
    await capture(world, late_id)
    assert await relay(world) == 1
    late, other = await world.payment(late_id), await world.payment(waiting.payment_id)
    assert (late.state, late.holds_slot, other.state, other.holds_slot) == (
        S.SUCCESS,
        True,
        S.CLOSING,
        False,
    )
    assert await world.app.polling.run_once() == 1  # at once, not after the schedule's pause
    assert (await world.payment(waiting.payment_id)).state is S.CLOSED
    await world.press(waiting)
    assert await world.captured_at_sandbox() == []
    assert await books(world) == (10000, 0)


async def test_money_of_a_payment_that_lost_its_slot_is_late_money(world: PaymentWorld) -> None:
    order = await world.order()
    late_id = await declined(world, order)
    waiting = await world.cashier(order)
    await capture(world, late_id)
    await relay(world)
    await world.press(waiting)  # before anybody closed it
    await world.app.polling.run_once()
    second = await world.payment(waiting.payment_id)
    assert (second.state, second.holds_slot) == (S.LATE_SUCCESS, False)
    await relay(world)
    assert (await world.payment(waiting.payment_id)).disposition is D.REFUSED_PAID_BY_OTHER
    await goes_back(world, waiting.payment_id)
    assert await books(world) == (10000, 0)


async def test_of_two_successes_the_one_that_the_order_takes_gets_the_slot(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    late_id = await declined(world, order)

    async def order_rpc_dies() -> None:
        world.orders.away = True

    world.channel.before_charge = order_rpc_dies
    early = await world.charge(order)  # SUCCESS, and the order has not heard of it
    applied = await capture(world, late_id)
    world.orders.away = False
    assert applied.to_order is not None
    assert await world.app.order_relay.deliver(applied.to_order)  # the late one arrives first
    late, given_up = await world.payment(late_id), await world.payment(early.payment_id)
    assert (late.state, late.disposition, late.holds_slot) == (S.SUCCESS, D.APPLIED, True)
    assert (given_up.state, given_up.disposition, given_up.holds_slot) == (
        S.LATE_SUCCESS,
        None,
        False,
    )
    await world.finish(rounds=2)
    assert (await world.payment(early.payment_id)).disposition is D.REFUSED_PAID_BY_OTHER
    await goes_back(world, early.payment_id)
    assert await books(world) == (10000, 0)
    assert {
        row["state"] for row in await world.rows(OUTBOX) if row["destination"] == "order_rpc"
    } == {"DONE"}


async def test_successes_that_race_for_an_order_end_with_one_owner(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    for _ in range(rounds(3, 50)):
        order = await world.order()
        late_id = await declined(world, order)
        waiting = await world.cashier(order)
        await world.press(waiting)
        attempt: Attempt = await world.db.read(
            attempts.get_attempt, await attempt_of(world, waiting.payment_id)
        )
        await asyncio.gather(capture(world, late_id), world.app.polling.query(attempt))
        world.clock.advance(6)
        await asyncio.gather(*(world.app.order_relay.run_once() for _ in range(3)))
        await world.finish(rounds=3)
        ends = {
            payment_id: await world.payment(payment_id)
            for payment_id in (late_id, waiting.payment_id)
        }
        assert sorted(end.state for end in ends.values()) == [S.LATE_SUCCESS, S.SUCCESS]
        assert {end.disposition for end in ends.values()} == {D.APPLIED, D.REFUSED_PAID_BY_OTHER}
        assert await world.order_state(order) is OrderState.PAID
    assert await world.ledger_problems() == []


async def test_an_answer_that_is_delivered_twice_is_settled_once(world: PaymentWorld) -> None:
    order = await world.order()
    payment_id = await declined(world, order)
    applied = await capture(world, payment_id)
    message = applied.to_order
    assert message is not None
    assert (
        await asyncio.gather(*(world.app.order_relay.deliver(message) for _ in range(6)))
        == [True] * 6
    )
    taken = await world.payment(payment_id)
    assert (taken.state, taken.version) == (S.SUCCESS, applied.payment.version + 1)
    assert await books(world) == (10000, 0)


async def test_news_of_a_payment_that_is_decided_changes_nothing_more(world: PaymentWorld) -> None:
    order = await world.order()
    late_id = await declined(world, order)
    paid = await world.charge(order)
    await capture(world, late_id)
    await relay(world)
    before = [await world.rows(table) for table in (PAYMENT, LEDGER_TRANSACTION)]
    # one taken, one refused; their news is sent once more under another event id
    for payment_id in (paid.payment_id, late_id):
        again = order_message(await world.payment(payment_id), ids=world.ids, at=world.clock.now())
        await world.db.run(outbox.put, again)
        assert await world.app.order_relay.deliver(again)
    assert [await world.rows(table) for table in (PAYMENT, LEDGER_TRANSACTION)] == before


async def test_a_second_capture_is_real_money_that_no_column_of_the_payment_shows(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    paid = await world.charge(order)
    second = an_attempt(attempt_id="ATT9", payment_id=paid.payment_id)
    await world.db.run(attempts.insert_attempt, second)
    before = await world.payment(paid.payment_id)
    applied = await world.app.channel_results.apply(
        ChannelFact(attempt_id="ATT9", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9")
    )
    assert applied.changed
    after = await world.payment(paid.payment_id)
    assert (after.state, after.captured, after.channel_trade_no, after.disposition) == (
        S.SUCCESS,
        PRICE,
        before.channel_trade_no,
        D.APPLIED,
    )
    assert after.version == before.version + 1  # its chain of bookings grew
    assert await world.attention() == [("SECOND_CAPTURE", "ATT9")]
    assert await books(world) == (10000, 0)
    assert [
        (row["automatic_of"], bool(row["stands_alone"])) for row in await world.rows(REFUND)
    ] == [("ATT9", True)]
    assert applied.to_order is None
    again = await world.app.channel_results.apply(
        ChannelFact(attempt_id="ATT9", status=ChannelStatus.CAPTURED, amount=PRICE, trade_no="T9")
    )
    assert (again.changed, await world.attention()) == (False, [("SECOND_CAPTURE", "ATT9")])


async def test_an_amount_that_is_not_ours_is_parked_and_blocks_nothing(world: PaymentWorld) -> None:
    order = await world.order()
    world.channel.lose_answers = True
    doubted = await world.charge(order, key="k1")
    applied = await capture(world, doubted.payment_id, amount=Money(9999, "CNY"))
    assert (applied.payment.state, applied.payment.holds_slot, applied.payment.captured.minor) == (
        S.CONFLICTED,
        False,
        0,
    )
    assert await books(world) == (0, 9999)
    assert await world.attention() == [
        ("AMOUNT_CONFLICT", await attempt_of(world, doubted.payment_id))
    ]
    with pytest.raises(PaymentConflicted) as refused:
        await world.charge(order, key="k1")
    assert (refused.value.payment_id, refused.value.safe_to_retry) == (doubted.payment_id, False)
    world.channel.lose_answers = False
    assert (await world.charge(order, key="k2")).state is S.SUCCESS
    assert await world.order_state(order) is OrderState.PAID
    await world.finish()
    # nobody asks any more: a person decides
    assert (await world.payment(doubted.payment_id)).state is S.CONFLICTED


async def test_another_currency_is_parked_in_its_own(world: PaymentWorld) -> None:
    order = await world.order()
    world.channel.lose_answers = True
    doubted = await world.charge(order)
    await capture(world, doubted.payment_id, amount=Money(10000, "USD"))
    assert {row["currency"] for row in await world.rows(LEDGER_POSTING)} == {"USD"}
    [attempt] = await world.rows(ATTEMPT)
    assert (attempt["captured_minor"], attempt["captured_currency"], attempt["currency"]) == (
        10000,
        "USD",
        "CNY",
    )
    assert await world.ledger_problems() == []


async def test_a_capture_that_contradicts_the_known_one_calls_a_person_and_changes_nothing(
    world: PaymentWorld,
) -> None:
    paid = await world.charge(await world.order())
    before = [await world.rows(table) for table in (PAYMENT, ATTEMPT, LEDGER_TRANSACTION)]
    with capture_logs() as logs:
        for _ in range(2):
            applied = await capture(world, paid.payment_id, trade_no="ANOTHER")
            assert not applied.changed
    assert [await world.rows(table) for table in (PAYMENT, ATTEMPT, LEDGER_TRANSACTION)] == before
    assert await world.attention() == [
        ("CAPTURE_CONTRADICTED", await attempt_of(world, paid.payment_id))
    ]
    assert {(entry["event"], entry["alert"]) for entry in logs} == {("attention", True)}


async def test_an_order_that_does_not_know_what_to_do_is_an_alert_and_not_an_endless_question(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    payment_id = await declined(world, order)
    applied = await capture(world, payment_id)

    class Undecided:
        async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> None:
            return None

    app = world.make_app(orders=Undecided())
    assert applied.to_order is not None
    with capture_logs() as logs:
        assert await app.order_relay.deliver(applied.to_order)
    assert [(entry["event"], entry["alert"]) for entry in logs] == [("payment_not_decided", True)]
    assert (await world.payment(payment_id)).state is S.LATE_SUCCESS


async def test_an_order_that_does_not_exist_leaves_the_money_parked_and_an_alert(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    payment_id = await declined(world, order)
    applied = await capture(world, payment_id)

    class Gone:
        async def update_status(self, snapshot: dict[str, Any], *, event_id: str) -> None:
            raise RemoteError(
                "no such order",
                remote_reason="ORDER_NOT_FOUND",
                domain="paymesh.order.v1",
                grpc_code=5,
            )

    assert applied.to_order is not None
    with capture_logs() as logs:
        assert not await world.make_app(orders=Gone()).order_relay.deliver(applied.to_order)
    assert [
        (entry["event"], entry["alert"]) for entry in logs if entry["log_level"] == "error"
    ] == [("outbox_dead", True)]
    assert await books(world) == (0, 10000)


async def test_late_money_of_a_lost_attempt_is_found_by_a_callback(world: PaymentWorld) -> None:
    """A channel without tombstones: the worker declared the attempt lost, and it arrived after
    all.
    """
    order = await world.order()

    async def give_up() -> None:
        world.clock.advance(LEASE_SECONDS)
        await world.app.polling.run_once()

    world.channel.before_charge = give_up
    with pytest.raises(MoneyError) as refused:
        await world.charge(order)
    payment_id = refused.value.payment_id
    await capture(world, payment_id)
    assert (await world.payment(payment_id)).state is S.LATE_SUCCESS
    await relay(world)
    assert ((await world.payment(payment_id)).state, await world.order_state(order)) == (
        S.SUCCESS,
        OrderState.PAID,
    )


async def test_an_order_that_is_away_is_asked_until_it_answers(world: PaymentWorld) -> None:
    order = await world.order()
    payment_id = await declined(world, order)
    await capture(world, payment_id)
    world.orders.away = True
    for _ in range(4):
        assert await relay(world) <= 1
    [message] = [row for row in await world.rows(OUTBOX) if row["destination"] == "order_rpc"]
    assert (message["state"], message["last_error"]) == (
        "NEW",
        str(UpstreamUnavailable("order_rpc is away")),
    )
    world.orders.away = False
    world.clock.advance(300)
    await relay(world)
    assert (await world.payment(payment_id)).state is S.SUCCESS


@pytest.mark.parametrize(
    "amount", [Money(10000, "CNY"), Money(12345, "CNY"), Money(1, "CNY"), Money(10000, "USD")]
)
async def test_a_second_capture_goes_back_in_its_own_amount(
    world: PaymentWorld, amount: Money
) -> None:
    paid = await world.charge(await world.order())
    await world.db.run(
        attempts.insert_attempt, an_attempt(attempt_id="ATT9", payment_id=paid.payment_id)
    )
    await world.app.channel_results.apply(
        ChannelFact(attempt_id="ATT9", status=ChannelStatus.CAPTURED, amount=amount, trade_no="T9")
    )
    assert [(row["amount_minor"], row["currency"]) for row in await world.rows(REFUND)] == [
        (amount.minor, amount.currency)
    ]
    assert await world.credit_balance("refund_payable:sandbox") == amount.minor
    assert await books(world) == (10000, 0)
    assert (await world.app.ledger_verification.verify_ledger()).violations == ()


@pytest.mark.parametrize("status", [ChannelStatus.CAPTURED, ChannelStatus.DECLINED])
async def test_news_of_an_attempt_that_is_not_ours_is_no_duplicate_of_ours(
    world: PaymentWorld, status: ChannelStatus
) -> None:
    """Only the channel says that it charged a buyer twice; an id that nobody knows is nobody's
    money.
    """
    paid = await world.charge(await world.order())
    before = [await world.rows(table) for table in (PAYMENT, ATTEMPT, LEDGER_TRANSACTION, REFUND)]
    for payment_id in ("", paid.payment_id):
        with pytest.raises(PaymentNotFound):
            await world.app.channel_results.apply(
                ChannelFact(attempt_id="ATT-FOREIGN", status=status, amount=PRICE, trade_no="T9"),
                payment_id=payment_id,
            )
    if status is not ChannelStatus.CAPTURED:  # nor is a duplicate that moved nothing
        with pytest.raises(PaymentNotFound):
            await world.app.channel_results.apply(
                ChannelFact(
                    attempt_id="ATT-FOREIGN",
                    status=status,
                    duplicate_of=await attempt_of(world, paid.payment_id),
                )
            )
    assert [
        await world.rows(table) for table in (PAYMENT, ATTEMPT, LEDGER_TRANSACTION, REFUND)
    ] == before


async def test_a_duplicate_charge_of_the_channel_is_real_money_and_goes_back(
    world: PaymentWorld,
) -> None:
    paid = await world.charge(await world.order())
    ours = await attempt_of(world, paid.payment_id)
    twice = ChannelFact(
        attempt_id="ATT-TWICE",
        status=ChannelStatus.CAPTURED,
        amount=Money(9000, "CNY"),
        trade_no="T9",
        duplicate_of=ours,
    )
    for _ in range(2):
        await world.app.channel_results.apply(twice)
    assert [(row["attempt_id"], row["amount_minor"]) for row in await world.rows(REFUND)] == [
        ("ATT-TWICE", 9000)
    ]
    assert await world.attention() == [("SECOND_CAPTURE", "ATT-TWICE")]
    assert await books(world) == (10000, 0)
