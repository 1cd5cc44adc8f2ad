"""Money that is held for an order: whose, how much, until when, and the buyer's own deadline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier, UtcMillis

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
# It writes no holds. A step of an order that has one waits for the code of today.
code_before_runs = True

_HELD = (
    "(held_payment_id = '' AND held_minor = 0 AND held_until IS NULL AND pay_until IS NULL) OR "
    "(held_payment_id <> '' AND held_minor > 0 AND held_until IS NOT NULL AND "
    "pay_until IS NOT NULL AND held_until = expires_at AND "
    "state IN ('PENDING_PAYMENT', 'CANCELLING'))"
)


def upgrade() -> None:
    """Brings the schema here. Nothing is held for the orders that are there."""
    with op.batch_alter_table("orders") as orders:
        orders.add_column(
            sa.Column("held_payment_id", Identifier(32), nullable=False, server_default="")
        )
        orders.add_column(
            sa.Column("held_minor", sa.BigInteger, nullable=False, server_default="0")
        )
        orders.add_column(sa.Column("held_until", UtcMillis, nullable=True))
        orders.add_column(sa.Column("pay_until", UtcMillis, nullable=True))
        orders.create_check_constraint(op.f("ck_orders_held"), _HELD)


def downgrade() -> None:
    """Takes it back. What was held is told again when ClosePayment is asked."""
    with op.batch_alter_table("orders") as orders:
        orders.drop_constraint(op.f("ck_orders_held"), type_="check")
        for name in ("pay_until", "held_until", "held_minor", "held_payment_id"):
            orders.drop_column(name)
