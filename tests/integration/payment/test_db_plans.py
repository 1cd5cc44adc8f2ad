"""How MariaDB finds rows: every query of a worker and of a call goes through its index, in order,
so that a claim locks what it takes and nothing else, and a call costs the same when there are many
rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, outbox, relay
from mesh.bad_rows import Quarantine
from mesh.call import Caller, Role
from mesh.db import Database
from mesh.idempotency import IdempotencyKey
from mesh.outbox import Message
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.callback import (
    VERIFIED_RETENTION,
    Callback,
    CallbackKind,
    CallbackResult,
    Subject,
    received,
)
from payment_rpc.domain.payment import PaymentState
from payment_rpc.domain.scan import ScanAction, ScanEntry, ScanSubject
from payment_rpc.store import (
    attempts,
    callbacks,
    order_gates,
    payment_pages,
    payments,
    refunds,
    scan_actions,
)
from payment_rpc.store.payment_pages import PaymentPage
from payment_rpc.tables import ATTEMPT, CHANNEL_CALLBACK, ORDER_GATE, PAYMENT, SCAN_ACTION, metadata
from tests.builders.payment import a_payment, an_attempt
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import EPOCH

pytestmark = pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
ROWS = 3000
# Each search of merchants, and its index.
SEARCHES: list[tuple[dict[str, Any], str]] = [
    ({"order_id": "ORD00013"}, "ix_payment_order"),
    ({"order_id": "ORD00013", "state": PaymentState.FAILED}, "ix_payment_order"),
    ({"customer_digest": "d" * 64}, "ix_payment_customer"),
    ({"customer_digest": "d" * 64, "state": PaymentState.FAILED}, "ix_payment_customer"),
    ({"state": PaymentState.FAILED}, "ix_payment_state"),
    ({}, "ix_payment_merchant"),
    (
        {"created_from": EPOCH, "created_before": EPOCH + timedelta(seconds=50)},
        "ix_payment_merchant",
    ),
]
ADMIN = Caller(role=Role.ADMIN, subject="root")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A database with enough rows for the optimizer to mean it."""
    db = open_patiently(database_url, metadata)
    await create_tables(db.engine, metadata)
    async with db.engine.begin() as connection:
        await connection.execute(
            insert(PAYMENT),
            [
                payments._values(
                    a_payment(
                        PaymentState.PAYING if number % 10 == 0 else PaymentState.FAILED,
                        payment_id=f"PAY{number:05}",
                        order_id=f"ORD{number // 3:05}",
                        holds_slot=number % 30 == 0,
                        expires_at=EPOCH + timedelta(seconds=number),
                    )
                )
                for number in range(ROWS)
            ],
        )
        await connection.execute(
            insert(ATTEMPT),
            [
                attempts._values(
                    an_attempt(
                        AttemptState.UNKNOWN if number % 10 == 0 else AttemptState.DECLINED,
                        attempt_id=f"ATT{number:05}",
                        payment_id=f"PAY{number:05}",
                        **(
                            {"next_query_at": EPOCH + timedelta(seconds=number)}
                            if number % 10 == 0
                            else {}
                        ),
                    )
                )
                for number in range(ROWS)
            ],
        )
        await connection.execute(
            insert(ORDER_GATE),
            [
                {
                    "merchant_id": "mall",
                    "order_id": f"ORD{number:05}",
                    "state": "OPEN",
                    "updated_at": EPOCH,
                }
                for number in range(ROWS // 3)
            ],
        )
        await connection.execute(
            insert(SCAN_ACTION), [scan_actions._values(an_entry(number)) for number in range(ROWS)]
        )
        await connection.execute(
            insert(CHANNEL_CALLBACK),
            [callbacks._values(a_callback(number)) for number in range(ROWS)],
        )
    for number in range(0, ROWS, 500):
        await db.run(
            outbox.put,
            *(
                Message(
                    event_id=f"EVT{number + offset:05}",
                    destination=("order_rpc", "stream:X")[offset % 2],
                    tag="t",
                    aggregate_id="PAY1",
                    payload={},
                    trace_id="",
                    due_at=EPOCH + timedelta(seconds=number + offset),
                    created_at=EPOCH,
                )
                for offset in range(500)
            ),
        )
    await _execute(db, "UPDATE outbox SET state = 'DONE' WHERE id % 3 = 0")
    await _execute(
        db,
        "ANALYZE TABLE payment, attempt, outbox, order_gate, idempotency_key, channel_callback, scan_action",
    )
    yield db
    await db.close()


def an_entry(number: int) -> ScanEntry:
    """A question of the scan."""
    return ScanEntry(
        action=ScanAction.QUERY,
        subject=ScanSubject(payment_id=f"PAY{number // 3:05}"),
        state_before="PAYING",
        state_after="PAYING",
        result="UNKNOWN",
        reason="",
        duration=timedelta(0),
        at=EPOCH + timedelta(seconds=number),
    )


def a_callback(number: int) -> Callback:
    """A message of a channel; every tenth is still RECEIVED."""
    came = received(
        callback_id=f"CB{number:05}",
        channel="sandbox",
        kind=CallbackKind.CALLBACK,
        body=str(number).encode(),
        timestamp="",
        nonce="",
        signature="",
        trace_id="",
        about=Subject(payment_id=f"PAY{number:05}"),
        at=EPOCH + timedelta(seconds=number),
    )
    return (
        came
        if number % 10 == 0
        else came.ended(CallbackResult.PROCESSED, reason="", about=came.about, at=came.received_at)
    )


async def _execute(db: Database, sql: str) -> list[Any]:
    async def run(tx: AsyncConnection) -> list[Any]:
        return (
            list((await tx.execute(text(sql))).all())
            if not sql.startswith("UPDATE")
            else [await tx.execute(text(sql))]
        )

    return await db.run(run)


async def plan(db: Database, statement: Any) -> list[Any]:
    """EXPLAIN of a statement of SQLAlchemy."""
    compiled = statement.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True})
    return await _execute(db, f"EXPLAIN {compiled}".replace("%%", "%"))


