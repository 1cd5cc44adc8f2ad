"""What must be committed before a channel is asked to move money: its own id of an attempt, and
our intention to take the step that is ours (docs/protocols.md 1).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from payment_rpc.channels.capabilities import Capabilities
from payment_rpc.domain.attempt import KEY_EXPIRED, OPEN, Attempt, AttemptState
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.payment import PaymentState
from payment_rpc.store import attempts, payments
from payment_rpc.usecases.manual_reviews import ask_for_review


class ChannelSteps:
    """Commits steps of attempts."""

    def __init__(self, *, db: Database, clock: Clock, lease: timedelta) -> None:
        self._db = db
        self._clock = clock
        self._lease = lease

    async def remember(self, attempt: Attempt, ref: str) -> None:
        """Commits the channel's own id of an attempt that is being sent.

        Raises:
            PaymentStateInvalid: it may not be sent any more: it has a result or another id there,
                its payment is being closed, or its lease is over, so that a worker may have given
                it up.
        """
        failpoint("payment.channel.after_create")
        await self._db.run(self._remember, attempt, ref)
        failpoint("payment.channel.after_remember")

    async def begin_step(self, attempt: Attempt, capabilities: Capabilities) -> Attempt | None:
        """Commits that we take the step of an attempt that is ours, and leases it meanwhile. None
        when the step may not be taken: the attempt has a result, somebody else is at it, or its
        payment is being closed and no step was begun before. One that was begun may have moved
        money, so it is repeated to learn its result, as long as the channel knows its key. After
        that a person looks at it.
        """
        begun = await self._db.run(self._begin_step, attempt, capabilities)
        if begun is not None:
            failpoint("payment.channel.after_intention")
        return begun

    async def repeat_capture(self, attempt: Attempt, capabilities: Capabilities) -> Attempt | None:
        """Commits that a capture whose answer was lost is sent once more, under its key. None when
        it has a result, another one was begun, its payment is being closed, or somebody else is at
        it. None too once the channel may have forgotten the key: then a person looks at it.
        """
        return await self._db.run(self._repeat_capture, attempt, capabilities)

    async def _repeat_capture(
        self, tx: AsyncConnection, seen: Attempt, capabilities: Capabilities
    ) -> Attempt | None:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, seen.payment_id)
        present = await attempts.get_attempt(tx, seen.attempt_id)
        if (
            payment.state is not PaymentState.AUTHORIZED
            or present.state is not AttemptState.AUTHORIZED
            or present.capture_amount is None
            or present.capture_id != seen.capture_id
            or present.lease_until > now
        ):
            return None
        # one of older code does not say when it was sent first: not before its attempt
        began_at = present.capture_began_at or present.created_at
        if not capabilities.may_repeat(since=began_at, at=now):
            await ask_a_person(
                tx,
                payment_id=present.payment_id,
                subject=present.capture_id,
                detail=f"a capture of {present.capture_amount} has no result",
                at=now,
            )
            return None
        begun = present.begin_capture(
            present.capture_amount,
            capture_id=present.capture_id,
            keeps_rest=present.capture_keeps_rest,
            lease=self._lease,
            at=now,
        )
        await attempts.save_attempt(tx, begun, read_version=present.version)
        return begun

    async def _remember(self, tx: AsyncConnection, sent: Attempt, ref: str) -> None:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, sent.payment_id)
        present = await attempts.get_attempt(tx, sent.attempt_id)
        if (
            payment.state is not PaymentState.PAYING
            or present.state not in OPEN
            or present.lease_until <= now
            or present.channel_ref not in ("", ref)
        ):
            raise PaymentStateInvalid(
                f"{sent.attempt_id} may not be sent any more", payment_id=sent.payment_id
            )
        if present.channel_ref != ref:
            await attempts.save_attempt(
                tx, present.remember(ref, at=now), read_version=present.version
            )

    async def _begin_step(
        self, tx: AsyncConnection, seen: Attempt, capabilities: Capabilities
    ) -> Attempt | None:
        now = self._clock.now()
        payment = await payments.lock_payment(tx, seen.payment_id)
        present = await attempts.get_attempt(tx, seen.attempt_id)
        may_step = payment.state is PaymentState.PAYING or (
            payment.state is PaymentState.CLOSING and present.steps > 0
        )
        if not may_step or present.state not in OPEN or present.has_call_under_way(now):
            return None
        if present.steps > 0 and not capabilities.may_repeat(since=present.created_at, at=now):
            await ask_a_person(
                tx,
                payment_id=present.payment_id,
                subject=present.attempt_id,
                detail=f"a step of {present.amount} has no result",
                at=now,
            )
            return None
        begun = present.begin_step(lease=self._lease, at=now)
        await attempts.save_attempt(tx, begun, read_version=present.version)
        return begun


async def ask_a_person(
    tx: AsyncConnection, *, payment_id: str, subject: str, detail: str, at: datetime
) -> None:
    """Opens a manual review of a call that may have moved money and is not repeated: its channel
    may have forgotten its key, and then it would move money once more.
    """
    await ask_for_review(
        tx, kind=KEY_EXPIRED, payment_id=payment_id, subject=subject, detail=detail, at=at
    )
