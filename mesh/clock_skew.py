"""Detects clock skew between machines. Timestamps come from the caller tokens of siblings, from the
issuer of user tokens and from the database. Comparing several of these sources shows whose clock is
wrong.

A token that is refused only because of clock skew is not the caller's fault. `ClockSkewed` is
UNAVAILABLE, nothing was done, and the caller's channel tries another replica. A process whose own
clock looks wrong raises it instead of rejecting good tokens as invalid. It keeps serving everything
else: if the database's clock were the wrong one, all processes of the mesh would stop serving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from prometheus_client import Gauge

from mesh.errors import Unavailable
from mesh.logs import get_logger

TOLERANCE_SECONDS = 30  # clocks synchronised by NTP differ by less than one second
OPINION_SECONDS = 300  # how long an observed offset counts
LOG_PAUSE_SECONDS = 60
UNSERVED: Final = "unserved"  # in the metadata of a refusal: the call was not processed

log = get_logger()
_OFFSET = Gauge(
    "paymesh_clock_offset_seconds",
    "How far the clock of somebody is ahead of ours, as far as we know.",
    ["source"],
)


class ClockSkewed(Unavailable):
    """Clocks differ too much to check the token, nothing was done."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds=round(seconds))
        self.metadata[UNSERVED] = "clock_skew"


@dataclass(frozen=True, slots=True)
class _Opinion:
    ahead_seconds: float
    at: float


class ClockWatch:
    """The clock offsets observed from other sources."""

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._opinions: dict[str, _Opinion] = {}
        self._log_at: dict[str, float] = {}

    def heard(self, source: str, ahead_seconds: float) -> None:
        """Records how far the clock of `source` is ahead of ours; negative when it is behind.
        Sources are few: services, the issuer of user tokens, the database."""
        now = self._now()
        known = self._opinions.get(source)
        if known is not None and known.ahead_seconds == ahead_seconds == 0 and now - known.at < 1:
            return  # the usual case, at every call
        self._opinions[source] = _Opinion(ahead_seconds, now)
        _OFFSET.labels(source).set(ahead_seconds)
        if abs(ahead_seconds) > TOLERANCE_SECONDS and now >= self._log_at.get(source, now):
            self._log_at[source] = now + LOG_PAUSE_SECONDS
            log.error(
                "clock_skew",
                alert=True,
                peer=source,
                seconds=round(ahead_seconds),
                looks_wrong=self._who_is_wrong(source),
            )

    def our_error_seconds(self) -> float:
        """How far our clock is behind (negative: ahead) when it looks wrong, else 0. It looks wrong
        when at least two sources, and at least half of all, differ from it in one direction."""

        opinions = self._fresh()
        for sign in (1, -1):
            against = [
                each.ahead_seconds
                for each in opinions.values()
                if each.ahead_seconds * sign > TOLERANCE_SECONDS
            ]
            if len(against) >= 2 and len(against) * 2 >= len(opinions):
                return min(against, key=abs)
        return 0.0

    def _who_is_wrong(self, source: str) -> str:
        if self.our_error_seconds():
            return "ours"
        others = [opinion for name, opinion in self._fresh().items() if name != source]
        if any(abs(opinion.ahead_seconds) <= TOLERANCE_SECONDS for opinion in others):
            return source
        return f"ours or that of {source}"

    def _fresh(self) -> dict[str, _Opinion]:
        since = self._now() - OPINION_SECONDS
        return {name: opinion for name, opinion in self._opinions.items() if opinion.at >= since}
