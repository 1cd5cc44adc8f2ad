"""The fault matrix of the flash sale on real Redis and MariaDB, as processes: whatever fails while
people buy, nothing is sold twice, no unit is lost, and everybody gets an answer (docs/protocols.md
5).

`make proof` runs every scenario, each with a rebuild at least five times. `make test` takes a few
small ones; which, depends on PMTEST_SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

import order_rpc.tables
import payment_rpc.tables
import seckill_rpc.tables
from mesh.audit import AuditTolerance
from mesh.clock import SystemClock
from mesh.db import Database
from mesh.errors import Unavailable
from paymesh_cli.audit.parts import audit_databases
from tests.conftest import PROOF
from tests.e2e import seckill_faults, seckill_life, seckill_troubles
from tests.e2e.seckill_faults import Scenario, restore
from tests.e2e.seckill_invariants import Invariants
from tests.e2e.seckill_life import Story
from tests.e2e.seckill_processes import API_KEY, BACKS, SeckillProcesses
from tests.e2e.seckill_runs import RUNS, SaleRun
from tests.e2e.seckill_sale import Untested, sale_of
from tests.support.databases import open_patiently
from tests.support.sources import failpoints

TABLES: dict[str, ModuleType] = {
    "seckill_rpc": seckill_rpc.tables,
    "order_rpc": order_rpc.tables,
    "payment_rpc": payment_rpc.tables,
}
SCENARIOS = [*seckill_faults.SCENARIOS, *seckill_troubles.SCENARIOS]
SEED = int(os.environ["PMTEST_SEED"])
ONLY = os.environ.get("PMTEST_SALES", "")  # a part of the names of the scenarios to run
SIZE_MAX = int(os.environ.get("PMTEST_SALE_SIZE", "1000000"))
# so much smaller than in proof; 0 leaves it to the kind of run
SHARE = int(os.environ.get("PMTEST_SALE_SHARE", "0"))
RUNS_MAX = int(os.environ.get("PMTEST_SALE_RUNS", "100"))
S = TypeVar("S", Scenario, Story)
# Always; the rest of a quick run is drawn.
QUICK = (
    "FLUSHALL in a sale of 5000 units to 12 000 buyers",
    "an order expires: the unit is sold again, the same click makes a new order",
)
QUICK_MORE = 1
CROWD_SECONDS = 240.0
AUDITS_MAX = 3
TRIES = 4
SALES_PER_STAGE = 30


def chosen(all_of_them: Sequence[S]) -> list[tuple[S, int]]:
    """What this run runs, and how often."""
    if ONLY:
        return [(each, min(each.runs, RUNS_MAX)) for each in all_of_them if ONLY in each.name]
    if PROOF:
        return [(each, min(each.runs, RUNS_MAX)) for each in all_of_them]
    drawn = random.Random(SEED).sample(
        [each for each in all_of_them if each.is_quick and each.name not in QUICK], QUICK_MORE
    )
    return [(each, 1) for each in all_of_them if each.name in QUICK or each in drawn]


def params(all_of_them: Sequence[S]) -> list[Any]:
    """The same as parameters of a test."""
    return [
        pytest.param(each, runs, id=each.name.replace(" ", "_"))
        for each, runs in chosen(all_of_them)
    ]


class Stages:
    """One set of processes and databases after the other: the audit after each sale reads all that
    is there, so an old one is slow.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._stage: SeckillProcesses | None = None
        self._began_at = 0

    def current(self) -> SeckillProcesses:
        """The running one, or a fresh one after SALES_PER_STAGE; none ends before an audit."""
        if self._stage is not None and len(RUNS) - self._began_at >= SALES_PER_STAGE:
            assert asyncio.run(audited(self._stage)) == []
            self.close()
        return self.running()

    def running(self) -> SeckillProcesses:
        """The running one, however much it has seen."""
        if self._stage is None:
            self._stage, self._began_at = SeckillProcesses(self._folder()), len(RUNS)
            self._stage.start()
        return self._stage

    def close(self) -> None:
        if self._stage is not None:
            self._stage.close()
            self._stage = None


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    stages = Stages(lambda: tmp_path_factory.mktemp("sale"))
    try:
        yield stages
    finally:
        stages.close()


@pytest.fixture
def stage(stages: Stages) -> SeckillProcesses:
    return stages.current()


@pytest.fixture
def last_stage(stages: Stages) -> SeckillProcesses:
    return stages.running()


