"""Polling: queries channels about attempts without a result, and closes payments past their
deadline. It repairs everything that a crash, a lost answer or a lost callback leaves behind.

An attempt that its channel does not know is lost only when its lease is over, so that no call can
still be sending it. It is then closed at the channel, where a tombstone keeps it from arriving.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.worker import each
from payment_rpc.channels import Channel
from payment_rpc.channels.capabilities import Close
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.attempt import OPEN, Attempt, AttemptState, Schedule
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import PaymentState
from payment_rpc.domain.scan import ScanAction, ScanStep
from payment_rpc.store import attempts, payments
from payment_rpc.tables import ATTEMPT
from payment_rpc.usecases.channel_results import Applied, ChannelResults
from payment_rpc.usecases.channel_steps import ChannelSteps


class Polling:
    """Queries and closes attempts at their channels and applies the answers."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        channel_results: ChannelResults,
        channels: Channels,
        steps: ChannelSteps,
        schedule: Schedule,
        batch: int,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._channel_results = channel_results
        self._channels = channels
        self._steps = steps
        self._schedule = schedule
        self._quarantine = Quarantine("ask_channels", ATTEMPT.c.attempt_id)
        self._batches = RowBatches(
            db=db, quarantine=self._quarantine, most=batch, due=self._due, take=self._postpone
        )
        self._timeout_seconds = timeout_seconds

    async def due_in(self) -> Seconds | None:
        """Seconds until the next attempt is due; None when none is open."""
        return seconds_until(
            await self._db.read(attempts.POLLED.next_due, self._quarantine), self._clock.now()
        )

    async def run_once(self) -> int:
        """Polls every attempt that is due; returns how many. One that fails or hangs delays no
        other.
        """
        return await each(
            await self._batches.run(),
            self._poll,
            failed="asking_failed",
            about=lambda attempt: {
                "attempt_id": attempt.attempt_id,
                "payment_id": attempt.payment_id,
            },
        )

    async def query(self, attempt: Attempt) -> Applied:
        """Queries the channel now, and takes the next step where it is ours. An attempt that the
        channel does not know and whose lease is over is closed there and lost.
        """
        return await self._query(attempt, _ScanLog(self._clock, is_scan=False))

    async def is_unknown_to_channel(self, attempt: Attempt) -> bool:
        """Queries the channel now and applies its answer; True when it does not know the attempt,
        which then is not changed.
        """
        channel = await self._channels.get(attempt.channel)
        fact = await channel.query(
            attempt.attempt_id, ref=attempt.channel_ref, timeout_seconds=self._timeout_seconds
        )
        # what has the channel's own id is there, whatever this answer says
        if fact.status is ChannelStatus.NOT_FOUND and not attempt.channel_ref:
            return True
        await self._channel_results.apply(fact)
        return False

    async def may_repeat(self, attempt: Attempt) -> bool:
        """Whether the channel still knows the key of an attempt, so that it can be sent again."""
        able = (await self._channels.get(attempt.channel)).capabilities
        return able.may_repeat(since=attempt.created_at, at=self._clock.now())

    async def close(self, attempt: Attempt) -> Applied:
        """Closes the attempt in the way that its channel allows, and applies the answer: CLOSED,
        how it ended before, or nothing while it can still be paid.
        """
        return await self._close(attempt, _ScanLog(self._clock, is_scan=False))

    async def _query(self, attempt: Attempt, scan_log: _ScanLog) -> Applied:
        channel = await self._channels.get(attempt.channel)
        asked_at = self._clock.now()
        fact = await scan_log.run(ScanAction.QUERY, self._ask(channel, attempt))
        if fact.status is ChannelStatus.NOT_FOUND:
            lost = await self._lost(channel, attempt, asked_at=asked_at)
            if lost is not None and channel.capabilities.close is Close.PROMISE:
                return await self._end_lost(lost, scan_log)
            if lost is not None:
                return await self._close(lost, scan_log)
        if fact.is_our_turn:
            return await self._advance(channel, attempt, fact, scan_log)
        if _took_no_more(fact, attempt):
            fact = await self._capture_again(channel, attempt, fact, scan_log)
        return await self._channel_results.apply(fact, steps=scan_log.steps)

    async def _capture_again(
        self, channel: Channel, attempt: Attempt, held: ChannelFact, scan_log: _ScanLog
    ) -> ChannelFact:
        """Sends a capture whose answer was lost once more, under its key, unless somebody is at it
        or the payment is being closed. That it took nothing now says nothing of the first time.
        """
        begun = await self._steps.repeat_capture(attempt, channel.capabilities)
        if begun is None or begun.capture_amount is None:
            return held
        fact = await scan_log.run(
            ScanAction.ADVANCE,
            channel.capture(
                begun.attempt_id,
                ref=begun.channel_ref,
                capture_id=begun.capture_id,
                amount=begun.capture_amount,
                is_final=not begun.capture_keeps_rest,
                timeout_seconds=self._timeout_seconds,
            ),
        )
        return held if took_nothing(fact, begun) else fact

    async def _advance(
        self, channel: Channel, attempt: Attempt, fact: ChannelFact, scan_log: _ScanLog
    ) -> Applied:
        """Takes the step that is ours, unless it may not be taken or somebody is at it."""
        begun = await self._steps.begin_step(attempt, channel.capabilities)
        if begun is not None:
            fact = await scan_log.run(
                ScanAction.ADVANCE,
                channel.advance(
                    begun.attempt_id,
                    ref=begun.channel_ref or fact.ref,
                    timeout_seconds=self._timeout_seconds,
                ),
            )
            failpoint("payment.channel.after_step")
        return await self._channel_results.apply(fact, steps=scan_log.steps)

    async def _close(self, attempt: Attempt, scan_log: _ScanLog) -> Applied:
        channel = await self._channels.get(attempt.channel)
        if channel.capabilities.authorize:
            present = await self._db.read(attempts.get_attempt, attempt.attempt_id)
            if present.state is AttemptState.AUTHORIZED:
                return await self._void(channel, present, scan_log)
        match channel.capabilities.close:
            case Close.PROMISE:
                return await self._close_by_promise(channel, attempt, scan_log)
            case Close.NEVER:
                return await self._close_after_grace(channel, attempt, scan_log)
            case Close.TOMBSTONE | Close.KNOWN | Close.DEADLINE:
                asked_at = self._clock.now()
                fact = await scan_log.run(
                    ScanAction.CLOSE,
                    channel.close(
                        attempt.attempt_id,
                        ref=attempt.channel_ref,
                        timeout_seconds=self._timeout_seconds,
                    ),
                )
        if fact.status is ChannelStatus.NOT_FOUND:
            lost = await self._lost(channel, attempt, asked_at=asked_at)
            if lost is not None:
                return await self._end_lost(lost, scan_log)
        if fact.status in (ChannelStatus.NOT_CLOSABLE, ChannelStatus.NOT_FOUND):
            return await self._close_after_grace(channel, attempt, scan_log)
        return await self._channel_results.apply(fact, steps=scan_log.steps)

    async def _void(self, channel: Channel, attempt: Attempt, scan_log: _ScanLog) -> Applied:
        """Lets held money go. A capture that may still be under way has its answer first."""
        if attempt.lease_until > self._clock.now():
            fact = ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.UNKNOWN)
        else:
            fact = await scan_log.run(
                ScanAction.CLOSE,
                channel.void(
                    attempt.attempt_id,
                    ref=attempt.channel_ref,
                    timeout_seconds=self._timeout_seconds,
                ),
            )
        return await self._channel_results.apply(fact, steps=scan_log.steps)

    async def _close_by_promise(
        self, channel: Channel, attempt: Attempt, scan_log: _ScanLog
    ) -> Applied:
        """Money moves only by a step of ours, and none begins while the payment is being closed. So
        an attempt in which none was begun is closed by our word alone. One whose step has no result
        is asked about, and the step is repeated under its own key until its result is known: money
        that comes of it is late money.
        """
        present = await self._db.read(attempts.get_attempt, attempt.attempt_id)
        if present.has_call_under_way(self._clock.now()):
            fact = ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.UNKNOWN)
            return await self._channel_results.apply(fact, steps=scan_log.steps)
        if present.steps == 0:
            scan_log.add_decision(ScanAction.CLOSE, "PROMISED")
            return await self._close_here(present, "no step of ours was taken", scan_log)
        fact = await scan_log.run(ScanAction.QUERY, self._ask(channel, present))
        if fact.is_our_turn:
            now = self._clock.now()
            if channel.capabilities.may_repeat(since=present.created_at, at=now):
                return await self._advance(channel, present, fact, scan_log)
            # it was not taken, and its channel may have forgotten its key
            scan_log.add_decision(ScanAction.CLOSE, "PROMISED")
            return await self._close_here(present, "its step is not repeated", scan_log)
        if fact.status is ChannelStatus.NOT_FOUND:
            return await self._close_after_grace(channel, present, scan_log)
        return await self._channel_results.apply(fact, steps=scan_log.steps)

    async def _lost(
        self, channel: Channel, attempt: Attempt, *, asked_at: datetime
    ) -> Attempt | None:
        """The attempt as it is now, where NOT_FOUND proves that nobody can pay it: its lease was
        over when the channel was asked, and it was asked by all that we know. Time that passed
        during the question proves nothing.
        """
        # a repeated call may have leased it since it was read
        present = await self._db.read(attempts.get_attempt, attempt.attempt_id)
        was_over = present.lease_until <= asked_at and present.channel_ref == attempt.channel_ref
        return present if was_over and _is_lost(channel, present) else None

    async def _end_lost(self, lost: Attempt, scan_log: _ScanLog) -> Applied:
        scan_log.add_decision(ScanAction.CLOSE, "LOST_BEFORE_CHANNEL")
        fact = ChannelFact(attempt_id=lost.attempt_id, status=ChannelStatus.CLOSED)
        return await self._channel_results.apply(fact, steps=scan_log.steps, judged=lost)

    async def _close_after_grace(
        self, channel: Channel, attempt: Attempt, scan_log: _ScanLog
    ) -> Applied:
        """Queries an attempt that cannot be closed at its channel. It is CLOSED when its deadline,
        the grace and its lease are over; a capture after that is late money.
        """
        # compared below: what happens during the query proves nothing
        asked_at = self._clock.now()
        present = await self._db.read(attempts.get_attempt, attempt.attempt_id)
        fact = await scan_log.run(ScanAction.QUERY, self._ask(channel, present))
        is_unpaid = fact.status is ChannelStatus.NOT_FOUND or (
            fact.status is ChannelStatus.PENDING and not fact.is_our_turn
        )
        if is_unpaid and present.lease_until <= asked_at:
            payment = await self._db.read(payments.read_payment, attempt.payment_id)
            if payment.expires_at + self._schedule.close_grace <= asked_at:
                scan_log.add_decision(ScanAction.CLOSE, "PAYMENT_CLOSED")
                return await self._close_here(present, "nobody paid until the deadline", scan_log)
        return await self._channel_results.apply(fact, steps=scan_log.steps)

    async def _close_here(self, judged: Attempt, message: str, scan_log: _ScanLog) -> Applied:
        """Closes an attempt by our own judgment, unless it was sent or stepped on meanwhile."""
        fact = ChannelFact(
            attempt_id=judged.attempt_id,
            status=ChannelStatus.CLOSED,
            amount=judged.amount,
            reason="PAYMENT_CLOSED",
            message=message,
        )
        return await self._channel_results.apply(fact, steps=scan_log.steps, judged=judged)

    def _ask(self, channel: Channel, attempt: Attempt) -> Awaitable[ChannelFact]:
        return channel.query(
            attempt.attempt_id, ref=attempt.channel_ref, timeout_seconds=self._timeout_seconds
        )

    async def _poll(self, attempt: Attempt) -> None:
        scan_log = _ScanLog(self._clock, is_scan=True)
        if attempt.state not in OPEN:  # money may have come after its result
            channel = await self._channels.get(attempt.channel)
            fact = await scan_log.run(ScanAction.QUERY, self._ask(channel, attempt))
            await self._channel_results.apply(fact, steps=scan_log.steps)
            return
        payment = await self._db.read(payments.read_payment, attempt.payment_id)
        if payment.state is PaymentState.CLOSING:
            await self._close(attempt, scan_log)
        else:
            await self._query(attempt, scan_log)

    def _due(self, limit: int) -> Select[Any]:
        return attempts.POLLED.due_statement(self._clock.now(), limit)

    async def _postpone(self, tx: AsyncConnection, rows: Sequence[Any]) -> list[Attempt]:
        return await attempts.claim_due(tx, rows, now=self._clock.now(), schedule=self._schedule)


