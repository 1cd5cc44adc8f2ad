"""How long somebody who gave wrong passwords waits before the next one is looked at.

Every attempt is written down before its password is checked, and taken back when it was right: a
thousand attempts at once find the same few free places as a thousand in a row. Nobody is locked
out: the wait ends by itself, it is of one account or one address, and an address from which a
person logged in before is not held up by what others do to his account.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

FREE: Final = 5  # wrong attempts without a wait
FIRST_DELAY: Final = timedelta(seconds=1)
LONGEST_DELAY: Final = timedelta(minutes=15)
FORGOTTEN_AFTER: Final = timedelta(hours=24)
_DOUBLINGS_MAX: Final = 20  # of a second: more than LONGEST_DELAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The wrong attempts of one account or address. `blocked_until` is the moment of the last one
    while there is no wait. Of an allowance (attempt_allowance.py): when it is full again.
    """

    subject: str
    failures: int
    blocked_until: datetime
    updated_at: datetime

    def wait(self, now: datetime) -> timedelta:
        """How long until the next attempt is looked at; zero: it is."""
        return max(self.blocked_until - now, timedelta(0))

    def is_forgotten(self, now: datetime) -> bool:
        """Whether they are so old that they no longer count."""
        return now - self.updated_at >= FORGOTTEN_AFTER

    def further(self, now: datetime) -> Attempts:
        """With one attempt more, taken as wrong until it turns out right."""
        failures = 1 if self.is_forgotten(now) else self.failures + 1
        return replace(
            self, failures=failures, blocked_until=now + delay_after(failures), updated_at=now
        )

    def taken_back(self, now: datetime) -> Attempts | None:
        """Without the last attempt, which was right; None when there were no others."""
        if self.failures <= 1:
            return None
        return replace(self, failures=self.failures - 1, blocked_until=now)


def delay_after(failures: int) -> timedelta:
    """The wait after so many wrong attempts: none after the first five, then one second, doubling
    up to a quarter of an hour.
    """
    if failures <= FREE:
        return timedelta(0)
    doublings = min(failures - FREE - 1, _DOUBLINGS_MAX)
    return min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)


def no_attempts(subject: str, now: datetime) -> Attempts:
    """Before the first."""
    return Attempts(subject=subject, failures=0, blocked_until=now, updated_at=now)


def subject_of(kind: str, *parts: str) -> str:
    """The name of a row: neither addresses of people nor of machines are kept in it."""
    return f"{kind}:{hashlib.sha256('|'.join(parts).encode()).hexdigest()}"
