"""Peppers of API keys, and how one takes over from another."""

from __future__ import annotations

from pathlib import Path

import pytest

from merchant_rpc.peppers import Peppers, read_peppers
from mesh.api_key_format import stored_digest

OLD, NEW = "11" * 32, "22" * 32
SHA256 = b"s" * 32


def test_the_newest_stores_and_all_of_them_find(tmp_path: Path) -> None:
    file = tmp_path / "peppers"
    file.write_text(f"2:{NEW}\n1:{OLD}\n")
    peppers = Peppers.of_file(file)
    newest, oldest = (stored_digest(SHA256, bytes.fromhex(pepper)).hex() for pepper in (NEW, OLD))
    assert peppers.new_digest(SHA256) == ("2", newest)
    assert peppers.digests(SHA256) == [newest, oldest]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n\n",
        NEW,
        f"1:{NEW[:-2]}",
        f"1:{NEW}0",
        f"1:{NEW}\n1:{OLD}",
        f"1:{'zz' * 32}",
        f"one two:{NEW}",
        f":{NEW}",
        f"1:{NEW}\nnonsense",
    ],
)
def test_a_file_of_another_form_is_refused_without_its_secrets(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "peppers"
    file.write_text(content)
    with pytest.raises(ValueError, match="peppers") as refusal:
        read_peppers(file)
    assert NEW[:-2] not in str(refusal.value)


def test_a_short_pepper_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "peppers"
    file.write_text(f"1:{NEW[:-2]}")
    with pytest.raises(ValueError, match="fewer than 32 bytes"):
        read_peppers(file)
