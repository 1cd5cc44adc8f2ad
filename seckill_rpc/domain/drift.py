"""Detects when Redis and the row of an activity disagree, and says what repairs it. The two can
never be read at one instant, so a difference counts only if it lasts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from seckill_rpc.domain.activity import Activity

# an older hold or unpublished epoch belongs to a rebuild whose process died
ABANDONED_AFTER = timedelta(seconds=1)
GAP_AFTER = timedelta(seconds=2)  # so long the units must be wrong in the same direction
# the same if units that are just being decided would explain it
EXPLAINED_GAP_AFTER = timedelta(seconds=10)
SAMPLES_MIN = 10


class Trigger(StrEnum):
    """Why an activity is rebuilt, or its state published again."""

    META_MISSING = "META_MISSING"  # Redis has lost the activity, or never had it
    # Redis was restarted or failed over: its data may be old
    RUN_ID = "RUN_ID"
    EPOCH = "EPOCH"  # the row's epoch is not the published one, for ABANDONED_AFTER
    HOLD = "HOLD"  # a hold has lasted for ABANDONED_AFTER
    QUEUE = "LINE"  # the admission queue, or its group, has been missing for ABANDONED_AFTER
    CONSERVATION = "CONSERVATION"  # units have been missing or too many for GAP_AFTER
    STATE = "STATE"  # Redis has an older rev: only the state is written again


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What Redis says of an activity.

    Attributes:
        is_being_rebuilt: a rebuild is at work and alive.
        has_queue: the admission queue exists, as far as its readers know.
    """

    epoch: int
    rev: int
    run_id: str
    is_held: bool
    stock: int
    out: int
    is_being_rebuilt: bool
    has_queue: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Units by the rows at one moment: sold, and being given back. A rebuild may have counted the
    latter already.
    """

    total: int
    sold: int
    giving_back: int

    def gap(self, published: Published) -> int:
        """Units too many in Redis (positive) or missing (negative), at least. Units that are being
        given back may explain the rest.
        """
        there = published.stock + published.out + self.sold - self.total
        return there if there > 0 else min(0, there + self.giving_back)


class DriftDetector:
    """Compares one activity over time, in one process."""

    def __init__(self) -> None:
        self._since: dict[Trigger, datetime] = {}
        # when, gap, units that may explain it
        self._gaps: deque[tuple[datetime, int, int]] = deque()
        self._epoch = 0
        # units too many (positive) or missing (negative) in Redis, when it was weighed last
        self.gap = 0

    def check_state(
        self, activity: Activity, published: Published | None, *, run_id: str, at: datetime
    ) -> Trigger | None:
        """What to do now, judged by the row and the state in Redis; None: nothing."""
        if published is not None and published.is_being_rebuilt:
            self._since.clear()
            return None
        if published is None:
            return Trigger.META_MISSING
        if published.run_id != run_id:
            return Trigger.RUN_ID
        if self._lasts(Trigger.EPOCH, is_so=published.epoch != activity.epoch, at=at):
            return Trigger.EPOCH
        if self._lasts(Trigger.HOLD, is_so=published.is_held, at=at):
            return Trigger.HOLD
        if self._lasts(Trigger.QUEUE, is_so=not published.has_queue, at=at):
            return Trigger.QUEUE
        return Trigger.STATE if published.rev < activity.rev else None

    def check_units(
        self,
        activity: Activity,
        published: Published,
        *,
        before: Counted,
        after: Counted,
        at: datetime,
    ) -> Trigger | None:
        """Whether stock + out + sold + giving back = total is violated.

        `before` and `after` were read around `published`. Units that moved meanwhile shift the two
        in opposite directions, so only what both show is a gap. Queued units that are sold but not
        yet published count twice; a surplus that these explain must last longer.
        """
        if published.is_held or published.epoch != activity.epoch or published.epoch != self._epoch:
            self._gaps.clear()
            self._epoch = published.epoch
        gaps = before.gap(published), after.gap(published)
        self.gap = min(gaps) if min(gaps) > 0 else min(0, max(gaps))  # what both show
        if published.is_held or published.epoch != activity.epoch:
            self.gap = 0
        if self.gap == 0 or (self._gaps and (self._gaps[-1][1] > 0) != (self.gap > 0)):
            self._gaps.clear()
        if self.gap:
            self._gaps.append((at, self.gap, published.out))
        while self._gaps and at - self._gaps[0][0] > EXPLAINED_GAP_AFTER + ABANDONED_AFTER:
            self._gaps.popleft()
        return Trigger.CONSERVATION if self._is_broken(at) else None

    def reset(self) -> None:
        """It was rebuilt."""
        self._since.clear()
        self._gaps.clear()

    def _is_broken(self, at: datetime) -> bool:
        if len(self._gaps) < SAMPLES_MIN:
            return False
        lasts = at - self._gaps[0][0]
        lately = [(gap, out) for when, gap, out in self._gaps if at - when <= GAP_AFTER]
        is_explained = all(0 < gap <= out for gap, out in lately)
        return lasts >= (EXPLAINED_GAP_AFTER if is_explained else GAP_AFTER)

    def _lasts(self, trigger: Trigger, *, is_so: bool, at: datetime) -> bool:
        if not is_so:
            self._since.pop(trigger, None)
            return False
        return at - self._since.setdefault(trigger, at) >= ABANDONED_AFTER
