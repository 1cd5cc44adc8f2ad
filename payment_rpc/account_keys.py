"""The keys under which credentials of channel accounts are encrypted (AES-256-GCM). They are not in
the database, so whoever reads that cannot act as a merchant at its provider.

A file has one line `id:base64` for each key, 32 bytes, the newest first: it encrypts, all of them
decrypt. Before a line is removed, `paymesh channels rotate-key` encrypts anew what is under it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mesh.files import Reloaded, fixed
from mesh.secret_files import read_named_secrets

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_LINE: Final = re.compile(r"([a-z0-9]{1,16}):([A-Za-z0-9+/]{43}=)", re.ASCII)


class CannotDecrypt(Exception):
    """Credentials cannot be read: their key is gone, or the row was changed. The text has no
    secret.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Encrypted credentials as they are stored.

    Attributes:
        text: nonce and ciphertext, base64.
    """

    key_id: str
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256, in hex: tells whether they were changed."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class AccountKeys:
    """Encrypts and decrypts credentials."""

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
        keys = Reloaded("keys of channel accounts", lambda: read_keys(path), lambda: (path,))
        return cls(keys, random_bytes=random_bytes)

    @classmethod
    def none(cls) -> Self:
        """Encrypts and decrypts nothing."""
        return cls({}, random_bytes=bytes)

    @property
    def first_id(self) -> str:
        """The id of the key that encrypts; "" when there is none."""
        return next(iter(self._keys.get()), "")

    def seal(self, fields: Mapping[str, object], *, account_id: str, provider: str) -> Sealed:
        """Encrypts credentials for one account. They can be read back for that account only.

        Raises:
            CannotDecrypt: there is no key.
        """
        key_id = self.first_id
        if not key_id:
            raise CannotDecrypt("there is no key for credentials: set account_key_file")
        nonce = self._random_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._keys.get()[key_id]).encrypt(
            nonce, msgspec.json.encode(fields), _owner(account_id, provider)
        )
        return Sealed(key_id=key_id, text=base64.b64encode(nonce + sealed).decode())

    def open(self, sealed: Sealed, *, account_id: str, provider: str) -> dict[str, object]:
        """The credentials of an account.

        Raises:
            CannotDecrypt: their key is gone, they were changed, or they are another account's.
        """
        key = self._keys.get().get(sealed.key_id)
        if key is None:
            raise CannotDecrypt(
                f"the key {sealed.key_id!r} of its credentials is not in account_key_file"
            )
        try:
            content = base64.b64decode(sealed.text, validate=True)
            plain = AESGCM(key).decrypt(
                content[:_NONCE_BYTES], content[_NONCE_BYTES:], _owner(account_id, provider)
            )
            return msgspec.json.decode(plain, type=dict[str, object])
        except (InvalidTag, binascii.Error, ValueError):
            raise CannotDecrypt(
                "its credentials were changed in the database, or belong to another account"
            ) from None


def read_keys(path: Path) -> dict[str, bytes]:
    """The keys of a file by id, the newest first. Raises as `AccountKeys.of_file`."""
    return read_named_secrets(path, _read_line, noun="key")


def new_key_line(key_id: str, key: bytes) -> str:
    """A line of the file."""
    return f"{key_id}:{base64.b64encode(key).decode()}\n"


def _read_line(text: str) -> tuple[str, bytes]:
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError(f"is not id:base64 of {KEY_BYTES} bytes")
    return found[1], base64.b64decode(found[2])


def _owner(account_id: str, provider: str) -> bytes:
    return f"{account_id}\n{provider}".encode()
