"""Random resets, kills, freezes and clock steps under mixed load.

Kept true, whatever was drawn: no answer 500 later than five seconds after the last fault was over;
in the quiet after each fault somebody can order and pay; nothing stays unfinished; every promise
that was answered is kept; the strict audit of the whole mesh finds nothing.

An hour in `make proof`, some minutes in `make test`. PMTEST_SEED repeats a run's draws (not its
timing); without it the date is the seed. PMTEST_CHAOS_FAULT=redis draws only faults whose name has
"redis" in it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import Faults
from tests.chaos.links import links_to
from tests.chaos.mesh import ChaosMesh, until
from tests.chaos.traffic import Heard, Traffic
from tests.support.processes import Processes
from tools.servers import MariaDB, Redis, server_folder

# in `make test`; start, rest and checks take two minutes more
SECONDS = int(os.environ.get("PMTEST_CHAOS_SECONDS", "30"))
SECONDS_OF_PROOF = 3600
WELL_AFTER_SECONDS = 5.0  # a 500 that comes later than this after a fault is a defect
LAST_QUIET_SECONDS = 20.0  # traffic without faults at the end
REST_SECONDS = 180.0
OPERATIONS = ("order", "charge", "cashier", "cancel", "refund", "read", "click")
# somebody tries each of these every second or so
OFTEN = ("order", "charge", "refund", "read", "click")
SOON = ("order", "charge")  # succeed before the next fault, on a busy machine too


@pytest.fixture
def seed() -> str:
    return os.environ.get("PMTEST_SEED", dt.datetime.now(dt.UTC).date().isoformat())


@pytest.fixture
def chaos_mesh(tmp_path: Path) -> Iterator[ChaosMesh]:
    mariadb, redis, processes = (
        MariaDB(server_folder()),
        Redis(server_folder()),
        Processes(tmp_path / "logs"),
    )
    replica = Redis(server_folder())
    try:
        mesh = ChaosMesh(
            tmp_path / "mesh",
            processes,
            mariadb=mariadb.start(),
            redis=redis.start(),
            redis_replica=replica.start(),
        )
        replica.follow(redis)
        mesh.migrate()
        yield mesh
        mesh.close()
    finally:
        processes.destroy()
        redis.stop()
        replica.stop()
        mariadb.stop()
        processes.check_refusals()


@pytest.mark.timeout(4200)
def test_random_faults_leave_nothing_wrong(
    chaos_mesh: ChaosMesh,
    seed: str,
    rounds: Callable[[int, int], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = asyncio.run(_play(chaos_mesh, seed, rounds(SECONDS, SECONDS_OF_PROOF)))
    with capsys.disabled():
        print(f"\nchaos, seed {seed}:", *report.lines, sep="\n  ")  # noqa: T201  the table of a run that passed is worth reading too
    assert report.problems == []


class _Report:
    """What came of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems: list[str] = []


async def _play(mesh: ChaosMesh, seed: str, seconds: float) -> _Report:
    report = _Report()
    loop = asyncio.get_running_loop()
    async with links_to(mesh.link_targets()) as links:
        mesh.links = links
        for name in mesh.names:
            mesh.launch(name)
        await mesh.wait_well(*mesh.names)
        faults = Faults(
            mesh, random.Random(f"faults {seed}"), os.environ.get("PMTEST_CHAOS_FAULT", "")
        )
        traffic = Traffic(mesh, random.Random(f"traffic {seed}"))
        try:
            async with traffic.running():
                await asyncio.sleep(3)
                await faults.run(seconds)
                well = loop.time()
                await asyncio.sleep(LAST_QUIET_SECONDS)
                succeeded = traffic.since(well)
            report.problems += [
                f"no {operation} succeeded after all faults were over"
                for operation in OPERATIONS
                if not succeeded[operation]
            ]
            report.problems += _late_errors(traffic.heard, faults)
            report.problems += [
                f"no {operation} succeeded in the quiet after '{name}'"
                for operation in SOON
                for seconds, name in _recoveries(traffic.heard, faults, operation)
                if seconds == math.inf
            ]
            report.problems += await traffic.pay_at_open_cashiers()
            await _rest(mesh, traffic, report)
            report.problems += await traffic.check()
        finally:
            report.lines += _table(traffic, faults)
            await traffic.close()
        report.problems += [found for found in [await asyncio.to_thread(mesh.audit)] if found]
    return report


async def _rest(mesh: ChaosMesh, traffic: Traffic, report: _Report) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    left: list[str] = []

    async def at_rest() -> bool:
        left[:] = await asyncio.to_thread(mesh.unfinished)
        return not left and await traffic.tickets_final()

    try:
        await until(at_rest, "rest", seconds=REST_SECONDS, pause_seconds=1.0)
    except AssertionError:
        report.problems += [
            f"still unfinished after {REST_SECONDS:.0f} s: {row}" for row in left[:20]
        ] or ["buyers still wait in the queue"]
    report.lines.append(f"at rest after {loop.time() - began:.1f} s")


def _late_errors(heard: list[Heard], faults: Faults) -> list[str]:
    """Answers 500 while the network had been well for WELL_AFTER_SECONDS."""

    def is_excused(moment: float) -> bool:
        return any(
            episode.began <= moment <= episode.ended + WELL_AFTER_SECONDS
            for episode in faults.episodes
        )

    return [
        f"{each.operation}: {each.status} {each.text}"
        for each in heard
        if each.status == 500 and not is_excused(each.at)
    ]


def _recoveries(heard: list[Heard], faults: Faults, operation: str) -> list[tuple[float, str]]:
    """For each fault: how long after its end the first call succeeded; without one until the next
    fault, infinite. Walk-ins try in each quiet.
    """
    successes = [
        each.at for each in heard if each.operation == operation and 200 <= each.status < 300
    ]
    ends = [*(episode.began for episode in faults.episodes[1:]), math.inf]
    return [
        (
            next((at - episode.ended for at in successes if episode.ended < at < end), math.inf),
            episode.name,
        )
        for episode, end in zip(faults.episodes, ends, strict=True)
    ]


def _table(traffic: Traffic, faults: Faults) -> list[str]:
    statuses = Counter((each.operation, each.status) for each in traffic.heard)
    promises = traffic.promises
    lines = [
        (
            f"{len(traffic.heard)} calls, {len(faults.episodes)} faults, {len(promises.paid)} "
            f"payments, {len(promises.refunds)} refunds, "
            f"{len(promises.tickets)} tickets"
        )
    ]
    lines += [
        f"{operation:8} "
        + "  ".join(
            f"{status}: {count}"
            for (name, status), count in sorted(statuses.items())
            if name == operation
        )
        for operation in sorted({operation for operation, _ in statuses})
    ]
    lines += [
        f"{operation:8} succeeds again {seconds:.1f} s after '{name}', the slowest"
        for operation in OFTEN
        for seconds, name in [max(_recoveries(traffic.heard, faults, operation))]
    ]
    errors = Counter(_fault_of(each, faults) for each in traffic.heard if each.status == 500)
    lines += [f"500 x {count} during {name}" for name, count in errors.most_common()]
    return lines


def _fault_of(heard: Heard, faults: Faults) -> str:
    """The last fault that had begun before an answer."""
    before = [episode for episode in faults.episodes if episode.began <= heard.at]
    return before[-1].name if before else "nothing"
