"""What tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from paymesh_cli.supervisor.installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "var").prepare()
