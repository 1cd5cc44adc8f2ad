"""A month of merchants who come and go: what is emptied keeps its size, and whatever grows for ever
stands in docs/operations.md.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from merchant_rpc.tables import metadata
from mesh.log_chain import LOG_CHAIN
from mesh.purge import purge_worker
from tests.builders.merchant import MerchantWorld, as_member, merchant_world

DAYS = 30
EMPTIED = {"outbox", "one_time_link", "session", "login_failure"}
FOR_EVER = {
    "merchant",
    "merchant_setting",
    "member",
    "membership",
    "recovery_code",
    "api_key",
    "admin_action",
}


def test_each_table_is_emptied_or_grows_for_ever_and_operators_read_which() -> None:
    tables = {table.name for table in metadata.sorted_tables} - {LOG_CHAIN.name}
    assert tables == EMPTIED | FOR_EVER
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    assert [name for name in FOR_EVER if f"`{name}`" not in page] == []


async def _work(shops: MerchantWorld) -> None:
    """One round of everything that delivers or deletes."""
    purge = purge_worker(
        db=shops.db, clock=shops.clock, retention=timedelta(days=3), has_inbox=False
    )
    workers = [*shops.app.workers, purge]
    while sum(
        [
            await worker._run_once()
            for worker in workers
            if worker.name.startswith(("purge", "relay", "expire"))
        ]
    ):
        pass


async def _sizes(shops: MerchantWorld) -> dict[str, int]:
    return {
        table.name: len(await shops.rows(table))
        for table in metadata.sorted_tables
        if table.name != LOG_CHAIN.name
    }


async def test_a_month_of_merchants_lets_nothing_grow_that_is_emptied(sqlite_url: str) -> None:
    async with merchant_world(sqlite_url) as shops:
        sizes = []
        for day in range(DAYS):
            await shops.merchant(f"shop{day}")
            await shops.sign_up(f"never{day}", f"never{day}@acme.example")
            owner = as_member(await shops.owner(f"shop{day}"))
            await shops.session(f"S{day}", owner.subject.removeprefix("member:"), f"shop{day}")
            await shops.invite(f"p{day}@acme.example", merchant_id=f"shop{day}")
            shops.clock.advance(timedelta(hours=23).total_seconds())
            await _work(shops)
            sizes.append(await _sizes(shops))
        for name in EMPTIED - {"login_failure", "session"}:
            early = max(size[name] for size in sizes[10:20])
            assert early > 0
            assert max(size[name] for size in sizes[20:]) <= early, name
        # two per shop, and the sign-up of the last day
        assert sizes[-1]["merchant"] == 2 * DAYS + 1
        shops.clock.advance(timedelta(days=181).total_seconds())
        await _work(shops)
        left = await _sizes(shops)
        assert {name: left[name] for name in EMPTIED if left[name]} == {}
        assert left["merchant"] == 2 * DAYS


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/merchants.db"
