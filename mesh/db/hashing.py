"""SHA-256 over JSON, computed by MySQL and MariaDB as Python computes it: rows that the database
finds right need not be read.

Where JSON has other escapes there than here (a text that is not ASCII) the hashes differ: such rows
are only read, not wrong. Two values never have one text, so what is right there is right here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, LargeBinary, String, cast, func, type_coerce


def json_hash(values: Iterable[ColumnElement[Any]]) -> ColumnElement[bytes]:
    """The hash of the array of some values as it is written without blanks; hex. Times are
    milliseconds, truths are 0 and 1.
    """
    parts: list[Any] = []
    for value in values:
        parts += ["," if parts else "[", _json(value)]
    return cast(func.sha2(func.concat(*parts, "]"), 256), LargeBinary)


def _json(value: ColumnElement[Any]) -> ColumnElement[bytes]:
    is_text = isinstance(value.type, String)
    # As bytes: texts of two collations are neither put together nor compared.
    plain = cast(func.json_quote(value), LargeBinary) if is_text else type_coerce(value, BigInteger)
    return func.coalesce(plain, "null")
