"""tools/fetch-consul, as far as it goes without a Debian mirror."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tools.processes import ROOT

SCRIPT = ROOT / "tools" / "fetch-consul"


def test_an_agent_that_is_there_is_left_alone_in_silence(tmp_path: Path) -> None:
    agent = tmp_path / "usr" / "bin" / "consul"
    agent.parent.mkdir(parents=True)
    agent.write_text("mine")
    agent.chmod(0o755)
    done = subprocess.run([SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert agent.read_text() == "mine"


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "dirname"):
        (programs / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [SCRIPT, tmp_path / "consul"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(programs)},
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "fetch-consul: this machine has no apt; install Consul yourself and set CONSUL_BIN\n"
    )
    assert not (tmp_path / "consul").exists()
