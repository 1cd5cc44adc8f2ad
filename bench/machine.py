"""What the numbers were taken on, and how CPU time is read."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version

PACKAGES = (
    "grpcio",
    "protobuf",
    "sqlalchemy",
    "aiomysql",
    "redis",
    "uvicorn",
    "uvloop",
    "protovalidate",
    "pyjwt",
)
_ALL_THREADS = 2


def describe() -> str:
    """CPU count, what else they do, and versions, for the head of the report."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"{os.cpu_count()} CPUs with load {load}, Python {platform.python_version()}, Linux {platform.release()}; {packages}"


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of a process have used, user and system, to the nanosecond."""
    # the clock that clock_getcpuclockid(3) names
    return time.clock_gettime(~pid << 3 | _ALL_THREADS)


def median(values: Sequence[float]) -> float:
    """The middle one: one slow round does not count."""
    return statistics.median(values)
