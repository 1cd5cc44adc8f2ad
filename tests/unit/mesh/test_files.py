"""Files are replaced in one step, or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mesh.files import replace_file


def test_a_replaced_file_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    replace_file(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_stays_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.mkdir()
    (path / "kept").write_text("old")
    with pytest.raises(OSError):
        replace_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "kept").read_text() == "old"
