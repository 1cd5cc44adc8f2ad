"""A service whose clock a test sets while it runs: `python -m tests.chaos.clocked order_rpc`.

SIGUSR2 makes it read its offset, in seconds, from the file named by PMTEST_CLOCK. Monotonic time is
never touched, as on a real machine.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType

from mesh.clock import SystemClock

FILE = "PMTEST_CLOCK"  # not PAYMESH_*: no service may take it for a setting


class _Offset:
    """How far the clock of this process is from the machine's."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._true_now = SystemClock.now

    def as_method(self) -> Callable[[SystemClock], datetime]:
        """`now` of every clock in this process."""

        def now(clock: SystemClock) -> datetime:
            return self._true_now(clock) + self._ahead

        return now

    def read(self, _number: int, _frame: FrameType | None) -> None:
        """Takes the offset from the file and removes it: the test sees that it was taken."""
        file = Path(os.environ[FILE])
        self._ahead = timedelta(seconds=float(file.read_text()))
        file.unlink()


if __name__ == "__main__":
    offset = _Offset()
    SystemClock.now = offset.as_method()  # type: ignore[assignment,method-assign]
    signal.signal(signal.SIGUSR2, offset.read)
    importlib.import_module(f"{sys.argv[1]}.__main__").main()
