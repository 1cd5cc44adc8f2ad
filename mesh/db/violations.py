"""Classifies driver errors: repeat the transaction, a violated constraint, database unavailable, or
unexpected.
"""

from __future__ import annotations

import re
from enum import StrEnum

from sqlalchemy import MetaData, UniqueConstraint
from sqlalchemy.exc import DBAPIError, IntegrityError

# Numbers are of MySQL and MariaDB; MySQL 8 alone says 3024, 3032, 3101, 3169, 3572, 3819 and 4031,
# MariaDB alone 1927, 1969 and 4025.
# Deadlock, lock wait timeout, snapshot conflict, statement time limits, a group that refused the
# commit: all is rolled back, nothing was done.
_MYSQL_RETRY = frozenset({1213, 1205, 1020, 3572, 1317, 1969, 3024, 3101})
# The connection is lost or the server is shutting down: before a commit nothing was done.
_MYSQL_LOST = frozenset(
    {
        1053,
        1077,
        1079,
        1152,
        1158,
        1159,
        1160,
        1161,
        1184,
        1927,
        2006,
        2013,
        2014,
        2045,
        2055,
        3169,
        4031,
    }
)
# The server takes no writes (any more): read-only, offline, or outside of its cluster. By now the
# same name may lead to another server.
_MYSQL_MOVED = frozenset({1047, 1290, 1792, 1836, 3032})
# No connection could be made, or the server has no room: too many connections (of this user), no
# memory, a full disk, TLS that failed.
_MYSQL_AWAY = frozenset(
    {
        1021,
        1037,
        1038,
        1040,
        1041,
        1044,
        1045,
        1049,
        1114,
        1129,
        1130,
        1135,
        1203,
        1206,
        1226,
        1698,
        2002,
        2003,
        2005,
        2026,
        3159,
    }
)
# Answers to a COMMIT that prove that it did not happen: deadlock, lock wait, snapshot conflict,
# read-only server, a group that refused it.
_MYSQL_UNDONE_AT_COMMIT = frozenset({1213, 1205, 1020, 3101}) | (_MYSQL_MOVED - {1047})
_MYSQL_DUPLICATE = 1062
_MYSQL_CHECK = frozenset({3819, 4025})

# at the end of the text: the value before it may contain anything
_DUPLICATE_KEY = re.compile(r"for key '(?:[^'.]+\.)?([^'.]+)'$")
_CHECK_NAME = re.compile(r"(?:CONSTRAINT|Check constraint) [`'](?:[^`'.]+\.)?([^`']+)[`']")
_INSERT_TABLE = re.compile(r"(?:INSERT INTO|UPDATE) [`\"]?(\w+)")
_SQLITE_UNIQUE = re.compile(r"UNIQUE constraint failed: (.+)$")
_SQLITE_CHECK = re.compile(r"CHECK constraint failed: (\w+)")


class ConstraintViolated(Exception):
    """A row violated a named constraint of ours. The transaction is rolled back.

    Attributes:
        name: name of the constraint or unique index, e.g. "uq_payment_live_slot".
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Fault(StrEnum):
    """Kinds of database errors."""

    RETRY = "RETRY"  # rolled back; the whole transaction may run again at once
    # the connection broke: nothing was done, unless it broke during the commit
    LOST = "LOST"
    # the server takes no writes: nothing was done, and a new connection may reach another server
    MOVED = "MOVED"
    AWAY = "AWAY"  # no connection, or the server refuses writes
    CONSTRAINT = "CONSTRAINT"  # one of our constraints was violated
    UNEXPECTED = "UNEXPECTED"  # a defect in our code


def classify(error: DBAPIError) -> Fault:
    """The kind of an error of aiomysql/PyMySQL or sqlite3."""
    fault = classify_driver_error(error.orig)
    if fault is not None:
        return fault
    text = str(error.orig)
    if isinstance(error, IntegrityError):
        return Fault.CONSTRAINT
    if "locked" in text or "busy" in text:
        return Fault.RETRY
    if "disk" in text or "readonly" in text or "unable to open" in text:
        return Fault.AWAY
    return Fault.LOST if error.connection_invalidated else Fault.UNEXPECTED


def classify_driver_error(error: BaseException | None) -> Fault | None:
    """The kind of an error of MySQL by its number; None for one without a number."""
    code = mysql_code(error)
    if code is None:
        return None
    for codes, fault in (
        (_MYSQL_RETRY, Fault.RETRY),
        (_MYSQL_LOST, Fault.LOST),
        (_MYSQL_MOVED, Fault.MOVED),
        (_MYSQL_AWAY, Fault.AWAY),
    ):
        if code in codes:
            return fault
    return (
        Fault.CONSTRAINT if code == _MYSQL_DUPLICATE or code in _MYSQL_CHECK else Fault.UNEXPECTED
    )


def nothing_committed(error: DBAPIError) -> bool:
    """Whether an error that answers a COMMIT proves that nothing was committed. An interrupted or
    lost COMMIT proves nothing.
    """
    code = mysql_code(error.orig)
    if code is not None:
        return code in _MYSQL_UNDONE_AT_COMMIT
    text = str(error.orig)
    return isinstance(error, IntegrityError) or "locked" in text or "busy" in text or "full" in text


def violated_constraint(error: DBAPIError, metadata: MetaData) -> str:
    """Name of the constraint that refused a row, as our MetaData calls it; "" when it is not one of
    ours.
    """
    code = mysql_code(error.orig)
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


def mysql_code(error: BaseException | None) -> int | None:
    """The MySQL error number; None for an error of sqlite3, or of the driver itself."""
    arguments = getattr(error, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _primary_key(error: DBAPIError, metadata: MetaData) -> str:
    found = _INSERT_TABLE.search(error.statement or "")
    table = metadata.tables.get(found[1]) if found else None
    return str(table.primary_key.name) if table is not None else ""


def _constraint_of_columns(listed: str, metadata: MetaData) -> str:
    """SQLite names the columns instead of the constraint: "payment.merchant_id,
    payment.order_id".
    """
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
        if (
            isinstance(constraint, UniqueConstraint)
            and {column.name for column in constraint.columns} == columns
        ):
            return str(constraint.name)
    for index in table.indexes:
        if index.unique and {column.name for column in index.columns} == columns:
            return str(index.name)
    return ""
