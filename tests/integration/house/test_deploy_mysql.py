"""The script that makes our databases at the first start of the MySQL image, here on MariaDB."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
from click.testing import CliRunner

from paymesh_cli import paymesh
from paymesh_cli.grants import evidence_of
from paymesh_cli.services import AUDITS
from tools.processes import ROOT
from tools.servers import MariaDB

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
Script = Callable[[], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(own_mariadb: MariaDB, tmp_path: Path) -> Script:
    client = tmp_path / "mysql"
    client.write_text(
        f'#!/bin/sh\nexec mariadb --no-defaults --socket={own_mariadb.folder / "socket"} "$@"\n'
    )
    client.chmod(0o755)
    for service in SERVICES:
        (tmp_path / service).write_text(f"secret-of-{service}\n")
        (tmp_path / f"{service}_migrate").write_text(f"secret-of-{service}_migrate\n")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "deploy/mysql/create-databases.sh"],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "MYSQL_ROOT_PASSWORD": "",
                "INFRASTRUCTURE_DIR": str(tmp_path),
            },
        )

    return run


def users(mariadb: MariaDB) -> set[tuple[str, bool]]:
    """(name, whether it has a password) of our users."""
    with mariadb._cursor() as cursor:
        cursor.execute(
            "SELECT user, authentication_string <> '' FROM mysql.user WHERE user LIKE '%\\_rpc%'"
        )
        return {(name, bool(has_password)) for name, has_password in cursor.fetchall()}


def connect(mariadb: MariaDB, user: str, database: str) -> pymysql.Connection:
    return pymysql.connect(
        host="127.0.0.1",
        port=mariadb.port,
        user=user,
        password=f"secret-of-{user}",
        database=database,
    )


def test_each_service_gets_a_database_that_no_other_can_read(
    own_mariadb: MariaDB, script: Script, tmp_path: Path
) -> None:
    assert script().returncode == 0
    assert users(own_mariadb) == {
        (name, True) for service in SERVICES for name in (service, f"{service}_migrate")
    }
    for service in SERVICES:
        url = f"mysql+aiomysql://{service}_migrate@127.0.0.1:{own_mariadb.port}/{service}?charset=utf8mb4"
        migrated = CliRunner().invoke(
            paymesh,
            [
                "migrate",
                "--var-dir",
                str(tmp_path / "var"),
                "--service",
                service,
                "--grant-to-services",
            ],
            env={
                f"{service.upper()}_DATABASE_URL": url,
                f"{service.upper()}_DATABASE_PASSWORD_FILE": str(tmp_path / f"{service}_migrate"),
            },
        )
        assert migrated.exit_code == 0, migrated.output
    for service in SERVICES:
        with connect(own_mariadb, service, service) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@character_set_database, @@collation_database")
            assert cursor.fetchall() == (("utf8mb4", "utf8mb4_bin"),)
            for table in AUDITS[service].metadata.sorted_tables:
                if table.name not in evidence_of(service):
                    cursor.execute(f"DELETE FROM {table.name}")
                    continue
                for change in (
                    f"DELETE FROM {table.name}",
                    f"UPDATE {table.name} SET {next(iter(table.c)).name} = NULL",
                ):
                    with pytest.raises(pymysql.err.OperationalError, match="denied"):
                        cursor.execute(change)
            for other in set(SERVICES) - {service}:
                with pytest.raises(pymysql.err.OperationalError, match="denied"):
                    cursor.execute(f"SELECT 1 FROM {other}.outbox")
            with pytest.raises(pymysql.err.OperationalError, match="denied"):
                cursor.execute("CREATE TABLE mine (a INT)")
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            pymysql.connect(host="127.0.0.1", port=own_mariadb.port, user=service, password="")


@pytest.mark.drawn(8)
@pytest.mark.parametrize(
    "name", [f"{service}{end}" for service in SERVICES for end in ("", "_migrate")]
)
@pytest.mark.parametrize(
    "content", [None, "", "short", "it's-a-quote-in-a-password", "two words of it are here"]
)
def test_without_every_password_no_user_is_made(
    own_mariadb: MariaDB, script: Script, tmp_path: Path, name: str, content: str | None
) -> None:
    file = tmp_path / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    done = script()
    assert done.returncode != 0
    assert name in done.stderr
    assert users(own_mariadb) == set()
