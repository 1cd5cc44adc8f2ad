"""Remembers answers by PayPal-Request-Id: 6 hours for orders, 45 days for payments.

A request under a known id is answered with what the first one was answered, with 200 where that
was 201, whatever its body says: PayPal documents nothing about a changed body. Only successes are
remembered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mesh.clock import Clock
from sandbox.providers.paypal.refusals import Refused, invalid

ORDERS_KEPT = timedelta(hours=6)
PAYMENTS_KEPT = timedelta(days=45)
_ID_LENGTH_MAX = 108


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: status of HTTP and body."""

    status: int
    body: bytes


class RequestMemory:
    """What was answered under which id, and which are being worked on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[tuple[str, str], tuple[datetime, Answer]] = {}
        self._running: set[tuple[str, str]] = set()

    async def once(
        self,
        call: str,
        request_id: str,
        act: Callable[[], Awaitable[Answer]],
        *,
        kept: timedelta,
        busy: str,
    ) -> Answer:
        """The answer of `act`, or the one that a call under this id got.

        Args:
            call: method and path. request_id: "": nothing is remembered.
            kept: for how long. busy: the issue while the first call runs.

        Raises:
            Refused: the first call runs, the id is too long, or what `act` raises.
        """
        if not request_id:
            return await act()
        if len(request_id) > _ID_LENGTH_MAX:
            raise invalid("INVALID_STRING_LENGTH", "PayPal-Request-Id")
        key = (call, request_id)
        if key in self._running:
            raise Refused(busy)
        found = self._answers.get(key)
        if found and self._clock.now() < found[0]:
            answer = found[1]
            return replace(answer, status=200) if answer.status == 201 else answer
        self._running.add(key)
        try:
            answer = await act()
        finally:
            self._running.discard(key)
        self._answers[key] = (self._clock.now() + kept, answer)
        return answer
