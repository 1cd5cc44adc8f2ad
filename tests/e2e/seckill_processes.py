"""The flash sale as processes: a MariaDB and a Redis of its own, payment_rpc with its channel,
order_rpc, and as many seckill_rpc as a test needs, each started, armed, frozen, killed and
restarted by itself. Nothing of it is stood in for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from mesh import migrations
from mesh.auth import UserTokenIssuer
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from tests.e2e import seckill_armable
from tests.support.processes import Processes
from tools.processes import Process, free_port
from tools.servers import MariaDB, Redis, server_folder

DATABASES = ("seckill_rpc", "order_rpc", "payment_rpc")
CALLERS = ("seckill_rpc", "order_rpc", "payment_rpc")
BACKS = ("seckill_a", "seckill_b")  # they take clicks and do everything else too
FRONT = "seckill_front"  # only takes clicks; started by scenarios that need it
FRONTS = (*BACKS, FRONT, "seckill_front_2")
SECRET = b"user tokens of a sale in tests, 32 bytes"
API_KEY = b"a" * 32
# longer than it takes until somebody goes on with the rebuild of one who died
GRACE_SECONDS = 5.0
START_SECONDS = 60.0
POLL_SECONDS = 0.02
# Real times, scaled down.
TIMES = {
    "SECKILL_RPC_SCAN_INTERVAL_SECONDS": "0.1",
    "SECKILL_RPC_RESULT_GRACE_SECONDS": str(GRACE_SECONDS),
    "ORDER_RPC_SCAN_INTERVAL_SECONDS": "0.1",
    "PAYMENT_RPC_SCAN_INTERVAL_SECONDS": "0.1",
    "SECKILL_RPC_CLICKS_PER_SECOND": "1000",
    "SECKILL_RPC_CLICKS_BURST": "1000",
    "SECKILL_RPC_REDIS_TIMEOUT_SECONDS": "1.5",
    "SECKILL_RPC_CLOSE_AFTER_END_SECONDS": "600",
    # a long run must not meet the orders of its beginning again, when they expire
    "ORDER_RPC_PAYMENT_WINDOW_MINUTES": "600",
}
CLAIM_MILLISECONDS = 600_000  # longer than a relay's claim and than its longest pause


async def until(condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
    """Asks until the answer is true, while buyers go on, and returns it.

    Raises:
        AssertionError: not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        await asyncio.sleep(POLL_SECONDS)
    return answer


class _EarlyClock(SystemClock):
    """Tokens begin to be valid in the past: some processes under test have a clock that is slow."""

    def now(self) -> datetime:
        return super().now() - timedelta(minutes=15)


