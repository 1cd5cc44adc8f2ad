"""A mesh that `paymesh up` runs, as its user has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from paymesh_cli.supervisor.installation import Installation, RunningMesh
from tests.e2e.mesh_processes import FREE_PORTS
from tests.support.processes import Processes
from tools.processes import Process

BIN = Path(sys.executable).parent
UP_SECONDS_MAX = 90.0  # cold, on a busy machine


class Mesh:
    """A mesh that `paymesh up` runs."""

    def __init__(self, var_dir: Path, processes: Processes) -> None:
        self.installation = Installation(var_dir)
        self._processes = processes
        self.env = {**FREE_PORTS, "PAYMESH_VAR_DIR": str(var_dir)}
        self.up: Process

    def start(self, *, with_providers: bool = False) -> RunningMesh:
        providers = "--providers" if with_providers else "--no-providers"
        self.up = self._processes.command(str(BIN / "paymesh"), "up", providers, env=self.env)
        self.up.wait_for(lambda: "paymesh is up" in self.up.log_text(), "URLs", UP_SECONDS_MAX)
        running = self.installation.running()
        assert running is not None
        return running

    def paymesh(
        self, *arguments: str, timeout_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "paymesh"), *arguments],
            env={"PATH": str(BIN), **self.env},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    def token(self, *arguments: str) -> str:
        done = self.paymesh("token", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
