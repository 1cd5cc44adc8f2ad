"""The doctor on real servers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from mesh import migrations
from paymesh_cli import checks
from paymesh_cli.findings import Level
from tools.servers import MariaDB, Redis


def now() -> datetime:
    return datetime.now(UTC)


async def test_a_database_without_our_schema_fails_and_is_well_afterwards(
    database_url_factory: Callable[[], str], dialect: str
) -> None:
    url = database_url_factory()
    before = await checks.check_database("payment_rpc", url, now())
    if dialect == "mariadb":
        assert before[-1].level is Level.FAILURE
        assert "paymesh migrate" in before[-1].advice
    await asyncio.to_thread(migrations.upgrade, "payment_rpc", url)
    assert {
        finding.level for finding in await checks.check_database("payment_rpc", url, now())
    } == {Level.OK}


async def test_a_database_that_loses_commits_in_a_power_cut_is_warned_about(
    own_mariadb: MariaDB,
) -> None:
    url = own_mariadb.create_database()
    own_mariadb._execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    await asyncio.to_thread(migrations.upgrade, "payment_rpc", url)
    findings = await checks.check_database("payment_rpc", url, now())
    assert [finding.fact for finding in findings if finding.level is Level.WARNING] == [
        "innodb_flush_log_at_trx_commit=2"
    ]


async def test_a_database_whose_clock_is_apart_is_warned_about(
    mariadb_url_factory: Callable[[], str],
) -> None:
    findings = await checks.check_database(
        "payment_rpc", mariadb_url_factory(), datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert [finding.what for finding in findings if finding.level is Level.WARNING] == [
        "clock of database payment_rpc"
    ]


async def test_a_redis_of_ours_is_well_and_one_that_evicts_is_not(own_redis: Redis) -> None:
    assert {finding.level for finding in await checks.check_redis(own_redis.url, now())} == {
        Level.OK
    }
    with own_redis._client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    assert Level.UNSAFE in {
        finding.level for finding in await checks.check_redis(own_redis.url, now())
    }


async def test_a_redis_that_answers_slowly_is_slow_and_not_missing(own_redis: Redis) -> None:
    own_redis.process.signal(signal.SIGSTOP)
    # three times the patience of a cache
    asyncio.get_running_loop().call_later(1.0, own_redis.process.signal, signal.SIGCONT)
    assert {finding.level for finding in await checks.check_redis(own_redis.url, now())} <= {
        Level.OK,
        Level.WARNING,
    }


async def test_delivered_messages_that_nobody_deletes_are_told(database_url: str) -> None:
    await asyncio.to_thread(migrations.upgrade, "order_rpc", database_url)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO outbox (event_id, destination, tag, aggregate_id, payload, trace_id, "
                "state, due_at, attempts, last_error, created_at) "
                "VALUES ('e', 'd', 't', 'a', '{}', '', 'DONE', 0, 1, '', :created)"
            ),
            {"created": int((now().timestamp() - 70 * 86_400) * 1000)},
        )
    await engine.dispose()
    findings = await checks.check_database("order_rpc", database_url, now())
    assert [finding.what for finding in findings if finding.level is Level.WARNING] == [
        "purge of database order_rpc"
    ]
