"""Storage: one way to open a database, one way to run a transaction, on MySQL/MariaDB and on
SQLite.

Every unit of work runs whole or not at all, under a time limit, in its own task that no cancelled
call can cut, and again from its start when the database asks for it (deadlock, lock wait, a lost
connection before the commit). What may have been committed is told apart from what was not.
"""

from mesh.db.columns import BigInt, Identifier, UtcMillis, WideInteger, metadata_with_names, one_of
from mesh.db.engine import open_database, open_engine
from mesh.db.transactions import Database, DatabaseBusy, StaleRow, expect_one, insert_if_absent
from mesh.db.violations import ConstraintViolated

__all__ = [
    "BigInt",
    "ConstraintViolated",
    "Database",
    "DatabaseBusy",
    "Identifier",
    "StaleRow",
    "UtcMillis",
    "WideInteger",
    "expect_one",
    "insert_if_absent",
    "metadata_with_names",
    "one_of",
    "open_database",
    "open_engine",
]
