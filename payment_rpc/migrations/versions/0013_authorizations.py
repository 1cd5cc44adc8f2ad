"""Held money: payments whose capture is the shop's own step, and the capture that an attempt has
under way.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from mesh.db import Identifier

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
code_before_runs = True  # it asks for no holds, and what it writes is AUTOMATIC

_BEFORE = ("INIT", "PAYING")
_AFTER = ("SUCCESS", "FAILED", "CLOSING", "CLOSED", "CONFLICTED", "LATE_SUCCESS", "LATE_REFUNDED")
_LIVE = ("CLOSING", "SUCCESS")
_OPEN = ("SENT", "PENDING", "UNKNOWN")
_FINAL = ("CAPTURED", "DECLINED", "TECH_FAILED", "NOT_ATTEMPTED", "CLOSED")
_WHOLE = "state NOT IN ('SUCCESS', 'LATE_SUCCESS') OR captured_minor = amount_minor"


def upgrade() -> None:
    """Brings the schema here. Every payment that is there took its money at once."""
    op.add_column(
        "payment",
        sa.Column("capture_mode", Identifier(16), nullable=False, server_default="AUTOMATIC"),
    )
    _check(
        "payment",
        {
            "state": _among("state", *_BEFORE, "AUTHORIZED", *_AFTER),
            "slot": _slot(*_BEFORE, "AUTHORIZED", *_LIVE),
            "captured": f"{_WHOLE} OR "
            "(capture_mode = 'MANUAL' AND captured_minor BETWEEN 1 AND amount_minor)",
            "capture_mode": _among("capture_mode", "AUTOMATIC", "MANUAL"),
            "authorized": "state <> 'AUTHORIZED' OR capture_mode = 'MANUAL'",
        },
        added=("capture_mode", "authorized"),
    )
    op.add_column(
        "attempt", sa.Column("capture_id", Identifier(32), nullable=False, server_default="")
    )
    op.add_column("attempt", sa.Column("capture_minor", sa.BigInteger, nullable=True))
    op.add_column(
        "attempt", sa.Column("capture_sends", sa.Integer, nullable=False, server_default="0")
    )
    _check(
        "attempt",
        {
            "state": _among("state", *_OPEN, "AUTHORIZED", *_FINAL),
            "asked": _asked(*_OPEN, "AUTHORIZED"),
            "capture": "(capture_minor IS NULL) = (capture_id = '') AND "
            "(capture_minor IS NULL OR capture_minor BETWEEN 1 AND amount_minor)",
        },
        added=("capture",),
    )


def downgrade() -> None:
    """Takes it back. Refused by the database while money is held, or was captured in part."""
    _check(
        "attempt",
        {"state": _among("state", *_OPEN, *_FINAL), "asked": _asked(*_OPEN)},
        dropped=("capture",),
    )
    with op.batch_alter_table("attempt") as attempt:
        attempt.drop_column("capture_sends")
        attempt.drop_column("capture_minor")
        attempt.drop_column("capture_id")
    _check(
        "payment",
        {
            "state": _among("state", *_BEFORE, *_AFTER),
            "slot": _slot(*_BEFORE, *_LIVE),
            "captured": _WHOLE,
        },
        dropped=("capture_mode", "authorized"),
    )
    with op.batch_alter_table("payment") as payment:
        payment.drop_column("capture_mode")


def _among(column: str, *values: str) -> str:
    return f"{column} IN ({', '.join(map(repr, values))})"


def _slot(*states: str) -> str:
    return f"live_slot IS NULL OR (live_slot = 1 AND {_among('state', *states)})"


def _asked(*states: str) -> str:
    return f"({_among('state', *states)}) = (next_query_at IS NOT NULL)"


def _check(
    table: str,
    checks: dict[str, str],
    *,
    added: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
) -> None:
    """Replaces the CHECKs of a table, but for those that are `added` or `dropped`."""
    with op.batch_alter_table(table) as altered:
        for name in (*checks, *dropped):
            if name not in added:
                altered.drop_constraint(op.f(f"ck_{table}_{name}"), type_="check")
        for name, condition in checks.items():
            altered.create_check_constraint(op.f(f"ck_{table}_{name}"), condition)
