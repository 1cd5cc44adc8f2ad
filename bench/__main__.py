"""`make bench`: prints every measurement beside its limit. Private servers on free ports, nothing
left behind.

    python -m bench [PART…]    rpc, keys, charge, webhooks, statements, orders, searches, idle, seckill (or seckill-action, seckill-drain, seckill-orders, seckill-wait, seckill-rebuild)
    python -m bench --quick    flash sales with fewer rounds and shorter lines, to see that it works; its numbers mean little
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench import (
    charge,
    http,
    idle,
    keys,
    orders,
    rpc,
    searches,
    seckill_report,
    statements,
    webhooks,
)
from bench.machine import describe
from bench.processes import Server, server, wait_for_http
from bench.servers import SECRET_FILE
from mesh import logs
from tools.processes import free_port
from tools.servers import MariaDB, Redis, server_folder

IDLE_ACTIVITIES = 30
console = Console()


def main() -> None:
    """The parts that were named, or all, in order."""
    parts: dict[str, seckill_report.Part] = {
        "rpc": _rpc,
        "keys": _keys,
        "charge": _charge,
        "webhooks": _webhooks,
        "statements": _statements,
        "orders": _orders,
        "searches": _searches,
        "idle": _idle,
        **seckill_report.PARTS,
    }
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Prints every measurement beside its limit."
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"of {', '.join([*parts, 'seckill'])}; all of them by default",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter lines")
    arguments = parser.parse_args()
    chosen = [
        part
        for name in arguments.parts or parts
        for part in (seckill_report.PARTS if name == "seckill" else [name])
    ]
    if unknown := set(chosen) - set(parts):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    logs.configure("bench", "ERROR", json=False)
    console.print(f"paymesh bench on {describe()}")
    for name in chosen:
        parts[name](quick=arguments.quick)


def _rpc(*, quick: bool) -> None:
    del quick
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        secret_file = Path(folder) / "secret"
        secret_file.write_text(secrets.token_hex(32))
        environment = {SECRET_FILE: str(secret_file), "PAYMESH_VAR_DIR": folder}
        tokens = rpc.make_tokens(secret_file)
        redis = Redis(server_folder())
        stack.callback(redis.stop)
        environment["BENCH_REDIS_URL"] = redis.start().url
        servers = [
            stack.enter_context(server(kind, environment))
            for kind in ("echo", "pipeline", "payment", "cached")
        ]
        with console.status("RPC: bare echo, pipeline, real reads; in turn"):
            _report_rpc(uvloop.run(rpc.measure(servers, tokens)))
        upstream = servers[1]
        fronts = [
            stack.enter_context(
                server("passthrough", {**environment, "BENCH_UPSTREAM_PORT": str(upstream.port)})
            ),
            stack.enter_context(_gateway(upstream, environment)),
        ]
        with console.status("HTTP: pass-through and gateway; in turn"):
            _report_http(uvloop.run(http.measure(fronts, tokens)))


def _keys(*, quick: bool) -> None:
    del quick
    with console.status(f"API keys: {keys.KEYS:,} of them, gateway and merchant_rpc"):
        report = keys.measure()
    table = Table(
        "Gateway, 100 callers, warm",
        "requests/s",
        "CPU µs/request",
        "more",
        "goal",
        "with renewals",
    )
    rate, cost = report.with_token
    table.add_row("with a JWT", f"{rate:.0f}", f"{cost:.1f}", "", "", "")
    rate, cost = report.with_key
    table.add_row(
        "with an API key",
        f"{rate:.0f}",
        f"{cost:.1f}",
        f"{report.more:+.1f}",
        "≤ +10 µs",
        f"{report.more_with_renewals:+.1f}",
    )
    console.print(table)
    table = Table(
        f"{keys.KEYS:,} distinct keys, each once", "requests/s", "gateway µs", "merchant_rpc µs"
    )
    for name, (rate, front, merchants) in report.distinct.items():
        table.add_row(name, f"{rate:.0f}", f"{front:.0f}", f"{merchants:.0f}")
    console.print(table)
    table = Table("One exchange at merchant_rpc", "per second", "CPU µs", "bare gRPC µs", "goal")
    for callers, (rate, cost, bare) in report.exchanges.items():
        table.add_row(f"{callers} at once", f"{rate:.0f}", f"{cost:.0f}", f"{bare:.0f}", "≤ 500 µs")
    console.print(table)


def _searches(*, quick: bool) -> None:
    sizes = searches.SIZES[:1] * 2 if quick else searches.SIZES
    mariadb = MariaDB(Path(tempfile.mkdtemp(prefix="paymesh-bench-"))).start()
    try:
        found = []
        for size in sizes:
            with console.status(f"Searches among {size:,} payments"):
                found.append(uvloop.run(searches.measure(mariadb.create_database(), size)))
    finally:
        mariadb.stop()
    few, many = found
    table = Table("ListPayments by", *(f"ms of {size:,}" for size in sizes), "times", "goal")
    for name, milliseconds in many.items():
        table.add_row(
            name,
            f"{few[name]:.2f}",
            f"{milliseconds:.2f}",
            f"{milliseconds / few[name]:.2f}",
            f"≤ {searches.GOAL:.2f}",
        )
    console.print(table)


def _webhooks(*, quick: bool) -> None:
    del quick
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        secret_file = Path(folder) / "secret"
        secret_file.write_text(secrets.token_hex(32))
        mariadb = MariaDB(Path(tempfile.mkdtemp(prefix="paymesh-bench-"))).start()
        stack.callback(mariadb.stop)
        table = Table("A webhook of Stripe", "CPU µs, paid", "CPU µs, told before", "goal")
        for name, kind, url in (
            ("an empty RPC", "empty", ""),
            ("SQLite", "webhooks", f"sqlite+aiosqlite:///{folder}/payments.db"),
            ("MariaDB", "webhooks", mariadb.create_database()),
        ):
            environment = {
                SECRET_FILE: str(secret_file),
                "PAYMESH_VAR_DIR": folder,
                "BENCH_DATABASE_URL": url,
            }
            with (
                console.status(f"Webhooks: {name}"),
                server(kind, environment, module="bench.webhooks") as running,
            ):
                cost = uvloop.run(webhooks.measure(running))
            goal = "≤ 1000 µs" if url else ""
            table.add_row(name, f"{cost.new:.0f}", f"{cost.equal:.0f}", goal)
        console.print(table)


def _orders(*, quick: bool) -> None:
    del quick
    mariadb = MariaDB(Path(tempfile.mkdtemp(prefix="paymesh-bench-"))).start()
    try:
        with console.status("Orders of one hot product, alone and in groups; in turn"):
            rates = uvloop.run(orders.measure_hot_product(mariadb.create_database()))
        with console.status("A million orders, page by page"):
            pages = uvloop.run(orders.measure_pages(mariadb.create_database()))
    finally:
        mariadb.stop()
    table = Table(
        f"Orders of one product on MariaDB ({orders.BUYERS} buyers at once)",
        "orders/s",
        "of one by one",
    )
    for group, rate in rates.items():
        table.add_row(
            "one by one" if group == 1 else f"up to {group} in a transaction",
            f"{rate:.0f}",
            f"{rate / rates[1]:.2f}",
        )
    console.print(table)
    table = Table(f"ListOrders, {orders.ORDERS:,} orders", "page", "ms", "of the first", "goal")
    for name, times in pages.items():
        for page, milliseconds in times.items():
            table.add_row(
                name,
                f"{page}",
                f"{milliseconds:.2f}",
                f"{milliseconds / times[1]:.2f}",
                "≤ 1.20" if page == 1000 else "",
            )
    console.print(table)


def _idle(*, quick: bool) -> None:
    with console.status(
        f"A whole mesh with {IDLE_ACTIVITIES} activities that sell nothing, for "
        f"{6 if quick else 60} s without any traffic"
    ):
        cost = idle.measure(activities=IDLE_ACTIVITIES, seconds=6 if quick else 60)
    table = Table(
        f"An idle mesh, {IDLE_ACTIVITIES} activities not begun, paused or sold out",
        "measured",
        "goal",
    )
    for name, share in sorted(cost.cpu.items(), key=lambda each: -each[1]):
        table.add_row(f"{name}, of a core", f"{share:.2%}", "")
    table.add_row("all processes, of a core", f"{cost.cpu_of_all:.2%}", "≤ 1 %")
    table.add_row("Redis commands a second", f"{cost.redis_commands:.1f}", "≤ 5")
    console.print(table)


def _charge(*, quick: bool) -> None:
    del quick
    mariadb = MariaDB(Path(tempfile.mkdtemp(prefix="paymesh-bench-"))).start()
    try:
        with console.status("Charge, the same statements, two statements; in turn"):
            rates, statements, commits = uvloop.run(charge.measure(mariadb.create_database()))
    finally:
        mariadb.stop()
    table = Table(
        "Charge on MariaDB (16 connections, durable commits)",
        "per second",
        "of same statements",
        "of two statements",
        "goal",
    )
    for name, rate in rates.items():
        goal = "0.6 of same statements" if name == "charge" else ""
        table.add_row(
            name,
            f"{rate:.0f}",
            f"{rate / rates['same statements']:.2f}",
            f"{rate / rates['two statements']:.2f}",
            goal,
        )
    console.print(table)
    console.print(f"one charge: {statements} statements in {commits} transactions")


def _statements(*, quick: bool) -> None:
    lines = statements.LINES // (20 if quick else 1)
    columns = ("p50", "p99", "max", "timer p99", "timer max")
    table = Table(f"Charges beside an import of {lines:,} lines, ms", *columns, "import s", "goal")
    mariadb = MariaDB(Path(tempfile.mkdtemp(prefix="paymesh-bench-"))).start()
    try:
        for grammar in statements.GRAMMARS:
            with console.status(f"Charges alone and beside a statement of {grammar}"):
                url = mariadb.create_database()
                found = uvloop.run(statements.measure(url, grammar, lines=lines))
            alone, beside = (
                [f"{1000 * value:.1f}" for value in times.row]
                for times in (found.alone, found.beside)
            )
            table.add_row("alone", *alone, "", "")
            table.add_row(
                grammar,
                *beside,
                f"{found.seconds:.0f}",
                f"≤ alone + {1000 * statements.GOAL_SECONDS:.0f}",
            )
    finally:
        mariadb.stop()
    console.print(table)


def _report_rpc(results: dict[str, tuple[float, float]]) -> None:
    limit_rate, limit_cost = results["echo"]
    table = Table(
        "GetPaymentByOrderId, 10 000 tokens",
        "calls/s",
        "of echo",
        "server CPU µs/call",
        "added µs",
        "goal",
    )
    names = {
        "echo": "bare grpc.aio echo (the limit)",
        "pipeline": "whole pipeline, fixed answer",
        "payment": "real read, SQLite",
        "cached": "real read, Redis cache",
    }
    for name, (rate, cost) in results.items():
        goal = "added ≤ 35 µs" if name == "pipeline" else ""
        table.add_row(
            names[name],
            f"{rate:.0f}",
            f"{rate / limit_rate:.2f}",
            f"{cost:.0f}",
            f"{cost - limit_cost:+.0f}",
            goal,
        )
    console.print(table)


def _report_http(results: dict[str, tuple[float, float]]) -> None:
    limit_rate, limit_cost = results["passthrough"]
    table = Table(
        "HTTP in front of the same server",
        "requests/s",
        "of pass-through",
        "CPU µs/request",
        "ratio",
        "goal",
    )
    for name, (rate, cost) in results.items():
        goal = "CPU ≤ 1.25 × pass-through" if name == "gateway" else ""
        table.add_row(
            name,
            f"{rate:.0f}",
            f"{rate / limit_rate:.2f}",
            f"{cost:.0f}",
            f"{cost / limit_cost:.2f}",
            goal,
        )
    console.print(table)


@contextmanager
def _gateway(upstream: Server, environment: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    targets = json.dumps({"payment_rpc": [f"127.0.0.1:{upstream.port}"], "order_rpc": []})
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        env={
            **os.environ,
            **environment,
            "GATEWAY_PORT": str(port),
            "PAYMESH_STATIC_TARGETS": targets,
            "PAYMESH_LOG_LEVEL": "WARNING",
            "PAYMESH_USER_TOKEN_SECRET_FILE": environment[SECRET_FILE],
        },
    )
    try:
        wait_for_http(f"http://127.0.0.1:{port}/healthz")
        yield Server(name="gateway", port=port, pid=process.pid)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
