"""Sends the clicks of many buyers in one call of the admission script.

At most a few calls are under way, and they begin at least BATCH_SECONDS apart; later clicks are the
next batch. A lone click waits for nothing; under load batches are full. Without the pace nearly
every click would be a call of its own, at several times the work, because Redis answers before the
next click arrives.

It is not `mesh.batching`: that runs one batch of a key at a time, unpaced, and repeats a failed
batch one by one, which a click with an unknown outcome must not be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mesh.logs import get_logger
from seckill_rpc.domain.errors import SeckillNotReady
from seckill_rpc.redis.admit import AdmitReply, Click
from seckill_rpc.usecases.admission.response_batcher import BATCH_SECONDS

AdmitClicks = Callable[[Sequence[Click]], Awaitable[tuple[int, Sequence[AdmitReply]]]]
Admitted = tuple[int, AdmitReply]  # epoch, what the script said

log = get_logger()


class ClickBatcher:
    """The clicks on one activity in this process."""

    def __init__(self, admit: AdmitClicks, *, batch_max: int, calls_max: int) -> None:
        """`admit` takes up to `batch_max` clicks; up to `calls_max` calls of it are under way at
        once.
        """
        self._admit = admit
        self._batch_max = batch_max
        self._calls_max = calls_max
        self._waiting: deque[tuple[Click, asyncio.Future[Admitted]]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._next_at = 0.0  # on the clock of the event loop

    async def submit(self, click: Click) -> Admitted:
        """The epoch and the script's answer to a click. A caller that is cancelled drops out alone.

        Raises:
            SeckillNotReady: no answer came; whether the click counted is unknown.
        """
        answer: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
        self._waiting.append((click, answer))
        if len(self._calls) < self._calls_max:
            call = asyncio.create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return await answer

    async def _call(self) -> None:
        """Sends batches until none waits. It takes the first when the task starts, not when it was
        created: by then the other clicks of the same event loop tick have arrived.
        """
        loop = asyncio.get_running_loop()
        while self._waiting:
            now = loop.time()
            begin, self._next_at = max(now, self._next_at), max(now, self._next_at) + BATCH_SECONDS
            if begin > now:
                await asyncio.sleep(begin - now)
            taken = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_max))
            ]
            # a caller that was cancelled before its click was sent reserves nothing
            batch = [(click, answer) for click, answer in taken if not answer.done()]
            if not batch:
                continue
            try:
                epoch, admissions = await self._admit([click for click, _ in batch])
            except Exception as error:
                if not isinstance(error, SeckillNotReady):
                    log.exception("admission_failed")
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(SeckillNotReady(retry_after_seconds=1.0))
            else:
                for (_, answer), admission in zip(batch, admissions, strict=True):
                    if not answer.done():
                        answer.set_result((epoch, admission))
