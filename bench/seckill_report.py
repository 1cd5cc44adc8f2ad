"""The flash sale's part of `make bench`: starts what each measurement needs, prints each number
beside its limit.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import uvloop
from rich.console import Console
from rich.table import Table

from bench import seckill, seckill_drain
from tools.servers import MariaDB, Redis, server_folder

ROUNDS, ROUNDS_QUICK = 15, 3
LINE, LINE_QUICK = 100_000, 20_000  # buyers in the queue
QUEUED, QUEUED_QUICK = 50_000, 5_000
CONSUMERS = (1, 2)
console = Console()


class Part(Protocol):
    """One measurement."""

    def __call__(self, *, quick: bool) -> None:
        """Takes it and prints it; quick, to see that it works."""
        ...


@dataclass(frozen=True, slots=True)
class _World:
    folder: Path
    redis: Redis
    mariadb: MariaDB


@contextmanager
def _world() -> Iterator[_World]:
    """A Redis and a MariaDB of this measurement alone."""
    redis, mariadb = (
        Redis(server_folder()),
        MariaDB(Path(tempfile.mkdtemp(prefix="paymesh-bench-"))),
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "secret").write_text(secrets.token_hex(32))
            yield _World(Path(folder), redis.start(), mariadb.start())
    finally:
        mariadb.stop()
        redis.stop()


def _action(*, quick: bool) -> None:
    with (
        _world() as world,
        console.status("SeckillAction: bare echo, pipeline, selling, sold out; in turn"),
    ):
        report = uvloop.run(
            seckill.measure_action(
                world.folder, world.redis.url, rounds=ROUNDS_QUICK if quick else ROUNDS
            )
        )
    table = Table(
        "SeckillAction, 10 000 buyers and tokens, one process",
        "calls/s",
        "of echo",
        "server CPU µs/call",
        "added µs",
        "goal",
    )
    names = {
        "echo": "bare grpc.aio echo (the limit)",
        "pipeline": "whole pipeline, fixed answer",
        "selling": "selling",
        "sold out": "sold out",
    }
    goals = {"selling": "≥ 0.80, added ≤ 35 µs", "sold out": "≥ 0.95, added ≤ 35 µs"}
    for name, (rate, ratio, cost, added) in report.arms.items():
        table.add_row(
            names[name],
            f"{rate:.0f}",
            f"{ratio:.2f}",
            f"{cost:.0f}",
            f"{added:+.0f}",
            goals.get(name, ""),
        )
    console.print(table)
    table = Table("Redis while sold out, one process", "per second", "goal")
    table.add_row(
        "admission scripts",
        f"{report.scripts_per_second:.1f}",
        f"≤ {seckill.CALLS_MAX / seckill.FLAG_SECONDS_MIN:.0f}: calls at once ÷ shortest life of "
        f"a flag, at any rate of clicks",
    )
    table.add_row("all commands", f"{report.commands_per_second:.1f}", "")
    console.print(table)


def _drain(*, quick: bool) -> None:
    buyers = LINE_QUICK if quick else LINE
    with (
        _world() as world,
        console.status(
            f"A line of {buyers:,} buyers, drained by consumers and by a bare loop; in turn"
        ),
    ):
        reports = uvloop.run(
            seckill_drain.measure_drain(
                world.redis.url, world.mariadb.create_database(), buyers=buyers, consumers=CONSUMERS
            )
        )
    table = Table(
        f"{buyers:,} buyers in the queue to durable orders and published results",
        "orders/s",
        "of bare",
        "CPU µs/order",
        "goal",
    )
    for report in reports:
        of = f"{report.consumers} at once, one process"
        table.add_row(
            f"bare loop, {of} (the limit)",
            f"{report.bare:.0f}",
            "1.00",
            f"{report.bare_cpu:.0f}",
            "",
        )
        table.add_row(
            f"consumers, {of}",
            f"{report.ours:.0f}",
            f"{report.ours / report.bare:.2f}",
            f"{report.ours_cpu:.0f}",
            "≥ 20 000, ≥ 0.60",
        )
    console.print(table)


def _orders(*, quick: bool) -> None:
    with _world() as world, console.status("CreateSeckillOrders"):
        rates = uvloop.run(
            seckill_drain.measure_orders(world.mariadb.create_database(), rounds=1 if quick else 3)
        )
    table = Table("CreateSeckillOrders of 500 on MariaDB", "orders/s")
    for calls, rate in rates.items():
        table.add_row(f"{calls} calls at once", f"{rate:.0f}")
    console.print(table)


def _wait(*, quick: bool) -> None:
    with _world() as world, console.status("From a click to its order"):
        report = uvloop.run(
            seckill.measure_wait(
                world.folder,
                world.redis.url,
                world.mariadb.create_database(),
                seconds=1 if quick else 5,
            )
        )
    table = Table(
        "SeckillAction with wait_ms, one process that admits and consumes, MariaDB", "", "goal"
    )
    table.add_row("clicks to final results, all it can", f"{report.capacity:.0f}/s", "")
    table.add_row("offered", f"{report.offered:.0f}/s", "half")
    table.add_row("until the final result, p50", f"{report.p50_seconds * 1000:.0f} ms", "")
    table.add_row("until the final result, p99", f"{report.p99_seconds * 1000:.0f} ms", "≤ 250 ms")
    console.print(table)


def _rebuild(*, quick: bool) -> None:
    live, queued = (LINE_QUICK, QUEUED_QUICK) if quick else (LINE, QUEUED)
    with _world() as world, console.status("Rebuild"):
        of_live, of_queued = uvloop.run(
            seckill_drain.measure_rebuild(
                world.redis.url, world.mariadb.create_database(), live=live, queued=queued
            )
        )
    table = Table("Rebuild", "seconds")
    table.add_row(f"{live:,} live orders", f"{of_live:.2f}")
    table.add_row(f"{queued:,} buyers in the queue", f"{of_queued:.2f}")
    console.print(table)


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "seckill-action": _action,
        "seckill-drain": _drain,
        "seckill-orders": _orders,
        "seckill-wait": _wait,
        "seckill-rebuild": _rebuild,
    }
)
