"""What the channel says that it took and gave back, day by day, against what we have, in both
directions. This asks the channel by HTTP.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import OVERDUE, SETTLING, AuditTolerance, Violation
from mesh.db import Database
from mesh.errors import Unavailable
from mesh.money import Money
from payment_rpc.channels import ListedRefund, ListingChannel
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain import refund as refunds
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import DifferenceState
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.ledger import fee_returned_key
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.tables import ATTEMPT, LEDGER_POSTING, REFUND, STATEMENT_DIFFERENCE

PAGE = 500
SECONDS_MAX = 30.0
# money of before our first attempt would be unknown to us; and the channel's days begin elsewhere
# than ours
DAYS_BEFORE = 31
_CHANNEL = "sandbox"
_A, _R, _P, _D = ATTEMPT.c, REFUND.c, LEDGER_POSTING.c, STATEMENT_DIFFERENCE.c
_ENDED = {
    RefundChannelStatus.SUCCESS: RefundState.SUCCESS,
    RefundChannelStatus.FAILED: RefundState.FAILED,
    RefundChannelStatus.REVERSED: RefundState.REVERSED,
}


async def channel_violations(
    db: Database, tolerance: AuditTolerance, *, base_url: str, api_key: str
) -> AsyncIterator[Violation]:
    """Every capture and refund there is one here, of the same amount, fee and end, and the other
    way round. What a person settled after a statement is not complained of.

    Raises:
        Unavailable: the channel does not answer.
    """
    channel = SandboxChannel(base_url=base_url, api_key=api_key, callback_secret="")
    try:
        comparison = _Comparison(db, channel, tolerance, settled=await db.read(_settled))
        for day in _days(await db.read(_first_day), tolerance.now):
            async for violation in comparison.captures(day):
                yield violation
            async for violation in comparison.refunds(day):
                yield violation
        async for violation in comparison.unknown_there():
            yield violation
    except ChannelUnavailable as error:
        raise Unavailable(
            f"the sandbox at {base_url} does not tell its transactions: {error.message}"
        ) from error
    finally:
        await channel.aclose()


class _Comparison:
    """Remembers what was found there, to say what was not."""

    def __init__(
        self, db: Database, channel: ListingChannel, tolerance: AuditTolerance, *, settled: set[str]
    ) -> None:
        self._db = db
        self._channel = channel
        self._tolerance = tolerance
        self._settled = settled
        self._seen: set[int] = set()  # hashes: a million ids would be a hundred megabytes

    async def captures(self, day: date) -> AsyncIterator[Violation]:
        """Captures of one of the channel's days."""
        after = ""
        while True:
            page = await self._channel.captures_of_day(
                day, after=after, timeout_seconds=SECONDS_MAX
            )
            for text in page.unreadable:
                yield Violation(check="channel_readable", subject=f"captures of {day}", detail=text)
            ids = [fact.attempt_id for fact in page.captures]
            ours = await self._db.read(_attempts, ids)
            fees = await self._db.read(_booked, [f"attempt:{name}:fee" for name in ids])
            for fact in page.captures:
                self._seen.add(hash(("capture", fact.attempt_id)))
                if fact.attempt_id not in self._settled:
                    for check, detail in self._capture(
                        fact, ours.get(fact.attempt_id), fees[f"attempt:{fact.attempt_id}:fee"]
                    ):
                        yield Violation(check=check, subject=fact.attempt_id, detail=detail)
            if not page.next_after:
                return
            after = page.next_after

    def _capture(self, fact: ChannelFact, own: Any, fee_minor: int) -> Iterable[tuple[str, str]]:
        amount = fact.amount
        if amount is None:
            return
        if own is None:
            yield "capture_known", f"the channel took {amount}, and we do not know the attempt"
        elif own.state != AttemptState.CAPTURED:
            if self._tolerance.strict or own.updated_at < self._tolerance.before(OVERDUE):
                yield (
                    "capture_known",
                    f"the channel took {amount}, and here the attempt is {own.state}",
                )
        else:
            if (own.captured_minor, own.captured_currency, own.channel_trade_no) != (
                amount.minor,
                amount.currency,
                fact.trade_no,
            ):
                ours = Money(own.captured_minor, own.captured_currency)
                yield (
                    "capture_same",
                    (
                        f"the channel took {amount} under {fact.trade_no}, we have {ours} under "
                        f"{own.channel_trade_no}"
                    ),
                )
            if fact.fee is not None and fact.fee.minor != fee_minor:
                yield (
                    "capture_fee",
                    (
                        f"the channel kept a fee of {fact.fee}, we booked "
                        f"{Money(fee_minor, fact.fee.currency)}"
                    ),
                )

    async def refunds(self, day: date) -> AsyncIterator[Violation]:
        """Refunds that were asked for on one of the channel's days."""
        after = ""
        while True:
            page = await self._channel.refunds_of_day(day, after=after, timeout_seconds=SECONDS_MAX)
            for text in page.unreadable:
                yield Violation(check="channel_readable", subject=f"refunds of {day}", detail=text)
            ids = [listed.fact.refund_id for listed in page.refunds]
            ours = await self._db.read(_refunds, ids)
            fees = await self._db.read(_booked, list(map(fee_returned_key, ids)))
            for listed in page.refunds:
                refund_id = listed.fact.refund_id
                self._seen.add(hash(("refund", refund_id)))
                if refund_id not in self._settled:
                    for check, detail in self._refund(
                        listed, ours.get(refund_id), fees[fee_returned_key(refund_id)]
                    ):
                        yield Violation(check=check, subject=refund_id, detail=detail)
            if not page.next_after:
                return
            after = page.next_after

    def _refund(self, listed: ListedRefund, own: Any, fee_minor: int) -> Iterable[tuple[str, str]]:
        fact = listed.fact
        if own is None:
            yield (
                "refund_known",
                (
                    f"the channel has a refund of {listed.amount} that is {fact.status}, and we do "
                    f"not know it"
                ),
            )
            return
        if (own.amount_minor, own.currency, own.attempt_id) != (
            listed.amount.minor,
            listed.amount.currency,
            listed.attempt_id,
        ):
            yield (
                "refund_amount",
                (
                    f"the channel gave {listed.amount} of {listed.attempt_id} back, we have "
                    f"{Money(own.amount_minor, own.currency)} of {own.attempt_id}"
                ),
            )
        if (
            own.state != _ENDED.get(fact.status)
            and not (own.state in refunds.OPEN and fact.status not in _ENDED)
            and not self._is_recent(own, fact.occurred_at)
        ):
            yield "refund_same", f"here it is {own.state}, at the channel {fact.status}"
        elif (
            own.state == RefundState.SUCCESS
            and fact.fee_returned is not None
            and fact.fee_returned.minor != fee_minor
        ):
            yield (
                "refund_fee",
                (
                    f"the channel gave {fact.fee_returned} of its fee back, we booked "
                    f"{Money(fee_minor, fact.fee_returned.currency)}"
                ),
            )

    def _is_recent(self, own: Any, occurred_at: datetime | None) -> bool:
        """We may not have heard yet how it ended."""
        if self._tolerance.strict:
            return False
        is_recent = occurred_at is not None and occurred_at > self._tolerance.before(SETTLING)
        return is_recent or (
            own.state in refunds.OPEN and own.updated_at >= self._tolerance.before(OVERDUE)
        )

    async def unknown_there(self) -> AsyncIterator[Violation]:
        """Captures and refunds of ours that stand on no day of the channel, each asked for."""
        for attempt_id in [
            name
            for name in await self._db.read(_captured_ids)
            if hash(("capture", name)) not in self._seen and name not in self._settled
        ]:
            fact = await self._channel.query(attempt_id, timeout_seconds=SECONDS_MAX)
            if fact.status is not ChannelStatus.CAPTURED:
                yield Violation(
                    check="capture_real",
                    subject=attempt_id,
                    detail=f"we have a capture, and at the channel the attempt is {fact.status}",
                )
        for row in await self._db.read(_final_refunds):
            if (
                hash(("refund", row.refund_id)) not in self._seen
                and row.refund_id not in self._settled
            ):
                amount = Money(row.amount_minor, row.currency)
                found = await self._channel.query_refund(
                    row.refund_id,
                    of=CapturedAttempt(attempt_id=row.attempt_id, amount=amount),
                    amount=amount,
                    refund_no=row.channel_refund_no,
                    timeout_seconds=SECONDS_MAX,
                )
                if _ENDED.get(found.status) != row.state:
                    yield Violation(
                        check="refund_same",
                        subject=row.refund_id,
                        detail=f"here it is {row.state}, at the channel {found.status}",
                    )


