"""What tests of order_rpc share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.builders.order import OrderApp, order_app


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[OrderApp]:
    """order_rpc without a product. Tests that need some have an `app` of their own."""
    async with order_app(database_url) as app:
        yield app
