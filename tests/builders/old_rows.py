"""A row of every table, as older revisions of the schema have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import (
    Connection,
    MetaData,
    String,
    Table,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import create_async_engine

from mesh import migrations

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
    "channel_account": [
        {
            "account_id": "stripe_0123456789ab",
            "provider": "stripe",
            "merchant_id": "mall",
            "mode": "LIVE",
            "state": "ENABLED",
            "provider_slot": 1,
            "default_slot": 1,
            "credentials": "c2VhbGVk",
            "key_id": "1",
            "hint": "{}",
            "version": 1,
        }
    ],
    "channel_account_change": [
        {
            "account_id": "stripe_0123456789ab",
            "merchant_id": "mall",
            "version": 1,
            "step": "CREATE",
            "after_json": "{}",
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
    "external_order": [{"order_id": "ORD1", "order_no": "A-1", "customer": "{}"}],
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
    "merchant": [
        {
            "merchant_id": "mall",
            "name": "Mall 茶",
            "state": "LIVE",
            "time_zone": "UTC",
            "default_currency": "CNY",
            "contact_email": "owner@mall.example",
            "version": 3,
            "settings_version": 1,
        },
        {"merchant_id": "mall_test", "state": "TEST_ONLY", "is_test": True, "version": 1},
        {
            "merchant_id": "shop",
            "state": "SUSPENDED",
            "state_before": "LIVE",
            "version": 4,
        },
    ],
    "merchant_setting": [{"version": 1, "body": "{}", "created_by": "member:MEM1"}],
    "member": [
        {
            "member_id": "MEM1",
            "email_digest": "d",
            "email": "owner@mall.example",
            "name": "李",
            "state": "ACTIVE",
            "password_hash": "h",
        }
    ],
    "membership": [{"member_id": "MEM1", "role": "OWNER"}],
    "one_time_link": [
        {
            "token_digest": "t",
            "kind": "INVITATION",
            "subject": "mall/d",
            "payload": "{}",
            "expires_at": LATER,
        }
    ],
    "session": [
        {
            "session_id": "SES1",
            "member_id": "MEM1",
            "refresh_seed": "s",
            "rotation": 1,
            "idle_expires_at": THEN,
            "expires_at": LATER,
        }
    ],
    "recovery_code": [{"member_id": "MEM1", "code_digest": "c"}],
    "login_failure": [{"subject": "x", "failures": 1}],
    "api_key": [
        {
            "key_id": "AK1",
            "kind": "SECRET",
            "digest": "k",
            "pepper_id": "1",
            "prefix": "pmsk_live_7Hq2Wz",
            "last_four": "abcd",
            "name": "web shop",
        }
    ],
    "admin_action": [
        {
            "actor": "member:MEM1",
            "method": "ConfirmSignUp",
            "target": "mall",
            "after_json": "{}",
            "reason": "为什么",
            "outcome": "DONE",
        }
    ],
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
