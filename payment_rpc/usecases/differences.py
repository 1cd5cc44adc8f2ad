"""ListDifferences and ResolveDifference: differences between a channel's statement and our books.

A difference is settled by querying the channel and applying what it says, or by a balanced
write-off with the name of the operator and a reason. Nothing is booked on a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.logs import get_logger
from payment_rpc.cache import PaymentCache
from payment_rpc.channels import Channel
from payment_rpc.channels.registry import Channels
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Action, Difference, Finding
from payment_rpc.domain.errors import ChannelUnavailable, PaymentNotFound, RefundNotFound
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.ledger import Posting
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.refund import Refund
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.store import attempts, differences, ledger, payments, refunds
from payment_rpc.usecases.channel_results import ChannelResults
from payment_rpc.usecases.refund_results import RefundResults
from payment_rpc.usecases.refunds import captured_attempt

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveDifference:
    """A ResolveDifference request. `action` "" is the default one."""

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


class Differences:
    """Lists and settles differences."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        cache: PaymentCache,
        channels: Channels,
        channel_results: ChannelResults,
        refund_results: RefundResults,
        timeout_seconds: float,
    ) -> None:
        self._db = db
        self._clock = clock
        self._cache = cache
        self._channels = channels
        self._channel_results = channel_results
        self._refund_results = refund_results
        self._timeout_seconds = timeout_seconds

    async def list_differences(
        self, *, import_id: str, state: str, after: str, limit: int
    ) -> Sequence[Difference]:
        """Differences, oldest first, after a difference id."""
        return await self._db.read(
            differences.list_differences, import_id=import_id, state=state, after=after, limit=limit
        )

    async def resolve_difference(self, command: ResolveDifference, caller: Caller) -> Resolution:
        """Says what an action would do, or does it. A difference that the channel cannot settle
        stays OPEN and gets a manual review.

        Raises:
            ReconciliationNotFound, DifferenceStateInvalid, InvalidArgument: nothing was done.
            ChannelUnavailable: the channel gave no answer; asking again is safe.
        """
        difference = await self._db.read(differences.get_difference, command.difference_id)
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
            effect, settled = await self._query_channel(difference)
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

    async def _query_channel(self, difference: Difference) -> tuple[str, bool]:
        """Queries the channel and applies its answer. Returns what came of it, and whether the
        channel and our books agree now.
        """
        channel, finding = await self._channels.get(difference.channel), difference.finding
        if finding.refund_id:
            return await self._query_refund(channel, finding.refund_id)
        return await self._query_attempt(channel, finding.attempt_id)

    async def _query_refund(self, channel: Channel, refund_id: str) -> tuple[str, bool]:
        try:
            refund, of = await self._db.read(_refund_and_capture, refund_id)
        except RefundNotFound:
            return "the refund is none of ours", False
        fact = await channel.query_refund(
            refund_id,
            of=of,
            amount=refund.amount,
            refund_no=refund.channel_refund_no,
            timeout_seconds=self._timeout_seconds,
        )
        if fact.status in (RefundChannelStatus.UNKNOWN, RefundChannelStatus.NOT_SENT):
            raise ChannelUnavailable("the channel gave no answer about the refund")
        if fact.status is RefundChannelStatus.NOT_FOUND:
            return "the channel does not know this refund", False
        try:
            refund = await self._refund_results.apply(fact)
        except RefundNotFound:
            return f"the channel says {fact.status}, and the refund is none of ours", False
        return (
            f"the channel says {fact.status}, our refund is {refund.state}",
            refund.state.value == fact.status.value
            and refund.channel_refund_no == fact.channel_refund_no,
        )

    async def _query_attempt(self, channel: Channel, attempt_id: str) -> tuple[str, bool]:
        try:
            ref = (await self._db.read(attempts.get_attempt, attempt_id)).channel_ref
        except PaymentNotFound:
            ref = ""  # the channel may still know it: then it says more than that it is not ours
        fact = await channel.query(attempt_id, ref=ref, timeout_seconds=self._timeout_seconds)
        if fact.status is ChannelStatus.UNKNOWN:
            raise ChannelUnavailable("the channel gave no answer about the attempt")
        if fact.status is ChannelStatus.NOT_FOUND:
            return "the channel does not know this attempt", False
        try:
            applied = await self._channel_results.apply(fact)
        except PaymentNotFound:
            return f"the channel says {fact.status}, and the attempt is none of ours", False
        attempt = applied.attempt
        agree = (
            fact.status is ChannelStatus.CAPTURED
            and attempt.state is AttemptState.CAPTURED
            and (attempt.captured, attempt.channel_trade_no) == (fact.amount, fact.trade_no)
        )
        return f"the channel says {fact.status}, our attempt is {attempt.state}" + (
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
        after = await differences.resolve(
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


async def _refund_and_capture(
    tx: AsyncConnection, refund_id: str
) -> tuple[Refund, CapturedAttempt]:
    refund = await refunds.read_refund(tx, refund_id)
    return refund, await captured_attempt(tx, refund)
