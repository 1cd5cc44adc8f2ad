"""A service whose crash points a test arms while it runs: `python -m tests.e2e.armable
payment_rpc`. SIGUSR1 makes it read the points from the file named by PMTEST_FAILPOINTS; it removes
the file when they are armed. So one restart serves two crashes: the process that repairs the last
one is the one that dies next.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from mesh import failpoints

FILE = "PMTEST_FAILPOINTS"  # not PAYMESH_*: no service may take it for a setting


def _arm(_number: int, _frame: FrameType | None) -> None:
    file = Path(os.environ[FILE])
    failpoints.arm(file.read_text(), environment="test")
    file.unlink()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _arm)
    importlib.import_module(f"{sys.argv[1]}.__main__").main()
