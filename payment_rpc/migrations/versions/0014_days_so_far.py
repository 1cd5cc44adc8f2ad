"""Statements of days that are not complete, and statements that are being fetched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
# the code before would file what a day that is not complete does not list yet as missing

_CONTENT = ["channel", "statement_date", "content_hash"]


def upgrade() -> None:
    """Brings the schema here. Every import that is there is of a complete day."""
    op.add_column(
        "statement_import", sa.Column("matched", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column(
        "statement_import",
        sa.Column("is_complete", sa.Boolean, nullable=False, server_default="1"),
    )
    with op.batch_alter_table("statement_import") as imports:
        imports.drop_constraint("uq_statement_import_content", type_="unique")
        imports.drop_constraint(op.f("ck_statement_import_state"), type_="check")
        imports.create_check_constraint(
            op.f("ck_statement_import_state"),
            "state IN ('FETCHING', 'RUNNING', 'DONE', 'FAILED')",
        )


def downgrade() -> None:
    """Takes it back. Imports that the schema before cannot have go; their differences stay."""
    op.execute("DELETE FROM statement_import WHERE state = 'FETCHING' OR is_complete = 0")
    op.execute(
        "DELETE FROM statement_import WHERE import_id NOT IN (SELECT * FROM (SELECT "
        "MAX(import_id) FROM statement_import GROUP BY channel, statement_date, content_hash) "
        "AS latest)"
    )
    with op.batch_alter_table("statement_import") as imports:
        imports.drop_constraint(op.f("ck_statement_import_state"), type_="check")
        imports.create_check_constraint(
            op.f("ck_statement_import_state"), "state IN ('RUNNING', 'DONE', 'FAILED')"
        )
        imports.create_unique_constraint("uq_statement_import_content", _CONTENT)
        imports.drop_column("is_complete")
        imports.drop_column("matched")
