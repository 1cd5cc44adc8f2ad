"""Logs that are evidence are chained; payments remember the key that began them and are sealed;
numbers of channels have indexes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier
from mesh.migration_steps import chain_logs, unchain_logs

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_LOGS = ("wallet_entry", "channel_callback", "scan_action")


def upgrade() -> None:
    """Brings the schema here. Rows that are there have no place in a chain and no seal."""
    chain_logs(*_LOGS)
    op.add_column("payment", sa.Column("receipt_digest", Identifier(64), nullable=True))
    op.add_column("payment", sa.Column("seal", Identifier(80), nullable=True))
    op.create_index("ix_attempt_trade_no", "attempt", ["channel_trade_no"])
    op.create_index("ix_refund_channel_refund_no", "refund", ["channel_refund_no"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_index("ix_refund_channel_refund_no", "refund")
    op.drop_index("ix_attempt_trade_no", "attempt")
    with op.batch_alter_table("payment") as payment:
        payment.drop_column("seal")
        payment.drop_column("receipt_digest")
    unchain_logs(*_LOGS)
