"""`paymesh audit` of a shop with many orders: its statements read a range each, and there are as
many of them as ranges, not as rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import MetaData, event
from sqlalchemy.ext.asyncio import AsyncConnection

import order_rpc.tables as of_orders
import payment_rpc.tables as of_payments
import seckill_rpc.tables as of_sales
from bench.large_tables import analyze, fill
from mesh.audit import AuditTolerance
from mesh.db import Database, open_database
from mesh.db.packed import packed_rows
from mesh.log_chain import plain
from mesh.progress import progress_to
from payment_rpc.tables import PAYMENT
from paymesh_cli.audit.parts import audit_databases
from tests.builders.audit import a_day_of_trade
from tests.builders.payment import PaymentWorld, payment_world
from tests.support.databases import create_tables

pytestmark = pytest.mark.one_database

METADATA: dict[str, MetaData] = {
    "payment_rpc": of_payments.metadata,
    "order_rpc": of_orders.metadata,
    "seckill_rpc": of_sales.metadata,
}
SIZES = (
    "mesh.audit.queries.RANGE",
    "mesh.audit.broken_chains.PAGE",
    "mesh.audit.broken_chains.ROWS_MAX",
    "mesh.audit.broken_chains.RANGE",
    "paymesh_cli.audit.between.PAGE",
    "paymesh_cli.audit.between.LINES",
    "order_rpc.audit.stock.RANGE",
    "order_rpc.store.statistics.RANGE",
    "payment_rpc.audit.seals.PAGE",
    "payment_rpc.usecases.ledger_verification.PAGE",
    "payment_rpc.usecases.ledger_verification.ORPHANS_PAGE",
    "seckill_rpc.audit.checks.RANGE",
)
SMALL = 10
MANY = 150
_ROWS_READ = "SHOW SESSION STATUS WHERE Variable_name LIKE 'Handler_read%'"


@asynccontextmanager
async def shop(new_url: Callable[[], str], orders: int) -> AsyncIterator[dict[str, Database]]:
    """Databases with so many paid orders."""
    urls = {service: new_url() for service in METADATA}
    databases = {
        service: open_database(url, METADATA[service], pool_size=2) for service, url in urls.items()
    }
    for service, db in databases.items():
        await create_tables(db.engine, METADATA[service])
    fill(urls, orders)
    for url in urls.values():
        analyze(url)
    yield databases
    for db in databases.values():
        await db.close()


async def audited(databases: dict[str, Database]) -> list[tuple[str, str, str]]:
    return [
        (where, found.check, found.detail)
        async for where, found in audit_databases(
            databases,
            AuditTolerance(now=datetime.now(UTC), strict=True),
            sandbox_url="",
            api_key="",
        )
    ]


def watch(
    databases: dict[str, Database],
    *,
    before: Callable[[Any], None],
    after: Callable[[Any, str], None],
) -> None:
    """Calls back around every statement of an audit."""
    for db in databases.values():
        engine = db._reader.sync_engine
        event.listen(engine, "before_cursor_execute", lambda connection, *_: before(connection))
        event.listen(
            engine,
            "after_cursor_execute",
            lambda connection, _cursor, statement, *_: after(connection, statement),
        )


def note(statements: list[str], _: Any, statement: str) -> None:
    statements.append(statement)


async def test_there_are_as_many_statements_as_ranges_not_as_rows(
    mariadb_url_factory: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for orders, size in ((SMALL, None), (3 * SMALL, None), (3 * SMALL, SMALL)):
        async with shop(mariadb_url_factory, orders) as databases:
            statements: list[str] = []
            watch(
                databases,
                before=lambda _: None,
                after=partial(note, statements),
            )
            with monkeypatch.context() as patch:
                for name in SIZES if size else ():
                    patch.setattr(name, size)
                assert await audited(databases) == []
            counts.append(len(statements))
    few, more, in_ranges = counts
    assert few == more, "all of them are in one range"
    assert more < in_ranges < 10 * more, (
        "three of one table, some more of one with several rows per order"
    )


async def test_no_statement_reads_more_than_its_range(
    mariadb_url_factory: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows_read(connection: Any) -> int:
        cursor = connection.connection.cursor()
        cursor.execute(_ROWS_READ)
        total = sum(int(value) for _, value in cursor.fetchall())
        cursor.close()
        return total

    def begin(connection: Any) -> None:
        if "cost" not in connection.info:  # of reading the counters, which counts too
            connection.info["cost"] = -rows_read(connection) + rows_read(connection)
            connection.info["seen"] = rows_read(connection)

    def end(connection: Any, statement: str) -> None:
        seen = rows_read(connection)
        read[statement] = max(
            read.get(statement, 0), seen - connection.info["seen"] - connection.info["cost"]
        )
        connection.info["seen"] = seen

    read: dict[str, int] = {}
    async with shop(mariadb_url_factory, MANY) as databases:
        for name in SIZES:
            monkeypatch.setattr(name, SMALL)
        watch(databases, before=begin, after=end)
        assert await audited(databases) == []
    assert len(read) > 80
    # as many as a table has
    greedy = {statement: rows for statement, rows in read.items() if rows >= MANY}
    assert greedy == {}


async def test_what_is_looked_at_is_told(mariadb_url_factory: Callable[[], str]) -> None:
    class Line:
        def __init__(self) -> None:
            self.parts: list[str] = []
            self.rows: dict[str, int] = {}

        def begins(self, part: str) -> None:
            self.parts.append(part)

        def looked_at(self, what: str, rows: int) -> None:
            self.rows[what] = self.rows.get(what, 0) + rows

    line = Line()
    async with shop(mariadb_url_factory, SMALL) as databases:
        with progress_to(line):
            assert await audited(databases) == []
    assert line.parts == ["payment_rpc", "order_rpc", "seckill_rpc", "across"]
    assert {
        "books of payments",
        "orders and their payments",
        "figures of orders",
    } <= line.rows.keys()
    assert line.rows["orders and their payments"] == SMALL


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PaymentWorld]:
    async with payment_world(
        database_url_factory(), database_url_factory(), tmp_path_factory.mktemp("world")
    ) as world:
        yield world


async def test_rows_that_are_packed_say_what_rows_say(world: PaymentWorld) -> None:
    await a_day_of_trade(world)
    await world.execute(PAYMENT.update().values(failure_message='"\\ \t杯子 🎁'))

    async def read(tx: AsyncConnection) -> list[Any]:
        return await packed_rows(tx, PAYMENT, tuple(PAYMENT.c))

    rows = await world.db.read(read)
    said = [[plain(value) for value in row.values()] for row in await world.rows(PAYMENT)]
    assert sorted(rows) == sorted(said)
    assert len(rows) > 4


async def test_rows_that_mariadb_cut_are_read_one_by_one(
    mariadb_url_factory: Callable[[], str],
) -> None:
    async def read(tx: AsyncConnection) -> list[Any]:
        await tx.exec_driver_sql("SET SESSION group_concat_max_len = 1000")
        return await packed_rows(tx, PAYMENT, tuple(PAYMENT.c))

    async with shop(mariadb_url_factory, SMALL) as databases:
        cut = await databases["payment_rpc"].read(read)
        whole = await databases["payment_rpc"].read(packed_rows, PAYMENT, tuple(PAYMENT.c))
    assert len(cut) == SMALL
    assert sorted(cut) == sorted(whole)
