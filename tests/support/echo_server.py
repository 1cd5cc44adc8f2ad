"""A process that serves `EchoService` on uvloop, as production does; it prints its port. A request
with the text "wait" or `wait_ms` waits."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvloop

from mesh.logs import configure
from tests.support.echo import Echo, World


async def _do(request: Any, _context: Any) -> None:
    if request.text == "wait" or request.wait_ms:
        await asyncio.sleep(60)


async def main(folder: str) -> None:
    """Serves until it is killed."""
    configure("echo_rpc", "ERROR")
    async with World(Path(folder)).running(Echo(_do), log_level="ERROR") as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
