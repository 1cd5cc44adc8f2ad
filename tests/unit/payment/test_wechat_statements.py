"""WeChat Pay's bill: whatever stands in it, no row is lost silently."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime

import pytest

from mesh.money import Money
from payment_rpc.channels.wechat import statements
from payment_rpc.domain.statement import BadLine, Line, LineType, StatementUnreadable
from tests.builders.statements import Whole, whole


def parse(content: bytes) -> Whole:
    return whole(statements.parse(content))


HEADER = (
    "交易时间,微信订单号,商户订单号,交易状态,货币种类,微信退款单号,商户退款单号,商品名称,手续费,"
    "订单金额,申请退款金额"
)
PAID = "`2026-11-20 20:00:00,`42,`AT1,`SUCCESS,`CNY,`0,`0,`tea, 茶,`0.59940,`99.90,`0.00"
BACK = "`2026-11-20 21:00:00,`42,`AT1,`REFUND,`CNY,`50,`RF1,`tea, 茶,`-0.06000,`0.00,`10.00"
TOTALS = "总交易单数,订单总金额,申请退款总金额"
SUMS = "`2,`99.90,`10.00"


def text_of(*rows: str, header: str = HEADER, totals: tuple[str, ...] = (TOTALS, SUMS)) -> bytes:
    return "\r\n".join(["\ufeff" + header, *rows, *totals, ""]).encode()


def bill(*rows: str, **how) -> bytes:
    return gzip.compress(text_of(*rows, **how), mtime=0)


@pytest.mark.parametrize("content", [text_of(PAID, BACK), bill(PAID, BACK)])
def test_trades_and_refunds_are_read_by_the_names_of_the_columns(content):
    statement = parse(content)
    assert statement.bad_totals == ()
    taken, back = statement.lines
    assert taken == Line(
        line_no=1,
        type=LineType.CAPTURE,
        trade_no="42",
        attempt_id="AT1",
        refund_id="",
        amount=Money(9990, "CNY"),
        fee=Money(60, "CNY"),
        occurred_at=datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
    )
    assert isinstance(back, Line)
    assert (back.type, back.trade_no, back.refund_id, back.amount, back.fee) == (
        LineType.REFUND,
        "50",
        "RF1",
        Money(1000, "CNY"),
        Money(6, "CNY"),
    )


def test_columns_may_come_in_another_order_and_with_others():
    order = [*reversed(range(11))]
    header = ",".join(["备注", *(HEADER.split(",")[n] for n in order)])

    def turned(row: str) -> str:
        values = row[1:].split(",`")
        return "`" + ",`".join(["x", *(values[n] for n in order)])

    assert parse(bill(turned(PAID), turned(BACK), header=header)).lines == (
        parse(bill(PAID, BACK)).lines
    )


def test_a_day_without_trades_is_empty():
    assert parse(b"").lines == ()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (PAID.replace("茶", "茶,`x"), "number of fields"),
        (PAID[1:], "number of fields"),
        (PAID.replace("SUCCESS", "REVOKED"), "revoked"),
        (PAID.replace("SUCCESS", "SLEEPING"), "交易状态"),
        (PAID.replace("CNY", "USD"), "currency"),
        (PAID.replace("99.90", "x"), "amount"),
        (PAID.replace("99.90", "99.905"), "amount"),
        (PAID.replace("99.90", "0.00"), "amount"),
        (PAID.replace("99.90", "-1.00"), "amount"),
        (PAID.replace("0.59940", "?"), "fee"),
        (PAID.replace("2026-11-20", "20-11-2026"), "occurred_at"),
        (PAID.replace("AT1", "a b"), "attempt_id"),
        (BACK.replace("RF1", ""), "refund_id"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_and_stops_no_other(row, problem):
    first, second = parse(bill(row, BACK)).lines
    assert isinstance(first, BadLine)
    assert problem in first.problem
    assert isinstance(second, Line)


@pytest.mark.parametrize(
    "sums",
    ["`3,`99.90,`10.00", "`2,`99.91,`10.00", "`2,`99.90,`9.99", "`2,`x,`10.00", "`2,`99.90", "2"],
)
def test_totals_that_the_rows_do_not_add_up_to_are_told(sums):
    assert parse(bill(PAID, BACK, totals=(TOTALS, sums))).bad_totals != ()


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"\r\n",
        text_of(PAID, BACK, totals=()),
        text_of(PAID, BACK, totals=(TOTALS,)),
        text_of(PAID, header=HEADER.replace("手续费", "费")),
        bill(PAID, BACK)[:-9],
        bill(PAID, BACK)[:40],
        b"\x1f\x8b" + b"x" * 40,
        b"\xff\xfe",
        gzip.compress("支付宝".encode("gbk"), mtime=0),
    ],
)
def test_what_is_no_whole_bill_is_refused(content):
    with pytest.raises(StatementUnreadable):
        parse(content)


def test_a_bill_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(statements, "TEXT_BYTES_MAX", 100)
    with pytest.raises(StatementUnreadable):
        parse(bill(PAID, BACK))
