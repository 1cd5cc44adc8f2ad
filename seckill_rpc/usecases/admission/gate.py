"""Caches refusals of the admission script (SOLD_OUT, ENDED, PAUSED, NOT_STARTED) per activity and
process, for 100 to 200 ms. A sold-out sale then costs Redis a number of calls that depends on
processes and not on buyers. All other clicks go to the script in batches.

A cached refusal is never given to a participant, because a repeated request must find its order.
This process knows every buyer whose click was decided, but not those that are queued by other
processes; so nothing is cached while any click is undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mesh.clock import Monotonic, Seconds
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click
from seckill_rpc.usecases.admission.click_batcher import AdmitClicks, ClickBatcher

# life of a cached refusal: a unit that comes back is sold this much later at most
REFUSAL_SECONDS = 0.2
JITTER = 0.5  # of it, so that processes do not ask together
NOT_STARTED_SECONDS_MAX = 1.0  # the window may be moved
# how much longer it lives for the others while one click checks it
RECHECK_SECONDS = 0.05
# after the last undecided click: its result has reached every process by then
QUIET_SECONDS = 0.1
START_MARGIN_SECONDS = 0.05  # our clock may run this much slower than Redis' within that second
PARTICIPANTS_MAX = 1_000_000  # about 100 MB; beyond it no refusal is cached
Jitter = Callable[[], Seconds]  # draws from 0 to 1
_FOR_EVERYBODY = frozenset(
    {AdmitCode.SOLD_OUT, AdmitCode.ENDED, AdmitCode.PAUSED, AdmitCode.NOT_STARTED}
)
_PARTICIPATES = frozenset(
    {AdmitCode.QUEUED, AdmitCode.REPLAY_QUEUED, AdmitCode.REPLAY_LIVE, AdmitCode.LIMIT}
)


class AdmitResult(NamedTuple):
    """The answer of the script. `order_id`: of a click that is queued or has an order, else ""."""

    epoch: int
    reply: AdmitReply
    order_id: str


class AdmissionGate:
    """The clicks on one activity in one process."""

    def __init__(
        self,
        admit: AdmitClicks,
        *,
        batch_max: int,
        calls_max: int,
        monotonic: Monotonic,
        jitter: Jitter,
    ) -> None:
        self._batcher = ClickBatcher(admit, batch_max=batch_max, calls_max=calls_max)
        self._monotonic = monotonic
        self._jitter = jitter
        self._participants: set[str] = set()
        self._is_complete = False
        self._refusal = AdmitReply(code=AdmitCode.NOT_READY, detail="")
        self._cached_at = 0.0
        self._refusal_until = 0.0
        self._is_being_checked = False
        self._quiet_since: Seconds | None = None

    def add_participant(self, user_id: str) -> None:
        """A buyer is queued or holds an order, admitted by any process."""
        if len(self._participants) < PARTICIPANTS_MAX:
            self._participants.add(user_id)
        else:
            self._is_complete = False

    def mark_complete(self) -> None:
        """All participants are known from now on: refusals may be cached."""
        self._is_complete = len(self._participants) < PARTICIPANTS_MAX

    def mark_incomplete(self) -> None:
        """Participants may be missing from now on: nothing is cached."""
        self._is_complete = False
        self._refusal_until = 0.0

    def refusal(self, user_id: str) -> AdmitReply | None:
        """The cached refusal, unless this buyer is a participant; None: call `click`. When the
        cache expires, one click renews it for all.
        """
        if user_id in self._participants:
            return None
        now = self._monotonic()
        if now < self._refusal_until:
            return self._rest_of_refusal(now)
        if not self._is_being_checked and now < self._refusal_until + RECHECK_SECONDS:
            self._is_being_checked = True  # once: an unanswered check does not extend it again
            self._refusal_until = now + RECHECK_SECONDS
        return None

    async def click(self, click: Click) -> AdmitResult:
        """Sends one click to the script.

        Raises:
            SeckillNotReady: Redis gave no answer.
        """
        epoch, reply = await self._batcher.submit(click)
        code = reply.code
        if code in _PARTICIPATES:
            self._quiet_since = None
            if code is AdmitCode.QUEUED:
                self._refusal_until = 0.0  # there are units again
            self.add_participant(click.user_id)
            return AdmitResult(epoch, reply, "" if code is AdmitCode.LIMIT else reply.detail)
        if code in _FOR_EVERYBODY and self._is_complete and self._is_quiet(reply):
            self._cache(reply)
        else:
            self._refusal_until = 0.0  # it is outdated
        return AdmitResult(epoch, reply, "")

    def _is_quiet(self, refusal: AdmitReply) -> bool:
        """No click has been undecided for QUIET_SECONDS."""
        if refusal.code is AdmitCode.NOT_STARTED:
            return True
        if refusal.detail != "0":
            self._quiet_since = None
            return False
        now = self._monotonic()
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since >= QUIET_SECONDS

    def _cache(self, refusal: AdmitReply) -> None:
        seconds = REFUSAL_SECONDS * (1 - JITTER * self._jitter())
        if refusal.code is AdmitCode.NOT_STARTED:
            seconds = min(
                int(refusal.detail) / 1000 - START_MARGIN_SECONDS, NOT_STARTED_SECONDS_MAX
            )
        self._refusal = refusal
        self._is_being_checked = False
        self._cached_at = self._monotonic()
        self._refusal_until = self._cached_at + seconds

    def _rest_of_refusal(self, now: Seconds) -> AdmitReply:
        if self._refusal.code is not AdmitCode.NOT_STARTED:
            return self._refusal
        left_ms = int(self._refusal.detail) - int((now - self._cached_at) * 1000)
        return AdmitReply(code=AdmitCode.NOT_STARTED, detail=str(max(left_ms, 1)))
