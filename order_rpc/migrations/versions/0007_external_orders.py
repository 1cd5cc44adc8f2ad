"""Merchants' own orders: their numbers and what they say of their customers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mesh.db import Identifier, UtcMillis

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
code_before_runs = True  # what it writes is an order of the catalogue

_BUYER = "kind <> 'EXTERNAL' OR (SUBSTR(user_id, 1, 4) = 'ext:' AND SUBSTR(user_id, 5) = order_id)"
_ERASED = "erased_at IS NULL OR (customer = '{}' AND customer_digest IS NULL)"

_DETAILS = sa.Text().with_variant(
    mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


def upgrade() -> None:
    """Brings the schema here. Every order that is there is one of the catalogue."""
    with op.batch_alter_table("orders") as orders:
        orders.add_column(
            sa.Column("kind", Identifier(32), nullable=False, server_default="CATALOG")
        )
        orders.create_check_constraint(op.f("ck_orders_kind"), "kind IN ('CATALOG', 'EXTERNAL')")
        orders.create_check_constraint(op.f("ck_orders_external_buyer"), _BUYER)
    _replace_sources("'CATALOG', 'ACTIVITY', 'MERCHANT'")
    op.create_table(
        "external_order",
        sa.Column("merchant_id", Identifier(32), nullable=False),
        sa.Column("order_id", Identifier(32), nullable=False),
        sa.Column("order_no", Identifier(64), nullable=True),
        sa.Column("customer_digest", Identifier(64), nullable=True),
        sa.Column("customer", _DETAILS, nullable=False),
        sa.Column("notify_url", Identifier(520), nullable=False),
        sa.Column("created_at", UtcMillis, nullable=False),
        sa.Column("erased_at", UtcMillis, nullable=True),
        sa.PrimaryKeyConstraint("merchant_id", "order_id", name=op.f("pk_external_order")),
        sa.ForeignKeyConstraint(
            ["merchant_id", "order_id"],
            ["orders.merchant_id", "orders.order_id"],
            name=op.f("fk_external_order_merchant_id_order_id"),
        ),
        sa.UniqueConstraint("merchant_id", "order_no", name="uq_external_order_order_no"),
        sa.CheckConstraint(_ERASED, name=op.f("ck_external_order_erased")),
    )
    op.create_index(
        "ix_external_order_customer",
        "external_order",
        ["merchant_id", "customer_digest", "created_at", "order_id"],
    )


def downgrade() -> None:
    """Takes it back. Lines of merchants' own orders do not fit any more; the database says so."""
    op.drop_table("external_order")
    _replace_sources("'CATALOG', 'ACTIVITY'")
    with op.batch_alter_table("orders") as orders:
        orders.drop_constraint(op.f("ck_orders_external_buyer"), type_="check")
        orders.drop_constraint(op.f("ck_orders_kind"), type_="check")
        orders.drop_column("kind")


def _replace_sources(sources: str) -> None:
    with op.batch_alter_table("order_item") as item:
        item.drop_constraint(op.f("ck_order_item_stock_source"), type_="check")
        item.create_check_constraint(
            op.f("ck_order_item_stock_source"), f"stock_source IN ({sources})"
        )
