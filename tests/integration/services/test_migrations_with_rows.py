"""Databases of every older revision, full of rows, brought to the newest schema; two who migrate at
once; code that is older than the schema.
"""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    create_engine,
    make_url,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from mesh import migrations, schema_versions
from mesh.errors import Unavailable
from tests.builders.old_rows import LATER, ROWS, dump, fill, run

Factory = Callable[[], str]
SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")


def chain(service: str) -> list[str]:
    """The revisions of a service, oldest first."""
    scripts = ScriptDirectory.from_config(migrations._config(service, None))
    return [step.revision for step in scripts.walk_revisions()][::-1]


OLDER = [(service, revision) for service in SERVICES for revision in chain(service)]


def revision_of(connection: Connection) -> Any:
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()


def to_revision(service: str, url: str, revision: str) -> None:
    run(url, lambda connection: command.upgrade(migrations._config(service, connection), revision))


@pytest.mark.drawn(12)
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


def test_payments_of_customers_who_were_erased_before_are_told_to_forget_them(
    database_url_factory: Factory,
) -> None:
    url = database_url_factory()
    to_revision("order_rpc", url, "0007")
    run(url, fill)
    run(url, lambda connection: connection.execute(text("DELETE FROM outbox")))
    erased = "UPDATE external_order SET customer_digest = NULL, erased_at = 1000"
    run(url, lambda connection: connection.execute(text(erased)))
    migrations.upgrade("order_rpc", url)
    [message] = run(url, dump)["outbox"]
    assert [message[name] for name in ("destination", "tag", "aggregate_id", "state")] == [
        "payment_rpc",
        "EraseCustomer",
        "ORD1",
        "NEW",
    ]
    assert json.loads(message["payload"]) == {"merchant_id": "mall", "order_id": "ORD1"}


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
            await schema_versions.check_current("order_rpc", engine)
        else:
            with pytest.raises(Unavailable, match="at revision 9999"):
                await schema_versions.check_current("order_rpc", engine)
    finally:
        await engine.dispose()


def test_a_database_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "var" / "order_rpc.db"
    migrations.upgrade("order_rpc", f"sqlite+aiosqlite:///{file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
