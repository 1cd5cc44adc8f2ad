"""Charges beside the import of a long statement, against the same charges alone, on MariaDB.

The statement is in the grammar of each channel in turn. Every line is one of a capture in our books
and agrees with it. A charge is made every few milliseconds: alone, during the import, and alone
again. The lateness of a timer says how long anything kept the process from serving.
"""

from __future__ import annotations

import asyncio
import io
import json
import statistics
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from time import perf_counter
from typing import Any

from sqlalchemy import insert

from bench.charge import AcquirerOfCards, charge_once, open_app
from mesh.db import Database
from mesh.ids import UlidIds
from mesh.process import exempt_from_gc
from payment_rpc.app import PaymentApp
from payment_rpc.channels.alipay import statements as alipay
from payment_rpc.channels.capabilities import FeeKnown, StatementKind
from payment_rpc.channels.paypal import statements as paypal
from payment_rpc.channels.stripe import statements as stripe
from payment_rpc.channels.wechat import statements as wechat
from payment_rpc.domain.statement import COLUMNS, Entry, parse_statement
from payment_rpc.tables import ATTEMPT

LINES = 200_000
ALONE_SECONDS = 10.0
GOAL_SECONDS = 0.050
_PAUSE_SECONDS = 0.010
_TICK_SECONDS = 0.005
_DAY = datetime.now(UTC).date() - timedelta(days=3)
_NOON = datetime.combine(_DAY, datetime.min.time(), tzinfo=UTC) + timedelta(hours=12)
_PAYPAL_PAGE = 500
_ALIPAY_COLUMNS = (
    "支付宝交易号,商户订单号,业务类型,商品名称,完成时间,订单金额（元）,商家实收（元）,"
    "退款批次号/请求号,服务费（元）"
)
_WECHAT_COLUMNS = (
    "交易时间,微信订单号,商户订单号,交易状态,货币种类,微信退款单号,商户退款单号,商品名称,手续费,"
    "订单金额,申请退款金额"
)


def _attempt(number: int) -> str:
    return f"ATT{number:023}"


def _trade(number: int) -> str:
    return f"T{number:023}"


def _stripe_file(lines: int) -> bytes:
    seconds = int(_NOON.timestamp())
    rows = [
        json.dumps(
            [
                *(f"txn_{n}", "charge", 10000, 0, "cny", seconds, f"ch_{n}", _trade(n)),
                *(_attempt(n), "", 10000, "cny"),
            ]
        )
        for n in range(lines)
    ]
    return "\n".join([*rows, json.dumps({"rows": lines}), ""]).encode()


