"""Commands read tables of any size: the statements of their own connections may take long, those of
the services may not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import open_database
from mesh.migrations import upgrade
from order_rpc.tables import metadata
from paymesh_cli.databases import STATEMENT_SECONDS_MAX, open_databases
from paymesh_cli.supervisor.installation import Installation

STATEMENT_SECONDS_OF_SERVICES = 5
SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")


async def limit(tx: AsyncConnection) -> float:
    """Seconds that the server gives a statement of this connection."""
    return float((await tx.execute(text("SELECT @@max_statement_time"))).scalar_one())


async def test_statements_of_commands_may_take_minutes_and_those_of_services_seconds(
    mariadb_url_factory: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PAYMESH_DATABASE_URL", raising=False)
    for service in SERVICES:
        url = mariadb_url_factory()
        await asyncio.to_thread(upgrade, service, url)
        monkeypatch.setenv(f"{service.upper()}_DATABASE_URL", url)
    async with open_databases(Installation(tmp_path / "var")) as databases:
        for db in databases.values():
            for of in (db.read, db.run):
                assert await of(limit) == STATEMENT_SECONDS_MAX >= 120
    db = open_database(url, metadata)
    assert await db.read(limit) == await db.run(limit) == STATEMENT_SECONDS_OF_SERVICES
    await db.close()
