"""Starts, watches, restarts and stops the planned processes.

Kept true: while the supervisor runs, a process that dies is started again; when the supervisor ends, in whatever way, no process is left (each
is on a leash, see `leash`). Processes are in groups of their own, so that a Ctrl-C reaches the supervisor alone and they stop in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from mesh.supervisor.health import Probe

PROBE_INTERVAL_SECONDS = 0.1
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 30.0        # a process that ran this long starts over in the backoff
STOP_SECONDS = 10.0          # between SIGTERM and SIGKILL
LOG_BYTES_MAX = 16 * 1024 * 1024
_TAIL_BYTES = 4000
_LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """One process to keep running.

    Attributes:
        name: of its log file and in messages, e.g. "payment_rpc-2".
        command: program and arguments.
        env: on top of the supervisor's environment.
        probe: how to see that it is well.
        is_early: True when it starts before the databases have their schema; it and what uses it then start side by side.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # holds passwords
    probe: Probe
    is_early: bool = False


class EventKind(StrEnum):
    """What happened to a process."""

    STARTED = "STARTED"        # it has a process id
    HEALTHY = "HEALTHY"        # it answered well for the first time since it was started
    DIED = "DIED"              # it ended and nobody asked it to; detail says how
    KILLED = "KILLED"          # it did not stop in time
    STOPPED = "STOPPED"        # it ended because we asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line for people."""

    kind: EventKind
    name: str
    pid: int
    detail: str = ""
    seconds: float = 0.0       # since it was started


class StartFailed(Exception):
    """A process died or stayed ill while the mesh was starting; the message ends with the last lines of its log."""


class Supervisor:
    """Runs processes. Use from one task of the main thread: the leash follows the thread that started a process."""

    def __init__(self, *, log_dir: Path, on_event: Callable[[Event], None], on_line: Callable[[str, str], None] | None = None,
                 stop_seconds: float = STOP_SECONDS) -> None:
        """
        Args:
            log_dir: exists.
            on_event: told of everything that happens.
            on_line: called with (name, line) for every line that a process prints, besides its log file.
            stop_seconds: between SIGTERM and SIGKILL.
        """
        self._stop_seconds = stop_seconds
        self._log_dir = log_dir
        self._on_event = on_event
        self._on_line = on_line
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._healthy: dict[str, asyncio.Future[None]] = {}
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run now."""
        return {name: process.pid for name, process in self._running.items()}

    def start(self, plans: Sequence[ProcessPlan]) -> None:
        """Starts processes at once and keeps them running."""
        for plan in plans:
            self._healthy[plan.name] = asyncio.get_running_loop().create_future()
            self._keepers.append(asyncio.create_task(self._keep(plan), name=plan.name))

    async def wait_healthy(self, *, timeout_seconds: float) -> None:
        """Waits until every started process was well once.

        Raises:
            StartFailed: one died before, or the time is over.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*self._healthy.values())
        except TimeoutError:
            ill = [name for name, future in self._healthy.items() if not future.done() or future.cancelled()]
            raise StartFailed("\n".join(f"{name} is not well after {timeout_seconds:g} s\n{self.log_tail(name)}" for name in ill)) from None

    async def stop(self) -> None:
        """SIGTERM to all at once, SIGKILL to those that are still there after `stop_seconds`. Returns when none is left."""
        self._stopping.set()
        self._signal_all(signal.SIGTERM)
        for future in self._healthy.values():
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen: nobody waits any more
        if self._keepers:
            _, late = await asyncio.wait(self._keepers, timeout=self._stop_seconds)
            if late:
                self.kill()
                await asyncio.wait(late)

    def kill(self) -> None:
        """SIGKILL to every process that is left, at once."""
        for name, process in self._running.items():
            self._on_event(Event(kind=EventKind.KILLED, name=name, pid=process.pid))
        self._signal_all(signal.SIGKILL)

    def log_file(self, name: str) -> Path:
        """Where a process writes."""
        return self._log_dir / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last lines that a process wrote."""
        try:
            with self.log_file(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-15:])
        except FileNotFoundError:
            return ""

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, plan: ProcessPlan) -> None:
        """Runs one process again and again until `stop`."""
        failures = 0
        while not self._stopping.is_set():
            seconds = await self._run_once(plan)
            if self._stopping.is_set():
                return
            failures = 0 if seconds >= STABLE_SECONDS else failures + 1
            with suppress(TimeoutError):
                async with asyncio.timeout(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]):
                    await self._stopping.wait()

    async def _run_once(self, plan: ProcessPlan) -> float:
        """Starts the process and waits for its end. Returns how many seconds it ran."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            process, tee = await self._spawn(plan)
        except OSError as problem:  # no memory, no descriptors
            self._died(plan.name, pid=0, detail=str(problem), seconds=0)
            return 0
        self._running[plan.name] = process
        if self._stopping.is_set():  # stop() did not see it
            process.terminate()
        self._on_event(Event(kind=EventKind.STARTED, name=plan.name, pid=process.pid))
        watch = asyncio.create_task(self._watch_health(plan, process.pid, began))
        try:
            code = await process.wait()
        finally:
            watch.cancel()
            del self._running[plan.name]
        if tee:
            await tee
        seconds = loop.time() - began
        if self._stopping.is_set():
            self._on_event(Event(kind=EventKind.STOPPED, name=plan.name, pid=process.pid, seconds=seconds))
            return seconds
        detail = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._died(plan.name, pid=process.pid, detail=detail, seconds=seconds)
        return seconds

    def _died(self, name: str, *, pid: int, detail: str, seconds: float) -> None:
        self._on_event(Event(kind=EventKind.DIED, name=name, pid=pid, detail=detail, seconds=seconds))
        if not (first := self._healthy[name]).done():
            first.set_exception(StartFailed(f"{name} ended while starting ({detail})\n{self.log_tail(name)}"))

    async def _spawn(self, plan: ProcessPlan) -> tuple[asyncio.subprocess.Process, asyncio.Task[None] | None]:
        leashed = (sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *plan.command)
        log = _open_log(self.log_file(plan.name))
        try:
            process = await asyncio.create_subprocess_exec(
                *leashed, env={**os.environ, **plan.env}, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.STDOUT,
                stdout=asyncio.subprocess.PIPE if self._on_line else log, process_group=0)
            tee = asyncio.create_task(self._tee(plan.name, process, os.dup(log))) if self._on_line else None
        finally:
            os.close(log)
        return process, tee

    async def _tee(self, name: str, process: asyncio.subprocess.Process, log: int) -> None:
        if process.stdout is None or self._on_line is None:
            raise AssertionError("a tee needs a pipe and a listener")
        with os.fdopen(log, "wb", buffering=0) as file:
            while chunk := await process.stdout.readline():
                file.write(chunk)
                self._on_line(name, chunk.decode(errors="replace").rstrip("\n"))

    async def _watch_health(self, plan: ProcessPlan, pid: int, began: float) -> None:
        while await plan.probe():  # noqa: ASYNC110  # another process cannot set an event of ours
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        self._on_event(Event(kind=EventKind.HEALTHY, name=plan.name, pid=pid, seconds=asyncio.get_running_loop().time() - began))
        if not (first := self._healthy[plan.name]).done():
            first.set_result(None)


def _open_log(path: Path) -> int:
    """Opens a log for appending; one that has grown too long becomes `<name>.log.1` first."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
