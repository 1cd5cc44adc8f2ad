"""Stores transactions, callbacks and scheduled steps in the channel's SQLite file; refunds are in
`refund_store`.

One connection on its own thread: each function given to `run` is one transaction, isolated from
others. An outcome and its callback are written together. The journal is a WAL with
synchronous=NORMAL: what is committed survives kill -9 of the process; a power cut may lose the last
commits of this simulator, never a part of one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from mesh.times import from_milliseconds, milliseconds
from mesh.traffic import Traffic
from sandbox.columns import money, ms_or_none, time_or_none
from sandbox.domain import Kind, OutcomeDiffers, PayMethod, Status, Transaction
from sandbox.schema import SCHEMA, STEPS

P = ParamSpec("P")
T = TypeVar("T")
Tx = sqlite3.Connection

# waited for only when another process, e.g. the sqlite3 shell, uses the same file
_BUSY_TIMEOUT_SECONDS = 5.0

_COLUMNS = (
    "attempt_id, kind, trade_no, status, amount_minor, currency, created_ms, finished_ms, "
    "expires_ms, decline_code, message, "
    "card_brand, card_last4, subject, return_url, cashier_token, captured_minor, "
    "captured_currency, fee_minor, refund_card, duplicate_of, merchant_name, description, "
    "pay_method"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A callback that is due, and how often it was tried."""

    event_id: str
    body: bytes
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A scheduled step of a subject (an attempt id or a refund id)."""

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
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(SCHEMA)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        for number, step in enumerate(STEPS[version:], start=version + 1):
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
    """Pending transactions whose deadline has passed, oldest deadline first."""
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM transactions WHERE status = 'PENDING' AND expires_ms <= ? "  # noqa: S608  # own constants
        "ORDER BY expires_ms LIMIT ?",
        (milliseconds(now), limit),
    )
    return [_transaction(row) for row in rows]


def list_transactions(tx: Tx, *, after: int, limit: int) -> list[tuple[int, Transaction]]:
    """Transactions behind a position in the order in which they came, with their positions."""
    rows = tx.execute(
        f"SELECT seq, {_COLUMNS} FROM transactions WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608  # own constants
        (after, limit),
    )
    return [(row["seq"], _transaction(row)) for row in rows]


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
        milliseconds(transaction.created_at),
        ms_or_none(transaction.finished_at),
        ms_or_none(transaction.expires_at),
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
        transaction.merchant_name,
        transaction.description,
        transaction.pay_method,
    )
    tx.execute(
        f"INSERT INTO transactions ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608  # own constants
        values,
    )


def save_outcome(tx: Tx, transaction: Transaction, *, before: Status = Status.PENDING) -> None:
    """Writes the outcome of a transaction whose status is still `before`.

    Raises:
        OutcomeDiffers: it is not.
    """
    captured, fee = transaction.captured, transaction.fee
    changed = tx.execute(
        "UPDATE transactions SET status = ?, decline_code = ?, message = ?, finished_ms = ?, "
        "captured_minor = ?, captured_currency = ?, "
        "fee_minor = ?, pay_method = ? WHERE attempt_id = ? AND status = ?",
        (
            transaction.status,
            transaction.decline_code,
            transaction.message,
            ms_or_none(transaction.finished_at),
            captured.minor if captured else None,
            captured.currency if captured else None,
            fee.minor if fee else None,
            transaction.pay_method,
            transaction.attempt_id,
            before,
        ),
    )
    if changed.rowcount != 1:
        raise OutcomeDiffers(f"the transaction is not {before}")


def captured_between(tx: Tx, begins: datetime, ends: datetime) -> list[Transaction]:
    """Captures from a moment on and before another."""
    rows = tx.execute(
        f"SELECT {_COLUMNS} FROM transactions WHERE status = 'CAPTURED' AND finished_ms >= ? AND "  # noqa: S608  # own constants
        f"finished_ms < ? "
        "ORDER BY finished_ms, seq",
        (milliseconds(begins), milliseconds(ends)),
    )
    return [_transaction(row) for row in rows]


def list_captured(
    tx: Tx, begins: datetime, ends: datetime, *, after: int, limit: int
) -> list[tuple[int, Transaction]]:
    """Captures from a moment on and before another, by position, beyond a position."""
    rows = tx.execute(
        f"SELECT seq, {_COLUMNS} FROM transactions WHERE status = 'CAPTURED' AND finished_ms >= ? "  # noqa: S608  # own constants
        f"AND finished_ms < ? AND seq > ? "
        "ORDER BY seq LIMIT ?",
        (milliseconds(begins), milliseconds(ends), after, limit),
    )
    return [(row["seq"], _transaction(row)) for row in rows]


def schedule(tx: Tx, *, what: str, subject: str, due_at: datetime, step: int = 0) -> None:
    """Schedules a step. Scheduling the same step twice runs it once."""
    tx.execute(
        "INSERT OR IGNORE INTO scheduled (what, subject, due_ms, step) VALUES (?, ?, ?, ?)",
        (what, subject, milliseconds(due_at), step),
    )


def take_scheduled(tx: Tx, *, now: datetime, limit: int) -> list[Scheduled]:
    """Takes due steps, in order; deleted in the transaction that applies them."""
    rows = tx.execute(
        "SELECT seq, what, subject, step FROM scheduled WHERE due_ms <= ? ORDER BY due_ms, seq "
        "LIMIT ?",
        (milliseconds(now), limit),
    ).fetchall()
    tx.executemany("DELETE FROM scheduled WHERE seq = ?", [row[:1] for row in rows])
    return [
        Scheduled(number=number, what=what, subject=subject, step=step)
        for number, what, subject, step in rows
    ]


def insert_delivery(tx: Tx, *, event_id: str, body: bytes, due_at: datetime) -> None:
    """Adds a callback. `event_id` names the delivery here; the shop reads the body."""
    tx.execute(
        "INSERT INTO deliveries (event_id, body, state, due_ms, attempts, last_error) VALUES (?, "
        "?, 'DUE', ?, 0, '')",
        (event_id, body, milliseconds(due_at)),
    )


def list_due_deliveries(tx: Tx, *, now: datetime, limit: int) -> list[Delivery]:
    """Callbacks whose time has come, the longest due first."""
    rows = tx.execute(
        "SELECT event_id, body, attempts FROM deliveries WHERE state = 'DUE' AND due_ms <= ? "
        "ORDER BY due_ms LIMIT ?",
        (milliseconds(now), limit),
    )
    return [Delivery(**row) for row in rows]


def save_delivered(tx: Tx, event_id: str) -> None:
    """Records that the receiver accepted the callback."""
    tx.execute(
        "UPDATE deliveries SET state = 'DONE', attempts = attempts + 1, last_error = '' WHERE "
        "event_id = ?",
        (event_id,),
    )


def save_undelivered(tx: Tx, event_id: str, *, error: str, due_at: datetime | None) -> None:
    """Records a failed delivery; it is retried at `due_at`, or never when that is None."""
    tx.execute(
        "UPDATE deliveries SET state = ?, due_ms = coalesce(?, due_ms), attempts = attempts + 1, "
        "last_error = ? WHERE event_id = ?",
        ("GIVEN_UP" if due_at is None else "DUE", ms_or_none(due_at), error, event_id),
    )


def _one(tx: Tx, condition: str, value: str) -> Transaction | None:
    row = tx.execute(f"SELECT {_COLUMNS} FROM transactions WHERE {condition}", (value,)).fetchone()  # noqa: S608  # own constants
    return None if row is None else _transaction(row)


def _transaction(row: sqlite3.Row) -> Transaction:
    currency = row["captured_currency"]
    return Transaction(
        attempt_id=row["attempt_id"],
        kind=Kind(row["kind"]),
        trade_no=row["trade_no"],
        status=Status(row["status"]),
        amount=money(row["amount_minor"], row["currency"]),
        created_at=from_milliseconds(row["created_ms"]),
        finished_at=time_or_none(row["finished_ms"]),
        expires_at=time_or_none(row["expires_ms"]),
        decline_code=row["decline_code"],
        message=row["message"],
        card_brand=row["card_brand"],
        card_last4=row["card_last4"],
        subject=row["subject"],
        return_url=row["return_url"],
        cashier_token=row["cashier_token"] or "",
        captured=money(row["captured_minor"], currency),
        fee=money(row["fee_minor"], currency),
        refund_card=row["refund_card"],
        duplicate_of=row["duplicate_of"],
        merchant_name=row["merchant_name"],
        description=row["description"],
        pay_method=None if row["pay_method"] is None else PayMethod(row["pay_method"]),
    )
