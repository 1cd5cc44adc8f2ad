"""The door of one activity in one process: refusals that everybody gets are remembered for a
moment, so that a sold-out sale costs Redis a number of calls that depends on processes and not on
buyers; everything else goes to the script, many clicks at once.

A remembered refusal is never told to somebody who takes part: his repeated click has to find his
order (a replay wins over every refusal). This process hears of everybody whose click was decided,
but not of those who still wait elsewhere; so nothing is remembered while anybody waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mesh.clock import Monotonic, Seconds
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click
from seckill_rpc.usecases.admission.click_batcher import AdmitClicks, ClickBatcher

# life of a remembered refusal: a unit that comes back is sold a fifth of a second later at most
REFUSAL_SECONDS = 0.2
JITTER = 0.5  # of it, so that processes do not ask together
NOT_STARTED_SECONDS_MAX = 1.0  # the window may be moved
# how much longer it lives for the others while one click asks whether it still holds
ASKING_SECONDS = 0.05
# after the last undecided click: what was published about it has been heard by then
QUIET_SECONDS = 0.1
START_MARGIN_SECONDS = 0.05  # our clock may run this much slower than Redis' within that second
PARTICIPANTS_MAX = 1_000_000  # about 100 MB; beyond it nobody is refused from memory any more
Jitter = Callable[[], Seconds]  # draws from 0 to 1
_FOR_EVERYBODY = frozenset(
    {AdmitCode.SOLD_OUT, AdmitCode.ENDED, AdmitCode.PAUSED, AdmitCode.NOT_STARTED}
)
_TAKES_PART = frozenset(
    {AdmitCode.QUEUED, AdmitCode.REPLAY_QUEUED, AdmitCode.REPLAY_LIVE, AdmitCode.LIMIT}
)


class AdmitResult(NamedTuple):
    """What the script said. `order_id`: of a click that has a place or an order, else ""."""

    epoch: int
    admission: AdmitReply
    order_id: str


class AdmissionGate:
    """Where the clicks on one activity come in."""

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
        self._remembers_all = False
        self._refusal = AdmitReply(code=AdmitCode.NOT_READY, detail="")
        self._told_at = 0.0
        self._refusal_until = 0.0
        self._is_asked = False
        self._quiet_since: Seconds | None = None

    def add_participant(self, user_id: str) -> None:
        """A buyer stands in the line or holds an order, here or anywhere."""
        if len(self._participants) < PARTICIPANTS_MAX:
            self._participants.add(user_id)
        else:
            self._remembers_all = False

    def mark_complete(self) -> None:
        """From now on this process has heard of every buyer who takes part: refusals may be told
        from memory.
        """
        self._remembers_all = len(self._participants) < PARTICIPANTS_MAX

    def mark_incomplete(self) -> None:
        """Buyers may take part from now on without this process hearing of it."""
        self._remembers_all = False
        self._refusal_until = 0.0

    def refusal(self, user_id: str) -> AdmitReply | None:
        """What everybody is told at this moment, unless this buyer takes part; None: he has to
        `click`. When its life is over one buyer asks for all."""
        if user_id in self._participants:
            return None
        now = self._monotonic()
        if now < self._refusal_until:
            return self._rest_of_refusal(now)
        if not self._is_asked and now < self._refusal_until + ASKING_SECONDS:
            self._is_asked = True  # once: a Redis that does not answer makes no refusal older
            self._refusal_until = now + ASKING_SECONDS
        return None

    async def click(self, click: Click) -> AdmitResult:
        """Lets one buyer in, or says why not.

        Raises:
            SeckillNotReady: Redis gave no answer.
        """
        epoch, admission = await self._batcher.submit(click)
        code = admission.code
        if code in _TAKES_PART:
            self._quiet_since = None
            if code is AdmitCode.QUEUED:
                self._refusal_until = 0.0  # there are units again
            self.add_participant(click.user_id)
            return AdmitResult(
                epoch, admission, "" if code is AdmitCode.LIMIT else admission.detail
            )
        if code in _FOR_EVERYBODY and self._remembers_all and self._is_quiet(admission):
            self._remember(admission)
        else:
            self._refusal_until = 0.0  # it does not hold any more
        return AdmitResult(epoch, admission, "")

    def _is_quiet(self, refusal: AdmitReply) -> bool:
        """Nothing has been undecided for a moment."""
        if refusal.code is AdmitCode.NOT_STARTED:
            return True
        if refusal.detail != "0":
            self._quiet_since = None
            return False
        now = self._monotonic()
        if self._quiet_since is None:
            self._quiet_since = now
        return now - self._quiet_since >= QUIET_SECONDS

    def _remember(self, refusal: AdmitReply) -> None:
        seconds = REFUSAL_SECONDS * (1 - JITTER * self._jitter())
        if refusal.code is AdmitCode.NOT_STARTED:
            seconds = min(
                int(refusal.detail) / 1000 - START_MARGIN_SECONDS, NOT_STARTED_SECONDS_MAX
            )
        self._refusal = refusal
        self._is_asked = False
        self._told_at = self._monotonic()
        self._refusal_until = self._told_at + seconds

    def _rest_of_refusal(self, now: Seconds) -> AdmitReply:
        if self._refusal.code is not AdmitCode.NOT_STARTED:
            return self._refusal
        left_ms = int(self._refusal.detail) - int((now - self._told_at) * 1000)
        return AdmitReply(code=AdmitCode.NOT_STARTED, detail=str(max(left_ms, 1)))
