"""The supervisor on small real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mesh.supervisor.processes import Event, EventKind, ProcessPlan, StartFailed, Supervisor
from tests.processes import Process, Processes

DEADLINE_SECONDS = 10.0
SLEEPER = "import time; print('ready', flush=True); time.sleep(3600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(3600)"


async def well() -> str:
    return ""


async def ill() -> str:
    return "ill"


def plan(name: str, code: str, *, probe: Callable[..., object] = well) -> ProcessPlan:
    return ProcessPlan(name=name, command=(sys.executable, "-I", "-S", "-c", code), probe=probe)


def lives(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Watched:
    """A supervisor and what it told."""

    supervisor: Supervisor
    events: list[Event] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS), self.changed:
            await self.changed.wait_for(condition)

    def kinds(self, name: str) -> list[EventKind]:
        return [event.kind for event in self.events if event.name == name]


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[Callable[..., Watched]]:
    made: list[Watched] = []
    told: set[asyncio.Task[None]] = set()

    def make(*, stop_seconds: float = 5.0, verbose: bool = False) -> Watched:
        watched: Watched

        async def tell() -> None:
            async with watched.changed:
                watched.changed.notify_all()

        def on_event(event: Event) -> None:
            watched.events.append(event)
            told.add(asyncio.create_task(tell()))

        def on_line(name: str, line: str) -> None:
            watched.lines.append((name, line))
            told.add(asyncio.create_task(tell()))

        watched = Watched(Supervisor(log_dir=tmp_path, on_event=on_event, on_line=on_line if verbose else None, stop_seconds=stop_seconds))
        made.append(watched)
        return watched

    yield make
    for watched in made:
        await watched.supervisor.stop()
    await asyncio.gather(*told)


async def test_a_process_that_dies_is_started_again(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.supervisor.start([plan("one", SLEEPER), plan("two", SLEEPER)])
    await watched.supervisor.wait_healthy(timeout_seconds=DEADLINE_SECONDS)
    before = watched.supervisor.pids
    os.kill(before["one"], signal.SIGKILL)
    await watched.until(lambda: watched.kinds("one").count(EventKind.HEALTHY) == 2)
    after = watched.supervisor.pids
    assert after["one"] != before["one"]
    assert after["two"] == before["two"]
    died = next(event for event in watched.events if event.kind is EventKind.DIED)
    assert (died.name, died.pid, died.detail) == ("one", before["one"], "killed by SIGKILL")


async def test_stop_ends_all_and_starts_nothing_again(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.supervisor.start([plan("one", SLEEPER), plan("two", SLEEPER)])
    await watched.supervisor.wait_healthy(timeout_seconds=DEADLINE_SECONDS)
    pids = watched.supervisor.pids
    await watched.supervisor.stop()
    assert not any(map(lives, pids.values()))
    assert watched.supervisor.pids == {}
    for name in ("one", "two"):
        assert watched.kinds(name) == [EventKind.STARTED, EventKind.HEALTHY, EventKind.STOPPED]


async def test_who_does_not_stop_is_killed(watch: Callable[..., Watched]) -> None:
    watched = watch(stop_seconds=0.2, verbose=True)
    watched.supervisor.start([plan("stubborn", STUBBORN)])
    await watched.until(lambda: ("stubborn", "ready") in watched.lines)
    pid = watched.supervisor.pids["stubborn"]
    await watched.supervisor.stop()
    assert not lives(pid)
    assert EventKind.KILLED in watched.kinds("stubborn")


async def test_dying_while_starting_is_a_failure_that_shows_the_log(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.supervisor.start([plan("broken", "print('no such setting'); raise SystemExit(3)", probe=ill)])
    with pytest.raises(StartFailed, match=r"broken ended while starting \(exit status 3\)\nno such setting"):
        await watched.supervisor.wait_healthy(timeout_seconds=DEADLINE_SECONDS)


async def test_staying_ill_is_a_failure_that_names_the_process(watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.supervisor.start([plan("one", SLEEPER), plan("two", SLEEPER, probe=ill)])
    with pytest.raises(StartFailed, match=r"^two is not well after 0\.2 s"):
        await watched.supervisor.wait_healthy(timeout_seconds=0.2)


async def test_verbose_shows_lines_and_still_writes_the_log(watch: Callable[..., Watched]) -> None:
    watched = watch(verbose=True)
    watched.supervisor.start([plan("one", SLEEPER)])
    await watched.until(lambda: ("one", "ready") in watched.lines)
    assert watched.supervisor.log_tail("one") == "ready"


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from mesh.supervisor.processes import ProcessPlan, Supervisor

async def well():
    return ""

async def run():
    supervisor = Supervisor(log_dir=Path(sys.argv[1]), on_event=lambda event: None)
    sleep = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(3600)")
    supervisor.start([ProcessPlan(name=name, command=sleep, probe=well) for name in ("one", "two")])
    await supervisor.wait_healthy(timeout_seconds=10)
    print("pids", *supervisor.pids.values(), flush=True)
    await asyncio.Event().wait()

asyncio.run(run())
"""


def test_kill_9_of_the_supervisor_leaves_no_process(processes: Processes, tmp_path: Path) -> None:
    supervisor: Process = processes.command(sys.executable, "-c", SUPERVISOR, str(tmp_path))
    supervisor.wait_for_log("pids")
    pids = [int(word) for word in supervisor.log_text().split()[1:]]
    assert len(pids) == 2
    assert all(map(lives, pids))
    supervisor.kill()
    supervisor.assert_no_survivors()
    assert not any(map(lives, pids))
