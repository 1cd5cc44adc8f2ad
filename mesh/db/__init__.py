"""Opens databases and runs transactions, on MySQL/MariaDB and on SQLite.

Every unit of work is atomic and has a time limit. It runs in its own task, which a cancelled call
does not interrupt. It runs again from its start when the database requires it (deadlock, lock wait,
a lost connection before the commit). Errors tell what may have been committed from what was not.
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
