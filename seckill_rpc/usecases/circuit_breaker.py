"""When Redis is away, every buyer in a line asks again and again. Without a limit each of these
questions would wait for Redis and then become a query; with it a few do, and the others hear at
once when to come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.clock import Monotonic
from seckill_rpc.domain.errors import SeckillNotReady
from seckill_rpc.usecases.admission.gate import Jitter

AWAY_SECONDS = 1.0  # after a failure Redis is not asked for so long; then one question finds out
QUERIES_MAX = 4  # at once, instead of Redis: a quarter of the connections for reading
RETRY_SECONDS = 1.0


class CircuitBreaker:
    """Remembers that Redis was away a moment ago."""

    def __init__(self, *, monotonic: Monotonic, jitter: Jitter) -> None:
        self._monotonic = monotonic
        self._jitter = jitter
        self._away_until = 0.0
        self._queries = 0

    @property
    def is_open(self) -> bool:
        """Whether Redis should not be asked now. Says False once after each pause, to whoever finds
        out.
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
        """Redis is there."""
        self._away_until = 0.0

    @asynccontextmanager
    async def instead(self) -> AsyncIterator[None]:
        """Room for a question to the database in place of one to Redis.

        Raises:
            SeckillNotReady: others ask already; with a time to come back.
        """
        if self._queries >= QUERIES_MAX:
            raise self.not_ready()
        self._queries += 1
        try:
            yield
        finally:
            self._queries -= 1

    def not_ready(self) -> SeckillNotReady:
        """What a buyer is told of whom nothing final is known while Redis is away."""
        return SeckillNotReady(retry_after_seconds=RETRY_SECONDS * (1 + self._jitter()))
