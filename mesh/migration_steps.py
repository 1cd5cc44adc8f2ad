"""Steps that the histories of all services take with the tables of the mesh. A step that has been released is never changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mesh.db import Identifier

_ROLES = ("user", "merchant", "admin")


def upgrade_to_second_version() -> None:
    """Receipts belong to people instead of roles, payloads of the outbox may be longer than 64 KiB, and lists and purges have their indexes."""
    with op.batch_alter_table("receipt") as receipt:
        receipt.alter_column("caller", existing_type=Identifier(80), type_=Identifier(128), existing_nullable=False)
        receipt.create_check_constraint(op.f("ck_receipt_state"), "state IN ('RUNNING', 'DONE')")
    _name_people()
    if not _is_sqlite():  # there TEXT has no bound
        op.alter_column("outbox", "payload", existing_type=sa.Text(), type_=mysql.MEDIUMTEXT(), existing_nullable=False)
    op.create_index("ix_outbox_state", "outbox", ["state", "id"])
    op.create_index("ix_inbox_handled_at", "inbox", ["handled_at"])


def downgrade_to_first_version() -> None:
    """Takes it back. Receipts keep the names that they have now: which role a caller had is not known any more."""
    op.drop_index("ix_inbox_handled_at", "inbox")
    op.drop_index("ix_outbox_state", "outbox")
    if not _is_sqlite():
        op.alter_column("outbox", "payload", existing_type=mysql.MEDIUMTEXT(), type_=sa.Text(), existing_nullable=False)
    with op.batch_alter_table("receipt") as receipt:
        receipt.drop_constraint(op.f("ck_receipt_state"), type_="check")
        receipt.alter_column("caller", existing_type=Identifier(128), type_=Identifier(80), existing_nullable=False)


def _name_people() -> None:
    """`role:subject` becomes `tenant/subject`. Where one person used one key in two roles, the receipt of the narrower role is kept in use."""
    ignore, name = ("OR IGNORE", "merchant_id || '/' || SUBSTR(caller, {start})") if _is_sqlite() else (
        "IGNORE", "CONCAT(merchant_id, '/', SUBSTR(caller, {start}))")
    for role in _ROLES:
        op.execute(f"UPDATE {ignore} receipt SET caller = {name.format(start=len(role) + 2)} "  # noqa: S608  constants only
                   f"WHERE caller LIKE '{role}:%'")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
