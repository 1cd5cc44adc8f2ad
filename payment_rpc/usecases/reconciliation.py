"""Reconciliation: a channel's statement of a day against our books. Imports run on in the
background, chunk by chunk; a crash goes on where it was.

Nothing is ever made up: a difference is settled by asking the channel and applying what it says, or
by a balanced write-off with a name and a reason.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import assert_never

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument, MeshError
from mesh.failpoints import FailpointRaised
from mesh.ids import Ids
from payment_rpc.cache import PaymentCache
from payment_rpc.channels import Channel
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Action, Difference, Finding
from payment_rpc.domain.errors import (
    ChannelNotSupported,
    ChannelUnavailable,
    PaymentNotFound,
    RefundNotFound,
)
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.ledger import Posting
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.reconciliation import Matching, OurCapture, OurRefund
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.statement import (
    BadLine,
    ChannelDay,
    Line,
    LineType,
    Statement,
    StatementUnreadable,
    parse_statement,
)
from payment_rpc.store import ledger, payments
from payment_rpc.store import reconciliation as store
from payment_rpc.store.reconciliation import StatementImport
from payment_rpc.tables import STATEMENT_IMPORT
from payment_rpc.usecases.facts import Facts
from payment_rpc.usecases.refunds import Refunds

CHUNK = 500  # lines in one transaction
LINE_ERRORS_SHOWN = 100
FIRST_YEAR = 2000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveDifference:
    """A decision as it came in. `action` "" is the default one."""

    difference_id: str
    action: str
    reason: str
    execute: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A difference as it is now, what the action does or did in one sentence, and what it books."""

    difference: Difference
    effect: str
    postings: tuple[Posting, ...]


