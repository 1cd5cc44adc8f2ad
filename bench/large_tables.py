"""How long the commands of an operator take on a shop with many orders: `python -m bench.large_tables --orders 1000000`.

Fills MariaDB with paid orders as the code writes them (one is made by the code, the others are copies under other ids with their own hashes), so that
the audit holds, and prints a table of times. The statement limit of the services (5 s) is on for everybody but the commands.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import order_rpc.tables as of_orders
import payment_rpc.tables as of_payments
from mesh.cli import paymesh
from mesh.log_chain import LOG_CHAIN, entry_hash
from mesh.migrations import upgrade
from mesh.money import Money
from mesh.outbox import OUTBOX
from order_rpc.domain.statistics import Figure, quarter_of
from payment_rpc.domain import ledger
from payment_rpc.store.payments import seal_of
from tests.servers import MariaDB

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc")
PRICE = 1000
BATCH = 2000  # orders per transaction
SKUS = 100
BEGINS = datetime(2026, 1, 1, tzinfo=UTC)
SPREAD = timedelta(seconds=20)  # between two orders: a million are 231 days
Rows = dict[Any, list[dict[str, Any]]]


def order_rows(number: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The rows of order_rpc of one paid order, and those that its messages left."""
    at = BEGINS + number * SPREAD
    order_id, payment_id, sku_id = f"ORD{number:026d}", f"PAY{number:026d}", f"SKU{number % SKUS}"
    key = {"merchant_id": "mall", "order_id": order_id}
    yield (
        of_orders.ORDERS,
        {
            **key,
            "user_id": f"u{number % 1000}",
            "state": "PAID",
            "amount_minor": PRICE,
            "captured_minor": PRICE,
            "currency": "CNY",
            "paid_payment_id": payment_id,
            "version": 2,
            "created_at": at,
            "expires_at": at + timedelta(minutes=15),
            "paid_at": at,
            "updated_at": at,
        },
    )
    yield (
        of_orders.ORDER_ITEM,
        {**key, "sku_id": sku_id, "name": "Mug", "unit_price_minor": PRICE, "quantity": 1, "amount_minor": PRICE},
    )
    yield (
        of_orders.RESERVATION,
        {
            **key,
            "sku_id": sku_id,
            "generation": 1,
            "quantity": 1,
            "state": "COMMITTED",
            "created_at": at,
            "updated_at": at,
        },
    )
    yield (
        of_orders.PAYMENT_DISPOSITION,
        {
            **key,
            "payment_id": payment_id,
            "payment_version": 2,
            "payment_state": "SUCCESS",
            "disposition": "APPLIED",
            "created_at": at,
            "updated_at": at,
        },
    )
    yield from history_rows(number, key, at)
    for tag in ("ORDER_CREATED", "ORDER_PAID"):
        yield OUTBOX, message(f"EVT{tag[6]}{number:026d}", "stream:ORDER_TOPIC", tag, order_id, number)


