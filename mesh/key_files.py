"""Reads Ed25519 keys from PEM files: the private key of a process, and the directory with the
public keys of all that sign in this mesh.
"""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


def read_private_key(file: Path) -> Ed25519PrivateKey:
    """The private key in a file.

    Raises:
        ValueError: it is not an Ed25519 key.
        OSError: the file cannot be read.
    """
    key = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{file}: not an Ed25519 key")  # noqa: TRY004 - the file is wrong, not our code
    return key


def public_key_files(directory: Path) -> list[Path]:
    """The files of a directory that hold public keys, in order."""
    return sorted(directory.glob("*.pub.pem"))


def read_public_keys(directory: Path) -> dict[str, Ed25519PublicKey]:
    """The public keys of a directory by the name before `.pub.pem`.

    Raises:
        ValueError: a key is not Ed25519, or a name is not that of a service.
        OSError: a file cannot be read.
    """
    keys = {}
    for file in public_key_files(directory):
        name = file.name.removesuffix(".pub.pem")
        key = load_pem_public_key(file.read_bytes())
        if _NAME.fullmatch(name) is None or not isinstance(key, Ed25519PublicKey):
            raise ValueError(f"{file}: expected <service>.pub.pem with an Ed25519 public key")
        keys[name] = key
    return keys
