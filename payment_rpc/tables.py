"""The tables of payment_rpc. Invariants that the database can hold stand here too, under names that
errors carry.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import LONGTEXT

from mesh.db import BigInt, Identifier, UtcMillis, metadata_with_names, one_of
from mesh.idempotency import RECEIPT
from mesh.inbox import INBOX
from mesh.log_chain import LOG_CHAIN, Log, chain_columns
from mesh.outbox import OUTBOX
from payment_rpc.domain import attempt, refund
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.callback import CallbackKind, CallbackResult
from payment_rpc.domain.channel_account import AccountMode, AccountState, AccountStep
from payment_rpc.domain.difference import DifferenceState
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.payment import LIVE, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.scan import ScanAction

# No foreign keys (docs/decisions/0011): the check of one takes a shared lock on the parent, which
# the same transaction updates later, a deadlock between two callers. The parents are locked first
# by every use case, and the audit looks for orphans. Transactions of the ledger are never updated;
# there the check costs a booking 15 % of its time, and VerifyLedger looks for postings that belong
# to none.
metadata = metadata_with_names()
for shared in (RECEIPT, OUTBOX, INBOX, LOG_CHAIN):
    shared.to_metadata(metadata)

PAYMENT = Table(
    "payment",
    metadata,
    Column("payment_id", Identifier(32), primary_key=True),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("order_id", Identifier(32), nullable=False),
    Column("user_id", Identifier(64), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Identifier(3), nullable=False),
    Column("captured_minor", BigInteger, nullable=False),
    Column("refunded_minor", BigInteger, nullable=False),
    Column("refund_reserved_minor", BigInteger, nullable=False),
    Column("disputed_minor", BigInteger, nullable=False),
    Column("fee_minor", BigInteger, nullable=False, server_default="0"),
    Column("state", Identifier(16), nullable=False),
    Column("live_slot", SmallInteger, nullable=True),
    Column("payment_method", Identifier(32), nullable=False),
    Column("channel", Identifier(32), nullable=False),
    Column("channel_trade_no", String(64), nullable=False),
    Column("outcome", Identifier(16), nullable=False),
    Column("disposition", Identifier(24), nullable=True),
    Column("failure_reason", String(64), nullable=True),
    Column("failure_message", String(200), nullable=True),
    Column("card_brand", String(16), nullable=True),
    Column("card_last_four", String(4), nullable=True),
    Column("card_expiration_year", Integer, nullable=True),
    Column("card_expiration_month", Integer, nullable=True),
    Column("next_action_kind", String(16), nullable=True),
    Column("next_action_value", Text, nullable=True),
    Column("ledger_head", Identifier(64), nullable=False),
    # Which idempotency key began it (a digest), NULL for none; and a digest of this row with the
    # version that it was written in. For the audit.
    Column("receipt_digest", Identifier(64), nullable=True),
    Column("seal", Identifier(80), nullable=True),
    Column("version", Integer, nullable=False),
    Column("paid_at", UtcMillis, nullable=True),
    Column("expires_at", UtcMillis, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    # Of merchants' own orders: their number, and a digest of their customer's address.
    Column("order_no", Identifier(64), nullable=True),
    Column("customer_digest", Identifier(64), nullable=True),
    Column("capture_mode", Identifier(16), nullable=False, server_default="AUTOMATIC"),
    # One live payment per order: NULLs do not collide.
    UniqueConstraint("merchant_id", "order_id", "live_slot", name="uq_payment_live_slot"),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint(
        "captured_minor >= 0 AND refunded_minor >= 0 AND refund_reserved_minor >= 0 AND "
        "disputed_minor >= 0",
        name="not_negative",
    ),
    CheckConstraint(
        "refunded_minor + refund_reserved_minor + disputed_minor <= captured_minor",
        name="refund_cap",
    ),
    CheckConstraint(one_of("state", PaymentState), name="state"),
    CheckConstraint(
        f"live_slot IS NULL OR (live_slot = 1 AND {one_of('state', LIVE)})", name="slot"
    ),
    CheckConstraint(one_of("capture_mode", CaptureMode), name="capture_mode"),
    CheckConstraint(
        "state NOT IN ('SUCCESS', 'LATE_SUCCESS') OR captured_minor = amount_minor OR "
        "(capture_mode = 'MANUAL' AND captured_minor BETWEEN 1 AND amount_minor)",
        name="captured",
    ),
    CheckConstraint("state <> 'AUTHORIZED' OR capture_mode = 'MANUAL'", name="authorized"),
    Index("ix_payment_order", "merchant_id", "order_id", "payment_id"),
    Index("ix_payment_expiry", "state", "expires_at", "payment_id"),
    # One per search of merchants, in the order of the list.
    Index("ix_payment_order_no", "merchant_id", "order_no", "payment_id"),
    Index("ix_payment_customer", "merchant_id", "customer_digest", "created_at", "payment_id"),
    Index("ix_payment_state", "merchant_id", "state", "created_at", "payment_id"),
    Index("ix_payment_merchant", "merchant_id", "created_at", "payment_id"),
)

ATTEMPT = Table(
    "attempt",
    metadata,
    Column("attempt_id", Identifier(32), primary_key=True),
    Column("payment_id", Identifier(32), nullable=False),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("channel", Identifier(32), nullable=False),
    Column("state", Identifier(16), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Identifier(3), nullable=False),
    Column("captured_minor", BigInteger, nullable=True),
    Column("captured_currency", Identifier(3), nullable=True),
    Column("channel_trade_no", String(64), nullable=False),
    Column("sends", Integer, nullable=False),
    Column("lease_until", UtcMillis, nullable=False),
    Column("next_query_at", UtcMillis, nullable=True),
    Column("queries", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    Column("captured_at", UtcMillis, nullable=True),
    Column("channel_ref", Identifier(255), nullable=False, server_default=""),
    Column("steps", Integer, nullable=False, server_default="0"),
    # The capture of held money that we intend: our key of it, how much, how often it was sent.
    Column("capture_id", Identifier(32), nullable=False, server_default=""),
    Column("capture_minor", BigInteger, nullable=True),
    Column("capture_sends", Integer, nullable=False, server_default="0"),
    # What was paid beyond the capture, in its currency, as far as it is booked.
    Column("surplus_minor", BigInteger, nullable=False, server_default="0"),
    Column("watch_until", UtcMillis, nullable=True),
    Column("capture_keeps_rest", Boolean, nullable=False, server_default="0"),
    Column("capture_began_at", UtcMillis, nullable=True),
    CheckConstraint(one_of("state", AttemptState), name="state"),
    CheckConstraint(
        "(capture_minor IS NULL) = (capture_id = '') AND "
        "(capture_minor IS NULL OR capture_minor BETWEEN 1 AND amount_minor)",
        name="capture",
    ),
    CheckConstraint(
        "state <> 'AUTHORIZED' OR "
        "COALESCE(captured_minor, 0) + COALESCE(capture_minor, 0) <= amount_minor",
        name="capture_cap",
    ),
    # Held money may be taken in several parts.
    CheckConstraint(
        "state = 'AUTHORIZED' OR (state = 'CAPTURED') = (captured_minor IS NOT NULL)",
        name="captured",
    ),
    CheckConstraint(
        "surplus_minor >= 0 AND (surplus_minor = 0 OR state = 'CAPTURED')", name="surplus"
    ),
    CheckConstraint(
        f"({one_of('state', [s for s in AttemptState if s in attempt.OPEN])}) = "
        "(next_query_at IS NOT NULL) OR "
        "(state IN ('CAPTURED', 'CLOSED') AND watch_until IS NOT NULL)",
        name="asked",
    ),
    Index("ix_attempt_channel_ref", "channel", "channel_ref"),
    Index("ix_attempt_payment", "payment_id", "attempt_id"),
    Index("ix_attempt_due", "next_query_at", "attempt_id"),
    Index("ix_attempt_captured", "channel", "captured_at", "attempt_id"),
    Index("ix_attempt_trade_no", "channel_trade_no"),
)

REFUND = Table(
    "refund",
    metadata,
    Column("refund_id", Identifier(32), primary_key=True),
    Column("payment_id", Identifier(32), nullable=False),
    Column("attempt_id", Identifier(32), nullable=False),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("order_id", Identifier(32), nullable=False),
    Column("user_id", Identifier(64), nullable=False),
    Column("channel", Identifier(32), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Identifier(3), nullable=False),
    Column("state", Identifier(16), nullable=False),
    Column("reason", String(200), nullable=False),
    Column("request_id", Identifier(64), nullable=True),
    Column("automatic_of", Identifier(96), nullable=True),
    Column("automatic", Boolean, nullable=False),
    Column("stands_alone", Boolean, nullable=False),
    Column("above_cap", Boolean, nullable=False),
    Column("needs_attention", Boolean, nullable=False),
    Column("channel_refund_no", String(64), nullable=False),
    Column("failure_reason", String(64), nullable=True),
    Column("failure_message", String(200), nullable=True),
    Column("lease_until", UtcMillis, nullable=False),
    Column("next_query_at", UtcMillis, nullable=True),
    Column("queries", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("refunded_at", UtcMillis, nullable=True),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    UniqueConstraint("merchant_id", "request_id", name="uq_refund_request_id"),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint(one_of("state", RefundState), name="state"),
    CheckConstraint(
        f"({one_of('state', [s for s in RefundState if s in refund.OPEN])}) = "
        "(next_query_at IS NOT NULL)",
        name="asked",
    ),
    Index("ix_refund_payment", "payment_id", "refund_id"),
    # One automatic refund per cause, whatever request ids callers choose: NULLs do not collide.
    Index("uq_refund_automatic_of", "automatic_of", unique=True),
    Index("ix_refund_order", "merchant_id", "order_id", "refund_id"),
    Index("ix_refund_due", "next_query_at", "refund_id"),
    Index("ix_refund_refunded", "channel", "refunded_at", "refund_id"),
    Index("ix_refund_channel_refund_no", "channel_refund_no"),
)

# OPEN until order_rpc closes the order for payments; every new payment locks it first
# (docs/protocols.md 1, Closing).
ORDER_GATE = Table(
    "order_gate",
    metadata,
    Column("merchant_id", Identifier(32), primary_key=True),
    Column("order_id", Identifier(32), primary_key=True),
    Column("state", Identifier(8), nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint("state IN ('OPEN', 'CLOSED')", name="state"),
)

LEDGER_TRANSACTION = Table(
    "ledger_transaction",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("business_key", Identifier(96), nullable=False),
    Column("kind", Identifier(32), nullable=False),
    Column("payment_id", Identifier(32), nullable=False),
    Column("previous_hash", Identifier(64), nullable=False),
    Column("hash", Identifier(64), nullable=False),
    Column("booked_at", UtcMillis, nullable=False),
    UniqueConstraint("business_key", name="uq_ledger_transaction_business_key"),
    Index("ix_ledger_transaction_payment", "payment_id", "id"),
)

LEDGER_POSTING = Table(
    "ledger_posting",
    metadata,
    Column("business_key", Identifier(96), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("account", Identifier(128), nullable=False),
    Column("side", Identifier(1), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Identifier(3), nullable=False),
    CheckConstraint("amount_minor > 0", name="amount"),
    CheckConstraint("side IN ('D', 'C')", name="side"),
    Index("ix_ledger_posting_account", "account", "currency"),
)

# The balance of a buyer. Changed by conditional UPDATE only; the ledger's customer_wallet is the
# same number.
WALLET = Table(
    "wallet",
    metadata,
    Column("merchant_id", Identifier(32), primary_key=True),
    Column("user_id", Identifier(64), primary_key=True),
    Column("currency", Identifier(3), primary_key=True),
    Column("balance_minor", BigInteger, nullable=False),
    Column("version", Integer, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    CheckConstraint("balance_minor >= 0", name="balance"),
)

WALLET_ENTRY = Table(
    "wallet_entry",
    metadata,
    Column("entry_id", Identifier(32), primary_key=True),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("user_id", Identifier(64), nullable=False),
    Column("currency", Identifier(3), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("kind", Identifier(16), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("balance_after_minor", BigInteger, nullable=False),
    Column("payment_id", Identifier(32), nullable=False),
    Column("refund_id", Identifier(32), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    *chain_columns(),
    # The wallet's version with this entry: the order of changes, which ids made by several
    # processes do not give.
    UniqueConstraint("merchant_id", "user_id", "currency", "seq", name="uq_wallet_entry_seq"),
    # One payment or refund changes a wallet once.
    UniqueConstraint("payment_id", "refund_id", name="uq_wallet_entry_cause"),
    CheckConstraint(
        "(kind = 'SPENT' AND amount_minor < 0) OR (kind IN ('TOP_UP', 'REFUNDED') AND "
        "amount_minor > 0)",
        name="amount",
    ),
    CheckConstraint("balance_after_minor >= 0", name="balance_after"),
)

# Manual reviews. An open one blocks nothing.
MANUAL_REVIEW = Table(
    "attention",
    metadata,
    Column("attention_key", Identifier(96), primary_key=True),
    Column("kind", Identifier(32), nullable=False),
    Column("payment_id", Identifier(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("resolved_at", UtcMillis, nullable=True),
    Index("ix_attention_open", "resolved_at", "created_at"),
)

# A statement as it was fetched (deflated, base64: aiomysql cannot send bytes), and how far it is
# compared.
STATEMENT_IMPORT = Table(
    "statement_import",
    metadata,
    Column("import_id", Identifier(32), primary_key=True),
    Column("channel", Identifier(32), nullable=False),
    Column("statement_date", Identifier(10), nullable=False),
    Column("content_hash", Identifier(64), nullable=False),
    Column("content", Text().with_variant(LONGTEXT, "mysql", "mariadb"), nullable=False),
    Column("state", Identifier(8), nullable=False),
    Column("line_count", Integer, nullable=False),
    Column("processed", Integer, nullable=False),
    Column("matched", Integer, nullable=False, server_default="0"),
    Column("is_complete", Boolean, nullable=False, server_default="1"),
    Column("line_errors", Text, nullable=False),
    Column("error", String(500), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("finished_at", UtcMillis, nullable=True),
    CheckConstraint("state IN ('FETCHING', 'RUNNING', 'DONE', 'FAILED')", name="state"),
    Index("ix_statement_import_state", "state", "import_id"),
)

STATEMENT_DIFFERENCE = Table(
    "statement_difference",
    metadata,
    Column("difference_id", Identifier(32), primary_key=True),
    Column("difference_key", Identifier(64), nullable=False),
    Column("import_id", Identifier(32), nullable=False),
    Column("channel", Identifier(32), nullable=False),
    Column("kind", Identifier(32), nullable=False),
    Column("reason", String(700), nullable=False),
    Column("line_no", Integer, nullable=False),
    Column("payment_id", Identifier(32), nullable=False),
    Column("attempt_id", String(64), nullable=False),
    Column("refund_id", String(64), nullable=False),
    Column("channel_trade_no", String(64), nullable=False),
    Column("statement_minor", BigInteger, nullable=True),
    Column("statement_currency", Identifier(3), nullable=True),
    Column("book_minor", BigInteger, nullable=True),
    Column("book_currency", Identifier(3), nullable=True),
    Column("state", Identifier(8), nullable=False),
    Column("action", Identifier(32), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("resolution_reason", String(500), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("resolved_at", UtcMillis, nullable=True),
    # A finding is filed once, however often a statement is imported.
    UniqueConstraint("difference_key", name="uq_statement_difference_key"),
    CheckConstraint(one_of("state", DifferenceState), name="state"),
    CheckConstraint("(state = 'RESOLVED') = (resolved_at IS NOT NULL)", name="resolved"),
    Index("ix_statement_difference_import", "import_id", "difference_id"),
    Index("ix_statement_difference_state", "state", "difference_id"),
)

# Callbacks of channels as they came. One row per event, however often it is delivered; a forged one
# has no key, so it never blocks a genuine one.
CHANNEL_CALLBACK = Table(
    "channel_callback",
    metadata,
    Column("callback_id", Identifier(32), primary_key=True),
    Column("channel", Identifier(32), nullable=False),
    Column("kind", Identifier(8), nullable=False),
    Column("dedupe_key", Identifier(64), nullable=True),
    Column("event_id", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("payload_encoding", Identifier(8), nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    Column("payload_digest", Identifier(64), nullable=False),
    Column("sent_timestamp", String(32), nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("signature_digest", Identifier(64), nullable=False),
    Column("signature_valid", Boolean, nullable=False),
    Column("result", Identifier(16), nullable=False),
    Column("reason", String(200), nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("payment_id", String(64), nullable=False),
    Column("attempt_id", String(64), nullable=False),
    Column("refund_id", String(64), nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("received_at", UtcMillis, nullable=False),
    Column("last_received_at", UtcMillis, nullable=False),
    Column("finished_at", UtcMillis, nullable=True),
    Column("expires_at", UtcMillis, nullable=False),
    *chain_columns(),
    # An event counts once: NULLs do not collide.
    UniqueConstraint("channel", "dedupe_key", name="uq_channel_callback_dedupe"),
    CheckConstraint(one_of("kind", CallbackKind), name="kind"),
    CheckConstraint("payload_encoding IN ('TEXT', 'BASE64')", name="payload_encoding"),
    CheckConstraint(one_of("result", CallbackResult), name="result"),
    CheckConstraint(
        "signature_valid OR (dedupe_key IS NULL AND result = 'FAILED')", name="unverified"
    ),
    CheckConstraint("(result = 'RECEIVED') = (finished_at IS NULL)", name="finished"),
    CheckConstraint("deliveries > 0", name="deliveries"),
    Index("ix_channel_callback_payment", "payment_id", "callback_id"),
    Index("ix_channel_callback_result", "result", "received_at"),
    Index("ix_channel_callback_expires_at", "expires_at"),
)

# The log of the background scan. Purged by age.
SCAN_ACTION = Table(
    "scan_action",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("payment_id", Identifier(32), nullable=False),
    Column("attempt_id", Identifier(32), nullable=False),
    Column("refund_id", Identifier(32), nullable=False),
    Column("action", Identifier(16), nullable=False),
    Column("state_before", Identifier(16), nullable=False),
    Column("state_after", Identifier(16), nullable=False),
    Column("result", Identifier(16), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("acted_at", UtcMillis, nullable=False),
    *chain_columns(),
    CheckConstraint(one_of("action", ScanAction), name="action"),
    CheckConstraint("duration_ms >= 0", name="duration"),
    Index("ix_scan_action_payment", "payment_id", "id"),
    Index("ix_scan_action_acted_at", "acted_at"),
)

# Accounts of merchants at providers; the id is the `channel` of what was begun there. The
# credentials are encrypted.
CHANNEL_ACCOUNT = Table(
    "channel_account",
    metadata,
    Column("account_id", Identifier(32), primary_key=True),
    Column("provider", Identifier(16), nullable=False),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("mode", Identifier(4), nullable=False),
    Column("label", String(100), nullable=False),
    Column("state", Identifier(8), nullable=False),
    Column("provider_slot", SmallInteger, nullable=True),
    Column("default_slot", SmallInteger, nullable=True),
    Column("credentials", Text, nullable=False),
    Column("key_id", Identifier(16), nullable=False),
    Column("hint", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_by", String(80), nullable=False),
    Column("created_at", UtcMillis, nullable=False),
    Column("updated_at", UtcMillis, nullable=False),
    # One default of a merchant for each provider, and one for what names none: NULLs do not
    # collide.
    UniqueConstraint(
        "merchant_id", "provider", "provider_slot", name="uq_channel_account_provider_slot"
    ),
    UniqueConstraint("merchant_id", "default_slot", name="uq_channel_account_default_slot"),
    CheckConstraint(one_of("mode", AccountMode), name="mode"),
    CheckConstraint(one_of("state", AccountState), name="state"),
    CheckConstraint(
        "(provider_slot IS NULL AND default_slot IS NULL) OR (provider_slot IS NOT NULL AND "
        "provider_slot = 1 AND (default_slot IS NULL OR default_slot = 1))",
        name="slots",
    ),
    CheckConstraint("version > 0", name="version"),
    Index("ix_channel_account_merchant", "merchant_id", "account_id"),
    Index("ix_channel_account_key", "key_id", "account_id"),
)

# One row for each version of an account.
CHANNEL_ACCOUNT_CHANGE = Table(
    "channel_account_change",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("account_id", Identifier(32), nullable=False),
    Column("merchant_id", Identifier(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("step", Identifier(16), nullable=False),
    Column("after_json", Text, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("reason", String(500), nullable=False),
    Column("trace_id", Identifier(32), nullable=False),
    Column("changed_at", UtcMillis, nullable=False),
    *chain_columns(),
    UniqueConstraint("account_id", "version", name="uq_channel_account_change_version"),
    CheckConstraint(one_of("step", AccountStep), name="step"),
)

# Logs that are evidence; each row continues the one before it. Each genuine callback is a chain of
# its own, so that no callback waits for another one.
WALLET_LOG = Log(
    table=WALLET_ENTRY,
    key="entry_id",
    entity=("merchant_id", "currency", "user_id"),
    said=(
        "entry_id",
        "merchant_id",
        "user_id",
        "currency",
        "seq",
        "kind",
        "amount_minor",
        "balance_after_minor",
        "payment_id",
        "refund_id",
        "created_at",
    ),
)
SCAN_LOG = Log(
    table=SCAN_ACTION,
    key="id",
    entity=("payment_id",),
    said=(
        "payment_id",
        "attempt_id",
        "refund_id",
        "action",
        "state_before",
        "state_after",
        "result",
        "reason",
        "duration_ms",
        "acted_at",
    ),
)
CALLBACK_LOG = Log(
    table=CHANNEL_CALLBACK,
    key="callback_id",
    entity=("callback_id",),
    said=(
        "callback_id",
        "channel",
        "kind",
        "dedupe_key",
        "payload",
        "payload_encoding",
        "payload_bytes",
        "payload_digest",
        "sent_timestamp",
        "nonce",
        "signature_digest",
        "signature_valid",
        "trace_id",
        "received_at",
    ),
)
ACCOUNT_LOG = Log(
    table=CHANNEL_ACCOUNT_CHANGE,
    key="id",
    entity=("account_id",),
    said=(
        "account_id",
        "merchant_id",
        "version",
        "step",
        "after_json",
        "actor",
        "reason",
        "trace_id",
        "changed_at",
    ),
)

# Two transactions that both wanted to be first: the second one runs again and finds the first.
RETRY_CONSTRAINTS = (
    "uq_payment_live_slot",
    "uq_channel_account_provider_slot",
    "uq_channel_account_default_slot",
)

# Evidence: the user of the service may add rows and read them, nothing else (`paymesh migrate
# --grant-to-services`).
APPEND_ONLY = frozenset(
    {
        LEDGER_TRANSACTION.name,
        LEDGER_POSTING.name,
        WALLET_ENTRY.name,
        CHANNEL_ACCOUNT_CHANGE.name,
    }
)
