"""Databases of every older revision, full of rows, brought to the newest schema; two who migrate at
once; code that is older than the schema.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from mesh import migrations
from mesh.errors import Unavailable

Factory = Callable[[], str]
SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc")
THEN = 1_700_000_000_000  # milliseconds since 1970, as all times are stored
LATER = THEN + 60_000

# What a row of each table says where "0 and empty" would break a rule of its table or say nothing.
ROWS: dict[str, list[dict[str, Any]]] = {
    "receipt": [
        {
            "caller": "svc/order_rpc",
            "method": "CreateOrder",
            "idempotency_key": "k1",
            "state": "DONE",
            "fingerprint": "{}",
            "answer": "{}",
        }
    ],
    "outbox": [
        {"event_id": "EVT1", "destination": "order_rpc", "payload": "{}", "state": "NEW"},
        {
            "event_id": "EVT2",
            "destination": "order_rpc",
            "payload": "{}",
            "state": "DEAD",
            "attempts": 9,
        },
    ],
    "inbox": [{"consumer": "order_rpc", "event_id": "EVT0"}],
    "payment": [
        {
            "payment_id": "PAY1",
            "order_id": "ORD1",
            "amount_minor": 1000,
            "captured_minor": 1000,
            "state": "SUCCESS",
            "live_slot": 1,
            "outcome": "CAPTURED",
            "currency": "CNY",
            "channel": "sandbox",
            "ledger_head": "h1",
            "paid_at": LATER,
        },
        {
            "payment_id": "PAY2",
            "order_id": "ORD2",
            "amount_minor": 500,
            "state": "PAYING",
            "live_slot": 1,
            "currency": "CNY",
            "channel": "sandbox",
        },
    ],
    "attempt": [
        {
            "attempt_id": "ATT1",
            "payment_id": "PAY1",
            "state": "CAPTURED",
            "amount_minor": 1000,
            "captured_minor": 1000,
            "captured_currency": "CNY",
            "currency": "CNY",
            "channel": "sandbox",
            "updated_at": LATER,
        },
        {
            "attempt_id": "ATT2",
            "payment_id": "PAY2",
            "state": "UNKNOWN",
            "amount_minor": 500,
            "next_query_at": LATER,
            "currency": "CNY",
            "channel": "sandbox",
        },
    ],
    "ledger_transaction": [
        {"business_key": "capture:ATT1", "kind": "CAPTURE", "payment_id": "PAY1", "hash": "h1"}
    ],
    "ledger_posting": [
        {
            "business_key": "capture:ATT1",
            "seq": 0,
            "account": "channel:sandbox",
            "side": "D",
            "amount_minor": 1000,
            "currency": "CNY",
        },
        {
            "business_key": "capture:ATT1",
            "seq": 1,
            "account": "merchant:mall",
            "side": "C",
            "amount_minor": 1000,
            "currency": "CNY",
        },
    ],
    "order_gate": [{"order_id": "ORD1", "state": "CLOSED"}, {"order_id": "ORD2", "state": "OPEN"}],
    "attention": [
        {"attention_key": "loss:PAY1", "kind": "LOSS", "payment_id": "PAY1", "detail": "look"}
    ],
    "refund": [
        {
            "refund_id": "REF1",
            "payment_id": "PAY1",
            "attempt_id": "ATT1",
            "order_id": "ORD1",
            "channel": "sandbox",
            "amount_minor": 100,
            "currency": "CNY",
            "state": "SUCCESS",
            "refunded_at": LATER,
            "request_id": "r1",
        }
    ],
    "wallet": [{"user_id": "alice", "currency": "CNY", "balance_minor": 70, "version": 1}],
    "wallet_entry": [
        {
            "entry_id": "WLE1",
            "user_id": "alice",
            "currency": "CNY",
            "seq": 1,
            "kind": "TOP_UP",
            "amount_minor": 70,
            "balance_after_minor": 70,
            "payment_id": "PAY1",
        }
    ],
    "statement_import": [
        {
            "import_id": "STM1",
            "channel": "sandbox",
            "statement_date": "2026-11-01",
            "content_hash": "c",
            "state": "DONE",
            "line_errors": "[]",
        }
    ],
    "statement_difference": [
        {
            "difference_id": "DIF1",
            "difference_key": "d",
            "import_id": "STM1",
            "channel": "sandbox",
            "kind": "FEE_MISMATCH",
            "state": "OPEN",
            "statement_date": "2026-11-01",
        }
    ],
    "channel_callback": [
        {
            "callback_id": "CBK1",
            "channel": "sandbox",
            "kind": "CALLBACK",
            "payload_encoding": "TEXT",
            "result": "PROCESSED",
            "signature_valid": True,
            "deliveries": 1,
            "finished_at": LATER,
            "dedupe_key": "x",
        }
    ],
    "scan_action": [{"payment_id": "PAY2", "attempt_id": "ATT2", "action": "QUERY"}],
    "product": [
        {
            "sku_id": "mug",
            "name": "茶杯",
            "price_minor": 1000,
            "currency": "CNY",
            "first_available": 10,
        }
    ],
    "stock": [{"sku_id": "mug", "available": 7, "reserved": 1, "sold": 2}],
    "orders": [
        {
            "order_id": "ORD1",
            "user_id": "alice",
            "state": "PAID",
            "amount_minor": 1000,
            "currency": "CNY",
            "paid_payment_id": "PAY1",
            "paid_at": LATER,
            "captured_minor": 1000,
        },
        {
            "order_id": "ORD2",
            "user_id": "alice",
            "state": "PENDING_PAYMENT",
            "amount_minor": 500,
            "currency": "CNY",
        },
    ],
    "order_item": [
        {
            "order_id": "ORD1",
            "sku_id": "mug",
            "name": "茶杯",
            "unit_price_minor": 500,
            "quantity": 2,
            "amount_minor": 1000,
        }
    ],
    "reservation": [
        {"order_id": "ORD1", "sku_id": "mug", "generation": 1, "quantity": 2, "state": "COMMITTED"}
    ],
    "payment_disposition": [
        {
            "order_id": "ORD1",
            "payment_id": "PAY1",
            "payment_version": 3,
            "payment_state": "SUCCESS",
            "disposition": "APPLIED",
        }
    ],
    "order_audit": [
        {"order_id": "ORD1", "from_state": "PENDING_PAYMENT", "to_state": "PAID", "event": "PAY"}
    ],
    "stock_movement": [{"sku_id": "mug", "kind": "SET", "quantity": 10, "available_after": 10}],
    "allocation": [{"activity_id": "ACT1", "sku_id": "mug", "allocated": 3, "returned": 1}],
    "allocation_step": [{"op_id": "op", "activity_id": "ACT1", "kind": "ALLOCATE", "quantity": 3}],
    "refund_request": [
        {
            "order_id": "ORD1",
            "request_id": "RRQ1",
            "payment_id": "PAY1",
            "state": "SUCCEEDED",
            "amount_minor": 100,
            "currency": "CNY",
        }
    ],
    "refund_line": [{"order_id": "ORD1", "request_id": "RRQ1", "sku_id": "mug", "quantity": 1}],
    "stock_return": [{"order_id": "ORD1", "request_id": "RRQ1", "sku_id": "mug", "quantity": 1}],
    "statistic": [
        {"currency": "CNY", "quarter": THEN, "figure": "PAID", "count": 1, "amount_minor": 1000}
    ],
    "statistic_entry": [
        {"currency": "CNY", "quarter": THEN, "figure": "CREATED", "count": 1, "amount_minor": 500}
    ],
    "activity": [
        {
            "activity_id": "ACT1",
            "sku_id": "mug",
            "price_minor": 990,
            "currency": "CNY",
            "total": 3,
            "limit_per_user": 1,
            "state": "OPEN",
            "mode": "FIRST_COME",
            "offered": 3,
            "sold": 1,
            "open_slot": 1,
            "ends_at": LATER,
        }
    ],
    "seckill_order": [
        {
            "order_id": "ORD3",
            "activity_id": "ACT1",
            "user_id": "alice",
            "request_id": "1",
            "live_request": "1",
            "slot": 1,
            "state": "LIVE",
        }
    ],
    "log_chain": [{"log": "order_audit", "entity": "mall/ORD1", "length": 1, "hash": "h"}],
    "dead_entry": [
        {
            "activity_id": "ACT1",
            "entry_id": "1-1",
            "order_id": "ORD4",
            "fields": "{}",
            "deliveries": 5,
        }
    ],
}


def chain(service: str) -> list[str]:
    """The revisions of a service, oldest first."""
    scripts = ScriptDirectory.from_config(migrations._config(service, None))
    return [step.revision for step in scripts.walk_revisions()][::-1]


OLDER = [(service, revision) for service in SERVICES for revision in chain(service)]


def run(url: str, work: Callable[[Connection], Any]) -> Any:
    async def go() -> Any:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(go())


def rows_of(table: Table) -> Iterator[dict[str, Any]]:
    """Rows for a table of whatever revision: what ROWS says of its columns, something harmless in
    others that need it.
    """
    for said in ROWS.get(table.name, ()):
        row: dict[str, Any] = {}
        for column in table.columns:
            if column.name in said:
                row[column.name] = said[column.name]
            elif column.name == "merchant_id":
                row[column.name] = "mall"
            elif column.name.endswith("_at") and not column.nullable:
                row[column.name] = THEN
            elif not column.nullable and column.server_default is None:
                row[column.name] = "" if isinstance(column.type, String) else 0
        row.pop("id", None)  # counted up by the database
        yield row


def fill(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Puts rows into every table and returns what the database then holds."""
    found = MetaData()
    found.reflect(connection)
    for table in found.sorted_tables:
        if table.name not in migrations.BOOKKEEPING_TABLES:
            for row in rows_of(table):
                connection.execute(insert(table).values(row))
    return dump(connection)


