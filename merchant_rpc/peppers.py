"""Peppers: secrets with which digests of API keys are made. They are not in the database, so that
whoever reads it cannot tell whether a key is in it.

A file has one line `id:hex` for each, the newest first: with that one new keys are stored, with all
of them keys are found. One is retired by removing its line when no living key has its id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from mesh.api_key_format import stored_digest
from mesh.files import Reloaded, fixed
from mesh.secret_files import read_named_secrets

PEPPER_BYTES_MIN: Final = 32
_LINE: Final = re.compile(r"([a-z0-9]{1,16}):([0-9a-f]{2,1024})", re.ASCII)


class Peppers:
    """The peppers of an installation; every replica has the same."""

    def __init__(self, peppers: Mapping[str, bytes] | Reloaded[dict[str, bytes]]) -> None:
        """Takes secrets by id, the newest first."""
        self._peppers = peppers if isinstance(peppers, Reloaded) else fixed(dict(peppers))

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Reads a file, and reads it again when it changes.

        Raises:
            ValueError: no pepper, one below 32 bytes, two with one id, or a line of another form.
            OSError: the file cannot be read.
        """
        return cls(Reloaded("peppers of API keys", lambda: read_peppers(path), lambda: (path,)))

    def new_digest(self, sha256: bytes) -> tuple[str, str]:
        """Id of the newest pepper, and what is stored of a key, in hexadecimal."""
        pepper_id, pepper = next(iter(self._peppers.get().items()))
        return pepper_id, stored_digest(sha256, pepper).hex()

    def digests(self, sha256: bytes) -> list[str]:
        """What may be stored of a key, by each pepper, in hexadecimal."""
        return [stored_digest(sha256, pepper).hex() for pepper in self._peppers.get().values()]


def read_peppers(path: Path) -> dict[str, bytes]:
    """The peppers of a file by id, the newest first. Raises as `Peppers.of_file`."""
    return read_named_secrets(path, _read_line, noun="pepper")


def _read_line(text: str) -> tuple[str, bytes]:
    found = _LINE.fullmatch(text)
    if found is None or len(found[2]) % 2:
        raise ValueError("is not id:hex")
    if len(found[2]) < 2 * PEPPER_BYTES_MIN:
        raise ValueError(f"has fewer than {PEPPER_BYTES_MIN} bytes")
    return found[1], bytes.fromhex(found[2])
