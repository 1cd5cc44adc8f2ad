"""The log of callbacks that were not applied, and how many came."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta

from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database
from mesh.errors import Conflict, MeshError, OutcomeUnknown, Unavailable
from mesh.free_text import masked
from mesh.logs import get_logger
from mesh.rate_limit import RateLimiter
from payment_rpc.domain.callback import Callback, CallbackResult
from payment_rpc.store import callbacks

# Unverified messages that are written down per channel and process: a stranger costs a fixed number
# of rows.
UNVERIFIED_BURST = 50
UNVERIFIED_EVERY = timedelta(seconds=10)
# Refused messages of a channel in a row after which somebody is told: when nothing is believed any
# more, a secret is wrong.
UNVERIFIED_ALERT = 20

CALLBACKS_DONE = Counter(
    "paymesh_callbacks_total",
    "Messages of channels by what became of them.",
    ["channel", "kind", "result"],
)
_UNVERIFIED = Counter(
    "paymesh_callbacks_unverified_total",
    "Messages that nobody believed, and whether they were written down.",
    ["channel", "kept"],
)

log = get_logger()


def rate_limiter(clock: Clock, *, burst: int, every: timedelta) -> RateLimiter:
    """So many at once, then one per interval of the injected clock, for each key."""
    return RateLimiter(
        per_second=timedelta(seconds=1) / every, burst=burst, now=lambda: clock.now().timestamp()
    )


class CallbackLog:
    """Writes down callbacks that were not applied."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._unverified = rate_limiter(clock, burst=UNVERIFIED_BURST, every=UNVERIFIED_EVERY)
        self._refused_in_a_row: defaultdict[str, int] = defaultdict(int)

    async def fail(self, callback: Callback, problem: MeshError | ConstraintViolated) -> None:
        """Writes down a genuine message that could not be applied. Not when the database is away:
        then the channel delivers it again.
        """
        if isinstance(problem, Unavailable | OutcomeUnknown):
            return
        await self._db.run(_write_failed, callback, reason=reason_of(problem), at=self._clock.now())
        CALLBACKS_DONE.labels(callback.channel, callback.kind, CallbackResult.FAILED).inc()

    def note_verified(self, channel: str) -> None:
        """A message of the channel was believed: its secrets are right."""
        self._refused_in_a_row.pop(channel, None)

    async def keep_unverified(self, callback: Callback, reason: str) -> None:
        """Writes down a message that was not verified, within limits. The sender's answer does not
        depend on it.
        """
        self._refused_in_a_row[callback.channel] += 1
        if self._refused_in_a_row[callback.channel] % UNVERIFIED_ALERT == 0:
            log.error(
                "callbacks_unverified",
                alert=True,
                channel=callback.channel,
                in_a_row=self._refused_in_a_row[callback.channel],
                reason=reason,
            )
        kept = not self._unverified.take(callback.channel)
        _UNVERIFIED.labels(callback.channel, "yes" if kept else "no").inc()
        if not kept:
            return
        try:
            await self._db.run(callbacks.add_unverified, without_cards(callback.refused(reason)))
        except (Unavailable, Conflict, OutcomeUnknown):
            log.warning("unverified_callback_not_kept", channel=callback.channel, reason=reason)


def without_cards(callback: Callback) -> Callback:
    """The callback as it is kept, for months. Texts that people wrote at the channel may hold a
    card number, so digits are masked. The digest is of the bytes that came.
    """
    if callback.payload_encoding == "BASE64":
        return callback
    return replace(callback, payload=masked(callback.payload))


async def _write_failed(
    tx: AsyncConnection, callback: Callback, *, reason: str, at: datetime
) -> None:
    logged = await callbacks.arrive(tx, callback)
    await callbacks.finish(
        tx, logged.ended(CallbackResult.FAILED, reason=reason, about=callback.about, at=at)
    )


def reason_of(problem: MeshError | ConstraintViolated) -> str:
    return (
        f"{problem.reason}: {problem.message}"
        if isinstance(problem, MeshError)
        else f"INTERNAL: {problem.name}"
    )
