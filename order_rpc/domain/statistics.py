"""What is counted about orders: figures per quarter of an hour, and the days that they add up
to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mesh.errors import InvalidArgument
from mesh.money import Money
from order_rpc.domain.order import Order

QUARTER = timedelta(minutes=15)


class Figure(StrEnum):
    """What is counted. Each has a count and an amount."""

    CREATED = "CREATED"  # orders, when they were created
    PAID = "PAID"  # orders, when they were paid
    CONVERTED = "CONVERTED"  # orders that were paid, when they were created
    CANCELLED = "CANCELLED"  # orders, when they were cancelled
    # refunds of sales, when they were reported; one that bounces is subtracted then
    REFUNDED = "REFUNDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something to count."""

    merchant_id: str
    currency: str
    quarter: datetime  # its beginning, UTC
    figure: Figure
    count: int
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayStatistics:
    """One day of a merchant in one currency."""

    day: date
    merchant_id: str
    currency: str
    created: tuple[int, Money]
    paid: tuple[int, Money]
    converted: int
    cancelled: int
    refunded: tuple[int, Money]

    @property
    def average_paid(self) -> Money:
        """Money per paid order, rounded down; zero without any."""
        count, amount = self.paid
        return Money(amount.minor // count if count else 0, self.currency)

    @property
    def conversion(self) -> str:
        """Share of the orders created that day that were ever paid, four digits; "" without
        orders.
        """
        count = self.created[0]
        if not count:
            return ""
        # rounded to the nearest
        ten_thousandths = (2 * 10_000 * self.converted + count) // (2 * count)
        return f"{ten_thousandths // 10_000}.{ten_thousandths % 10_000:04d}"


def quarter_of(moment: datetime) -> datetime:
    """The beginning of the quarter of an hour that a moment lies in."""
    return moment - timedelta(
        minutes=moment.minute % 15, seconds=moment.second, microseconds=moment.microsecond
    )


def entry(
    order: Order, figure: Figure, *, at: datetime, count: int = 1, amount: Money | None = None
) -> Entry:
    """One fact about an order; its whole amount unless another is given."""
    amount = order.amount if amount is None else amount
    return Entry(
        merchant_id=order.merchant_id,
        currency=order.amount.currency,
        quarter=quarter_of(at),
        figure=figure,
        count=count,
        amount_minor=amount.minor * count,
    )


def entries_of_payment(order: Order, *, at: datetime, count: int = 1) -> list[Entry]:
    """What an order counts that is paid now, with the money that came for it. `count` -1: that was
    paid then, and is not paid any more.
    """
    return [
        entry(order, Figure.PAID, at=at, count=count, amount=order.captured),
        entry(order, Figure.CONVERTED, at=order.created_at, count=count),
    ]


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name; "" is UTC.

    Raises:
        InvalidArgument: there is none of that name.
    """
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidArgument.of(
            "time_zone", "expected an IANA name such as Asia/Shanghai"
        ) from None


def day_begins(day: date, tz: ZoneInfo) -> datetime:
    """The first moment of a day in a time zone."""
    return datetime.combine(day, time(0), tz)


def by_day(entries: Iterable[Entry], tz: ZoneInfo) -> list[DayStatistics]:
    """Adds figures up to days, by day and currency. All are of one merchant."""
    sums: dict[tuple[date, str, str], dict[Figure, tuple[int, int]]] = {}
    for each in entries:
        figures = sums.setdefault(
            (each.quarter.astimezone(tz).date(), each.currency, each.merchant_id), {}
        )
        count, amount = figures.get(each.figure, (0, 0))
        figures[each.figure] = (count + each.count, amount + each.amount_minor)

    def day_of(
        day: date, currency: str, merchant_id: str, figures: dict[Figure, tuple[int, int]]
    ) -> DayStatistics:
        def figure(kind: Figure) -> tuple[int, Money]:
            count, amount = figures.get(kind, (0, 0))
            return count, Money(amount, currency)

        return DayStatistics(
            day=day,
            merchant_id=merchant_id,
            currency=currency,
            created=figure(Figure.CREATED),
            paid=figure(Figure.PAID),
            converted=figure(Figure.CONVERTED)[0],
            cancelled=figure(Figure.CANCELLED)[0],
            refunded=figure(Figure.REFUNDED),
        )

    return [
        day_of(*key, figures)
        for key, figures in sorted(sums.items())
        if any(count or amount for count, amount in figures.values())
    ]