def history_rows(number: int, key: dict[str, Any], at: datetime) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Its history, chained."""
    before = ""
    for seq, (from_state, to_state, event) in enumerate(
        (("", "PENDING_PAYMENT", "CREATE"), ("PENDING_PAYMENT", "PAID", "PAY")), 1
    ):
        step = {
            **key,
            "from_state": from_state,
            "to_state": to_state,
            "event": event,
            "event_id": f"EVT{number:026d}",
            "operator": "user:u",
            "remark": "",
            "trace_id": f"{number:032x}",
            "needs_attention": False,
            "created_at": at,
        }
        before = entry_hash(of_orders.AUDIT_LOG, step, seq=seq, before=before)
        yield of_orders.ORDER_AUDIT, {**step, "chain_seq": seq, "chain_hash": before}
    yield LOG_CHAIN, {"log": "order_audit", "entity": f"mall/{key['order_id']}", "length": 2, "purged": 0, "hash": before}


def payment_rows(number: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The rows of payment_rpc of the payment of one order."""
    at = BEGINS + number * SPREAD
    order_id, payment_id, attempt_id = f"ORD{number:026d}", f"PAY{number:026d}", f"ATT{number:026d}"
    booking = booking_of(payment_id, attempt_id)
    digest = booking.hash("")
    payment: dict[str, Any] = dict.fromkeys((column.name for column in of_payments.PAYMENT.c), None) | {
        "payment_id": payment_id,
        "merchant_id": "mall",
        "order_id": order_id,
        "user_id": f"u{number % 1000}",
        "amount_minor": PRICE,
        "currency": "CNY",
        "captured_minor": PRICE,
        "refunded_minor": 0,
        "refund_reserved_minor": 0,
        "disputed_minor": 0,
        "fee_minor": 0,
        "state": "SUCCESS",
        "live_slot": 1,
        "payment_method": "credit_card",
        "channel": "sandbox",
        "channel_trade_no": f"SBX{number:026d}",
        "outcome": "CAPTURED",
        "disposition": "APPLIED",
        "ledger_head": digest,
        "version": 3,
        "paid_at": at,
        "expires_at": at + timedelta(minutes=15),
        "created_at": at,
        "updated_at": at,
    }
    yield of_payments.PAYMENT, {**payment, "seal": seal_of(payment)}
    yield (
        of_payments.ATTEMPT,
        {
            "attempt_id": attempt_id,
            "payment_id": payment_id,
            "merchant_id": "mall",
            "channel": "sandbox",
            "state": "CAPTURED",
            "amount_minor": PRICE,
            "currency": "CNY",
            "captured_minor": PRICE,
            "captured_currency": "CNY",
            "channel_trade_no": f"SBX{number:026d}",
            "sends": 1,
            "lease_until": at,
            "next_query_at": None,
            "queries": 0,
            "version": 2,
            "created_at": at,
            "updated_at": at,
            "captured_at": at,
        },
    )
    yield of_payments.ORDER_GATE, {"merchant_id": "mall", "order_id": order_id, "state": "OPEN", "updated_at": at}
    yield from ledger_rows(booking, payment_id, at)
    yield OUTBOX, message(f"EVTO{number:026d}", "order_rpc", "UpdateOrderStatus", payment_id, number)
    yield OUTBOX, message(f"EVTS{number:026d}", "stream:PAYMENT_TOPIC", "PAYMENT_SUCCEEDED", payment_id, number)


def booking_of(payment_id: str, attempt_id: str) -> ledger.LedgerTransaction:
    """The booking of its capture."""
    amount = Money(PRICE, "CNY")
    return ledger.captured(
        attempt_id=attempt_id, payment_id=payment_id, channel="sandbox", merchant_id="mall", amount=amount
    )


