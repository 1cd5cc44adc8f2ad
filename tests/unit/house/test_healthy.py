"""The health check of containers: right, and so cheap that every ten seconds cost nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from mesh.metrics import MetricsPort
from tools.processes import ROOT

SCRIPT = ROOT / "deploy" / "compose" / "healthy.py"
CPU_SECONDS_MAX = 0.06


async def run(target: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(SCRIPT),
        target,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode().strip()


@pytest.fixture
async def serving() -> dict[str, bool]:
    return {"now": True}


async def test_it_follows_what_the_process_says_of_itself(serving: dict[str, bool]) -> None:
    port = MetricsPort(is_serving=lambda: serving["now"])
    await port.start("127.0.0.1", 0)
    try:
        assert await run(f"127.0.0.1:{port.port}/readyz") == (0, "")
        serving["now"] = False
        assert await run(f"127.0.0.1:{port.port}/readyz") == (1, "HTTP/1.1 503 Service Unavailable")
        assert await run(f"127.0.0.1:{port.port}/nowhere") == (1, "HTTP/1.1 404 Not Found")
    finally:
        await port.stop()


async def test_nobody_there_is_not_healthy(free_port: int) -> None:
    code, said = await run(f"127.0.0.1:{free_port}/readyz")
    assert code == 1
    assert "refused" in said


def test_it_costs_little(free_port: int) -> None:
    def cost() -> float:
        before = os.times()
        subprocess.run(
            [sys.executable, "-I", "-S", str(SCRIPT), f"127.0.0.1:{free_port}/"],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    assert min(cost() for _ in range(5)) < CPU_SECONDS_MAX
