"""What a new connection of MySQL or MariaDB is told, also of a server that no test starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mesh.db.engine import _prepare_mysql


class Connection:
    """Remembers statements, and says of which version it is."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.statements: list[str] = []

    def cursor(self) -> Connection:
        return self

    def execute(self, statement: str) -> None:
        self.statements.append(statement)

    def fetchone(self) -> tuple[object, ...]:
        return (self.version, "host", 3306, 7)

    def close(self) -> None:
        """Nothing to close."""

    def run_async(self, _do: Any) -> None:
        """Nothing to run."""


@pytest.mark.parametrize(
    ("version", "limit"),
    [
        ("8.4.2", "max_execution_time=2500"),  # milliseconds
        ("10.11.6-MariaDB-1", "max_statement_time=2.5, idle_of_writers"),  # seconds
    ],
)
def test_the_limit_of_a_statement_is_given_in_the_unit_of_its_server(
    version: str, limit: str
) -> None:
    connection = Connection(version)
    _prepare_mysql(2.5, of_mariadb=", idle_of_writers")(connection, SimpleNamespace(info={}))
    [settings] = [
        statement for statement in connection.statements if statement.startswith("SET SESSION")
    ]
    assert settings.endswith(limit)
    assert "sql_mode='STRICT_ALL_TABLES," in settings
