"""How long the commands of an operator take on a shop with many orders: `python -m
bench.large_tables --orders 1000000`.

Fills MariaDB with paid orders as the code writes them (the rows of one are made by the code, the
others are copies with ids and hashes of their own), with the messages and idempotency records that
are kept by default, so that the audit holds, and prints a table of times. Commands run as an
operator runs them, under the statement limit that the product gives them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path

import click
import pymysql
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, insert, make_url

from bench.large_rows import (
    INBOX_KEPT,
    MESSAGES_KEPT,
    SPREAD,
    Copies,
    Order,
    Rows,
    catalog_rows,
    figure_rows,
    order_rows,
    payment_rows,
)
from bench.machine import cpu_seconds, describe
from mesh.idempotency import MONEY_RETENTION
from mesh.migrations import upgrade
from tools.servers import MariaDB

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc")
BATCH = 20_000  # orders per statement
# As much memory as a server with so many orders has, and a log that is not full all the time.
OPTIONS = ("--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G")


def fill(urls: dict[str, str], orders: int) -> None:
    """Makes all rows; the last order is an hour old."""
    now = datetime.now(UTC)
    begins = (now - timedelta(hours=1) - orders * SPREAD).replace(second=0, microsecond=0)
    with ThreadPoolExecutor() as pool:
        for done in (
            pool.submit(_copy, urls["order_rpc"], orders, begins, now, order_rows),
            pool.submit(_copy, urls["payment_rpc"], orders, begins, now, payment_rows),
            pool.submit(_insert, urls["order_rpc"], catalog_rows(orders, begins)),
            pool.submit(_insert, urls["order_rpc"], figure_rows(orders, begins)),
        ):
            done.result()


def _copy(
    url: str, orders: int, begins: datetime, now: datetime, rows_of: Callable[[Order], Rows]
) -> None:
    copies = Copies(begins=begins)
    kept = {"inbox": INBOX_KEPT, "messages": MESSAGES_KEPT, "receipts": MONEY_RETENTION}
    since = {what: max(0, (now - retention - begins) // SPREAD) for what, retention in kept.items()}
    bounds = sorted({*range(0, orders, BATCH), *since.values(), orders})
    with _connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION unique_checks=0, foreign_key_checks=0")
        for first, beyond in pairwise(bound for bound in bounds if bound <= orders):
            keeps = frozenset(what for what, number in since.items() if number <= first)
            for statement in copies.statements(
                rows_of, keeps=keeps, first=first, count=beyond - first
            ):
                cursor.execute(statement)


def _connected(url: str) -> pymysql.Connection:
    where = make_url(url)
    return pymysql.connect(
        host=where.host,
        port=where.port or 0,
        user=where.username,
        password=where.password or "",
        database=where.database,
        autocommit=True,
    )


def _insert(url: str, rows: Rows) -> None:
    engine = create_engine(make_url(url).set(drivername="mysql+pymysql"))
    with engine.begin() as connection:
        for table, group in groupby(
            sorted(rows, key=lambda each: each[0].name), key=lambda each: each[0]
        ):
            connection.execute(insert(table), [row for _, row in group])
    engine.dispose()


def analyze(url: str) -> None:
    """Brings the statistics of the optimizer up to date, which a server that is started right after
    so many inserts has not done yet.
    """
    with _connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        cursor.execute(f"ANALYZE TABLE {', '.join(name for (name,) in cursor.fetchall())}")


def measure(server: int, name: str, *arguments: str) -> tuple[str, ...]:
    """One command: its name, seconds, seconds of CPU of its own and of the server, megabytes of
    memory at most, exit code, last line.
    """
    begin, cpu = time.perf_counter(), cpu_seconds(server)
    with subprocess.Popen(
        [sys.executable, "-m", "paymesh_cli", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    last = (output.strip().splitlines() or [""])[-1]
    own, of_server = used.ru_utime + used.ru_stime, cpu_seconds(server) - cpu
    return (
        name,
        f"{seconds:.1f}",
        f"{own:.1f}",
        f"{of_server:.1f}",
        f"{used.ru_maxrss / 1024:.0f}",
        str(process.returncode),
        last[:70],
    )


@click.command()
@click.option("--orders", default=1_000_000, show_default=True, help="How many.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the rows are kept for the next run.  [default: nowhere]",
)
@click.option("--only", default="", help="Commands that begin like this.")
def main(orders: int, folder: Path | None, only: str) -> None:
    """Fills two databases and measures the commands. CPU times are the same on a busy machine; what
    takes longer than both waits.
    """
    place = folder or Path(tempfile.mkdtemp(prefix="paymesh-large-"))
    server = MariaDB(place / "db", flush_log_at_commit=2, options=OPTIONS)
    is_new = not server.folder.exists()
    server.start()
    try:
        urls = {
            service: server.create_database()
            if is_new
            else f"mysql+aiomysql://paymesh:paymesh@127.0.0.1:{server.port}/paymesh_{number}"
            for number, service in enumerate(SERVICES, 1)
        }
        begin = time.perf_counter()
        for service, url in urls.items():
            upgrade(service, url)
        if is_new:
            fill(urls, orders)
        filled = time.perf_counter() - begin
        for url in urls.values():
            analyze(url)
        os.environ.update(
            {f"{service.upper()}_DATABASE_URL": url for service, url in urls.items()},
            PAYMESH_VAR_DIR=str(place),
        )
        title = f"{orders} orders, filled in {filled:.0f} s; {describe()}"
        table = Table(
            "command", "seconds", "CPU", "CPU of MariaDB", "MB", "exit", "last line", title=title
        )
        for command in commands(orders):
            if command[0].startswith(only):
                row = measure(server.process.pid, *command)
                sys.stderr.write(f"{' '.join(row)}\n")  # a long run is not waited for in vain
                table.add_row(*row)
        Console(width=180).print(table)
    finally:
        if folder is None:
            server.stop()
        else:
            server.process.destroy()


def commands(orders: int) -> list[tuple[str, ...]]:
    """What is measured: a name and its arguments."""
    middle = f"{orders // 2:026d}"
    recent = f"{orders - 1:026d}"
    return [
        ("outbox list", "outbox", "list"),
        ("outbox list --state DONE", "outbox", "list", "--state", "DONE"),
        *(
            (f"explain {prefix}", "explain", f"{prefix}{middle}")
            for prefix in ("ORD", "PAY", "ATT", "SBX")
        ),
        ("explain EVT", "explain", f"EVTS{recent}"),
        ("explain trace id", "explain", f"{orders - 1:032x}"),
        ("explain nobody", "explain", "PAYnobody"),
        ("stats rebuild", "stats", "rebuild"),
        ("audit", "audit"),
        ("audit --strict", "audit", "--strict"),
    ]


if __name__ == "__main__":
    main()
