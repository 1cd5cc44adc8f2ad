"""What the end of a run tells about crashes."""

from __future__ import annotations

import pytest

from tests.e2e import seckill_runs
from tests.e2e.crashes import RUNS, table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Crash points x ways to die x runs; sales x what failed in them."""
    if RUNS:
        terminalreporter.section("crash points")
        for line in table(RUNS):
            terminalreporter.write_line(line)
    if seckill_runs.RUNS:
        terminalreporter.section("flash sales under faults")
        for line in seckill_runs.table(seckill_runs.RUNS):
            terminalreporter.write_line(line)
