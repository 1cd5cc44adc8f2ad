"""What the numbers were taken on, and how CPU time is read."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("grpcio", "protobuf", "sqlalchemy", "aiomysql", "redis", "uvicorn", "uvloop", "protovalidate", "pyjwt")
_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """CPU count and versions, for the head of the report."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} CPUs, Python {platform.python_version()}, Linux {platform.release()}; {packages}"


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def median(values: Sequence[float]) -> float:
    """The middle one: one slow round does not count."""
    return statistics.median(values)
