"""Rows of attempts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.money import Money, stored_currency
from payment_rpc.domain.attempt import Attempt, AttemptState, Schedule
from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.domain.payment import Payment, PaymentState
from payment_rpc.store.versioned import PolledRows, row_of
from payment_rpc.tables import ATTEMPT, PAYMENT

_ALL = tuple(ATTEMPT.c)
_INSERT = insert(ATTEMPT)
# What never changes is not written again.
_FIXED = frozenset(
    {
        "attempt_id",
        "payment_id",
        "merchant_id",
        "channel",
        "amount_minor",
        "currency",
        "created_at",
        "watch_until",
    }
)
_BY_ID = select(*_ALL).where(ATTEMPT.c.attempt_id == bindparam("id"))
_BY_REF = (
    select(*_ALL)
    .where(ATTEMPT.c.channel == bindparam("of_channel"), ATTEMPT.c.channel_ref == bindparam("ref"))
    .order_by(ATTEMPT.c.attempt_id.desc())
    .limit(1)
)
_BY_TRADE_NO = (
    select(*_ALL)
    .where(
        ATTEMPT.c.channel == bindparam("of_channel"),
        ATTEMPT.c.channel_trade_no == bindparam("ref"),
    )
    .order_by(ATTEMPT.c.attempt_id.desc())
    .limit(1)
)
_PAYMENT_ID = select(ATTEMPT.c.payment_id).where(ATTEMPT.c.attempt_id == bindparam("id"))
_OF_PAYMENT = (
    select(*_ALL).where(ATTEMPT.c.payment_id == bindparam("payment")).order_by(ATTEMPT.c.attempt_id)
)

_STANDING = select(PAYMENT.c.payment_id, PAYMENT.c.state, PAYMENT.c.expires_at).where(
    PAYMENT.c.payment_id.in_(bindparam("payments", expanding=True))
)


async def insert_attempt(tx: AsyncConnection, attempt: Attempt) -> None:
    """Adds an attempt."""
    await tx.execute(_INSERT, _values(attempt))


async def save_attempt(tx: AsyncConnection, attempt: Attempt, *, read_version: int) -> None:
    """Writes an attempt that was read at `read_version`.

    Raises:
        StaleRow: it has changed since.
    """
    await POLLED.save(tx, _values(attempt), read_version=read_version)


async def attempts_of(tx: AsyncConnection, payment_id: str) -> list[Attempt]:
    """The attempts of a payment, oldest first. The payment's lock covers them."""
    return [
        attempt_of(row) for row in (await tx.execute(_OF_PAYMENT, {"payment": payment_id})).all()
    ]


async def attempts_of_payments(tx: AsyncConnection, payment_ids: Sequence[str]) -> list[Attempt]:
    """The attempts of several payments."""
    query = (
        select(*_ALL).where(ATTEMPT.c.payment_id.in_(payment_ids)).order_by(ATTEMPT.c.attempt_id)
    )
    return [attempt_of(row) for row in (await tx.execute(query)).all()]


async def get_attempt(tx: AsyncConnection, attempt_id: str) -> Attempt:
    """One attempt.

    Raises:
        PaymentNotFound: there is none.
    """
    row = (await tx.execute(_BY_ID, {"id": attempt_id})).first()
    if row is None:
        raise PaymentNotFound
    return attempt_of(row)


async def attempt_by_ref(tx: AsyncConnection, channel: str, ref: str) -> Attempt:
    """The newest attempt of a channel under the channel's own id of it, or of its capture: a
    dispute may name no more.

    Raises:
        PaymentNotFound: there is none.
    """
    for query in (_BY_REF, _BY_TRADE_NO) if ref else ():
        row = (await tx.execute(query, {"of_channel": channel, "ref": ref})).first()
        if row is not None:
            return attempt_of(row)
    raise PaymentNotFound


async def payment_id_of(tx: AsyncConnection, attempt_id: str) -> str:
    """The payment that an attempt belongs to.

    Raises:
        PaymentNotFound: there is no such attempt.
    """
    payment_id: str | None = (await tx.execute(_PAYMENT_ID, {"id": attempt_id})).scalar()
    if payment_id is None:
        raise PaymentNotFound
    return payment_id


async def capturing_attempt(tx: AsyncConnection, payment: Payment) -> str | None:
    """The attempt whose capture is the payment's money (not a second capture), or None."""
    captured = [
        attempt
        for attempt in await attempts_of(tx, payment.payment_id)
        if attempt.captured is not None
    ]
    return next(
        (
            attempt.attempt_id
            for attempt in captured
            if attempt.channel_trade_no == payment.channel_trade_no
        ),
        None,
    )


async def claim_due(
    tx: AsyncConnection, rows: Sequence[Row[Any]], *, now: datetime, schedule: Schedule
) -> list[Attempt]:
    """Schedules the next query of locked attempts. Returns those to be queried now."""
    due = [attempt_of(row) for row in rows]
    of_payment = {
        row.payment_id: row
        for row in await tx.execute(
            _STANDING, {"payments": sorted({attempt.payment_id for attempt in due})}
        )
    }
    claimed = []
    for attempt in due:
        payment = of_payment[attempt.payment_id]
        old_enough = attempt.created_at + schedule.threshold
        # not one of a fast clock
        if now < old_enough <= now + schedule.threshold and payment.state == PaymentState.PAYING:
            await save_attempt(
                tx, attempt.query_from(until=old_enough, at=now), read_version=attempt.version
            )
            continue
        claimed.append(
            attempt.postpone_query(at=now, last_chance=payment.expires_at + schedule.close_grace)
        )
        await save_attempt(tx, claimed[-1], read_version=attempt.version)
    return claimed


def attempt_of(row: Row[Any]) -> Attempt:
    """The row as a value. Raises any exception when it has an impossible value."""
    return Attempt(
        attempt_id=row.attempt_id,
        payment_id=row.payment_id,
        merchant_id=row.merchant_id,
        channel=row.channel,
        state=AttemptState(row.state),
        amount=Money(row.amount_minor, stored_currency(row.currency)),
        captured=None
        if row.captured_minor is None
        else Money(row.captured_minor, row.captured_currency),
        channel_trade_no=row.channel_trade_no,
        sends=row.sends,
        lease_until=row.lease_until,
        next_query_at=row.next_query_at,
        queries=row.queries,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        captured_at=row.captured_at,
        channel_ref=row.channel_ref,
        steps=row.steps,
        capture_id=row.capture_id,
        capture_amount=None
        if row.capture_minor is None
        else Money(row.capture_minor, stored_currency(row.currency)),
        capture_sends=row.capture_sends,
        watch_until=row.watch_until,
        surplus=Money(row.surplus_minor, row.captured_currency) if row.surplus_minor else None,
        capture_keeps_rest=row.capture_keeps_rest,
        capture_began_at=row.capture_began_at,
    )


def _values(attempt: Attempt) -> dict[str, Any]:
    amount, captured = attempt.amount, attempt.captured
    return row_of(
        attempt,
        ATTEMPT,
        amount_minor=amount.minor,
        currency=amount.currency,
        captured_minor=captured.minor if captured else None,
        captured_currency=captured.currency if captured else None,
        capture_minor=attempt.capture_amount.minor if attempt.capture_amount else None,
        surplus_minor=attempt.surplus.minor if attempt.surplus else 0,
    )


POLLED = PolledRows(
    ATTEMPT, ATTEMPT.c.attempt_id, fixed=_FIXED, value_of=attempt_of, values=_values
)
