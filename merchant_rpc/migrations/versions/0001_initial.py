"""Merchants, their settings, people, log-ins and keys; outbox and chained logs of the mesh."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from mesh.db import BigInt, Identifier, UtcMillis

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}


def upgrade() -> None:
    """Brings the schema here."""
    _create_mesh_tables()
    _create_merchants()
    _create_people()
    _create_log_ins()
    _create_keys()


def downgrade() -> None:
    """Takes it back."""
    for table in (
        "api_key",
        "login_failure",
        "recovery_code",
        "session",
        "admin_action",
        "merchant_setting",
        "membership",
        "one_time_link",
        "member",
        "merchant",
        "log_chain",
        "outbox",
    ):
        op.drop_table(table)


def _id(
    name: str, length: int, *, nullable: bool = False, server_default: str | None = None
) -> sa.Column[str]:
    return sa.Column(name, Identifier(length), nullable=nullable, server_default=server_default)


def _text(name: str, length: int) -> sa.Column[str]:
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.Column(
        name, sa.String(length).with_variant(exact, "mysql", "mariadb"), nullable=False
    )


def _json(name: str) -> sa.Column[str]:
    return sa.Column(
        name, sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"), nullable=False
    )


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, UtcMillis, nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _create_mesh_tables() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", BigInt, nullable=False, autoincrement=True),
        _id("event_id", 40),
        _id("destination", 64),
        _id("tag", 64),
        _id("aggregate_id", 40),
        _json("payload"),
        _id("trace_id", 32),
        sa.Column("state", sa.String(8), nullable=False),
        _time("due_at"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("last_error", sa.String(200), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.CheckConstraint("state IN ('NEW', 'DONE', 'DEAD')", name=op.f("ck_outbox_state")),
        sa.UniqueConstraint("event_id", name=op.f("uq_outbox_event_id")),
        **_OPTIONS,
    )
    op.create_index("ix_outbox_aggregate_id", "outbox", ["aggregate_id"])
    op.create_index("ix_outbox_claim", "outbox", ["destination", "state", "due_at", "id"])
    op.create_index("ix_outbox_state", "outbox", ["state", "id"])
    op.create_table(
        "log_chain",
        _id("log", 32),
        _id("entity", 160),
        _number("length"),
        _number("purged"),
        _id("hash", 64),
        sa.PrimaryKeyConstraint("log", "entity", name=op.f("pk_log_chain")),
        sa.CheckConstraint("purged >= 0 AND purged <= length", name=op.f("ck_log_chain_purged")),
        **_OPTIONS,
    )


def _create_merchants() -> None:
    op.create_table(
        "merchant",
        _id("merchant_id", 32),
        _text("name", 100),
        _id("state", 32),
        _id("state_before", 32, nullable=True),
        sa.Column("is_test", sa.Boolean, nullable=False),
        _id("country", 2),
        _id("time_zone", 64),
        _id("default_currency", 3),
        _id("contact_email", 254),
        _number("version"),
        _number("settings_version"),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", name=op.f("pk_merchant")),
        sa.CheckConstraint(
            "state IN ('PENDING_EMAIL', 'TEST_ONLY', 'LIVE', 'SUSPENDED', 'CLOSED')",
            name=op.f("ck_merchant_state"),
        ),
        sa.CheckConstraint(
            "(state = 'SUSPENDED') = (state_before IS NOT NULL) AND (state_before "
            "IS NULL OR state_before IN ('TEST_ONLY', 'LIVE'))",
            name=op.f("ck_merchant_state_before"),
        ),
        sa.CheckConstraint(
            "is_test = 0 OR state <> 'LIVE'", name=op.f("ck_merchant_test_is_never_live")
        ),
        sa.CheckConstraint(
            "version > 0 AND settings_version >= 0", name=op.f("ck_merchant_versions")
        ),
        **_OPTIONS,
    )
    op.create_index("ix_merchant_created_at", "merchant", ["is_test", "created_at", "merchant_id"])
    op.create_index(
        "ix_merchant_state", "merchant", ["is_test", "state", "created_at", "merchant_id"]
    )
    op.create_index("ix_merchant_updated_at", "merchant", ["updated_at"])
    op.create_table(
        "merchant_setting",
        _id("merchant_id", 32),
        _number("version"),
        _json("body"),
        _id("created_by", 128),
        _time("created_at"),
        sa.PrimaryKeyConstraint("merchant_id", "version", name=op.f("pk_merchant_setting")),
        sa.CheckConstraint("version > 0", name=op.f("ck_merchant_setting_version")),
        sa.ForeignKeyConstraint(
            ["merchant_id"], ["merchant.merchant_id"], name=op.f("fk_merchant_setting_merchant_id")
        ),
        **_OPTIONS,
    )
    op.create_table(
        "admin_action",
        sa.Column("id", BigInt, nullable=False, autoincrement=True),
        _id("merchant_id", 32),
        _id("actor", 128),
        _id("method", 64),
        _id("target", 128),
        _json("before_json"),
        _json("after_json"),
        _text("reason", 500),
        _id("client_address", 64),
        _id("trace_id", 32),
        _id("outcome", 64),
        _time("created_at"),
        sa.Column("chain_seq", BigInt, nullable=True),
        _id("chain_hash", 64, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_action")),
        **_OPTIONS,
    )
    op.create_index("ix_admin_action_merchant_id", "admin_action", ["merchant_id", "id"])
    op.create_index("ix_admin_action_target", "admin_action", ["merchant_id", "target"])


def _create_people() -> None:
    op.create_table(
        "member",
        _id("member_id", 32),
        _id("email_digest", 64),
        _id("email", 254),
        _text("name", 100),
        _id("state", 32),
        _id("oidc_sub", 255, nullable=True),
        _id("password_hash", 255, nullable=True),
        _id("totp_secret_enc", 255, nullable=True),
        _id("totp_pending_enc", 255, nullable=True),
        _number("totp_last_step", nullable=True),
        sa.Column("is_operator", sa.Boolean, nullable=False, server_default=sa.false()),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("member_id", name=op.f("pk_member")),
        sa.CheckConstraint("state IN ('ACTIVE', 'DISABLED')", name=op.f("ck_member_state")),
        sa.UniqueConstraint("email_digest", name=op.f("uq_member_email_digest")),
        sa.UniqueConstraint("oidc_sub", name=op.f("uq_member_oidc_sub")),
        **_OPTIONS,
    )
    op.create_table(
        "membership",
        _id("merchant_id", 32),
        _id("member_id", 32),
        _id("role", 32),
        _id("invited_by", 128),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("merchant_id", "member_id", name=op.f("pk_membership")),
        sa.CheckConstraint(
            "role IN ('OWNER', 'ADMIN', 'DEVELOPER', 'SUPPORT', 'FINANCE', 'VIEWER')",
            name=op.f("ck_membership_role"),
        ),
        sa.ForeignKeyConstraint(
            ["member_id"], ["member.member_id"], name=op.f("fk_membership_member_id")
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"], ["merchant.merchant_id"], name=op.f("fk_membership_merchant_id")
        ),
        **_OPTIONS,
    )
    op.create_index("ix_membership_member_id", "membership", ["member_id", "merchant_id"])
    op.create_table(
        "one_time_link",
        _id("token_digest", 64),
        _id("kind", 32),
        _id("subject", 128),
        _json("payload"),
        _time("created_at"),
        _time("expires_at"),
        _time("used_at", nullable=True),
        sa.PrimaryKeyConstraint("token_digest", name=op.f("pk_one_time_link")),
        sa.CheckConstraint(
            "kind IN ('SIGN_UP', 'INVITATION', 'PASSWORD_RESET', 'OPERATOR', 'OIDC_LOGIN')",
            name=op.f("ck_one_time_link_kind"),
        ),
        **_OPTIONS,
    )
    op.create_index("ix_one_time_link_expires_at", "one_time_link", ["expires_at"])
    op.create_index("ix_one_time_link_subject", "one_time_link", ["kind", "subject"])


def _create_log_ins() -> None:
    op.create_table(
        "session",
        _id("session_id", 32),
        _id("member_id", 32),
        _id("merchant_id", 32),
        _id("refresh_seed", 64),
        sa.Column("rotation", sa.Integer, nullable=False),
        _time("rotated_at"),
        _id("client_address", 64),
        _time("created_at"),
        _time("last_used_at"),
        _time("idle_expires_at"),
        _time("expires_at"),
        _time("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_session")),
        sa.CheckConstraint(
            "idle_expires_at <= expires_at", name=op.f("ck_session_idle_expires_at")
        ),
        sa.CheckConstraint("rotation > 0", name=op.f("ck_session_rotation")),
        sa.ForeignKeyConstraint(
            ["member_id"], ["member.member_id"], name=op.f("fk_session_member_id")
        ),
        **_OPTIONS,
    )
    op.create_index("ix_session_expires_at", "session", ["expires_at"])
    op.create_index("ix_session_member_id", "session", ["member_id", "created_at"])
    op.create_index("ix_session_merchant_id", "session", ["merchant_id", "revoked_at"])
    op.create_table(
        "recovery_code",
        _id("member_id", 32),
        _id("code_digest", 64),
        _time("created_at"),
        _time("used_at", nullable=True),
        sa.PrimaryKeyConstraint("member_id", "code_digest", name=op.f("pk_recovery_code")),
        sa.ForeignKeyConstraint(
            ["member_id"], ["member.member_id"], name=op.f("fk_recovery_code_member_id")
        ),
        **_OPTIONS,
    )
    op.create_table(
        "login_failure",
        _id("subject", 100),
        sa.Column("failures", sa.Integer, nullable=False),
        _time("blocked_until"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_login_failure")),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_login_failure_failures")),
        **_OPTIONS,
    )
    op.create_index("ix_login_failure_updated_at", "login_failure", ["updated_at"])


def _create_keys() -> None:
    op.create_table(
        "api_key",
        _id("key_id", 32),
        _id("merchant_id", 32),
        _id("kind", 32),
        _id("digest", 64),
        _id("pepper_id", 32),
        _id("prefix", 16),
        _id("last_four", 4),
        _text("name", 100),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("allowed_addresses", sa.Text, nullable=False),
        _id("created_by", 128),
        _time("created_at"),
        _time("expires_at", nullable=True),
        _time("last_used_at", nullable=True),
        _id("last_used_address", 64, server_default=""),
        _time("revoked_at", nullable=True),
        _id("revoked_by", 128, server_default=""),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_key")),
        sa.CheckConstraint(
            "kind IN ('SECRET', 'RESTRICTED', 'PUBLISHABLE')", name=op.f("ck_api_key_kind")
        ),
        sa.ForeignKeyConstraint(
            ["merchant_id"], ["merchant.merchant_id"], name=op.f("fk_api_key_merchant_id")
        ),
        sa.UniqueConstraint("digest", name=op.f("uq_api_key_digest")),
        **_OPTIONS,
    )
    op.create_index("ix_api_key_merchant_id", "api_key", ["merchant_id", "created_at", "key_id"])
    op.create_index("ix_api_key_revoked_at", "api_key", ["revoked_at"])