def _is_lost(channel: Channel, attempt: Attempt) -> bool:
    """Whether NOT_FOUND means that the attempt never arrived and nobody can pay it. A page or code
    that works without the channel knowing it may be in the hands of a buyer; an attempt that was
    PENDING or AUTHORIZED, or whose id at the channel we know, is known there, whatever this answer
    says.
    """
    if attempt.state is AttemptState.AUTHORIZED:
        return False
    match channel.capabilities.close:
        case Close.TOMBSTONE:
            return True
        case Close.KNOWN | Close.PROMISE:
            return attempt.state is not AttemptState.PENDING and not attempt.channel_ref
        case Close.DEADLINE | Close.NEVER:
            return False


def _took_no_more(fact: ChannelFact, attempt: Attempt) -> bool:
    """Whether the channel holds the money and has not taken what the capture under way takes, so
    that it may be sent again.
    """
    return (
        fact.status is ChannelStatus.AUTHORIZED
        and attempt.capture_amount is not None
        and (fact.taken is None or fact.taken == attempt.taken)
    )


class _ScanLog:
    """The steps of the scan about one attempt. Steps that a caller asked for are no scan and are
    dropped.
    """

    def __init__(self, clock: Clock, *, is_scan: bool) -> None:
        self._clock = clock
        self._is_scan = is_scan
        self._steps: list[ScanStep] = []

    @property
    def steps(self) -> Sequence[ScanStep]:
        return self._steps if self._is_scan else ()

    async def run(self, action: ScanAction, call: Awaitable[ChannelFact]) -> ChannelFact:
        began_at = self._clock.now()
        fact = await call
        self._steps.append(
            ScanStep(
                action=action,
                result=fact.status,
                reason=fact.reason,
                began_at=began_at,
                ended_at=self._clock.now(),
            )
        )
        return fact

    def add_decision(self, action: ScanAction, reason: str) -> None:
        now = self._clock.now()
        self._steps.append(ScanStep(action=action, reason=reason, began_at=now, ended_at=now))


def took_nothing(fact: ChannelFact, attempt: Attempt) -> bool:
    """Whether an answer to the capture that is under way says that this call moved nothing. The
    money may still be held, as AUTHORIZED says that it is: it does not end the attempt.
    """
    return _took_no_more(fact, attempt) or fact.status in (
        ChannelStatus.DECLINED,
        ChannelStatus.FAILED,
        ChannelStatus.NOT_SENT,
    )
