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

from paymesh_cli.supervisor.health import Probe
from paymesh_cli.supervisor.processes import Event, EventKind, ProcessPlan, StartFailed, Supervisor
from tests.support.processes import Processes
from tools.processes import Process

DEADLINE_SECONDS = 10.0
SLEEPER = "import time; print('ready', flush=True); time.sleep(3600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(3600)"


async def well() -> str:
    return ""


async def ill() -> str:
    return "ill"


def plan(name: str, code: str, *, probe: Probe = well) -> ProcessPlan:
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

        watched = Watched(
            Supervisor(
                log_dir=tmp_path,
                on_event=on_event,
                on_line=on_line if verbose else None,
                stop_seconds=stop_seconds,
            )
        )
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


async def test_dying_while_starting_is_a_failure_that_shows_the_log(
    watch: Callable[..., Watched],
) -> None:
    watched = watch()
    watched.supervisor.start(
        [plan("broken", "print('no such setting'); raise SystemExit(3)", probe=ill)]
    )
    with pytest.raises(
        StartFailed, match=r"broken ended while starting \(exit status 3\): no such setting"
    ):
        await watched.supervisor.wait_healthy(timeout_seconds=DEADLINE_SECONDS)


async def test_staying_ill_is_a_failure_that_names_the_process(
    watch: Callable[..., Watched],
) -> None:
    watched = watch()
    watched.supervisor.start([plan("one", SLEEPER), plan("two", SLEEPER, probe=ill)])
    with pytest.raises(StartFailed, match=r"^two is not healthy after 0\.2 s"):
        await watched.supervisor.wait_healthy(timeout_seconds=0.2)


async def test_verbose_shows_lines_and_still_writes_the_log(watch: Callable[..., Watched]) -> None:
    watched = watch(verbose=True)
    watched.supervisor.start([plan("one", SLEEPER)])
    await watched.until(lambda: ("one", "ready") in watched.lines)
    assert watched.supervisor.log_tail("one") == "ready"


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from paymesh_cli.supervisor.processes import ProcessPlan, Supervisor

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


async def test_lines_of_any_length_are_shown_shortened_and_block_nothing(
    watch: Callable[..., Watched],
) -> None:
    watched = watch(verbose=True)
    long = "import time; print('x' * 3_000_000, flush=True); print('after', flush=True); time.sleep(3600)"
    watched.supervisor.start([plan("one", long)])
    await watched.until(lambda: ("one", "after") in watched.lines)
    [shown] = [line for _, line in watched.lines if line.startswith("x")]
    assert len(shown) < 3000
    assert "3000000 characters" in shown
    assert watched.supervisor.log_file("one").stat().st_size > 3_000_000


async def test_what_a_process_says_last_is_shown_without_a_line_break(
    watch: Callable[..., Watched],
) -> None:
    watched = watch(verbose=True)
    watched.supervisor.start(
        [plan("one", "import sys; sys.stdout.write('last words'); sys.exit(3)", probe=ill)]
    )
    await watched.until(lambda: ("one", "last words") in watched.lines)


async def test_a_terminal_that_went_away_leaves_no_process_unwatched(tmp_path: Path) -> None:
    started: asyncio.Queue[int] = asyncio.Queue()

    def on_event(event: Event) -> None:
        if event.kind is EventKind.STARTED:
            started.put_nowait(event.pid)
        raise BrokenPipeError

    def on_line(name: str, line: str) -> None:
        raise BrokenPipeError

    supervisor = Supervisor(log_dir=tmp_path, on_event=on_event, on_line=on_line)
    supervisor.start([plan("one", SLEEPER)])
    async with asyncio.timeout(DEADLINE_SECONDS):
        first = await started.get()
        os.kill(first, signal.SIGKILL)
        assert await started.get() != first
    await supervisor.stop()
    assert supervisor.pids == {}


LISTENS_TO_THE_END = """
import signal, sys, time
from pathlib import Path
mine, other = Path(sys.argv[1]), sys.argv[2]
def stop(*_):
    time.sleep(0.3)
    mine.write_text(Path(f"/proc/{Path(other).read_text()}").exists() and "was there" or "was gone")
    sys.exit(0)
signal.signal(15, stop)
print("ready", flush=True)
time.sleep(3600)
"""


async def test_what_the_others_need_stops_after_them(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    watched = watch(verbose=True)
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); {SLEEPER}"
    redis = ProcessPlan(
        name="redis", command=(sys.executable, "-I", "-S", "-c", code), probe=well, stops_last=True
    )
    user = ProcessPlan(
        name="user",
        probe=well,
        command=(
            sys.executable,
            "-I",
            "-S",
            "-c",
            LISTENS_TO_THE_END,
            str(tmp_path / "seen"),
            str(tmp_path / "pid"),
        ),
    )
    watched.supervisor.start([redis, user])
    await watched.until(lambda: {("redis", "ready"), ("user", "ready")} <= set(watched.lines))
    await watched.supervisor.stop()
    assert (tmp_path / "seen").read_text() == "was there"
    assert [event.name for event in watched.events if event.kind is EventKind.STOPPED] == [
        "user",
        "redis",
    ]


async def test_a_failed_start_says_why_in_one_line_and_shows_lines_of_this_run_only(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    (tmp_path / "broken.log").write_text("an old complaint\n" * 50)
    watched = watch()
    routine = '{"event": "call", "level": "info"}'
    code = f"print({routine!r}); print('x: the port is taken'); print({routine!r}); raise SystemExit(3)"
    watched.supervisor.start([plan("broken", code, probe=ill)])
    with pytest.raises(StartFailed) as failed:
        await watched.supervisor.wait_healthy(timeout_seconds=DEADLINE_SECONDS)
    assert str(failed.value).splitlines() == [
        "broken ended while starting (exit status 3): x: the port is taken",
        "x: the port is taken",
        f"see {tmp_path / 'broken.log'}",
    ]


async def test_staying_ill_tells_what_the_probe_heard(watch: Callable[..., Watched]) -> None:
    async def unavailable() -> str:
        return "UNAVAILABLE: connection refused"

    watched = watch()
    watched.supervisor.start([plan("two", SLEEPER, probe=unavailable)])
    with pytest.raises(
        StartFailed, match=r"^two is not healthy after 0\.3 s: UNAVAILABLE: connection refused\n"
    ):
        await watched.supervisor.wait_healthy(timeout_seconds=0.3)


async def test_an_end_in_good_order_is_not_a_death(watch: Callable[..., Watched]) -> None:
    watched = watch(verbose=True)
    watched.supervisor.start(
        [plan("one", f"import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); {SLEEPER}")]
    )
    await watched.until(lambda: ("one", "ready") in watched.lines)
    os.kill(watched.supervisor.pids["one"], signal.SIGTERM)
    await watched.until(lambda: watched.kinds("one").count(EventKind.STARTED) == 2)
    assert EventKind.ENDED in watched.kinds("one")
    assert EventKind.DIED not in watched.kinds("one")