def _days(first: date | None, now: datetime) -> Iterable[date]:
    """The channel's days from the first on which it may have moved money of ours to the last that
    has begun anywhere.
    """
    last = now.date() + timedelta(days=1)
    day = min(first or last, last) - timedelta(days=DAYS_BEFORE)
    while day <= last:
        yield day
        day += timedelta(days=1)


async def _first_day(tx: AsyncConnection) -> date | None:
    """The day of our first attempt; ids ascend with time."""
    query = select(_A.created_at).where(_A.channel == _CHANNEL).order_by(_A.attempt_id).limit(1)
    first: datetime | None = (await tx.execute(query)).scalar()
    return None if first is None else first.date()


async def _settled(tx: AsyncConnection) -> set[str]:
    """Attempts and refunds about which a person settled a difference with a statement."""
    rows = await tx.execute(
        select(_D.attempt_id, _D.refund_id).where(_D.state == DifferenceState.RESOLVED)
    )
    return {name for row in rows for name in (row.attempt_id, row.refund_id) if name}


async def _attempts(tx: AsyncConnection, ids: Sequence[str]) -> dict[str, Any]:
    columns = (
        _A.attempt_id,
        _A.state,
        _A.captured_minor,
        _A.captured_currency,
        _A.channel_trade_no,
        _A.updated_at,
    )
    return {
        row.attempt_id: row
        for row in await tx.execute(select(*columns).where(_A.attempt_id.in_(ids)))
    }


