"""The channel's own SQLite file: transactions, refunds, the callbacks that it still owes and what
is going to happen.

One connection on one thread of its own: each function given to `run` is one transaction, and none
sees another halfway. An outcome and its callback are written together. The journal is a WAL with
synchronous=NORMAL: what is committed survives kill -9 of the process; a power cut may take the last
commits of this simulator, never a part of one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from mesh.money import Money
from mesh.traffic import Traffic
from sandbox.domain import Kind, OutcomeDiffers, Refund, RefundStatus, Status, Transaction

P = ParamSpec("P")
T = TypeVar("T")
Tx = sqlite3.Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# only another process on the same file, e.g. a person with the sqlite3 shell, makes us wait
_BUSY_TIMEOUT_SECONDS = 5.0

_SCHEMA = """
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
# Steps from one version of the file to the next; `user_version` counts them. The schema above is
# version 0.
_STEPS = (
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
)
_COLUMNS = (
    "attempt_id, kind, trade_no, status, amount_minor, currency, created_ms, finished_ms, "
    "expires_ms, decline_code, message, "
    "card_brand, card_last4, subject, return_url, cashier_token, captured_minor, "
    "captured_currency, fee_minor, refund_card, duplicate_of"
)
_REFUND_COLUMNS = (
    "refund_id, refund_no, attempt_id, status, amount_minor, currency, reason, code, message, "
    "fee_minor, created_ms, finished_ms, "
    "reversed_ms"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A callback that is owed, and how often it was tried."""

    event_id: str
    body: bytes
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """Something that is going to happen to a subject (an attempt id or a refund id)."""

    number: int
    what: str
    subject: str
    step: int


class Store:
    """The file. `open` before use, `close` after."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-store")
        self._connection: sqlite3.Connection | None = None
        self.traffic = Traffic()

    async def open(self) -> None:
        """Opens the file and makes the tables where they are missing."""
        self._connection = await asyncio.get_running_loop().run_in_executor(
            self._thread, self._connect
        )

    async def close(self) -> None:
        """Waits for the transaction that runs, then closes the file."""
        if self._connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
            self._connection = None
        self._thread.shutdown()

    async def run(
        self, function: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs `function(tx, …)` as one transaction, all of it or none; cancelling the caller does
        not stop one that has begun.
        """
        result = await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._transact(lambda tx: function(tx, *args, **kwargs))
        )
        self.traffic.changed()
        return result

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Opened and used on the one thread; closed there too.
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        for number, step in enumerate(_STEPS[version:], start=version + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;"
            )
        return connection

    def _transact(self, function: Callable[[Tx], T]) -> T:
        if self._connection is None:
            raise RuntimeError("the store is not open")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            result = function(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return result


def find(tx: Tx, attempt_id: str) -> Transaction | None:
    """The transaction of an attempt id."""
    return _one(tx, "attempt_id = ?", attempt_id)


def find_by_cashier_token(tx: Tx, token: str) -> Transaction | None:
    """The transaction whose cashier page this is."""
    return _one(tx, "cashier_token = ?", token)


def list_due(tx: Tx, *, now: datetime, limit: int) -> list[Transaction]:
    """Transactions that wait for a payer whose time is over, oldest deadline first."""
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM transactions WHERE status = 'PENDING' AND expires_ms <= ? "  # noqa: S608  # own constants
        "ORDER BY expires_ms LIMIT ?",
        (_ms(now), limit),
    )
    return [_transaction(row) for row in rows]


def list_transactions(tx: Tx, *, after: int, limit: int) -> list[tuple[int, Transaction]]:
    """Transactions behind a position in the order in which they came, with their positions."""
    rows = tx.execute(
        f"SELECT seq, {_COLUMNS} FROM transactions WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608  # own constants
        (after, limit),
    )
    return [(row[0], _transaction(row[1:])) for row in rows]


def insert(tx: Tx, transaction: Transaction) -> None:
    """Adds a transaction. A second one with its attempt id is refused by the table."""
    amount, captured, fee = transaction.amount, transaction.captured, transaction.fee
    values = (
        transaction.attempt_id,
        transaction.kind,
        transaction.trade_no,
        transaction.status,
        amount.minor if amount else None,
        amount.currency if amount else None,
        _ms(transaction.created_at),
        _ms_or_none(transaction.finished_at),
        _ms_or_none(transaction.expires_at),
        transaction.decline_code,
        transaction.message,
        transaction.card_brand,
        transaction.card_last4,
        transaction.subject,
        transaction.return_url,
        transaction.cashier_token or None,
        captured.minor if captured else None,
        captured.currency if captured else None,
        fee.minor if fee else None,
        transaction.refund_card,
        transaction.duplicate_of,
    )
    tx.execute(
        f"INSERT INTO transactions ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608  # own constants
        values,
    )


def save_outcome(tx: Tx, transaction: Transaction, *, before: Status = Status.PENDING) -> None:
    """Writes what a transaction became that is still what it was before.

    Raises:
        OutcomeDiffers: it is not.
    """
    captured, fee = transaction.captured, transaction.fee
    changed = tx.execute(
        "UPDATE transactions SET status = ?, decline_code = ?, message = ?, finished_ms = ?, "
        "captured_minor = ?, captured_currency = ?, "
        "fee_minor = ? WHERE attempt_id = ? AND status = ?",
        (
            transaction.status,
            transaction.decline_code,
            transaction.message,
            _ms_or_none(transaction.finished_at),
            captured.minor if captured else None,
            captured.currency if captured else None,
            fee.minor if fee else None,
            transaction.attempt_id,
            before,
        ),
    )
    if changed.rowcount != 1:
        raise OutcomeDiffers(f"the transaction is not {before}")


def find_refund(tx: Tx, refund_id: str) -> Refund | None:
    """The refund of a refund id."""
    found = list_refunds(tx, "refund_id = ?", refund_id)
    return found[0] if found else None


def refunds_of(tx: Tx, attempt_id: str) -> list[Refund]:
    """Everything that was asked back of an attempt, oldest first."""
    return list_refunds(tx, "attempt_id = ?", attempt_id)


def list_refunds(tx: Tx, condition: str, *values: object) -> list[Refund]:
    """Refunds under a condition of ours, oldest first."""
    rows = tx.execute(
        f"SELECT {_REFUND_COLUMNS} FROM refunds WHERE {condition} ORDER BY seq",  # noqa: S608  # own constants
        values,
    )
    return [_refund(row) for row in rows]


def insert_refund(tx: Tx, refund: Refund) -> None:
    """Adds a refund. A second one with its refund id is refused by the table."""
    values = (
        refund.refund_id,
        refund.refund_no,
        refund.attempt_id,
        refund.status,
        refund.amount.minor,
        refund.amount.currency,
        refund.reason,
        refund.code,
        refund.message,
        refund.fee_returned.minor if refund.fee_returned else None,
        _ms(refund.created_at),
        _ms_or_none(refund.finished_at),
        _ms_or_none(refund.reversed_at),
    )
    tx.execute(
        f"INSERT INTO refunds ({_REFUND_COLUMNS}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608  # own constants
        values,
    )


def save_refund(tx: Tx, refund: Refund, *, before: RefundStatus) -> None:
    """Writes a step of a refund that is still what it was before.

    Raises:
        OutcomeDiffers: it is not.
    """
    changed = tx.execute(
        "UPDATE refunds SET status = ?, code = ?, message = ?, fee_minor = ?, finished_ms = ?, "
        "reversed_ms = ? WHERE refund_id = ? AND status = ?",
        (
            refund.status,
            refund.code,
            refund.message,
            refund.fee_returned.minor if refund.fee_returned else None,
            _ms_or_none(refund.finished_at),
            _ms_or_none(refund.reversed_at),
            refund.refund_id,
            before,
        ),
    )
    if changed.rowcount != 1:
        raise OutcomeDiffers(f"the refund is not {before}")


def captured_between(tx: Tx, begins: datetime, ends: datetime) -> list[Transaction]:
    """What was captured from a moment on and before another."""
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM transactions WHERE status = 'CAPTURED' AND finished_ms >= ? AND "  # noqa: S608  # own constants
        f"finished_ms < ? "
        "ORDER BY finished_ms, seq",
        (_ms(begins), _ms(ends)),
    )
    return [_transaction(row) for row in rows]


def list_captured(
    tx: Tx, begins: datetime, ends: datetime, *, after: int, limit: int
) -> list[tuple[int, Transaction]]:
    """What was captured from a moment on and before another, by position, beyond a position."""
    rows = tx.execute(
        f"SELECT seq, {_COLUMNS} FROM transactions WHERE status = 'CAPTURED' AND finished_ms >= ? "  # noqa: S608  # own constants
        f"AND finished_ms < ? AND seq > ? "
        "ORDER BY seq LIMIT ?",
        (_ms(begins), _ms(ends), after, limit),
    )
    return [(row[0], _transaction(row[1:])) for row in rows]


def list_asked_back(
    tx: Tx, begins: datetime, ends: datetime, *, after: int, limit: int
) -> list[tuple[int, Refund]]:
    """Refunds that were asked for from a moment on and before another, by position, beyond a
    position.
    """
    rows = tx.execute(
        f"SELECT seq, {_REFUND_COLUMNS} FROM refunds WHERE created_ms >= ? AND created_ms < ? AND "  # noqa: S608  # own constants
        f"seq > ? ORDER BY seq LIMIT ?",
        (_ms(begins), _ms(ends), after, limit),
    )
    return [(row[0], _refund(row[1:])) for row in rows]


def refunds_finished_between(tx: Tx, begins: datetime, ends: datetime) -> list[Refund]:
    """Refunds that left or were refused from a moment on and before another."""
    return list_refunds(tx, "finished_ms >= ? AND finished_ms < ?", _ms(begins), _ms(ends))


def refunds_reversed_between(tx: Tx, begins: datetime, ends: datetime) -> list[Refund]:
    """Refunds that came back from a moment on and before another."""
    return list_refunds(
        tx, "status = 'REVERSED' AND reversed_ms >= ? AND reversed_ms < ?", _ms(begins), _ms(ends)
    )


def schedule(tx: Tx, *, what: str, subject: str, due_at: datetime, step: int = 0) -> None:
    """Lets something happen later. The same thing twice happens once."""
    tx.execute(
        "INSERT OR IGNORE INTO scheduled (what, subject, due_ms, step) VALUES (?, ?, ?, ?)",
        (what, subject, _ms(due_at), step),
    )


def take_scheduled(tx: Tx, *, now: datetime, limit: int) -> list[Scheduled]:
    """What happens now, in order; taken off the list by the transaction that lets it happen."""
    rows = tx.execute(
        "SELECT seq, what, subject, step FROM scheduled WHERE due_ms <= ? ORDER BY due_ms, seq "
        "LIMIT ?",
        (_ms(now), limit),
    ).fetchall()
    tx.executemany("DELETE FROM scheduled WHERE seq = ?", [row[:1] for row in rows])
    return [
        Scheduled(number=number, what=what, subject=subject, step=step)
        for number, what, subject, step in rows
    ]


def insert_delivery(tx: Tx, *, event_id: str, body: bytes, due_at: datetime) -> None:
    """Owes a callback. `event_id` names the delivery here; what the shop reads stands in the
    body.
    """
    tx.execute(
        "INSERT INTO deliveries (event_id, body, state, due_ms, attempts, last_error) VALUES (?, "
        "?, 'DUE', ?, 0, '')",
        (event_id, body, _ms(due_at)),
    )


def list_due_deliveries(tx: Tx, *, now: datetime, limit: int) -> list[Delivery]:
    """Callbacks whose time has come, the longest due first."""
    rows = tx.execute(
        "SELECT event_id, body, attempts FROM deliveries WHERE state = 'DUE' AND due_ms <= ? "
        "ORDER BY due_ms LIMIT ?",
        (_ms(now), limit),
    )
    return [
        Delivery(event_id=event_id, body=body, attempts=attempts)
        for event_id, body, attempts in rows
    ]


def save_delivered(tx: Tx, event_id: str) -> None:
    """The receiver took it."""
    tx.execute(
        "UPDATE deliveries SET state = 'DONE', attempts = attempts + 1, last_error = '' WHERE "
        "event_id = ?",
        (event_id,),
    )


def save_undelivered(tx: Tx, event_id: str, *, error: str, due_at: datetime | None) -> None:
    """The receiver did not take it; it is tried again at `due_at`, or never when that is None."""
    tx.execute(
        "UPDATE deliveries SET state = ?, due_ms = coalesce(?, due_ms), attempts = attempts + 1, "
        "last_error = ? WHERE event_id = ?",
        ("GIVEN_UP" if due_at is None else "DUE", _ms_or_none(due_at), error, event_id),
    )


def _one(tx: Tx, condition: str, value: str) -> Transaction | None:
    row = tx.execute(f"SELECT {_COLUMNS} FROM transactions WHERE {condition}", (value,)).fetchone()  # noqa: S608  # own constants
    return None if row is None else _transaction(row)


def _transaction(row: tuple[Any, ...]) -> Transaction:
    (
        attempt_id,
        kind,
        trade_no,
        status,
        minor,
        currency,
        created_ms,
        finished_ms,
        expires_ms,
        decline_code,
        message,
        brand,
        last4,
        subject,
        return_url,
        token,
        captured_minor,
        captured_currency,
        fee_minor,
        refund_card,
        duplicate_of,
    ) = row
    return Transaction(
        attempt_id=attempt_id,
        kind=Kind(kind),
        trade_no=trade_no,
        status=Status(status),
        amount=_money(minor, currency),
        created_at=_time(created_ms),
        finished_at=_time_or_none(finished_ms),
        expires_at=_time_or_none(expires_ms),
        decline_code=decline_code,
        message=message,
        card_brand=brand,
        card_last4=last4,
        subject=subject,
        return_url=return_url,
        cashier_token=token or "",
        captured=_money(captured_minor, captured_currency),
        fee=_money(fee_minor, captured_currency),
        refund_card=refund_card,
        duplicate_of=duplicate_of,
    )


def _refund(row: tuple[Any, ...]) -> Refund:
    (
        refund_id,
        refund_no,
        attempt_id,
        status,
        minor,
        currency,
        reason,
        code,
        message,
        fee_minor,
        created_ms,
        finished_ms,
        reversed_ms,
    ) = row
    return Refund(
        refund_id=refund_id,
        refund_no=refund_no,
        attempt_id=attempt_id,
        status=RefundStatus(status),
        amount=Money(minor, currency),
        reason=reason,
        code=code,
        message=message,
        fee_returned=_money(fee_minor, currency),
        created_at=_time(created_ms),
        finished_at=_time_or_none(finished_ms),
        reversed_at=_time_or_none(reversed_ms),
    )


def _money(minor: int | None, currency: str | None) -> Money | None:
    return None if minor is None or currency is None else Money(minor, currency)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _ms_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _ms(moment)


def _time(milliseconds: int) -> datetime:
    return _EPOCH + milliseconds * _MILLISECOND


def _time_or_none(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else _time(milliseconds)
