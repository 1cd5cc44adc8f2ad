"""A log reader that went away ends no process and no call."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tools.processes import ROOT

NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status(url: str) -> int:
    try:
        with NO_PROXY.open(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


@pytest.mark.parametrize(("module", "path"), [("sandbox", "/healthz"), ("gateway", "/healthz")])
def test_a_process_serves_and_ends_in_good_order_without_a_reader_of_its_log(
    module: str, path: str, tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "page").write_text("p" * 32)
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        stdout=writer,
        stderr=writer,
        env={
            **os.environ,
            "PAYMESH_VAR_DIR": str(tmp_path),
            "SANDBOX_API_KEY_FILE": str(tmp_path / "key"),
            f"{module.upper()}_PORT": str(free_port),
            "PAYMESH_PAGE_TOKEN_SECRET_FILE": str(tmp_path / "page"),
            "PAYMESH_LOG_LEVEL": "DEBUG",
        },
    )
    os.close(writer)
    os.close(reader)  # gone before the first line
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, "it ended"
            try:
                status(f"http://127.0.0.1:{free_port}{path}")
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert {status(f"http://127.0.0.1:{free_port}{path}") for _ in range(150)} == {200}
        assert status(f"http://127.0.0.1:{free_port}/nowhere") == 404
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
