"""The processes of one test, with their logs in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.processes import Process


class Processes:
    """The processes of one test."""

    def __init__(self, log_folder: Path) -> None:
        self.started: list[Process] = []
        self._log_folder = log_folder

    def module(
        self, module: str, *arguments: str, env: Mapping[str, str] | None = None, name: str = ""
    ) -> Process:
        """Starts `python -m module arguments`; give replicas of one module different names."""
        return self._start(
            Process.module(
                module, *arguments, env=env, name=name, log_path=self._log_path(name or module)
            )
        )

    def command(
        self, *command: str, env: Mapping[str, str] | None = None, name: str = ""
    ) -> Process:
        """Starts any program."""
        return self._start(
            Process(
                *command, env=env, name=name, log_path=self._log_path(name or Path(command[0]).name)
            )
        )

    def destroy(self) -> None:
        """Ends all of them, the last one first."""
        for process in reversed(self.started):
            process.destroy()

    def check_refusals(self) -> None:
        """None of our processes refused anything with a reason that its operation does not list, by
        their logs. Once all of them have ended.
        """
        # loads every service, and many a process is none of ours
        from tests.support.listed_errors import unlisted_in

        unlisted: set[tuple[str, str]] = set()
        for path in {process.log_path for process in self.started if process.log_path.exists()}:
            with path.open(errors="replace") as log:
                unlisted |= unlisted_in(log)
        assert sorted(unlisted) == [], (
            "see `methods` in errors.proto and gateway/openapi/refusals.py"
        )

    def _log_path(self, name: str) -> Path:
        return self._log_folder / f"{len(self.started):02d}-{name}.log"

    def _start(self, process: Process) -> Process:
        self.started.append(process)
        return process.start()
