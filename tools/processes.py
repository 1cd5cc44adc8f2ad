"""Processes that tests and measurements start: found by port, URL or log line, stopped by their own
ids, and dead when the run that started them is dead.

Every process gets its own session and a mark in its environment, so that whatever it starts itself
can be found, counted and killed with it. Linux only (/proc, PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
MARK = "PMTEST_TREE"  # not PAYMESH_*: no service may take it for a setting
POLL_SECONDS = 0.02

# Asks the kernel to kill this process with its parent, checks that the parent has not died before
# that, becomes the command.
# A program of its own rather than preexec_fn: forking a test process that runs gRPC threads can
# deadlock.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(125)
os.execvp(sys.argv[2], sys.argv[2:])
"""

_ports_given: set[int] = set()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on and that this run has not given away before.

    It lies below the range that the kernel takes for outgoing connections: a port from bind(0) can
    be taken again before it is used.
    """
    try:
        first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first_ephemeral = 32768
    for _ in range(1000):
        port = random.randrange(10_240, first_ephemeral) if first_ephemeral > 12_000 else 0
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            bound: int = probe.getsockname()[1]
            if bound not in _ports_given:
                _ports_given.add(bound)
                return bound
    raise AssertionError("no free port in 1000 attempts")


def _is_alive(pid: int) -> bool:
    """False also for a zombie: the process that inherits it may reap it late."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Process:
    """One process started by a test, its log, and everything that it started.

    Start it from the main thread: the kernel kills it when the *thread* that started it ends.
    """

    def __init__(
        self,
        *command: str,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        name: str = "",
        cwd: Path = ROOT,
    ) -> None:
        self.command = command
        self.name = name or Path(command[0]).name
        self.log_path = log_path
        self._cwd = cwd
        self._tree = uuid4().hex
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {}), MARK: self._tree}
        self._popen: subprocess.Popen[bytes] | None = None

    @classmethod
    def module(
        cls,
        module: str,
        *arguments: str,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        name: str = "",
    ) -> Process:
        """`python -m module arguments` with this interpreter, in the root of the repository."""
        return cls(
            sys.executable,
            "-m",
            module,
            *arguments,
            log_path=log_path,
            env=env,
            name=name or module,
        )

    def start(self) -> Self:
        """Starts it; after its end it may be started again, the log is appended to."""
        assert self._popen is None or self._popen.poll() is not None, f"{self.name} runs already"
        assert threading.current_thread() is threading.main_thread(), (
            "started from a thread, it would die with that thread"
        )
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-ISc", _LAUNCHER, str(os.getpid()), *self.command],
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return None if self._popen is None else self._popen.poll()

    def log_text(self) -> str:
        """Everything that it has written to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of its log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_for(
        self, condition: Callable[[], bool], what: str, timeout_seconds: float = 30
    ) -> None:
        """Waits until `condition()` is true.

        Raises:
            AssertionError: the process has ended, or the time is over; with the end of the log.
        """
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if self.returncode is not None:
                raise AssertionError(
                    f"{self.name} ended with {self.returncode} before {what}\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"{self.name}: no {what} within {timeout_seconds} s\n{self.log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def wait_for_port(self, port: int, timeout_seconds: float = 30) -> None:
        """Waits until somebody listens on a loopback port."""

        def listens() -> bool:
            with socket.socket() as probe:
                probe.settimeout(1)
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.wait_for(listens, f"listener on port {port}", timeout_seconds)

    def wait_for_http(
        self,
        url: str,
        *,
        status: int = 200,
        timeout_seconds: float = 30,
        ssl_context: ssl.SSLContext | None = None,
    ) -> bytes:
        """Waits until GET `url` answers with `status`; returns the body of that answer."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl_context)
        )
        bodies: list[bytes] = []

        def answers() -> bool:
            try:
                with opener.open(url, timeout=2) as answer:
                    got, body = answer.status, answer.read()
            except urllib.error.HTTPError as refusal:
                with refusal:
                    got, body = refusal.code, refusal.read()
            except OSError:
                return False
            bodies.append(body)
            return bool(got == status)

        self.wait_for(answers, f"HTTP {status} from {url}", timeout_seconds)
        return bodies[-1]

    def wait_for_log(self, text: str, timeout_seconds: float = 30) -> None:
        """Waits until its log contains `text`."""
        self.wait_for(lambda: text in self.log_text(), f"{text!r} in the log", timeout_seconds)

    def wait_for_exit_of(self, pid: int, timeout_seconds: float = 5) -> None:
        """Waits until another process, e.g. one that this one started, has ended."""
        deadline = time.monotonic() + timeout_seconds
        while _is_alive(pid):
            assert time.monotonic() < deadline, (
                f"process {pid} still lives after {timeout_seconds} s"
            )
            time.sleep(POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to this process alone, e.g. SIGSTOP and SIGCONT to freeze and thaw it."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self, timeout_seconds: float = 20) -> int:
        """Waits for its end and returns how it ended.

        Raises:
            AssertionError: it runs on after `timeout_seconds`; with the end of the log.
        """
        assert self._popen is not None, f"{self.name} was not started"
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {timeout_seconds} s\n{self.log_tail()}"
            ) from None

    def kill(self) -> int:
        """kill -9: no line of it runs any more, as after a crash. What it started lives on."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def terminate(self, timeout_seconds: float = 20) -> int:
        """SIGTERM, and its end."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_seconds)

    def interrupt(self, timeout_seconds: float = 20) -> int:
        """Ctrl-C as a terminal sends it, to the whole process group, and its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGINT)
        return self.wait(timeout_seconds)

    def survivors(self) -> dict[int, str]:
        """Process id -> command line of everything that lives and was started by this process,
        itself included.
        """
        if self._popen is None:
            return {}
        self._popen.poll()  # reap it: a zombie is no survivor
        mark = f"{MARK}={self._tree}".encode()
        found: dict[int, str] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):  # it ended while we looked
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                ours = int(session) == self.pid or mark in (folder / "environ").read_bytes().split(
                    b"\0"
                )
                if ours and state != "Z":
                    found[int(folder.name)] = (
                        (folder / "cmdline")
                        .read_bytes()
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                        .strip()
                    )
        return found

    def assert_no_survivors(self, timeout_seconds: float = 5) -> None:
        """Fails when anything of its tree still lives after `timeout_seconds`, and ends it."""
        deadline = time.monotonic() + timeout_seconds
        while (left := self.survivors()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if left:
            self.destroy()
            raise AssertionError(f"{self.name} left behind: {left}")

    def destroy(self) -> None:
        """Ends the whole tree, whatever state it is in."""
        deadline = time.monotonic() + 10
        while (left := self.survivors()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        if self._popen is not None:
            self._popen.wait(10)
