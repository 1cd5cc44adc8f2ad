"""Captures of held money in several parts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
code_before_runs = True  # it takes a hold once, and reads no attempt by what was taken of its hold

_ONCE = "(state = 'CAPTURED') = (captured_minor IS NOT NULL)"


def upgrade() -> None:
    """Brings the schema here."""
    op.add_column(
        "attempt",
        sa.Column("capture_keeps_rest", sa.Boolean, nullable=False, server_default="0"),
    )
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_constraint(op.f("ck_attempt_captured"), type_="check")
        attempt.create_check_constraint(
            op.f("ck_attempt_captured"), f"state = 'AUTHORIZED' OR {_ONCE}"
        )
        attempt.create_check_constraint(
            op.f("ck_attempt_capture_cap"),
            "state <> 'AUTHORIZED' OR "
            "COALESCE(captured_minor, 0) + COALESCE(capture_minor, 0) <= amount_minor",
        )


def downgrade() -> None:
    """Takes it back. Refused by the database while the rest of a hold is held."""
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_constraint(op.f("ck_attempt_capture_cap"), type_="check")
        attempt.drop_constraint(op.f("ck_attempt_captured"), type_="check")
        attempt.create_check_constraint(op.f("ck_attempt_captured"), _ONCE)
        attempt.drop_column("capture_keeps_rest")
