"""`paymesh stats rebuild` on an installation of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner
from sqlalchemy import update

from mesh import migrations
from order_rpc.app import RETRY_CONSTRAINTS
from order_rpc.tables import STATISTIC, metadata
from paymesh_cli import paymesh
from paymesh_cli.supervisor.plan import SERVERS
from tests.builders.order import OrderApp
from tests.support.databases import open_patiently


def run(folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(paymesh, ["stats", "rebuild", "--var-dir", str(folder)])
    return result.exit_code, result.output


def test_figures_are_counted_again_and_the_result_is_told(tmp_path: Path) -> None:

    code, output = run(tmp_path)
    assert code == 2
    assert "paymesh migrate" in output
    for service in SERVERS:
        migrations.upgrade(service, f"sqlite+aiosqlite:///{tmp_path}/{service}.db")

    async def shop() -> None:
        db = open_patiently(
            f"sqlite+aiosqlite:///{tmp_path}/order_rpc.db",
            metadata,
            retry_constraints=RETRY_CONSTRAINTS,
        )
        app = OrderApp(db)
        await app.product()
        for _ in range(3):
            await app.paid_order()
        await app.statistics.fold_once()
        await app.execute(update(STATISTIC).where(STATISTIC.c.figure == "PAID").values(count=1))
        await db.close()

    asyncio.run(shop())
    code, output = run(tmp_path)
    assert code == 0
    assert "3/3" in output
    assert "1 figures were wrong" in output
    code, output = run(tmp_path)
    assert (code, output.splitlines()[-1]) == (0, "every figure was right")
