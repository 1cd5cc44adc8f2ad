"""A process says NOT_SERVING while what it needs cannot be used, and SERVING again by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from redis import Redis as Administrator
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from mesh import traffic
from mesh.db import Database, DatabaseBusy, open_database
from mesh.dependencies import ANSWER_SECONDS_MAX, UNUSABLE_SECONDS, Dependencies
from mesh.errors import Conflict, Unavailable
from mesh.health import NOT_SERVING, SERVING, Health
from seckill_rpc.redis.connection import RedisCheck, open_admission_redis
from tests.support.accounts import metadata, open_account, opened
from tools.servers import MariaDB, Redis

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


class Stage:
    """What is told, by a clock of its own, about a dependency that the test switches."""

    def __init__(self) -> None:
        self.now = 100.0
        self.problem: BaseException | None = None
        self.told: list[bool] = []
        self.dependencies = Dependencies({"it": self.check}, self.told.append, now=lambda: self.now)

    async def check(self) -> None:
        if self.problem is not None:
            raise self.problem

    async def after(self, seconds: float) -> list[bool]:
        self.now += seconds
        await self.dependencies.ask()
        return self.told


async def test_a_moment_without_an_answer_is_not_told_a_longer_one_is_and_the_first_answer_ends_it() -> (
    None
):
    stage = Stage()
    assert await stage.after(1) == []
    for problem in (Unavailable(), RuntimeError(), ConnectionResetError(), RedisError()):
        stage.told.clear()
        stage.problem = problem
        assert await stage.after(1) == []
        assert await stage.after(UNUSABLE_SECONDS - 1) == []
        assert await stage.after(1) == [False]
        assert await stage.after(100) == [False]
        stage.problem = None
        assert await stage.after(1) == [False, True]
        stage.problem = problem
        await stage.after(UNUSABLE_SECONDS - 1)
        stage.problem = None
        assert await stage.after(1) == [False, True]


@pytest.mark.parametrize("problem", [DatabaseBusy(), Conflict()], ids=repr)
async def test_too_much_work_is_no_outage_and_no_end_of_one(problem: Exception) -> None:
    stage = Stage()
    stage.problem = problem
    assert await stage.after(1) == await stage.after(100) == []
    stage.problem = Unavailable()
    await stage.after(1)
    assert await stage.after(UNUSABLE_SECONDS) == [False]
    stage.problem = problem
    assert await stage.after(100) == [False]


async def test_the_loop_asks_until_it_is_stopped() -> None:
    asked = asyncio.Event()

    async def check() -> None:
        asked.set()

    dependencies = Dependencies({"it": check}, lambda _: None)
    task = asyncio.create_task(dependencies.run())
    await asyncio.wait_for(asked.wait(), 5)
    dependencies.stop()
    await asyncio.wait_for(task, 1)


async def test_a_server_that_stopped_does_not_serve_again_because_its_database_does() -> None:
    health = Health(("x",))

    async def says() -> int:
        return int((await health.Check(health_pb2.HealthCheckRequest(service="x"), None)).status)

    assert await says() == NOT_SERVING
    health.set_usable(False)
    health.serve()
    assert await says() == NOT_SERVING
    health.set_usable(True)
    assert await says() == SERVING
    health.set_usable(False)
    assert await says() == NOT_SERVING
    health.stop_serving()
    health.set_usable(True)
    assert await says() == NOT_SERVING


async def test_a_database_proves_that_it_takes_writes(database_url: str) -> None:
    async with opened(database_url) as db:
        await db.run(open_account)
        for _ in range(3):
            await db.check()


async def test_that_a_database_was_asked_does_not_hurry_the_workers_of_an_idle_process(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "BUSY_SECONDS", 0.0)
    async with opened(database_url) as db:
        hurried, asked = list[bool](), asyncio.Event()
        db.traffic.on_first_change(lambda: hurried.append(True))

        async def check() -> None:
            await db.check()
            asked.set()

        dependencies = Dependencies({"database": check}, lambda _: None)
        task = asyncio.create_task(dependencies.run())
        await asyncio.wait_for(asked.wait(), 20)
        dependencies.stop()
        await task
        assert hurried == []
        await db.run(open_account)
        assert hurried == [True]


async def fails(db: Database) -> bool:
    try:
        await asyncio.wait_for(db.check(), ANSWER_SECONDS_MAX + 10)
    except Unavailable:
        return True
    return False


async def test_a_database_that_is_read_only_or_dead_does_not(own_mariadb: MariaDB) -> None:
    db = open_database(own_mariadb.create_database(), metadata)
    try:
        assert not await fails(db)
        own_mariadb._execute("SET GLOBAL read_only = 1")
        assert await fails(db)
        own_mariadb._execute("SET GLOBAL read_only = 0")
        assert not await fails(db)
        own_mariadb.kill()
        assert await fails(db)
        own_mariadb.start()
        assert not await fails(db)
    finally:
        await db.close()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_file_that_cannot_grow_takes_no_writes(database_url: str) -> None:
    async with opened(database_url) as db:
        async with db.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.execute("PRAGMA query_only = ON")
        assert await fails(db)
        async with db.engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            await driver.execute("PRAGMA query_only = OFF")
        assert not await fails(db)


async def test_a_redis_that_is_dead_or_a_replica_takes_no_clicks_and_a_full_one_still_answers(
    own_redis: Redis,
) -> None:
    async with open_admission_redis(own_redis.url, command_seconds=2) as client:
        ask = RedisCheck(client).ask
        await ask()
        with Administrator(port=own_redis.port) as administrator:
            administrator.config_set("maxmemory", 1)
            with capture_logs() as logs:
                await ask()
            assert [entry["event"] for entry in logs] == ["redis_refuses"]
            administrator.config_set("maxmemory", 0)
            administrator.replicaof("127.0.0.1", 1)
            with pytest.raises(RedisError):
                await ask()
            administrator.replicaof("NO", "ONE")
        await ask()
        own_redis.kill()
        with pytest.raises(RedisError):
            await ask()
        own_redis.start()
        await ask()


async def test_a_redis_with_little_memory_left_is_an_alert(own_redis: Redis) -> None:
    async with open_admission_redis(own_redis.url, command_seconds=2) as client:
        with Administrator(port=own_redis.port) as administrator:
            administrator.config_set(
                "maxmemory", int(administrator.info("memory")["used_memory"] * 1.15)
            )
        with capture_logs() as logs:
            await RedisCheck(client).ask()
        assert [(entry["event"], entry["alert"]) for entry in logs] == [("redis_memory_low", True)]
