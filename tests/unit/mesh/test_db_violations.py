"""What the numbers of MySQL and MariaDB mean, also those that only a server says which no test
starts.
"""

from __future__ import annotations

import sqlite3

import pytest
from pymysql.err import IntegrityError, OperationalError
from sqlalchemy import MetaData
from sqlalchemy.exc import DBAPIError

from mesh.db.violations import Fault, classify, nothing_committed, violated_constraint

KINDS = {
    Fault.RETRY: {
        1205: "Lock wait timeout exceeded",
        1213: "Deadlock found",
        1020: "Record has changed since last read",
        1317: "Query execution was interrupted",
        1969: "max_statement_time exceeded",
        3024: "maximum statement execution time exceeded",
        3572: "lock(s) could not be acquired immediately",
        3101: "Plugin instructed the server to rollback the current transaction",
    },
    Fault.LOST: {
        1053: "Server shutdown in progress",
        1927: "Connection was killed",
        2006: "MySQL server has gone away",
        2013: "Lost connection during query",
        2014: "Commands out of sync",
        2055: "Lost connection",
        3169: "The session was killed",
        4031: "disconnected because of inactivity",
        1158: "Got an error reading communication packets",
        1161: "Got timeout writing communication packets",
    },
    Fault.MOVED: {
        1290: "running with the --read-only option",
        1792: "Cannot execute statement in a READ ONLY transaction",
        1836: "Running in read-only mode",
        3032: "The server is currently in offline mode",
        1047: "WSREP has not yet prepared node for application use",
    },
    Fault.AWAY: {
        1040: "Too many connections",
        1203: "has already more than max_user_connections",
        1226: "has exceeded the max_user_connections resource",
        1021: "Disk full",
        1114: "The table is full",
        1045: "Access denied",
        1129: "Host is blocked",
        1130: "Host is not allowed",
        1135: "Can't create a new thread",
        2002: "Can't connect",
        2003: "Can't connect",
        2005: "Unknown server host",
        2026: "SSL connection error",
        3159: "Connections using insecure transport are prohibited",
    },
    Fault.CONSTRAINT: {
        1062: "Duplicate entry",
        3819: "Check constraint 'ck_account_balance' is violated.",
        4025: "CONSTRAINT `x` failed",
    },
    Fault.UNEXPECTED: {
        1064: "You have an error in your SQL syntax",
        1142: "INSERT command denied",
        1146: "No such table",
        1406: "Data too long",
    },
}
UNDONE_AT_COMMIT = {1205, 1213, 1020, 3101, 1290, 1792, 1836, 3032}
ALL = [(number, text, kind) for kind, numbers in KINDS.items() for number, text in numbers.items()]


def error(number: int, text: str) -> DBAPIError:
    return DBAPIError(
        "COMMIT",
        None,
        (IntegrityError if number in {1062, 3819} else OperationalError)(number, text),
    )


@pytest.mark.parametrize(("number", "text", "kind"), ALL)
def test_a_number_is_of_its_kind(number: int, text: str, kind: Fault) -> None:
    assert classify(error(number, text)) is kind


@pytest.mark.parametrize(("number", "text", "kind"), ALL)
def test_only_a_refusal_by_the_server_proves_that_a_commit_did_nothing(
    number: int, text: str, kind: Fault
) -> None:
    assert nothing_committed(error(number, text)) is (number in UNDONE_AT_COMMIT)


def test_a_check_of_mysql_8_is_told_by_its_name() -> None:
    assert (
        violated_constraint(
            error(3819, "Check constraint 'ck_account_balance' is violated."), MetaData()
        )
        == "ck_account_balance"
    )


@pytest.mark.parametrize(
    ("text", "kind", "undone_at_commit"),
    [
        ("database is locked", Fault.RETRY, True),
        ("database table is locked: account", Fault.RETRY, True),
        ("database or disk is full", Fault.AWAY, True),
        ("disk I/O error", Fault.AWAY, False),
        ("attempt to write a readonly database", Fault.AWAY, False),
        ("unable to open database file", Fault.AWAY, False),
        ("no such table: account", Fault.UNEXPECTED, False),
    ],
)
def test_a_message_of_sqlite_is_of_its_kind(text: str, kind: Fault, undone_at_commit: bool) -> None:
    problem = DBAPIError("COMMIT", None, sqlite3.OperationalError(text))
    assert (classify(problem), nothing_committed(problem)) == (kind, undone_at_commit)
