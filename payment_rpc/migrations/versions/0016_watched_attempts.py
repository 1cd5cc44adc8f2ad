"""Attempts that are asked about after their result, because money may still come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import UtcMillis

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
code_before_runs = True  # it asks about what is due, whatever its state

_IS_OPEN = "state IN ('SENT', 'PENDING', 'UNKNOWN', 'AUTHORIZED')"
_BEFORE = f"({_IS_OPEN}) = (next_query_at IS NOT NULL)"
_AFTER = f"{_BEFORE} OR (state IN ('CAPTURED', 'CLOSED') AND watch_until IS NOT NULL)"


def upgrade() -> None:
    """Brings the schema here. Attempts that are there are not watched: their channels tell."""
    op.add_column("attempt", sa.Column("watch_until", UtcMillis, nullable=True))
    _asked(_AFTER)


def downgrade() -> None:
    """Takes it back. What is watched is asked about no more."""
    op.execute(f"UPDATE attempt SET next_query_at = NULL WHERE NOT ({_IS_OPEN})")  # noqa: S608  constants only
    _asked(_BEFORE)
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_column("watch_until")


def _asked(condition: str) -> None:
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_constraint(op.f("ck_attempt_asked"), type_="check")
        attempt.create_check_constraint(op.f("ck_attempt_asked"), condition)
