"""What buyers paid beyond a capture, and room for the key of its refund."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
code_before_runs = True  # it books no surplus, and its keys are shorter


def upgrade() -> None:
    """Brings the schema here. No surplus was booked before."""
    op.add_column(
        "attempt", sa.Column("surplus_minor", sa.BigInteger, nullable=False, server_default="0")
    )
    with op.batch_alter_table("attempt") as attempt:
        attempt.create_check_constraint(
            op.f("ck_attempt_surplus"),
            "surplus_minor >= 0 AND (surplus_minor = 0 OR state = 'CAPTURED')",
        )
    _automatic_of(32, 96)


def downgrade() -> None:
    """Takes it back. MariaDB refuses while there are refunds of a surplus."""
    _automatic_of(96, 32)
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_constraint(op.f("ck_attempt_surplus"), type_="check")
        attempt.drop_column("surplus_minor")


def _automatic_of(before: int, after: int) -> None:
    with op.batch_alter_table("refund") as refund:
        refund.alter_column(
            "automatic_of",
            type_=Identifier(after),
            existing_type=Identifier(before),
            existing_nullable=True,
        )
