"""The script that makes our databases at the first start of the MySQL image, here on MariaDB."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pymysql
import pytest

from tests.processes import ROOT
from tests.servers import MariaDB


@pytest.fixture
def databases(own_mariadb: MariaDB, tmp_path: Path) -> MariaDB:
    client = tmp_path / "mysql"
    client.write_text(f'#!/bin/sh\nexec mariadb --no-defaults --socket={own_mariadb.folder / "socket"} "$@"\n')
    client.chmod(0o755)
    for service in ("payment_rpc", "order_rpc"):
        (tmp_path / service).write_text(f"secret of {service}")
    done = subprocess.run(["bash", "-euo", "pipefail", ROOT / "deploy/mysql/create-databases.sh"], capture_output=True, text=True, check=False, env={
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "MYSQL_ROOT_PASSWORD": "", "INFRASTRUCTURE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    return own_mariadb


@pytest.mark.parametrize(("service", "other"), [("payment_rpc", "order_rpc"), ("order_rpc", "payment_rpc")])
def test_each_service_gets_a_database_that_the_other_cannot_read(databases: MariaDB, service: str, other: str) -> None:
    with pymysql.connect(host="127.0.0.1", port=databases.port, user=service, password=f"secret of {service}", database=service) as connection, \
            connection.cursor() as cursor:
        cursor.execute("SELECT @@character_set_database, @@collation_database")
        assert cursor.fetchall() == (("utf8mb4", "utf8mb4_bin"),)
        cursor.execute("CREATE TABLE mine (a INT)")
        with pytest.raises(pymysql.err.OperationalError, match="denied"):
            cursor.execute(f"USE {other}")
