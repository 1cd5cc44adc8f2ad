"""Rows of the log of callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import log_chain
from mesh.bad_rows import Quarantine
from mesh.db import insert_if_absent
from payment_rpc.domain.callback import Callback, CallbackKind, CallbackResult, Subject
from payment_rpc.tables import ATTEMPT, CALLBACK_LOG, CHANNEL_CALLBACK

# a message cannot be so much younger than one that is old enough, but for a wrong clock
AHEAD_MAX = timedelta(seconds=90)
PURGE_BATCH = 500
# more than a person reads, so that forgeries about one payment do not fill the memory
STORY_MAX = 500

_C = CHANNEL_CALLBACK.c
_ALL = tuple(_C)
_INSERT = insert(CHANNEL_CALLBACK)
_LOCK_BY_KEY = (
    select(*_ALL)
    .where(_C.channel == bindparam("of_channel"), _C.dedupe_key == bindparam("key"))
    .with_for_update()
)
_AGAIN = (
    update(CHANNEL_CALLBACK)
    .where(_C.callback_id == bindparam("id"))
    .values(deliveries=_C.deliveries + 1, last_received_at=bindparam("now"))
)
# PROCESSED is never overwritten: of two calls that process one message at once, the one that
# changed something writes the result.
_FINISH = (
    update(CHANNEL_CALLBACK)
    .where(_C.callback_id == bindparam("id"), _C.result != CallbackResult.PROCESSED)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("result", "reason", "finished_at", "payment_id", "attempt_id", "refund_id")
        }
    )
)
_PAYMENT_OF = select(ATTEMPT.c.payment_id).where(ATTEMPT.c.attempt_id == bindparam("attempt"))


async def arrive(tx: AsyncConnection, callback: Callback) -> Callback:
    """Writes a verified message down, or counts its delivery when it came before; returns it as its
    row is now. The row stays locked until the end of the transaction: of equal messages at once,
    one goes on and the others wait to see what
    became of it."""
    values = log_chain.first(CALLBACK_LOG, _values(callback))
    await insert_if_absent(tx, CHANNEL_CALLBACK, values)
    row = (
        await tx.execute(_LOCK_BY_KEY, {"of_channel": callback.channel, "key": callback.dedupe_key})
    ).one()
    if row.callback_id == callback.callback_id:
        await log_chain.begin(tx, CALLBACK_LOG, values)
        return callback
    await tx.execute(_AGAIN, {"id": row.callback_id, "now": callback.received_at})
    return callback_of(row)


async def add_unverified(tx: AsyncConnection, callback: Callback) -> None:
    """Writes an unverified message, with the payment that it claims when there is one."""
    payment_id: str | None = None
    if callback.about.attempt_id:
        payment_id = (
            await tx.execute(_PAYMENT_OF, {"attempt": callback.about.attempt_id})
        ).scalar()
    about = replace(callback.about, payment_id=payment_id or callback.about.payment_id)
    await tx.execute(_INSERT, _values(replace(callback, about=about)))


async def finish(tx: AsyncConnection, callback: Callback) -> None:
    """Writes what became of a message, unless it is PROCESSED already."""
    await tx.execute(
        _FINISH,
        {
            "id": callback.callback_id,
            "new_result": callback.result,
            "new_reason": callback.reason,
            "new_finished_at": callback.finished_at,
            "new_payment_id": callback.about.payment_id,
            "new_attempt_id": callback.about.attempt_id,
            "new_refund_id": callback.about.refund_id,
        },
    )


async def list_unfinished(
    tx: AsyncConnection, *, before: datetime, limit: int, quarantine: Quarantine
) -> Sequence[Row[Any]]:
    """Messages, as they are stored, that were received before a moment and have no
    result. One that seems to come from the future was received by a process whose clock was
    ahead, and does not wait for its error."""
    of_a_fast_clock = _C.received_at > before + AHEAD_MAX
    query = (
        select(*_ALL)
        .where(_C.result == CallbackResult.RECEIVED, (_C.received_at < before) | of_a_fast_clock)
        .order_by(_C.received_at)
        .limit(limit)
    )
    rows: Sequence[Row[Any]] = (await tx.execute(quarantine.narrow(query))).all()
    return rows


async def callbacks_of_payments(tx: AsyncConnection, payment_ids: Sequence[str]) -> list[Callback]:
    """Up to STORY_MAX messages about some payments: genuine ones, oldest first, then those that
    only claim to be.
    """
    query = (
        select(*_ALL)
        .where(_C.payment_id.in_(payment_ids))
        .order_by(_C.signature_valid.desc(), _C.callback_id)
        .limit(STORY_MAX)
    )
    return [callback_of(row) for row in (await tx.execute(query)).all()]


async def purge(tx: AsyncConnection, *, now: datetime) -> int:
    """Deletes up to PURGE_BATCH messages whose time is over; returns how many."""
    query = (
        select(_C.callback_id)
        .where(_C.expires_at <= now)
        .order_by(_C.expires_at)
        .limit(PURGE_BATCH)
    )
    over = (await tx.execute(query)).scalars().all()
    if over:
        await log_chain.purge(tx, CALLBACK_LOG, over)
    return len(over)


def callback_of(row: Row[Any]) -> Callback:
    """The row as a value. Raises any exception when it has an impossible value."""
    return Callback(
        callback_id=row.callback_id,
        channel=row.channel,
        kind=CallbackKind(row.kind),
        dedupe_key=row.dedupe_key,
        about=Subject(
            event_id=row.event_id,
            payment_id=row.payment_id,
            attempt_id=row.attempt_id,
            refund_id=row.refund_id,
        ),
        payload=row.payload,
        payload_encoding=row.payload_encoding,
        payload_bytes=row.payload_bytes,
        payload_digest=row.payload_digest,
        sent_timestamp=row.sent_timestamp,
        nonce=row.nonce,
        signature_digest=row.signature_digest,
        signature_valid=bool(row.signature_valid),
        result=CallbackResult(row.result),
        reason=row.reason,
        deliveries=row.deliveries,
        trace_id=row.trace_id,
        received_at=row.received_at,
        last_received_at=row.last_received_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
    )


def _values(callback: Callback) -> dict[str, Any]:
    about = callback.about
    return {
        "callback_id": callback.callback_id,
        "channel": callback.channel,
        "kind": callback.kind,
        "dedupe_key": callback.dedupe_key,
        "event_id": about.event_id,
        "payload": callback.payload,
        "payload_encoding": callback.payload_encoding,
        "payload_bytes": callback.payload_bytes,
        "payload_digest": callback.payload_digest,
        "sent_timestamp": callback.sent_timestamp,
        "nonce": callback.nonce,
        "signature_digest": callback.signature_digest,
        "signature_valid": callback.signature_valid,
        "result": callback.result,
        "reason": callback.reason,
        "deliveries": callback.deliveries,
        "payment_id": about.payment_id,
        "attempt_id": about.attempt_id,
        "refund_id": about.refund_id,
        "trace_id": callback.trace_id,
        "received_at": callback.received_at,
        "last_received_at": callback.last_received_at,
        "finished_at": callback.finished_at,
        "expires_at": callback.expires_at,
    }
