"""The channel's own id of an attempt, and how often we began the step in it that is ours."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
code_before_runs = True  # attempts of the sandbox have neither


def upgrade() -> None:
    """Brings the schema here. No channel of the attempts that are there has ids of its own."""
    op.add_column(
        "attempt",
        sa.Column("channel_ref", Identifier(255), nullable=False, server_default=""),
    )
    op.add_column("attempt", sa.Column("steps", sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_attempt_channel_ref", "attempt", ["channel", "channel_ref"])
    _check_actions("QUERY", "CLOSE", "ADVANCE", "SUBMIT", "NOTIFY")


def downgrade() -> None:
    """Takes it back."""
    op.drop_index("ix_attempt_channel_ref", "attempt")
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_column("steps")
        attempt.drop_column("channel_ref")
    op.execute("DELETE FROM scan_action WHERE action = 'ADVANCE'")
    _check_actions("QUERY", "CLOSE", "SUBMIT", "NOTIFY")


def _check_actions(*actions: str) -> None:
    with op.batch_alter_table("scan_action") as scan_action:
        scan_action.drop_constraint(op.f("ck_scan_action_action"), type_="check")
        scan_action.create_check_constraint(
            op.f("ck_scan_action_action"), f"action IN ({', '.join(map(repr, actions))})"
        )
