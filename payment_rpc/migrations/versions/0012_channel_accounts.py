"""Accounts of merchants at payment providers, and the log of what changed them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from mesh.db import BigInt, Identifier, UtcMillis

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
code_before_runs = True  # it knows no accounts

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Brings the schema here."""
    op.create_table(
        "channel_account",
        sa.Column("account_id", Identifier(32), nullable=False),
        sa.Column("provider", Identifier(16), nullable=False),
        sa.Column("merchant_id", Identifier(32), nullable=False),
        sa.Column("mode", Identifier(4), nullable=False),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("state", Identifier(8), nullable=False),
        sa.Column("provider_slot", sa.SmallInteger, nullable=True),
        sa.Column("default_slot", sa.SmallInteger, nullable=True),
        sa.Column("credentials", sa.Text, nullable=False),
        sa.Column("key_id", Identifier(16), nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_by", sa.String(80), nullable=False),
        sa.Column("created_at", UtcMillis, nullable=False),
        sa.Column("updated_at", UtcMillis, nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_channel_account"),
        sa.UniqueConstraint(
            "merchant_id", "provider", "provider_slot", name="uq_channel_account_provider_slot"
        ),
        sa.UniqueConstraint("merchant_id", "default_slot", name="uq_channel_account_default_slot"),
        sa.CheckConstraint("mode IN ('LIVE', 'TEST')", name=op.f("ck_channel_account_mode")),
        sa.CheckConstraint(
            "state IN ('ENABLED', 'DRAINING', 'DISABLED')", name=op.f("ck_channel_account_state")
        ),
        sa.CheckConstraint(
            "(provider_slot IS NULL AND default_slot IS NULL) OR (provider_slot IS NOT NULL AND "
            "provider_slot = 1 AND (default_slot IS NULL OR default_slot = 1))",
            name=op.f("ck_channel_account_slots"),
        ),
        sa.CheckConstraint("version > 0", name=op.f("ck_channel_account_version")),
        **_OPTIONS,
    )
    op.create_index("ix_channel_account_merchant", "channel_account", ["merchant_id", "account_id"])
    op.create_index("ix_channel_account_key", "channel_account", ["key_id", "account_id"])
    op.create_table(
        "channel_account_change",
        sa.Column("id", BigInt, nullable=False, autoincrement=True),
        sa.Column("account_id", Identifier(32), nullable=False),
        sa.Column("merchant_id", Identifier(32), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("step", Identifier(16), nullable=False),
        sa.Column("after_json", sa.Text, nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("trace_id", Identifier(32), nullable=False),
        sa.Column("changed_at", UtcMillis, nullable=False),
        sa.Column("chain_seq", BigInt, nullable=True),
        sa.Column("chain_hash", Identifier(64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_channel_account_change"),
        sa.UniqueConstraint("account_id", "version", name="uq_channel_account_change_version"),
        sa.CheckConstraint(
            "step IN ('CREATE', 'UPDATE', 'LOSE_DEFAULT', 'ROTATE_KEY')",
            name=op.f("ck_channel_account_change_step"),
        ),
        **_OPTIONS,
    )


def downgrade() -> None:
    """Takes it back. The credentials are gone then."""
    op.drop_table("channel_account_change")
    op.drop_table("channel_account")
    op.execute("DELETE FROM log_chain WHERE log = 'channel_account_change'")
