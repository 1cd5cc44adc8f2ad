"""Keeps the last good answer of a slow or absent neighbour, by key."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Generic, TypeVar

from mesh.logs import get_logger

Value = TypeVar("Value")

log = get_logger()


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    fresh_until: float


class LastGood(Generic[Value]):
    """Answers by key, asked for again when they are no longer fresh. While the neighbour does not
    answer, the last good answer stands, however old it is. Many who want one key at once share one
    question. A key without an answer is not remembered, so no failure outlives its cause.
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[Value]],
        *,
        fresh_seconds: float,
        entries_max: int,
        now: Callable[[], float] = monotonic,
    ) -> None:
        """
        Args:
            load: asks the neighbour; raises what a caller without an answer gets.
            fresh_seconds: how long an answer is not asked for again, and how long a failure is not
                tried again where there is an old answer.
            entries_max: beyond it the key that was wanted longest ago is forgotten.
        """
        self._load = load
        self._fresh_seconds = fresh_seconds
        self._entries_max = entries_max
        self._now = now
        self._entries: OrderedDict[str, _Entry[Value]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Value]] = {}

    async def get(self, key: str) -> Value:
        """The answer for a key.

        Raises:
            Exception: whatever `load` raises, when there never was an answer.
        """
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            if self._now() < entry.fresh_until:
                return entry.value
        try:
            return await asyncio.shield(self._shared(key))
        except Exception as problem:
            entry = self._entries.get(key)
            if entry is None:
                raise
            log.warning("last_good_answer_stands", key=key, problem=type(problem).__name__)
            entry.fresh_until = self._now() + self._fresh_seconds
            return entry.value

    def known(self, key: str) -> Value | None:
        """The last good answer, however old, without asking; None when there never was one."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def forget(self, key: str) -> None:
        """Lets the next `get` ask anew. A question that is under way is not believed any more."""
        self._entries.pop(key, None)
        self._loading.pop(key, None)

    def _shared(self, key: str) -> asyncio.Task[Value]:
        task = self._loading.get(key)
        if task is None:
            # Not within the call that came first: its deadline is not that of the others.
            task = asyncio.create_task(self._ask(key), context=contextvars.Context())
            self._loading[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    async def _ask(self, key: str) -> Value:
        task = asyncio.current_task()
        value = await self._load(key)
        if self._loading.get(key) is not task:
            return value  # the key was forgotten meanwhile
        self._entries[key] = _Entry(value=value, fresh_until=self._now() + self._fresh_seconds)
        self._entries.move_to_end(key)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
        return value

    def _finish(self, key: str, done: asyncio.Task[Value]) -> None:
        if self._loading.get(key) is done:
            del self._loading[key]
        if not done.cancelled():
            done.exception()  # marks it as retrieved when everybody who waited went away