async def statements(db: Database, work: Any, *args: Any, **kwargs: Any) -> list[list[Any]]:
    """EXPLAIN of every SELECT and UPDATE that a piece of work sends, by table."""
    seen: list[tuple[str, Any]] = []

    def note(
        _connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, _many: bool
    ) -> None:
        if sql.lstrip().startswith(("SELECT", "UPDATE")):
            seen.append((sql, parameters))

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    try:
        await db.run(work, *args, **kwargs)
    finally:
        event.remove(db.engine.sync_engine, "before_cursor_execute", note)
    plans = []
    for sql, parameters in seen:

        async def explain(
            tx: AsyncConnection, sql: str = sql, parameters: Any = parameters
        ) -> list[Any]:
            return list((await tx.exec_driver_sql(f"EXPLAIN {sql}", parameters)).all())

        plans.append(await db.run(explain))
    assert plans
    return plans


def uses(rows: list[Any], key: str) -> None:
    """One table, through this index, in its order, without a temporary table."""
    [row] = rows
    assert row.key == key, row
    assert "filesort" not in (row.Extra or ""), row
    assert "temporary" not in (row.Extra or ""), row


async def test_workers_and_lists_go_through_their_index_in_its_order(db: Database) -> None:
    soon = EPOCH + timedelta(seconds=200)
    uses(await plan(db, relay.claim_statement("order_rpc", soon)), "ix_outbox_claim")
    uses(await plan(db, relay.next_due_statement("order_rpc")), "ix_outbox_claim")
    uses(await plan(db, attempts.POLLED.due_statement(soon, 100)), "ix_attempt_due")
    uses(await plan(db, attempts.POLLED.next_due_statement()), "ix_attempt_due")
    uses(await plan(db, refunds.POLLED.next_due_statement()), "ix_refund_due")
    uses(await plan(db, payments.next_expiry_statement()), "ix_payment_expiry")
    uses(await plan(db, payments.expired_statement(soon, 100)), "ix_payment_expiry")
    for statement, column, key in (
        (attempts.POLLED.due_statement(soon, 100), ATTEMPT.c.attempt_id, "ix_attempt_due"),
        (payments.expired_statement(soon, 100), PAYMENT.c.payment_id, "ix_payment_expiry"),
    ):
        quarantine = Quarantine("w", column)
        for number in range(50):
            quarantine.add((f"X{number}",), ValueError())
        uses(await plan(db, quarantine.narrow(statement)), key)
    [rows] = await statements(
        db,
        callbacks.list_unfinished,
        before=soon,
        limit=100,
        quarantine=Quarantine("w", CHANNEL_CALLBACK.c.callback_id),
    )
    uses(rows, "ix_channel_callback_result")
    rows, *_ = await statements(
        db, callbacks.purge, now=EPOCH + VERIFIED_RETENTION + timedelta(seconds=1)
    )
    uses(rows, "ix_channel_callback_expires_at")
    rows, *_ = await statements(db, scan_actions.purge, before=EPOCH + timedelta(seconds=100))
    uses(rows, "ix_scan_action_acted_at")
    [rows] = await statements(db, scan_actions.of_payments, ["PAY00040"])
    uses(rows, "ix_scan_action_payment")
    for after in (None, (EPOCH, "PAY00040")):
        for wanted, index in SEARCHES:
            page = PaymentPage(merchant_id="mall", after=after, limit=21, **wanted)
            [rows] = await statements(db, payment_pages.list_payments, page, visible_to=ADMIN)
            uses(rows, index)
    [rows] = await statements(db, payments.order_id_of, merchant_id="mall", order="A-1")
    uses(rows, "ix_payment_order_no")


