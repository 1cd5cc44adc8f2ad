"""ImportStatement and GetStatementImport: compares a channel's statement of a day with our books.
The worker compares it chunk by chunk, and goes on where a crash left it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument, MeshError
from mesh.failpoints import FailpointRaised
from mesh.ids import Ids
from mesh.logs import get_logger
from payment_rpc.channels import Channel
from payment_rpc.channels.capabilities import FeeKnown
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.difference import Finding
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.reconciliation import Matching, OurCapture, OurRefund, UnbookedFee
from payment_rpc.domain.statement import (
    BadLine,
    ChannelDay,
    Line,
    LineType,
    Statement,
    StatementUnreadable,
)
from payment_rpc.store import differences, ledger, own_records, payments
from payment_rpc.store import statement_imports as imports
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.tables import STATEMENT_IMPORT

CHUNK = 500  # lines in one transaction
LINE_ERRORS_SHOWN = 100
FIRST_YEAR = 2000

Bounds = tuple[datetime, datetime]  # when a day of the channel begins, and when the next one does

log = get_logger()


class StatementImports:
    """Imports statements. What takes longer the larger the file is runs in a thread, so that calls
    are served meanwhile.
    """

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        channels: Channels,
        timeout_seconds: float,
        wake_worker: Callable[[], None],
        chunk: int = CHUNK,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._channels = channels
        self._timeout_seconds = timeout_seconds
        self._wake_worker = wake_worker
        self._chunk = chunk
        self._quarantine = Quarantine("import_statements", STATEMENT_IMPORT.c.import_id)
        self._parsed: tuple[str, Matching] | None = None  # of the import that is being compared

    async def import_statement(self, channel: str, day: str) -> StatementImport:
        """Fetches a statement; the worker then compares it. The same bytes again are the same
        import.

        Raises:
            ChannelNotSupported, InvalidArgument: no such channel, or a day that is not over.
            ChannelUnavailable: the channel gave none; asking again is safe.
        """
        source = await self._channels.get(channel)
        wanted = self._past_day(day, source.capabilities.statement_day)
        content = await source.statement(wanted, timeout_seconds=self._timeout_seconds)
        now = self._clock.now()
        state, error = "RUNNING", ""
        statement = Statement(lines=(), bad_totals=())
        try:
            statement = await asyncio.to_thread(source.parse_statement, content, wanted)
        except StatementUnreadable as problem:
            state, error = "FAILED", str(problem)
        bad = [
            *(f"SUM: {total.problem}" for total in statement.bad_totals),
            *(
                f"line {line.line_no}: {line.problem}"
                for line in statement.lines
                if isinstance(line, BadLine)
            ),
        ]
        found = await self._db.run(
            imports.add_import,
            StatementImport(
                import_id=self._ids.new("IMP"),
                channel=channel,
                date=day,
                content_hash=await asyncio.to_thread(_digest, content),
                state=state,
                lines=len(statement.lines),
                processed=0,
                differences=0,
                line_errors=tuple(bad[:LINE_ERRORS_SHOWN]),
                error=error,
                created_at=now,
                finished_at=now if error else None,
            ),
            await asyncio.to_thread(imports.packed, b"" if error else content),
        )
        self._wake_worker()
        return found

    async def get_statement_import(self, import_id: str) -> StatementImport:
        """How far an import is, or ReconciliationNotFound."""
        return await self._db.read(imports.get_import, import_id)

    async def run_once(self) -> int:
        """Compares the next chunk of the oldest import that is not complete; returns how many
        chunks that was.
        """
        import_id = await self._db.read(imports.next_running, self._quarantine)
        if import_id is None:
            self._parsed = None  # another process may have finished the one that was parsed here
            return 0
        try:
            await self._advance(await self._db.read(imports.get_import, import_id))
        except (MeshError, FailpointRaised):
            raise
        except Exception as error:  # noqa: BLE001  logged with its id: the imports behind it go on
            self._quarantine.add((import_id,), error)
        return 1

    async def _advance(self, running: StatementImport) -> None:
        channel = await self._channels.get(running.channel)
        bounds = channel.capabilities.statement_day.bounds(date.fromisoformat(running.date))
        matching = await self._open(running, channel, bounds)
        chunk = matching.lines[running.processed : running.processed + self._chunk]
        if channel.capabilities.fee_known is FeeKnown.STATEMENT:
            await self._book_fees(running, matching, chunk)
        if chunk and not await self._db.run(self._match, running, matching, chunk):
            return
        if running.processed + len(chunk) >= len(matching.lines):
            await self._db.run(self._file, running, list(matching.wrong_totals()))
            await self._file_missing(running, channel, bounds, matching)
            await self._db.run(self._finish, running.import_id)
            self._parsed = None

    def _past_day(self, text: str, day: ChannelDay) -> date:
        try:
            wanted = date.fromisoformat(text)
        except ValueError:
            raise InvalidArgument.of("date", "expected a day as YYYY-MM-DD") from None
        now = self._clock.now()
        if wanted.isoformat() != text or wanted.year < FIRST_YEAR:
            raise InvalidArgument.of("date", f"expected a day as YYYY-MM-DD, {FIRST_YEAR} or later")
        if wanted > (now + timedelta(days=2)).date() or day.bounds(wanted)[0] > now:
            raise InvalidArgument.of("date", "is in the future")
        ends = day.bounds(wanted)[1]
        if ends > now:
            raise InvalidArgument.of(
                "date", f"the channel's day is not over before {ends.isoformat()}"
            )
        return wanted

    async def _open(self, running: StatementImport, channel: Channel, bounds: Bounds) -> Matching:
        if self._parsed is None or self._parsed[0] != running.import_id:
            self._parsed = None  # never two of them at once
            packed = await self._db.read(imports.content_of, running.import_id)

            def parse() -> Matching:
                return Matching(
                    channel.parse_statement(
                        imports.unpacked(packed), date.fromisoformat(running.date)
                    ),
                    channel=running.channel,
                    date=running.date,
                    bounds=bounds,
                )

            self._parsed = (running.import_id, await asyncio.to_thread(parse))
        return self._parsed[1]

    async def _match(
        self,
        tx: AsyncConnection,
        running: StatementImport,
        matching: Matching,
        chunk: Sequence[Line | BadLine],
    ) -> bool:
        present = await imports.get_import(tx, running.import_id)
        if present.processed != running.processed or present.state != "RUNNING":
            return False  # another process compared it
        captures, refunds = await _named(tx, chunk, running.channel)
        found = [matching.judge(line, captures=captures, refunds=refunds) for line in chunk]
        await imports.advance(tx, running, processed=running.processed + len(chunk))
        await self._file(tx, running, [finding for finding in found if finding is not None])
        return True

    async def _book_fees(
        self, running: StatementImport, matching: Matching, chunk: Sequence[Line | BadLine]
    ) -> None:
        """Books fees that only the statement tells, each in a transaction of its own, so that no
        charge waits for long. A crash leaves some for the next try.
        """
        captures, refunds = await self._db.read(_named, chunk, running.channel)
        for unbooked in matching.unbooked_fees(chunk, captures=captures, refunds=refunds):
            await self._db.run(self._book_fee, unbooked)

    async def _book_fee(self, tx: AsyncConnection, unbooked: UnbookedFee) -> None:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, unbooked.payment_id)
        if await own_records.is_booked(tx, unbooked.booking.key):
            return
        changed = payment.touched(at=now)
        if unbooked.trade_no and unbooked.trade_no == payment.channel_trade_no:
            changed = replace(changed, fee=unbooked.fee)
        booked = await ledger.book(tx, changed, unbooked.booking, at=now)
        await payments.save_payment(tx, booked, read_version=payment.version)

    async def _file(
        self, tx: AsyncConnection, of: StatementImport, findings: Sequence[Finding]
    ) -> None:
        for finding in findings:
            await differences.file(
                tx, finding, difference_id=self._ids.new("DIF"), of=of, at=self._clock.now()
            )

    async def _finish(self, tx: AsyncConnection, import_id: str) -> None:
        await imports.finish(tx, import_id, at=self._clock.now())

    async def _file_missing(
        self, running: StatementImport, channel: Channel, bounds: Bounds, matching: Matching
    ) -> None:
        """Files what our books have and the statement has not. The statements of the day before and
        the day after are read first: the line may be there.
        """
        elsewhere: dict[str, str] | None = None
        async for captures, refunds in self._our_day(running, bounds):
            lost = [
                *matching.missing_captures(captures, elsewhere={}),
                *matching.missing_refunds(refunds, elsewhere={}),
            ]
            if not lost:
                continue
            if elsewhere is None:
                elsewhere = await self._lines_of_adjacent_days(running, channel)
            await self._db.run(
                self._file,
                running,
                [
                    *matching.missing_captures(captures, elsewhere=elsewhere),
                    *matching.missing_refunds(refunds, elsewhere=elsewhere),
                ],
            )

    async def _our_day(
        self, running: StatementImport, bounds: Bounds
    ) -> AsyncIterator[tuple[list[OurCapture], list[OurRefund]]]:
        begins, ends = bounds
        after = ""
        while captures := await self._db.read(
            own_records.captures_of_day,
            channel=running.channel,
            begins=begins,
            ends=ends,
            after=after,
            limit=self._chunk,
        ):
            yield captures, []
            after = captures[-1].attempt_id
        after = ""
        while refunds := await self._db.read(
            own_records.refunds_of_day,
            channel=running.channel,
            begins=begins,
            ends=ends,
            after=after,
            limit=self._chunk,
        ):
            yield [], refunds
            after = refunds[-1].refund_id

    async def _lines_of_adjacent_days(
        self, running: StatementImport, channel: Channel
    ) -> dict[str, str]:
        """The day of each attempt and refund in the statements of the day before and the day after,
        as far as there are any.
        """
        found: dict[str, str] = {}
        for adjacent_day in (
            date.fromisoformat(running.date) + timedelta(days=step) for step in (-1, 1)
        ):
            try:
                content = await channel.statement(
                    adjacent_day, timeout_seconds=self._timeout_seconds
                )
                found_there = await asyncio.to_thread(
                    channel.parse_statement, content, adjacent_day
                )
            except (ChannelUnavailable, StatementUnreadable):
                # the import of that day finds the line and turns the difference into a CUTOFF_SHIFT
                continue
            for line in found_there.lines:
                if isinstance(line, Line):
                    found[line.attempt_id if line.type is LineType.CAPTURE else line.refund_id] = (
                        adjacent_day.isoformat()
                    )
        return found


async def _named(
    tx: AsyncConnection, lines: Sequence[Line | BadLine], channel: str
) -> tuple[dict[str, OurCapture], dict[str, OurRefund]]:
    """Our captures and refunds at the channel that some lines name."""
    return (
        await own_records.captures_named(
            tx, sorted({line.attempt_id for line in lines}), channel=channel
        ),
        await own_records.refunds_named(
            tx, sorted({line.refund_id for line in lines}), channel=channel
        ),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
