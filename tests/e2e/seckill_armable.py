"""seckill_rpc with crash points that a test arms while it runs, like `tests.e2e.armable`, and with
a clock that goes wrong by
PMTEST_CLOCK_SECONDS: in a sale only the clock of Redis counts."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from datetime import datetime, timedelta

from mesh.clock import SystemClock
from tests.e2e import armable

FILE = armable.FILE
CLOCK = "PMTEST_CLOCK_SECONDS"


def _shift_clock(shift: timedelta) -> None:
    now = SystemClock.now

    def shifted(clock: SystemClock) -> datetime:
        return now(clock) + shift

    SystemClock.now = shifted  # type: ignore[assignment,method-assign]  # the process under test has no other clock


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, armable._arm)
    if seconds := float(os.environ.get(CLOCK, "0")):
        _shift_clock(timedelta(seconds=seconds))
    importlib.import_module(f"{sys.argv[1]}.__main__").main()
