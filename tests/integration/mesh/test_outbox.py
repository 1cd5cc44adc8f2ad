"""The outbox on real databases: every message is delivered until it is answered, by any number of
relays, and none stands in another's way.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mesh import failpoints, outbox
from mesh.db import ConstraintViolated, Database, Identifier, metadata_with_names, open_database
from mesh.errors import (
    DeadlineExceeded,
    MeshError,
    OutcomeUnknown,
    RemoteError,
    Unavailable,
    UpstreamUnavailable,
)
from mesh.failpoints import FailpointRaised
from mesh.outbox import OUTBOX, Message
from mesh.relay import BACKOFF_MAX, BATCH, CONCURRENCY, LEASE, Relay, Settlement, claim_statement
from tests.support.databases import create_tables
from tests.support.fakes import EPOCH, FakeClock
from tests.support.messages import message

metadata = metadata_with_names()
OUTBOX.to_metadata(metadata)
EFFECT = Table("effect", metadata, Column("event_id", Identifier(40), primary_key=True))
PATIENCE = 20


class Receiver:
    """A destination that does what the test says and remembers what it got."""

    def __init__(self, name: str = "order_rpc") -> None:
        self.name = name
        self.got: list[Message] = []
        self.do: Callable[[Message], Awaitable[None]] | None = None
        self.with_effect = False

    async def send(self, message: Message) -> Settlement | None:
        self.got.append(message)
        if self.do is not None:
            await self.do(message)

        async def settle(tx: AsyncConnection) -> None:
            await tx.execute(insert(EFFECT).values(event_id=message.event_id))

        return settle if self.with_effect else None

    def refuse(self, error: MeshError) -> None:
        async def do(_message: Message) -> None:
            raise error

        self.do = do


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = open_database(database_url, metadata)
    await create_tables(db.engine, metadata)
    yield db
    await db.close()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def relay(db: Database, receiver: Receiver, clock: FakeClock) -> Relay:
    return Relay(db=db, destination=receiver, clock=clock)


async def put(db: Database, *messages: Message) -> None:
    await db.run(outbox.put, *messages)


async def rows(db: Database) -> list[Any]:
    async def read(tx: AsyncConnection) -> list[Any]:
        return list((await tx.execute(select(OUTBOX).order_by(OUTBOX.c.id))).all())

    return await db.read(read)


async def undelivered(db: Database) -> set[str]:
    """Event ids of the messages that are not settled."""
    async with db.engine.connect() as connection:
        rows = await connection.execute(select(OUTBOX.c.event_id).where(OUTBOX.c.state != "DONE"))
        return {row.event_id for row in rows}


async def states(db: Database) -> list[str]:
    return [row.state for row in await rows(db)]


async def test_a_message_arrives_as_it_was_written_and_is_done(
    db: Database, relay: Relay, receiver: Receiver
) -> None:
    await put(db, message(1), message(2))
    assert await relay.run_once() == 2
    assert sorted(receiver.got, key=lambda got: got.event_id) == [message(1), message(2)]
    assert await states(db) == ["DONE", "DONE"]
    assert await relay.run_once() == 0


async def test_a_message_of_a_transaction_that_fails_was_never_there(
    db: Database, relay: Relay
) -> None:
    async def fail(tx: AsyncConnection) -> None:
        await outbox.put(tx, message())
        raise Unavailable

    with pytest.raises(Unavailable):
        await db.run(fail)
    assert await relay.run_once() == 0


async def test_nothing_is_sent_before_it_is_due(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    await put(db, message(1, due_at=EPOCH + timedelta(seconds=5)))
    assert await relay.run_once() == 0
    clock.advance(5)
    assert await relay.run_once() == 1


async def test_a_claimed_message_is_left_alone_until_its_lease_ends(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def hang(_message: Message) -> None:
        entered.set()
        await release.wait()

    receiver.do = hang
    await put(db, message())
    slow = asyncio.create_task(relay.run_once())
    await asyncio.wait_for(entered.wait(), PATIENCE)
    other = Relay(db=db, destination=Receiver(), clock=clock)
    clock.advance(LEASE.total_seconds() - 0.001)
    assert await other.run_once() == 0
    clock.advance(0.001)
    assert await other.run_once() == 1
    release.set()
    await slow
    assert await states(db) == ["DONE"]


async def test_relays_at_once_take_every_message_once(db: Database, clock: FakeClock) -> None:
    await put(db, *(message(number) for number in range(2 * BATCH + 50)))
    receiver = Receiver()
    relays = [Relay(db=db, destination=receiver, clock=clock) for _ in range(4)]
    claimed = 0
    while round_of := sum(
        await asyncio.wait_for(asyncio.gather(*(relay.run_once() for relay in relays)), PATIENCE)
    ):
        claimed += round_of
    assert claimed == 2 * BATCH + 50
    assert set(Counter(got.event_id for got in receiver.got).values()) == {1}
    assert set(await states(db)) == {"DONE"}


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_claim_passes_over_rows_that_another_one_holds(
    db: Database, database_url: str, relay: Relay
) -> None:
    # else a busy machine ends the transaction that holds the rows
    patient = open_database(database_url, metadata, unit_timeout_seconds=6 * PATIENCE)
    await put(db, *(message(number) for number in range(BATCH + 5)))
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(tx: AsyncConnection) -> int:
        claimed = (await tx.execute(claim_statement("order_rpc", EPOCH))).all()
        held.set()
        await release.wait()
        return len(claimed)

    holder = asyncio.create_task(patient.run(hold))
    try:
        await asyncio.wait_for(held.wait(), PATIENCE)
        assert await asyncio.wait_for(relay.run_once(), PATIENCE) == 5  # the rest, at once
        await asyncio.wait_for(put(db, message(900)), PATIENCE)  # and business goes on
    finally:
        release.set()
        assert await holder == BATCH
        await patient.close()


async def test_the_effect_of_an_answer_and_the_end_of_its_message_are_one(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    receiver.with_effect = True
    await put(db, message(1))
    # so the effect fails
    await db.run(lambda tx: tx.execute(insert(EFFECT).values(event_id="EVT001")))
    with capture_logs() as logs:
        assert await relay.run_once() == 1
    assert [entry["event"] for entry in logs] == ["outbox_delivery_failed", "outbox_postponed"]
    assert await states(db) == ["NEW"]


async def test_two_deliveries_of_one_message_settle_once(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    receiver.with_effect = True  # a second effect would violate its key
    await put(db, message())
    assert (
        await asyncio.wait_for(
            asyncio.gather(*(relay.deliver(message()) for _ in range(8))), PATIENCE
        )
        == [True] * 8
    )
    assert len(receiver.got) == 8
    assert await states(db) == ["DONE"]
    assert await relay.run_once() == 0


async def test_a_message_that_nobody_expected_to_fail_is_postponed_with_its_error_and_stands_in_nobodys_way(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    async def poison(got: Message) -> None:
        if got.event_id == "EVT003":
            raise ZeroDivisionError("secret")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    receiver.do = poison
    await put(db, *(message(number) for number in range(10)))
    with capture_logs() as logs:
        assert await relay.run_once() == 10
    assert (await states(db)).count("DONE") == 9
    [left] = [row for row in await rows(db) if row.state == "NEW"]
    assert (left.event_id, left.attempts, left.last_error, left.due_at) == (
        "EVT003",
        1,
        "ZeroDivisionError: see the log",
        clock.now() + timedelta(seconds=1),
    )
    assert [
        (entry["event_id"], entry["alert"])
        for entry in logs
        if entry["event"] == "outbox_delivery_failed"
    ] == [("EVT003", True)]
    clock.advance(1)
    receiver.do = None
    assert await relay.run_once() == 1
    assert set(await states(db)) == {"DONE"}


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("secret"),
        Unavailable("not now"),
        ConstraintViolated("uq_refund_request_id"),
    ],
)
async def test_a_settlement_that_fails_is_postponed_longer_each_time_and_says_why(
    db: Database, clock: FakeClock, error: Exception
) -> None:
    class Unsettled(Receiver):
        async def send(self, message: Message) -> Settlement | None:
            self.got.append(message)

            async def settle(tx: AsyncConnection) -> None:
                await tx.execute(insert(EFFECT).values(event_id=message.event_id))
                raise error

            return settle

    receiver = Unsettled()
    relay = Relay(db=db, destination=receiver, clock=clock)
    await put(db, message())
    pauses = []
    for _ in range(4):
        assert await relay.run_once() == 1
        assert await relay.run_once() == 0
        [row] = await rows(db)
        pauses.append((row.due_at - clock.now()).total_seconds())
        clock.set(row.due_at)
    assert pauses == [1, 2, 4, 8]
    assert (row.state, row.attempts) == ("NEW", 4)
    assert row.last_error in (
        "ZeroDivisionError: see the log",
        "not now",
        "ConstraintViolated: see the log",
    )

    async def effects(tx: AsyncConnection) -> list[Any]:
        return list((await tx.execute(select(EFFECT))).all())

    assert await db.read(effects) == []


async def test_a_slow_round_sends_nothing_whose_claim_is_over(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    """Each delivery takes as long as it may, and not longer; another relay works beside it all the
    time.
    """
    other_receiver = Receiver()
    other = Relay(db=db, destination=other_receiver, clock=clock)
    looking = asyncio.Lock()
    turn_over = asyncio.Event()
    waiting = 0

    async def slow(_got: Message) -> None:
        nonlocal turn_over, waiting
        waiting += 1
        over = turn_over
        while not over.is_set():
            # Time goes by when all that are under way are being sent, and none is being claimed
            # once more or settled: a delivery takes its own time, not that of three others.
            async with looking:
                under_way = min(CONCURRENCY, len(await undelivered(db)))
            if waiting >= under_way and not over.is_set():
                turn_over, waiting = asyncio.Event(), 0
                clock.advance(12)
                over.set()
                await other.run_once()

    receiver.do = slow
    await put(db, *(message(number) for number in range(5 * CONCURRENCY)))
    await relay.run_once()
    sent = Counter(got.event_id for got in (*receiver.got, *other_receiver.got))
    assert (len(sent), set(sent.values())) == (5 * CONCURRENCY, {1})
    assert set(await states(db)) == {"DONE"}


async def test_a_claim_that_somebody_else_has_taken_over_is_not_renewed(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    """The other one is sending it in this moment."""
    other, sent_by_other, release = Receiver(), asyncio.Event(), asyncio.Event()

    async def hang(_got: Message) -> None:
        sent_by_other.set()
        await release.wait()

    other.do = hang
    taking_over: list[asyncio.Task[int]] = []
    entered = itertools.count(1)

    async def slow(_got: Message) -> None:
        # all of this round wait until their claims are over and the other relay has taken what is
        # left
        if next(entered) == CONCURRENCY:
            clock.advance(LEASE.total_seconds())
            taking_over.append(
                asyncio.create_task(Relay(db=db, destination=other, clock=clock).run_once())
            )
        await asyncio.wait_for(sent_by_other.wait(), PATIENCE)

    receiver.do = slow
    await put(db, *(message(number) for number in range(CONCURRENCY + 4)))
    await relay.run_once()
    assert len(receiver.got) == CONCURRENCY, "the last four are the other one's"
    release.set()
    await taking_over[0]
    assert set(await states(db)) == {"DONE"}


class FailingDatabase:
    """A database of which the transactions with these numbers, counted from 1, fail: with
    Unavailable nothing is done, else the answer is lost.
    """

    def __init__(self, db: Database, error: MeshError, *numbers: int) -> None:
        self._db = db
        self._error = error
        self._numbers = numbers
        self._count = 0

    async def run(self, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        self._count += 1
        if self._count not in self._numbers:
            return await self._db.run(work, *args)
        if not isinstance(self._error, Unavailable):
            await self._db.run(work, *args)
        raise self._error


@pytest.mark.parametrize("clock_steps", [0, 20], ids=["claimed", "claimed_once_more"])
async def test_a_message_whose_end_the_database_did_not_take_waits_for_a_pause_and_not_for_its_lease(
    db: Database, receiver: Receiver, clock: FakeClock, clock_steps: int
) -> None:
    # The first is claimed; the settlement and the pause of the second find no database. A slow
    # round claims it once more before.
    failing: Any = FailingDatabase(db, Unavailable(), *((4, 5) if clock_steps else (3, 4)))
    relay = Relay(db=failing, destination=receiver, clock=clock)

    async def slow(got: Message) -> None:
        clock.advance(clock_steps)

    receiver.do = slow
    await put(db, message(1), message(2))
    await relay.run_once()
    assert sorted(await states(db)) == ["DONE", "NEW"]
    receiver.do = None
    assert await relay.run_once() == 0
    clock.advance(1)
    assert await relay.run_once() == 1
    assert await states(db) == ["DONE", "DONE"]


async def test_a_claim_whose_commit_got_no_answer_waits_for_a_pause_and_not_for_its_lease(
    db: Database, receiver: Receiver, clock: FakeClock
) -> None:
    failing: Any = FailingDatabase(db, OutcomeUnknown(), 1)
    relay = Relay(db=failing, destination=receiver, clock=clock)
    await put(db, message())
    with pytest.raises(OutcomeUnknown):
        await relay.run_once()
    assert await relay.run_once() == 0
    clock.advance(1)
    assert await relay.run_once() == 1
    assert await states(db) == ["DONE"]


async def test_a_message_that_another_relay_has_taken_over_is_not_released(
    db: Database, receiver: Receiver, clock: FakeClock
) -> None:
    failing: Any = FailingDatabase(db, Unavailable(), 2, 3)
    left = Relay(db=failing, destination=receiver, clock=clock)
    await put(db, message())
    await left.run_once()
    clock.advance(LEASE.total_seconds())
    entered, release = asyncio.Event(), asyncio.Event()

    async def hang(_got: Message) -> None:
        entered.set()
        await release.wait()

    receiver.do = hang
    other = asyncio.create_task(Relay(db=db, destination=receiver, clock=clock).run_once())
    await asyncio.wait_for(entered.wait(), PATIENCE)
    receiver.do = None
    assert await left.run_once() == 0
    clock.advance(1)
    assert await left.run_once() == 0
    release.set()
    assert await other == 1


def remote(code: int) -> RemoteError:
    return RemoteError("no", remote_reason="SOME_REASON", domain="paymesh.order.v1", grpc_code=code)


async def test_a_definite_refusal_is_dead_and_an_alert(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    definite = (3, 5, 6, 9, 11)

    async def refuse(got: Message) -> None:
        raise remote(got.payload["n"])

    receiver.do = refuse
    await put(db, *(message(code) for code in definite))
    with capture_logs() as logs:
        assert await relay.run_once() == len(definite)
    assert [(row.state, row.last_error) for row in await rows(db)] == [
        ("DEAD", "SOME_REASON: no")
    ] * len(definite)
    assert sorted((entry["event"], entry["alert"], entry["event_id"]) for entry in logs) == [
        ("outbox_dead", True, f"EVT{code:03}") for code in definite
    ]
    clock.advance(10 * BACKOFF_MAX.total_seconds())
    assert await relay.run_once() == 0


async def test_an_absent_or_confused_receiver_never_kills_a_message(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    errors: list[MeshError] = [
        *(remote(code) for code in (1, 2, 4, 7, 8, 10, 12, 13, 14, 15, 16)),
        UpstreamUnavailable("away"),
        DeadlineExceeded(),
        Unavailable(),
    ]

    async def fail(got: Message) -> None:
        raise errors[got.payload["n"]]

    receiver.do = fail
    await put(db, *(message(number) for number in range(len(errors))))
    for _ in range(3):
        assert await relay.run_once() == len(errors)
        clock.advance(BACKOFF_MAX.total_seconds())
    assert {(row.state, row.attempts) for row in await rows(db)} == {("NEW", 3)}
    receiver.do = None
    assert await relay.run_once() == len(errors)
    assert set(await states(db)) == {"DONE"}


async def test_pauses_grow_and_stay_below_five_minutes(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    receiver.refuse(UpstreamUnavailable("away"))
    await put(db, message())
    pauses = []
    for _ in range(11):
        await relay.run_once()
        [row] = await rows(db)
        pauses.append((row.due_at - clock.now()).total_seconds())
        clock.set(row.due_at)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_the_request_path_delivers_at_once_and_leaves_the_rest_to_the_relay(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    first, second = (
        message(1, due_at=EPOCH + timedelta(seconds=5)),
        message(2, due_at=EPOCH + timedelta(seconds=5)),
    )
    await put(db, first, second)
    assert await relay.deliver(first) is True
    receiver.refuse(UpstreamUnavailable("away"))
    assert await relay.deliver(second) is False
    assert await states(db) == ["DONE", "NEW"]
    receiver.do = None
    clock.advance(1)
    assert await relay.run_once() == 1
    assert set(await states(db)) == {"DONE"}


async def test_a_dead_destination_blocks_no_other(db: Database, clock: FakeClock) -> None:
    dead, alive = Receiver("order_rpc"), Receiver("seckill_rpc")
    hang = asyncio.Event()

    async def wait(_message: Message) -> None:
        await hang.wait()

    dead.do = wait
    await put(
        db,
        *(message(number) for number in range(BATCH + 1)),
        message(900, destination="seckill_rpc"),
    )
    stuck = asyncio.create_task(Relay(db=db, destination=dead, clock=clock).run_once())
    assert (
        await asyncio.wait_for(Relay(db=db, destination=alive, clock=clock).run_once(), PATIENCE)
        == 1
    )
    assert [got.event_id for got in alive.got] == ["EVT900"]
    hang.set()
    await asyncio.wait_for(stuck, PATIENCE)


async def test_a_few_deliveries_are_under_way_at_once_and_not_all(
    db: Database, relay: Relay, receiver: Receiver
) -> None:
    running, most = [0], [0]

    async def note(_message: Message) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        for _ in range(5):
            await asyncio.sleep(0)
        running[0] -= 1

    receiver.do = note
    await put(db, *(message(number) for number in range(40)))
    await relay.run_once()
    assert 1 < most[0] <= CONCURRENCY


async def test_what_is_due_longest_goes_first_and_a_round_is_limited(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    await put(
        db,
        *(
            message(number, due_at=EPOCH - timedelta(seconds=number))
            for number in range(BATCH + 20)
        ),
    )
    assert await relay.run_once() == BATCH
    assert {got.event_id for got in receiver.got} == {
        f"EVT{number:03}" for number in range(20, BATCH + 20)
    }


@pytest.mark.parametrize("point", ["after_claim", "after_send"])
async def test_a_crash_before_the_answer_is_settled_delivers_again(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock, point: str
) -> None:
    await put(db, message())
    failpoints.arm(f"outbox.relay.{point}=raise", environment="test")
    with capture_logs():
        await asyncio.gather(relay.run_once(), return_exceptions=True)
    assert await states(db) == ["NEW"]
    assert await relay.run_once() == 0
    clock.advance(LEASE.total_seconds())
    assert await relay.run_once() == 1
    assert await states(db) == ["DONE"]
    assert len(receiver.got) == (2 if point == "after_send" else 1)


async def test_a_crash_after_the_answer_is_settled_delivers_nothing_again(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    await put(db, message())
    failpoints.arm("outbox.relay.after_settle=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await relay.deliver(message())
    clock.advance(LEASE.total_seconds())
    assert await relay.run_once() == 0
    assert len(receiver.got) == 1


async def test_an_event_has_one_row(db: Database) -> None:
    await put(db, message())
    with pytest.raises(ConstraintViolated) as violated:
        await put(db, message())
    assert violated.value.name == "uq_outbox_event_id"


@pytest.mark.parametrize("ahead_seconds", [331, 3600, 86_400])
async def test_a_message_that_a_clock_put_off_which_was_ahead_does_not_wait_for_its_whole_error(
    db: Database, receiver: Receiver, clock: FakeClock, ahead_seconds: int
) -> None:
    fast = FakeClock(EPOCH + timedelta(seconds=ahead_seconds))
    receiver.refuse(Unavailable())
    await put(db, message(due_at=fast.now(), created_at=fast.now()))
    await Relay(db=db, destination=receiver, clock=fast).run_once()
    [row] = await rows(db)
    assert row.due_at > fast.now()
    receiver.do = None
    relay = Relay(db=db, destination=receiver, clock=clock)
    assert await relay.run_once() == 1
    assert await states(db) == ["DONE"]


async def test_a_message_that_waits_as_long_as_any_may_is_left_alone_and_the_look_ahead_is_a_minute_apart(
    db: Database, relay: Relay, clock: FakeClock
) -> None:
    await put(db, message(1, due_at=EPOCH + BACKOFF_MAX + LEASE))
    assert await relay.run_once() == 0
    await put(db, message(2, due_at=EPOCH + timedelta(hours=1)))
    clock.advance(59)
    assert await relay.run_once() == 0
    clock.advance(1)
    assert await relay.run_once() == 1
    assert await states(db) == ["NEW", "DONE"]


async def test_a_clock_that_is_set_back_does_not_stop_the_look_ahead(
    db: Database, relay: Relay, clock: FakeClock
) -> None:
    clock.advance(7200)
    assert await relay.run_once() == 0
    clock.advance(-7200)
    await put(db, message(due_at=EPOCH + timedelta(hours=2)))
    assert await relay.run_once() == 1


async def test_a_late_refusal_of_a_delivered_message_changes_nothing(
    db: Database, relay: Relay, receiver: Receiver
) -> None:
    """A relay that lost its claim hears no after another one heard yes."""
    await put(db, message())
    assert await relay.run_once() == 1
    receiver.refuse(remote(9))
    assert await relay.deliver(message()) is False
    assert await states(db) == ["DONE"]


async def test_a_replay_begins_anew(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    receiver.refuse(UpstreamUnavailable("away"))
    await put(db, message())
    for _ in range(5):
        await relay.run_once()
        clock.advance(BACKOFF_MAX.total_seconds())
    receiver.refuse(remote(9))
    await relay.run_once()
    assert await states(db) == ["DEAD"]
    assert await db.run(outbox.replay, event_id="EVT001", now=clock.now())
    assert [(row.state, row.attempts) for row in await rows(db)] == [("NEW", 0)]
    receiver.refuse(UpstreamUnavailable("away"))
    await relay.run_once()
    assert [row.due_at - clock.now() for row in await rows(db)] == [timedelta(seconds=1)]


async def test_delivered_messages_are_purged_by_age_and_nothing_else_is(
    db: Database, relay: Relay, receiver: Receiver, clock: FakeClock
) -> None:
    async def some(got: Message) -> None:
        if got.payload["n"] % 3 == 1:
            raise remote(9)
        if got.payload["n"] % 3 == 2:
            raise UpstreamUnavailable("away")

    receiver.do = some
    await put(db, *(message(number) for number in range(9)))
    await relay.run_once()
    clock.advance(3600)
    await put(db, message(12, created_at=clock.now()))
    await relay.run_once()
    assert await db.run(outbox.purge, before=EPOCH) == 0
    assert await db.run(outbox.purge, before=EPOCH + timedelta(minutes=1)) == 3
    assert sorted((row.event_id, row.state) for row in await rows(db)) == [
        ("EVT001", "DEAD"),
        ("EVT002", "NEW"),
        ("EVT004", "DEAD"),
        ("EVT005", "NEW"),
        ("EVT007", "DEAD"),
        ("EVT008", "NEW"),
        ("EVT012", "DONE"),
    ]
    # the command line says that it may be purged
    assert not await db.run(outbox.replay, event_id="EVT000", now=clock.now())


async def test_a_payload_may_be_long(db: Database, relay: Relay, receiver: Receiver) -> None:
    long = "x" * 200_000
    await put(db, message(payload={"n": 1, "long": long}))
    await relay.run_once()
    assert receiver.got[0].payload["long"] == long


async def test_a_late_failure_of_a_delivered_message_changes_nothing(
    db: Database, relay: Relay, receiver: Receiver
) -> None:
    await put(db, message())
    assert await relay.run_once() == 1
    before = await rows(db)
    receiver.refuse(UpstreamUnavailable("away"))
    assert await relay.deliver(message()) is False
    assert await rows(db) == before
