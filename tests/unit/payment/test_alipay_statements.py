"""Alipay's bill: whatever stands in it, no row is lost silently."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from datetime import UTC, date, datetime

import pytest

from mesh.money import Money
from payment_rpc.channels.alipay import statements
from payment_rpc.channels.alipay.statements import download, must_be_ready
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.statement import BadLine, Line, LineType, StatementUnreadable
from tests.builders.statements import Whole, whole


def parse(content: bytes) -> Whole:
    return whole(statements.parse(content))


HEADER = (
    "支付宝交易号,商户订单号,业务类型,商品名称,完成时间,订单金额（元）,商家实收（元）,"
    "退款批次号/请求号,服务费（元）"
)
PAID = "T1\t,AT1\t,交易\t,茶\t,2026-11-20 20:00:00\t,99.90\t,99.90\t,\t,-0.60\t"
BACK = "T1\t,AT1\t,退款\t,茶\t,2026-11-20 21:00:00\t,-10.00\t,-10.00\t,RF1\t,0.06\t"
NOTES = (
    "#交易合计：1笔，商家实收共99.90元，商家优惠共0.00元",
    "#退款合计：1笔，商家实收共-10.00元",
)
DETAILS, SUMMARY = "2088_20261120_业务明细.csv", "2088_20261120_业务明细(汇总).csv"


def csv_of(*rows: str, header: str = HEADER, notes: Sequence[str] = NOTES) -> str:
    return "\r\n".join(["#支付宝业务明细查询", "#账号：[2088]", header, *rows, "#结束", *notes, ""])


class GbkName(zipfile.ZipInfo):
    """A member whose name is written as Alipay does: GBK, without a mark."""

    def _encodeFilenameFlags(self):
        return self.filename.encode("gbk"), self.flag_bits & ~0x800


def packed(text: str, name: str = DETAILS, *, encoding: str = "gb18030") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, body in ((SUMMARY, "#汇总"), (name, text)):
            archive.writestr(GbkName(member), body.encode(encoding))
    return content.getvalue()


def bill(*rows: str, **how) -> bytes:
    return packed(csv_of(*rows, **how))


def test_trades_and_refunds_are_read_by_the_names_of_the_columns():
    statement = parse(bill(PAID, BACK))
    assert statement.bad_totals == ()
    taken, back = statement.lines
    assert taken == Line(
        line_no=1,
        type=LineType.CAPTURE,
        trade_no="T1",
        attempt_id="AT1",
        refund_id="",
        amount=Money(9990, "CNY"),
        fee=Money(60, "CNY"),
        occurred_at=datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
    )
    assert isinstance(back, Line)
    assert (back.type, back.refund_id, back.amount, back.fee) == (
        LineType.REFUND,
        "RF1",
        Money(1000, "CNY"),
        Money(6, "CNY"),
    )


def test_columns_may_come_in_another_order_and_with_others():
    names = HEADER.split(",")
    order = [*reversed(range(len(names)))]
    header = ",".join(["备注", *(names[n] for n in order)])
    rows = [",".join(["x", *(row.split(",")[n] for n in order)]) for row in (PAID, BACK)]
    assert parse(bill(*rows, header=header)).lines == parse(bill(PAID, BACK)).lines


def test_a_day_without_trades_is_empty():
    assert parse(b"").lines == ()
    assert parse(bill(notes=())).lines == ()


def test_a_comma_in_a_quoted_name_moves_no_column():
    assert isinstance(parse(bill(PAID.replace("茶", '"茶, ""tea"""'), BACK)).lines[0], Line)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (PAID.replace("茶", "茶,tea"), "number of fields"),
        (PAID.replace("交易", "转账"), "业务类型"),
        (PAID.replace("99.90\t", "99.999\t", 1), "amount"),
        (PAID.replace("99.90\t", "-99.90\t", 1), "other sign"),
        (BACK.replace("-10.00\t", "10.00\t", 1), "other sign"),
        (PAID.replace("99.90\t", "0.00\t", 1), "amount"),
        (PAID.replace("-0.60", "x"), "fee"),
        (PAID.replace("2026-11-20 20:00:00", "2026-11-20"), "occurred_at"),
        (PAID.replace("AT1", "订单 1"), "attempt_id"),
        (BACK.replace("RF1", ""), "refund_id"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_and_stops_no_other(row, problem):
    first, second = parse(bill(row, BACK, notes=())).lines
    assert isinstance(first, BadLine)
    assert problem in first.problem
    assert isinstance(second, Line)


@pytest.mark.parametrize(
    "rows", [(PAID,), (BACK,), (), (PAID, PAID, BACK), (PAID.replace("99.90", "99.91"), BACK)]
)
def test_totals_that_the_rows_do_not_add_up_to_are_told(rows):
    assert parse(bill(*rows)).bad_totals != ()


@pytest.mark.parametrize(
    "content",
    [
        b"PK",
        b"<html>",
        bill(PAID)[:-30],
        bill(PAID)[: len(bill(PAID)) // 2],
        bill(PAID, header=HEADER.replace("服务费（元）", "服务")),
        packed(csv_of(PAID), "账务明细.csv"),
        packed(csv_of(PAID), SUMMARY.replace("2088", "2089")),
        packed(csv_of(PAID) + "é" * 3, encoding="utf-8"),
        packed(""),
    ],
)
def test_what_is_no_whole_bill_is_refused(content):
    with pytest.raises(StatementUnreadable):
        parse(content)


def test_a_changed_byte_in_the_zip_is_noticed():
    content = bytearray(bill(PAID, BACK))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(StatementUnreadable):
        parse(bytes(content))


def test_a_bill_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(statements, "CSV_BYTES_MAX", 100)
    with pytest.raises(StatementUnreadable):
        parse(bill(PAID, BACK))


def test_a_bill_is_not_missing_before_it_is_ready():
    day = date(2026, 11, 20)  # ends at 16:00 UTC
    with pytest.raises(ChannelUnavailable):
        must_be_ready(day, datetime(2026, 11, 21, 0, 59, tzinfo=UTC))
    must_be_ready(day, datetime(2026, 11, 21, 1, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://dwbillcenter.alipay.com/x",  # in the clear
        "https://alipay.com.evil.example/x",
        "https://evilalipay.com/x",
        "https://evil.example/.alipay.com",
        "https://user@dwbillcenter.alipay.com/x",
        "https://127.0.0.1/x",
        "file:///etc/passwd",
        "https://[",
        "https://dwbillcenter.alipay.com/茶",
    ],
)
async def test_a_bill_is_fetched_from_alipay_only(address):
    with pytest.raises(Unclear):
        await download(address, base_url="https://openapi.alipay.com", left=TimeLeft(0.01))
