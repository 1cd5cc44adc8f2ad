"""What a shop earns, by day. The transactions that are counted write the figures; this module folds
them, reads them, and can count everything again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.progress import looked_at
from order_rpc.domain.statistics import DayStatistics, Entry, Figure, by_day, day_begins, zone
from order_rpc.store import statistics
from order_rpc.tables import STATISTIC_ENTRY

DAYS_MAX = 366
CORRECTIONS_BATCH = 500

_Key = tuple[str, str, datetime, Figure]
_Sums = dict[_Key, list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One day in every currency that it has."""

    day: date
    time_zone: str
    days: tuple[DayStatistics, ...]


class Statistics:
    """ListOrderStatistics, GetDailySummary, and the work behind them."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._folding = RowBatches(
            db=db,
            quarantine=Quarantine("fold_statistics", STATISTIC_ENTRY.c.id),
            most=statistics.FOLD_BATCH,
            due=statistics.fold_statement,
            take=statistics.fold,
        )

    async def list_order_statistics(
        self, *, merchant_id: str, first: str, last: str, time_zone: str, currency: str
    ) -> tuple[DayStatistics, ...]:
        """The days from `first` to `last` (YYYY-MM-DD) of a time zone that have orders, by day and
        currency.

        Raises:
            InvalidArgument: no such day or time zone, or more than 366 days.
        """
        begin, end, tz = (
            _day(first, field="from_date"),
            _day(last, field="to_date"),
            zone(time_zone),
        )
        if not 0 <= (end - begin).days < DAYS_MAX:
            raise InvalidArgument.of(
                "to_date", f"expected {DAYS_MAX} days at most, the first one first"
            )
        entries = await self._db.read(
            statistics.figures,
            merchant_id=merchant_id,
            begin=day_begins(begin, tz),
            end=day_begins(end + timedelta(days=1), tz),
            currency=currency,
        )
        return tuple(by_day(entries, tz))

    async def get_daily_summary(self, *, merchant_id: str, day: str, time_zone: str) -> Summary:
        """One day of a time zone; "" is today.

        Raises:
            InvalidArgument: no such day or time zone.
        """
        tz = zone(time_zone)
        wanted = _day(day, field="date") if day else self._clock.now().astimezone(tz).date()
        days = await self.list_order_statistics(
            merchant_id=merchant_id,
            first=wanted.isoformat(),
            last=wanted.isoformat(),
            time_zone=time_zone,
            currency="",
        )
        return Summary(day=wanted, time_zone=time_zone or "UTC", days=days)

    async def fold_once(self) -> int:
        """Moves entries into the sums; returns how many."""
        return len(await self._folding.run())

    async def missing(self, *, progress: Callable[[int, int], None]) -> list[Entry]:
        """Counts everything again and says what the figures lack, of one moment; negative where
        they hold too much.

        Args:
            progress: called with how many orders are counted and how many there are.
        """
        return await self._db.read_at_one_moment(_compare, progress)

    async def rebuild(self, *, progress: Callable[[int, int], None]) -> int:
        """Counts everything again and adds what the figures lack, while orders go on; returns how
        many figures were wrong. Run one at a time.

        Both counts are of one moment, and a difference is added like any other entry, so that
        nothing that happens meanwhile is lost.

        Args:
            progress: called with how many orders are counted and how many there are.
        """
        corrections = await self.missing(progress=progress)
        for begin in range(0, len(corrections), CORRECTIONS_BATCH):
            await self._db.run(statistics.add, corrections[begin : begin + CORRECTIONS_BATCH])
        return len(corrections)


async def _compare(tx: AsyncConnection, progress: Callable[[int, int], None]) -> list[Entry]:
    """What is missing from the figures; negative where they hold too much."""
    total, done = await statistics.count_orders(tx), 0
    sums: _Sums = {}
    async for each in statistics.kept(tx):
        _add(sums, each, sign=-1)
    async for counted in statistics.of_orders(tx):
        for each in counted:
            _add(sums, each)
        more = sum(each.count for each in counted if each.figure is Figure.CREATED)
        looked_at("figures of orders", more)
        done += more
        progress(done, total)
    async for counted in statistics.of_refunds(tx):
        for each in counted:
            _add(sums, each)
    return [
        Entry(
            merchant_id=merchant_id,
            currency=currency,
            quarter=quarter,
            figure=figure,
            count=count,
            amount_minor=amount,
        )
        for (merchant_id, currency, quarter, figure), (count, amount) in sums.items()
        if count or amount
    ]


def _add(sums: _Sums, entry: Entry, *, sign: int = 1) -> None:
    figure = sums.setdefault(
        (entry.merchant_id, entry.currency, entry.quarter, entry.figure), [0, 0]
    )
    figure[0] += sign * entry.count
    figure[1] += sign * entry.amount_minor


def _day(text: str, *, field: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidArgument.of(field, "expected a day such as 2026-11-20") from None
    if not 1970 <= day.year < 9999:  # the days that times in milliseconds have
        raise InvalidArgument.of(field, "expected a day after 1970")
    return day
