"""Computes SHA-256 over JSON in MySQL and MariaDB as Python does. Rows that the database itself
verifies need not be read.

Where the database escapes JSON differently (text that is not ASCII) the hashes differ. Such rows
are not wrong, they are read and verified here. Two values never have the same text, so a match in
the database is a match here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, LargeBinary, String, cast, func, type_coerce


def json_hash(values: Iterable[ColumnElement[Any]]) -> ColumnElement[bytes]:
    """The hash, in hex, of a JSON array of values written without blanks. Times are milliseconds,
    booleans are 0 and 1.
    """
    parts: list[Any] = []
    for value in values:
        parts += ["," if parts else "[", _json(value)]
    return cast(func.sha2(func.concat(*parts, "]"), 256), LargeBinary)


def _json(value: ColumnElement[Any]) -> ColumnElement[bytes]:
    is_text = isinstance(value.type, String)
    # As bytes: texts of two collations can be neither concatenated nor compared.
    plain = cast(func.json_quote(value), LargeBinary) if is_text else type_coerce(value, BigInteger)
    return func.coalesce(plain, "null")
