"""The keys of merchant_rpc that no other process has: with one it signs the tokens of operators,
with the other it protects what people log in with. Made once; a fresh one would end every session
and every second factor.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.files import write_draft
from mesh.key_files import read_private_key
from mesh.token_issuers import OPERATORS

_KEY_BYTES = 32
_PUBLIC_FILE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleKeyFiles:
    """Files for operator_key_file and totp_key_file; `operator_public` belongs into the
    caller_keys_dir of every service.
    """

    operator: Path
    operator_public: Path
    totp: Path


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
    )
    directory.mkdir(parents=True, exist_ok=True)
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _create_once(files.operator, private)
    # always of the file: an earlier run may have left only the private half
    public = read_private_key(files.operator).public_key()
    _create_once(
        files.operator_public,
        public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        mode=_PUBLIC_FILE,
    )
    _create_once(files.totp, f"1:{secrets.token_hex(_KEY_BYTES)}\n".encode())
    return files


def _create_once(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Writes a file in one step unless there is one. The link fails where another process was
    quicker.
    """
    if path.exists():
        return
    draft = write_draft(path, content, mode=mode)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
