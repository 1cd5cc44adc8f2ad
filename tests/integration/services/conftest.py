"""What tests of several services share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.builders.order import OrderApp, order_app


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    """order_rpc, which sells a mug."""
    async with order_app(database_url) as app:
        await app.product("mug", "10.00")
        yield app
