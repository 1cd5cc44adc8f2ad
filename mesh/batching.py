"""Group commit: calls for the same key that arrive while work of that key is under way share the
next batch. Answers stay individual, a lone call waits for nobody, and a batch that fails as a whole
is done again one by one, in the order of arrival.

A caller that went away, or whose deadline passed, before its batch began takes no part in it. Who
goes away later takes only itself away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.call import CURRENT, Call, calling, current_call
from mesh.errors import DeadlineExceeded, MeshError, Unavailable

WAITING_MAX = 2000  # per key: more than this is not served within any deadline
BATCH_SECONDS = 5.0  # deadline of a batch whose callers have none, e.g. in a worker
RETRY_AFTER_SECONDS = 1.0

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[W, R]):
    work: W
    exclusive_key: str
    answer: asyncio.Future[R]
    call: Call | None

    def is_gone(self) -> bool:
        """True for one that nobody waits for any more. One that is too late hears so."""
        if not self.answer.done() and self.call is not None and self.call.remaining_seconds() <= 0:
            self.answer.set_exception(DeadlineExceeded())
        return self.answer.done()


class Batching(Generic[K, W, R]):
    """Runs the work of one key in batches, one batch of a key at a time."""

    def __init__(
        self,
        run: Callable[[Sequence[W]], Awaitable[Sequence[R | MeshError]]],
        *,
        batch_max: int,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        """`run` does a batch in one transaction: an answer or a refusal for each, or an exception
        for all of them.
        """
        self.batch_max = batch_max
        self._run = run
        self._waiting_max = waiting_max
        self._waiting: dict[K, deque[_Waiting[W, R]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, key: K, work: W, *, exclusive_key: str = "") -> R:
        """Does one piece of work, in a batch with others of its key. Two with the same
        `exclusive_key` never share a batch; "" is none.

        Raises:
            Unavailable: too many wait for this key; nothing was done. DeadlineExceeded: its turn
                did not come in time; nothing was done.
            Whatever refuses this work.
        """
        waiting: _Waiting[W, R] = _Waiting(
            work, exclusive_key, asyncio.get_running_loop().create_future(), current_call()
        )
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque([waiting])
            # A task and a context of its own: a caller that goes away cuts nobody else's work, and
            # nothing of a batch is written into its call.
            task = asyncio.create_task(self._drain(key), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif len(queue) >= self._waiting_max:
            raise Unavailable(
                "too many calls for this at once, nothing was done",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        else:
            queue.append(waiting)
        return await waiting.answer

    async def _drain(self, key: K) -> None:
        queue = self._waiting[key]
        try:
            while queue:
                await self._do_batch(self._next_batch(queue))
        finally:
            del self._waiting[key]

    def _next_batch(self, queue: deque[_Waiting[W, R]]) -> list[_Waiting[W, R]]:
        batch: list[_Waiting[W, R]] = []
        taken: set[str] = set()
        kept: list[_Waiting[W, R]] = []
        while queue and len(batch) < self.batch_max:
            waiting = queue.popleft()
            if waiting.is_gone():
                continue
            if waiting.exclusive_key and waiting.exclusive_key in taken:
                kept.append(waiting)
            else:
                taken.add(waiting.exclusive_key)
                batch.append(waiting)
        queue.extendleft(reversed(kept))
        return batch

    async def _do_batch(self, batch: Sequence[_Waiting[W, R]]) -> None:
        if not batch:
            return
        try:
            results: Sequence[R | BaseException] = await self._run_for(batch)
        except Exception as problem:  # noqa: BLE001  of the batch or of its only work; each hears its own
            if len(batch) > 1:
                for waiting in batch:
                    if not waiting.is_gone():
                        await self._do_batch([waiting])
                return
            results = [problem]
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():  # its caller went away meanwhile
                continue
            if isinstance(result, BaseException):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    async def _run_for(self, batch: Sequence[_Waiting[W, R]]) -> Sequence[R | MeshError]:
        """Runs a batch as a call that lasts as long as the most patient of its callers; alone it
        runs as its caller's call.
        """
        calls = [waiting.call for waiting in batch if waiting.call is not None]
        works = [waiting.work for waiting in batch]
        if len(batch) == 1 and calls:
            token = CURRENT.set(calls[0])
            try:
                return await self._run(works)
            finally:
                CURRENT.reset(token)
        with calling(
            timeout_seconds=max((call.remaining_seconds() for call in calls), default=BATCH_SECONDS)
        ) as shared:
            try:
                return await self._run(works)
            finally:
                if shared.effects:  # of the one transaction that all of them were in
                    for call in calls:
                        call.effects = True
