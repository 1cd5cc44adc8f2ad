"""The doctor on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from mesh import migrations
from mesh.cli import checks
from mesh.cli.checks import Level
from tests.servers import MariaDB, Redis


def now() -> datetime:
    return datetime.now(UTC)


async def test_a_database_without_our_schema_fails_and_is_well_afterwards(database_url_factory: Callable[[], str], dialect: str) -> None:
    url = database_url_factory()
    before = await checks.check_database("payment_rpc", url, now())
    if dialect == "mariadb":
        assert before[-1].level is Level.FAILURE
        assert "paymesh migrate" in before[-1].advice
    await asyncio.to_thread(migrations.upgrade, "payment_rpc", url)
    assert {finding.level for finding in await checks.check_database("payment_rpc", url, now())} == {Level.OK}


async def test_a_database_that_loses_commits_in_a_power_cut_is_warned_about(own_mariadb: MariaDB) -> None:
    url = own_mariadb.create_database()
    own_mariadb._execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    await asyncio.to_thread(migrations.upgrade, "payment_rpc", url)
    findings = await checks.check_database("payment_rpc", url, now())
    assert [finding.fact for finding in findings if finding.level is Level.WARNING] == ["innodb_flush_log_at_trx_commit=2"]


async def test_a_database_whose_clock_is_apart_is_warned_about(mariadb_url_factory: Callable[[], str]) -> None:
    findings = await checks.check_database("payment_rpc", mariadb_url_factory(), datetime(2026, 1, 1, tzinfo=UTC))
    assert [finding.what for finding in findings if finding.level is Level.WARNING] == ["clock of database payment_rpc"]


async def test_a_redis_of_ours_is_well_and_one_that_evicts_is_not(own_redis: Redis) -> None:
    assert {finding.level for finding in await checks.check_redis(own_redis.url, now())} == {Level.OK}
    with own_redis._client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert Level.FAILURE in {finding.level for finding in await checks.check_redis(own_redis.url, now())}
