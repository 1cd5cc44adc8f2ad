"""Renders a statement as text: header, numbered lines, sums and an end mark. A file without its end
mark is truncated.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from mesh.errors import InvalidArgument
from mesh.money import Money


class LineType(StrEnum):
    """The type of a line."""

    CAPTURE = "CAPTURE"  # taken from a buyer; `fee` was kept of it
    REFUND = "REFUND"  # given back; `fee` came back to the shop
    REFUND_REVERSED = "REFUND_REVERSED"  # a refund came back
    FEE = "FEE"  # kept for something that is no capture


COLUMNS = (
    "line_no",
    "type",
    "trade_no",
    "attempt_id",
    "refund_id",
    "amount",
    "currency",
    "fee",
    "occurred_at",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line without its number. Fields are text, because an altered line may be invalid.

    Attributes:
        trade_no: of the capture, or the refund's own number.
        occurred_at: RFC 3339 in the channel's time zone.
    """

    type: str
    trade_no: str
    attempt_id: str
    refund_id: str
    amount: str
    currency: str
    fee: str
    occurred_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One difference between what happened and what the statement shows.

    Attributes:
        kind: as in fault_injector.py.
        finds: the finding of a correct reconciliation (reference:
            docs/sandbox.md).
        line_no: of the line that shows it; None when the difference is that there is none.
        was: the true line; None when there is none. shows: what the file has; None when it has
            nothing.
    """

    kind: str
    finds: str
    line_no: int | None
    was: Line | None
    shows: Line | None


def render(lines: Sequence[Line]) -> bytes:
    """The file: header, lines, one SUM per type and currency, END with the number of lines."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, line in enumerate(lines, start=1):
        writer.writerow([number, *(getattr(line, column) for column in COLUMNS[1:])])
    sums: dict[tuple[str, str], tuple[int, Money, Money]] = {}
    for line in lines:
        try:
            amount, fee = (
                Money.parse(line.amount, line.currency),
                Money.parse(line.fee, line.currency, allow_zero=True),
            )
        except InvalidArgument:
            continue  # spoiled
        count, total, fees = sums.get(
            (line.type, line.currency), (0, Money.zero(line.currency), Money.zero(line.currency))
        )
        sums[line.type, line.currency] = (count + 1, total + amount, fees + fee)
    for (line_type, currency), (count, total, fees) in sorted(sums.items()):
        writer.writerow(["SUM", line_type, currency, count, total.format(), fees.format()])
    writer.writerow(["END", len(lines)])
    return text.getvalue().encode()
