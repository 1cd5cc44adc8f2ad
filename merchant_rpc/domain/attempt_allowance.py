"""How many times something may be done: `burst` at once, then one per interval (the
generic cell rate algorithm). One moment is kept of a subject: when its allowance is full again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from merchant_rpc.domain.login_delay import Attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """So many at once, and then one in each interval."""

    burst: int
    interval: timedelta

    def wait(self, attempts: Attempts, now: datetime) -> timedelta:
        """How long until one may be taken; zero: now."""
        after = self._full_at(attempts, now) + self.interval
        return max(after - now - self._whole, timedelta(0))

    def taken(self, attempts: Attempts, now: datetime) -> Attempts:
        """With one less left."""
        return replace(
            attempts, blocked_until=self._full_at(attempts, now) + self.interval, updated_at=now
        )

    @property
    def _whole(self) -> timedelta:
        return self.burst * self.interval

    def _full_at(self, attempts: Attempts, now: datetime) -> datetime:
        # A clock that was set back leaves the allowance empty, and not for as long as it was set
        # back.
        return min(max(attempts.blocked_until, now), now + self._whole)


# From one network, to one address, looks at one link: five in an hour.
MAILS: Final = Allowance(burst=5, interval=timedelta(minutes=12))
# That one network shows: thirty in an hour.
LINKS: Final = Allowance(burst=30, interval=timedelta(minutes=2))
