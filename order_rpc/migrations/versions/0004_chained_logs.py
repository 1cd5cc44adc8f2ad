"""The histories of orders and the movements of stock are chained."""

from __future__ import annotations

from mesh.migration_steps import chain_logs, unchain_logs

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LOGS = ("order_audit", "stock_movement")


def upgrade() -> None:
    """Brings the schema here. Rows that are there have no place in a chain."""
    chain_logs(*_LOGS)


def downgrade() -> None:
    """Takes it back."""
    unchain_logs(*_LOGS)
