"""Runs programs of tests/clients in Node: provider clients that others wrote."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import Any, cast

from tools.processes import ROOT
from tools.servers import missing

_CLIENTS = ROOT / "tests" / "clients"
_SECONDS_MAX = 60.0


async def run_client(program: str, package: str, sent: Any) -> list[Any]:
    """What a program prints, which is JSON, after it got `sent` as JSON. Its clock is in China.

    Args:
        program: a file of tests/clients. package: what it needs; without it the test is skipped, or
            red where every test server is required.

    Raises:
        AssertionError: the program failed; shows what it wrote.
    """
    if shutil.which("node") is None or not (_CLIENTS / "node_modules" / package).is_dir():
        missing(f"Node with {package}", hint="make servers, or npm ci in tests/clients")
    process = await asyncio.create_subprocess_exec(
        "node",
        program,
        cwd=_CLIENTS,
        env={**os.environ, "TZ": "Asia/Shanghai", "NO_PROXY": "*", "no_proxy": "*"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(_SECONDS_MAX):
        out, error = await process.communicate(json.dumps(sent).encode())
    assert process.returncode == 0, error.decode()
    return cast("list[Any]", json.loads(out))
