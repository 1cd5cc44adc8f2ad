"""The mesh of the chaos run: two payment_rpc, two order_rpc, one seckill_rpc, one merchant_rpc,
sandbox and gateway as processes, with a MariaDB of their own, a Redis with a replica, and a link before everything that
they call."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from tests.chaos import clocked
from tests.chaos.links import Link
from tests.e2e.crashes import UNFINISHED
from tests.e2e.mesh_processes import FREE_PORTS, MeshProcesses
from tests.support.processes import Processes
from tools.processes import Process
from tools.servers import MariaDB, Redis

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
REPLICAS = {"payment_rpc": 2, "order_rpc": 2}
START_SECONDS_MAX = 60.0
# Real times, scaled down, so that nothing waits for longer than the run.
TIMES = {
    "PAYMENT_RPC_ATTEMPT_LEASE_SECONDS": "6",
    "PAYMENT_RPC_CHANNEL_TIMEOUT_SECONDS": "4",
    "PAYMENT_RPC_SCAN_INTERVAL_SECONDS": "0.5",
    "ORDER_RPC_SCAN_INTERVAL_SECONDS": "0.5",
    "SECKILL_RPC_SCAN_INTERVAL_SECONDS": "0.5",
    "SECKILL_RPC_RESULT_GRACE_SECONDS": "5",
    "SANDBOX_SLOW_SECONDS": "3",
    "ORDER_RPC_PAYMENT_WINDOW_MINUTES": "600",
}
_UNDELIVERED = {"outbox": "SELECT tag, state, last_error FROM outbox WHERE state <> 'DONE'"}
_UNFINISHED = {
    **UNFINISHED,
    "seckill_rpc": {
        **_UNDELIVERED,
        "receipt": "SELECT resource_id, method FROM receipt WHERE state <> 'DONE'",
    },
    "merchant_rpc": _UNDELIVERED,
}


class ChaosMesh(MeshProcesses):
    """Processes with links between them and clocks that can be set.

    Attributes:
        redis: the primary, to which the links lead.
        redis_replica: follows it until a fault promotes it.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        *,
        mariadb: MariaDB,
        redis: Redis,
        redis_replica: Redis,
    ) -> None:
        self.mariadb = mariadb
        self.redis = redis
        self.redis_replica = redis_replica
        self.links: dict[str, Link] = {}
        urls = {
            f"{service.upper()}_DATABASE_URL": mariadb.create_database() for service in SERVICES
        }
        super().__init__(
            folder,
            processes,
            replicas=REPLICAS,
            env={"PAYMESH_ENVIRONMENT": "test", "PAYMESH_REDIS_URL": redis.url, **TIMES, **urls},
        )
        self.servers = tuple(name for name in self.names if name.partition("-")[0] in SERVICES)

    def link_targets(self) -> dict[str, int]:
        """What a link stands before: the database and the Redis of each service, each server, the
        channel, and the channel's way back.
        """
        running = self.plan.running
        targets = {
            f"{kind} of {name}": port
            for name in self.servers
            for kind, port in (("db", self.mariadb.port), ("redis", self.redis.port))
        }
        for service in SERVICES:
            targets |= {f"grpc to {address}": _port(address) for address in running.grpc[service]}
        return targets | {
            "channel": _port(running.urls["sandbox"]),
            "callbacks": _port(running.urls["gateway"]),
        }

    def launch(self, name: str) -> Process:
        """Starts one process behind its links; does not wait."""
        plan = self._plans[name]
        service = name.partition("-")[0]
        command: tuple[str, ...] = plan.command
        if name in self.servers:
            command = (sys.executable, "-m", clocked.__name__, service)
        self.running[name] = self._processes.command(
            *command,
            env={**self._given, **plan.env, **self._through_links(name, service)},
            name=name,
        )
        return self.running[name]

    async def wait_well(self, *names: str) -> None:
        """Waits until processes answer their probes.

        Raises:
            AssertionError: one has ended, or does not answer within START_SECONDS_MAX.
        """
        for name in names:
            await until(
                partial(self._is_well, name),
                f"health of {name}",
                seconds=START_SECONDS_MAX,
            )

    def check_servers(self, fault: str) -> None:
        """Checks that no server crashed of a fault that should have left it alive, or did not come
        back.
        """
        for process in (self.mariadb.process, self.redis.process, self.redis_replica.process):
            assert process.returncode is None, (
                f"{process.name} ended with {process.returncode} during "
                f"'{fault}'\n{process.log_tail()}"
            )

    async def set_clock(self, name: str, ahead_seconds: float) -> None:
        """Sets the clock of one process to so many seconds ahead of the machine's."""
        file = self._clock_file(name)
        file.write_text(str(ahead_seconds))
        self.running[name].signal(signal.SIGUSR2)
        await until(
            lambda: not file.exists() or self.running[name].returncode is not None,
            f"clock of {name}",
        )

    def issue(self, subject: str, *roles: str) -> str:
        """A user token."""
        return self._issuer.issue(subject, roles=roles or ("user",), lifetime_seconds=12 * 3600)

    def unfinished(self) -> list[str]:
        """Every row that is not final, except orders that wait for their buyer."""
        found: list[str] = []
        for service, url in self.plan.database_urls.items():
            engine = create_engine(_blocking(url))
            with engine.connect() as connection:
                for kind, query in _UNFINISHED[service].items():
                    found += [
                        f"{service}: {kind} {' '.join(map(str, row))}"
                        for row in connection.execute(text(query))
                    ]
            engine.dispose()
        return found

    def orders_of_attempts(self) -> dict[str, str]:
        """Attempt id -> order id, of payments that pay an order."""
        engine = create_engine(_blocking(self.plan.database_urls["payment_rpc"]))
        with engine.connect() as connection:
            rows = connection.execute(
                text("SELECT attempt_id, order_id FROM attempt JOIN payment USING (payment_id)")
            )
            found = {row.attempt_id: row.order_id for row in rows if row.order_id}
        engine.dispose()
        return found

    def audit(self) -> str:
        """What `paymesh audit --strict` complains of; empty when everything holds."""
        command = [
            sys.executable,
            "-m",
            "paymesh_cli",
            "audit",
            "--strict",
            "--var-dir",
            str(self.installation.var_dir),
            "--sandbox-url",
            self.plan.running.urls["sandbox"],
            "--sandbox-key-file",
            str(self.installation.secret_file("sandbox_api")),
        ]
        # the primary of today
        env = {**os.environ, **FREE_PORTS, **self._given, "PAYMESH_REDIS_URL": self.redis.url}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr

    def _through_links(self, name: str, service: str) -> dict[str, str]:
        """The addresses of everything that a process calls, as those of the links."""
        targets = {
            called: [f"127.0.0.1:{self.links[f'grpc to {address}'].port}" for address in addresses]
            for called, addresses in self.plan.running.grpc.items()
        }
        env = {"PAYMESH_STATIC_TARGETS": json.dumps(targets)}
        if name in self.servers:
            url = self.plan.database_urls[service]
            env[f"{service.upper()}_DATABASE_URL"] = url.replace(
                f":{self.mariadb.port}/", f":{self.links[f'db of {name}'].port}/"
            )
            env["PAYMESH_REDIS_URL"] = f"redis://127.0.0.1:{self.links[f'redis of {name}'].port}/0"
            env[clocked.FILE] = str(self._clock_file(name))
        if service == "payment_rpc":
            env["PAYMENT_RPC_SANDBOX_URL"] = f"http://127.0.0.1:{self.links['channel'].port}"
        if service == "sandbox":
            env["SANDBOX_CALLBACK_URL"] = (
                f"http://127.0.0.1:{self.links['callbacks'].port}/api/v1/callbacks/sandbox"
            )
        return env

    def _clock_file(self, name: str) -> Path:
        return self.installation.var_dir / f"{name}.clock"

    async def _is_well(self, name: str) -> bool:
        process = self.running[name]
        assert process.returncode is None, (
            f"{name} ended with {process.returncode}\n{process.log_tail()}"
        )
        return await self._plans[name].probe() == ""


async def until(
    condition: Callable[[], Any], what: str, *, seconds: float = 30.0, pause_seconds: float = 0.1
) -> Any:
    """Asks until the answer is true, while everything else goes on, and returns it. `condition` may
    be a coroutine function.

    Raises:
        AssertionError: not within `seconds`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert loop.time() < deadline, f"no {what} within {seconds} s"
        await asyncio.sleep(pause_seconds)


def _blocking(url: str) -> str:
    return url.replace("mysql+aiomysql", "mysql+pymysql")


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
