"""What the end of a run tells about crashes."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.e2e.crashes", "tests.e2e.mesh_processes", "tests.e2e.payment_crashes", "tests.e2e.order_crashes")

from tests.e2e import seckill_runs  # noqa: E402  what it imports explains its failures only when it is imported after that
from tests.e2e.crashes import RUNS, table  # noqa: E402  likewise


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
