"""PayPal's transaction search as a statement: the pages of a day, one to a line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Final
from urllib.parse import urlencode

import msgspec

from mesh.money import Money
from payment_rpc.channels.capabilities import UTC_DAY
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.paypal.amounts import read_amount
from payment_rpc.channels.paypal.answers import moment
from payment_rpc.channels.paypal.api import OK, PayPalApi
from payment_rpc.channels.paypal.objects import Amount, decode, issue_of
from payment_rpc.channels.statement_rows import bad_line, line_of, without_sign
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.statement import (
    BadLine,
    Entry,
    Line,
    LineType,
    StatementUnreadable,
)

READY: Final = timedelta(hours=3)  # how late PayPal's search may be
_PAGE_SIZE: Final = 500
_PAGES_MAX: Final = 1000
_PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_PAYMENT: Final = "T00"
_REFUND: Final = "T1107"
# PayPal marks what was given back later as V
_DONE: Final = frozenset({"S", "V"})


class _Info(msgspec.Struct, frozen=True):
    transaction_id: str
    transaction_event_code: str
    transaction_status: str
    transaction_amount: Amount
    transaction_initiation_date: str
    fee_amount: Amount | None = None
    custom_field: str = ""
    invoice_id: str = ""


class _Row(msgspec.Struct, frozen=True):
    transaction_info: msgspec.Raw


class _Page(msgspec.Struct, frozen=True):
    transaction_details: tuple[_Row, ...]
    page: int
    total_pages: int
    total_items: int
    last_refreshed_datetime: str = ""


async def fetch(api: PayPalApi, day: date, *, until: datetime | None, left: TimeLeft) -> bytes:
    """All pages of a day; with `until`, of a day that is not complete.

    Raises:
        Unclear: no usable answer, or the day is not complete yet. NotSent, Lost: no answer.
    """
    begins, ends = UTC_DAY.bounds(day)
    last = ends - timedelta(seconds=1)
    if until is not None:
        last = min(last, max(until + timedelta(seconds=1), begins))  # written without parts of it
    pages = list[bytes]()
    while True:
        number = len(pages) + 1
        query = urlencode(
            {
                "start_date": _written(begins),
                "end_date": _written(last),
                "fields": "all",
                "page_size": _PAGE_SIZE,
                "page": number,
            }
        )
        answer = await api.call(
            "GET",
            f"/v1/reporting/transactions?{query}",
            left=left,
            answer_bytes_max=_PAGE_BYTES_MAX,
        )
        if answer.status_code != OK:
            raise Unclear(f"answered {answer.status_code} {issue_of(answer.body)}".rstrip())
        page = decode(answer.body, _Page)
        refreshed = moment(page.last_refreshed_datetime)
        if until is None and refreshed is not None and refreshed < ends:
            raise Unclear("the day is not complete there yet")
        pages.append(msgspec.json.format(answer.body, indent=-1))
        if number >= page.total_pages:
            return b"".join(line + b"\n" for line in pages)
        if number >= _PAGES_MAX:
            raise Unclear(f"more than {_PAGES_MAX} pages")


def parse(content: bytes) -> Iterator[Entry]:
    """Reads the pages of a day, one after the other. Rows that are neither payments nor refunds are
    left out.

    Raises:
        StatementUnreadable: a page or a row is missing, or it is not such a file.
    """
    if not content.endswith(b"\n"):
        raise StatementUnreadable("cut off: the last line has no end")
    pages, rows, total, lines = content.count(b"\n"), 0, 0, count(1)
    for number, text in enumerate(io.BytesIO(content), start=1):
        try:
            page = decode(text, _Page)
        except Unclear:
            raise StatementUnreadable(f"line {number} is not a page") from None
        if page.page != number or max(page.total_pages, 1) != pages:
            raise StatementUnreadable(f"cut off: page {number} of {page.total_pages}")
        rows, total = rows + len(page.transaction_details), page.total_items
        for row in page.transaction_details:
            yield from _lines(row, lines)
    if total != rows:
        raise StatementUnreadable(f"cut off: {rows} rows of {total}")


def _lines(row: _Row, numbers: Iterator[int]) -> Iterator[Line | BadLine]:
    text = bytes(row.transaction_info)
    shown = text.decode(errors="backslashreplace")
    try:
        info = decode(text, _Info)
    except Unclear as problem:
        yield bad_line(next(numbers), shown, str(problem))
        return
    amount = _signed(info.transaction_amount)
    kind = _kind(info, amount)
    if kind is not None:
        yield _line(next(numbers), shown, info, kind, amount)


def _kind(info: _Info, amount: Money | None) -> LineType | None:
    if info.transaction_status not in _DONE:
        return None
    # payments that leave the account are not of buyers
    if info.transaction_event_code.startswith(_PAYMENT) and (amount is None or amount.minor > 0):
        return LineType.CAPTURE
    return LineType.REFUND if info.transaction_event_code == _REFUND else None


def _line(
    number: int, shown: str, info: _Info, kind: LineType, amount: Money | None
) -> Line | BadLine:
    if amount is not None and kind is LineType.REFUND and amount.minor > 0:
        return bad_line(number, shown, "amount: a refund that came in")
    own_id = info.custom_field or info.invoice_id
    fee = None if amount is None else Money.zero(amount.currency)
    if info.fee_amount is not None:
        fee = _signed(info.fee_amount)
    return line_of(
        number,
        shown,
        kind=kind,
        trade_no=info.transaction_id,
        attempt_id=own_id if kind is LineType.CAPTURE else "",
        refund_id=own_id if kind is LineType.REFUND else "",
        amount=without_sign(amount),
        fee=without_sign(fee),
        occurred_at=moment(info.transaction_initiation_date),
    )


def _signed(amount: Amount) -> Money | None:
    try:
        return read_amount(amount.value, amount.currency_code, is_signed=True)
    except ValueError:
        return None


def _written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
