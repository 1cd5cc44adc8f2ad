"""What tests of the runtime share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.echo import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Servers and callers of the echo service, in a folder of certificates and keys."""
    return World(tmp_path)
