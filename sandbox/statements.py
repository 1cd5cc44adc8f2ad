"""Writes the channel's day as a CSV file: captures, refunds and refunds that bounced, in the
channel's time zone from cut-off to cut-off.

A day that is over never changes. Differences are injected on demand (fault_injector.py); that file
is stored, so that it never changes either.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from mesh.clock import Clock
from mesh.money import Money
from sandbox import refund_store, statement_store, store
from sandbox.domain import (
    AlreadyPlanted,
    Disabled,
    InvalidRequest,
    Refund,
    RefundStatus,
    StatementNotReady,
    Transaction,
)
from sandbox.fault_injector import FaultInjector
from sandbox.statement_file import Line, LineType, Planted, render
from sandbox.store import Store, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRules:
    """The configured rules: the channel's days, and whether their statements may be altered."""

    time_zone: ZoneInfo
    cut_off: time
    may_be_spoiled: bool

    def day(self, date: date) -> tuple[datetime, datetime]:
        """When a day begins and when the next one does."""
        begins = datetime.combine(date, self.cut_off, tzinfo=self.time_zone)
        return begins, datetime.combine(
            date + timedelta(days=1), self.cut_off, tzinfo=self.time_zone
        )


class Statements:
    """Writes statements."""

    def __init__(self, channel_store: Store, *, clock: Clock, rules: StatementRules) -> None:
        self._store = channel_store
        self._clock = clock
        self._rules = rules

    async def statement(self, date: date) -> bytes:
        """The file of a day.

        Raises:
            StatementNotReady: the day is not over.
        """
        self._must_be_over(date)
        return await self._store.run(self._statement, date)

    async def captures(
        self, date: date, *, after: int, limit: int
    ) -> list[tuple[int, Transaction]]:
        """Captures of a day, which need not be over, with positions, beyond a position."""
        return await self._store.run(
            store.list_captured, *self._rules.day(date), after=after, limit=limit
        )

    async def refunds(self, date: date, *, after: int, limit: int) -> list[tuple[int, Refund]]:
        """Refunds that were asked for on a day, as they are now, with positions, beyond a
        position.
        """
        return await self._store.run(
            refund_store.list_asked_back, *self._rules.day(date), after=after, limit=limit
        )

    async def plant(
        self, date: date, *, count: int, seed: str, kinds: Sequence[str]
    ) -> list[Planted]:
        """Injects differences into the file of a day once and lists them. The same seed on the same
        day makes the same differences.

        Raises:
            Disabled: not in production. StatementNotReady: the day is not over. AlreadyPlanted: it
                is spoiled already.
            InvalidRequest: a kind that does not exist, or too few lines.
        """
        if not self._rules.may_be_spoiled:
            raise Disabled("statements are spoiled in development only")
        self._must_be_over(date)
        return await self._store.run(self._plant, date, count, seed, kinds)

    def _must_be_over(self, date: date) -> None:
        if self._clock.now() < self._rules.day(date)[1]:
            raise StatementNotReady(f"the statement of {date} is made when that day is over")

    def _statement(self, tx: Tx, date: date) -> bytes:
        return statement_store.find_statement(tx, date.isoformat()) or render(self._lines(tx, date))

    def _plant(
        self, tx: Tx, date: date, count: int, seed: str, kinds: Sequence[str]
    ) -> list[Planted]:
        if statement_store.find_statement(tx, date.isoformat()) is not None:
            raise AlreadyPlanted(f"the statement of {date} is spoiled already")
        next_day = self._rules.day(date)[1]
        injector = FaultInjector(self._lines(tx, date), seed=seed, next_day=next_day)
        injector.inject(count, kinds=kinds)
        shown, planted, shifted = injector.result()
        statement_store.insert_statement(tx, date=date.isoformat(), body=render(shown))
        for line in shifted:
            statement_store.insert_shifted_line(
                tx, date=(date + timedelta(days=1)).isoformat(), line=json.dumps(asdict(line))
            )
        return planted

    def _lines(self, tx: Tx, date: date) -> list[Line]:
        begins, ends = self._rules.day(date)
        captures = store.captured_between(tx, begins, ends)
        finished = refund_store.refunds_finished_between(tx, begins, ends)
        bounced = refund_store.refunds_reversed_between(tx, begins, ends)
        lines = [self._capture(transaction) for transaction in captures]
        lines += [
            self._refund(refund) for refund in finished if refund.status is not RefundStatus.FAILED
        ]
        lines += [self._refund(refund, bounced=True) for refund in bounced]
        lines += [
            Line(**json.loads(line)) for line in statement_store.shifted_lines(tx, date.isoformat())
        ]
        # one zone, one width: text sorts as time
        return sorted(lines, key=lambda line: (line.occurred_at, line.type, line.trade_no))

    def _capture(self, transaction: Transaction) -> Line:
        captured, fee = transaction.captured, transaction.fee
        if captured is None or fee is None or transaction.finished_at is None:
            raise ValueError("a capture has an amount, a fee and a time")
        return Line(
            type=LineType.CAPTURE,
            trade_no=transaction.trade_no,
            attempt_id=transaction.attempt_id,
            refund_id="",
            amount=captured.format(),
            currency=captured.currency,
            fee=fee.format(),
            occurred_at=self._local(transaction.finished_at),
        )

    def _refund(self, refund: Refund, *, bounced: bool = False) -> Line:
        """A refund that left, or its coming back, which returns no part of the fee."""
        zero = Money.zero(refund.amount.currency)
        fee = zero if bounced else refund.fee_returned or zero
        at = refund.occurred_at if bounced else refund.finished_at or refund.created_at
        return Line(
            type=LineType.REFUND_REVERSED if bounced else LineType.REFUND,
            trade_no=refund.refund_no,
            attempt_id=refund.attempt_id,
            refund_id=refund.refund_id,
            amount=refund.amount.format(),
            currency=refund.amount.currency,
            fee=fee.format(),
            occurred_at=self._local(at),
        )

    def _local(self, moment: datetime) -> str:
        return moment.astimezone(self._rules.time_zone).isoformat(timespec="milliseconds")


def parse_date(text: str) -> date:
    """A day of a path.

    Raises:
        InvalidRequest: not YYYY-MM-DD.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("date: expected YYYY-MM-DD") from None
    # 20261120 and 2026-W47-5 are dates too
    if day.isoformat() != text or not date.min < day < date.max:
        raise InvalidRequest("date: expected YYYY-MM-DD")
    return day
