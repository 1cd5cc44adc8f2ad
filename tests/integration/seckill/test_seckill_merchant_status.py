"""A merchant that may not sell: its flash sales let nobody in, whoever was in keeps what he has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mesh.errors import MeshError, UpstreamUnavailable
from mesh.merchant_status import MerchantStatus
from seckill_rpc.domain.errors import MerchantNotLive, MerchantSuspended
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.domain.result import ResultCode
from tests.builders.seckill import SeckillWorld, seckill_world
from tests.builders.seckill_front import front


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[SeckillWorld]:
    async with seckill_world(database_url, redis_url) as world:
        await world.open(total=2)
        yield world


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (MerchantStatus.SUSPENDED, MerchantSuspended),
        (MerchantStatus.NOT_LIVE, MerchantNotLive),
        (UpstreamUnavailable("merchant_rpc is away"), UpstreamUnavailable),
    ],
    ids=["suspended", "not live", "unknown"],
)
async def test_nobody_is_let_in(
    world: SeckillWorld, status: MerchantStatus | MeshError, refusal: type[Exception]
) -> None:
    async with front(world) as door:
        before = await door.script_calls()
        door.status = status
        for request_id in ("a", ""):
            with pytest.raises(refusal):
                await door.click(request_id=request_id)
        assert await door.script_calls() == before
        door.status = MerchantStatus.OPEN
        assert (await door.click()).code is ResultCode.QUEUED


async def test_a_cached_refusal_does_not_hide_the_suspension(world: SeckillWorld) -> None:
    async with front(world) as door:
        for user in ("u1", "u2"):
            await door.click(user)
        await world.consume()
        for number in range(3):
            await door.click(f"late{number}")
            door.monotonic.now += 0.1
        door.status = MerchantStatus.SUSPENDED
        with pytest.raises(MerchantSuspended):
            await door.click("later")


async def test_an_earlier_click_finds_its_order(world: SeckillWorld) -> None:
    async with front(world) as door:
        queued = await door.click("u1", "a")
        await world.consume()
        door.status = MerchantStatus.SUSPENDED
        again = await door.click("u1", "a")
        assert (again.code, again.order_id) == (ResultCode.BOUGHT, queued.order_id)
        with pytest.raises(MerchantSuspended):
            await door.click("u1", "b")
        assert (await door.result("u1")).order_id == queued.order_id


async def test_a_ticket_whose_order_is_refused_is_not_served(world: SeckillWorld) -> None:
    world.order_rpc.refuses["u1"] = MerchantSuspended.reason
    async with front(world) as door:
        queued = await door.click("u1", "a")
        await world.consume()
        await world.relay()
        door.status = MerchantStatus.SUSPENDED
        result = await door.result("u1", ticket=queued.ticket)
        assert result.status is BuyerStatus.NEITHER
        assert (await world.row()).sold == 0
        assert world.order_rpc.orders == {}