async def test_nothing_that_a_call_does_reads_more_than_its_own_rows(db: Database) -> None:
    for work, arguments in (
        (order_gates.enter_gate, {"merchant_id": "mall", "order_id": "ORD00013", "at": EPOCH}),
        (
            payments.get_of_order,
            {"merchant_id": "mall", "order_id": "ORD00013", "visible_to": ADMIN},
        ),
        (payments.lock_slot_holder, {"merchant_id": "mall", "order_id": "ORD00010"}),
        (payments.lock_payment, {"payment_id": "PAY00040"}),
        (payments.save_payment, {"payment": a_payment(payment_id="PAY00040"), "read_version": 1}),
        (attempts.attempts_of, {"payment_id": "PAY00040"}),
        (attempts.payment_id_of, {"attempt_id": "ATT00040"}),
        (attempts.get_attempt, {"attempt_id": "ATT00040"}),
        (
            attempts.save_attempt,
            {"attempt": an_attempt(AttemptState.UNKNOWN, attempt_id="ATT00040"), "read_version": 1},
        ),
        (callbacks.arrive, {"callback": a_callback(40)}),
        (callbacks.arrive, {"callback": replace(a_callback(40), callback_id="CB99999")}),
        (callbacks.finish, {"callback": a_callback(41)}),
        (
            callbacks.add_unverified,
            {
                "callback": replace(
                    a_callback(1).refused("x"),
                    callback_id="CBnew",
                    about=Subject(attempt_id="ATT00040"),
                )
            },
        ),
        (
            idempotency.find,
            {
                "key": IdempotencyKey(
                    merchant_id="mall", caller="user:u1", method="Charge", key="k"
                ),
                "fingerprint": {},
            },
        ),
        (idempotency.finish, {"resource_id": "PAY00040", "answer": "x"}),
    ):
        for rows in await statements(db, work, **arguments):
            for row in rows:
                extra = row.Extra or ""
                assert (
                    row.type in ("const", "eq_ref", "ref", "range")
                    or "after reading const tables" in extra
                ), (work.__name__, row)
                assert int(row.rows or 0) <= 4, (work.__name__, row)
                assert "filesort" not in extra, (work.__name__, row)