class Reconciliation:
    """Imports statements and settles differences. Whatever takes as long as a file is large is done
    in a thread: buyers are served meanwhile.
    """

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        cache: PaymentCache,
        channels: Mapping[str, Channel],
        facts: Facts,
        refunds: Refunds,
        day: ChannelDay,
        timeout_seconds: float,
        wake_worker: Callable[[], None],
        chunk: int = CHUNK,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._cache = cache
        self._channels = channels
        self._facts = facts
        self._refunds = refunds
        self._day = day
        self._timeout_seconds = timeout_seconds
        self._wake_worker = wake_worker
        self._chunk = chunk
        self._quarantine = Quarantine("import_statements", STATEMENT_IMPORT.c.import_id)
        self._parsed: tuple[str, Matching] | None = None  # of the import that is under way

    async def import_statement(self, channel: str, day: str) -> StatementImport:
        """Fetches a statement and lets the worker compare it. The same bytes again are the same
        import.

        Raises:
            ChannelNotSupported, InvalidArgument: no such channel, or a day that is not over.
            ChannelUnavailable: the channel gave none; asking again is safe.
        """
        if channel not in self._channels:
            raise ChannelNotSupported(
                f"channel: there is no channel {channel}",
                fields={"channel": f"not one of {', '.join(self._channels)}"},
            )
        wanted = self._past_day(day)
        content = await self._channels[channel].statement(
            wanted, timeout_seconds=self._timeout_seconds
        )
        now = self._clock.now()
        state, error = "RUNNING", ""
        statement = Statement(lines=(), bad_totals=())
        try:
            statement = await asyncio.to_thread(parse_statement, content)
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
            store.add_import,
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
            await asyncio.to_thread(store.packed, b"" if error else content),
        )
        self._wake_worker()
        return found

    async def get_import(self, import_id: str) -> StatementImport:
        """How far an import is, or ReconciliationNotFound."""
        return await self._db.read(store.get_import, import_id)

    async def list_differences(
        self, *, import_id: str, state: str, after: str, limit: int
    ) -> Sequence[Difference]:
        """Differences, oldest first, after a difference id."""
        return await self._db.read(
            store.list_differences, import_id=import_id, state=state, after=after, limit=limit
        )

    async def run_once(self) -> int:
        """Compares the next chunk of the oldest import that is not at its end; returns how many
        chunks that was.
        """
        import_id = await self._db.read(store.next_running, self._quarantine)
        if import_id is None:
            self._parsed = None  # another process may have finished the one that was parsed here
            return 0
        try:
            await self._advance(await self._db.read(store.get_import, import_id))
        except (MeshError, FailpointRaised):
            raise
        except Exception as error:  # noqa: BLE001  logged with its id: the imports behind it go on
            self._quarantine.add((import_id,), error)
        return 1

    async def _advance(self, running: StatementImport) -> None:
        matching = await self._open(running)
        chunk = matching.lines[running.processed : running.processed + self._chunk]
        if chunk and not await self._db.run(self._match, running, matching, chunk):
            return
        if running.processed + len(chunk) >= len(matching.lines):
            await self._db.run(self._file, running, list(matching.wrong_totals()))
            await self._file_missing(running, matching)
            await self._db.run(self._finish, running.import_id)
            self._parsed = None

    async def resolve(self, command: ResolveDifference, caller: Caller) -> Resolution:
        """Says what an action would do, or does it. What the channel cannot settle stays OPEN and
        is handed to a person.

        Raises:
            ReconciliationNotFound, DifferenceStateInvalid, InvalidArgument: nothing was done.
            ChannelUnavailable: the channel gave no answer; asking again is safe.
        """
        difference = await self._db.read(store.get_difference, command.difference_id)
        action = difference.choose(command.action)
        postings = difference.write_off().postings if action is Action.WRITE_OFF else ()
        if not command.execute:
            return Resolution(
                difference=difference, effect=_would(action, difference.finding), postings=postings
            )
        if not command.reason.strip():
            raise InvalidArgument.of("reason", "needed to execute")
        effect = _done(action, difference.finding)
        if action is Action.QUERY_CHANNEL:
            effect, settled = await self._ask(difference)
            if not settled:
                await self._db.run(self._open_manual_review, difference, effect)
                return Resolution(
                    difference=difference, effect=f"{effect}; it stays open", postings=()
                )
        after, payment = await self._db.run(
            self._close, difference, action, command.reason, caller.subject
        )
        log.warning(
            "difference_resolved",
            difference_id=difference.difference_id,
            action=action.value,
            actor=caller.subject,
            reason=command.reason,
        )
        if payment is not None:
            await self._cache.put_changed(payment)
        return Resolution(difference=after, effect=effect, postings=postings)

    def _past_day(self, text: str) -> date:
        try:
            wanted = date.fromisoformat(text)
        except ValueError:
            raise InvalidArgument.of("date", "expected a day as YYYY-MM-DD") from None
        now = self._clock.now()
        if wanted.isoformat() != text or wanted.year < FIRST_YEAR:
            raise InvalidArgument.of("date", f"expected a day as YYYY-MM-DD, {FIRST_YEAR} or later")
        if wanted > (now + timedelta(days=2)).date() or self._day.bounds(wanted)[0] > now:
            raise InvalidArgument.of("date", "is in the future")
        ends = self._day.bounds(wanted)[1]
        if ends > now:
            raise InvalidArgument.of(
                "date", f"the channel's day is not over before {ends.isoformat()}"
            )
        return wanted

    async def _open(self, running: StatementImport) -> Matching:
        if self._parsed is None or self._parsed[0] != running.import_id:
            self._parsed = None  # never two of them at once
            packed, bounds = (
                await self._db.read(store.content_of, running.import_id),
                self._bounds(running),
            )

            def parse() -> Matching:
                return Matching(
                    parse_statement(store.unpacked(packed)),
                    channel=running.channel,
                    date=running.date,
                    bounds=bounds,
                )

            self._parsed = (running.import_id, await asyncio.to_thread(parse))
        return self._parsed[1]

    def _bounds(self, of: StatementImport) -> tuple[datetime, datetime]:
        return self._day.bounds(date.fromisoformat(of.date))

    async def _match(
        self,
        tx: AsyncConnection,
        running: StatementImport,
        matching: Matching,
        chunk: Sequence[Line | BadLine],
    ) -> bool:
        present = await store.get_import(tx, running.import_id)
        if present.processed != running.processed or present.state != "RUNNING":
            return False  # another process was here
        captures = await store.captures_named(tx, sorted({line.attempt_id for line in chunk}))
        refunds = await store.refunds_named(tx, sorted({line.refund_id for line in chunk}))
        found = [matching.judge(line, captures=captures, refunds=refunds) for line in chunk]
        await store.advance(tx, running, processed=running.processed + len(chunk))
        await self._file(tx, running, [finding for finding in found if finding is not None])
        return True

    async def _file(
        self, tx: AsyncConnection, of: StatementImport, findings: Sequence[Finding]
    ) -> None:
        for finding in findings:
            await store.file(
                tx, finding, difference_id=self._ids.new("DIF"), of=of, at=self._clock.now()
            )

    async def _finish(self, tx: AsyncConnection, import_id: str) -> None:
        await store.finish(tx, import_id, at=self._clock.now())

    async def _file_missing(self, running: StatementImport, matching: Matching) -> None:
        """What we have and the statement has not. The neighbour days' statements are asked for
        first: there may be the line.
        """
        elsewhere: dict[str, str] | None = None
        async for captures, refunds in self._our_day(running):
            lost = [
                *matching.missing_captures(captures, elsewhere={}),
                *matching.missing_refunds(refunds, elsewhere={}),
            ]
            if not lost:
                continue
            if elsewhere is None:
                elsewhere = await self._neighbour_lines(running)
            await self._db.run(
                self._file,
                running,
                [
                    *matching.missing_captures(captures, elsewhere=elsewhere),
                    *matching.missing_refunds(refunds, elsewhere=elsewhere),
                ],
            )

    async def _our_day(
        self, running: StatementImport
    ) -> AsyncIterator[tuple[list[OurCapture], list[OurRefund]]]:
        begins, ends = self._bounds(running)
        after = ""
        while captures := await self._db.read(
            store.captures_of_day,
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
            store.refunds_of_day,
            channel=running.channel,
            begins=begins,
            ends=ends,
            after=after,
            limit=self._chunk,
        ):
            yield [], refunds
            after = refunds[-1].refund_id

    async def _neighbour_lines(self, running: StatementImport) -> dict[str, str]:
        """The day of each attempt and refund in the statements of the day before and the day after,
        as far as there are any.
        """
        found: dict[str, str] = {}
        for neighbour in (
            date.fromisoformat(running.date) + timedelta(days=step) for step in (-1, 1)
        ):
            try:
                content = await self._channels[running.channel].statement(
                    neighbour, timeout_seconds=self._timeout_seconds
                )
                found_there = await asyncio.to_thread(parse_statement, content)
            except (ChannelUnavailable, StatementUnreadable):
                # its own import finds the line and turns the difference into a CUTOFF_SHIFT
                continue
            for line in found_there.lines:
                if isinstance(line, Line):
                    found[line.attempt_id if line.type is LineType.CAPTURE else line.refund_id] = (
                        neighbour.isoformat()
                    )
        return found

    async def _ask(self, difference: Difference) -> tuple[str, bool]:
        """Asks the channel and applies what it says: what came of it, and whether the channel and
        our books agree now.
        """
        channel, finding = self._channels[difference.channel], difference.finding
        if finding.refund_id:
            told = await channel.query_refund(
                finding.refund_id, timeout_seconds=self._timeout_seconds
            )
            if told.status in (RefundChannelStatus.UNKNOWN, RefundChannelStatus.NOT_SENT):
                raise ChannelUnavailable("the channel gave no answer about the refund")
            if told.status is RefundChannelStatus.NOT_FOUND:
                return "the channel does not know this refund", False
            try:
                refund = await self._refunds.apply(told)
            except RefundNotFound:
                return f"the channel says {told.status}, and the refund is none of ours", False
            return (
                f"the channel says {told.status}, our refund is {refund.state}",
                refund.state.value == told.status.value
                and refund.channel_refund_no == told.channel_refund_no,
            )
        news = await channel.query(finding.attempt_id, timeout_seconds=self._timeout_seconds)
        if news.status is ChannelStatus.UNKNOWN:
            raise ChannelUnavailable("the channel gave no answer about the attempt")
        if news.status is ChannelStatus.NOT_FOUND:
            return "the channel does not know this attempt", False
        try:
            applied = await self._facts.apply(news)
        except PaymentNotFound:
            return f"the channel says {news.status}, and the attempt is none of ours", False
        attempt = applied.attempt
        agree = (
            news.status is ChannelStatus.CAPTURED
            and attempt.state is AttemptState.CAPTURED
            and (attempt.captured, attempt.channel_trade_no) == (news.amount, news.trade_no)
        )
        return f"the channel says {news.status}, our attempt is {attempt.state}" + (
            ", as booked now" if applied.changed else ""
        ), agree

    async def _open_manual_review(
        self, tx: AsyncConnection, difference: Difference, effect: str
    ) -> None:
        await ledger.open_manual_review(
            tx,
            kind="DIFFERENCE_UNSETTLED",
            payment_id=difference.finding.payment_id,
            subject=difference.difference_id,
            detail=f"{difference.finding.reason}; {effect}",
            at=self._clock.now(),
        )

    async def _close(
        self, tx: AsyncConnection, difference: Difference, action: Action, reason: str, actor: str
    ) -> tuple[Difference, Payment | None]:
        now, finding = self._clock.now(), difference.finding
        payment = (
            await payments.lock_payment(tx, finding.payment_id)
            if action is Action.WRITE_OFF
            else None
        )
        after = await store.resolve(
            tx, difference, action=action, actor=actor, reason=reason, at=now
        )
        if payment is not None:
            booked = await ledger.book(tx, payment.touched(at=now), difference.write_off(), at=now)
            await payments.save_payment(tx, booked, read_version=payment.version)
            return after, booked
        if action is Action.ATTENTION:
            await ledger.open_manual_review(
                tx,
                kind="DIFFERENCE",
                payment_id=finding.payment_id,
                subject=difference.difference_id,
                detail=f"{finding.reason} | {actor}: {reason}",
                at=now,
            )
        return after, None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _would(action: Action, finding: Finding) -> str:
    match action:
        case Action.QUERY_CHANNEL:
            return (
                f"asks the channel what became of {finding.refund_id or finding.attempt_id} "
                f"and applies the answer, which books by itself"
            )
        case Action.WRITE_OFF:
            return "books the difference and leaves the buyer's money as it is"
        case Action.ATTENTION:
            return "hands it to a person; books nothing"
        case Action.IGNORE:
            return "does nothing; the difference is explained"
        case _:
            assert_never(action)


def _done(action: Action, finding: Finding) -> str:
    return {
        Action.WRITE_OFF: "the difference is booked",
        Action.ATTENTION: "a person was called",
        Action.IGNORE: "nothing was changed",
    }.get(action, _would(action, finding))
