"""ImportStatement and GetStatementImport: compares a channel's statement of a day with our books.
The worker fetches it, compares it chunk by chunk, and goes on where a crash left it.

A day that is not complete can be imported as far as it goes: its lines are matched and its fees
booked. What does not match is no difference yet, because the line or our own row may still come;
the import of the whole day says so. Each fee is booked under its own key, so the second time books
nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from time import perf_counter

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import Conflict, InvalidArgument, MeshError, OutcomeUnknown, Unavailable
from mesh.failpoints import FailpointRaised
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.pacing import Pace, Stopped
from payment_rpc.channels import Channel
from payment_rpc.channels.capabilities import Capabilities, FeeKnown, StatementKind
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.difference import Finding
from payment_rpc.domain.errors import ChannelNotSupported, ChannelUnavailable
from payment_rpc.domain.reconciliation import Matching, OurCapture, OurRefund, UnbookedFee
from payment_rpc.domain.statement import BadLine, Line, StatementUnreadable
from payment_rpc.store import differences, ledger, own_records, payments
from payment_rpc.store import statement_imports as imports
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.tables import STATEMENT_IMPORT
from payment_rpc.usecases.statement_reading import AdjacentDays, Reading

CHUNK = 100  # lines in one transaction: comparing them keeps a charge waiting for milliseconds
FETCH_SECONDS = 900.0  # a long day is thousands of pages at some providers
REST_SECONDS_MAX = 0.1
FIRST_YEAR = 2000

Bounds = tuple[datetime, datetime]  # when a day of the channel begins, and when the next one does

log = get_logger()


class StatementImports:
    """Imports statements. What takes longer the larger the file is runs in a thread and rests in
    between, so that calls are served meanwhile.
    """

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        channels: Channels,
        wake_worker: Callable[[], None],
        chunk: int = CHUNK,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._channels = channels
        self._wake_worker = wake_worker
        self._chunk = chunk
        self._pace = Pace()
        self._stopping = asyncio.Event()
        self._quarantine = Quarantine("import_statements", STATEMENT_IMPORT.c.import_id)
        self._reading: Reading | None = None  # of the import that is being compared

    async def import_statement(
        self, channel: str, day: str, *, so_far: bool = False
    ) -> StatementImport:
        """Begins an import; the worker fetches the statement and compares it. While one of the day
        is under way it is that one.

        Args:
            so_far: take a day that is not complete as far as it goes.

        Raises:
            ChannelNotSupported, InvalidArgument: no such channel, or one without statements; a day
                that has not begun, or that is not complete.
        """
        source = await self._channels.get(channel)
        if source.capabilities.statement is StatementKind.NONE:
            raise InvalidArgument.of("channel", "has no statements")
        is_complete = self._is_complete(day, source.capabilities, so_far=so_far)
        found = await self._db.run(
            imports.add_import,
            import_id=self._ids.new("IMP"),
            channel=channel,
            day=day,
            is_complete=is_complete,
            at=self._clock.now(),
        )
        self._wake_worker()
        return found

    def stop(self) -> None:
        """The process ends: leaves a file that is being fetched or read. The next process begins
        it again, and compares no line twice.
        """
        self._stopping.set()
        self._pace.stop()

    async def get_statement_import(self, import_id: str) -> StatementImport:
        """How far an import is, or ReconciliationNotFound."""
        return await self._db.read(imports.get_import, import_id)

    async def run_once(self) -> int:
        """Fetches the statement of the oldest import that is not complete, or compares its next
        chunk; returns how many steps that was.
        """
        import_id = await self._db.read(imports.next_unfinished, self._quarantine)
        if import_id is None:
            self._reading = None  # another process may have finished the one that was read here
            return 0
        try:
            await self._step(await self._db.read(imports.get_import, import_id))
        except Stopped:
            return 0
        except (Unavailable, OutcomeUnknown, Conflict, FailpointRaised):
            raise  # it is not caused by this import
        except Exception as error:  # noqa: BLE001  logged with its id: the imports behind it go on
            self._quarantine.add((import_id,), error)
        return 1

    async def _step(self, running: StatementImport) -> None:
        try:
            channel = await self._channels.get(running.channel)
            if running.state == "FETCHING":
                await self._fetch(running, channel)
            else:
                begin = perf_counter()
                await self._advance(running, channel)
                # as long as it took: at least half of the process's time is left to calls
                await asyncio.sleep(min(perf_counter() - begin, REST_SECONDS_MAX))
        except (ChannelUnavailable, ChannelNotSupported, StatementUnreadable) as problem:
            message = problem.message if isinstance(problem, MeshError) else str(problem)
            await self._db.run(imports.fail, running, error=message, at=self._clock.now())

    async def _fetch(self, running: StatementImport, channel: Channel) -> None:
        until = None if running.is_complete else self._clock.now()
        content = await self._fetched(channel, date.fromisoformat(running.date), until=until)
        reading = await self._read(running, channel, content)
        is_stored = await self._db.run(
            imports.begin,
            running,
            content=await asyncio.to_thread(imports.packed, content),
            content_hash=await asyncio.to_thread(_digest, content),
            lines=reading.index.lines,
            line_errors=tuple(reading.line_errors),
        )
        # what another process stored may have other lines: then that is compared, here too
        self._reading = reading if is_stored else None

    async def _fetched(
        self, channel: Channel, day: date, *, until: datetime | None = None
    ) -> bytes:
        fetching = asyncio.ensure_future(
            channel.statement(day, timeout_seconds=FETCH_SECONDS, until=until)
        )
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((fetching, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                raise Stopped
            return await fetching
        finally:
            stopping.cancel()
            fetching.cancel()

    async def _advance(self, running: StatementImport, channel: Channel) -> None:
        if self._reading is None or self._reading.import_id != running.import_id:
            self._reading = None  # never two of them at once
            packed = await self._db.read(imports.content_of, running.import_id)
            if not packed:
                return  # another process has finished it meanwhile
            content = await asyncio.to_thread(imports.unpacked, packed)
            self._reading = await self._read(running, channel, content)
        reading = self._reading
        if reading.index.lines != running.lines:
            raise StatementUnreadable("this version reads other lines in it: import it again")
        matching = Matching(
            reading.index,
            channel=running.channel,
            date=running.date,
            bounds=channel.capabilities.statement_day.bounds(date.fromisoformat(running.date)),
        )
        chunk = await reading.lines(running.processed, self._chunk)
        if channel.capabilities.fee_known is FeeKnown.STATEMENT:
            await self._book_fees(running, matching, chunk)
        if chunk and not await self._db.run(self._match, running, matching, chunk):
            return
        if running.processed + len(chunk) >= running.lines:
            if running.is_complete:
                await self._db.run(self._file, running, list(matching.wrong_totals()))
                await self._file_missing(running, channel, matching)
            await self._db.run(self._finish, running)
            self._reading = None

    def _is_complete(self, text: str, capabilities: Capabilities, *, so_far: bool) -> bool:
        """Whether the channel's statement of a day is complete by now.

        Raises:
            InvalidArgument: not a day, or it has not begun; without `so_far`, not complete.
        """
        day, ready = capabilities.statement_day, capabilities.statement_ready
        try:
            wanted = date.fromisoformat(text)
        except ValueError:
            raise InvalidArgument.of("date", "expected a day as YYYY-MM-DD") from None
        now = self._clock.now()
        if wanted.isoformat() != text or wanted.year < FIRST_YEAR:
            raise InvalidArgument.of("date", f"expected a day as YYYY-MM-DD, {FIRST_YEAR} or later")
        if wanted > (now + timedelta(days=2)).date() or day.bounds(wanted)[0] > now:
            raise InvalidArgument.of("date", "is in the future")
        complete_at = day.bounds(wanted)[1] + ready
        if complete_at > now and not so_far:
            raise InvalidArgument.of(
                "date",
                f"the channel's day is not over and complete before {complete_at.isoformat()}",
            )
        return complete_at <= now

    async def _read(self, running: StatementImport, channel: Channel, content: bytes) -> Reading:
        parse = partial(channel.parse_statement, content, date.fromisoformat(running.date))
        return await Reading(running.import_id, parse, self._pace).whole()

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
        judged = [matching.judge(line, captures=captures, refunds=refunds) for line in chunk]
        found = [finding for finding in judged if finding is not None]
        await imports.advance(tx, running, lines=len(chunk), matched=len(chunk) - len(found))
        if running.is_complete:
            await self._file(tx, running, found)
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

    async def _finish(self, tx: AsyncConnection, running: StatementImport) -> None:
        await imports.finish(tx, running, at=self._clock.now())

    async def _file_missing(
        self, running: StatementImport, channel: Channel, matching: Matching
    ) -> None:
        """Files what our books have and the statement has not. The statements of the day before and
        the day after are read first: the line may be there.
        """
        day = date.fromisoformat(running.date)
        adjacent = AdjacentDays(
            channel, day, pace=self._pace, fetch=partial(self._fetched, channel)
        )
        bounds = channel.capabilities.statement_day.bounds(day)
        async for captures, refunds in self._our_day(running, bounds):
            lost = [
                *matching.missing_captures(captures, elsewhere={}),
                *matching.missing_refunds(refunds, elsewhere={}),
            ]
            if not lost:
                continue
            elsewhere = await adjacent.of(
                [finding.refund_id or finding.attempt_id for finding in lost]
            )
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
