"""What must leave this service after a commit: rows written in the transaction of the change,
delivered by a relay until they are answered.

Delivery is at least once. A row is claimed by pushing its `due_at` into the future, sent with no
transaction open, and settled in a transaction that also writes whatever the answer means here. Only
a definite refusal makes a row DEAD (an alert); an absent or confused receiver never does. Rows are
claimed per destination, so that a dead receiver blocks nobody else.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from prometheus_client import Counter
from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.backoff import doubled
from mesh.clock import Clock, seconds_until
from mesh.db import BigInt, Database, Identifier, UtcMillis, metadata_with_names
from mesh.errors import MeshError, RemoteError
from mesh.failpoints import FailpointRaised, failpoint
from mesh.worker import each

LEASE = timedelta(seconds=30)  # more than twice any delivery's deadline
# what is left of a claim when its delivery begins: less, and it is claimed once more before
RENEW_BELOW = LEASE / 2
BACKOFF_FIRST = timedelta(seconds=1)
# a receiver that comes back after an hour is served within five minutes
BACKOFF_MAX = timedelta(minutes=5)
# between two looks for rows that a clock which was ahead put off too far
LOOK_AHEAD = timedelta(minutes=1)
# of messages that share their fate: a process that starts anew does not know that one got through
BACKOFF_SHARED_MAX = timedelta(seconds=30)
BATCH = 100
CONCURRENCY = 16  # deliveries under way at once per relay
PURGE_BATCH = 500

log = structlog.get_logger()
_DELIVERED = Counter(
    "paymesh_outbox_delivered_total", "Messages answered by their receiver.", ["destination"]
)
_FAILED = Counter(
    "paymesh_outbox_failed_total",
    "Deliveries that ended in an error of our own; the message is tried again.",
    ["destination"],
)
_DEAD = Counter(
    "paymesh_outbox_dead_total",
    "Messages that a receiver refused for good; each needs a person.",
    ["destination"],
)

OUTBOX = Table(
    "outbox",
    metadata_with_names(),
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("event_id", Identifier(40), nullable=False, unique=True),
    Column("destination", Identifier(64), nullable=False),
    Column("tag", Identifier(64), nullable=False),
    Column("aggregate_id", Identifier(40), nullable=False),
    Column("payload", Text().with_variant(MEDIUMTEXT, "mysql", "mariadb"), nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("state", String(8), nullable=False),
    Column("due_at", UtcMillis, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", String(200), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    CheckConstraint("state IN ('NEW', 'DONE', 'DEAD')", name="state"),
    # The claim reads it in order: without `id` at the end MySQL sorts, and a sort locks every row
    # that it reads.
    Index("ix_outbox_claim", "destination", "state", "due_at", "id"),
    Index("ix_outbox_aggregate_id", "aggregate_id"),
    Index("ix_outbox_state", "state", "id"),  # lists for operators and the purge
)

STATES = ("NEW", "DONE", "DEAD")
_INSERT = insert(OUTBOX)
_SETTLE = (
    update(OUTBOX)
    .where(OUTBOX.c.event_id == bindparam("event"), OUTBOX.c.state == "NEW")
    .values(state="DONE")
)
_RELEASE = (
    update(OUTBOX)
    .where(
        OUTBOX.c.event_id == bindparam("event"),
        OUTBOX.c.state == "NEW",
        OUTBOX.c.due_at == bindparam("until"),
    )
    .values(due_at=bindparam("due"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One row on its way. `payload` is JSON."""

    event_id: str
    destination: str
    tag: str
    aggregate_id: str
    payload: Mapping[str, Any]
    trace_id: str
    due_at: datetime
    created_at: datetime
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One row as an operator sees it, without its payload."""

    event_id: str
    destination: str
    tag: str
    aggregate_id: str
    state: str
    due_at: datetime
    attempts: int
    last_error: str


Settlement = Callable[[AsyncConnection], Awaitable[None]]
_Claims = dict[str, tuple[Message, datetime]]  # by event id: until when


class Destination(Protocol):
    """Where messages go."""

    @property
    def name(self) -> str:
        """Value of `destination` in the outbox."""
        ...

    async def send(self, message: Message) -> Settlement | None:
        """Delivers one message under a deadline of its own and says what the answer means here: a
        step for the transaction that settles the row.

        Raises:
            MeshError: not delivered. Only a RemoteError that is definite gives the message up.
        """
        ...


async def put(tx: AsyncConnection, *messages: Message) -> None:
    """Writes messages in the transaction of the change that they tell of."""
    await tx.execute(
        _INSERT,
        [
            {
                "event_id": message.event_id,
                "destination": message.destination,
                "tag": message.tag,
                "aggregate_id": message.aggregate_id,
                "payload": json.dumps(message.payload, separators=(",", ":"), ensure_ascii=False),
                "trace_id": message.trace_id,
                "state": "NEW",
                "due_at": message.due_at,
                "attempts": 0,
                "last_error": "",
                "created_at": message.created_at,
            }
            for message in messages
        ],
    )


async def list_messages(
    tx: AsyncConnection, *, states: Sequence[str], limit: int
) -> list[MessageRow]:
    """Messages in some states, oldest first."""
    row = OUTBOX.c
    found: list[Row[Any]] = []
    for state in states:  # each in the order of its index: several at once would be sorted whole
        found += (
            await tx.execute(select(OUTBOX).where(row.state == state).order_by(row.id).limit(limit))
        ).all()
    found.sort(key=lambda each: int(each.id))
    return [
        MessageRow(
            event_id=each.event_id,
            destination=each.destination,
            tag=each.tag,
            aggregate_id=each.aggregate_id,
            state=each.state,
            due_at=each.due_at,
            attempts=each.attempts,
            last_error=each.last_error,
        )
        for each in found[:limit]
    ]


async def replay(tx: AsyncConnection, *, event_id: str, now: datetime) -> bool:
    """Makes a message due now, whatever became of it before; False when there is none (any more).
    Receivers are idempotent by its id.
    """
    done = await tx.execute(
        update(OUTBOX)
        .where(OUTBOX.c.event_id == event_id)
        .values(state="NEW", due_at=now, attempts=0)
    )
    return done.rowcount == 1


async def purge(tx: AsyncConnection, *, before: datetime) -> int:
    """Deletes up to PURGE_BATCH delivered messages that were written before a moment; returns how
    many. What is not delivered stays.
    """
    # By id, as the index has them: a condition on the time would read every message that is not old
    # enough.
    oldest = (
        select(OUTBOX.c.id, OUTBOX.c.created_at)
        .where(OUTBOX.c.state == "DONE")
        .order_by(OUTBOX.c.id)
        .limit(PURGE_BATCH)
    )
    over = [row.id for row in (await tx.execute(oldest)).all() if row.created_at < before]
    if over:
        await tx.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(over), OUTBOX.c.state == "DONE"))
    return len(over)


class Relay:
    """Delivers the messages of one destination. Any number may run at once, in any number of
    processes.
    """

    def __init__(
        self, *, db: Database, destination: Destination, clock: Clock, shares_fate: bool = False
    ) -> None:
        """`shares_fate`: what keeps one message from being delivered keeps them all, as with a
        stream. While one fails, the rest is left in peace and one per round is tried; when it gets
        through, nobody waits for the end of his pause."""
        self._db = db
        self._destination = destination
        self._clock = clock
        self._shares_fate = shares_fate
        self._is_away = False
        self._looked_ahead_at = datetime.min.replace(tzinfo=UTC)
        # claims of earlier rounds that are over and whose end the database did not take
        self._left: _Claims = {}
        self._delivered = _DELIVERED.labels(destination.name)
        self._failed = _FAILED.labels(destination.name)
        self._dead = _DEAD.labels(destination.name)

    @property
    def name(self) -> str:
        """Name of the destination."""
        return self._destination.name

    async def run_once(self) -> int:
        """Claims and delivers what is due; returns how many messages were claimed."""
        if self._left:
            await self._db.run(self._release, self._left)
            self._left = {}
        claims: _Claims = {}
        try:
            messages, until = await self._db.run(self._claim, claims)
            if messages:
                failpoint("outbox.relay.after_claim")

            async def deliver(message: Message) -> None:
                if until - self._clock.now() >= RENEW_BELOW or await self._db.run(
                    self._renew, message, claims
                ):
                    await self.deliver(message)
                claims.pop(message.event_id, None)

            # Only the database can fail one here: it is tried again after a pause; the others of
            # this round go on.
            count = await each(
                messages,
                deliver,
                failed="outbox_delivery_failed",
                at_once=CONCURRENCY,
                about=lambda message: {
                    "destination": message.destination,
                    "tag": message.tag,
                    "event_id": message.event_id,
                },
            )
        finally:
            self._left |= claims
        return 0 if self._is_away else count

    async def due_in(self) -> float | None:
        """Seconds until the next message is due, None when none is left. One that is due later than
        anybody puts off is looked at now.
        """
        left = seconds_until(
            await self._db.read(_next_due, self._destination.name), self._clock.now()
        )
        return left if left is None or left <= (BACKOFF_MAX + LEASE).total_seconds() else 0.0

    async def deliver(self, message: Message) -> bool:
        """One step of the relay: sends a message and settles its row. True when it was answered.
        The request path takes this step too, right after its commit; the row is due only later, so
        that the two rarely meet, and when they do only one settles. Whatever goes wrong, also in
        the settlement, is written into the row, which is tried again after a pause."""
        try:
            settlement = await self._destination.send(message)
            failpoint("outbox.relay.after_send")
            await self._db.run(self._settle, message, settlement)
        except RemoteError as error:
            if error.is_definite:
                await self._db.run(self._mark_dead, message, error)
            else:
                await self._db.run(self._postpone, message, error.message, error.reason)
            return False
        except MeshError as error:
            await self._db.run(self._postpone, message, error.message, error.reason)
            return False
        except FailpointRaised:
            raise
        except Exception as error:
            self._failed.inc()
            log.exception(
                "outbox_delivery_failed",
                alert=True,
                destination=message.destination,
                tag=message.tag,
                event_id=message.event_id,
            )
            # The text of an unforeseen error may hold anything: only its kind is kept.
            await self._db.run(
                self._postpone,
                message,
                f"{type(error).__name__}: see the log",
                type(error).__name__,
            )
            return False
        failpoint("outbox.relay.after_settle")
        self._delivered.inc()
        if self._is_away:
            self._is_away = False
            await self._db.run(self._hasten)
        return True

    async def _claim(self, tx: AsyncConnection, claims: _Claims) -> tuple[list[Message], datetime]:
        now = self._clock.now()
        rows = (
            await tx.execute(
                claim_statement(self._destination.name, now, limit=1 if self._is_away else BATCH)
            )
        ).all()
        if not rows and not self._looked_ahead_at <= now < self._looked_ahead_at + LOOK_AHEAD:
            self._looked_ahead_at = now
            rows = (await tx.execute(ahead_statement(self._destination.name, now))).all()
        if rows:
            claimed = update(OUTBOX).where(OUTBOX.c.id.in_(bindparam("ids", expanding=True)))
            await tx.execute(
                claimed.values(due_at=now + LEASE, attempts=OUTBOX.c.attempts + 1),
                {"ids": [row.id for row in rows]},
            )
        messages = []
        for row in rows:
            try:
                messages.append(_message(row))
            # changed by hand, or by a fault of the disk: the others of this claim go on
            except ValueError:
                await tx.execute(
                    update(OUTBOX)
                    .where(OUTBOX.c.id == row.id)
                    .values(state="DEAD", last_error="its payload is no JSON")
                )
                self._dead.inc()
                log.error(
                    "outbox_dead",
                    alert=True,
                    destination=row.destination,
                    tag=row.tag,
                    aggregate_id=row.aggregate_id,
                    event_id=row.event_id,
                    reason="PAYLOAD_UNREADABLE",
                )
        # also when the answer to the commit is lost
        claims |= {message.event_id: (message, now + LEASE) for message in messages}
        return messages, now + LEASE

    async def _renew(self, tx: AsyncConnection, message: Message, claims: _Claims) -> bool:
        """Claims a message of a slow round once more; False when it is somebody else's by now."""
        _, until = claims[message.event_id]
        mine = (
            (OUTBOX.c.event_id == message.event_id)
            & (OUTBOX.c.state == "NEW")
            & (OUTBOX.c.due_at == until)
        )
        renewed = self._clock.now() + LEASE
        if (await tx.execute(update(OUTBOX).where(mine).values(due_at=renewed))).rowcount != 1:
            return False
        claims[message.event_id] = message, renewed
        return True

    async def _release(self, tx: AsyncConnection, claims: _Claims) -> None:
        """Postpones messages on which nobody works: whoever waits for one need not wait for the end
        of its lease as well.
        """
        now = self._clock.now()
        await tx.execute(
            _RELEASE,
            [
                {"event": event_id, "until": until, "due": now + self._pause(message)}
                for event_id, (message, until) in claims.items()
            ],
        )

    async def _settle(
        self, tx: AsyncConnection, message: Message, settlement: Settlement | None
    ) -> None:
        done = await tx.execute(_SETTLE, {"event": message.event_id})
        if done.rowcount == 1 and settlement is not None:
            await settlement(tx)

    async def _hasten(self, tx: AsyncConnection) -> None:
        """Makes what was postponed due now. A claim of another relay may be among it: that message
        goes out twice, which receivers stand.
        """
        now = self._clock.now()
        await tx.execute(
            update(OUTBOX)
            .where(
                OUTBOX.c.destination == self._destination.name,
                OUTBOX.c.state == "NEW",
                OUTBOX.c.last_error != "",
                OUTBOX.c.due_at > now,
            )
            .values(due_at=now)
        )

    async def _postpone(
        self, tx: AsyncConnection, message: Message, problem: str, reason: str
    ) -> None:
        self._is_away = self._shares_fate
        await tx.execute(
            update(OUTBOX)
            .where(OUTBOX.c.event_id == message.event_id, OUTBOX.c.state == "NEW")
            .values(due_at=self._clock.now() + self._pause(message), last_error=problem[:200])
        )
        log.info(
            "outbox_postponed",
            destination=message.destination,
            tag=message.tag,
            aggregate_id=message.aggregate_id,
            reason=reason,
        )

    def _pause(self, message: Message) -> timedelta:
        longest = BACKOFF_SHARED_MAX if self._shares_fate else BACKOFF_MAX
        return timedelta(
            seconds=doubled(
                BACKOFF_FIRST.total_seconds(), message.attempts, max_seconds=longest.total_seconds()
            )
        )

    async def _mark_dead(self, tx: AsyncConnection, message: Message, error: RemoteError) -> None:
        await tx.execute(
            update(OUTBOX)
            .where(OUTBOX.c.event_id == message.event_id, OUTBOX.c.state == "NEW")
            .values(state="DEAD", last_error=f"{error.reason}: {error.message}"[:200])
        )
        self._dead.inc()
        log.error(
            "outbox_dead",
            alert=True,
            destination=message.destination,
            tag=message.tag,
            aggregate_id=message.aggregate_id,
            event_id=message.event_id,
            reason=error.reason,
        )


