"""Refunds, and the channel's fee of a payment."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier, UtcMillis

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Brings the schema here."""
    op.add_column(
        "payment", sa.Column("fee_minor", sa.BigInteger, nullable=False, server_default="0")
    )
    op.create_table(
        "refund",
        _id("refund_id", 32),
        _id("payment_id", 32),
        _id("attempt_id", 32),
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("user_id", 64),
        _id("channel", 32),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        _id("currency", 3),
        _id("state", 16),
        sa.Column("reason", sa.String(200), nullable=False),
        _id("request_id", 64, nullable=True),
        *(
            sa.Column(name, sa.Boolean, nullable=False)
            for name in ("automatic", "stands_alone", "above_cap", "needs_attention")
        ),
        sa.Column("channel_refund_no", sa.String(64), nullable=False),
        sa.Column("failure_reason", sa.String(64), nullable=True),
        sa.Column("failure_message", sa.String(200), nullable=True),
        _at("lease_until"),
        _at("next_query_at", nullable=True),
        sa.Column("queries", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        _at("refunded_at", nullable=True),
        _at("created_at"),
        _at("updated_at"),
        sa.PrimaryKeyConstraint("refund_id", name="pk_refund"),
        sa.UniqueConstraint("merchant_id", "request_id", name="uq_refund_request_id"),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_refund_amount")),
        sa.CheckConstraint(
            "state IN ('CREATED', 'SUBMITTED', 'PENDING', 'UNKNOWN', 'SUCCESS', 'FAILED', "
            "'REVERSED', 'CANCELED')",
            name=op.f("ck_refund_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('CREATED', 'SUBMITTED', 'PENDING', 'UNKNOWN')) = (next_query_at IS NOT "
            "NULL)",
            name=op.f("ck_refund_asked"),
        ),
        **_OPTIONS,
    )
    op.create_index("ix_refund_payment", "refund", ["payment_id", "refund_id"])
    op.create_index("ix_refund_order", "refund", ["merchant_id", "order_id", "refund_id"])
    op.create_index("ix_refund_due", "refund", ["next_query_at", "refund_id"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("refund")
    with op.batch_alter_table("payment") as payment:
        payment.drop_column("fee_minor")


def _id(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable)


def _at(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcMillis, nullable=nullable)
