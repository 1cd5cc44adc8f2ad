"""The key that protects what people log in with: secrets of authenticator apps are encrypted under
it, refresh tokens are made with it. It is not in the database, so that whoever reads that can
neither make codes nor continue a session.

A file has one line `id:hex` for each key, 32 bytes, the newest first: with that one secrets are
encrypted, with all of them they are read. A line without an id has the id 1. One is retired by
removing its line; people whose secret was encrypted under it enrol again.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.files import Reloaded, fixed
from mesh.secret_files import read_named_secrets

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_LINE: Final = re.compile(r"(?:([a-z0-9]{1,16}):)?([0-9a-f]{64})", re.ASCII)
_FIRST_ID: Final = "1"
_ENCRYPTION, _TOKENS = b"paymesh: secrets of people", b"paymesh: refresh tokens"


class PeopleKey:
    """Encrypts, and makes codes that nobody else can make."""

    def __init__(
        self,
        keys: Mapping[str, bytes] | Reloaded[dict[str, bytes]],
        *,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Takes keys by id, the newest first."""
        self._keys = keys if isinstance(keys, Reloaded) else fixed(dict(keys))
        self._random_bytes = random_bytes

    @classmethod
    def of_file(cls, path: Path, *, random_bytes: Callable[[int], bytes]) -> Self:
        """Reads a file, and reads it again when it changes.

        Raises:
            ValueError: no key, two with one id, or a line of another form.
            OSError: the file cannot be read.
        """
        keys = Reloaded("key of what people log in with", lambda: read_keys(path), lambda: (path,))
        return cls(keys, random_bytes=random_bytes)

    def encrypt(self, secret: str, *, owner: str) -> str:
        """A secret of somebody, in ASCII; it can be read back for the same owner only."""
        key_id, key = next(iter(self._keys.get().items()))
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = _cipher(key).encrypt(nonce, secret.encode(), owner.encode())
        return f"{key_id}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def decrypt(self, text: str, *, owner: str) -> str:
        """What was encrypted.

        Raises:
            ValueError: its key is gone, it was changed, or it is another owner's.
        """
        key_id, _, encoded = text.partition(".")
        key = self._keys.get().get(key_id)
        if key is None:
            raise ValueError(f"there is no key {key_id!r}")
        sealed = base64.urlsafe_b64decode(encoded)
        try:
            return (
                _cipher(key)
                .decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode())
                .decode()
            )
        except InvalidTag:
            raise ValueError("it was changed, or belongs to somebody else") from None

    def code(self, text: str) -> str:
        """43 characters of URLs that nobody can make for a text who has not the newest key."""
        return _code(next(iter(self._keys.get().values())), text)

    def is_code(self, code: str, text: str) -> bool:
        """Whether a code was made for a text with one of the keys."""
        return any(hmac.compare_digest(_code(key, text), code) for key in self._keys.get().values())


def _cipher(key: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, _ENCRYPTION, "sha256"))


def _code(key: bytes, text: str) -> str:
    made = hmac.digest(hmac.digest(key, _TOKENS, "sha256"), text.encode(), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def read_keys(path: Path) -> dict[str, bytes]:
    """The keys of a file by id, the newest first. Raises as `PeopleKey.of_file`."""
    return read_named_secrets(path, _read_line, noun="key")


def _read_line(text: str) -> tuple[str, bytes]:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(f"is not id:hex of {KEY_BYTES} bytes")
    return found[1] or _FIRST_ID, bytes.fromhex(found[2])
