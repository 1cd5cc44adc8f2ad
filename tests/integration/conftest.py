"""What every integration test is held to besides what it is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mesh import failpoints
from tests.builders.payment import PaymentWorld, payment_world
from tests.support import listed_errors


@pytest.fixture(scope="session", autouse=True)
def _watched() -> Iterator[None]:
    with listed_errors.watching():
        yield


@pytest.fixture(autouse=True)
def _nothing_unlisted(_watched: None) -> Iterator[None]:
    """No method was refused with a reason that its operation does not list."""
    listed_errors.unlisted.clear()
    yield
    assert sorted(listed_errors.unlisted) == [], (
        "see `methods` in errors.proto and gateway/openapi/refusals.py"
    )


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    """A test may arm failpoints; none is armed after it."""
    yield
    failpoints.arm("", environment="test")


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[PaymentWorld]:
    """payment_rpc and order_rpc, each on a database of its own. Folders of other services have
    another one."""
    async with payment_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        yield world
