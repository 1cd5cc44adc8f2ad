"""payment_rpc is killed at each step of a payment at each simulated provider. Whatever it leaves,
it finishes when it comes back: money is taken once at most, none is lost, and both books agree.

`make proof` runs the whole matrix; `make test` a few cases, drawn by PMTEST_SEED.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import order_rpc.tables
import payment_rpc.tables
from tests.builders.provider_channels import simulated_channel
from tests.conftest import PROOF
from tests.e2e.provider_crashes import ALL, CASES, Case, Crash
from tests.e2e.provider_process import Place
from tests.support.databases import open_patiently
from tests.support.fakes import FakeClock
from tests.support.sources import failpoints

DRAWN = 3
SEED = os.environ["PMTEST_SEED"]


def drawn() -> list[Case]:
    """What this run runs."""
    return CASES if PROOF else random.Random(SEED).sample(CASES, DRAWN)


@pytest.fixture
async def crash(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Crash]:
    case: Case = request.param
    clock = FakeClock()
    urls = {
        service: f"sqlite+aiosqlite:///{tmp_path / service}.db"
        for service in ("payment_rpc", "order_rpc")
    }
    async with AsyncExitStack() as stack:
        simulated = await stack.enter_async_context(simulated_channel(case.provider, clock))
        databases = {}
        for service, tables in (
            ("payment_rpc", payment_rpc.tables),
            ("order_rpc", order_rpc.tables),
        ):
            db = databases[service] = open_patiently(urls[service], tables.metadata)
            stack.push_async_callback(db.close)
        place = Place(
            payment_url=urls["payment_rpc"],
            order_url=urls["order_rpc"],
            folder=tmp_path,
            urls={case.provider: simulated.running.url},
        )
        crash = Crash(case, place, simulated, clock, databases, chance=random.Random(SEED))
        stack.callback(crash.stop)
        yield crash


@pytest.mark.parametrize(
    "crash", [pytest.param(case, id=case.name) for case in drawn()], indirect=True
)
async def test_what_a_crash_leaves_at_a_provider_is_finished(crash: Crash) -> None:
    await crash.run()


def test_every_point_beside_a_channel_is_in_a_story_of_each_provider_that_has_it() -> None:
    kinds = ("payment.channel.", "payment.callback.", "order.ship.after_capture")
    points = {name for name in failpoints() if name.startswith(kinds)}
    assert points <= {case.point for case in CASES}
    assert {case.provider for case in CASES} == set(ALL)
    assert len({case.name for case in CASES}) == len(CASES)
