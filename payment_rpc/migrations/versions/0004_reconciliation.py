"""Statement imports and their differences; when money moved by the channel's clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

from mesh.db import Identifier, UtcMillis

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Brings the schema here."""
    op.add_column("attempt", _at("captured_at", nullable=True))
    # the best that is known of older captures
    op.execute("UPDATE attempt SET captured_at = updated_at WHERE state = 'CAPTURED'")
    op.create_index("ix_attempt_captured", "attempt", ["channel", "captured_at", "attempt_id"])
    op.create_index("ix_refund_refunded", "refund", ["channel", "refunded_at", "refund_id"])
    op.create_table(
        "statement_import",
        _id("import_id", 32),
        _id("channel", 32),
        _id("statement_date", 10),
        _id("content_hash", 64),
        sa.Column("content", sa.Text().with_variant(LONGTEXT, "mysql", "mariadb"), nullable=False),
        _id("state", 8),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("line_count", "processed")),
        sa.Column("line_errors", sa.Text, nullable=False),
        sa.Column("error", sa.String(500), nullable=False),
        _at("created_at"),
        _at("finished_at", nullable=True),
        sa.PrimaryKeyConstraint("import_id", name="pk_statement_import"),
        sa.UniqueConstraint(
            "channel", "statement_date", "content_hash", name="uq_statement_import_content"
        ),
        sa.CheckConstraint(
            "state IN ('RUNNING', 'DONE', 'FAILED')", name=op.f("ck_statement_import_state")
        ),
        **_OPTIONS,
    )
    op.create_index("ix_statement_import_state", "statement_import", ["state", "import_id"])
    op.create_table(
        "statement_difference",
        _id("difference_id", 32),
        _id("difference_key", 64),
        _id("import_id", 32),
        _id("channel", 32),
        _id("kind", 32),
        sa.Column("reason", sa.String(700), nullable=False),
        sa.Column("line_no", sa.Integer, nullable=False),
        _id("payment_id", 32),
        *(
            sa.Column(name, sa.String(64), nullable=False)
            for name in ("attempt_id", "refund_id", "channel_trade_no")
        ),
        sa.Column("statement_minor", sa.BigInteger, nullable=True),
        _id("statement_currency", 3, nullable=True),
        sa.Column("book_minor", sa.BigInteger, nullable=True),
        _id("book_currency", 3, nullable=True),
        _id("state", 8),
        _id("action", 32),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("resolution_reason", sa.String(500), nullable=False),
        _at("created_at"),
        _at("resolved_at", nullable=True),
        sa.PrimaryKeyConstraint("difference_id", name="pk_statement_difference"),
        sa.UniqueConstraint("difference_key", name="uq_statement_difference_key"),
        sa.CheckConstraint(
            "state IN ('OPEN', 'RESOLVED')", name=op.f("ck_statement_difference_state")
        ),
        sa.CheckConstraint(
            "(state = 'RESOLVED') = (resolved_at IS NOT NULL)",
            name=op.f("ck_statement_difference_resolved"),
        ),
        **_OPTIONS,
    )
    op.create_index(
        "ix_statement_difference_import", "statement_difference", ["import_id", "difference_id"]
    )
    op.create_index(
        "ix_statement_difference_state", "statement_difference", ["state", "difference_id"]
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("statement_difference")
    op.drop_table("statement_import")
    op.drop_index("ix_refund_refunded", "refund")
    op.drop_index("ix_attempt_captured", "attempt")
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_column("captured_at")


def _id(name: str, length: int, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable)


def _at(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, UtcMillis, nullable=nullable)
