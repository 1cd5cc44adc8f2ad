"""Somebody changes rows by hand, one thing at a time, in databases of which everything holds:
`paymesh audit` names each. The tables say what finds what; every check that there is occurs in one
of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Table, update
from sqlalchemy.ext.asyncio import AsyncConnection

import order_rpc.tables as of_orders
import payment_rpc.tables as of_payments
from mesh.audit import AuditTolerance
from paymesh_cli.audit.parts import audit_databases
from sandbox import wire
from tests.builders.audit import audited
from tests.builders.audit_corruptions import (
    ATTEMPT,
    CARD,
    PAYMENT,
    REFUND,
    ROWS,
    A,
    P,
    Stage,
    a_day,
    all_rows,
)
from tests.builders.payment import payment_world
from tests.support.databases import plant
from tests.support.sandbox_server import API_KEY
from tools.servers import MariaDB

pytestmark = pytest.mark.asyncio(loop_scope="module")
transaction_json = wire.transaction_json
UNREADABLE = 10**15  # milliseconds; no calendar has them


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "mariadb"])
async def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    """One for all tests: each puts back what it changed."""
    folder = tmp_path_factory.mktemp("stage")
    if request.param == "mariadb":
        server: MariaDB = request.getfixturevalue("mariadb_server")
        orders, payments = server.create_database(), server.create_database()
    else:
        orders, payments = (
            f"sqlite+aiosqlite:///{folder / name}.db" for name in ("orders", "payments")
        )
    async with payment_world(orders, payments, folder, fee_basis_points=60) as world:
        await a_day(world)
        databases = {
            "payment_rpc": (world.db, of_payments.metadata),
            "order_rpc": (world.order_side.db, of_orders.metadata),
        }
        rows = {
            (service, table.name): await db.read(all_rows, table)
            for service, (db, metadata) in databases.items()
            for table in metadata.sorted_tables
        }
        yield Stage(world, databases, rows)


async def test_nothing_is_wrong_before(stage: Stage) -> None:
    assert await audited(stage.world, strict=True) == []


@pytest.mark.drawn(40)
@pytest.mark.parametrize("damage", ROWS)
async def test_each_thing_that_somebody_changes_is_named(stage: Stage, damage: str) -> None:
    tamper, place, check = ROWS[damage]
    try:
        await tamper(stage)
        assert (place, check) in await stage.found(place)
    finally:
        await stage.restore()


async def test_what_the_channel_says_and_nobody_understands_hides_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(transaction: Any, **options: Any) -> dict[str, object]:
        shown = transaction_json(transaction, **options)
        return {**shown, "amount": "1.2.3"} if shown["attempt_id"] == broken.attempt_id else shown

    broken = await stage.one(ATTEMPT, A.state == "CAPTURED", A.channel == "sandbox")
    await stage.change(
        "payment_rpc",
        update(ATTEMPT)
        .where(A.state == "CAPTURED", A.attempt_id != broken.attempt_id)
        .values(captured_minor=1),
    )
    monkeypatch.setattr(wire, "transaction_json", spoiled)
    monkeypatch.setattr(wire, "refund_json", lambda _refund: {"refund_id": 5})
    try:
        found = await audited(stage.world, strict=True)
    finally:
        await stage.restore()
    checks = [check for where, check, _ in found if where == "channel"]
    assert checks.count("channel_readable") == 1 + len(await stage.world.rows(REFUND)) - 1, (
        "one capture, and the refunds of the channel"
    )
    assert "capture_same" in checks


async def test_one_row_that_nobody_can_read_hides_none_of_the_others(stage: Stage) -> None:
    broken = await stage.one(PAYMENT, P.state == "SUCCESS", CARD)
    other = await stage.one(PAYMENT, P.state == "SUCCESS", CARD, P.payment_id > broken.payment_id)
    for service, statement in (
        (
            "payment_rpc",
            (
                f"UPDATE payment SET outcome = 'GONE', paid_at = -62135625600000 WHERE payment_id = "
                f"'{broken.payment_id}'"
            ),
        ),
        (
            "order_rpc",
            f"UPDATE orders SET paid_at = {UNREADABLE} WHERE order_id = '{broken.order_id}'",
        ),
    ):

        async def run(tx: AsyncConnection, statement: str = statement) -> None:
            await tx.exec_driver_sql(statement)

        await stage.databases[service][0].run(run)
    await stage.change(
        "payment_rpc",
        update(PAYMENT)
        .where(P.payment_id == other.payment_id)
        .values(refunded_minor=P.captured_minor),
    )
    try:
        found = set(await audited(stage.world))
    finally:
        await stage.restore()
    assert {
        ("payment_rpc", "row_readable", broken.payment_id),
        ("order_rpc", "row_readable", broken.order_id),
        ("payment_rpc", "ledger_readable", broken.payment_id),
        ("payment_rpc", "ledger_payment_refunded", other.payment_id),
        ("across", "same_refunded", other.order_id),
    } <= found


@pytest.mark.drawn(8)
@pytest.mark.parametrize(
    ("table", "damage", "what"),
    [
        (of_payments.PAYMENT, "state = 'NONSENSE'", "breaks the rule"),
        (of_payments.PAYMENT, "disposition = 'NONSENSE'", "has an unknown disposition"),
        (of_payments.PAYMENT, "outcome = 'NONSENSE'", "has an unknown outcome"),
        (of_payments.PAYMENT, "currency = 'ZZZ'", "has an unknown currency"),
        (of_payments.PAYMENT, "version = -1", "has a negative version"),
        (of_payments.ATTEMPT, "state = 'NONSENSE'", "breaks the rule"),
        (of_payments.REFUND, "state = 'NONSENSE'", "breaks the rule"),
        (of_payments.REFUND, "currency = 'ZZZ'", "has an unknown currency"),
        (of_payments.WALLET_ENTRY, "kind = 'NONSENSE'", "breaks the rule"),
        (of_payments.LEDGER_POSTING, "currency = 'ZZZ'", "has an unknown currency"),
        (of_orders.ORDERS, "state = 'NONSENSE'", "breaks the rule"),
        (of_orders.ORDERS, "currency = 'ZZZ'", "has an unknown currency"),
        (of_orders.ORDERS, "address = '['", "has no JSON in address"),
        (of_orders.ORDER_ITEM, "stock_source = 'ATTIC'", "breaks the rule"),
        (of_orders.ORDER_AUDIT, "to_state = 'NONSENSE'", "has an unknown to_state"),
        (of_orders.PRODUCT, "currency = 'ZZZ'", "has an unknown currency"),
        (of_orders.STATISTIC_ENTRY, "figure = 'NONSENSE'", "has an unknown figure"),
        (of_orders.REFUND_REQUEST, "state = 'NONSENSE'", "breaks the rule"),
    ],
    ids=str,
)
async def test_a_row_that_no_code_can_read_is_named_and_the_audit_goes_on(
    stage: Stage, table: Table, damage: str, what: str
) -> None:
    service = "order_rpc" if table.metadata is of_orders.metadata else "payment_rpc"
    row = stage.rows[service, table.name][0]
    key = {column.name: row[column.name] for column in table.primary_key.columns}
    await plant(
        stage.databases[service][0],
        f"UPDATE {table.name} SET {damage} WHERE "
        f"{' AND '.join(f'{name} = {value!r}' for name, value in key.items())}",
    )
    try:
        found = [
            violation
            async for where, violation in audit_databases(
                {name: db for name, (db, _) in stage.databases.items()},
                AuditTolerance(now=stage.world.clock.now(), strict=True),
                sandbox_url=stage.world.sandbox.base_url,
                api_key=API_KEY,
            )
        ]
    finally:
        await stage.restore()
    [named] = [violation for violation in found if violation.check == "row_readable"]
    assert named.subject == str(list(key.values())[-1])
    assert named.detail.startswith(f"a row of {table.name} {what}")


async def test_nothing_is_wrong_after_all_of_it(stage: Stage) -> None:
    assert await audited(stage.world, strict=True) == []


NAMED = re.compile(
    r"(?:check=|Check\(\s*name=|yield \(?\s*|problems \+= \[\(|found\.append\(\(|\[\(|return "
    r'\[\()"([a-z_]+)"'
)


async def test_every_check_is_tried() -> None:
    """Whoever adds a check adds a row that it finds."""
    root = Path(__file__).parents[3]
    sources = [
        *root.glob("*_rpc/audit/*.py"),
        root / "paymesh_cli/audit/compare.py",
        root / "mesh/audit/queries.py",
        root / "paymesh_cli/audit/between.py",
    ]
    names = {
        name
        for source in sources
        if source.name != "explain.py"
        for name in NAMED.findall(source.read_text())
    }
    assert len(names) > 60, "the pattern finds them"
    tried = "".join(
        (root / "tests" / name).read_text()
        for name in (
            "builders/audit_corruptions.py",
            "builders/merchant_corruptions.py",
            "integration/payment/test_account_audit.py",
            "integration/seckill/test_seckill_audit.py",
            "integration/services/test_audit.py",
            "integration/services/test_audit_corruptions.py",
        )
    )
    assert {name for name in names if f'"{name}"' not in tried} == set()
