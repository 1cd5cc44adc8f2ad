"""Asking channels what became of attempts: the repair of everything that a crash, a lost answer or a lost callback leaves behind.

An attempt that its channel does not know is only lost once nobody can be sending it any more; the channel is then made to promise (a tombstone)
that it will never take it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from mesh.worker import each
from payment_rpc.channels import Channel, ChannelFact, ChannelStatus
from payment_rpc.domain.attempt import Attempt, Schedule
from payment_rpc.domain.payment import PaymentState
from payment_rpc.store import attempts, payments
from payment_rpc.usecases.facts import Applied, Facts


class Asking:
    """Queries and closes attempts at their channels and applies the answers."""

    def __init__(self, *, db: Database, clock: Clock, facts: Facts, channels: Mapping[str, Channel], schedule: Schedule, batch: int,
                 timeout_seconds: float) -> None:
        self._db = db
        self._clock = clock
        self._facts = facts
        self._channels = channels
        self._schedule = schedule
        self._batch = batch
        self._timeout_seconds = timeout_seconds

    async def run_once(self) -> int:
        """Asks for every attempt that is due; returns how many. One that fails or hangs stands in no other's way."""
        return await each(await self._db.run(self._claim), self._ask, failed="asking_failed",
                          about=lambda attempt: {"attempt_id": attempt.attempt_id, "payment_id": attempt.payment_id})

    async def query(self, attempt: Attempt) -> Applied:
        """Asks the channel now. An attempt that it does not know, and that nobody can be sending any more, is closed there and lost."""
        channel = self._channels[attempt.channel]
        news = await channel.query(attempt.attempt_id, timeout_seconds=self._timeout_seconds)
        if news.status is ChannelStatus.NOT_FOUND:
            present = await self._db.read(attempts.get_attempt, attempt.attempt_id)  # a repeated call may have taken it since it was read
            if present.lease_until <= self._clock.now():
                return await self.close(present)
        return await self._facts.apply(news)

    async def is_unknown_to_channel(self, attempt: Attempt) -> bool:
        """Asks the channel now and applies what it says; True when it has never heard of the attempt."""
        news = await self._channels[attempt.channel].query(attempt.attempt_id, timeout_seconds=self._timeout_seconds)
        if news.status is ChannelStatus.NOT_FOUND:
            return True
        await self._facts.apply(news)
        return False

    async def close(self, attempt: Attempt) -> Applied:
        """Closes the attempt at its channel, where a tombstone keeps it closed, and applies the answer: CLOSED, or how it ended before.

        What cannot be closed there is asked for instead, and closed here when it has outlasted its deadline."""
        channel = self._channels[attempt.channel]
        if channel.closable:
            news = await channel.close(attempt.attempt_id, timeout_seconds=self._timeout_seconds)
            if news.status is not ChannelStatus.NOT_CLOSABLE:
                return await self._facts.apply(news)
        return await self._outlast(attempt)

    async def _outlast(self, attempt: Attempt) -> Applied:
        """Asked until its deadline and some grace are over, then CLOSED; what comes after that is late money. One that the channel does not know is
        lost as soon as nobody can be sending it any more: there is no tombstone to wait for."""
        news = await self._channels[attempt.channel].query(attempt.attempt_id, timeout_seconds=self._timeout_seconds)
        now = self._clock.now()
        if news.status is ChannelStatus.NOT_FOUND:
            if (await self._db.read(attempts.get_attempt, attempt.attempt_id)).lease_until <= now:
                news = ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.CLOSED)
        elif news.status is ChannelStatus.PENDING:
            payment = await self._db.read(payments.read_payment, attempt.payment_id)
            if payment.expires_at + self._schedule.close_grace <= now:
                news = ChannelFact(attempt_id=attempt.attempt_id, status=ChannelStatus.CLOSED, amount=attempt.amount, reason="PAYMENT_CLOSED",
                                   message="nobody paid until the deadline")
        return await self._facts.apply(news)

    async def _ask(self, attempt: Attempt) -> None:
        payment = await self._db.read(payments.read_payment, attempt.payment_id)
        if payment.state is PaymentState.CLOSING:
            await self.close(attempt)
        else:
            await self.query(attempt)

    async def _claim(self, tx: AsyncConnection) -> list[Attempt]:
        return await attempts.claim_due(tx, now=self._clock.now(), limit=self._batch, schedule=self._schedule)
