"""Reads a statement in a thread, twice: to its end, and then chunk by chunk. A charge beside it
waits for neither, and the memory that it needs is that of the file and of a hash per line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import islice

from mesh.pacing import Pace
from payment_rpc.channels import Channel
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.statement import (
    BadLine,
    BadTotal,
    Entry,
    Line,
    LineType,
    StatementUnreadable,
)
from payment_rpc.domain.statement_index import Hashes, StatementIndex

LINE_ERRORS_SHOWN = 100


class Reading:
    """A statement that is being compared: what stands in it, and the place where it is read."""

    def __init__(self, import_id: str, parse: Callable[[], Iterator[Entry]], pace: Pace) -> None:
        self.import_id = import_id
        self.index = StatementIndex()
        self.line_errors = list[str]()
        self._parse = parse
        self._pace = pace
        self._lines = iter(())  # type: Iterator[Line | BadLine]
        self._next = 0  # the place of the line that comes next from `_lines`
        self._chunk: tuple[int, list[Line | BadLine]] = (-1, [])

    async def whole(self) -> Reading:
        """Reads it to its end once.

        Raises:
            StatementUnreadable: it is not whole. Stopped: the process ends.
        """
        await asyncio.to_thread(self._see_all)
        return self

    def _see_all(self) -> None:
        for entry in self._pace.paced(self._parse()):
            self.index.see(entry)
            if not isinstance(entry, Line) and len(self.line_errors) < LINE_ERRORS_SHOWN:
                where = "SUM" if isinstance(entry, BadTotal) else f"line {entry.line_no}"
                self.line_errors.append(f"{where}: {entry.problem}")
        self.index.saw_all()
        self._lines = self._again()

    def _again(self) -> Iterator[Line | BadLine]:
        for entry in self._pace.paced(self._parse()):
            if not isinstance(entry, BadTotal):
                self.index.pass_by(entry)
                yield entry

    async def lines(self, start: int, count: int) -> list[Line | BadLine]:
        """Up to `count` lines that come after `start` others; the same ones again when they were
        not compared.

        Raises:
            Stopped: the process ends.
        """
        if self._chunk[0] != start:
            self._chunk = (start, await asyncio.to_thread(self._take, start, count))
        return self._chunk[1]

    def _take(self, start: int, count: int) -> list[Line | BadLine]:
        if start < self._next:
            self._lines, self._next = self._again(), 0
        for _ in islice(self._lines, start - self._next):
            pass  # another process, or this one before it was restarted, compared them
        found = list(islice(self._lines, count))
        self._next = start + len(found)
        return found


class AdjacentDays:
    """What stands in the statements of the day before a day and the day after, as far as there are
    any. They are fetched when they are first asked for.
    """

    def __init__(
        self,
        channel: Channel,
        day: date,
        *,
        pace: Pace,
        fetch: Callable[[date], Awaitable[bytes]],
    ) -> None:
        """`fetch`: gives the channel's statement of a day; a process that ends stops it."""
        self._channel = channel
        self._days = [day + timedelta(days=step) for step in (-1, 1)]
        self._pace = pace
        self._fetch = fetch
        self._subjects: dict[date, Hashes] | None = None

    async def of(self, subjects: Sequence[str]) -> Mapping[str, str]:
        """The day of each of some attempts and refunds that stands in one of the two.

        Raises:
            Stopped: the process ends.
        """
        if self._subjects is None:
            self._subjects = {day: await self._read(day) for day in self._days}
        return {
            subject: day.isoformat()
            for day, there in self._subjects.items()
            for subject in subjects
            if hash(subject) in there
        }

    async def _read(self, day: date) -> Hashes:
        try:
            content = await self._fetch(day)
            return await asyncio.to_thread(self._index, content, day)
        except (ChannelUnavailable, StatementUnreadable):
            # the import of that day finds the line and turns the difference into a CUTOFF_SHIFT
            return {}

    def _index(self, content: bytes, day: date) -> Hashes:
        return {
            hash(entry.attempt_id if entry.type is LineType.CAPTURE else entry.refund_id): None
            for entry in self._pace.paced(self._channel.parse_statement(content, day))
            if isinstance(entry, Line) and entry.type in (LineType.CAPTURE, LineType.REFUND)
        }
