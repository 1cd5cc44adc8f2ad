"""Defines the tables of the sandbox's SQLite file, and its migration steps."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS transactions (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id    TEXT NOT NULL UNIQUE,
    kind          TEXT NOT NULL CHECK (kind IN ('CHARGE', 'CHECKOUT', 'TOMBSTONE')),
    trade_no      TEXT NOT NULL UNIQUE,
    status        TEXT NOT NULL CHECK (status IN ('PENDING', 'CAPTURED', 'DECLINED', 'FAILED', 'CLOSED')),
    amount_minor  INTEGER CHECK (amount_minor > 0),
    currency      TEXT,
    created_ms    INTEGER NOT NULL,
    finished_ms   INTEGER,
    expires_ms    INTEGER,
    decline_code  TEXT NOT NULL,
    message       TEXT NOT NULL,
    card_brand    TEXT NOT NULL,
    card_last4    TEXT NOT NULL CHECK (length(card_last4) <= 4),
    subject       TEXT NOT NULL,
    return_url    TEXT NOT NULL,
    cashier_token TEXT UNIQUE,
    CHECK ((status = 'PENDING') = (finished_ms IS NULL)),
    CHECK ((kind = 'TOMBSTONE') = (amount_minor IS NULL)),
    CHECK ((amount_minor IS NULL) = (currency IS NULL)),
    CHECK (kind <> 'TOMBSTONE' OR status = 'CLOSED')
) STRICT;
CREATE INDEX IF NOT EXISTS transactions_open ON transactions (expires_ms) WHERE status = 'PENDING';
CREATE TABLE IF NOT EXISTS deliveries (
    event_id   TEXT PRIMARY KEY,
    body       BLOB NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('DUE', 'DONE', 'GIVEN_UP')),
    due_ms     INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    last_error TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (due_ms) WHERE state = 'DUE';
"""
# Steps from one version of the file to the next; `user_version` counts them. SCHEMA is version 0.
STEPS = (
    """
ALTER TABLE transactions ADD COLUMN captured_minor INTEGER;
ALTER TABLE transactions ADD COLUMN captured_currency TEXT;
ALTER TABLE transactions ADD COLUMN fee_minor INTEGER;
ALTER TABLE transactions ADD COLUMN refund_card TEXT NOT NULL DEFAULT '';
ALTER TABLE transactions ADD COLUMN duplicate_of TEXT NOT NULL DEFAULT '';
UPDATE transactions SET captured_minor = amount_minor, captured_currency = currency, fee_minor = 0 WHERE status = 'CAPTURED';
CREATE INDEX transactions_captured ON transactions (finished_ms) WHERE status = 'CAPTURED';
CREATE TABLE refunds (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    refund_id    TEXT NOT NULL UNIQUE,
    refund_no    TEXT NOT NULL UNIQUE,
    attempt_id   TEXT NOT NULL,
    status       TEXT NOT NULL CHECK (status IN ('PENDING', 'SUCCESS', 'FAILED', 'REVERSED')),
    amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
    currency     TEXT NOT NULL,
    reason       TEXT NOT NULL,
    code         TEXT NOT NULL,
    message      TEXT NOT NULL,
    fee_minor    INTEGER,
    created_ms   INTEGER NOT NULL,
    finished_ms  INTEGER,
    reversed_ms  INTEGER,
    CHECK ((status = 'PENDING') = (finished_ms IS NULL)),
    CHECK ((status = 'REVERSED') = (reversed_ms IS NOT NULL)),
    CHECK ((status IN ('SUCCESS', 'REVERSED')) = (fee_minor IS NOT NULL))
) STRICT;
CREATE INDEX refunds_attempt ON refunds (attempt_id);
CREATE INDEX refunds_finished ON refunds (finished_ms);
CREATE INDEX refunds_reversed ON refunds (reversed_ms) WHERE status = 'REVERSED';
CREATE TABLE scheduled (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    what    TEXT NOT NULL,
    subject TEXT NOT NULL,
    due_ms  INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    UNIQUE (what, subject, step)
) STRICT;
CREATE INDEX scheduled_due ON scheduled (due_ms);
CREATE TABLE statements (
    date TEXT PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE shifted_lines (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    date TEXT NOT NULL,
    line TEXT NOT NULL
) STRICT;
""",
    "CREATE INDEX refunds_created ON refunds (created_ms);",
    """
ALTER TABLE transactions ADD COLUMN merchant_name TEXT NOT NULL DEFAULT '';
ALTER TABLE transactions ADD COLUMN description TEXT NOT NULL DEFAULT '';
""",
    "ALTER TABLE transactions ADD COLUMN pay_method TEXT;",
)
