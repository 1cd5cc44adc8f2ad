"""Sums of statistics have room for everything that can be added up; refunds of units that cost
nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import WideInteger

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SUMS = ("statistic", "statistic_entry")


def upgrade() -> None:
    """Brings the schema here."""
    # it has no wider whole number than 64 bits, and goes on in floating point
    if op.get_bind().dialect.name != "sqlite":
        for table in _SUMS:
            op.alter_column(
                table,
                "amount_minor",
                existing_type=sa.BigInteger(),
                type_=WideInteger,
                existing_nullable=False,
            )
    _replace_check("amount_minor >= 0")


def downgrade() -> None:
    """Takes it back. Refunds of nothing and sums beyond 64 bits do not fit any more; the database
    says so.
    """
    _replace_check("amount_minor > 0")
    if op.get_bind().dialect.name != "sqlite":
        for table in _SUMS:
            op.alter_column(
                table,
                "amount_minor",
                existing_type=WideInteger,
                type_=sa.BigInteger(),
                existing_nullable=False,
            )


def _replace_check(condition: str) -> None:
    with op.batch_alter_table("refund_request") as refund:
        refund.drop_constraint(op.f("ck_refund_request_amount"), type_="check")
        refund.create_check_constraint(op.f("ck_refund_request_amount"), condition)
