from __future__ import annotations

import sqlite3
from pathlib import Path

from click.testing import CliRunner, Result

from paymesh_cli import paymesh


def run(tmp_path: Path, *arguments: str, **env: str) -> Result:
    return CliRunner().invoke(
        paymesh, ["migrate", "--var-dir", str(tmp_path / "var"), *arguments], env=env
    )


def revision(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        connection.close()


def test_every_database_gets_the_schema_and_again_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        result = run(tmp_path)
        assert result.exit_code == 0, result.output
        assert result.output.count("up to date") == 4
    assert revision(tmp_path / "var" / "payment_rpc.db")
    assert revision(tmp_path / "var" / "order_rpc.db")


def test_one_service_on_a_given_database(tmp_path: Path) -> None:
    database = tmp_path / "elsewhere.db"
    result = run(
        tmp_path, "--service", "payment_rpc", "--database-url", f"sqlite+aiosqlite:///{database}"
    )
    assert result.exit_code == 0, result.output
    assert revision(database)
    assert not (tmp_path / "var" / "order_rpc.db").exists()


def test_one_url_for_two_services_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "--database-url", "sqlite+aiosqlite:///x.db")
    assert result.exit_code == 2
    assert "--service" in result.output


def test_a_database_that_is_not_there_is_told_without_its_password(
    tmp_path: Path, free_port: int
) -> None:
    for url in (f"mysql+aiomysql://u:hidden@127.0.0.1:{free_port}/d", "nonsense"):
        result = run(tmp_path, "--service", "order_rpc", ORDER_RPC_DATABASE_URL=url)
        assert result.exit_code == 1
        assert "order_rpc" in result.output
        assert "hidden" not in result.output
        assert "Traceback" not in result.output
