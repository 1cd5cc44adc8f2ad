"""Group commit for a hot product: calls for the same key that arrive while a transaction of that key is running share the next one. Answers stay
individual, nobody waits when nothing is running, and a group that fails as a whole is done again one by one, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from mesh.errors import MeshError

K = TypeVar("K", bound=Hashable)
W = TypeVar("W")
R = TypeVar("R")

_Waiting = tuple[W, str, "asyncio.Future[R]"]


class Grouping(Generic[K, W, R]):
    """Runs wishes of one key in groups, one group of a key at a time."""

    def __init__(self, run: Callable[[Sequence[W]], Awaitable[Sequence[R | MeshError]]], *, group_max: int) -> None:
        """`run` does a group in one transaction: an answer or a refusal for each, or an exception for all of them."""
        self.group_max = group_max
        self._run = run
        self._waiting: dict[K, deque[_Waiting[W, R]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, key: K, wish: W, *, apart: str = "") -> R:
        """Does one wish, in a group with others of its key. Two wishes with the same `apart` never share a group, "" is none.

        Raises:
            Whatever refuses this wish.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = deque([(wish, apart, future)])
            task = asyncio.create_task(self._drain(key))  # its own: a caller that goes away cuts nobody else's order
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append((wish, apart, future))
        return await future

    async def _drain(self, key: K) -> None:
        queue = self._waiting[key]
        try:
            while queue:
                await self._do_group(self._next_group(queue))
        finally:
            del self._waiting[key]

    def _next_group(self, queue: deque[_Waiting[W, R]]) -> list[_Waiting[W, R]]:
        group: list[_Waiting[W, R]] = []
        taken: set[str] = set()
        kept: list[_Waiting[W, R]] = []
        while queue and len(group) < self.group_max:
            waiting = queue.popleft()
            if waiting[1] and waiting[1] in taken:
                kept.append(waiting)
            else:
                taken.add(waiting[1])
                group.append(waiting)
        queue.extendleft(reversed(kept))
        return group

    async def _do_group(self, group: Sequence[_Waiting[W, R]]) -> None:
        try:
            results: Sequence[R | BaseException] = await self._run([wish for wish, _, _ in group])
        except Exception as problem:  # noqa: BLE001  of the group or of its only wish; each hears its own
            if len(group) > 1:
                for waiting in group:
                    await self._do_group([waiting])
                return
            results = [problem]
        for (_, _, future), result in zip(group, results, strict=True):
            if future.done():  # its caller went away
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
