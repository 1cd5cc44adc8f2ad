"""The log of what channels told us unasked."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier, UtcMillis

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
_NAME = "channel_callback"


def upgrade() -> None:
    """Brings the schema here."""
    op.create_table(
        _NAME,
        _id("callback_id", 32),
        _id("channel", 32),
        _id("kind", 8),
        _id("dedupe_key", 64, nullable=True),
        _text("event_id", 64),
        sa.Column("payload", sa.Text, nullable=False),
        _id("payload_encoding", 8),
        _number("payload_bytes"),
        _id("payload_digest", 64),
        _text("sent_timestamp", 32),
        _text("nonce", 64),
        _id("signature_digest", 64),
        sa.Column("signature_valid", sa.Boolean, nullable=False),
        _id("result", 16),
        _text("reason", 200),
        _number("deliveries"),
        *(_text(name, 64) for name in ("payment_id", "attempt_id", "refund_id")),
        _id("trace_id", 32),
        _at("received_at"),
        _at("last_received_at"),
        _at("finished_at", nullable=True),
        _at("expires_at"),
        sa.PrimaryKeyConstraint("callback_id", name=f"pk_{_NAME}"),
        sa.UniqueConstraint("channel", "dedupe_key", name="uq_channel_callback_dedupe"),
        sa.CheckConstraint("kind IN ('CALLBACK', 'HINT')", name=op.f("ck_channel_callback_kind")),
        sa.CheckConstraint(
            "payload_encoding IN ('TEXT', 'BASE64')",
            name=op.f("ck_channel_callback_payload_encoding"),
        ),
        sa.CheckConstraint(
            "result IN ('RECEIVED', 'PROCESSED', 'IGNORED', 'FAILED')",
            name=op.f("ck_channel_callback_result"),
        ),
        sa.CheckConstraint(
            "signature_valid OR (dedupe_key IS NULL AND result = 'FAILED')",
            name=op.f("ck_channel_callback_unverified"),
        ),
        sa.CheckConstraint(
            "(result = 'RECEIVED') = (finished_at IS NULL)",
            name=op.f("ck_channel_callback_finished"),
        ),
        sa.CheckConstraint("deliveries > 0", name=op.f("ck_channel_callback_deliveries")),
        **_OPTIONS,
    )
    op.create_index("ix_channel_callback_payment", _NAME, ["payment_id", "callback_id"])
    op.create_index("ix_channel_callback_result", _NAME, ["result", "received_at"])
    op.create_index("ix_channel_callback_expires_at", _NAME, ["expires_at"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table(_NAME)


def _id(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable)


def _text(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _at(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcMillis, nullable=nullable)
