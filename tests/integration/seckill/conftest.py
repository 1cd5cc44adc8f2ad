"""What tests of seckill_rpc share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.builders.seckill_order import SeckillOrderWorld, seckill_order_world


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], redis_url: str
) -> AsyncIterator[SeckillOrderWorld]:
    """seckill_rpc with a real order_rpc. Tests of seckill_rpc alone have a `world` of their own."""
    async with seckill_order_world(
        database_url_factory(), database_url_factory(), redis_url
    ) as world:
        yield world
