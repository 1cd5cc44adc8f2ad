"""Calls that are ended when their time is over. All calls of one queue get the same time, so the
oldest is due first: one timer serves them all, where a timer for each would cost as much as the
rest of the pipeline."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from mesh.call import Call
from mesh.errors import DeadlineExceeded, MeshError


class DeadlineQueue:
    """The calls that are waiting for one thing, oldest first."""

    __slots__ = ("_calls", "_counts", "_timer")

    def __init__(self) -> None:
        self._calls: dict[Call, tuple[float, asyncio.Task[Any], str]] = {}
        self._counts: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def count(self, of: str) -> int:
        """The calls of one caller."""
        return self._counts.get(of, 0)

    def begin(self, call: Call, due: float, *, of: str = "") -> None:
        """The running task serves a call of a caller, which ends with DeadlineExceeded at `due` on
        the monotonic clock."""
        task = asyncio.current_task()
        if task is not None:
            self._calls[call] = (due, task, of)
            self._counts[of] = self._counts.get(of, 0) + 1
            if self._timer is None:
                self._arm(due)

    def end(self, call: Call) -> None:
        """It is no longer waited for, or never was."""
        entry = self._calls.pop(call, None)
        if entry is not None:
            left = self._counts[entry[2]] - 1
            if left:
                self._counts[entry[2]] = left
            else:
                del self._counts[entry[2]]

    def end_oldest(self, refusal: MeshError, *, of: str | None = None) -> None:
        """Makes room: whoever waits for the longest time, of one caller or of all, is refused."""
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
