"""The price of an activity, in one kind of units."""

from __future__ import annotations

from typing import Any, cast

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.seckill.v1 import activity_pb2

from mesh.errors import InvalidArgument
from mesh.money import Money
from seckill_rpc.servicer.activities import ActivityServicer
from seckill_rpc.usecases.activity_lifecycle.activities import CreateActivity


class Understood(Exception):
    """A request became a command."""


class Activities:
    async def create(self, command: CreateActivity, _caller: Any) -> Any:
        raise Understood(command.price, dict(command.fingerprint))


async def understood(**price: Any) -> tuple[Money, dict[str, str]]:
    """The price and the meaning of a request."""
    servicer = ActivityServicer(activities=cast("Any", Activities()), rebuilder=cast("Any", None))
    request = activity_pb2.CreateActivityRequest(
        sku_id="mug", total=5, ends_at=Timestamp(seconds=2_000_000_000), **price
    )
    try:
        await servicer.CreateActivity(request, None)
    except Understood as command:
        money, meaning = command.args
        return money, meaning
    raise AssertionError


async def test_minor_units_are_the_same_price() -> None:
    assert await understood(price_minor=990) == await understood(price="9.9")
    assert (await understood(price_minor=990, currency="JPY"))[0] == Money(990, "JPY")
    assert await understood(price_minor=990) != await understood(price_minor=991)


@pytest.mark.parametrize("price", [{}, {"price": "9.90", "price_minor": 990}])
async def test_a_price_is_named_exactly_once(price: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await understood(**price)
    assert "price" in refused.value.fields
