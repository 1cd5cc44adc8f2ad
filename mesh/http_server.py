"""Runs uvicorn without its signal handling, and with little CPU while idle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn

# also the interval at which the Date header is renewed; uvicorn's own loop wakes ten times as
# often, to check whether it should end
TICK_SECONDS = 1.0


class HttpServer(uvicorn.Server):
    """A server that ends at once when `stop` is called."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures no signals: the process handles them, and uvicorn would raise them again after a
        clean end.
        """
        yield

    def stop(self) -> None:
        """Refuses further requests and ends."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """The loop of the base class with a slower tick."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._stopped.wait()
