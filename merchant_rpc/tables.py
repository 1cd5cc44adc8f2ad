"""The tables. Invariants stand here too: states by CHECK, one row per address, link and key.
Secrets are digests or encrypted.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from merchant_rpc.domain.member import MemberRole, MemberState
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.domain.one_time_link import LinkKind
from mesh.api_key_format import ApiKeyKind
from mesh.db import BigInt, Identifier, UtcMillis, metadata_with_names, one_of
from mesh.log_chain import LOG_CHAIN, Log, chain_columns
from mesh.outbox import OUTBOX

metadata = metadata_with_names()
for _table in (OUTBOX, LOG_CHAIN):
    _table.to_metadata(metadata)


def _text(length: int) -> TypeEngine[str]:
    """For people, in any script; latin1 is still the default of many servers."""
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(exact, "mysql", "mariadb")


_MERCHANT = Identifier(32)
_MEMBER = Identifier(32)
_DIGEST = Identifier(64)  # SHA-256 in hex
_ACTOR = Identifier(128)  # "member:…", "key:…", "operator:…" or the subject of another token
_ADDRESS = Identifier(64)  # of a client
_STATE = Identifier(32)
_EMAIL = Identifier(254)
_NAME = _text(100)
# JSON in ASCII
_JSON = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


# --- merchants ------------------------------------------------------------------------------------

MERCHANT = Table(
    "merchant",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("state_before", _STATE, nullable=True),
    Column("is_test", Boolean(name="is_test"), nullable=False),
    Column("country", Identifier(2), nullable=False),
    Column("time_zone", Identifier(64), nullable=False),
    Column("default_currency", Identifier(3), nullable=False),
    Column("contact_email", _EMAIL, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("settings_version", BigInteger, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint(one_of("state", MerchantState), name="state"),
    CheckConstraint(
        "(state = 'SUSPENDED') = (state_before IS NOT NULL) "
        "AND (state_before IS NULL OR state_before IN ('TEST_ONLY', 'LIVE'))",
        name="state_before",
    ),
    CheckConstraint("is_test = 0 OR state <> 'LIVE'", name="test_is_never_live"),
    CheckConstraint("version > 0 AND settings_version >= 0", name="versions"),
    # One per filter of ListMerchants, in the order of the list; the second one also finds the
    # sign-ups that nobody confirmed.
    Index("ix_merchant_created_at", "is_test", "created_at", "merchant_id"),
    Index("ix_merchant_state", "is_test", "state", "created_at", "merchant_id"),
    # Gateways ask every second what changed.
    Index("ix_merchant_updated_at", "updated_at"),
)

# Rows are only ever added; the highest version is in force.
MERCHANT_SETTING = Table(
    "merchant_setting",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("body", _JSON, nullable=False),
    Column("created_by", _ACTOR, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    ForeignKeyConstraint(["merchant_id"], ["merchant.merchant_id"]),
    CheckConstraint("version > 0", name="version"),
)

# --- people ---------------------------------------------------------------------------------------

MEMBER = Table(
    "member",
    metadata,
    Column("member_id", _MEMBER, primary_key=True),
    Column("email_digest", _DIGEST, nullable=False, unique=True),
    Column("email", _EMAIL, nullable=False),
    Column("name", _NAME, nullable=False),
    Column("state", _STATE, nullable=False),
    Column("oidc_sub", Identifier(255), nullable=True, unique=True),
    Column("password_hash", Identifier(255), nullable=True),
    Column("totp_secret_enc", Identifier(255), nullable=True),
    Column("totp_pending_enc", Identifier(255), nullable=True),
    Column("totp_last_step", BigInteger, nullable=True),
    Column("is_operator", Boolean(name="is_operator"), nullable=False, server_default=false()),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint(one_of("state", MemberState), name="state"),
)

# Of merchants, never of their test siblings: who works for one works for both.
MEMBERSHIP = Table(
    "membership",
    metadata,
    Column("merchant_id", _MERCHANT, primary_key=True),
    Column("member_id", _MEMBER, primary_key=True),
    Column("role", _STATE, nullable=False),
    Column("invited_by", _ACTOR, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    ForeignKeyConstraint(["merchant_id"], ["merchant.merchant_id"]),
    ForeignKeyConstraint(["member_id"], ["member.member_id"]),
    CheckConstraint(one_of("role", MemberRole), name="role"),
    Index("ix_membership_member_id", "member_id", "merchant_id"),
)

# A link works once; the token itself is nowhere but in the mail.
ONE_TIME_LINK = Table(
    "one_time_link",
    metadata,
    Column("token_digest", _DIGEST, primary_key=True),
    Column("kind", _STATE, nullable=False),
    Column("subject", Identifier(128), nullable=False),
    Column("payload", _JSON, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("expires_at", UtcMillis, nullable=False),
    Column("used_at", UtcMillis, nullable=True),
    CheckConstraint(one_of("kind", LinkKind), name="kind"),
    Index("ix_one_time_link_subject", "kind", "subject"),
    Index("ix_one_time_link_expires_at", "expires_at"),
)

# --- logging in -----------------------------------------------------------------------------------

SESSION = Table(
    "session",
    metadata,
    Column("session_id", Identifier(32), primary_key=True),
    Column("member_id", _MEMBER, nullable=False),
    Column("merchant_id", _MERCHANT, nullable=False),  # "" for an operator
    # Makes refresh tokens together with a key that is not in the database.
    Column("refresh_seed", _DIGEST, nullable=False),
    Column("rotation", Integer, nullable=False),  # of the token that is good now
    Column("rotated_at", UtcMillis, nullable=False),
    Column("client_address", _ADDRESS, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("last_used_at", UtcMillis, nullable=False),
    Column("idle_expires_at", UtcMillis, nullable=False),
    Column("expires_at", UtcMillis, nullable=False),
    Column("revoked_at", UtcMillis, nullable=True),
    ForeignKeyConstraint(["member_id"], ["member.member_id"]),
    CheckConstraint("idle_expires_at <= expires_at", name="idle_expires_at"),
    CheckConstraint("rotation > 0", name="rotation"),
    Index("ix_session_member_id", "member_id", "created_at"),
    Index("ix_session_merchant_id", "merchant_id", "revoked_at"),
    Index("ix_session_expires_at", "expires_at"),
)

RECOVERY_CODE = Table(
    "recovery_code",
    metadata,
    Column("member_id", _MEMBER, primary_key=True),
    Column("code_digest", _DIGEST, primary_key=True),
    Column("created_at", UtcMillis, nullable=False),
    Column("used_at", UtcMillis, nullable=True),
    ForeignKeyConstraint(["member_id"], ["member.member_id"]),
)

LOGIN_FAILURE = Table(
    "login_failure",
    metadata,
    Column("subject", Identifier(100), primary_key=True),  # an account or an address, as a digest
    Column("failures", Integer, nullable=False),
    Column("blocked_until", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint("failures >= 0", name="failures"),
    Index("ix_login_failure_updated_at", "updated_at"),
)

# --- keys -----------------------------------------------------------------------------------------

API_KEY = Table(
    "api_key",
    metadata,
    Column("key_id", Identifier(32), primary_key=True),
    Column("merchant_id", _MERCHANT, nullable=False),
    Column("kind", _STATE, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("pepper_id", Identifier(32), nullable=False),
    Column("prefix", Identifier(16), nullable=False),
    Column("last_four", Identifier(4), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("scopes", Text, nullable=False),  # in order, with blanks between them
    Column("allowed_addresses", Text, nullable=False),  # likewise
    Column("created_by", _ACTOR, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("expires_at", UtcMillis, nullable=True),
    Column("last_used_at", UtcMillis, nullable=True),
    Column("last_used_address", _ADDRESS, nullable=False, server_default=""),
    Column("revoked_at", UtcMillis, nullable=True),
    Column("revoked_by", _ACTOR, nullable=False, server_default=""),
    ForeignKeyConstraint(["merchant_id"], ["merchant.merchant_id"]),
    UniqueConstraint("digest", name="uq_api_key_digest"),
    CheckConstraint(one_of("kind", ApiKeyKind), name="kind"),
    Index("ix_api_key_merchant_id", "merchant_id", "created_at", "key_id"),
    Index("ix_api_key_revoked_at", "revoked_at"),
)

# --- the log of actions ---------------------------------------------------------------------------

ADMIN_ACTION = Table(
    "admin_action",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("merchant_id", _MERCHANT, nullable=False),  # "" for the installation
    Column("actor", _ACTOR, nullable=False),
    Column("method", Identifier(64), nullable=False),
    Column("target", Identifier(128), nullable=False),
    Column("before_json", _JSON, nullable=False),
    Column("after_json", _JSON, nullable=False),
    Column("reason", _text(500), nullable=False),
    Column("client_address", _ADDRESS, nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("outcome", Identifier(64), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    *chain_columns(),
    Index("ix_admin_action_merchant_id", "merchant_id", "id"),
    # Who removes a member again asks whether he was removed.
    Index("ix_admin_action_target", "merchant_id", "target"),
)

# A log that is evidence; each row continues the one before it of the same merchant.
ACTION_LOG = Log(
    table=ADMIN_ACTION,
    key="id",
    entity=("merchant_id",),
    said=(
        "merchant_id",
        "actor",
        "method",
        "target",
        "before_json",
        "after_json",
        "reason",
        "client_address",
        "trace_id",
        "outcome",
        "created_at",
    ),
)

# Evidence: the user of the service may add rows and read them, nothing else (`paymesh migrate
# --grant-to-services`).
APPEND_ONLY = frozenset({"admin_action", "merchant_setting"})
