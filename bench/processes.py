"""Starting the servers under measurement and stopping exactly those."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

START_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: where it listens and which process it is."""

    name: str
    port: int
    pid: int


@contextmanager
def server(
    kind: str, environment: Mapping[str, str], *, module: str = "bench.servers"
) -> Iterator[Server]:
    """Runs `python -m MODULE KIND` until the end of the block; it ends by itself when we do,
    because its input ends.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{module} {kind} did not start")
        yield Server(name=kind, port=int(line), pid=process.pid)
    finally:
        process.kill()
        process.wait()


def wait_for_http(url: str) -> None:
    """Waits until a URL is answered.

    Raises:
        OSError: not within START_SECONDS.
    """
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