async def _refunds(tx: AsyncConnection, ids: Sequence[str]) -> dict[str, Any]:
    columns = (_R.refund_id, _R.attempt_id, _R.state, _R.amount_minor, _R.currency, _R.updated_at)
    return {
        row.refund_id: row
        for row in await tx.execute(select(*columns).where(_R.refund_id.in_(ids)))
    }


async def _booked(tx: AsyncConnection, keys: Sequence[str]) -> dict[str, int]:
    """What transactions of the ledger moved, in minor units, by their business keys."""
    rows = await tx.execute(
        select(_P.business_key, func.sum(_P.amount_minor).label("minor"))
        .where(_P.business_key.in_(keys), _P.side == "D")
        .group_by(_P.business_key)
    )
    return defaultdict(int, {row.business_key: int(row.minor) for row in rows})


async def _captured_ids(tx: AsyncConnection) -> Sequence[str]:
    query = (
        select(_A.attempt_id)
        .where(_A.channel == _CHANNEL, _A.state == AttemptState.CAPTURED)
        .order_by(_A.attempt_id)
    )
    return (await tx.execute(query)).scalars().all()


async def _final_refunds(tx: AsyncConnection) -> Sequence[Any]:
    final = (RefundState.SUCCESS, RefundState.REVERSED)
    return (
        await tx.execute(
            select(
                _R.refund_id,
                _R.state,
                _R.attempt_id,
                _R.amount_minor,
                _R.currency,
                _R.channel_refund_no,
            )
            .where(_R.channel == _CHANNEL, _R.state.in_(final))
            .order_by(_R.refund_id)
        )
    ).all()
