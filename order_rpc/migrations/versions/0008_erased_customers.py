"""Payments of customers who were erased before forget them too: one message to payment_rpc for each
order.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Writes the messages; a repetition at payment_rpc changes nothing."""
    connection = op.get_bind()
    erased = sa.text(
        "SELECT merchant_id, order_id, erased_at FROM external_order WHERE erased_at IS NOT NULL"
    )
    message = sa.text(
        "INSERT INTO outbox (event_id, destination, tag, aggregate_id, payload, trace_id, state, "
        "due_at, attempts, last_error, created_at) VALUES (:event, 'payment_rpc', 'EraseCustomer', "
        ":order, :payload, '', 'NEW', :at, 0, '', :at)"
    )
    for row in connection.execute(erased).all():
        payload = {"merchant_id": row.merchant_id, "order_id": row.order_id}
        connection.execute(
            message,
            {
                "event": f"OPE{row.order_id}",
                "order": row.order_id,
                "payload": json.dumps(payload),
                "at": row.erased_at,
            },
        )


def downgrade() -> None:
    """Takes back what was not delivered: the code before does not know it."""
    op.execute("DELETE FROM outbox WHERE tag = 'EraseCustomer' AND state <> 'DONE'")
