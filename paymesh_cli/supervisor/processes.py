"""Starts, watches, restarts and stops the planned processes.

Invariants: while the supervisor runs, a process that dies is restarted. When the supervisor ends,
in any way, no process is left (each dies with it, see `parent_death`). Each process has its own
process group, so that a Ctrl-C reaches only the supervisor and the processes stop in order. An
error while an event is displayed (a closed terminal) stops no process and leaves none unsupervised.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from paymesh_cli.supervisor import log_files
from paymesh_cli.supervisor.health import Probe

PROBE_INTERVAL_SECONDS = 0.1
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 30.0  # a process that ran this long resets its backoff
STOP_SECONDS = 10.0  # between SIGTERM and SIGKILL
FOLLOW_SECONDS = 0.1  # between two reads of a displayed log
_PARENT_DEATH = Path(__file__).with_name("parent_death.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """One process to keep running.

    Attributes:
        name: of its log file and in messages, e.g. "payment_rpc-2".
        command: program and arguments.
        env: on top of the supervisor's environment.
        probe: its health probe.
        is_early: True when it starts before the databases have their schema; it and its users then
            start in parallel.
        stops_last: True when the others need it until they have stopped.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # holds passwords
    probe: Probe
    is_early: bool = False
    stops_last: bool = False


