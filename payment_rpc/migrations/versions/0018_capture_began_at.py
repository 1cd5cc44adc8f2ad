"""When a capture of held money was sent first: how long its channel knows its key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import UtcMillis

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
code_before_runs = True  # what it leaves empty is taken for as old as its attempt


def upgrade() -> None:
    """Brings the schema here."""
    op.add_column("attempt", sa.Column("capture_began_at", UtcMillis, nullable=True))


def downgrade() -> None:
    """Takes it back."""
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_column("capture_began_at")
