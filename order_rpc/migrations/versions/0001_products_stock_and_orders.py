"""Products, stock, orders, reservations, what payments did; receipts, outbox and inbox of the
mesh.
"""

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
    _create_catalog()
    _create_orders()
    _create_order_history()


def downgrade() -> None:
    """Takes it back."""
    for table in (
        "order_audit",
        "payment_disposition",
        "reservation",
        "order_item",
        "orders",
        "stock",
        "product",
        "inbox",
        "outbox",
        "receipt",
    ):
        op.drop_table(table)


def _text() -> sa.types.TypeEngine[str]:
    return sa.String(200).with_variant(
        mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def _id(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, UtcMillis, nullable=nullable)


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


def _create_catalog() -> None:
    op.create_table(
        "product",
        _id("merchant_id", 32),
        _id("sku_id", 64),
        sa.Column("name", _text(), nullable=False),
        _number("price_minor"),
        _id("currency", 3),
        _number("first_available"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", "sku_id", name=op.f("pk_product")),
        sa.CheckConstraint("price_minor >= 0", name=op.f("ck_product_price")),
        **_OPTIONS,
    )
    op.create_table(
        "stock",
        _id("merchant_id", 32),
        _id("sku_id", 64),
        _number("available"),
        _number("reserved"),
        _number("sold"),
        sa.PrimaryKeyConstraint("merchant_id", "sku_id", name=op.f("pk_stock")),
        sa.ForeignKeyConstraint(
            ["merchant_id", "sku_id"],
            ["product.merchant_id", "product.sku_id"],
            name=op.f("fk_stock_merchant_id_sku_id"),
        ),
        sa.CheckConstraint("available >= 0", name=op.f("ck_stock_available")),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_stock_reserved")),
        sa.CheckConstraint("sold >= 0", name=op.f("ck_stock_sold")),
        **_OPTIONS,
    )


def _create_orders() -> None:
    op.create_table(
        "orders",
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("user_id", 64),
        _id("state", 32),
        _number("amount_minor"),
        _id("currency", 3),
        _id("paid_payment_id", 32),
        _number("version"),
        _time("created_at"),
        _time("expires_at"),
        _time("paid_at", nullable=True),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", "order_id", name=op.f("pk_orders")),
        sa.CheckConstraint(
            "state IN ('PENDING_PAYMENT', 'PAID', 'CANCELLING', 'CANCELLED', 'SHIPPED', "
            "'COMPLETED', 'REFUNDED')",
            name=op.f("ck_orders_state"),
        ),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_orders_amount")),
        sa.CheckConstraint(
            "(state IN ('PENDING_PAYMENT', 'CANCELLING', 'CANCELLED')) = (paid_at IS NULL)",
            name=op.f("ck_orders_paid_at"),
        ),
        sa.CheckConstraint(
            "paid_at IS NOT NULL OR paid_payment_id = ''", name=op.f("ck_orders_paid_payment_id")
        ),
        **_OPTIONS,
    )
    op.create_index("ix_orders_merchant", "orders", ["merchant_id", "created_at", "order_id"])
    op.create_index("ix_orders_state", "orders", ["merchant_id", "state", "created_at", "order_id"])
    op.create_index(
        "ix_orders_user", "orders", ["merchant_id", "user_id", "created_at", "order_id"]
    )
    op.create_index(
        "ix_orders_user_state",
        "orders",
        ["merchant_id", "user_id", "state", "created_at", "order_id"],
    )
    op.create_table(
        "order_item",
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("sku_id", 64),
        sa.Column("name", _text(), nullable=False),
        _number("unit_price_minor"),
        sa.Column("quantity", sa.Integer, nullable=False),
        _number("amount_minor"),
        sa.PrimaryKeyConstraint("merchant_id", "order_id", "sku_id", name=op.f("pk_order_item")),
        _order_key("order_item"),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_order_item_quantity")),
        sa.CheckConstraint(
            "amount_minor = unit_price_minor * quantity", name=op.f("ck_order_item_amount")
        ),
        **_OPTIONS,
    )
    op.create_table(
        "reservation",
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("sku_id", 64),
        sa.Column("generation", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        _id("state", 32),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint(
            "merchant_id", "order_id", "sku_id", "generation", name=op.f("pk_reservation")
        ),
        _order_key("reservation"),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_reservation_quantity")),
        sa.CheckConstraint(
            "state IN ('RESERVED', 'COMMITTED', 'RELEASED')", name=op.f("ck_reservation_state")
        ),
        **_OPTIONS,
    )


def _create_order_history() -> None:
    op.create_table(
        "payment_disposition",
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("payment_id", 32),
        _number("payment_version"),
        _id("payment_state", 32),
        _id("disposition", 32, nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint(
            "merchant_id", "order_id", "payment_id", name=op.f("pk_payment_disposition")
        ),
        _order_key("payment_disposition"),
        sa.CheckConstraint(
            "disposition IN ('APPLIED', 'ALREADY', 'REVIVED', 'REFUSED_CANCELLED', "
            "'REFUSED_PAID_BY_OTHER')",
            name=op.f("ck_payment_disposition_disposition"),
        ),
        **_OPTIONS,
    )
    op.create_table(
        "order_audit",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("from_state", 32),
        _id("to_state", 32),
        _id("event", 32),
        _id("event_id", 64),
        _id("operator", 80),
        sa.Column("remark", _text(), nullable=False),
        _id("trace_id", 32),
        sa.Column("needs_attention", sa.Boolean, nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_audit")),
        _order_key("order_audit"),
        **_OPTIONS,
    )
    op.create_index("ix_order_audit_order_id", "order_audit", ["merchant_id", "order_id", "id"])


def _order_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["merchant_id", "order_id"],
        ["orders.merchant_id", "orders.order_id"],
        name=op.f(f"fk_{table}_merchant_id_order_id"),
    )
