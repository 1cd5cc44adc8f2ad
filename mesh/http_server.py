"""uvicorn's server for processes that handle signals themselves and cost nothing while nobody
calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn

# the Date header is renewed as often; uvicorn's own loop wakes ten times as often, to see whether
# it should end
TICK_SECONDS = 1.0


class HttpServer(uvicorn.Server):
    """Ends by `stop`, at once."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: signals belong to the process, and uvicorn would raise them again after a
        clean end.
        """
        yield

    def stop(self) -> None:
        """Takes no more requests and ends."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """As the base, with a slower tick."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stopped.wait()
