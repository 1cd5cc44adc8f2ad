"""The whole life of an order: address, shipping, refunds, stock movements, allocations of flash
sales, statistics.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mesh.db import BigInt, Identifier, UtcMillis

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
_NEW_TABLES = (
    "stock_movement",
    "allocation",
    "allocation_step",
    "refund_request",
    "refund_line",
    "stock_return",
    "statistic",
    "statistic_entry",
)
_ORDER_COLUMNS = (
    "shipping_minor",
    "discount_minor",
    "captured_minor",
    "refunded_minor",
    "refund_status",
    "client_request_id",
    "address",
    "carrier",
    "tracking_number",
    "cancel_reason",
    "shipped_at",
    "completed_at",
    "cancelled_at",
)


def upgrade() -> None:
    """Brings the schema here. New columns have defaults, so that processes of the version before
    may still write.
    """
    _extend_catalog()
    _extend_orders()
    _create_stock_tables()
    _create_refund_tables()
    _create_statistics()


def downgrade() -> None:
    """Takes it back."""
    for table in reversed(_NEW_TABLES):
        op.drop_table(table)
    with op.batch_alter_table("order_item") as item:
        item.drop_constraint(op.f("ck_order_item_stock_source"), type_="check")
        item.drop_column("stock_source")
        item.drop_column("activity_id")
    op.drop_index("ix_orders_expiry", "orders")
    with op.batch_alter_table("orders") as orders:
        for check in ("refund_status", "parts", "money"):
            orders.drop_constraint(op.f(f"ck_orders_{check}"), type_="check")
        orders.drop_constraint("uq_orders_client_request_id", type_="unique")
        for column in _ORDER_COLUMNS:
            orders.drop_column(column)
    with op.batch_alter_table("stock") as stock:
        stock.drop_constraint(op.f("ck_stock_allocated"), type_="check")
        stock.drop_column("allocated")
    with op.batch_alter_table("product") as product:
        product.drop_column("on_sale")


def _text() -> sa.types.TypeEngine[str]:
    return sa.String(200).with_variant(
        mysql.VARCHAR(200, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def _words(name: str, *, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, _text(), nullable=False, server_default=default)


def _id(
    name: str, length: int, *, nullable: bool = False, default: str | None = None
) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable, server_default=default)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, UtcMillis, nullable=nullable)


def _number(name: str, *, default: str | None = None) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=default)


def _extend_catalog() -> None:
    with op.batch_alter_table("product") as product:
        product.add_column(
            sa.Column("on_sale", sa.Boolean, nullable=False, server_default=sa.true())
        )
    with op.batch_alter_table("stock") as stock:
        stock.add_column(_number("allocated", default="0"))
        stock.create_check_constraint(op.f("ck_stock_allocated"), "allocated >= 0")


def _extend_orders() -> None:
    with op.batch_alter_table("orders") as orders:
        for name in ("shipping_minor", "discount_minor", "captured_minor", "refunded_minor"):
            orders.add_column(_number(name, default="0"))
        orders.add_column(_id("refund_status", 32, default="NONE"))
        orders.add_column(_id("client_request_id", 64, nullable=True))
        orders.add_column(sa.Column("address", sa.Text, nullable=True))
        orders.add_column(_words("carrier", default=""))
        orders.add_column(_id("tracking_number", 64, default=""))
        orders.add_column(_words("cancel_reason", default=""))
        for name in ("shipped_at", "completed_at", "cancelled_at"):
            orders.add_column(_time(name, nullable=True))
        orders.create_check_constraint(
            op.f("ck_orders_refund_status"),
            "refund_status IN ('NONE', 'REQUESTED', 'PENDING', 'PARTIAL', 'REFUNDED', "
            "'FAILED', 'BOUNCED')",
        )
        orders.create_check_constraint(
            op.f("ck_orders_parts"), "shipping_minor >= 0 AND discount_minor >= 0"
        )
        orders.create_check_constraint(
            op.f("ck_orders_money"), "captured_minor >= 0 AND refunded_minor >= 0"
        )
        orders.create_unique_constraint(
            "uq_orders_client_request_id", ["merchant_id", "user_id", "client_request_id"]
        )
    op.create_index(
        "ix_orders_expiry", "orders", ["state", "expires_at", "merchant_id", "order_id"]
    )
    op.execute("UPDATE orders SET captured_minor = amount_minor WHERE paid_payment_id <> ''")
    with op.batch_alter_table("order_item") as item:
        item.add_column(_id("stock_source", 32, default="CATALOG"))
        item.add_column(_id("activity_id", 32, default=""))
        item.create_check_constraint(
            op.f("ck_order_item_stock_source"), "stock_source IN ('CATALOG', 'ACTIVITY')"
        )


def _create_stock_tables() -> None:
    op.create_table(
        "stock_movement",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        _id("merchant_id", 32),
        _id("sku_id", 64),
        _id("kind", 32),
        _number("quantity"),
        _number("available_after"),
        _words("reason"),
        _id("operator", 80),
        _id("reference", 64),
        _id("trace_id", 32),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stock_movement")),
        sa.CheckConstraint(
            "kind IN ('INITIAL', 'SET', 'ADJUST', 'ALLOCATE', 'RETURN_ALLOCATION', 'REFUND')",
            name=op.f("ck_stock_movement_kind"),
        ),
        **_OPTIONS,
    )
    op.create_index("ix_stock_movement_sku_id", "stock_movement", ["merchant_id", "sku_id", "id"])
    # What is there already becomes the first movement of each product.
    op.execute(
        "INSERT INTO stock_movement (merchant_id, sku_id, kind, quantity, available_after, "
        "reason, operator, reference, trace_id, created_at) "
        "SELECT stock.merchant_id, stock.sku_id, 'INITIAL', stock.available + stock.reserved + "
        "stock.sold, stock.available, '', 'migration', "
        "'', '', product.created_at FROM stock JOIN product ON product.merchant_id = "
        "stock.merchant_id AND product.sku_id = stock.sku_id"
    )
    op.create_table(
        "allocation",
        _id("merchant_id", 32),
        _id("activity_id", 32),
        _id("sku_id", 64),
        _number("allocated"),
        _number("returned"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", "activity_id", name=op.f("pk_allocation")),
        sa.CheckConstraint(
            "returned >= 0 AND returned <= allocated", name=op.f("ck_allocation_returned")
        ),
        **_OPTIONS,
    )
    op.create_table(
        "allocation_step",
        _id("merchant_id", 32),
        _id("op_id", 64),
        _id("activity_id", 32),
        _id("kind", 32),
        _number("quantity"),
        _time("created_at"),
        sa.PrimaryKeyConstraint("merchant_id", "op_id", name=op.f("pk_allocation_step")),
        **_OPTIONS,
    )


def _create_refund_tables() -> None:
    op.create_table(
        "refund_request",
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("request_id", 32),
        _id("payment_id", 32),
        _id("state", 32),
        _number("amount_minor"),
        _id("currency", 3),
        _words("reason"),
        _id("refund_id", 32),
        _words("failure"),
        sa.Column("of_sale", sa.Boolean, nullable=False),
        _number("version"),
        _time("succeeded_at", nullable=True),
        _time("bounced_at", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint(
            "merchant_id", "order_id", "request_id", name=op.f("pk_refund_request")
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id", "order_id"],
            ["orders.merchant_id", "orders.order_id"],
            name=op.f("fk_refund_request_merchant_id_order_id"),
        ),
        sa.CheckConstraint(
            "state IN ('REQUESTED', 'APPROVED', 'REJECTED', 'SUCCEEDED', 'FAILED', 'BOUNCED')",
            name=op.f("ck_refund_request_state"),
        ),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_refund_request_amount")),
        **_OPTIONS,
    )
    for table, extra in (("refund_line", []), ("stock_return", [_time("created_at")])):
        op.create_table(
            table,
            _id("merchant_id", 32),
            _id("order_id", 32),
            _id("request_id", 32),
            _id("sku_id", 64),
            sa.Column("quantity", sa.Integer, nullable=False),
            *extra,
            sa.PrimaryKeyConstraint(
                "merchant_id", "order_id", "request_id", "sku_id", name=op.f(f"pk_{table}")
            ),
            sa.CheckConstraint("quantity > 0", name=op.f(f"ck_{table}_quantity")),
            **_OPTIONS,
        )


def _create_statistics() -> None:
    columns = ("merchant_id", "currency", "quarter", "figure")
    op.create_table(
        "statistic",
        _id("merchant_id", 32),
        _id("currency", 3),
        sa.Column("quarter", UtcMillis, autoincrement=False, nullable=False),
        _id("figure", 32),
        _number("count"),
        _number("amount_minor"),
        sa.PrimaryKeyConstraint(*columns, name=op.f("pk_statistic")),
        sa.CheckConstraint(
            "figure IN ('CREATED', 'PAID', 'CONVERTED', 'CANCELLED', 'REFUNDED')",
            name=op.f("ck_statistic_figure"),
        ),
        **_OPTIONS,
    )
    op.create_table(
        "statistic_entry",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        _id("merchant_id", 32),
        _id("currency", 3),
        _time("quarter"),
        _id("figure", 32),
        _number("count"),
        _number("amount_minor"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statistic_entry")),
        **_OPTIONS,
    )
