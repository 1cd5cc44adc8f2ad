"""Delivers the messages of an outbox, at least once.

A row is claimed by pushing its `due_at` into the future, sent with no transaction open, and settled
in a transaction that also applies the answer locally. Only a definite refusal makes a row DEAD (an
alert); an unavailable or failing receiver never does. Rows are claimed per destination, so that a
dead receiver blocks no other.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from prometheus_client import Counter
from sqlalchemy import ColumnElement, Row, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.backoff import doubled
from mesh.clock import Clock, seconds_until
from mesh.db import Database
from mesh.errors import MeshError, RemoteError
from mesh.failpoints import FailpointRaised, failpoint
from mesh.logs import get_logger
from mesh.outbox import OUTBOX, Message
from mesh.worker import each

LEASE = timedelta(seconds=30)  # more than twice any delivery's deadline
# a message whose claim has less than this left is claimed once more before it is sent
RENEW_BELOW = LEASE / 2
BACKOFF_FIRST = timedelta(seconds=1)
# longest pause: a receiver that is back after an hour gets its messages within five minutes
BACKOFF_MAX = timedelta(minutes=5)
# between two searches for rows that a fast clock postponed too far
LOOK_AHEAD = timedelta(minutes=1)
# of messages that fail together: a restarted process does not know that one was delivered
BACKOFF_SHARED_MAX = timedelta(seconds=30)
BATCH = 100
CONCURRENCY = 16  # deliveries under way at once per relay
log = get_logger()
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


Settlement = Callable[[AsyncConnection], Awaitable[None]]
_Claims = dict[str, tuple[Message, datetime]]  # by event id: until when


class Destination(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Value of `destination` in the outbox."""
        ...

    async def send(self, message: Message) -> Settlement | None:
        """Delivers one message within its own deadline. Returns a step that applies the answer in
        the transaction that settles the row.

        Raises:
            MeshError: not delivered. Only a definite RemoteError makes the message DEAD.
        """
        ...


class Relay:
    """Delivers the messages of one destination. Any number of relays may run concurrently."""

    def __init__(
        self, *, db: Database, destination: Destination, clock: Clock, shares_fate: bool = False
    ) -> None:
        """`shares_fate`: all messages fail for the same reason, as with a stream. While one fails,
        only one is tried per round; after a success all others are due at once.
        """
        self._db = db
        self._destination = destination
        self._clock = clock
        self._shares_fate = shares_fate
        self._is_away = False
        self._looked_ahead_at = datetime.min.replace(tzinfo=UTC)
        # claims of past rounds whose release failed in the database
        self._unreleased: _Claims = {}
        self._delivered = _DELIVERED.labels(destination.name)
        self._failed = _FAILED.labels(destination.name)
        self._dead = _DEAD.labels(destination.name)

    @property
    def name(self) -> str:
        """Name of the destination."""
        return self._destination.name

    async def run_once(self) -> int:
        """Claims and delivers what is due; returns how many messages were claimed."""
        if self._unreleased:
            await self._db.run(self._release, self._unreleased)
            self._unreleased = {}
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

            # Only the database can fail a step here: that message is tried again after a pause.
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
            self._unreleased |= claims
        return 0 if self._is_away else count

    async def due_in(self) -> float | None:
        """Seconds until the next message is due, None when none is left. 0.0 for one that is due
        later than any pause: a fast clock wrote it.
        """
        left = seconds_until(
            await self._db.read(_next_due, self._destination.name), self._clock.now()
        )
        return left if left is None or left <= (BACKOFF_MAX + LEASE).total_seconds() else 0.0

    async def deliver(self, message: Message) -> bool:
        """Sends a message and settles its row; True when it was acknowledged. Every failure, also
        of the settlement, is written into the row, which is tried again after a pause.

        The request path also calls this, right after its commit. The row becomes due only later, so
        both rarely overlap; when they do, only one settles.
        """
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
            # The text of an unexpected error may contain secrets: only its type is kept.
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
            # changed by hand or by a disk fault: the other rows of this claim continue
            except ValueError:
                await tx.execute(
                    update(OUTBOX)
                    .where(OUTBOX.c.id == row.id)
                    .values(state="DEAD", last_error="its payload is no JSON")
                )
                self._report_dead(row, "PAYLOAD_UNREADABLE")
        # also when the answer to the commit is lost
        claims |= {message.event_id: (message, now + LEASE) for message in messages}
        return messages, now + LEASE

    async def _renew(self, tx: AsyncConnection, message: Message, claims: _Claims) -> bool:
        """Renews the claim of a message in a slow round; False when another relay has it."""
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
        """Reschedules claimed messages that no round works on, so that they do not wait for the end
        of their lease.
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
        """Makes postponed messages due now. One may be claimed by another relay: it is sent twice,
        and receivers are idempotent.
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
        self._report_dead(message, error.reason)

    def _report_dead(self, message: Message | Row[Any], reason: str) -> None:
        self._dead.inc()
        log.error(
            "outbox_dead",
            alert=True,
            destination=message.destination,
            tag=message.tag,
            aggregate_id=message.aggregate_id,
            event_id=message.event_id,
            reason=reason,
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
    """The query that claims rows due later than any pause: a fast clock wrote them. Run rarely,
    because to a slow clock all postponed rows look like that.
    """
    longest = now + BACKOFF_MAX + LEASE
    return _claiming(
        OUTBOX.c.destination == destination, OUTBOX.c.state == "NEW", OUTBOX.c.due_at > longest
    )


def _claiming(*conditions: ColumnElement[bool], limit: int = BATCH) -> Any:
    # The hint: by the index of the states, or by a sort, it would lock rows that it does not claim.
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


@functools.cache  # one entry per destination; idle relays query it repeatedly
def next_due_statement(destination: str) -> Any:
    """The query that finds when the next row is due; a test reads its EXPLAIN."""
    return (
        select(OUTBOX.c.due_at)
        .where(OUTBOX.c.destination == destination, OUTBOX.c.state == "NEW")
        .order_by(OUTBOX.c.due_at, OUTBOX.c.id)
        .limit(1)
    )


async def _next_due(tx: AsyncConnection, destination: str) -> datetime | None:
    due_at: datetime | None = (await tx.execute(next_due_statement(destination))).scalar()
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