def _paypal_file(lines: int) -> bytes:
    pages = -(-lines // _PAYPAL_PAGE)
    return "".join(
        json.dumps(
            {
                "transaction_details": [
                    {
                        "transaction_info": {
                            "transaction_id": _trade(n),
                            "transaction_event_code": "T0006",
                            "transaction_status": "S",
                            "transaction_amount": {"currency_code": "CNY", "value": "100.00"},
                            "transaction_initiation_date": f"{_DAY}T12:00:00+0000",
                            "custom_field": _attempt(n),
                        }
                    }
                    for n in range(page * _PAYPAL_PAGE, min(lines, (page + 1) * _PAYPAL_PAGE))
                ],
                "page": page + 1,
                "total_pages": pages,
                "total_items": lines,
            }
        )
        + "\n"
        for page in range(pages)
    ).encode()


def _alipay_file(lines: int) -> bytes:
    rows = [
        f"{_trade(n)}\t,{_attempt(n)}\t,交易\t,茶\t,{_DAY} 20:00:00\t,100.00\t,100.00\t,\t,0.00\t"
        for n in range(lines)
    ]
    total = f"#交易合计：{lines}笔，商家实收共{lines * 100}.00元"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        text = "\r\n".join([_ALIPAY_COLUMNS, *rows, total, ""])
        archive.writestr("2088_业务明细.csv", text.encode("gb18030"))
    return packed.getvalue()


def _wechat_file(lines: int) -> bytes:
    rows = [
        f"`{_DAY} 20:00:00,`{_trade(n)},`{_attempt(n)},`SUCCESS,`CNY,`0,`0,`tea, 茶,`0.00000,"
        f"`100.00,`0.00"
        for n in range(lines)
    ]
    totals = ["总交易单数,订单总金额,申请退款总金额", f"`{lines},`{lines * 100}.00,`0.00"]
    return "\r\n".join([_WECHAT_COLUMNS, *rows, *totals, ""]).encode()


def _sandbox_file(lines: int) -> bytes:
    rows = [
        f"{n + 1},CAPTURE,{_trade(n)},{_attempt(n)},,100.00,CNY,0.00,{_DAY}T20:00:00+08:00"
        for n in range(lines)
    ]
    total = f"SUM,CAPTURE,CNY,{lines},{lines * 100}.00,0.00"
    return "\n".join([",".join(COLUMNS), *rows, total, f"END,{lines}"]).encode()


GRAMMARS: Mapping[str, tuple[Callable[[int], bytes], Callable[[bytes], Iterator[Entry]]]] = {
    "sandbox": (_sandbox_file, parse_statement),
    "stripe": (_stripe_file, stripe.parse),
    "paypal": (_paypal_file, paypal.parse),
    "alipay": (_alipay_file, alipay.parse),
    "wechat": (_wechat_file, wechat.parse),
}


class _Lister(AcquirerOfCards):
    """A channel with a long statement, in the grammar of one provider at a time."""

    capabilities = replace(
        AcquirerOfCards.capabilities,
        statement=StatementKind.TRADES,
        fee_known=FeeKnown.STATEMENT,
    )

    def __init__(self) -> None:
        self.content = b""
        self.parse: Callable[[bytes], Iterator[Entry]] = parse_statement

    async def statement(self, _day: date, **_how: Any) -> bytes:
        return self.content

    def parse_statement(self, content: bytes, _day: date) -> Iterator[Entry]:
        return self.parse(content)


@dataclass(slots=True)
class Times:
    """How long charges took, and how late a timer was, in seconds."""

    charges: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)

    @property
    def row(self) -> tuple[float, ...]:
        """p50, p99 and maximum of charges, p99 and maximum of lateness."""
        return (
            statistics.median(self.charges),
            _p99(self.charges),
            max(self.charges),
            _p99(self.lateness),
            max(self.lateness),
        )


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured with one grammar; how long the import took, in seconds."""

    alone: Times
    beside: Times
    seconds: float
    lines: int


async def measure(url: str, grammar: str, *, lines: int = LINES) -> Report:
    """Imports one statement beside charges.

    Raises:
        RuntimeError: a line did not agree.
    """
    channel = _Lister()
    app, db, ids = await open_app(url, {"sandbox": channel})
    await _fill(db, lines)
    make, channel.parse = GRAMMARS[grammar]
    channel.content = await asyncio.to_thread(make, lines)
    alone, beside = Times(), Times()
    await _serve(app, ids, Times(), asyncio.sleep(1))
    exempt_from_gc()
    await _serve(app, ids, alone, asyncio.sleep(ALONE_SECONDS))
    begin = perf_counter()
    await _serve(app, ids, beside, _import(app, lines))
    seconds = perf_counter() - begin
    await _serve(app, ids, alone, asyncio.sleep(ALONE_SECONDS))
    await db.close()
    return Report(alone, beside, seconds, lines)


async def _fill(db: Database, lines: int) -> None:
    """Captures of a day."""
    blank: dict[str, Any] = {
        "payment_id": "PAY",
        "merchant_id": "mall",
        "channel": "sandbox",
        "state": "CAPTURED",
        "amount_minor": 10000,
        "currency": "CNY",
        "captured_minor": 10000,
        "captured_currency": "CNY",
        "sends": 1,
        "lease_until": _NOON,
        "next_query_at": None,
        "queries": 0,
        "version": 1,
        "created_at": _NOON,
        "updated_at": _NOON,
        "captured_at": _NOON,
    }
    numbers = count()
    for start in range(0, lines, 5000):
        rows = [
            {**blank, "attempt_id": _attempt(n), "channel_trade_no": _trade(n)}
            for n in (next(numbers) for _ in range(min(5000, lines - start)))
        ]
        async with db.engine.begin() as connection:
            await connection.execute(insert(ATTEMPT), rows)


async def _import(app: PaymentApp, lines: int) -> None:
    imports = app.statement_imports
    begun = await imports.import_statement("sandbox", _DAY.isoformat())
    while await imports.run_once():
        pass
    done = await imports.get_statement_import(begun.import_id)
    if (done.state, done.matched) != ("DONE", lines):
        raise RuntimeError(f"the import did not agree: {done}")


async def _serve(app: PaymentApp, ids: UlidIds, times: Times, beside: Any) -> None:
    """Charges, one after the other, while something else goes on."""
    other = asyncio.ensure_future(beside)
    ticking = asyncio.ensure_future(_tick(times))
    while not other.done():
        begin = perf_counter()
        await charge_once(app, ids)
        times.charges.append(perf_counter() - begin)
        await asyncio.sleep(_PAUSE_SECONDS)
    ticking.cancel()
    await other


async def _tick(times: Times) -> None:
    while True:
        due = perf_counter() + _TICK_SECONDS
        await asyncio.sleep(_TICK_SECONDS)
        times.lateness.append(perf_counter() - due)
