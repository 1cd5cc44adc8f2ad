"""Defines migration steps for the tables of the mesh, shared by the histories of all services. A
released step is never changed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mesh.db import BigInt, Identifier

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
_ROLES = ("user", "merchant", "admin")


def upgrade_to_second_version() -> None:
    """Moves receipts from roles to people, allows outbox payloads above 64 KiB, and adds the
    indexes for lists and purges.
    """
    with op.batch_alter_table("receipt") as receipt:
        receipt.alter_column(
            "caller", existing_type=Identifier(80), type_=Identifier(128), existing_nullable=False
        )
        receipt.create_check_constraint(op.f("ck_receipt_state"), "state IN ('RUNNING', 'DONE')")
    _name_people()
    if not _is_sqlite():  # TEXT has no limit there
        op.alter_column(
            "outbox",
            "payload",
            existing_type=sa.Text(),
            type_=mysql.MEDIUMTEXT(),
            existing_nullable=False,
        )
    op.create_index("ix_outbox_state", "outbox", ["state", "id"])
    op.create_index("ix_inbox_handled_at", "inbox", ["handled_at"])


def downgrade_to_first_version() -> None:
    """Reverts the step. Receipts keep their present names, because the caller's role is no longer
    known.
    """
    op.drop_index("ix_inbox_handled_at", "inbox")
    op.drop_index("ix_outbox_state", "outbox")
    if not _is_sqlite():
        op.alter_column(
            "outbox",
            "payload",
            existing_type=mysql.MEDIUMTEXT(),
            type_=sa.Text(),
            existing_nullable=False,
        )
    with op.batch_alter_table("receipt") as receipt:
        receipt.drop_constraint(op.f("ck_receipt_state"), type_="check")
        receipt.alter_column(
            "caller", existing_type=Identifier(128), type_=Identifier(80), existing_nullable=False
        )


def chain_logs(*logs: str) -> None:
    """Adds the table of chain heads and the chain columns of the logs. The columns are added
    instantly, without a copy of the table.
    """
    op.create_table(
        "log_chain",
        sa.Column("log", Identifier(32), nullable=False),
        sa.Column("entity", Identifier(160), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("purged", sa.BigInteger, nullable=False),
        sa.Column("hash", Identifier(64), nullable=False),
        sa.PrimaryKeyConstraint("log", "entity", name="pk_log_chain"),
        sa.CheckConstraint("purged >= 0 AND purged <= length", name=op.f("ck_log_chain_purged")),
        **_OPTIONS,
    )
    for log in logs:
        op.add_column(log, sa.Column("chain_seq", BigInt, nullable=True))
        op.add_column(log, sa.Column("chain_hash", Identifier(64), nullable=True))


def unchain_logs(*logs: str) -> None:
    """Reverts the step."""
    for log in logs:
        with op.batch_alter_table(log) as table:
            table.drop_column("chain_hash")
            table.drop_column("chain_seq")
    op.drop_table("log_chain")


def _name_people() -> None:
    """Renames `role:subject` to `tenant/subject`. Where one person used one key in two roles, the
    receipt of the narrower role stays in use.
    """
    ignore, name = (
        ("OR IGNORE", "merchant_id || '/' || SUBSTR(caller, {start})")
        if _is_sqlite()
        else ("IGNORE", "CONCAT(merchant_id, '/', SUBSTR(caller, {start}))")
    )
    for role in _ROLES:
        op.execute(
            f"UPDATE {ignore} receipt SET caller = {name.format(start=len(role) + 2)} "  # noqa: S608  constants only
            f"WHERE caller LIKE '{role}:%'"
        )


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
