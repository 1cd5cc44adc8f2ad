"""How far the clocks of providers are from ours, by the Date header of their answers. WeChat Pay
and Alipay refuse requests, and we refuse their messages, when the clocks are minutes apart: then
nothing works there, and no answer says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from prometheus_client import Gauge

from mesh.clock import Clock, Seconds, SystemClock
from mesh.logs import get_logger

ALERT_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 10.0  # a clock drifts slowly: not each answer is looked at
LOG_PAUSE_SECONDS: Final = 600.0
HOSTS_MAX: Final = 1000

log = get_logger()
_OFFSET = Gauge(
    "paymesh_channel_clock_offset_seconds",
    "How far the clock of a provider is ahead of ours.",
    ["host"],
)


class ProviderClocks:
    """The offset of each host that answered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offsets: dict[str, Seconds] = {}
        self._next_sample: dict[str, Seconds] = {}
        self._next_log: dict[str, Seconds] = {}

    def heard(self, host: str, date: str, *, took_seconds: Seconds) -> None:
        """Notes the Date header of an answer that came after so long; one that cannot be read says
        nothing.
        """
        now = self._clock.now().timestamp()
        if not date or not self._is_due(host, now):
            return
        try:
            theirs = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        # it was written at any moment of the exchange, in whole seconds
        ahead = theirs + 0.5 - (now - took_seconds / 2)
        self._offsets[host] = ahead
        self._next_sample[host] = now + SAMPLE_SECONDS
        _OFFSET.labels(host).set(ahead)
        if abs(ahead) - took_seconds / 2 > ALERT_SECONDS and now >= self._next_log.get(host, now):
            self._next_log[host] = now + LOG_PAUSE_SECONDS
            log.error("channel_clock_off", alert=True, host=host, ahead_seconds=round(ahead))

    def offsets(self) -> Mapping[str, Seconds]:
        """The seconds by which each host was ahead of us when it was last looked at."""
        return dict(self._offsets)

    def _is_due(self, host: str, now: Seconds) -> bool:
        due = self._next_sample.get(host)
        if due is None:
            return len(self._next_sample) < HOSTS_MAX
        # a clock that was set back is looked at again at once
        return now >= due or now < due - SAMPLE_SECONDS


PROVIDER_CLOCKS: Final = ProviderClocks(SystemClock())
