"""What every integration test is held to besides what it is about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
