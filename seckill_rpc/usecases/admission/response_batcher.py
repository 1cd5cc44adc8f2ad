"""Answers that could be given at once, given together.

An answer of its own costs a write to a socket and a wake-up of its own; those of one tick of the
event loop share both. That saves more than all
else that a refusal from memory costs: `bench seckill-action` shows it beside a bare echo.
"""

from __future__ import annotations

import asyncio

from mesh.clock import Seconds

BATCH_SECONDS = 0.002  # small beside what anybody waits for who is one of so many


class ResponseBatcher:
    """Whoever comes after a pause goes on at once; who comes sooner waits for its end, and all who
    wait go on together.
    """

    def __init__(self, seconds: Seconds = BATCH_SECONDS) -> None:
        self._seconds = seconds
        self._waiting: list[asyncio.Future[None]] = []
        self._next_at = 0.0  # on the clock of the event loop

    async def wait(self) -> None:
        """Returns when it is the caller's turn, after `seconds` at most. A caller that goes away
        takes only itself away.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            now = loop.time()
            if now >= self._next_at:
                self._next_at = now + self._seconds
                return
            loop.call_at(self._next_at, self._go_on)
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._next_at = asyncio.get_running_loop().time() + self._seconds
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
