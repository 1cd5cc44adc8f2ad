"""Charging a card through the whole of payment_rpc, with the real order_rpc use cases and the real
sandbox: once, and never twice.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from paymesh.events.v1 import events_pb2
from structlog.testing import capture_logs

import order_rpc.tables
from mesh.call import calling
from mesh.errors import (
    IdempotencyKeyReused,
    InvalidArgument,
    MoneyError,
    Outcome,
    UpstreamUnavailable,
)
from mesh.idempotency import RECEIPT
from mesh.outbox import OUTBOX
from order_rpc.domain.order import OrderState
from order_rpc.tables import STOCK
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.errors import (
    AmountMismatch,
    CardDeclined,
    CardInvalid,
    ChannelFailed,
    ChannelUnavailable,
    CurrencyMismatch,
    InsufficientFunds,
    OrderAlreadyPaid,
    OrderNotFound,
    OrderNotPayable,
    PaymentInProgress,
    PaymentMethodNotSupported,
)
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.tables import (
    ATTEMPT,
    LEDGER_POSTING,
    LEDGER_TRANSACTION,
    ORDER_GATE,
    PAYMENT,
    metadata,
)
from payment_rpc.usecases.payment_completion import ORDER_WAIT_SECONDS
from tests.builders.order import PAYMENT_WINDOW, buyer
from tests.builders.payment import (
    CONFIG,
    DECLINED,
    INSUFFICIENT,
    MASTERCARD,
    PROCESSING_ERROR,
    PaymentWorld,
    UnreliableChannel,
)
from tests.support.sandbox_server import API_KEY, CALLBACK_SECRET
from tools.processes import free_port

S, A = PaymentState, AttemptState
Factory = Callable[[], str]


async def untouched(world: PaymentWorld) -> bool:
    """No payment, no attempt, nothing booked, nothing at the channel, no receipt."""
    tables = (PAYMENT, ATTEMPT, LEDGER_TRANSACTION, RECEIPT, OUTBOX)
    return not any([await world.rows(table) for table in tables]) and await world.at_sandbox() == []


# One purchase


async def test_a_good_card_pays_the_order(world: PaymentWorld) -> None:
    order = await world.order("100.00", quantity=2)
    with calling(caller=buyer(), timeout_seconds=10) as call:
        payment = await world.charge(order)
    assert (
        payment.state,
        payment.amount.format(),
        payment.captured.format(),
        payment.outcome,
        payment.payment_method,
        payment.channel,
    ) == (S.SUCCESS, "200.00", "200.00", Outcome.CAPTURED, "credit_card", "sandbox")
    assert payment.card is not None
    assert (payment.card.brand, payment.card.last_four) == ("visa", "4242")
    assert await world.order_state(order) is OrderState.PAID
    assert [
        (row["available"], row["reserved"], row["sold"])
        for row in await world.order_side.rows(STOCK)
    ] == [(998, 0, 2)]
    [transaction] = await world.at_sandbox()
    [attempt] = await world.rows(ATTEMPT)
    assert (
        attempt["attempt_id"],
        attempt["state"],
        attempt["channel_trade_no"],
        attempt["sends"],
    ) == (transaction["attempt_id"], "CAPTURED", transaction["trade_no"], 1)
    assert (payment.channel_trade_no, transaction["status"], transaction["amount"]) == (
        transaction["trade_no"],
        "CAPTURED",
        "200.00",
    )
    assert await world.ledger_problems() == []
    assert [
        (row["account"], row["side"], row["amount_minor"])
        for row in await world.rows(LEDGER_POSTING)
    ] == [("channel_receivable:sandbox", "D", 20000), ("merchant_payable:mall", "C", 20000)]
    assert (await world.payment(payment.payment_id)).disposition is Disposition.APPLIED
    messages = await world.rows(OUTBOX)
    assert [
        (row["destination"], row["tag"], row["state"], row["trace_id"]) for row in messages
    ] == [
        ("order_rpc", "UpdateOrderStatus", "DONE", call.trace.trace_id),
        ("stream:PAYMENT_TOPIC", "PAYMENT_SUCCEEDED", "NEW", call.trace.trace_id),
    ]
    event = json_format.Parse(messages[1]["payload"], events_pb2.PaymentSucceededEvent())
    assert (
        event.payment_id,
        event.order_id,
        event.amount,
        event.currency,
        event.channel_trade_no,
        event.version,
        event.event_id,
    ) == (
        payment.payment_id,
        order.order_id,
        "200.00",
        "CNY",
        transaction["trade_no"],
        "1.0",
        messages[1]["event_id"],
    )


async def test_no_card_number_and_no_cvv_is_kept_anywhere(world: PaymentWorld) -> None:
    cvv, numbers = "9417", (MASTERCARD, DECLINED)
    with capture_logs() as logs:
        for number in numbers:
            order = await world.order()
            outcome = await asyncio.gather(
                world.charge(order, number=number, cvv=cvv, key=f"k{number[-4:]}"),
                return_exceptions=True,
            )
            assert isinstance(outcome[0], Payment | CardDeclined)
        mistakes: list[dict[str, Any]] = [{"number": "5555555555554441"}, {"cvv": "94171"}]
        for wrong in mistakes:
            with pytest.raises(CardInvalid) as refused:
                await world.charge(
                    await world.order(), **{"number": MASTERCARD, "cvv": cvv, **wrong}
                )
            logs.append(
                {"event": repr(refused.value) + str(refused.value.fields), "log_level": "error"}
            )
    kept = [repr(logs)]
    for side, tables in ((world, metadata), (world.order_side, order_rpc.tables.metadata)):
        kept += [repr(await side.rows(table)) for table in tables.tables.values()]
    with sqlite3.connect(world.folder / "sandbox.db") as file:
        for (name,) in file.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall():
            kept.append(repr(file.execute(f"SELECT * FROM {name}").fetchall()))
    file.close()
    text = "".join(kept)
    assert "4444" in text  # the last four are
    assert "visa" in text
    for secret in (*numbers, cvv, "5555555555554441", MASTERCARD[:12], MASTERCARD[4:]):
        assert secret not in text


# Again


async def test_the_same_key_gets_the_first_answer_even_when_the_row_has_gone_on(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    first = await world.charge(order, key="k1")
    assert (await world.payment(first.payment_id)).version > first.version  # the order's answer
    await world.finish()
    with calling(caller=buyer(), timeout_seconds=10) as call:
        assert await world.charge(order, key="k1") == first
    assert list(call.trailing) == [("x-paymesh-idempotent-replayed", "true")]
    # another spelling is no other request
    assert await world.charge(order, key="k1", amount="100") == first
    assert len(await world.at_sandbox()) == 1


async def test_a_replay_needs_neither_the_order_nor_the_channel(world: PaymentWorld) -> None:
    order = await world.order()
    first = await world.charge(order, key="k1")
    world.orders.away = world.channel.unreachable = True
    assert await world.charge(order, key="k1") == first


async def test_without_a_key_the_order_decides(world: PaymentWorld) -> None:
    order = await world.order()
    first = await world.charge(order)
    with pytest.raises(OrderAlreadyPaid) as refused:
        await world.charge(order)
    assert (refused.value.reason, refused.value.outcome, refused.value.safe_to_retry) == (
        "ORDER_ALREADY_PAID",
        Outcome.NOT_ATTEMPTED,
        False,
    )
    with pytest.raises(OrderAlreadyPaid):
        await world.charge(order, key="k1")
    assert [row["payment_id"] for row in await world.rows(PAYMENT)] == [first.payment_id]


async def test_an_order_whose_success_it_has_not_heard_of_is_paid_all_the_same(
    world: PaymentWorld,
) -> None:
    order = await world.order()

    async def order_rpc_dies() -> None:
        world.orders.away = True

    world.channel.before_charge = order_rpc_dies
    first = await world.charge(order)
    world.channel.before_charge = None
    world.orders.away = False  # back, and it still says PENDING_PAYMENT
    with pytest.raises(OrderAlreadyPaid) as refused:
        await world.charge(order)
    assert refused.value.payment_id == first.payment_id


async def test_a_decline_is_an_answer_that_is_kept_and_leaves_the_order_free(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    for replay in (False, True):
        with (
            calling(caller=buyer(), timeout_seconds=10) as call,
            pytest.raises(CardDeclined) as refused,
        ):
            await world.charge(order, number=DECLINED, key="k1")
        [row] = await world.rows(PAYMENT)
        assert (refused.value.payment_id, refused.value.outcome, refused.value.safe_to_retry) == (
            row["payment_id"],
            Outcome.DECLINED,
            True,
        )
        assert bool(call.trailing) is replay
    assert (row["state"], row["live_slot"], row["captured_minor"]) == ("FAILED", None, 0)
    assert await world.rows(LEDGER_TRANSACTION) == []
    assert [(message["destination"], message["tag"]) for message in await world.rows(OUTBOX)] == [
        ("stream:PAYMENT_TOPIC", "PAYMENT_FAILED")
    ]
    assert await world.order_state(order) is OrderState.PENDING_PAYMENT
    paid = await world.charge(order, key="k2")
    assert (paid.state, await world.order_state(order)) == (S.SUCCESS, OrderState.PAID)
    with pytest.raises(CardDeclined):
        await world.charge(order, number=DECLINED, key="k1")  # a decline stays a decline
    assert await world.ledger_problems() == []


async def test_every_way_to_end_without_money_has_its_name(world: PaymentWorld) -> None:
    for number, refusal, outcome, state in (
        (DECLINED, CardDeclined, Outcome.DECLINED, A.DECLINED),
        (INSUFFICIENT, InsufficientFunds, Outcome.DECLINED, A.DECLINED),
        (PROCESSING_ERROR, ChannelFailed, Outcome.TECH_FAILED, A.TECH_FAILED),
    ):
        with pytest.raises(refusal) as refused:
            await world.charge(await world.order(), number=number)
        assert (refused.value.outcome, refused.value.safe_to_retry) == (outcome, True)
        assert (await world.rows(ATTEMPT))[-1]["state"] == state
        failed = await world.payment(refused.value.payment_id)
        assert (failed.state, failed.outcome, failed.failure.reason if failed.failure else "") == (
            S.FAILED,
            outcome,
            refusal.reason,
        )


async def test_other_content_under_the_same_key_is_refused_by_the_name_of_what_differs(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await world.charge(order, key="k1")
    before = await world.rows(PAYMENT)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"number": MASTERCARD}, "credit_card"),
        ({"expiration_year": 2031}, "credit_card"),
        ({"amount": "99.99"}, "amount"),
        ({"currency": "CNY"}, "currency"),
        ({"order_id": "ORD0"}, "order_id"),
    ]
    for change, field in changes:
        with pytest.raises(IdempotencyKeyReused) as refused:
            await world.charge(order, key="k1", **change)
        assert list(refused.value.fields) == [field]
    assert await world.rows(PAYMENT) == before


async def test_another_cvv_is_no_other_request_because_it_is_not_kept(world: PaymentWorld) -> None:
    order = await world.order()
    assert await world.charge(order, key="k1", cvv="123") == await world.charge(
        order, key="k1", cvv="999"
    )


async def test_two_buyers_with_one_key_never_meet(world: PaymentWorld) -> None:
    orders = [
        await world.order(caller=caller)
        for caller in (buyer("u1"), buyer("u2"), buyer("u1", "tea_house"))
    ]
    paid = [await world.charge(order, key="k1") for order in orders]
    assert len({payment.payment_id for payment in paid}) == 3
    assert [payment.order_id for payment in paid] == [order.order_id for order in orders]


# At once


async def test_fifty_charges_of_one_order_at_once_take_the_money_once(world: PaymentWorld) -> None:
    order = await world.order()
    outcomes = await asyncio.gather(
        *(world.charge(order) for _ in range(50)), return_exceptions=True
    )
    paid = [outcome for outcome in outcomes if isinstance(outcome, Payment)]
    refusals = Counter(type(outcome) for outcome in outcomes if not isinstance(outcome, Payment))
    assert len(paid) == 1
    assert set(refusals) <= {PaymentInProgress, OrderAlreadyPaid}
    assert refusals.total() == 49
    assert [transaction["status"] for transaction in await world.at_sandbox()] == ["CAPTURED"]
    assert (
        len(await world.rows(PAYMENT)),
        len(await world.rows(ATTEMPT)),
        len(await world.rows(LEDGER_TRANSACTION)),
    ) == (1, 1, 1)
    assert await world.ledger_problems() == []
    assert await world.order_state(order) is OrderState.PAID


async def test_fifty_charges_with_one_key_at_once_get_one_answer(world: PaymentWorld) -> None:
    order = await world.order()
    answers = await asyncio.gather(*(world.charge(order, key="k1") for _ in range(50)))
    assert answers == [answers[0]] * 50
    assert (
        len(await world.at_sandbox())
        == len(await world.rows(LEDGER_TRANSACTION))
        == len(await world.rows(RECEIPT))
        == 1
    )


@pytest.mark.parametrize("opened", ["charge", "cashier"])
async def test_a_call_that_reads_the_order_after_another_with_its_key_paid_it_gets_the_same_answer(
    world: PaymentWorld, opened: str
) -> None:
    order = await world.order()
    open_it = {"charge": world.charge, "cashier": world.cashier}[opened]
    first: list[Payment] = []

    async def overtake() -> None:
        first.append(await open_it(order, key="k1"))
        if opened == "cashier":
            await world.press(first[0])
            await world.finish(rounds=1)

    world.orders.before_get = overtake
    again = await open_it(order, key="k1")
    assert again.payment_id == first[0].payment_id
    assert await world.order_state(order) is OrderState.PAID
    assert await world.captured_at_sandbox() == [
        row["attempt_id"] for row in await world.rows(ATTEMPT)
    ]


async def test_another_request_under_the_key_of_the_one_that_paid_meanwhile_hears_of_the_key(
    world: PaymentWorld,
) -> None:
    order = await world.order()

    async def overtake() -> None:
        await world.charge(order, key="k1")

    world.orders.before_get = overtake
    with pytest.raises(IdempotencyKeyReused):
        await world.charge(order, key="k1", number=MASTERCARD)


async def test_fifty_declined_charges_with_one_key_at_once_get_one_refusal(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    outcomes = await asyncio.gather(
        *(world.charge(order, key="k1", number=DECLINED) for _ in range(50)), return_exceptions=True
    )
    assert {(type(outcome), getattr(outcome, "payment_id", "")) for outcome in outcomes} == {
        (CardDeclined, (await world.rows(PAYMENT))[0]["payment_id"])
    }
    assert len(await world.at_sandbox()) == 1


async def test_charges_of_many_orders_at_once_do_not_get_in_each_others_way(
    world: PaymentWorld,
) -> None:
    orders = [await world.order() for _ in range(12)]
    with capture_logs() as logs:
        paid = await asyncio.gather(
            *(world.charge(order) for order in orders), return_exceptions=True
        )
    assert all(isinstance(outcome, Payment) for outcome in paid)
    assert await world.ledger_problems() == []
    assert len(await world.captured_at_sandbox()) == 12
    assert logs == []  # not even a retry


async def test_one_key_for_many_orders_at_once_pays_one_of_them(world: PaymentWorld) -> None:
    orders = [await world.order() for _ in range(8)]
    outcomes = await asyncio.gather(
        *(world.charge(order, key="k") for order in orders), return_exceptions=True
    )
    assert Counter(type(outcome).__name__ for outcome in outcomes) == {
        "Payment": 1,
        "IdempotencyKeyReused": 7,
    }
    assert len(await world.at_sandbox()) == 1


async def test_a_second_call_waits_a_moment_for_the_answer_of_the_first(
    world: PaymentWorld,
) -> None:
    order, entered, release = await world.order(), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await release.wait()

    world.channel.before_charge = hold
    first = asyncio.create_task(world.charge(order, key="k1"))
    await asyncio.wait_for(entered.wait(), 5)
    second = asyncio.create_task(world.charge(order, key="k1"))
    for _ in range(20):
        await asyncio.sleep(0)
    release.set()
    assert await first == await second
    assert len(await world.at_sandbox()) == 1


# Bad input: named, and nothing changed


async def test_what_is_no_amount_is_refused_by_the_name_of_the_field(world: PaymentWorld) -> None:
    order = await world.order()
    for amount in ("0", "-1", "1e3", "0.001", "NaN", "1" * 16, "99.990000000000001", "0.00"):
        with pytest.raises(InvalidArgument) as refused:
            await world.charge(order, amount=amount)
        assert list(refused.value.fields) == ["amount"], amount
    assert await untouched(world)


async def test_the_orders_price_is_the_only_one(world: PaymentWorld) -> None:
    order, yen = await world.order("99.99"), await world.order("100", currency="JPY")
    for wrong in ("100.00", "99.98", "9999"):
        with pytest.raises(AmountMismatch) as refused:
            await world.charge(order, amount=wrong)
        assert list(refused.value.fields) == ["amount"]
    with pytest.raises(InvalidArgument) as invalid:
        await world.charge(yen, amount="100.0")
    assert list(invalid.value.fields) == ["amount"]
    with pytest.raises(CurrencyMismatch) as mismatch:
        await world.charge(order, currency="USD")
    assert list(mismatch.value.fields) == ["currency"]
    with pytest.raises(InvalidArgument) as unknown:
        await world.charge(order, currency="XXX")
    assert list(unknown.value.fields) == ["currency"]
    assert await untouched(world)
    assert (await world.charge(yen, amount="100")).captured.format() == "100"


async def test_a_bad_card_and_an_unknown_method_are_refused_before_anything_is_asked(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    cards: list[tuple[dict[str, Any], str]] = [
        ({"number": "4242424242424241"}, "number"),
        ({"number": "abcd"}, "number"),
        ({"cvv": "12"}, "cvv"),
        ({"cvv": "abc"}, "cvv"),
        ({"expiration_year": 2026, "expiration_month": 10}, "expiration_year"),
        ({"expiration_month": 13}, "expiration_month"),
    ]
    for change, field in cards:
        with pytest.raises(CardInvalid) as refused:
            await world.charge(order, **change)
        assert list(refused.value.fields) == [f"credit_card.credit_card_{field}"]
    with pytest.raises(PaymentMethodNotSupported) as unknown:
        await world.charge(order, payment_method="cash")
    assert list(unknown.value.fields) == ["payment_method"]
    assert await untouched(world)
    assert world.orders.gets == 0


async def test_orders_of_others_are_not_found(world: PaymentWorld) -> None:
    order = await world.order(caller=buyer("u1"))
    for stranger, merchant_id in ((buyer("u2"), "mall"), (buyer("u1", "tea_house"), "tea_house")):
        with pytest.raises(OrderNotFound):
            await world.charge(order, caller=stranger, merchant_id=merchant_id)
    with pytest.raises(OrderNotFound):
        await world.charge(order, order_id="ORD0")
    assert await untouched(world)


async def test_orders_that_do_not_wait_for_money_are_refused(world: PaymentWorld) -> None:
    for state, refusal in (
        (OrderState.CANCELLED, OrderNotPayable),
        (OrderState.CANCELLING, OrderNotPayable),
        (OrderState.PAID, OrderAlreadyPaid),
        (OrderState.SHIPPED, OrderAlreadyPaid),
        (OrderState.REFUNDED, OrderAlreadyPaid),
    ):
        order = await world.order()
        await world.order_side.force_state(
            order, state, paid_by="PAY9" if refusal is OrderAlreadyPaid else ""
        )
        with pytest.raises(refusal):
            await world.charge(order)
    expired = await world.order()
    world.clock.advance(PAYMENT_WINDOW.total_seconds())
    with pytest.raises(OrderNotPayable) as refused:
        await world.charge(expired)
    assert refused.value.metadata == {"order_state": "EXPIRED"}
    assert await untouched(world)


async def test_a_charge_that_arrives_after_the_deadline_is_refused_by_the_channel(
    world: PaymentWorld,
) -> None:
    order = await world.order()

    async def dawdle() -> None:
        world.clock.advance(PAYMENT_WINDOW.total_seconds())

    world.channel.before_charge = dawdle
    with pytest.raises(MoneyError) as refused:
        await world.charge(order)
    assert refused.value.reason == "PAYMENT_CLOSED"
    assert [transaction["status"] for transaction in await world.at_sandbox()] == ["CLOSED"]
    assert [row["state"] for row in await world.rows(PAYMENT)] == ["CLOSED"]


# The order gate


async def test_a_closed_gate_refuses_before_the_channel_hears_anything(world: PaymentWorld) -> None:
    order = await world.order()
    await world.close_gate(order)
    for key in ("", "k1"):
        with pytest.raises(OrderNotPayable) as refused:
            await world.charge(order, key=key)
        assert refused.value.metadata == {"order_state": "CLOSED"}
    assert world.channel.charges == 0
    assert await untouched(world)
    with pytest.raises(OrderNotPayable):
        await world.cashier(order)


async def test_a_charge_that_races_a_closing_gate_is_seen_by_it_or_never_captures(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    for number in range(rounds(8, 200)):
        order = await world.order()

        async def late(order: Any = order, number: int = number) -> list[Payment]:
            for _ in range(number % 8 * 3):
                await asyncio.sleep(0)
            return await world.close_gate(order)

        *charged, seen = await asyncio.gather(
            world.charge(order), world.charge(order), late(), return_exceptions=True
        )
        assert isinstance(seen, list), seen
        paid = [outcome for outcome in charged if isinstance(outcome, Payment)]
        assert {payment.payment_id for payment in paid} <= {payment.payment_id for payment in seen}
        with pytest.raises((OrderNotPayable, OrderAlreadyPaid)):
            await world.charge(order)
    assert len(await world.captured_at_sandbox()) == sum(
        row["state"] == "SUCCESS" for row in await world.rows(PAYMENT)
    )


async def test_every_order_has_one_gate_however_many_charges_meet_at_it(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await asyncio.gather(*(world.charge(order) for _ in range(10)), return_exceptions=True)
    assert [(row["order_id"], row["state"]) for row in await world.rows(ORDER_GATE)] == [
        (order.order_id, "OPEN")
    ]


# Neighbours that are away


async def test_without_order_rpc_nothing_is_done(world: PaymentWorld) -> None:
    order = await world.order()
    world.orders.away = True
    with pytest.raises(UpstreamUnavailable):
        await world.charge(order, key="k1")
    assert await untouched(world)
    world.orders.away = False
    assert (await world.charge(order, key="k1")).state is S.SUCCESS


async def test_an_order_that_cannot_be_told_is_told_later_and_once(world: PaymentWorld) -> None:
    order = await world.order()

    async def order_rpc_dies() -> None:
        world.orders.away = True

    world.channel.before_charge = order_rpc_dies
    payment = await world.charge(order)
    assert payment.state is S.SUCCESS
    assert await world.order_state(order) is OrderState.PENDING_PAYMENT
    for _ in range(3):
        world.clock.advance(10)
        await world.app.order_relay.run_once()
    world.orders.away = False
    world.clock.advance(60)
    assert await world.app.order_relay.run_once() == 1
    assert await world.order_state(order) is OrderState.PAID
    assert (await world.payment(payment.payment_id)).disposition is Disposition.APPLIED
    assert len(world.orders.updates) == 1
    assert await world.app.order_relay.run_once() == 0


async def test_a_buyer_waits_half_a_second_for_the_order_and_no_longer(
    world: PaymentWorld,
) -> None:
    app = world.make_app(config=replace(CONFIG, order_wait_seconds=ORDER_WAIT_SECONDS))
    order, never = await world.order(), asyncio.Event()
    world.orders.before_update = never.wait  # type: ignore[assignment]  # its result is not looked at
    payment = await asyncio.wait_for(world.charge(order, app=app), 5)
    assert payment.state is S.SUCCESS
    world.orders.before_update = None
    world.clock.advance(6)
    assert await world.app.order_relay.run_once() == 1
    assert await world.order_state(order) is OrderState.PAID


async def test_while_the_request_tells_the_order_the_relay_leaves_the_message_alone(
    world: PaymentWorld,
) -> None:
    order, claimed = await world.order(), []

    async def relay_meanwhile() -> None:
        world.orders.before_update = None
        claimed.append(await world.app.order_relay.run_once())

    world.orders.before_update = relay_meanwhile
    await world.charge(order)
    assert (claimed, len(world.orders.updates)) == ([0], 1)


async def test_a_channel_gets_what_is_left_of_the_deadline_and_nothing_is_sent_without_time(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    with calling(caller=buyer(), timeout_seconds=0.5), pytest.raises(ChannelUnavailable) as refused:
        await world.charge(order)
    assert (refused.value.outcome, refused.value.safe_to_retry, await world.at_sandbox()) == (
        Outcome.NOT_ATTEMPTED,
        True,
        [],
    )
    with calling(caller=buyer(), timeout_seconds=2.5):
        await world.charge(order)
    opened = await world.cashier(await world.order())
    assert opened.next_action is not None
    nothing_left, what_is_left, no_deadline = world.channel.timeouts_seconds
    assert nothing_left < 0 < what_is_left <= 1.5
    assert no_deadline == 2.0


async def test_a_channel_that_cannot_be_reached_has_taken_nothing_and_may_be_asked_again(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    world.channel.unreachable = True
    with pytest.raises(ChannelUnavailable) as refused:
        await world.charge(order, key="k1")
    assert (refused.value.outcome, refused.value.safe_to_retry) == (Outcome.NOT_ATTEMPTED, True)
    assert [row["state"] for row in await world.rows(ATTEMPT)] == ["NOT_ATTEMPTED"]
    world.channel.unreachable = False
    with pytest.raises(ChannelUnavailable):
        await world.charge(order, key="k1")  # the first final answer
    assert (await world.charge(order, key="k2")).state is S.SUCCESS
    assert len(await world.at_sandbox()) == 1


async def test_a_sandbox_that_is_gone_is_such_a_channel(world: PaymentWorld) -> None:
    order = await world.order()
    gone = UnreliableChannel(
        base_url=f"http://127.0.0.1:{free_port()}", api_key=API_KEY, callback_secret=CALLBACK_SECRET
    )
    with pytest.raises(ChannelUnavailable):
        await world.charge(order, app=world.make_app(channels={"sandbox": gone}))
    assert [row["state"] for row in await world.rows(PAYMENT)] == ["FAILED"]
    await gone.aclose()


async def test_an_answer_that_is_lost_is_a_doubt_until_the_channel_is_asked(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    world.channel.lose_answers = True
    payment = await world.charge(order, key="k1")
    assert (payment.state, payment.outcome, payment.captured.minor) == (
        S.PAYING,
        Outcome.UNKNOWN,
        0,
    )
    assert await world.captured_at_sandbox() != []
    again = await world.charge(order, key="k1")
    assert (again.payment_id, again.state) == (payment.payment_id, S.PAYING)
    with pytest.raises(PaymentInProgress) as refused:
        await world.charge(order)
    assert refused.value.retry_after_seconds
    world.channel.lose_answers = False
    assert await world.app.polling.run_once() == 0  # not before five seconds have passed
    world.clock.advance(5)
    assert await world.app.polling.run_once() == 1
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS
    world.clock.advance(5)
    await world.app.order_relay.run_once()
    assert await world.order_state(order) is OrderState.PAID
    final = await world.charge(order, key="k1")
    assert (final.payment_id, final.state) == (payment.payment_id, S.SUCCESS)
    assert (len(await world.at_sandbox()), await world.ledger_problems()) == (1, [])


async def test_a_doubt_is_never_ended_by_the_clock(world: PaymentWorld) -> None:
    order = await world.order()
    world.channel.lose_answers = True
    payment = await world.charge(order)
    world.channel.unreachable = True
    for _ in range(20):
        world.clock.advance(86400)
        await world.app.expiry.run_once()
        await world.app.polling.run_once()
    assert (await world.payment(payment.payment_id)).state is S.CLOSING
    world.channel.unreachable = False
    world.clock.advance(86400)
    await world.app.polling.run_once()
    # it was captured all the time
    assert (await world.payment(payment.payment_id)).state is S.SUCCESS


async def test_the_payload_of_a_message_is_what_order_rpc_reads(world: PaymentWorld) -> None:
    order = await world.order()
    payment = await world.charge(order)
    [row] = [row for row in await world.rows(OUTBOX) if row["destination"] == "order_rpc"]
    assert json.loads(row["payload"]) == {
        "merchant_id": "mall",
        "order_id": order.order_id,
        "payment_id": payment.payment_id,
        "version": payment.version,
        "state": "SUCCESS",
        "captured": "100.00",
        "refunded": "0.00",
        "refund_reserved": "0.00",
        "currency": "CNY",
        "wants_paid": True,
        "captured_in_part": False,
        "held_amount": "",
        "held_until": "",
        "refunds": [],
    }
