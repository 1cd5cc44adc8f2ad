"""Stores altered statements, and lines that were moved to another day."""

from __future__ import annotations

from sandbox.store import Tx


def find_statement(tx: Tx, date: str) -> bytes | None:
    """The altered statement of a day, if there is one."""
    row = tx.execute("SELECT body FROM statements WHERE date = ?", (date,)).fetchone()
    return None if row is None else bytes(row[0])


def insert_statement(tx: Tx, *, date: str, body: bytes) -> None:
    """Stores an altered statement."""
    tx.execute("INSERT INTO statements (date, body) VALUES (?, ?)", (date, body))


def shifted_lines(tx: Tx, date: str) -> list[str]:
    """Lines that were moved to a day, as JSON."""
    return [
        row[0]
        for row in tx.execute("SELECT line FROM shifted_lines WHERE date = ? ORDER BY seq", (date,))
    ]


def insert_shifted_line(tx: Tx, *, date: str, line: str) -> None:
    """Moves a line to a day."""
    tx.execute("INSERT INTO shifted_lines (date, line) VALUES (?, ?)", (date, line))
