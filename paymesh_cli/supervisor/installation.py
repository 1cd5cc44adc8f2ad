"""Manages the files of an installation below var/: its secrets, the lock that admits one
supervisor, and the addresses of the running mesh.

Invariants: a secret is made once and never changed by paymesh, no other user of the machine can
read it, and its file is complete or absent.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from mesh import token_issuers as issuers
from mesh.files import PRIVATE_FILE, replace_file
from payment_rpc.account_keys import KEY_BYTES, new_key_line
from paymesh_cli.new_keys import create_key_pair, create_once

PRIVATE_DIRECTORY = 0o700
# processes with a caller key of their own; the gateway exchanges API keys with it
CALLERS = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc", "gateway")
# its key signs the tokens of operators; merchant_rpc alone has the private half
OPERATORS = issuers.OPERATORS.key_id
SECRETS = (
    "user_token",
    "page_token",
    "redis",
    "sandbox_api",
    "sandbox_callback",
    "seckill_ticket",
    "totp",
)
ACCOUNT_KEYS = "channel_account.keys"
_SECRET_BYTES = 32
_LOCK_ATTEMPTS = 3
_LOCK_PAUSE_SECONDS = 0.05


class InstallationBusy(Exception):
    """Another supervisor runs on this directory."""


class InstallationUnusable(Exception):
    """The directory is not ours to keep secrets in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMesh:
    """The content of `var/mesh.json`, by which `paymesh up` informs the other commands.

    Attributes:
        supervisor_pid: the process to signal.
        urls: name -> base URL, of every HTTP server.
        grpc: service -> addresses "host:port" of its replicas.
        metrics: process -> "host:port".
        pids: process -> its present process id.
        discovery: "static" or "consul".
        redis_url: "" without Redis.
        providers: simulated payment provider -> its base URL; empty when they do not run.
    """

    supervisor_pid: int
    urls: dict[str, str] = field(default_factory=dict)
    grpc: dict[str, list[str]] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    discovery: str = "static"
    redis_url: str = field(default="", repr=False)  # holds a password
    providers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Installation:
    """The directory that contains all files of one installation."""

    var_dir: Path

    @property
    def keys_dir(self) -> Path:
        """Private keys and secrets."""
        return self.var_dir / "keys"

    @property
    def public_keys_dir(self) -> Path:
        """`<service>.pub.pem` of every service that calls others."""
        return self.keys_dir / "public"

    @property
    def log_dir(self) -> Path:
        """One file per process."""
        return self.var_dir / "log"

    @property
    def redis_dir(self) -> Path:
        """Data of our own Redis."""
        return self.var_dir / "redis"

    @property
    def _mesh_file(self) -> Path:
        return self.var_dir / "mesh.json"

    def secret_file(self, name: str) -> Path:
        """The file of one of `SECRETS`."""
        return self.keys_dir / f"{name}.secret"

    @property
    def pepper_file(self) -> Path:
        """Peppers of API keys, see merchant_rpc/peppers.py. Lost with it are all keys."""
        return self.keys_dir / "api_key.peppers"

    @property
    def account_key_file(self) -> Path:
        """Keys of channel accounts, see payment_rpc/account_keys.py. Lost with it are the
        credentials of all accounts.
        """
        return self.keys_dir / ACCOUNT_KEYS

    @property
    def revoked_file(self) -> Path:
        """Revoked user tokens; the file may be absent."""
        return self.keys_dir / "revoked-tokens.jsonl"

    def caller_key_file(self, service: str) -> Path:
        """The Ed25519 private key of a service, PEM."""
        return self.keys_dir / f"{service}.pem"

    def public_key_file(self, service: str) -> Path:
        """The public half, PEM."""
        return self.public_keys_dir / f"{service}.pub.pem"

    def prepare(self) -> Self:
        """Makes missing files and directories. Changes nothing that exists, except permissions that
        are too open.

        Raises:
            InstallationUnusable: the directory belongs to another user, or cannot be written.
        """
        try:
            for directory in (
                self.var_dir,
                self.keys_dir,
                self.log_dir,
                self.redis_dir,
                self.public_keys_dir,
            ):
                directory.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
                directory.chmod(PRIVATE_DIRECTORY)
            for name in SECRETS:
                _create_private(self.secret_file(name), secrets.token_hex(_SECRET_BYTES).encode())
            _create_private(self.pepper_file, f"1:{secrets.token_hex(_SECRET_BYTES)}\n".encode())
            _create_private(
                self.account_key_file, new_key_line("1", secrets.token_bytes(KEY_BYTES)).encode()
            )
            for service in (*CALLERS, OPERATORS):
                private, public = self.caller_key_file(service), self.public_key_file(service)
                create_key_pair(private, public)
                private.chmod(PRIVATE_FILE)
        except OSError as problem:
            raise InstallationUnusable(f"{self.var_dir}: {problem}") from problem
        return self

    def lock(self) -> int:
        """Locks the installation for this process until it ends, in any way. Returns the open file
        descriptor that holds the lock.

        Raises:
            InstallationBusy: another process holds the lock.
        """
        descriptor = os.open(self.var_dir / "up.lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt < _LOCK_ATTEMPTS - 1:
                    time.sleep(_LOCK_PAUSE_SECONDS)  # `running` of a command may hold it
                    continue
                holder = os.read(descriptor, 32).decode().strip()
                os.close(descriptor)
                raise InstallationBusy(
                    f"{self.var_dir}: `paymesh up` is running here already (process "
                    f"{holder or 'unknown'})"
                ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        return descriptor

    def write_running(self, mesh: RunningMesh) -> None:
        """Publishes the addresses of the mesh to other commands."""
        replace_file(self._mesh_file, json.dumps(asdict(mesh), indent=2).encode())

    def clear_running(self) -> None:
        """Removes the published addresses after the mesh has stopped."""
        self._mesh_file.unlink(missing_ok=True)

    def running(self) -> RunningMesh | None:
        """The running mesh, or None when no supervisor runs: a file left by a killed supervisor is
        ignored.
        """
        try:
            descriptor = os.open(self.var_dir / "up.lock", os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # lock held: the file describes a running mesh
        else:
            return None
        finally:
            os.close(descriptor)
        try:
            return RunningMesh(**json.loads(self._mesh_file.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None  # starting, or written by another version


def _create_private(path: Path, content: bytes) -> None:
    """Writes a private file unless it exists, and takes permissions away that are too open."""
    create_once(path, content)
    path.chmod(PRIVATE_FILE)
