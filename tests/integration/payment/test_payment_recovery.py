"""What a crash, a lost answer or a slow process leaves of a card charge, and who finishes it:
captures and false failures are counted in every interleaving (docs/protocols.md 1, the table of
Charge)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from mesh.db import ConstraintViolated
from mesh.errors import Conflict, MoneyError, Outcome, OutcomeUnknown, Unavailable
from mesh.idempotency import RECEIPT
from mesh.outbox import OUTBOX
from order_rpc.domain.order import OrderState
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.errors import CardDeclined, PaymentInProgress, PaymentNotFound
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store import attempts, payments
from payment_rpc.tables import ATTEMPT, LEDGER_TRANSACTION, PAYMENT
from tests.builders.payment import CONFIG, DECLINED, LEASE_SECONDS, PaymentWorld
from tests.builders.payment_steps import crashed

S, A = PaymentState, AttemptState
Factory = Callable[[], str]
Rounds = Callable[[int, int], int]


async def only_payment(world: PaymentWorld) -> Payment:
    [row] = await world.rows(PAYMENT)
    return await world.payment(row["payment_id"])


async def only_attempt(world: PaymentWorld) -> dict[str, Any]:
    [row] = await world.rows(ATTEMPT)
    return row


async def nothing_is_wrong(world: PaymentWorld) -> None:
    """What was captured there is captured here and booked once; nothing waits for anybody."""
    captured_here = [
        row["attempt_id"] for row in await world.rows(ATTEMPT) if row["state"] == "CAPTURED"
    ]
    assert sorted(await world.captured_at_sandbox()) == sorted(captured_here)
    assert await world.ledger_problems() == []
    assert {
        row["state"] for row in await world.rows(OUTBOX) if row["destination"] == "order_rpc"
    } <= {"DONE"}
    assert {row["state"] for row in await world.rows(PAYMENT)} <= {"SUCCESS", "FAILED", "CLOSED"}


# After tx1: sent, or never sent?


async def test_nobody_fails_an_attempt_that_may_still_be_on_its_way(world: PaymentWorld) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    world.clock.advance(LEASE_SECONDS - 0.001)
    assert await world.app.polling.run_once() == 0
    attempt = await world.db.read(attempts.get_attempt, (await only_attempt(world))["attempt_id"])
    # not even when somebody asks: the channel's "not found" means nothing yet
    await world.app.polling.query(attempt)
    assert (world.channel.closes, (await only_payment(world)).state) == (0, S.PAYING)
    with pytest.raises(PaymentInProgress):
        await world.charge(order)


async def test_after_the_lease_the_worker_closes_what_never_arrived_and_says_why(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    world.clock.advance(LEASE_SECONDS)
    assert await world.app.polling.run_once() == 1
    payment = await only_payment(world)
    assert payment.failure is not None
    assert (payment.state, payment.failure.reason, payment.outcome, payment.holds_slot) == (
        S.FAILED,
        "LOST_BEFORE_CHANNEL",
        Outcome.NOT_ATTEMPTED,
        False,
    )
    assert [(row["status"], row["kind"]) for row in await world.at_sandbox()] == [
        ("CLOSED", "TOMBSTONE")
    ]
    with pytest.raises(MoneyError) as refused:
        await world.charge(order, key="k1")
    assert (refused.value.payment_id, refused.value.outcome, refused.value.safe_to_retry) == (
        payment.payment_id,
        Outcome.NOT_ATTEMPTED,
        True,
    )
    assert (await world.charge(order, key="k2")).state is S.SUCCESS
    await nothing_is_wrong(world)


async def test_after_the_lease_the_same_key_sends_once_more_under_the_same_id(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    lost = await only_attempt(world)
    world.clock.advance(LEASE_SECONDS)
    paid = await world.charge(order, key="k1")
    attempt = await only_attempt(world)
    assert (paid.state, attempt["attempt_id"], attempt["sends"], attempt["state"]) == (
        S.SUCCESS,
        lost["attempt_id"],
        2,
        "CAPTURED",
    )
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    await nothing_is_wrong(world)


async def test_before_the_lease_ends_the_same_key_hears_that_the_payment_is_under_way(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    app = world.make_app(config=replace(CONFIG, answer_pauses_seconds=(0.0, 0.0)))
    answer = await world.charge(order, key="k1", app=app)
    assert (answer.state, answer.outcome, world.channel.charges, world.channel.queries) == (
        S.PAYING,
        Outcome.UNKNOWN,
        0,
        0,
    )


@pytest.mark.parametrize("order_of_arrival", ["worker first", "retry first", "both at once"])
async def test_worker_and_retry_together_charge_once_at_most(
    world: PaymentWorld, rounds: Rounds, order_of_arrival: str
) -> None:
    for number in range(rounds(3, 60)):
        order = await world.order()
        await crashed(world, "payment.charge.after_tx1", order, key=f"k{number}")
        world.clock.advance(LEASE_SECONDS)
        retry, worker = world.charge(order, key=f"k{number}"), world.app.polling.run_once()
        outcomes: Sequence[object]
        calls = {"worker first": [worker, retry], "retry first": [retry, worker]}.get(
            order_of_arrival
        )
        if calls is None:
            outcomes = await asyncio.gather(retry, worker, return_exceptions=True)
        else:
            outcomes = [(await asyncio.gather(call, return_exceptions=True))[0] for call in calls]
        answer = next(outcome for outcome in outcomes if not isinstance(outcome, int))
        await world.finish(rounds=2)
        captured = [row for row in await world.at_sandbox() if row["status"] == "CAPTURED"]
        assert isinstance(answer, Payment | MoneyError), answer
        end = await world.payment(answer.payment_id)
        if isinstance(answer, MoneyError):
            assert (answer.outcome, answer.safe_to_retry, end.state) == (
                Outcome.NOT_ATTEMPTED,
                True,
                S.FAILED,
            )
        else:
            # the present state: the worker was in the middle of it
            assert answer.state in (end.state, S.PAYING)
        if end.state is S.FAILED:
            assert (await world.charge(order)).state is S.SUCCESS
        assert await world.order_state(order) is OrderState.PAID
        assert len({row["attempt_id"] for row in captured}) == len(captured)
    await nothing_is_wrong(world)
    assert len(await world.captured_at_sandbox()) == rounds(3, 60)  # each order was paid once


async def test_many_retries_at_once_send_once(world: PaymentWorld) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    world.clock.advance(LEASE_SECONDS)
    answers = await asyncio.gather(*(world.charge(order, key="k1") for _ in range(20)))
    assert {answer.payment_id for answer in answers} == {(await only_payment(world)).payment_id}
    assert S.SUCCESS in {answer.state for answer in answers} <= {S.SUCCESS, S.PAYING}
    assert (world.channel.charges, (await only_attempt(world))["sends"]) == (1, 2)
    await nothing_is_wrong(world)


async def test_a_question_asked_before_a_retry_took_the_attempt_closes_nothing_after_it(
    world: PaymentWorld,
) -> None:
    """The worker claimed the attempt, hung for a while, and hears "not found" when the retry is
    just about to send.
    """
    order, entered, release = await world.order(), asyncio.Event(), asyncio.Event()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    world.clock.advance(LEASE_SECONDS)

    async def hold() -> None:
        entered.set()
        await release.wait()

    async def retry_begins() -> None:
        world.channel.before_charge = hold
        tasks.append(asyncio.create_task(world.charge(order, key="k1")))
        await asyncio.wait_for(entered.wait(), 5)

    tasks: list[asyncio.Task[Payment]] = []
    world.channel.after_query = retry_begins
    await world.app.polling.run_once()
    assert world.channel.closes == 0
    release.set()
    assert (await tasks[0]).state is S.SUCCESS  # not a false failure
    await nothing_is_wrong(world)


async def test_a_slow_process_that_sends_after_the_worker_gave_up_takes_nothing(
    world: PaymentWorld,
) -> None:
    order = await world.order()

    async def worker_gives_up() -> None:
        world.clock.advance(LEASE_SECONDS)
        await world.app.polling.run_once()

    world.channel.before_charge = worker_gives_up
    with pytest.raises(MoneyError) as refused:
        await world.charge(order)
    world.channel.before_charge = None
    assert (refused.value.outcome, refused.value.safe_to_retry) == (Outcome.NOT_ATTEMPTED, True)
    assert await world.captured_at_sandbox() == []  # the tombstone refused it
    assert (await world.charge(order)).state is S.SUCCESS
    await nothing_is_wrong(world)


async def test_not_sent_proves_nothing_once_the_attempt_was_sent_again(world: PaymentWorld) -> None:
    """The first process slept through its lease; a retry sent the same attempt and its answer was
    lost; now the first one cannot connect.
    """
    order = await world.order()

    async def retry_meanwhile() -> None:
        world.channel.before_charge = None
        world.clock.advance(LEASE_SECONDS)
        world.channel.lose_answers = True
        assert (await world.charge(order, key="k1")).outcome is Outcome.UNKNOWN
        world.channel.lose_answers, world.channel.unreachable = False, True

    world.channel.before_charge = retry_meanwhile
    answer = await world.charge(order, key="k1")
    assert (answer.state, answer.outcome) == (S.PAYING, Outcome.UNKNOWN)
    assert len(await world.captured_at_sandbox()) == 1
    world.channel.unreachable = False
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    await nothing_is_wrong(world)


async def test_an_attempt_that_has_a_result_is_not_sent_again(world: PaymentWorld) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    payment, attempt = (
        await only_payment(world),
        await world.db.read(attempts.get_attempt, (await only_attempt(world))["attempt_id"]),
    )
    assert await world.app.payments._start.renew(payment, attempt) is None  # its lease runs
    world.clock.advance(LEASE_SECONDS)
    await world.close_gate(order)
    assert await world.app.payments._start.renew(payment, attempt) is None  # the order is closed
    await world.app.cancellation.close_one(payment.payment_id)
    assert await world.app.payments._start.renew(payment, attempt) is None  # the payment is
    assert world.channel.charges == 0


async def test_an_attempt_of_a_payment_that_is_being_closed_is_not_sent_again(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    world.clock.advance(LEASE_SECONDS)
    world.channel.unreachable = True
    closing = await world.app.cancellation.close_one((await only_payment(world)).payment_id)
    assert closing.state is S.CLOSING
    fresh = await world.db.read(attempts.get_attempt, (await only_attempt(world))["attempt_id"])
    assert await world.app.payments._start.renew(closing, fresh) is None
    world.channel.unreachable = False
    answer = await world.charge(order, key="k1")
    assert (answer.state, world.channel.charges) == (S.CLOSING, 0)


async def test_a_retry_of_a_closed_order_sends_nothing(world: PaymentWorld) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_tx1", order, key="k1")
    world.clock.advance(LEASE_SECONDS)
    await world.close_gate(order)
    answer = await world.charge(order, key="k1")
    assert (answer.state, world.channel.charges) == (S.PAYING, 0)


# After the channel call


@pytest.mark.parametrize("who", ["worker", "same key", "callback"])
async def test_a_crash_after_the_channel_call_is_finished_by_whoever_asks_first(
    world: PaymentWorld, who: str
) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_channel", order, key="k1")
    assert (await only_payment(world)).state is S.PAYING
    match who:
        case "worker":
            world.clock.advance(LEASE_SECONDS)
            await world.app.polling.run_once()
        case "same key":
            world.clock.advance(LEASE_SECONDS)
            assert (await world.charge(order, key="k1")).state is S.SUCCESS
        case _:
            assert await world.callbacks() == 1
    payment = await only_payment(world)
    assert payment.state is S.SUCCESS
    assert (await world.charge(order, key="k1")).payment_id == payment.payment_id
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    assert world.channel.charges == 1
    await nothing_is_wrong(world)


async def test_a_decline_that_nobody_heard_is_found_out_and_kept(world: PaymentWorld) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_channel", order, key="k1", number=DECLINED)
    world.clock.advance(LEASE_SECONDS)
    with pytest.raises(CardDeclined):
        await world.charge(order, key="k1", number=DECLINED)
    assert len(await world.at_sandbox()) == 1
    assert (await world.charge(order)).state is S.SUCCESS
    await nothing_is_wrong(world)


@pytest.mark.parametrize("point", ["payment.fact.before_commit", "payment.fact.after_commit"])
async def test_a_crash_around_the_commit_of_the_fact_applies_it_once(
    world: PaymentWorld, point: str
) -> None:
    order = await world.order()
    await crashed(world, point, order, key="k1")
    is_committed = point.endswith("after_commit")
    payment = await only_payment(world)
    assert payment.state is (S.SUCCESS if is_committed else S.PAYING)
    rows = [await world.rows(table) for table in (LEDGER_TRANSACTION, OUTBOX)]
    assert [bool(found) for found in rows] == [is_committed, is_committed]  # together or not at all
    assert [row["state"] for row in await world.rows(RECEIPT)] == [
        "DONE" if is_committed else "RUNNING"
    ]
    await world.finish()
    assert (await only_payment(world)).state is S.SUCCESS
    assert await world.order_state(order) is OrderState.PAID
    assert (await world.charge(order, key="k1")).payment_id == payment.payment_id
    assert len(world.orders.updates) == 1
    await nothing_is_wrong(world)


async def test_a_crash_before_tx1_leaves_nothing(world: PaymentWorld) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.before_tx1", order, key="k1")
    assert await world.rows(PAYMENT) == await world.rows(RECEIPT) == await world.at_sandbox() == []
    assert (await world.charge(order, key="k1")).state is S.SUCCESS


@pytest.mark.parametrize(
    "error",
    [Unavailable("the database is away"), OutcomeUnknown(), Conflict()],
    ids=lambda error: error.reason,
)
async def test_a_fact_that_cannot_be_written_is_a_doubt_and_never_nothing_was_done(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    order, real = await world.order(), world.db.run

    async def database_goes_away() -> None:
        async def away(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(world.db, "run", away)

    world.channel.after_charge = database_goes_away
    with capture_logs() as logs:
        answer = await world.charge(order, key="k1")
    monkeypatch.setattr(world.db, "run", real)
    assert [entry["event"] for entry in logs] == ["fact_written_later"]
    assert (answer.state, answer.outcome, answer.payment_id) == (
        S.PAYING,
        Outcome.UNKNOWN,
        (await only_payment(world)).payment_id,
    )
    world.channel.after_charge = None
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    await nothing_is_wrong(world)


# Guards that stand behind each other, each alone


async def test_a_payment_that_changed_since_it_was_read_is_not_overwritten(
    world: PaymentWorld,
) -> None:
    paid = await world.charge(await world.order())
    runs = []

    async def save(tx: Any) -> None:
        runs.append(1)
        await payments.save_payment(tx, paid, read_version=paid.version)

    with pytest.raises(Conflict):
        await world.db.run(save)
    assert len(runs) > 1


async def test_an_attempt_that_changed_since_it_was_read_is_not_overwritten(
    world: PaymentWorld,
) -> None:
    await world.charge(await world.order())
    attempt = await world.db.read(attempts.get_attempt, (await only_attempt(world))["attempt_id"])

    async def save(tx: Any) -> None:
        await attempts.save_attempt(tx, attempt, read_version=attempt.version - 1)

    with pytest.raises(Conflict):
        await world.db.run(save)


async def test_the_database_refuses_what_cannot_be(world: PaymentWorld) -> None:
    order = await world.order()
    paid = await world.charge(order)
    refusals: list[tuple[Any, dict[str, Any], str]] = [
        (PAYMENT, {"captured_minor": 20000}, "ck_payment_captured"),
        (PAYMENT, {"refunded_minor": 10001}, "ck_payment_refund_cap"),
        (PAYMENT, {"refund_reserved_minor": -1}, "ck_payment_not_negative"),
        (PAYMENT, {"state": "PAID"}, "ck_payment_state"),
        (PAYMENT, {"live_slot": 2}, "ck_payment_slot"),
        (PAYMENT, {"state": "FAILED"}, "ck_payment_slot"),
        (PAYMENT, {"amount_minor": 0}, "ck_payment_"),
        (ATTEMPT, {"state": "SENT"}, "ck_attempt_"),
        (ATTEMPT, {"captured_minor": None}, "ck_attempt_captured"),
        (ATTEMPT, {"next_query_at": world.clock.now()}, "ck_attempt_asked"),
        (OUTBOX, {"state": "GONE"}, "ck_outbox_state"),
    ]
    for table, values, name in refusals:
        with pytest.raises(ConstraintViolated) as violated:
            await world.execute(update(table).values(**values))
        assert violated.value.name.startswith(name), values
    with pytest.raises(ConstraintViolated) as violated:
        await world.db.run(payments.insert_payment, replace(paid, order_id="ORD9"))
    assert violated.value.name == "pk_payment"
    assert await world.ledger_problems() == []


async def test_a_second_live_payment_of_an_order_is_refused_by_the_database_alone(
    world: PaymentWorld,
) -> None:
    paid = await world.charge(await world.order())
    second = replace(paid, payment_id="PAY9")
    # the slot's key only says that somebody was quicker, so the transaction runs again until it
    # gives up
    with pytest.raises(Conflict):
        await world.db.run(payments.insert_payment, second)
    await world.db.run(payments.insert_payment, replace(second, state=S.FAILED, holds_slot=False))


async def test_a_fact_is_booked_once_by_the_database_alone(world: PaymentWorld) -> None:
    paid = await world.charge(await world.order())
    [booked] = await world.rows(LEDGER_TRANSACTION)
    with pytest.raises(ConstraintViolated) as violated:
        await world.db.run(
            lambda tx: tx.execute(
                LEDGER_TRANSACTION.insert().values(
                    **{**booked, "id": None, "payment_id": paid.payment_id}
                )
            )
        )
    assert violated.value.name == "uq_ledger_transaction_business_key"


async def test_the_same_fact_from_twenty_sides_at_once_changes_one_thing(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    await crashed(world, "payment.charge.after_channel", order)
    attempt = await only_attempt(world)
    fact = await world.channel.query(attempt["attempt_id"], timeout_seconds=2)
    assert fact.status is ChannelStatus.CAPTURED
    applied = await asyncio.gather(*(world.app.channel_results.apply(fact) for _ in range(20)))
    assert sorted(one.changed for one in applied) == [False] * 19 + [True]
    assert sum(one.to_order is not None for one in applied) == 1
    await world.finish()
    assert len(world.orders.updates) == 1
    await nothing_is_wrong(world)


async def test_news_about_an_attempt_that_nobody_made_is_refused(world: PaymentWorld) -> None:
    with pytest.raises(PaymentNotFound):
        await world.app.channel_results.apply(
            ChannelFact(attempt_id="ATT0", status=ChannelStatus.UNKNOWN)
        )


async def test_two_workers_at_once_ask_for_every_attempt_once(world: PaymentWorld) -> None:
    for _ in range(6):
        await crashed(world, "payment.charge.after_channel", await world.order())
    world.clock.advance(LEASE_SECONDS)
    asked = await asyncio.gather(*(world.app.polling.run_once() for _ in range(3)))
    assert (sum(asked), world.channel.queries) == (6, 6)
    await world.finish()
    await nothing_is_wrong(world)


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_worker_passes_over_attempts_that_another_one_holds(world: PaymentWorld) -> None:
    for _ in range(3):
        await crashed(world, "payment.charge.after_channel", await world.order())
    world.clock.advance(LEASE_SECONDS)
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(tx: Any) -> int:
        found = (await tx.execute(attempts.POLLED.due_statement(world.clock.now(), 1))).all()
        held.set()
        await release.wait()
        return len(found)

    holder = asyncio.create_task(world.db.run(hold))
    await asyncio.wait_for(held.wait(), 5)
    # well before a lock wait would end
    assert await asyncio.wait_for(world.app.polling.run_once(), 2) == 2
    release.set()
    assert await holder == 1


async def test_an_attempt_whose_question_hangs_stands_in_nobodys_way(world: PaymentWorld) -> None:
    for _ in range(3):
        await crashed(world, "payment.charge.after_channel", await world.order())
    world.clock.advance(LEASE_SECONDS)
    hung, others_done, released = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        hung.set()
        await released.wait()

    world.channel.after_query = hang
    working = asyncio.create_task(world.app.polling.run_once())
    await asyncio.wait_for(hung.wait(), 5)
    async with asyncio.timeout(5):
        while not others_done.is_set():
            if sorted(row["state"] for row in await world.rows(PAYMENT)) == [
                "PAYING",
                "SUCCESS",
                "SUCCESS",
            ]:
                others_done.set()
    released.set()
    assert await working == 3
    await world.finish()
    await nothing_is_wrong(world)


async def test_an_attempt_that_cannot_be_asked_for_stands_in_nobodys_way(
    world: PaymentWorld,
) -> None:
    for _ in range(3):
        await crashed(world, "payment.charge.after_channel", await world.order())
    await world.execute(
        update(ATTEMPT)
        .where(ATTEMPT.c.attempt_id == (await world.rows(ATTEMPT))[0]["attempt_id"])
        .values(channel="gone")
    )
    world.clock.advance(LEASE_SECONDS)
    with capture_logs() as logs:
        assert await world.app.polling.run_once() == 3
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["asking_failed"]
    assert [row["state"] for row in await world.rows(PAYMENT)] == ["PAYING", "SUCCESS", "SUCCESS"]
