"""Payments, attempts, order gates, ledger, attention; receipts, outbox and inbox of the mesh."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

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
    _create_payment()
    _create_attempt()
    _create_ledger()
    _create_order_gate_and_attention()


def downgrade() -> None:
    """Takes it back."""
    for table in (
        "attention",
        "order_gate",
        "ledger_posting",
        "ledger_transaction",
        "attempt",
        "payment",
        "inbox",
        "outbox",
        "receipt",
    ):
        op.drop_table(table)


def _id(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable)


def _at(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcMillis, nullable=nullable)


def _minor(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


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
        _at("created_at"),
        _at("expires_at"),
        sa.PrimaryKeyConstraint(
            "merchant_id", "caller", "method", "idempotency_key", name="pk_receipt"
        ),
        **_OPTIONS,
    )
    op.create_index("ix_receipt_resource_id", "receipt", ["resource_id"])
    op.create_index("ix_receipt_expires_at", "receipt", ["expires_at"])
    op.create_table(
        "outbox",
        sa.Column("id", BigInt, nullable=False, autoincrement=True),
        _id("event_id", 40),
        _id("destination", 64),
        _id("tag", 64),
        _id("aggregate_id", 40),
        sa.Column("payload", sa.Text, nullable=False),
        _id("trace_id", 32),
        sa.Column("state", sa.String(8), nullable=False),
        _at("due_at"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.String(200), nullable=False),
        _at("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("event_id", name="uq_outbox_event_id"),
        sa.CheckConstraint("state IN ('NEW', 'DONE', 'DEAD')", name=op.f("ck_outbox_state")),
        **_OPTIONS,
    )
    op.create_index("ix_outbox_claim", "outbox", ["destination", "state", "due_at", "id"])
    op.create_index("ix_outbox_aggregate_id", "outbox", ["aggregate_id"])
    op.create_table(
        "inbox",
        _id("consumer", 64),
        _id("event_id", 64),
        _at("handled_at"),
        sa.PrimaryKeyConstraint("consumer", "event_id", name="pk_inbox"),
        **_OPTIONS,
    )


def _create_payment() -> None:
    op.create_table(
        "payment",
        _id("payment_id", 32),
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("user_id", 64),
        _minor("amount_minor"),
        _id("currency", 3),
        _minor("captured_minor"),
        _minor("refunded_minor"),
        _minor("refund_reserved_minor"),
        _minor("disputed_minor"),
        _id("state", 16),
        sa.Column("live_slot", sa.SmallInteger, nullable=True),
        _id("payment_method", 32),
        _id("channel", 32),
        sa.Column("channel_trade_no", sa.String(64), nullable=False),
        _id("outcome", 16),
        _id("disposition", 24, nullable=True),
        sa.Column("failure_reason", sa.String(64), nullable=True),
        sa.Column("failure_message", sa.String(200), nullable=True),
        sa.Column("card_brand", sa.String(16), nullable=True),
        sa.Column("card_last_four", sa.String(4), nullable=True),
        sa.Column("card_expiration_year", sa.Integer, nullable=True),
        sa.Column("card_expiration_month", sa.Integer, nullable=True),
        sa.Column("next_action_kind", sa.String(16), nullable=True),
        sa.Column("next_action_value", sa.Text, nullable=True),
        _id("ledger_head", 64),
        sa.Column("version", sa.Integer, nullable=False),
        _at("paid_at", nullable=True),
        _at("expires_at"),
        _at("created_at"),
        _at("updated_at"),
        sa.PrimaryKeyConstraint("payment_id", name="pk_payment"),
        sa.UniqueConstraint("merchant_id", "order_id", "live_slot", name="uq_payment_live_slot"),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_payment_amount")),
        sa.CheckConstraint(
            "captured_minor >= 0 AND refunded_minor >= 0 AND refund_reserved_minor >= 0 AND "
            "disputed_minor >= 0",
            name=op.f("ck_payment_not_negative"),
        ),
        sa.CheckConstraint(
            "refunded_minor + refund_reserved_minor + disputed_minor <= captured_minor",
            name=op.f("ck_payment_refund_cap"),
        ),
        sa.CheckConstraint(
            "state IN ('INIT', 'PAYING', 'SUCCESS', 'FAILED', 'CLOSING', 'CLOSED', 'CONFLICTED', "
            "'LATE_SUCCESS', 'LATE_REFUNDED')",
            name=op.f("ck_payment_state"),
        ),
        sa.CheckConstraint(
            "live_slot IS NULL OR (live_slot = 1 AND state IN ('INIT', 'PAYING', 'CLOSING', "
            "'SUCCESS'))",
            name=op.f("ck_payment_slot"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('SUCCESS', 'LATE_SUCCESS') OR captured_minor = amount_minor",
            name=op.f("ck_payment_captured"),
        ),
        **_OPTIONS,
    )
    op.create_index("ix_payment_order", "payment", ["merchant_id", "order_id", "payment_id"])
    op.create_index("ix_payment_expiry", "payment", ["state", "expires_at", "payment_id"])


def _create_attempt() -> None:
    op.create_table(
        "attempt",
        _id("attempt_id", 32),
        _id("payment_id", 32),
        _id("merchant_id", 32),
        _id("channel", 32),
        _id("state", 16),
        _minor("amount_minor"),
        _id("currency", 3),
        _minor("captured_minor", nullable=True),
        _id("captured_currency", 3, nullable=True),
        sa.Column("channel_trade_no", sa.String(64), nullable=False),
        sa.Column("sends", sa.Integer, nullable=False),
        _at("lease_until"),
        _at("next_query_at", nullable=True),
        sa.Column("queries", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        _at("created_at"),
        _at("updated_at"),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_attempt"),
        sa.CheckConstraint(
            "state IN ('SENT', 'PENDING', 'UNKNOWN', 'CAPTURED', 'DECLINED', 'TECH_FAILED', "
            "'NOT_ATTEMPTED', 'CLOSED')",
            name=op.f("ck_attempt_state"),
        ),
        sa.CheckConstraint(
            "(state = 'CAPTURED') = (captured_minor IS NOT NULL)", name=op.f("ck_attempt_captured")
        ),
        sa.CheckConstraint(
            "(state IN ('SENT', 'PENDING', 'UNKNOWN')) = (next_query_at IS NOT NULL)",
            name=op.f("ck_attempt_asked"),
        ),
        **_OPTIONS,
    )
    op.create_index("ix_attempt_payment", "attempt", ["payment_id", "attempt_id"])
    op.create_index("ix_attempt_due", "attempt", ["next_query_at", "attempt_id"])


def _create_ledger() -> None:
    op.create_table(
        "ledger_transaction",
        sa.Column("id", BigInt, nullable=False, autoincrement=True),
        _id("business_key", 96),
        _id("kind", 32),
        _id("payment_id", 32),
        _id("previous_hash", 64),
        _id("hash", 64),
        _at("booked_at"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_transaction"),
        sa.UniqueConstraint("business_key", name="uq_ledger_transaction_business_key"),
        **_OPTIONS,
    )
    op.create_index("ix_ledger_transaction_payment", "ledger_transaction", ["payment_id", "id"])
    op.create_table(
        "ledger_posting",
        _id("business_key", 96),
        sa.Column("seq", sa.Integer, nullable=False, autoincrement=False),
        _id("account", 96),
        _id("side", 1),
        _minor("amount_minor"),
        _id("currency", 3),
        sa.PrimaryKeyConstraint("business_key", "seq", name="pk_ledger_posting"),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_ledger_posting_amount")),
        sa.CheckConstraint("side IN ('D', 'C')", name=op.f("ck_ledger_posting_side")),
        **_OPTIONS,
    )
    op.create_index("ix_ledger_posting_account", "ledger_posting", ["account", "currency"])


def _create_order_gate_and_attention() -> None:
    op.create_table(
        "order_gate",
        _id("merchant_id", 32),
        _id("order_id", 32),
        _id("state", 8),
        _at("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", "order_id", name="pk_order_gate"),
        sa.CheckConstraint("state IN ('OPEN', 'CLOSED')", name=op.f("ck_order_gate_state")),
        **_OPTIONS,
    )
    op.create_table(
        "attention",
        _id("attention_key", 96),
        _id("kind", 32),
        _id("payment_id", 32),
        sa.Column("detail", sa.Text, nullable=False),
        _at("created_at"),
        _at("resolved_at", nullable=True),
        sa.PrimaryKeyConstraint("attention_key", name="pk_attention"),
        **_OPTIONS,
    )
    op.create_index("ix_attention_open", "attention", ["resolved_at", "created_at"])
