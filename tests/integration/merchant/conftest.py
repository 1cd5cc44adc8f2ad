"""What tests of merchant_rpc share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.builders.merchant import MerchantWorld, merchant_world


@pytest.fixture
async def shops(database_url: str) -> AsyncIterator[MerchantWorld]:
    """merchant_rpc on SQLite and on MariaDB."""
    async with merchant_world(database_url) as made:
        yield made