def dump(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    found = MetaData()
    found.reflect(connection)
    return {
        table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
        for table in found.sorted_tables
        if table.name not in migrations.BOOKKEEPING_TABLES
    }


def revision_of(connection: Connection) -> Any:
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()


def to_revision(service: str, url: str, revision: str) -> None:
    run(url, lambda connection: command.upgrade(migrations._config(service, connection), revision))


@pytest.mark.parametrize(("service", "revision"), OLDER)
def test_rows_of_every_older_revision_survive_to_the_newest(
    database_url_factory: Factory, service: str, revision: str
) -> None:
    url = database_url_factory()
    to_revision(service, url, revision)
    before = run(url, fill)
    migrations.upgrade(service, url)
    after = run(url, dump)
    for table, rows in before.items():
        assert rows or table not in ROWS, table
        if not rows:
            continue
        kept = [
            {name: value for name, value in row.items() if name in rows[0]} for row in after[table]
        ]
        assert [row for row in kept if row not in rows] == [], (
            f"{table}: rows that nobody wrote, or that changed"
        )
        assert [row for row in rows if row not in kept] == [], f"{table}: rows that went or changed"


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
def test_captures_from_before_the_statements_get_a_time_of_capture(
    database_url_factory: Factory, revision: str
) -> None:
    url = database_url_factory()
    to_revision("payment_rpc", url, revision)
    run(url, fill)
    migrations.upgrade("payment_rpc", url)
    attempts = {row["attempt_id"]: row["captured_at"] for row in run(url, dump)["attempt"]}
    assert attempts == {"ATT1": LATER, "ATT2": None}


def test_orders_from_before_refunds_say_what_was_captured_and_their_stock_has_a_first_movement(
    database_url_factory: Factory,
) -> None:
    url = database_url_factory()
    to_revision("order_rpc", url, "0001")
    run(url, fill)
    migrations.upgrade("order_rpc", url)
    after = run(url, dump)
    money = {
        row["order_id"]: (row["captured_minor"], row["refunded_minor"], row["refund_status"])
        for row in after["orders"]
    }
    assert money == {"ORD1": (1000, 0, "NONE"), "ORD2": (0, 0, "NONE")}
    [movement] = after["stock_movement"]
    assert [movement[name] for name in ("sku_id", "kind", "quantity", "available_after")] == [
        "mug",
        "INITIAL",
        10,
        7,
    ]
    assert after["order_item"][0]["stock_source"] == "CATALOG"


@pytest.mark.parametrize("service", ["payment_rpc", "order_rpc"])
def test_receipts_of_a_role_become_receipts_of_the_person(
    database_url_factory: Factory, service: str
) -> None:
    url = database_url_factory()
    to_revision(service, url, "0001")
    run(url, fill)
    run(
        url,
        lambda connection: connection.execute(text("UPDATE receipt SET caller = 'merchant:clerk'")),
    )
    migrations.upgrade(service, url)
    assert [row["caller"] for row in run(url, dump)["receipt"]] == ["mall/clerk"]


@pytest.mark.parametrize("service", SERVICES)
def test_two_that_migrate_at_once_do_it_one_after_the_other(
    database_url_factory: Factory, service: str
) -> None:
    url = database_url_factory()
    with ThreadPoolExecutor(4) as threads:
        for done in [
            threads.submit(migrations.upgrade, service, url, lock_seconds=60) for _ in range(4)
        ]:
            done.result(timeout=120)
    assert run(url, revision_of) == chain(service)[-1]


def test_who_migrates_waits_for_another_no_longer_than_told(
    database_url_factory: Factory, dialect: str
) -> None:
    url = database_url_factory()
    migrations.upgrade("order_rpc", url)
    sync = create_engine(
        make_url(url).set(drivername="sqlite" if dialect == "sqlite" else "mysql+pymysql")
    )
    with sync.connect() as other:
        if dialect == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            name = migrations.lock_name(str(make_url(url).database))
            assert (
                other.execute(text("SELECT GET_LOCK(:name, 0)"), {"name": name}).scalar_one() == 1
            )
        with pytest.raises(migrations.MigrationBusy):
            migrations.upgrade("order_rpc", url, lock_seconds=0.1 if dialect == "sqlite" else 0)
    sync.dispose()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_a_step_that_fails_half_way_leaves_a_sqlite_database_as_it_was(
    database_url_factory: Factory, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database_url_factory()
    to_revision("order_rpc", url, "0001")
    before = run(url, fill)

    def fails(*_: object) -> None:
        raise RuntimeError("the power went")

    # after the last step, before the commit
    monkeypatch.setattr(migrations, "_write_promises", fails)
    with pytest.raises(RuntimeError, match="the power went"):
        migrations.upgrade("order_rpc", url)
    assert run(url, dump) == before
    assert run(url, revision_of) == "0001"


def step(revision: str, before: str | None, *, promises: bool) -> SimpleNamespace:
    return SimpleNamespace(
        revision=revision, down_revision=before, module=SimpleNamespace(code_before_runs=promises)
    )


@pytest.mark.parametrize(
    ("promises", "older"),
    [
        ((True, True), ["0002", "0001"]),
        ((False, True), ["0002"]),
        ((True, False), []),
        ((False, False), []),
    ],
)
def test_old_code_runs_on_a_newer_schema_only_when_every_step_in_between_says_so(
    promises: tuple[bool, bool], older: list[str]
) -> None:
    steps = [
        step("0003", "0002", promises=promises[1]),
        step("0002", "0001", promises=promises[0]),
        step("0001", None, promises=True),
    ]
    scripts: Any = SimpleNamespace(walk_revisions=lambda: steps)
    assert list(migrations._older_code(scripts)) == older


@pytest.mark.parametrize("promised", [True, False])
async def test_a_service_starts_on_a_newer_schema_that_promises_to_run_it(
    database_url_factory: Factory, promised: bool
) -> None:
    url = database_url_factory()
    await asyncio.to_thread(migrations.upgrade, "order_rpc", url)
    engine = create_async_engine(url)
    code = chain("order_rpc")[-1]
    try:
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            rows = "('9999', :code)" if promised else "('9998', :code), ('9999', '0000')"
            await connection.execute(
                text(f"INSERT INTO schema_runs_code VALUES {rows}"), {"code": code}
            )
        if promised:
            await migrations.check_current("order_rpc", engine)
        else:
            with pytest.raises(Unavailable, match="at revision 9999"):
                await migrations.check_current("order_rpc", engine)
    finally:
        await engine.dispose()


def test_a_database_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "var" / "order_rpc.db"
    migrations.upgrade("order_rpc", f"sqlite+aiosqlite:///{file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
