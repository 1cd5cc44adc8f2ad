"""Payments of merchants' own orders, and indexes by which merchants search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
code_before_runs = True  # what it writes is of orders of the catalogue

_INDEXES = {
    "ix_payment_order_no": ("merchant_id", "order_no", "payment_id"),
    "ix_payment_customer": ("merchant_id", "customer_digest", "created_at", "payment_id"),
    "ix_payment_state": ("merchant_id", "state", "created_at", "payment_id"),
    "ix_payment_merchant": ("merchant_id", "created_at", "payment_id"),
}


def upgrade() -> None:
    """Brings the schema here. Payments that are there are of orders of the catalogue."""
    for name in ("order_no", "customer_digest"):
        op.add_column("payment", sa.Column(name, Identifier(64), nullable=True))
    for name, columns in _INDEXES.items():
        op.create_index(name, "payment", list(columns))


def downgrade() -> None:
    """Takes it back."""
    for name in _INDEXES:
        op.drop_index(name, "payment")
    with op.batch_alter_table("payment") as payment:
        payment.drop_column("customer_digest")
        payment.drop_column("order_no")
