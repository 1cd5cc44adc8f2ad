"""Somebody changes rows of merchant_rpc by hand, one thing at a time, where everything holds:
`paymesh audit` names each. Every check that there is finds one of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.builders.merchant import merchant_world
from tests.builders.merchant_corruptions import CORRUPTIONS, MerchantStage
from tools.servers import MariaDB

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "mariadb"])
async def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[MerchantStage]:
    """One for all tests: each puts back what it changed."""
    if request.param == "mariadb":
        server: MariaDB = request.getfixturevalue("mariadb_server")
        url = server.create_database()
    else:
        url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('stage')}/merchants.db"
    async with merchant_world(url) as world:
        yield await MerchantStage.of(world)


async def test_nothing_is_wrong_before(stage: MerchantStage) -> None:
    assert await stage.found() == set()


@pytest.mark.drawn(25)
@pytest.mark.parametrize("damage", CORRUPTIONS)
async def test_each_thing_that_somebody_changes_at_merchants_is_named(
    stage: MerchantStage, damage: str
) -> None:
    corruption = CORRUPTIONS[damage]
    subject = await corruption.subject(stage)
    try:
        await corruption.plant(stage)
        assert (corruption.check, subject) in await stage.found()
    finally:
        await stage.restore()


async def test_an_empty_log_is_named_for_every_merchant(stage: MerchantStage) -> None:
    merchants = {row["merchant_id"] for row in stage.rows["admin_action"]}
    assert {"acme", "shop", "gone", "back"} <= merchants
    try:
        await CORRUPTIONS["the log is empty"].plant(stage)
        found = await stage.found()
    finally:
        await stage.restore()
    assert {subject for check, subject in found if check == "log_chained"} == merchants


async def test_nothing_is_wrong_after_all_of_it(stage: MerchantStage) -> None:
    assert await stage.found() == set()


async def test_every_check_of_merchants_is_tried() -> None:
    """Whoever adds a check adds a corruption that it finds."""
    root = Path(__file__).parents[3]
    names = set(
        re.findall(r'name="([a-z_]+)"', (root / "merchant_rpc/audit/checks.py").read_text())
    )
    assert len(names) > 8, "the pattern finds them"
    of_every_database = {"row_readable", "outbox_dead", "outbox_late", "outbox_readable"}
    assert {corruption.check for corruption in CORRUPTIONS.values()} == (
        names | of_every_database | {"log_chained"}
    )
