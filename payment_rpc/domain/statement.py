"""Reads a channel's statement of a day, row by row, so that a long one needs no more memory than a
short one. Bad rows and wrong totals are reported by line and do not stop the good ones. Only an
incomplete file is refused.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from mesh.errors import InvalidArgument
from mesh.money import Money

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
BYTES_MAX = 24 * 1024 * 1024  # deflated it fits into a packet of MariaDB
ID_MAX = 64
SHOWN_MAX = 500  # of a row that cannot be read
SUMS_MAX = 2000  # one per type and currency
_ID = re.compile(r"[A-Za-z0-9_-]{0,64}")  # ids come back to the channel in paths
_SUM_FIELDS = 6  # SUM, type, currency, lines, amount, fee
_COUNT = re.compile(r"[0-9]{1,9}")


# Times from outside stay in this range, so that reckoning with days and graces never overflows.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def is_plausible(moment: datetime) -> bool:
    """False for times that no channel means: of a clock that was never set, or the smallest or
    largest date of a language.
    """
    return EARLIEST <= moment < LATEST


def first_plausible(*moments: datetime | None) -> datetime | None:
    """The first of some times that is there and plausible."""
    for moment in moments:
        if moment is not None and is_plausible(moment):
            return moment
    return None


def is_plausible_day(day: date) -> bool:
    """`is_plausible` of a day."""
    return EARLIEST.date() < day < LATEST.date()


class StatementUnreadable(Exception):
    """The file as a whole cannot be used: cut off, or not a statement."""


class LineType(StrEnum):
    """Meaning of the amount of a line."""

    CAPTURE = "CAPTURE"  # taken from a buyer; `fee` was kept of it
    REFUND = "REFUND"  # given back; `fee` came back to us
    REFUND_REVERSED = "REFUND_REVERSED"  # a refund came back
    FEE = "FEE"  # kept for something that is no capture
    # Of statements that list the whole account. A dispute or an adjustment is decided by a person
    # (its own message said so); they are not compared with captures and refunds.
    DISPUTE = "DISPUTE"  # taken back for a buyer's bank
    DISPUTE_REVERSED = "DISPUTE_REVERSED"  # a dispute was won
    ADJUSTMENT = "ADJUSTMENT"
    PAYOUT = "PAYOUT"  # paid to the merchant's bank


# compared with our books, and the ones that the sandbox's file knows
COMPARED = (LineType.CAPTURE, LineType.REFUND, LineType.REFUND_REVERSED, LineType.FEE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that can be read."""

    line_no: int
    type: LineType
    trade_no: str
    attempt_id: str
    refund_id: str
    amount: Money
    fee: Money
    occurred_at: datetime

    @property
    def content(self) -> tuple[object, ...]:
        """Everything in the line. Two lines with equal content are a duplicate."""
        return (
            self.type,
            self.trade_no,
            self.attempt_id,
            self.refund_id,
            self.amount,
            self.fee,
            self.occurred_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that cannot be read, and why; its ids as far as they are there."""

    line_no: int
    problem: str
    text: str
    attempt_id: str = ""
    refund_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Total:
    lines: int
    amount: Money
    fee: Money

    @classmethod
    def read(cls, row: Sequence[str]) -> _Total | None:
        if len(row) != _SUM_FIELDS or not _COUNT.fullmatch(row[3]):
            return None
        try:
            return cls(
                lines=int(row[3]),
                amount=Money.parse(row[4], row[2], allow_zero=True),
                fee=Money.parse(row[5], row[2], allow_zero=True),
            )
        except InvalidArgument:
            return None

    def __str__(self) -> str:
        return f"{self.lines} lines of {self.amount} with fees of {self.fee}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTotal:
    """A SUM row that the lines do not add up to, or the SUM row that is missing, and how they
    differ; the row's text, "" without one.
    """

    problem: str
    text: str


Entry = Line | BadLine | BadTotal


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDay:
    """How a channel counts its days: from cut-off to cut-off in its time zone."""

    time_zone: ZoneInfo
    cut_off: time

    def bounds(self, day: date) -> tuple[datetime, datetime]:
        """When a day begins and when the next one does."""
        begins = datetime.combine(day, self.cut_off, tzinfo=self.time_zone)
        return begins, datetime.combine(
            day + timedelta(days=1), self.cut_off, tzinfo=self.time_zone
        )


def problem_of_ids(ids: Mapping[str, str]) -> str:
    """The first of some ids of a line that is none of ours or a channel's, by its name; "" when all
    may be.
    """
    for name, value in ids.items():
        if not _ID.fullmatch(value):
            return f"{name}: not up to {ID_MAX} letters, digits, _ and -"
    return ""


def parse_statement(content: bytes) -> Iterator[Entry]:
    """Reads a file, line by line. Nothing of it counts before it was read to its end.

    Raises:
        StatementUnreadable: too long, not UTF-8, another header, or no END with the number of
            lines.
    """
    if len(content) > BYTES_MAX:
        raise StatementUnreadable(f"more than {BYTES_MAX} bytes")
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="")
    try:
        yield from _entries(csv.reader(text, strict=True))
    except UnicodeDecodeError:
        raise StatementUnreadable("not UTF-8") from None
    except csv.Error as error:
        raise StatementUnreadable(f"not CSV: {error}") from None


def _entries(rows: Iterator[list[str]]) -> Iterator[Entry]:
    if tuple(next(rows, ())) != COLUMNS:
        raise StatementUnreadable(f"the first line is not {','.join(COLUMNS)}")
    sums, totals, number = list[list[str]](), dict[tuple[str, str], _Total](), 0
    last = next(rows, [])
    for row in rows:
        body, last = last, row
        if body[:1] == ["SUM"]:
            sums.append(body)
            if len(sums) > SUMS_MAX:
                raise StatementUnreadable(f"more than {SUMS_MAX} totals")
            continue
        number += 1
        line = _line(number, body)
        _add_up(totals, body, line)
        yield line
    if last[:1] != ["END"]:
        raise StatementUnreadable("cut off: the last line is not END")
    if last[1:] != [str(number)]:
        raise StatementUnreadable(
            f"cut off: END says {','.join(last[1:])} lines, there are {number}"
        )
    yield from _bad_totals(sums, totals)


def _add_up(
    totals: dict[tuple[str, str], _Total], row: Sequence[str], line: Line | BadLine
) -> None:
    """Number, amount and fee per type and currency of all rows whose money can be read, whatever
    else is wrong with them.
    """
    if isinstance(line, Line):
        group, amount, fee = (str(line.type), line.amount.currency), line.amount, line.fee
    elif (found := _money_of(row)) is not None:
        group, amount, fee = found
    else:
        return
    before = totals.get(group)
    if before is None:
        totals[group] = _Total(lines=1, amount=amount, fee=fee)
    else:
        totals[group] = _Total(
            lines=before.lines + 1, amount=before.amount + amount, fee=before.fee + fee
        )


def _money_of(row: Sequence[str]) -> tuple[tuple[str, str], Money, Money] | None:
    if len(row) != len(COLUMNS):
        return None
    field = dict(zip(COLUMNS, row, strict=True))
    try:
        return (
            (field["type"], field["currency"]),
            Money.parse(field["amount"], field["currency"]),
            Money.parse(field["fee"], field["currency"], allow_zero=True),
        )
    except InvalidArgument:
        return None


def _bad_totals(
    sums: Sequence[Sequence[str]], actual: dict[tuple[str, str], _Total]
) -> Iterator[BadTotal]:
    said: set[tuple[str, str]] = set()
    for row in sums:
        text = ",".join(row)[:SHOWN_MAX]
        total = _Total.read(row)
        if total is None:
            yield BadTotal(problem="cannot be read", text=text)
            continue
        group = (row[1], row[2])
        there = actual.get(
            group, _Total(lines=0, amount=Money.zero(row[2]), fee=Money.zero(row[2]))
        )
        if group in said:
            yield BadTotal(problem=f"a second total of {row[1]} in {row[2]}", text=text)
        elif total != there:
            yield BadTotal(
                problem=f"{row[1]} in {row[2]}: it says {total}, there are {there}", text=text
            )
        said.add(group)
    for line_type, currency in sorted(actual.keys() - said):
        yield BadTotal(
            problem=f"{line_type} in {currency}: there are {actual[line_type, currency]}, and no "
            f"total",
            text="",
        )


def _line(number: int, row: Sequence[str]) -> Line | BadLine:
    text = ",".join(row)[:SHOWN_MAX]
    if len(row) != len(COLUMNS):
        return BadLine(
            line_no=number, problem=f"{len(row)} fields instead of {len(COLUMNS)}", text=text
        )
    field = dict(zip(COLUMNS, row, strict=True))
    ids = {name: field[name] for name in ("attempt_id", "refund_id")}

    def bad(problem: str) -> BadLine:
        return BadLine(
            line_no=number,
            problem=problem,
            text=text,
            **{name: value[:ID_MAX] for name, value in ids.items()},
        )

    if field["line_no"] != str(number):
        return bad(f"line_no: expected {number}")
    if field["type"] not in COMPARED:
        return bad(f"type: not one of {', '.join(COMPARED)}")
    strange = problem_of_ids(
        {name: field[name] for name in ("trade_no", "attempt_id", "refund_id")}
    )
    if strange:
        return bad(strange)
    try:
        amount = Money.parse(field["amount"], field["currency"])
        fee = Money.parse(field["fee"], field["currency"], field="fee", allow_zero=True)
    except InvalidArgument as error:
        return bad(str(error))
    try:
        occurred_at = datetime.fromisoformat(field["occurred_at"])
    except ValueError:
        return bad("occurred_at: not RFC 3339")
    if occurred_at.tzinfo is None:
        return bad("occurred_at: has no time zone")
    if not is_plausible(occurred_at):
        return bad("occurred_at: no time of this or the next century")
    return Line(
        line_no=number,
        type=LineType(field["type"]),
        trade_no=field["trade_no"],
        amount=amount,
        fee=fee,
        occurred_at=occurred_at,
        **ids,
    )
