"""The history of migrations leads to the tables of the code, on every database, and a service
starts on nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import merchant_rpc.tables
import order_rpc.tables
import payment_rpc.tables
import seckill_rpc.tables
from mesh import migrations, schema_versions
from mesh.db import open_database
from mesh.errors import Unavailable
from tools.processes import free_port

SERVICES = {
    "payment_rpc": payment_rpc.tables.metadata,
    "order_rpc": order_rpc.tables.metadata,
    "seckill_rpc": seckill_rpc.tables.metadata,
    "merchant_rpc": merchant_rpc.tables.metadata,
}
Factory = Callable[[], str]


@asynccontextmanager
async def engine_of(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


async def migrated(service: str, url: str) -> str:
    await asyncio.to_thread(migrations.upgrade, service, url)
    return url


async def look(url: str, question: Callable[[Connection], Any]) -> Any:
    async with engine_of(url) as engine, engine.connect() as connection:
        return await connection.run_sync(question)


def bare(sql: Any) -> str:
    """A condition without what each database adds to it: brackets, quotes, case, spaces."""
    return re.sub(r"[\s()`\"']|_utf8mb4|\\", "", str(sql)).lower()


def shape(connection: Connection) -> dict[str, Any]:
    """Everything that a database says about its tables."""
    inspector = inspect(connection)
    tables = {}
    for table in inspector.get_table_names():
        if table in migrations.BOOKKEEPING_TABLES:
            continue
        tables[table] = {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            },
            "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
            "unique": {
                unique["name"]: unique["column_names"]
                for unique in inspector.get_unique_constraints(table)
            },
            "indexes": {
                index["name"]: (index["column_names"], bool(index["unique"]))
                for index in inspector.get_indexes(table)
            },
            "checks": {
                check["name"]: bare(check["sqltext"])
                for check in inspector.get_check_constraints(table)
            },
        }
    return tables


async def create_all(url: str, metadata: MetaData) -> str:
    async with engine_of(url) as engine, engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    return url


@pytest.mark.parametrize("service", SERVICES)
async def test_the_history_leads_to_the_tables_of_the_code(
    database_url_factory: Factory, service: str
) -> None:
    by_history = await look(await migrated(service, database_url_factory()), shape)
    by_code = await look(await create_all(database_url_factory(), SERVICES[service]), shape)
    assert by_history == by_code
    assert all(
        table["checks"]
        or name in ("receipt", "inbox", "attention", "ledger_transaction", "dead_entry")
        or service in ("order_rpc", "merchant_rpc")
        for name, table in by_code.items()
    )


@pytest.mark.parametrize("service", SERVICES)
async def test_alembic_finds_nothing_left_to_do(
    database_url_factory: Factory, service: str
) -> None:
    def differences(connection: Connection) -> list[Any]:
        def is_ours(_thing: object, name: str | None, *_: object) -> bool:
            return name not in migrations.BOOKKEEPING_TABLES

        options = {"compare_type": True, "include_object": is_ours}
        return list(
            compare_metadata(
                MigrationContext.configure(connection, opts=options), SERVICES[service]
            )
        )

    assert await look(await migrated(service, database_url_factory()), differences) == []


@pytest.mark.parametrize("service", SERVICES)
async def test_migrating_again_changes_nothing(database_url_factory: Factory, service: str) -> None:
    url = await migrated(service, database_url_factory())
    before = await look(url, shape)
    assert await look(await migrated(service, url), shape) == before


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
@pytest.mark.parametrize("service", SERVICES)
async def test_every_table_is_transactional_and_every_identifier_is_compared_byte_for_byte(
    database_url_factory: Factory, service: str
) -> None:
    def loose(connection: Connection) -> tuple[list[Any], list[Any]]:
        engines = connection.execute(
            text(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
                "AND engine <> 'InnoDB'"
            )
        )
        columns = connection.execute(
            text(
                "SELECT table_name, column_name, collation_name FROM information_schema.columns "
                "WHERE table_schema = DATABASE() "
                "AND collation_name NOT IN ('ascii_bin', 'utf8mb4_bin') AND table_name <> "
                "'alembic_version'"
            )
        )
        return list(engines), list(columns)

    url = database_url_factory()
    async with engine_of(url) as engine, engine.begin() as connection:
        # the default of many servers
        await connection.execute(text("ALTER DATABASE CHARACTER SET latin1"))
    assert await look(await migrated(service, url), loose) == ([], [])


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_starts_on_its_own_schema_only(
    database_url_factory: Factory, service: str
) -> None:
    url = database_url_factory()
    db = open_database(url, SERVICES[service])
    try:
        with pytest.raises(Unavailable, match=f"{service} is at revision None.*paymesh migrate"):
            await schema_versions.check_current(service, db.engine)
        await migrated(service, url)
        await schema_versions.check_current(service, db.engine)
        async with db.engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
        with pytest.raises(Unavailable, match="at revision 0000"):
            await schema_versions.check_current(service, db.engine)
    finally:
        await db.close()


async def test_a_database_that_is_away_is_said_in_our_words() -> None:
    db = open_database(
        f"mysql+aiomysql://paymesh:paymesh@127.0.0.1:{free_port()}/paymesh_1",
        payment_rpc.tables.metadata,
    )
    try:
        with pytest.raises(Unavailable, match="payment_rpc is unavailable"):
            await schema_versions.check_current("payment_rpc", db.engine)
    finally:
        await db.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_history_can_be_taken_back(database_url_factory: Factory, service: str) -> None:
    url = await migrated(service, database_url_factory())

    def downgrade(connection: Connection) -> None:
        command.downgrade(migrations._config(service, connection), "base")

    async with engine_of(url) as engine, engine.begin() as connection:
        await connection.run_sync(downgrade)
    assert await look(url, shape) == {}


RECEIPTS = [
    ("user:u1", "Charge", "k", "PAY1"),
    ("merchant:clerk", "CreateRefund", "k", "RF1"),
    ("admin:clerk", "CreateRefund", "k", "RF2"),
    ("admin:root", "CreateRefund", "k", "RF3"),
    ("service:order_rpc", "CreatePayment", "k", "PAY2"),
]


@pytest.mark.parametrize(
    ("service", "before"), [("payment_rpc", "0006"), ("order_rpc", "0002"), ("seckill_rpc", "0001")]
)
async def test_receipts_of_roles_become_receipts_of_people_and_none_is_lost(
    database_url: str, service: str, before: str
) -> None:
    async with engine_of(database_url) as engine, engine.begin() as connection:
        await connection.run_sync(
            lambda sync: command.upgrade(migrations._config(service, sync), before)
        )
        for caller, method, key, resource in RECEIPTS:
            await connection.execute(
                text(
                    "INSERT INTO receipt (merchant_id, caller, method, idempotency_key, state, "
                    "fingerprint, resource_id, created_at, expires_at) "
                    f"VALUES ('mall', '{caller}', '{method}', '{key}', 'RUNNING', '{{}}', "
                    f"'{resource}', 1, 2)"
                )
            )
    await migrated(service, database_url)
    found = await look(
        database_url,
        lambda connection: dict(
            connection.execute(text("SELECT resource_id, caller FROM receipt")).all()
        ),
    )
    # One key of one person in two roles cannot be told apart any more: the first one is found, the
    # other one is kept.
    assert found == {
        "PAY1": "mall/u1",
        "RF1": "mall/clerk",
        "RF2": "admin:clerk",
        "RF3": "mall/root",
        "PAY2": "service:order_rpc",
    }


async def test_automatic_refunds_leave_the_ids_of_callers_and_planted_ones_stay_their_callers(
    database_url: str,
) -> None:
    rows = {
        "RF1": ("PAY1", "ATT1", "auto:PAY1", True),
        "RF2": ("PAY2", "ATT2", "auto:ATT2", True),
        "RF3": ("PAY3", "ATT3", "auto:PAY9", False),
        "RF4": ("PAY4", "ATT4", "auto:PAY4", False),
        "RF5": ("PAY5", "ATT5", "mine", True),
    }
    async with engine_of(database_url) as engine, engine.begin() as connection:
        await connection.run_sync(
            lambda sync: command.upgrade(migrations._config("payment_rpc", sync), "0008")
        )
        for refund_id, (payment_id, attempt_id, request_id, automatic) in rows.items():
            await connection.execute(
                text(
                    "INSERT INTO refund (refund_id, payment_id, attempt_id, merchant_id, "
                    "order_id, user_id, channel, amount_minor, currency, state, "
                    "reason, request_id, automatic, stands_alone, above_cap, needs_attention, "
                    "channel_refund_no, lease_until, queries, "
                    f"version, created_at, updated_at) VALUES ('{refund_id}', '{payment_id}', "
                    f"'{attempt_id}', "
                    "'mall', 'ORD1', 'u1', 'sandbox', 1, 'CNY', 'SUCCESS', '', "
                    f"'{request_id}', {automatic}, FALSE, FALSE, FALSE, '', 0, 0, 1, 0, 0)"
                )
            )
    await migrated("payment_rpc", database_url)

    def found(connection: Connection) -> dict[str, tuple[str | None, str | None]]:
        return {
            row.refund_id: (row.automatic_of, row.request_id)
            for row in connection.execute(
                text("SELECT refund_id, automatic_of, request_id FROM refund")
            )
        }

    assert await look(database_url, found) == {
        "RF1": ("PAY1", None),
        "RF2": ("ATT2", None),
        "RF3": (None, "auto:PAY9"),
        "RF4": (None, "auto:PAY4"),
        "RF5": (None, "mine"),
    }
    async with engine_of(database_url) as engine, engine.begin() as connection:
        await connection.run_sync(
            lambda sync: command.downgrade(migrations._config("payment_rpc", sync), "0008")
        )
        after = await connection.execute(text("SELECT refund_id, request_id FROM refund"))
        assert {row.refund_id: row.request_id for row in after}["RF2"] == "auto:ATT2"