async def play(stage: SeckillProcesses, scenario: Scenario, *, seed: int, share: int) -> SaleRun:
    """One sale from its opening to its end, `share` times smaller than in the proof.

    Raises:
        AssertionError: an invariant does not hold. Untested: the fault came too late, which says
            nothing.
    """
    started = time.monotonic()
    marks = stage.log_marks()
    if scenario.env:
        for name in BACKS:
            stage.kill(name)
            stage.run(name, wait=False, **scenario.env)
        for name in BACKS:
            stage.running[name].wait_for_log('"serving"')
    async with sale_of(
        stage,
        units=scenario.units // share,
        buyers=scenario.buyers // share,
        limit=scenario.limit,
        seed=seed,
    ) as sale:
        checks = Invariants(sale, scenario.expected, marks)
        if scenario.opens_doors:
            await sale.lets_come(0)
        async with sale.watchers(cancels=scenario.cancels // share):
            crowd = asyncio.create_task(sale.crowd(mode=scenario.mode))
            try:
                await scenario.fault(sale)
                await asyncio.wait_for(crowd, CROWD_SECONDS)
            finally:
                crowd.cancel()
        await restore(stage)
        sold_out_by = time.monotonic()
        if scenario.expected.sells_out:
            await checks.sell_out()
        problems = await checks.problems()
        assert not problems, "\n".join(
            [f"{scenario.name}, seed {seed}:", *problems, str(dict(sale.codes))]
        )
        found = await audited(stage)
        assert not found, "\n".join([f"{scenario.name}, seed {seed}, audit:", *found])
        if sale.loses and not checks.lost:
            raise Untested(f"{scenario.name}, seed {seed}: Redis lost nobody's place")
        problems = await checks.problems_after_close()
        assert not problems, "\n".join([f"{scenario.name}, seed {seed}, closed:", *problems])
        now = time.monotonic()
        return SaleRun(
            name=scenario.name,
            seconds=now - started,
            rest_seconds=now - sold_out_by,
            clicks=sum(sale.codes.values()),
            cancelled=len(sale.cancelled),
            lost=checks.lost,
            note=", ".join(sale.notes),
        )


async def play_until_tested(stage: SeckillProcesses, scenario: Scenario, *, seed: int) -> SaleRun:
    """`play`, up to TRIES times while the fault comes too late; each time for a crowd twice as
    large, which stays longer.
    """
    share = SHARE or (1 if PROOF or ONLY else scenario.share)
    for number in range(TRIES - 1):
        with suppress(Untested):
            return await play(stage, scenario, seed=seed + number * 1000, share=share)
        await restore(stage)
        share = max(1, share // 2)
    return await play(stage, scenario, seed=seed + (TRIES - 1) * 1000, share=share)


async def audited(stage: SeckillProcesses) -> list[str]:
    """What `paymesh audit --strict` finds."""
    for _ in range(AUDITS_MAX - 1):
        with suppress(Unavailable):  # a machine with too much to do
            return await _audited(stage)
    return await _audited(stage)


async def _audited(stage: SeckillProcesses) -> list[str]:
    async with AsyncExitStack() as stack:
        databases: dict[str, Database] = {}
        for service, url in stage.database_urls.items():
            databases[service] = open_patiently(url, TABLES[service].metadata, pool_size=2)
            stack.push_async_callback(databases[service].close)
        tolerance = AuditTolerance(now=SystemClock().now(), strict=True)
        return [
            f"{where}: {found.check} {found.subject}: {found.detail}"
            async for where, found in audit_databases(
                databases,
                tolerance,
                sandbox_url=f"http://{stage.addresses['sandbox']}",
                api_key=API_KEY.decode(),
                redis_url=stage.redis.url,
            )
        ]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("scenario", "runs"), params(SCENARIOS))
async def test_nothing_is_sold_twice_and_nobody_waits_for_ever(
    stage: SeckillProcesses, scenario: Scenario, runs: int
) -> None:
    try:
        for number in range(runs):
            RUNS.append(await play_until_tested(stage, scenario, seed=SEED + number))
    except BaseException as failure:
        failure.add_note(stage.log_tails())
        raise
    finally:
        await restore(stage)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("story", "runs"), params(seckill_life.STORIES))
async def test_a_sale_lives_and_ends_as_its_rows_say(
    stage: SeckillProcesses, story: Story, runs: int
) -> None:
    try:
        for number in range(runs):
            started = time.monotonic()
            await story.tell(
                stage, SEED + number, min(story.whole, SIZE_MAX) if PROOF else story.quick
            )
            RUNS.append(
                SaleRun(
                    name=story.name,
                    seconds=time.monotonic() - started,
                    rest_seconds=0,
                    clicks=0,
                    cancelled=0,
                    lost=0,
                )
            )
    except BaseException as failure:
        failure.add_note(stage.log_tails())
        raise
    finally:
        await restore(stage)


async def test_the_audit_finds_nothing_after_all_of_them(last_stage: SeckillProcesses) -> None:
    assert await audited(last_stage) == []


def test_every_point_of_the_flash_sale_has_a_scenario() -> None:
    names = [
        *(each.name for each in SCENARIOS),
        *(each.name for each in seckill_life.STORIES),
    ]
    assert len(set(names)) == len(names)
    said = " ".join(names)
    for point in failpoints():
        if point.startswith("seckill."):
            _, what, step = point.split(".")
            assert re.search(rf"kill -9 (seckill\.{what}\.)?{step}\b", said), point