class EventKind(StrEnum):
    """An event in the life of a process."""

    STARTED = "STARTED"  # it has a process id
    HEALTHY = "HEALTHY"  # its first healthy probe since it was started
    DIED = "DIED"  # it ended without our request; detail says how
    # it ended with exit status 0, stopped from outside; it is restarted
    ENDED = "ENDED"
    KILLED = "KILLED"  # it did not stop in time
    STOPPED = "STOPPED"  # it ended on our request


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line for people."""

    kind: EventKind
    name: str
    pid: int
    detail: str = ""
    seconds: float = 0.0  # since it was started


class StartFailed(Exception):
    """A process died or stayed ill while the mesh was starting. The first line says why, the rest
    is from its log of this run.
    """


class Supervisor:
    """Runs processes. Use from one task of the main thread: a process dies with the thread that
    started it.
    """

    def __init__(
        self,
        *,
        log_dir: Path,
        on_event: Callable[[Event], None],
        on_line: Callable[[str, str], None] | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """
        Args:
            log_dir: exists.
            on_event: called with every event.
            on_line: called with (name, line) for every line that a process prints, besides its log
                file.
            stop_seconds: between SIGTERM and SIGKILL.
        """
        self._stop_seconds = stop_seconds
        self._log_dir = log_dir
        self._on_event = on_event
        self._on_line = on_line
        self._stopping = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._healthy: dict[str, asyncio.Future[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._last: set[str] = set()
        self._log_began: dict[str, int] = {}  # where the present run begins in the log
        self._answers: dict[str, str] = {}  # what the last probe said

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run now."""
        return {name: process.pid for name, process in self._running.items()}

    def start(self, plans: Sequence[ProcessPlan]) -> None:
        """Starts processes at once and keeps them running."""
        for plan in plans:
            self._healthy[plan.name] = asyncio.get_running_loop().create_future()
            self._tasks[plan.name] = asyncio.create_task(self._keep(plan), name=plan.name)
            if plan.stops_last:
                self._last.add(plan.name)

    async def wait_healthy(self, *, timeout_seconds: float) -> None:
        """Waits until every started process has been healthy once.

        Raises:
            StartFailed: one died before that, or the time is over.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*self._healthy.values())
        except TimeoutError:
            ill = [
                name
                for name, future in self._healthy.items()
                if not future.done() or future.cancelled()
            ]
            raise StartFailed(
                "\n".join(
                    self._failure(
                        name,
                        f"{name} is not healthy after {timeout_seconds:g} s",
                        self._answers.get(name, ""),
                    )
                    for name in ill
                )
            ) from None

    async def stop(self) -> None:
        """Sends SIGTERM to all at once, then to those that stop last, and SIGKILL to those still
        alive `stop_seconds` after their signal. Returns when none is left.
        """
        self._stopping.set()
        for future in self._healthy.values():
            if not future.cancel() and not future.cancelled():
                future.exception()  # retrieved, because no task awaits it any more
        await self._stop_these(self._tasks.keys() - self._last)
        await self._stop_these(self._last)

    async def _stop_these(self, names: Collection[str]) -> None:
        self._signal(names, signal.SIGTERM)
        tasks = [self._tasks[name] for name in names]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._stop_seconds)
            if late:
                self._kill_these(names)
                await asyncio.wait(late)

    def kill(self) -> None:
        """Sends SIGKILL to all remaining processes at once."""
        self._kill_these(self._running.keys())

    def _kill_these(self, names: Collection[str]) -> None:
        for name, process in self._running.items():
            if name in names:
                self._tell(
                    Event(
                        kind=EventKind.KILLED,
                        name=name,
                        pid=process.pid,
                        detail=f"{self._stop_seconds:g} s after SIGTERM",
                    )
                )
        self._signal(names, signal.SIGKILL)

    def log_file(self, name: str) -> Path:
        """The log file of a process."""
        return self._log_dir / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last relevant log lines of a process since it was started."""
        return "\n".join(log_files.tail(self.log_file(name), since=self._log_began.get(name, 0)))

    def _failure(self, name: str, what: str, answer: str = "") -> str:
        """The reason why the mesh did not start: one line, then the log."""
        lines = log_files.tail(self.log_file(name), since=self._log_began.get(name, 0))
        reason = answer or (lines[-1] if lines else "it wrote nothing")
        return "\n".join((f"{what}: {reason}", *lines, f"see {self.log_file(name)}"))

    def _tell(self, event: Event) -> None:
        with suppress(OSError):  # the listener may be gone while the processes still run
            self._on_event(event)

    def _signal(self, names: Collection[str], number: signal.Signals) -> None:
        for name, process in self._running.items():
            if name in names:
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
                async with asyncio.timeout(
                    BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                ):
                    await self._stopping.wait()

    async def _run_once(self, plan: ProcessPlan) -> float:
        """Starts the process and waits for its end. Returns how many seconds it ran."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            process = await self._spawn(plan)
        except OSError as problem:  # out of memory or descriptors
            self._died(plan.name, pid=0, detail=str(problem), seconds=0)
            return 0
        self._running[plan.name] = process
        if self._stopping.is_set():  # stop() did not see it
            process.terminate()
        self._tell(Event(kind=EventKind.STARTED, name=plan.name, pid=process.pid))
        watch = asyncio.create_task(self._watch_health(plan, process.pid, began))
        follower = log_files.Follower(self.log_file(plan.name), self._log_began[plan.name])
        following = (
            asyncio.create_task(self._follow(plan.name, follower)) if self._on_line else None
        )
        try:
            code = await process.wait()
        finally:
            watch.cancel()
            del self._running[plan.name]
        if following:
            following.cancel()
            self._show(plan.name, follower.rest())
        seconds = loop.time() - began
        if self._stopping.is_set():
            self._tell(
                Event(kind=EventKind.STOPPED, name=plan.name, pid=process.pid, seconds=seconds)
            )
        else:
            detail = (
                f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            )
            self._died(
                plan.name,
                pid=process.pid,
                detail=detail,
                seconds=seconds,
                kind=EventKind.DIED if code else EventKind.ENDED,
            )
        return seconds

    def _died(
        self, name: str, *, pid: int, detail: str, seconds: float, kind: EventKind = EventKind.DIED
    ) -> None:
        self._tell(Event(kind=kind, name=name, pid=pid, detail=detail, seconds=seconds))
        if not (first := self._healthy[name]).done():
            first.set_exception(
                StartFailed(self._failure(name, f"{name} ended while starting ({detail})"))
            )

    async def _spawn(self, plan: ProcessPlan) -> asyncio.subprocess.Process:
        bound = (sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *plan.command)
        log = log_files.open_log(self.log_file(plan.name))
        try:
            self._log_began[plan.name] = os.fstat(log).st_size
            return await asyncio.create_subprocess_exec(
                *bound,
                env={**os.environ, **plan.env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,
            )
        finally:
            os.close(log)

    async def _follow(self, name: str, follower: log_files.Follower) -> None:
        while True:
            self._show(name, follower.read())
            await asyncio.sleep(FOLLOW_SECONDS)

    def _show(self, name: str, lines: Sequence[str]) -> None:
        if self._on_line is not None:
            with suppress(OSError):
                for line in lines:
                    self._on_line(name, line)

    async def _watch_health(self, plan: ProcessPlan, pid: int, began: float) -> None:
        while answer := await plan.probe():  # another process cannot set an asyncio event
            self._answers[plan.name] = answer
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        self._tell(
            Event(
                kind=EventKind.HEALTHY,
                name=plan.name,
                pid=pid,
                seconds=asyncio.get_running_loop().time() - began,
            )
        )
        if not (first := self._healthy[plan.name]).done():
            first.set_result(None)
