"""Activities, their orders, entries that were given up; receipts, outbox and inbox of the mesh."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mesh.db import BigInt, Identifier, UtcMillis

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Brings the schema here."""
    _create_mesh_tables()
    _create_activity()
    _create_orders()


def downgrade() -> None:
    """Takes it back."""
    for table in ("dead_entry", "seckill_order", "activity", "inbox", "outbox", "receipt"):
        op.drop_table(table)


def _text() -> sa.types.TypeEngine[str]:
    return sa.String(200).with_variant(
        mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def _id(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, UtcMillis, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _create_mesh_tables() -> None:
    op.create_table(
        "receipt",
        _id("merchant_id", 32),
        _id("caller", 80),
        _id("method", 64),
        _id("idempotency_key", 255),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        _id("resource_id", 32),
        sa.Column("answer", sa.Text, nullable=True),
        _time("created_at"),
        _time("expires_at"),
        sa.PrimaryKeyConstraint(
            "merchant_id", "caller", "method", "idempotency_key", name=op.f("pk_receipt")
        ),
        **_OPTIONS,
    )
    op.create_index("ix_receipt_resource_id", "receipt", ["resource_id"])
    op.create_index("ix_receipt_expires_at", "receipt", ["expires_at"])
    op.create_table(
        "outbox",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        _id("event_id", 40),
        _id("destination", 64),
        _id("tag", 64),
        _id("aggregate_id", 40),
        sa.Column("payload", sa.Text, nullable=False),
        _id("trace_id", 32),
        sa.Column("state", sa.String(8), nullable=False),
        _time("due_at"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.String(200), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("event_id", name=op.f("uq_outbox_event_id")),
        sa.CheckConstraint("state IN ('NEW', 'DONE', 'DEAD')", name=op.f("ck_outbox_state")),
        **_OPTIONS,
    )
    op.create_index("ix_outbox_claim", "outbox", ["destination", "state", "due_at", "id"])
    op.create_index("ix_outbox_aggregate_id", "outbox", ["aggregate_id"])
    op.create_table(
        "inbox",
        _id("consumer", 64),
        _id("event_id", 64),
        _time("handled_at"),
        sa.PrimaryKeyConstraint("consumer", "event_id", name=op.f("pk_inbox")),
        **_OPTIONS,
    )


def _create_activity() -> None:
    op.create_table(
        "activity",
        _id("activity_id", 32),
        _id("merchant_id", 32),
        _id("sku_id", 64),
        _number("price_minor"),
        _id("currency", 3),
        _id("mode", 16),
        sa.Column("limit_per_user", sa.Integer, nullable=False),
        _time("starts_at"),
        _time("ends_at"),
        _id("state", 16),
        _number("rev"),
        _number("epoch"),
        _number("offered"),
        _number("total"),
        _number("sold"),
        sa.Column("drawn", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("problem", _text(), nullable=False, server_default=""),
        sa.Column("open_slot", sa.SmallInteger, nullable=True),
        _number("version"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("activity_id", name=op.f("pk_activity")),
        sa.UniqueConstraint(
            "merchant_id", "sku_id", "open_slot", name=op.f("uq_activity_open_slot")
        ),
        sa.CheckConstraint(
            "state IN ('DRAFT', 'PUBLISHING', 'OPEN', 'PAUSED', 'CLOSING', 'CLOSED')",
            name=op.f("ck_activity_state"),
        ),
        sa.CheckConstraint("mode IN ('FIRST_COME', 'DRAW')", name=op.f("ck_activity_mode")),
        sa.CheckConstraint("price_minor >= 0", name=op.f("ck_activity_price")),
        sa.CheckConstraint("limit_per_user >= 1", name=op.f("ck_activity_limit_per_user")),
        sa.CheckConstraint("sold >= 0 AND sold <= total", name=op.f("ck_activity_sold")),
        sa.CheckConstraint("total >= 0 AND total <= offered", name=op.f("ck_activity_total")),
        sa.CheckConstraint(
            "(state IN ('DRAFT', 'CLOSED')) = (open_slot IS NULL)",
            name=op.f("ck_activity_open_slot"),
        ),
        sa.CheckConstraint("starts_at < ends_at", name=op.f("ck_activity_window")),
        **_OPTIONS,
    )
    op.create_index(
        "ix_activity_merchant", "activity", ["merchant_id", "created_at", "activity_id"]
    )
    op.create_index(
        "ix_activity_merchant_state",
        "activity",
        ["merchant_id", "state", "created_at", "activity_id"],
    )
    op.create_index("ix_activity_state", "activity", ["state", "activity_id"])


def _create_orders() -> None:
    op.create_table(
        "seckill_order",
        _id("order_id", 32),
        _id("activity_id", 32),
        _id("user_id", 64),
        _id("request_id", 64),
        sa.Column("slot", sa.SmallInteger, nullable=True),
        _id("live_request", 64, nullable=True),
        _id("state", 16),
        _number("batch_id"),
        _number("epoch"),
        sa.Column("order_ready", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("collisions", sa.Integer, nullable=False, server_default="0"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_seckill_order")),
        sa.UniqueConstraint("activity_id", "user_id", "slot", name=op.f("uq_seckill_order_slot")),
        sa.UniqueConstraint(
            "activity_id", "user_id", "live_request", name=op.f("uq_seckill_order_live_request")
        ),
        sa.CheckConstraint(
            "state IN ('LIVE', 'RETURNED', 'REFUSED')", name=op.f("ck_seckill_order_state")
        ),
        sa.CheckConstraint(
            "(state = 'LIVE') = (slot IS NOT NULL)", name=op.f("ck_seckill_order_slot")
        ),
        sa.CheckConstraint(
            "(state = 'LIVE') = (live_request IS NOT NULL)",
            name=op.f("ck_seckill_order_live_request"),
        ),
        **_OPTIONS,
    )
    op.create_table(
        "dead_entry",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        _id("activity_id", 32),
        sa.Column("entry_id", sa.String(40), nullable=False),
        sa.Column("order_id", sa.String(64), nullable=False),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("reason", _text(), nullable=False),
        sa.Column("deliveries", sa.Integer, nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_entry")),
        sa.UniqueConstraint("activity_id", "entry_id", name=op.f("uq_dead_entry_entry_id")),
        **_OPTIONS,
    )
