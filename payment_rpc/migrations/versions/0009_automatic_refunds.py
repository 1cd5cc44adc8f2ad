"""What automatic refunds are about, out of the reach of the ids that callers choose."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Brings the schema here. Only a refund that names its own payment or attempt was ours;
    whatever else begins with `auto:` stays its caller's.
    """
    op.add_column("refund", sa.Column("automatic_of", Identifier(32), nullable=True))
    for subject in ("payment_id", "attempt_id"):
        op.execute(
            f"UPDATE refund SET automatic_of = {subject} "  # noqa: S608  constants only
            f"WHERE automatic AND SUBSTR(request_id, 1, 5) = 'auto:' AND SUBSTR(request_id, 6) = "
            f"{subject}"
        )
    op.execute("UPDATE refund SET request_id = NULL WHERE automatic_of IS NOT NULL")
    op.create_index("uq_refund_automatic_of", "refund", ["automatic_of"], unique=True)


def downgrade() -> None:
    """Takes it back."""
    refund = sa.table(
        "refund", sa.column("request_id", sa.String), sa.column("automatic_of", sa.String)
    )
    op.execute(
        sa.update(refund)
        .where(refund.c.automatic_of.is_not(None))
        .values(request_id=sa.literal("auto:").concat(refund.c.automatic_of))
    )
    op.drop_index("uq_refund_automatic_of", "refund")
    op.drop_column("refund", "automatic_of")
