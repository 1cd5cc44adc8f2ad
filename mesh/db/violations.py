"""What a driver's error means: try the whole transaction again, a constraint of ours said no, the database is away, or something unexpected."""

from __future__ import annotations

import re
from enum import StrEnum

from sqlalchemy import MetaData, UniqueConstraint
from sqlalchemy.exc import DBAPIError, IntegrityError

# Deadlock, lock wait timeout, snapshot conflict, statement time limits: everything is rolled back by us, nothing was done.
_MYSQL_RETRY = frozenset({1213, 1205, 1020, 3572, 1317, 1969, 3024})
# The connection is gone or the server is going: before a commit nothing was done.
_MYSQL_LOST = frozenset({1053, 1927, 2006, 2013, 2014, 2045, 2055, 4031})
# No connection could be made, or the server cannot write.
_MYSQL_AWAY = frozenset({1021, 1040, 1045, 1114, 1129, 1203, 1290, 1836, 2002, 2003, 2005})
# Answers to a COMMIT that say that it did not happen: deadlock, lock wait, snapshot conflict, read-only server.
_MYSQL_UNDONE_AT_COMMIT = frozenset({1213, 1205, 1020, 1290, 1836})
_MYSQL_DUPLICATE = 1062
_MYSQL_CHECK = frozenset({3819, 4025})

_DUPLICATE_KEY = re.compile(r"for key '(?:[^'.]+\.)?([^'.]+)'$")  # at the end: the value before it may hold anything
_CHECK_NAME = re.compile(r"(?:CONSTRAINT|Check constraint) [`'](?:[^`'.]+\.)?([^`']+)[`']")
_INSERT_TABLE = re.compile(r"(?:INSERT INTO|UPDATE) [`\"]?(\w+)")
_SQLITE_UNIQUE = re.compile(r"UNIQUE constraint failed: (.+)$")
_SQLITE_CHECK = re.compile(r"CHECK constraint failed: (\w+)")


class ConstraintViolated(Exception):
    """A named constraint of ours refused a row. The transaction is rolled back.

    Attributes:
        name: name of the constraint or unique index, e.g. "uq_payment_live_slot".
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Fault(StrEnum):
    """Kinds of database errors."""

    RETRY = "RETRY"            # rolled back; the whole transaction may run again at once
    LOST = "LOST"              # the connection broke: nothing was done, unless it was during the commit
    AWAY = "AWAY"              # no connection, or the server refuses writes
    CONSTRAINT = "CONSTRAINT"  # one of our constraints said no
    UNEXPECTED = "UNEXPECTED"  # a defect of ours


def classify(error: DBAPIError) -> Fault:
    """The kind of an error of aiomysql/PyMySQL or sqlite3."""
    code = _mysql_code(error)
    if code is not None:
        if code in _MYSQL_RETRY:
            return Fault.RETRY
        if code in _MYSQL_LOST:
            return Fault.LOST
        if code in _MYSQL_AWAY:
            return Fault.AWAY
        return Fault.CONSTRAINT if code == _MYSQL_DUPLICATE or code in _MYSQL_CHECK else Fault.UNEXPECTED
    text = str(error.orig)
    if isinstance(error, IntegrityError):
        return Fault.CONSTRAINT
    if "locked" in text or "busy" in text:
        return Fault.RETRY
    if "disk" in text or "readonly" in text or "unable to open" in text:
        return Fault.AWAY
    return Fault.LOST if error.connection_invalidated else Fault.UNEXPECTED


def nothing_committed(error: DBAPIError) -> bool:
    """Whether an error that answers a COMMIT proves that nothing was committed. An interrupted or lost COMMIT proves nothing."""
    code = _mysql_code(error)
    if code is not None:
        return code in _MYSQL_UNDONE_AT_COMMIT
    text = str(error.orig)
    return isinstance(error, IntegrityError) or "locked" in text or "busy" in text or "full" in text


def violated_constraint(error: DBAPIError, metadata: MetaData) -> str:
    """Name of the constraint that refused a row, as our MetaData calls it; "" when it is not one of ours."""
    code = _mysql_code(error)
    text = str(error.orig if code is None else getattr(error.orig, "args", (0, ""))[-1])
    if code == _MYSQL_DUPLICATE:
        found = _DUPLICATE_KEY.search(text)
        name = found[1] if found else ""
        return _primary_key(error, metadata) if name == "PRIMARY" else name
    for pattern in (_CHECK_NAME, _SQLITE_CHECK):
        found = pattern.search(text)
        if found:
            return found[1]
    found = _SQLITE_UNIQUE.search(text)
    return _constraint_of_columns(found[1], metadata) if found else ""


def _mysql_code(error: DBAPIError) -> int | None:
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _primary_key(error: DBAPIError, metadata: MetaData) -> str:
    found = _INSERT_TABLE.search(error.statement or "")
    table = metadata.tables.get(found[1]) if found else None
    return str(table.primary_key.name) if table is not None else ""


def _constraint_of_columns(listed: str, metadata: MetaData) -> str:
    """SQLite names the columns instead of the constraint: "payment.merchant_id, payment.order_id"."""
    names = [part.strip().split(".", 1) for part in listed.split(",")]
    if any(len(name) != 2 for name in names):
        return listed.removeprefix("index '").removesuffix("'")
    table = metadata.tables.get(names[0][0])
    if table is None:
        return ""
    columns = {column for _, column in names}
    if {column.name for column in table.primary_key} == columns:
        return str(table.primary_key.name)
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint) and {column.name for column in constraint.columns} == columns:
            return str(constraint.name)
    for index in table.indexes:
        if index.unique and {column.name for column in index.columns} == columns:
            return str(index.name)
    return ""


