"""The diary of the background scan."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from mesh.db import BigInt, Identifier, UtcMillis

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
_NAME = "scan_action"


def upgrade() -> None:
    """Brings the schema here."""
    op.create_table(
        _NAME,
        sa.Column("id", BigInt, nullable=False, autoincrement=True),
        *(_id(name, 32) for name in ("payment_id", "attempt_id", "refund_id")),
        *(_id(name, 16) for name in ("action", "state_before", "state_after", "result")),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
        sa.Column("acted_at", UtcMillis, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{_NAME}"),
        sa.CheckConstraint(
            "action IN ('QUERY', 'CLOSE', 'SUBMIT', 'NOTIFY')", name=op.f("ck_scan_action_action")
        ),
        sa.CheckConstraint("duration_ms >= 0", name=op.f("ck_scan_action_duration")),
        **_OPTIONS,
    )
    op.create_index("ix_scan_action_payment", _NAME, ["payment_id", "id"])
    op.create_index("ix_scan_action_acted_at", _NAME, ["acted_at"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table(_NAME)


def _id(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=False)
