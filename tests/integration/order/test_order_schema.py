"""The schema of order_rpc: what migrations make is what the code was written for, and a service
does not start on anything else.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from mesh import migrations, schema_versions
from mesh.errors import Unavailable
from order_rpc.tables import metadata
from tests.support.fakes import EPOCH


def on_connection(url: str, work: Callable[[Connection], Any]) -> Any:
    async def run() -> Any:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def test_text_of_any_script_and_ids_of_any_case_survive_on_a_server_with_other_defaults(
    mariadb_url_factory,
) -> None:
    url = mariadb_url_factory()
    name = url.rpartition("/")[2].partition("?")[0]
    on_connection(
        url,
        lambda connection: connection.execute(
            text(f"ALTER DATABASE {name} CHARACTER SET latin1 COLLATE latin1_swedish_ci")
        ),
    )
    migrations.upgrade("order_rpc", url)

    def fill(connection: Connection) -> list:
        product = metadata.tables["product"]
        for sku_id in ("mug", "MUG"):
            connection.execute(
                product.insert().values(
                    merchant_id="mall",
                    sku_id=sku_id,
                    name="茶杯 ☕",
                    price_minor=1,
                    currency="CNY",
                    first_available=1,
                    created_at=EPOCH,
                    updated_at=EPOCH,
                )
            )
        return list(connection.execute(product.select().order_by(product.c.sku_id)))

    rows = on_connection(url, fill)
    assert [(row.sku_id, row.name) for row in rows] == [("MUG", "茶杯 ☕"), ("mug", "茶杯 ☕")]


def test_a_database_of_another_revision_is_refused_with_the_command_to_run(
    database_url: str,
) -> None:
    async def check() -> None:
        engine = create_async_engine(database_url)
        try:
            await schema_versions.check_current("order_rpc", engine)
        finally:
            await engine.dispose()

    with pytest.raises(Unavailable, match="paymesh migrate"):
        asyncio.run(check())
    migrations.upgrade("order_rpc", database_url)
    asyncio.run(check())


def test_the_process_refuses_to_start_without_its_schema_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "page_token.secret"
    secret.write_text("p" * 32)
    environment = {
        "PATH": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PAYMESH_VAR_DIR": str(tmp_path),
        "PAYMESH_PAGE_TOKEN_SECRET_FILE": str(secret),
        "ORDER_RPC_PORT": "0",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "order_rpc"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "order_rpc: the database of order_rpc is at revision None" in ended.stderr
    assert "paymesh migrate" in ended.stderr
    assert "Traceback" not in ended.stderr
