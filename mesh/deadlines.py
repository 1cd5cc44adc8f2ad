"""Ends calls at their deadline. All calls of one queue have the same timeout, so the oldest is due
first and one timer serves them all. A timer per call would cost as much as the rest of the
pipeline."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from mesh.call import Call
from mesh.errors import DeadlineExceeded, MeshError


class DeadlineQueue:
    """The calls that wait for the same event, oldest first."""

    __slots__ = ("_calls", "_counts", "_timer")

    def __init__(self) -> None:
        self._calls: dict[Call, tuple[float, asyncio.Task[Any], str]] = {}
        self._counts: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def count(self, of: str) -> int:
        """The number of calls of one caller."""
        return self._counts.get(of, 0)

    def begin(self, call: Call, due: float, *, of: str = "") -> None:
        """Adds a call, served by the current task. It ends with DeadlineExceeded at `due` on the
        monotonic clock; `of` names the caller."""
        task = asyncio.current_task()
        if task is not None:
            self._calls[call] = (due, task, of)
            self._counts[of] = self._counts.get(of, 0) + 1
            if self._timer is None:
                self._arm(due)

    def end(self, call: Call) -> None:
        """Removes a call; does nothing for one that is not in the queue."""
        entry = self._calls.pop(call, None)
        if entry is not None:
            left = self._counts[entry[2]] - 1
            if left:
                self._counts[entry[2]] = left
            else:
                del self._counts[entry[2]]

    def end_oldest(self, refusal: MeshError, *, of: str | None = None) -> None:
        """Ends the call that has waited longest, of one caller or of all, with `refusal`."""
        for call, (_, task, name) in self._calls.items():
            if of is None or name == of:
                self.end(call)
                _end(call, task, refusal)
                return

    def _arm(self, due: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(due - monotonic(), self._cut)

    def _cut(self) -> None:
        self._timer = None
        now = monotonic()
        for call, (due, task, _) in self._calls.items():
            if due > now:
                self._arm(due)
                return
            _end(call, task, DeadlineExceeded())


def _end(call: Call, task: asyncio.Task[Any], refusal: MeshError) -> None:
    if call.cut is None:
        call.cut = refusal
        task.cancel()
