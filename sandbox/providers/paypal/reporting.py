"""Transaction search: what moved on the account, in pages of JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from mesh.money import Money
from sandbox.providers.paypal.amounts import amount_json, fee_of
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.objects import (
    PAID,
    Capture,
    CaptureStatus,
    Refund,
    RefundStatus,
)
from sandbox.providers.paypal.refusals import invalid

Json = dict[str, Any]
Row = tuple[datetime, Json]

_RANGE_MAX = timedelta(days=31)
_BACK_MAX = timedelta(days=3 * 366)
_PAGE_MAX = 500
_PAGE = 100
_PARAMETERS = frozenset(
    {
        *("start_date", "end_date", "fields", "page_size", "page", "transaction_id"),
        *("transaction_status", "transaction_currency", "balance_affecting_records_only"),
    }
)
_CAPTURE_WORDS = {
    CaptureStatus.PENDING: "P",
    CaptureStatus.DECLINED: "D",
    CaptureStatus.FAILED: "D",
}
_REFUND_WORDS = {RefundStatus.PENDING: "P", RefundStatus.CANCELLED: "V", RefundStatus.FAILED: "D"}


class Reporting:
    """Answers searches."""

    def __init__(self, books: Books, *, delay: timedelta, account: str) -> None:
        """
        Args:
            delay: how late a transaction is seen; PayPal says up to three hours.
        """
        self._books = books
        self._delay = delay
        self._account = account

    def search(self, parameters: Mapping[str, str]) -> Json:
        """A page of transactions, oldest first.

        Raises:
            Refused: 400; a parameter is missing, unknown or out of its range.
        """
        for name in parameters.keys() - _PARAMETERS:
            raise invalid("INVALID_PARAMETER_SYNTAX", name, "unknown parameter")
        begin, end = read_moment(parameters, "start_date"), read_moment(parameters, "end_date")
        now = self._books.now()
        if end < begin or end - begin > _RANGE_MAX:
            raise invalid("INVALID_PARAMETER_VALUE", "end_date", "at most 31 days after the start")
        if begin < now - _BACK_MAX:
            raise invalid("INVALID_PARAMETER_VALUE", "start_date", "at most three years ago")
        size = read_number(parameters, "page_size", _PAGE, most=_PAGE_MAX)
        page = read_number(parameters, "page", 1, most=10_000)
        refreshed = now - self._delay
        found = [
            row
            for at, row in sorted(self._rows(), key=_time_of_row)
            if begin <= at <= end and at <= refreshed and _fits(row, parameters)
        ]
        pages = max(1, -(-len(found) // size))
        return {
            "transaction_details": [
                {"transaction_info": row} for row in found[(page - 1) * size : page * size]
            ],
            "account_number": self._account,
            "start_date": _written(begin),
            "end_date": _written(end),
            "last_refreshed_datetime": _written(refreshed),
            "page": page,
            "total_items": len(found),
            "total_pages": pages,
            "links": [],
        }

    def _rows(self) -> Iterator[Row]:
        for capture in self._books.captures.values():
            yield _capture_row(capture)
            if capture.reversed:
                yield _row(
                    f"{capture.id}R",
                    "T1201",
                    Money(-capture.amount.minor, capture.amount.currency),
                    at=capture.updated_at,
                    reference=capture.id,
                    own=capture,
                )
        for refund in self._books.refunds.values():
            yield from _refund_rows(refund)


def _capture_row(capture: Capture) -> Row:
    paid = capture.status in PAID
    at, row = _row(
        capture.id,
        "T0006",
        capture.amount,
        at=capture.created_at,
        reference=capture.order_id,
        reference_type="ODR",
        own=capture,
        status="S" if paid else _CAPTURE_WORDS[capture.status],
    )
    if paid:
        fee = fee_of(capture.amount)
        row["fee_amount"] = amount_json(Money(-fee.minor, fee.currency))
    return at, row


def _refund_rows(refund: Refund) -> Iterator[Row]:
    taken = Money(-refund.amount.minor, refund.amount.currency)
    happened = refund.was_completed or refund.status is RefundStatus.COMPLETED
    yield _row(
        refund.id,
        "T1107",
        taken,
        at=refund.created_at,
        reference=refund.capture_id,
        own=refund,
        status="S" if happened else _REFUND_WORDS[refund.status],
    )
    if refund.was_completed:  # and failed since
        yield _row(
            f"{refund.id}R",
            "T1100",
            refund.amount,
            at=refund.updated_at,
            reference=refund.id,
            own=refund,
        )


def _row(
    transaction_id: str,
    code: str,
    amount: Money,
    *,
    at: datetime,
    reference: str,
    own: Capture | Refund,
    reference_type: str = "TXN",
    status: str = "S",
) -> Row:
    row: Json = {
        "transaction_id": transaction_id,
        "paypal_reference_id": reference,
        "paypal_reference_id_type": reference_type,
        "transaction_event_code": code,
        "transaction_initiation_date": _written(at),
        "transaction_updated_date": _written(own.updated_at),
        "transaction_amount": amount_json(amount),
        "transaction_status": status,
        "custom_field": own.custom_id,
        "invoice_id": own.invoice_id,
    }
    return at, {name: value for name, value in row.items() if value}


def _time_of_row(row: Row) -> datetime:
    return row[0]


def _fits(row: Json, parameters: Mapping[str, str]) -> bool:
    asked: tuple[tuple[str, Callable[[Json], Any]], ...] = (
        ("transaction_id", lambda found: found["transaction_id"]),
        ("transaction_status", lambda found: found["transaction_status"]),
        ("transaction_currency", lambda found: found["transaction_amount"]["currency_code"]),
    )
    return all(parameters.get(name, read(row)) == read(row) for name, read in asked)


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S+0000")


def read_moment(
    parameters: Mapping[str, str], name: str, default: datetime | None = None
) -> datetime:
    """A moment of a query. Raises Refused, 400."""
    if name not in parameters:
        if default is None:
            raise invalid("MISSING_REQUIRED_PARAMETER", name)
        return default
    try:
        # a plus that was sent as it is arrives as a space
        moment = datetime.fromisoformat(parameters[name].replace(" ", "+"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise invalid("INVALID_PARAMETER_SYNTAX", name, "expected a time with its offset")
    return moment


def read_number(parameters: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    """A number of a query, from 1. Raises Refused, 400."""
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= most):
        raise invalid("INVALID_PARAMETER_VALUE", name, f"expected 1 to {most}")
    return int(text)
