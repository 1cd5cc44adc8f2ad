"""An order never tells of more money that went back than came."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
code_before_runs = True  # what it writes keeps the rule


def upgrade() -> None:
    """Brings the schema here. A row that breaks the rule stops it: `paymesh audit` of the version
    before names it (`refunded_within_captured`).
    """
    with op.batch_alter_table("orders") as orders:
        orders.create_check_constraint(
            op.f("ck_orders_refunded"), "refunded_minor <= captured_minor"
        )


def downgrade() -> None:
    """Takes it back."""
    with op.batch_alter_table("orders") as orders:
        orders.drop_constraint(op.f("ck_orders_refunded"), type_="check")
