"""Wallets and their entries; accounts of the ledger are long enough to name a buyer and his
tenant.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier, UtcMillis

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Brings the schema here."""
    with op.batch_alter_table("ledger_posting") as posting:
        posting.alter_column(
            "account", type_=Identifier(128), existing_type=Identifier(96), existing_nullable=False
        )
    op.create_table(
        "wallet",
        _id("merchant_id", 32),
        _id("user_id", 64),
        _id("currency", 3),
        sa.Column("balance_minor", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        _at("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", "user_id", "currency", name="pk_wallet"),
        sa.CheckConstraint("balance_minor >= 0", name=op.f("ck_wallet_balance")),
        **_OPTIONS,
    )
    op.create_table(
        "wallet_entry",
        _id("entry_id", 32),
        _id("merchant_id", 32),
        _id("user_id", 64),
        _id("currency", 3),
        sa.Column("seq", sa.Integer, nullable=False),
        _id("kind", 16),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("balance_after_minor", sa.BigInteger, nullable=False),
        _id("payment_id", 32),
        _id("refund_id", 32),
        _at("created_at"),
        sa.PrimaryKeyConstraint("entry_id", name="pk_wallet_entry"),
        sa.UniqueConstraint(
            "merchant_id", "user_id", "currency", "seq", name="uq_wallet_entry_seq"
        ),
        sa.UniqueConstraint("payment_id", "refund_id", name="uq_wallet_entry_cause"),
        sa.CheckConstraint(
            "(kind = 'SPENT' AND amount_minor < 0) OR (kind IN ('TOP_UP', 'REFUNDED') AND "
            "amount_minor > 0)",
            name=op.f("ck_wallet_entry_amount"),
        ),
        sa.CheckConstraint("balance_after_minor >= 0", name=op.f("ck_wallet_entry_balance_after")),
        **_OPTIONS,
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("wallet_entry")
    op.drop_table("wallet")
    with op.batch_alter_table("ledger_posting") as posting:
        posting.alter_column(
            "account", type_=Identifier(96), existing_type=Identifier(128), existing_nullable=False
        )


def _id(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=False)


def _at(name: str) -> sa.Column[Any]:
    return sa.Column(name, UtcMillis, nullable=False)
