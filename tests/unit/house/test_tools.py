"""The scripts of tools/ on stand-ins for the programs that they call, and the folders of test
servers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tools import servers
from tools.processes import ROOT

# Plays an interpreter: says whether it fits, makes an environment out of itself, and notes what pip
# is asked for.
PYTHON = """#!/bin/sh
case "$1" in
  -c) exit "${FITS:-0}" ;;
  --version) echo "Python 3.12.0" ;;
  -m)
    case "$2" in
      venv) [ -z "$VENV_FAILS" ] || { mkdir -p "$3"; exit 1; }; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "venv $3" >> "$CALLS" ;;
      pip) shift 2; echo "pip $*" | sed 's, /[^ ]*, OWN_LOCK,' >> "$CALLS" ;;
    esac ;;
esac
"""


class Tool:
    """Runs a script of tools/ with these programs alone."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        # what a script makes beside itself is no business of this repository
        self.tools = folder / "repository" / "tools"
        self.tools.mkdir(parents=True)
        self.calls = folder / "calls"
        self.calls.touch()
        (self.tools.parent / "requirements.lock").write_text("a==1 --hash=sha256:0\n")
        for name in (
            "bash", "sh", "dirname", "grep", "sed", "mktemp", "cp", "mkdir", "rm", "env", "id",
        ):  # fmt: skip
            (self.programs / name).symlink_to(str(shutil.which(name)))

    def add(self, name: str, script: str = "#!/bin/sh\n") -> Path:
        path = self.programs / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def run(
        self, script: str, *arguments: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        copy = shutil.copy(ROOT / "tools" / script, self.tools)
        return subprocess.run(
            [str(shutil.which("bash")), copy, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": str(self.programs), "CALLS": str(self.calls), **environment},
            timeout=60,
        )


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(tmp_path)


def test_an_environment_is_made_once_and_filled_by_hash_from_the_lock_file(
    tool: Tool, tmp_path: Path
) -> None:
    tool.add("python3", PYTHON)
    folder = tmp_path / "venv"
    for _ in range(2):
        done = tool.run("make-venv", folder, "requirements.lock")
        assert done.returncode == 0, done.stderr
    locked, own = (
        "pip install -qq --require-hashes -r requirements.lock",
        "pip install -qq --no-build-isolation --no-deps -e generated -e .",
    )
    assert tool.calls.read_text().splitlines() == [f"venv {folder}", locked, own, locked, own]


@pytest.mark.parametrize("uv_works", [True, False], ids=["uv", "pip_where_uv_finds_nothing"])
def test_a_lock_file_with_uv_is_installed_by_it(uv_works: bool, tool: Tool, tmp_path: Path) -> None:
    tool.add("python3", PYTHON)
    (tool.tools.parent / "requirements-dev.lock").write_text(
        "a==1 --hash=sha256:0\nuv==2 \\\n    --hash=sha256:1\n    # via paymesh\nuvloop==3\n"
    )
    folder = tmp_path / "venv"
    uv = tool.add("uv", f'#!/bin/sh\necho "uv $*" >> "$CALLS"\nexit {0 if uv_works else 1}\n')
    (folder / "bin").mkdir(parents=True)
    shutil.copy(tool.programs / "python3", folder / "bin" / "python")
    shutil.copy(uv, folder / "bin" / "uv")
    done = tool.run("make-venv", folder, "requirements-dev.lock")
    assert done.returncode == 0, done.stderr
    python = f"--python {folder}/bin/python"
    by_uv = [
        "pip install -qq --require-hashes -r OWN_LOCK",
        f"uv pip install -q {python} --require-hashes -r requirements-dev.lock",
    ]
    if uv_works:
        by_uv.append(f"uv pip install -q {python} --no-build-isolation --no-deps -e generated -e .")
    by_pip = [
        "pip install -qq --require-hashes -r requirements-dev.lock",
        "pip install -qq --no-build-isolation --no-deps -e generated -e .",
    ]
    assert tool.calls.read_text().splitlines() == by_uv + ([] if uv_works else by_pip)


def test_an_interpreter_that_does_not_fit_is_named_with_what_to_do(
    tool: Tool, tmp_path: Path
) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        tool.add(name, PYTHON)
    done = tool.run("make-venv", tmp_path / "venv", "requirements.lock", FITS="1")
    assert done.returncode == 1
    assert "make run PYTHON=" in done.stderr
    assert tool.calls.read_text() == ""


def test_an_environment_that_could_not_be_made_leaves_nothing_behind(
    tool: Tool, tmp_path: Path
) -> None:
    tool.add("python3", PYTHON)
    done = tool.run("make-venv", tmp_path / "venv", "requirements.lock", VENV_FAILS="1")
    assert done.returncode == 1
    assert "python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists(), "else the next run would take it for an environment"


def test_servers_that_are_there_are_not_installed(tool: Tool) -> None:
    for name in ("mariadbd", "mariadb-install-db", "valkey-server", "consul", "node", "npm"):
        tool.add(name)
    done = tool.run("install-test-servers")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_servers_that_cannot_be_installed_are_named_and_stop_nothing(tool: Tool) -> None:
    for name in ("mariadbd", "mariadb-install-db", "node", "npm"):
        tool.add(name)
    done = tool.run("install-test-servers", CONSUL_BIN="/bin/true")
    assert done.returncode == 0, "the tests themselves say it again: skipped, or red in CI"
    assert (
        done.stderr == "missing for the tests: redis-server (no apt here, or no right to use it)\n"
    )


def test_folders_of_living_test_runs_stay_whatever_their_process_ids_and_those_of_dead_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MEMORY_BYTES_MIN", 0)
    mine = servers.server_folder(tmp_path)
    # as older versions named them, by a process id
    dead = tmp_path / f"{servers.PREFIX}4194304-left"
    young = tmp_path / f"{servers.PREFIX}young"
    for folder in (dead, young):
        folder.mkdir()
    past = time.time() - 3600
    for folder in (mine, dead):
        os.utime(folder, (past, past))
    other = servers.server_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, other.name, young.name}


def test_a_folder_of_another_process_that_lives_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MEMORY_BYTES_MIN", 0)
    folder = tmp_path / f"{servers.PREFIX}elsewhere"
    folder.mkdir()
    holder = subprocess.Popen(
        ["flock", "--no-fork", str(folder), "sh", "-c", "echo locked; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"locked\n"
        past = time.time() - 3600
        os.utime(folder, (past, past))
        servers.server_folder(tmp_path)
        assert folder.exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
