"""Does group commit: calls for the same key that arrive while a batch of that key runs share the
next batch. Each call gets its own result. A single call does not wait for others. A batch that
fails as a whole is run again one by one, in the order of arrival.

A call that is cancelled, or whose deadline passes, before its batch begins is left out of it. A
later cancellation does not affect the other calls of the batch.
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

WAITING_MAX = 2000  # per key: more cannot be served within any deadline
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
        """Whether the caller no longer waits. Past the deadline it gets DeadlineExceeded here."""
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
        """`run` does a batch in one transaction. It returns a result or an error for each, or
        raises for all of them.
        """
        self.batch_max = batch_max
        self._run = run
        self._waiting_max = waiting_max
        self._waiting: dict[K, deque[_Waiting[W, R]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, key: K, work: W, *, exclusive_key: str = "") -> R:
        """Does one piece of work, in a batch with others of its key. Two with the same
        `exclusive_key` never share a batch; "" is no key.

        Raises:
            Unavailable: too many wait for this key; nothing was done.
            DeadlineExceeded: its batch did not begin in time; nothing was done.
            MeshError: the error of this work.
        """
        waiting: _Waiting[W, R] = _Waiting(
            work, exclusive_key, asyncio.get_running_loop().create_future(), current_call()
        )
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque([waiting])
            # In its own task and context: a caller that is cancelled does not cancel the work of
            # others, and a batch does not modify the first caller's `Call`.
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
        except Exception as problem:  # noqa: BLE001  of the batch or of its only work; each caller gets its own
            if len(batch) > 1:
                for waiting in batch:
                    if not waiting.is_gone():
                        await self._do_batch([waiting])
                return
            results = [problem]
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():  # its caller was cancelled meanwhile
                continue
            if isinstance(result, BaseException):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    async def _run_for(self, batch: Sequence[_Waiting[W, R]]) -> Sequence[R | MeshError]:
        """Runs a batch as a call with the latest deadline of its callers. A batch of one runs as
        the call of its caller.
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
                if shared.effects:  # of the transaction that all of them share
                    for call in calls:
                        call.effects = True
