"""Keeps the first outcome of each `Idempotency-Key` for 24 hours, as Stripe documents it: the same
request gets it again, another one under the same key is refused, and a request that failed before
it was executed is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mesh.clock import Clock
from sandbox.providers.stripe.errors import StripeError

KEY_MAX: Final = 255
_KEPT: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An answer, and the id of the request that it was given to first."""

    status: int
    body: bytes
    request_id: str


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    since: datetime
    outcome: Outcome | None = None


class IdempotencyKeys:
    """The keys of one account."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def claim(self, key: str, fingerprint: bytes) -> Outcome | None:
        """The outcome of an earlier equal request; None when this one is the first.

        Raises:
            StripeError: the key belongs to another request, or the first one still runs.
        """
        if len(key) > KEY_MAX:
            raise StripeError(
                400, f"Idempotency-Key is longer than {KEY_MAX} characters", executed=False
            )
        now = self._clock.now()
        entry = self._entries.get(key)
        if entry is None or now - entry.since >= _KEPT:
            self._entries[key] = _Entry(fingerprint, now)
            return None
        if entry.fingerprint != fingerprint:
            raise StripeError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were "
                f"first used with. Try using a key other than '{key}' if you meant to execute a "
                "different request.",
                kind="idempotency_error",
                executed=False,
            )
        if entry.outcome is None:
            raise StripeError(
                409,
                "There is currently another in-progress request using this Idempotency-Key (that "
                "probably means you submitted twice, and the other request is still going "
                f"through): {key}.",
                code="idempotency_key_in_use",
                executed=False,
            )
        return entry.outcome

    def keep(self, key: str, outcome: Outcome) -> None:
        """Keeps the outcome of a claimed key."""
        self._entries[key].outcome = outcome

    def forget(self, key: str) -> None:
        """Gives a claimed key back: nothing was executed."""
        self._entries.pop(key, None)

    def replace(self, key: str, fingerprint: bytes, outcome: Outcome) -> None:
        """Keeps an outcome whatever was kept: the request broke inside Stripe."""
        self._entries[key] = _Entry(fingerprint, self._clock.now(), outcome)
