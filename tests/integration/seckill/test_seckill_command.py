"""`paymesh seckill` as an operator runs it, against seckill_rpc behind a real port; and seckill_rpc
as it refuses to start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import seckill_rpc.__main__ as process
from mesh import migrations
from mesh.auth import UserTokens
from mesh.clock import SystemClock
from mesh.errors import Unavailable
from mesh.secret_files import read_secret
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from paymesh_cli import paymesh
from paymesh_cli.supervisor.installation import Installation, RunningMesh
from seckill_rpc.redis.connection import UnsafeRedis, open_admission_redis
from seckill_rpc.settings import SeckillSettings
from tests.builders.seckill_order import SeckillOrderWorld, on_one_database
from tools.servers import Redis as RedisServer


@pytest.fixture
async def installation(
    world: SeckillOrderWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Installation]:
    """An installation on which a mesh runs: this process."""
    monkeypatch.delenv("PAYMESH_VAR_DIR", raising=False)
    installation = Installation(tmp_path / "var").prepare()
    lock = installation.lock()
    users = UserTokens.from_secret(
        read_secret(installation.secret_file("user_token")), clock=SystemClock()
    )
    server = MeshServer(
        MeshSettings(
            service="seckill_rpc", environment="test", port=0, var_dir=tmp_path, drain_seconds=0
        ),
        clock=SystemClock(),
        ids=world.ids,
        user_tokens=users,
    )
    world.app.add_to(server)
    await server.start()
    installation.write_running(
        RunningMesh(supervisor_pid=1, grpc={"seckill_rpc": [f"127.0.0.1:{server.port}"]})
    )
    yield installation
    await server.stop(0)
    assert lock


async def run(installation: Installation, *arguments: str) -> Result:
    result: Result = await asyncio.to_thread(
        CliRunner().invoke, paymesh, ["seckill", *arguments, "--var-dir", str(installation.var_dir)]
    )
    return result


@on_one_database
async def test_an_operator_looks_at_activities_and_rebuilds_one(
    world: SeckillOrderWorld, installation: Installation
) -> None:
    assert "no activities" in (await run(installation, "list")).output
    activity = await world.opened(total=7)
    await world.buy(activity, "u1")
    listed = await run(installation, "list")
    assert listed.exit_code == 0, listed.output
    assert all(word in listed.output for word in (activity.activity_id, "mug", "OPEN", "7", "6"))
    rebuilt = await run(installation, "rebuild", activity.activity_id)
    assert rebuilt.exit_code == 0, rebuilt.output
    assert f"epoch {activity.epoch + 1}, 1 holders" in rebuilt.output
    assert (await world.load(activity)).epoch == activity.epoch + 1
    await world.verb("close", activity)
    assert (
        "nothing was rebuilt" in (await run(installation, "rebuild", activity.activity_id)).output
    )
    unknown = await run(installation, "rebuild", "ACT-UNKNOWN")
    assert unknown.exit_code == 1
    assert "ACTIVITY_NOT_FOUND" in unknown.output


def test_a_mesh_without_flash_sale_says_so(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").prepare()
    assert installation.lock()
    installation.write_running(RunningMesh(supervisor_pid=1))
    result = CliRunner().invoke(
        paymesh, ["seckill", "list", "--var-dir", str(installation.var_dir)]
    )
    assert result.exit_code == 1
    assert "without flash sale" in result.output


async def test_seckill_rpc_says_what_to_do_when_it_refuses_to_start(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    url = f"sqlite+aiosqlite:///{tmp_path / 'seckill.db'}"
    await asyncio.to_thread(migrations.upgrade, "seckill_rpc", url)
    with pytest.raises(ValueError, match="PAYMESH_REDIS_URL"):
        await process.run(SeckillSettings(database_url=url))
    with pytest.raises(ValueError, match="ticket_secret_file"):
        await process.run(SeckillSettings(database_url=url, redis_url=own_redis.url))
    settings = SeckillSettings(
        database_url=url,
        redis_url=own_redis.url,
        ticket_secret_file=secret,
        environment="production",
    )
    async with open_admission_redis(own_redis.url) as redis:
        await redis.config_set("appendonly", "no")
        with pytest.raises(UnsafeRedis, match="CONFIG SET appendonly yes"):
            await process.run(settings)
        await process.check_redis(redis, is_durable=False)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(UnsafeRedis, match="CONFIG SET maxmemory-policy noeviction"):
            await process.check_redis(redis, is_durable=False)
        own_redis.kill()
        monkeypatch.setattr(process, "REDIS_PAUSE_SECONDS", 0.001)
        with pytest.raises(Unavailable, match="redis does not answer"):
            await process.check_redis(redis, is_durable=False)
