"""Asking channels what became of attempts: the repair of everything that a crash, a lost answer or
a lost callback leaves behind.

An attempt that its channel does not know is only lost once nobody can be sending it any more; the
channel is then made to promise (a tombstone) that it will never take it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.bad_rows import Quarantine, RowBatches
from mesh.clock import Clock, Seconds, seconds_until
from mesh.db import Database
from mesh.worker import each
from payment_rpc.channels import Channel
from payment_rpc.domain.attempt import Attempt, Schedule
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import PaymentState
from payment_rpc.domain.scan import ScanAction, ScanStep
from payment_rpc.store import attempts, payments
from payment_rpc.tables import ATTEMPT
from payment_rpc.usecases.facts import Applied, Facts


class Asking:
    """Queries and closes attempts at their channels and applies the answers."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        facts: Facts,
        channels: Mapping[str, Channel],
        schedule: Schedule,
        batch: int,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._facts = facts
        self._channels = channels
        self._schedule = schedule
        self._quarantine = Quarantine("ask_channels", ATTEMPT.c.attempt_id)
        self._batches = RowBatches(
            db=db, quarantine=self._quarantine, most=batch, due=self._due, take=self._ask_later
        )
        self._timeout_seconds = timeout_seconds

    async def due_in(self) -> Seconds | None:
        """Seconds until a channel is to be asked next; None when nothing is open."""
        return seconds_until(
            await self._db.read(attempts.next_due, self._quarantine), self._clock.now()
        )

    async def run_once(self) -> int:
        """Asks for every attempt that is due; returns how many. One that fails or hangs stands in
        no other's way.
        """
        return await each(
            await self._batches.run(),
            self._ask,
            failed="asking_failed",
            about=lambda attempt: {
                "attempt_id": attempt.attempt_id,
                "payment_id": attempt.payment_id,
            },
        )

    async def query(self, attempt: Attempt) -> Applied:
        """Asks the channel now. An attempt that it does not know, and that nobody can be sending
        any more, is closed there and lost.
        """
        return await self._query(attempt, _Diary(self._clock, is_kept=False))

    async def is_unknown_to_channel(self, attempt: Attempt) -> bool:
        """Asks the channel now and applies what it says; True when it has never heard of the
        attempt.
        """
        news = await self._channels[attempt.channel].query(
            attempt.attempt_id, timeout_seconds=self._timeout_seconds
        )
        if news.status is ChannelStatus.NOT_FOUND:
            return True
        await self._facts.apply(news)
        return False

    async def close(self, attempt: Attempt) -> Applied:
        """Closes the attempt at its channel, where a tombstone keeps it closed, and applies the
        answer: CLOSED, or how it ended before.

        What cannot be closed there is asked for instead, and closed here when it has outlasted its
        deadline."""
        return await self._close(attempt, _Diary(self._clock, is_kept=False))

    async def _query(self, attempt: Attempt, diary: _Diary) -> Applied:
        channel = self._channels[attempt.channel]
        news = await diary.note(
            ScanAction.QUERY,
            channel.query(attempt.attempt_id, timeout_seconds=self._timeout_seconds),
        )
        if news.status is ChannelStatus.NOT_FOUND:
            # a repeated call may have taken it since it was read
            present = await self._db.read(attempts.get_attempt, attempt.attempt_id)
            if present.lease_until <= self._clock.now():
                return await self._close(present, diary)
        return await self._facts.apply(news, steps=diary.steps)

    async def _close(self, attempt: Attempt, diary: _Diary) -> Applied:
        channel = self._channels[attempt.channel]
        if channel.closable:
            news = await diary.note(
                ScanAction.CLOSE,
                channel.close(attempt.attempt_id, timeout_seconds=self._timeout_seconds),
            )
            if news.status is not ChannelStatus.NOT_CLOSABLE:
                return await self._facts.apply(news, steps=diary.steps)
        return await self._outlast(attempt, diary)

    async def _outlast(self, attempt: Attempt, diary: _Diary) -> Applied:
        """Asked until its deadline and some grace are over, then CLOSED; what comes after that is
        late money. One that the channel does not know is
        lost as soon as nobody can be sending it any more: there is no tombstone to wait for."""
        # what ends while the channel answers says nothing of its answer
        channel, asked_at = self._channels[attempt.channel], self._clock.now()
        news = await diary.note(
            ScanAction.QUERY,
            channel.query(attempt.attempt_id, timeout_seconds=self._timeout_seconds),
        )
        if news.status is ChannelStatus.NOT_FOUND:
            # a repeated call may have taken it since it was read
            present = await self._db.read(attempts.get_attempt, attempt.attempt_id)
            if present.lease_until <= asked_at:
                news = ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.CLOSED)
                diary.decide(ScanAction.CLOSE, "LOST_BEFORE_CHANNEL")
        elif news.status is ChannelStatus.PENDING:
            payment = await self._db.read(payments.read_payment, attempt.payment_id)
            if payment.expires_at + self._schedule.close_grace <= asked_at:
                news = ChannelFact(
                    attempt_id=attempt.attempt_id,
                    status=ChannelStatus.CLOSED,
                    amount=attempt.amount,
                    reason="PAYMENT_CLOSED",
                    message="nobody paid until the deadline",
                )
                diary.decide(ScanAction.CLOSE, "PAYMENT_CLOSED")
        return await self._facts.apply(news, steps=diary.steps)

    async def _ask(self, attempt: Attempt) -> None:
        payment, diary = (
            await self._db.read(payments.read_payment, attempt.payment_id),
            _Diary(self._clock, is_kept=True),
        )
        if payment.state is PaymentState.CLOSING:
            await self._close(attempt, diary)
        else:
            await self._query(attempt, diary)

    def _due(self, limit: int) -> Select[Any]:
        return attempts.due_statement(self._clock.now(), limit)

    async def _ask_later(self, tx: AsyncConnection, rows: Sequence[Any]) -> list[Attempt]:
        return await attempts.ask_later(tx, rows, now=self._clock.now(), schedule=self._schedule)


class _Diary:
    """What one round of the scan did about one attempt; what callers ask for is no scan and is not
    kept.
    """

    def __init__(self, clock: Clock, *, is_kept: bool) -> None:
        self._clock = clock
        self._is_kept = is_kept
        self._steps: list[ScanStep] = []

    @property
    def steps(self) -> Sequence[ScanStep]:
        return self._steps if self._is_kept else ()

    async def note(self, action: ScanAction, call: Awaitable[ChannelFact]) -> ChannelFact:
        began_at = self._clock.now()
        news = await call
        self._steps.append(
            ScanStep(
                action=action,
                result=news.status,
                reason=news.reason,
                began_at=began_at,
                ended_at=self._clock.now(),
            )
        )
        return news

    def decide(self, action: ScanAction, reason: str) -> None:
        now = self._clock.now()
        self._steps.append(ScanStep(action=action, reason=reason, began_at=now, ended_at=now))
