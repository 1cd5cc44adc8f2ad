"""The file of keys under which credentials of channel accounts are encrypted: made once, found, and
examined. Lost with it are the credentials of all merchants.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mesh.db import open_database
from mesh.errors import MeshError
from payment_rpc.account_keys import KEY_BYTES, new_key_line, read_keys
from payment_rpc.settings import PaymentSettings
from payment_rpc.store import channel_accounts
from payment_rpc.tables import metadata
from paymesh_cli.checks import too_open
from paymesh_cli.findings import Finding, failure, ok, unsafe
from paymesh_cli.new_keys import create_once
from paymesh_cli.supervisor.installation import ACCOUNT_KEYS, Installation

_WHAT = "account keys"


def ensure_account_keys(directory: Path) -> Path:
    """Makes the file where it is missing.

    Raises:
        OSError: the directory cannot be written.
    """
    file = directory / ACCOUNT_KEYS
    create_once(file, new_key_line("1", secrets.token_bytes(KEY_BYTES)).encode())
    return file


def key_file_of(settings: PaymentSettings, installation: Installation) -> Path | None:
    """The file of the settings, else that of the installation; None when there is neither."""
    if settings.account_key_file is not None:
        return settings.account_key_file
    own = installation.account_key_file
    return own if own.exists() else None


async def check_account_keys(
    settings: PaymentSettings, installation: Installation
) -> list[Finding]:
    """Whether the file can be read by us alone, and has every key that is in use."""
    used = await _used_keys(settings.database_url)
    path = key_file_of(settings, installation)
    if path is None:
        return _missing(used, "set PAYMENT_RPC_ACCOUNT_KEY_FILE") if used else []
    try:
        known = read_keys(path)
    except (OSError, ValueError) as problem:
        return [failure(_WHAT, str(problem), "write the file again from your copy")]
    if missing := [key_id for key_id in used if key_id not in known]:
        return _missing(missing, "put their lines back")
    if problems := too_open(path):
        return [unsafe(_WHAT, "; ".join(problems), f"chmod 600 {path}")]
    old = [key_id for key_id in used if key_id != next(iter(known))]
    return [
        ok(
            _WHAT,
            f"{len(known)} keys"
            + (f"; {', '.join(old)} in use: paymesh channels rotate-key" if old else ""),
        )
    ]


def _missing(key_ids: Iterable[str], advice: str) -> list[Finding]:
    text = f"credentials are encrypted under {', '.join(key_ids)}, which nobody has"
    return [failure(_WHAT, text, advice)]


async def _used_keys(database_url: str) -> list[str]:
    """Keys in use; none where the database cannot say: another check tells that."""
    db = open_database(database_url, metadata, pool_size=1)
    try:
        return await db.read(channel_accounts.key_ids)
    except (MeshError, SQLAlchemyError, OSError):
        return []
    finally:
        await db.close()