class SeckillProcesses:
    """Everything that runs. One set serves many scenarios; each has a product of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Processes(folder / "logs")
        self.mariadb = MariaDB(server_folder())
        self.redis = Redis(server_folder())
        self.running: dict[str, Process] = {}
        clock = _EarlyClock()
        self.users = UserTokenIssuer(SECRET, clock=clock, ids=UlidIds(clock))
        self.addresses = {
            name: f"127.0.0.1:{free_port()}"
            for name in ("sandbox", "payment_rpc", "order_rpc", *FRONTS)
        }
        self.database_urls: dict[str, str] = {}
        self._engines: dict[str, Engine] = {}
        self._env: dict[str, str] = {}

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts what every scenario needs and waits until it serves."""
        self.mariadb.start()
        self.redis.start()
        self._prepare()
        self.run("sandbox", wait=False)
        for name in ("payment_rpc", "order_rpc", *BACKS):
            self.run(name, wait=False)
        for name in ("payment_rpc", "order_rpc", *BACKS):
            self._wait_serving(name)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.dispose()
        self.processes.destroy()
        self.redis.stop()
        self.mariadb.stop()
        self.processes.check_refusals()

    def run(self, name: str, *, wait: bool = True, **env: str) -> Process:
        """Starts a process, with more environment; the one that ran under this name must have
        ended.
        """
        before = self.running.get(name)
        assert before is None or before.returncode is not None, f"{name} runs"
        service = "seckill_rpc" if name.startswith("seckill") else name
        more = {f"{service.upper()}_PORT": self.addresses[name].rpartition(":")[2], **env}
        if name == FRONT or name.startswith(f"{FRONT}_"):
            more.setdefault("SECKILL_RPC_CONSUMERS", "0")
        if service == "seckill_rpc":
            more[seckill_armable.FILE] = str(self._points_file(name))
            self.running[name] = self.processes.command(
                sys.executable,
                "-m",
                seckill_armable.__name__,
                service,
                env={**self._env, **more},
                name=name,
            )
        else:
            self.running[name] = self.processes.module(
                service, env={**self._env, **more}, name=name
            )
        if wait:
            self._wait_serving(name)
        return self.running[name]

    async def run_again(self, name: str, **env: str) -> None:
        """Starts it while buyers go on, and waits until it serves."""
        process = self.run(name, wait=False, **env)
        await until(
            lambda: '"serving"' in process.log_text() or process.returncode is not None,
            f"start of {name}",
            seconds=START_SECONDS,
        )
        assert process.returncode is None, process.log_tail()

    def kill(self, *names: str) -> None:
        """kill -9."""
        for name in names:
            assert self.running[name].returncode is None, f"{name} is dead already"
            self.running[name].kill()

    def end(self, name: str) -> None:
        """Ends a process that only one scenario had."""
        process = self.running.pop(name, None)
        if process is not None:
            process.destroy()

    async def ensure(self) -> None:
        """Whoever is dead is started again, as he is by default."""
        for name in [
            name for name, process in self.running.items() if process.returncode is not None
        ]:
            if name in BACKS or not name.startswith("seckill"):
                await self.run_again(name)

    async def arm(self, name: str, points: str) -> None:
        """Arms crash points of a process that runs, in the words of `failpoints`; returns when they
        are armed.
        """
        file = self._points_file(name)
        file.write_text(points)
        self.running[name].signal(signal.SIGUSR1)
        await until(lambda: not file.exists(), f"arming of {points}")

    async def died(self, name: str, *, seconds: float = 30.0) -> None:
        """Waits until a process has died at its point.

        Raises:
            AssertionError: it lives on: the scenario has tested nothing.
        """
        process = self.running[name]
        await until(lambda: process.returncode is not None, f"death of {name}", seconds=seconds)
        assert process.returncode == -signal.SIGKILL, (
            f"{name} ended with {process.returncode}\n{process.log_tail()}"
        )

    # --- Redis and MariaDB ------------------------------------------------------------------------

    def stock(self) -> redis.Redis:
        """A client of the Redis."""
        return redis.Redis(
            port=self.redis.port,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            decode_responses=True,
        )

    def restart_redis(self, *, keep: bool, data: Path | None = None) -> None:
        """kill -9 and start again: with everything, with nothing, or with what a copy of its folder
        has.
        """
        self.redis.kill()
        if not keep:
            for left in self.redis.folder.iterdir():
                if left.name != "redis.log":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        if data is not None:
            shutil.copytree(data, self.redis.folder, dirs_exist_ok=True)
        self.redis.start()

    def copy_redis(self) -> Path:
        """What a replica that fell behind would have."""
        target = self.folder / f"redis-{time.monotonic_ns()}"
        shutil.copytree(
            self.redis.folder, target, ignore=shutil.ignore_patterns("redis.log", "temp-*")
        )
        return target

    def rows(self, service: str, statement: str, **values: Any) -> list[Any]:
        """What a query says."""
        with self._engines[service].connect() as connection:
            return list(connection.execute(text(statement), values))

    def change(self, service: str, statement: str, **values: Any) -> None:
        """One statement behind the back of a service."""
        with self._engines[service].begin() as connection:
            connection.execute(text(statement), values)

    @contextlib.contextmanager
    def locked(self, service: str, statement: str, **values: Any) -> Iterator[None]:
        """Holds the rows of a SELECT … FOR UPDATE until the end of the block, or of the server."""
        connection = self._engines[service].connect()
        try:
            connection.execute(text(statement), values)
            yield
        finally:
            with contextlib.suppress(DBAPIError):
                connection.close()

    def let_claims_end(self) -> None:
        """Minutes pass for what lies in the outboxes: the times are moved instead of waited for."""
        for service in DATABASES:
            self.change(
                service,
                "UPDATE outbox SET due_at = due_at - :pause WHERE state = 'NEW' AND attempts > 0",
                pause=CLAIM_MILLISECONDS,
            )

    # --- looking ----------------------------------------------------------------------------------

    def log_marks(self) -> dict[Path, int]:
        """Where the logs end now."""
        return {process.log_path: len(process.log_text()) for process in self.processes.started}

    def logged(self, marks: Mapping[Path, int]) -> list[dict[str, Any]]:
        """What seckill_rpc has logged since then."""
        found = []
        for process in self.processes.started:
            if process.name.startswith("seckill"):
                lines = process.log_text()[marks.get(process.log_path, 0) :].splitlines()
                found += [
                    json.loads(line)
                    for line in lines
                    if line.startswith("{") and line.endswith("}")
                ]
        return found

    def log_tails(self) -> str:
        """The ends of the logs of what runs."""
        return "\n\n".join(
            f"{name}\n{process.log_tail(15)}" for name, process in self.running.items()
        )

    # --- preparing --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        keys = self.folder / "keys"
        keys.mkdir(parents=True)
        env = {
            "PAYMESH_ENVIRONMENT": "test",
            "PAYMESH_VAR_DIR": str(self.folder),
            "PAYMESH_REDIS_URL": self.redis.url,
            "PAYMESH_CALLER_KEYS_DIR": str(keys),
            "PAYMENT_RPC_SANDBOX_URL": f"http://{self.addresses['sandbox']}",
            "PAYMESH_STATIC_TARGETS": json.dumps(
                {
                    "payment_rpc": [self.addresses["payment_rpc"]],
                    "order_rpc": [self.addresses["order_rpc"]],
                    "seckill_rpc": [self.addresses[name] for name in BACKS],
                }
            ),
            **TIMES,
        }
        for name, setting, secret in [
            ("user", "PAYMESH_USER_TOKEN_SECRET_FILE", SECRET),
            ("page", "PAYMESH_PAGE_TOKEN_SECRET_FILE", b"p" * 32),
            ("ticket", "SECKILL_RPC_TICKET_SECRET_FILE", b"t" * 32),
            ("api", "SANDBOX_API_KEY_FILE", API_KEY),
        ]:
            (self.folder / f"{name}.secret").write_bytes(secret)
            env[setting] = str(self.folder / f"{name}.secret")
        env["PAYMENT_RPC_SANDBOX_API_KEY_FILE"] = env["SANDBOX_API_KEY_FILE"]
        for service in CALLERS:
            key = Ed25519PrivateKey.generate()
            (self.folder / f"{service}.pem").write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            (self.folder / f"{service}.pem").chmod(0o600)
            (keys / f"{service}.pub.pem").write_bytes(
                key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            )
            env[f"{service.upper()}_CALLER_KEY_FILE"] = str(self.folder / f"{service}.pem")
        for service in DATABASES:
            url = self.mariadb.create_database()
            migrations.upgrade(service, url)
            env[f"{service.upper()}_DATABASE_URL"] = self.database_urls[service] = url
            self._engines[service] = create_engine(
                url.replace("mysql+aiomysql", "mysql+pymysql"), pool_size=2, pool_pre_ping=True
            )
        self._env = env

    def _wait_serving(self, name: str) -> None:
        if name == "sandbox":
            self.running[name].wait_for_port(
                int(self.addresses[name].rpartition(":")[2]), START_SECONDS
            )
        else:
            self.running[name].wait_for_log('"serving"', START_SECONDS)

    def _points_file(self, name: str) -> Path:
        return self.folder / f"{name}.points"
