"""What a whole mesh costs that nobody uses: `paymesh up` with its Redis, its sandbox and its
supervisor, and many activities that sell nothing.

    python -m bench.idle [--activities N] [--seconds S]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from bench.machine import cpu_seconds
from mesh.auth import UserTokenIssuer
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.secret_files import read_secret
from paymesh_cli.supervisor.installation import Installation, RunningMesh

START_SECONDS_MAX = 120.0
ATTEMPTS = 60
SETTLE_SECONDS = 20.0  # what the last purchases have left to do is done by then
_FREE_PORTS = {
    f"{name}_PORT": "0"
    for name in ("GATEWAY", "PAYMENT_RPC", "ORDER_RPC", "SECKILL_RPC", "SANDBOX")
}
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it took, per second: CPU of each process in shares of one core, and commands that its
    Redis served.
    """

    cpu: Mapping[str, float]
    redis_commands: float
    commands: Mapping[str, float]

    @property
    def cpu_of_all(self) -> float:
        """Of one core."""
        return sum(self.cpu.values())


def measure(*, activities: int, seconds: float) -> Cost:
    """Runs a mesh on free ports in a folder of its own, with a third of the activities sold out, a
    third paused and a third not begun.
    """
    with (
        tempfile.TemporaryDirectory(prefix="paymesh-idle-") as folder,
        _mesh(Path(folder) / "var") as (supervisor, running),
    ):
        _prepare(Path(folder) / "var", running, activities)
        time.sleep(SETTLE_SECONDS)
        pids = {"supervisor": supervisor, **running.pids}
        with Redis.from_url(running.redis_url, decode_responses=True) as redis:
            before, served = {name: cpu_seconds(pid) for name, pid in pids.items()}, _served(redis)
            began = time.monotonic()
            time.sleep(seconds)
            took = time.monotonic() - began
            cpu = {name: (cpu_seconds(pid) - before[name]) / took for name, pid in pids.items()}
            commands = {
                name: (count - served.get(name, 0)) / took
                for name, count in _served(redis).items()
                if count > served.get(name, 0)
            }
    commands.pop("info", None)
    return Cost(cpu=cpu, commands=commands, redis_commands=sum(commands.values()))


@contextmanager
def _mesh(var: Path) -> Iterator[tuple[int, RunningMesh]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "paymesh_cli", "up"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **_FREE_PORTS, "PAYMESH_VAR_DIR": str(var)},
    )
    try:
        yield process.pid, _wait_ready(var)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _wait_ready(var: Path) -> RunningMesh:
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end:
        try:
            running = Installation(var).running()
            if (
                running is not None
                and httpx.get(f"{running.urls['gateway']}/readyz", trust_env=False).status_code
                == httpx.codes.OK
            ):
                return running
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.2)
    raise TimeoutError("the mesh did not start")


def _prepare(var: Path, running: RunningMesh, activities: int) -> None:
    clock = SystemClock()
    issuer = UserTokenIssuer(
        read_secret(Installation(var).secret_file("user_token")), clock=clock, ids=UlidIds(clock)
    )
    merchant, buyer = issuer.issue("merchant", roles=["merchant"]), issuer.issue("buyer")
    now = datetime.now(UTC)
    with httpx.Client(base_url=running.urls["gateway"], trust_env=False, timeout=20) as client:

        def call(path: str, body: Mapping[str, Any], token: str) -> Any:
            for _ in range(ATTEMPTS):
                answer = client.post(path, json=body, headers={"authorization": f"Bearer {token}"})
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # a service that starts
                    break
                time.sleep(0.5)
            answer.raise_for_status()
            return answer.json()["data"]

        for number in range(activities):
            sku, kind = f"SKU-{number}", number % 3
            call(
                "/api/v1/products",
                {"sku_id": sku, "name": "A mug", "price": "10.00", "available": 10},
                merchant,
            )
            window = (
                {
                    "starts_at": f"{now + timedelta(days=3650):{_TIME}}",
                    "ends_at": f"{now + timedelta(days=3660):{_TIME}}",
                }
                if kind == 0
                else {"ends_at": f"{now + timedelta(days=1):{_TIME}}"}
            )
            activity = call(
                "/api/v1/seckill/activities",
                {"sku_id": sku, "price": "9.90", "total": 1, **window},
                merchant,
            )["activity_id"]
            call(f"/api/v1/seckill/activities/{activity}/publish", {}, merchant)
            if kind == 1:
                time.sleep(0.3)  # one buyer may click so often
                call("/api/v1/seckill/action", {"sku_id": sku, "wait_ms": 2000}, buyer)
            elif kind == 2:
                call(f"/api/v1/seckill/activities/{activity}/pause", {}, merchant)


def _served(redis: Redis) -> dict[str, int]:
    stats: Any = redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in stats.items()}


def main() -> None:
    """Prints what each process and each Redis command costs."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle")
    parser.add_argument("--activities", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    cost = measure(activities=arguments.activities, seconds=arguments.seconds)
    for name, share in sorted(cost.cpu.items(), key=lambda each: -each[1]):
        print(f"{name:<14} {share:7.2%}")
    print(f"{'all':<14} {cost.cpu_of_all:7.2%} of a core")
    print(
        f"{cost.redis_commands:.1f} Redis commands/s:",
        ", ".join(f"{name} {rate:.1f}" for name, rate in sorted(cost.commands.items())),
    )


if __name__ == "__main__":
    main()