def ledger_rows(
    booking: ledger.LedgerTransaction, payment_id: str, at: datetime
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The booking as rows."""
    yield (
        of_payments.LEDGER_TRANSACTION,
        {
            "business_key": booking.key,
            "kind": booking.kind,
            "payment_id": payment_id,
            "previous_hash": "",
            "hash": booking.hash(""),
            "booked_at": at,
        },
    )
    for seq, posting in enumerate(booking.postings, 1):
        yield (
            of_payments.LEDGER_POSTING,
            {
                "business_key": booking.key,
                "seq": seq,
                "account": posting.account,
                "side": posting.side,
                "amount_minor": PRICE,
                "currency": "CNY",
            },
        )


def message(event_id: str, to: str, tag: str, about: str, number: int) -> dict[str, Any]:
    """A delivered message."""
    at = BEGINS + number * SPREAD
    return {
        "event_id": event_id,
        "destination": to,
        "tag": tag,
        "aggregate_id": about,
        "payload": '{"state":"SUCCESS"}',
        "trace_id": f"{number:032x}",
        "state": "DONE",
        "due_at": at,
        "attempts": 1,
        "last_error": "",
        "created_at": at,
    }


async def fill(url: str, orders: int, rows_of: Callable[[int], Iterator[tuple[Any, dict[str, Any]]]]) -> None:
    """Writes the rows of all orders."""
    engine = create_async_engine(url)
    for begin in range(0, orders, BATCH):
        batch: Rows = {}
        for number in range(begin, min(begin + BATCH, orders)):
            for table, row in rows_of(number):
                batch.setdefault(table, []).append(row)
        async with engine.begin() as tx:
            await tx.execute(text("SET SESSION unique_checks=0, foreign_key_checks=0"))
            for table, rows in batch.items():
                await tx.execute(insert(table), rows)
    await engine.dispose()


async def fill_shelf(url: str, orders: int) -> None:
    """Products with units for all orders, and the figures of their quarters of an hour."""
    engine: AsyncEngine = create_async_engine(url)
    figures: dict[tuple[datetime, str], list[int]] = {}
    for number in range(orders):
        for figure in (Figure.CREATED, Figure.PAID, Figure.CONVERTED):
            sums = figures.setdefault((quarter_of(BEGINS + number * SPREAD), figure), [0, 0])
            sums[0], sums[1] = sums[0] + 1, sums[1] + PRICE
    async with engine.begin() as tx:
        for number in range(SKUS):
            await _product(tx, number, sold=len(range(number, orders, SKUS)))
        entries = [
            {
                "merchant_id": "mall",
                "currency": "CNY",
                "quarter": quarter,
                "figure": figure,
                "count": count,
                "amount_minor": amount,
            }
            for (quarter, figure), (count, amount) in figures.items()
        ]
        for begin in range(0, len(entries), BATCH):
            await tx.execute(insert(of_orders.STATISTIC), entries[begin : begin + BATCH])
    await engine.dispose()


async def _product(tx: AsyncConnection, number: int, *, sold: int) -> None:
    sku_id = f"SKU{number}"
    await tx.execute(
        insert(of_orders.PRODUCT),
        {
            "merchant_id": "mall",
            "sku_id": sku_id,
            "name": "Mug",
            "price_minor": PRICE,
            "currency": "CNY",
            "first_available": sold + 5,
            "on_sale": True,
            "created_at": BEGINS,
            "updated_at": BEGINS,
        },
    )
    await tx.execute(
        insert(of_orders.STOCK),
        {"merchant_id": "mall", "sku_id": sku_id, "available": 5, "reserved": 0, "sold": sold, "allocated": 0},
    )
    line = {
        "merchant_id": "mall",
        "sku_id": sku_id,
        "kind": "INITIAL",
        "quantity": sold + 5,
        "available_after": sold + 5,
        "reason": "",
        "operator": "admin",
        "reference": "",
        "trace_id": "",
        "created_at": BEGINS,
    }
    digest = entry_hash(of_orders.MOVEMENT_LOG, line, seq=1, before="")
    await tx.execute(insert(of_orders.STOCK_MOVEMENT), {**line, "chain_seq": 1, "chain_hash": digest})
    await tx.execute(
        insert(LOG_CHAIN),
        {"log": "stock_movement", "entity": f"mall/{sku_id}", "length": 1, "purged": 0, "hash": digest},
    )


def measure(var_dir: Path, name: str, *arguments: str) -> tuple[str, float, int, str]:
    """One command: name, seconds, exit code, its last line."""
    begin = time.perf_counter()
    result = CliRunner().invoke(paymesh, [*arguments, "--var-dir", str(var_dir)])
    lines = result.output.strip().splitlines() or [repr(result.exception)]
    return name, time.perf_counter() - begin, result.exit_code, lines[-1]


@click.command()
@click.option("--orders", default=1_000_000, show_default=True, help="How many.")
def main(orders: int) -> None:
    """Fills two databases and measures the commands."""
    folder = Path(tempfile.mkdtemp(prefix="paymesh-large-"))
    server = MariaDB(folder / "db").start()
    try:
        urls = {service: server.create_database() for service in SERVICES}
        for service, url in urls.items():
            upgrade(service, url)
            os.environ[f"{service.upper()}_DATABASE_URL"] = url
        begin = time.perf_counter()
        asyncio.run(_fill_both(urls, orders))
        table = Table(
            "command",
            "seconds",
            "exit",
            "last line",
            title=f"{orders} orders, filled in {time.perf_counter() - begin:.0f} s",
        )
        middle = f"{orders // 2:026d}"
        for row in (
            measure(folder, "outbox list", "outbox", "list"),
            measure(folder, "outbox list --state DONE", "outbox", "list", "--state", "DONE"),
            measure(folder, "explain ORD", "explain", f"ORD{middle}"),
            measure(folder, "explain SBX", "explain", f"SBX{middle}"),
            measure(folder, "explain EVT", "explain", f"EVTS{middle}"),
            measure(folder, "explain trace id", "explain", f"{orders // 2:032x}"),
            measure(folder, "explain nobody", "explain", "PAYnobody"),
            measure(folder, "stats rebuild", "stats", "rebuild"),
            measure(folder, "audit", "audit"),
            measure(folder, "audit --strict", "audit", "--strict"),
        ):
            table.add_row(row[0], f"{row[1]:.1f}", str(row[2]), row[3][:90])
            sys.stderr.write(f"{row}\n")
        Console(width=180).print(table)
    finally:
        server.stop()


async def _fill_both(urls: dict[str, str], orders: int) -> None:
    await asyncio.gather(
        fill(urls["order_rpc"], orders, order_rows),
        fill(urls["payment_rpc"], orders, payment_rows),
        fill_shelf(urls["order_rpc"], orders),
    )


if __name__ == "__main__":
    main()
