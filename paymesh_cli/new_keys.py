"""Makes keys once: a file is complete or absent, and never changed afterwards."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.files import PRIVATE_FILE, write_draft
from mesh.key_files import read_private_key


def create_once(path: Path, content: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Writes a file unless it exists. The link makes it appear complete, and fails when another
    process was faster.

    Raises:
        OSError: the directory cannot be written.
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


def create_key_pair(private: Path, public: Path, *, public_mode: int = PRIVATE_FILE) -> None:
    """Makes an Ed25519 key and its public half, PEM, where they are missing. The public half is
    always of the file: a crash may have left only the private one.

    Raises:
        OSError: a directory cannot be written.
        ValueError: what is in `private` is no Ed25519 key.
    """
    create_once(
        private,
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    if not public.exists():
        create_once(
            public,
            read_private_key(private)
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            mode=public_mode,
        )
