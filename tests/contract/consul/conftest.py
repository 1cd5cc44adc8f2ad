"""Who talks to Consul, and its fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders.consul import Stage
from tests.support.fake_consul import FakeConsul, fake_consul


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Everything that talks to an agent."""
    made = Stage(tmp_path)
    async with made.end:
        yield made


@pytest.fixture
async def fake() -> AsyncIterator[FakeConsul]:
    async with fake_consul() as running:
        yield running