def claim_statement(destination: str, now: datetime, *, limit: int = BATCH) -> Any:
    """The query that claims due rows; a test reads its EXPLAIN."""
    return _claiming(
        OUTBOX.c.destination == destination,
        OUTBOX.c.state == "NEW",
        OUTBOX.c.due_at <= now,
        limit=limit,
    )


def ahead_statement(destination: str, now: datetime) -> Any:
    """The query that claims rows which are due later than anybody puts off: a process whose clock
    was ahead wrote that, and nobody waits for its error. Asked seldom, because to a process whose
    clock is behind all postponed rows look so."""
    longest = now + BACKOFF_MAX + LEASE
    return _claiming(
        OUTBOX.c.destination == destination, OUTBOX.c.state == "NEW", OUTBOX.c.due_at > longest
    )


def _claiming(*conditions: ColumnElement[bool], limit: int = BATCH) -> Any:
    # The hint: by the index of the states, or by a sort, it would lock rows that it does not take.
    hint = "FORCE INDEX (ix_outbox_claim)"
    return (
        select(OUTBOX)
        .where(*conditions)
        .order_by(OUTBOX.c.due_at, OUTBOX.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .with_hint(OUTBOX, hint, "mysql")
        .with_hint(OUTBOX, hint, "mariadb")
    )


@functools.cache  # a few destinations: idle relays ask it again and again
def next_due_statement(destination: str) -> Any:
    """The query that finds when the next row is due; a test reads its EXPLAIN."""
    return (
        select(OUTBOX.c.due_at)
        .where(OUTBOX.c.destination == destination, OUTBOX.c.state == "NEW")
        .order_by(OUTBOX.c.due_at, OUTBOX.c.id)
        .limit(1)
    )


async def _next_due(tx: AsyncConnection, destination: str) -> datetime | None:
    due_at: datetime | None = (
        await tx.execute(next_due_statement(destination))
    ).scalar_one_or_none()
    return due_at


def _message(row: Row[Any]) -> Message:
    return Message(
        event_id=row.event_id,
        destination=row.destination,
        tag=row.tag,
        aggregate_id=row.aggregate_id,
        payload=json.loads(row.payload),
        trace_id=row.trace_id,
        due_at=row.due_at,
        created_at=row.created_at,
        attempts=row.attempts,
    )
