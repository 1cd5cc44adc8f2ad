"""The real sandbox, and payment_rpc's adapter to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from payment_rpc.channels.sandbox.channel import SandboxChannel
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    PATIENCE,
    Receiver,
    RunningSandbox,
    adapter_to,
    running_receiver,
    running_sandbox,
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def running(tmp_path: Path, clock: FakeClock) -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(tmp_path, clock=clock) as server:
        yield server


@pytest.fixture
async def channel(running: RunningSandbox) -> AsyncIterator[SandboxChannel]:
    adapter = running.channel()
    yield adapter
    await adapter.aclose()


@pytest.fixture
def adapter() -> SandboxChannel:
    """An adapter that calls nobody."""
    return adapter_to("http://127.0.0.1:1")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A shop that takes callbacks."""
    async with running_receiver() as shop:
        yield shop


@pytest.fixture
async def person(running: RunningSandbox) -> AsyncIterator[httpx.AsyncClient]:
    """A buyer's browser."""
    async with httpx.AsyncClient(
        trust_env=False, follow_redirects=True, timeout=PATIENCE
    ) as client:
        yield client
