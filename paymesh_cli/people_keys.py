"""The keys of merchant_rpc that no other process has: with one it signs the tokens of operators,
with the next it protects what people log in with, with the last it finds API keys. Made once; fresh
ones would end every session, every second factor and every API key.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from mesh.key_files import read_private_key
from mesh.token_issuers import OPERATORS
from paymesh_cli.new_keys import create_key_pair, create_once

_KEY_BYTES = 32
_PUBLIC_FILE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleKeyFiles:
    """Files for operator_key_file, totp_key_file and pepper_file; `operator_public` belongs into
    the caller_keys_dir of every service.
    """

    operator: Path
    operator_public: Path
    totp: Path
    pepper: Path


def ensure_people_keys(directory: Path) -> PeopleKeyFiles:
    """Makes what is missing.

    Raises:
        OSError: the directory cannot be written.
        ValueError: the operators' key is not an Ed25519 key.
    """
    files = PeopleKeyFiles(
        operator=directory / f"{OPERATORS.key_id}.pem",
        operator_public=directory / f"{OPERATORS.key_id}.pub.pem",
        totp=directory / "totp.keys",
        pepper=directory / "api_key.peppers",
    )
    directory.mkdir(parents=True, exist_ok=True)
    create_key_pair(files.operator, files.operator_public, public_mode=_PUBLIC_FILE)
    read_private_key(files.operator)  # that of an earlier run may be anything
    for file in (files.totp, files.pepper):
        create_once(file, f"1:{secrets.token_hex(_KEY_BYTES)}\n".encode())
    return files
