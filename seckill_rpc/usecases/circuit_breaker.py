"""Limits what buyers cost while Redis does not answer. Without it every repeated question would
wait for Redis and then become a query; with it a few do, and the others are told when to come
back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.clock import Monotonic
from seckill_rpc.domain.errors import SeckillNotReady
from seckill_rpc.usecases.admission.gate import Jitter

AWAY_SECONDS = 1.0  # pause after a failure; then one caller tries Redis
QUERIES_MAX = 4  # at once, instead of Redis: a quarter of the connections for reading
RETRY_SECONDS = 1.0


class CircuitBreaker:
    """Open for a moment after a failure of Redis."""

    def __init__(self, *, monotonic: Monotonic, jitter: Jitter) -> None:
        self._monotonic = monotonic
        self._jitter = jitter
        self._away_until = 0.0
        self._queries = 0

    @property
    def is_open(self) -> bool:
        """Whether Redis should not be asked now. False once after each pause, for the caller that
        tries.
        """
        now = self._monotonic()
        if now < self._away_until:
            return True
        if self._away_until:
            self._away_until = now + AWAY_SECONDS
        return False

    def failed(self) -> None:
        """Redis did not answer."""
        self._away_until = self._monotonic() + AWAY_SECONDS

    def answered(self) -> None:
        """Redis answered."""
        self._away_until = 0.0

    @asynccontextmanager
    async def instead(self) -> AsyncIterator[None]:
        """Room for one query in place of a question to Redis.

        Raises:
            SeckillNotReady: enough other queries run; with a time to come back.
        """
        if self._queries >= QUERIES_MAX:
            raise self.not_ready()
        self._queries += 1
        try:
            yield
        finally:
            self._queries -= 1

    def not_ready(self) -> SeckillNotReady:
        """The answer to a buyer of whom nothing final is known while Redis is away."""
        return SeckillNotReady(retry_after_seconds=RETRY_SECONDS * (1 + self._jitter()))
