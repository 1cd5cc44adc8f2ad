"""Rows of the ledger, which are only inserted, and of manual reviews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import insert_if_absent
from mesh.money import Money
from payment_rpc.domain.ledger import LedgerTransaction, Side, fee_returned_key
from payment_rpc.domain.payment import Payment
from payment_rpc.tables import LEDGER_POSTING, LEDGER_TRANSACTION, MANUAL_REVIEW

_P = LEDGER_POSTING.c
_TRANSACTION = insert(LEDGER_TRANSACTION)
_POSTING = insert(LEDGER_POSTING)
_REVIEW = select(MANUAL_REVIEW.c.kind).where(MANUAL_REVIEW.c.attention_key == bindparam("key"))


async def book(
    tx: AsyncConnection, payment: Payment, booking: LedgerTransaction, *, at: datetime
) -> Payment:
    """Books a transaction at the end of its payment's chain and returns the payment with the new
    head, still to be saved.

    The payment is locked by the caller, so the chain has one writer. A fact that was booked before
    violates `uq_ledger_transaction_business_key`.
    """
    head = booking.hash(payment.ledger_head)
    await tx.execute(
        _TRANSACTION,
        {
            "business_key": booking.key,
            "kind": booking.kind,
            "payment_id": booking.payment_id,
            "previous_hash": payment.ledger_head,
            "hash": head,
            "booked_at": at,
        },
    )
    await tx.execute(
        _POSTING,
        [
            {
                "business_key": booking.key,
                "seq": seq,
                "account": posting.account,
                "side": posting.side,
                "amount_minor": posting.amount.minor,
                "currency": posting.amount.currency,
            }
            for seq, posting in enumerate(booking.postings)
        ],
    )
    return replace(payment, ledger_head=head)


async def fees_returned(tx: AsyncConnection, refund_ids: Sequence[str], *, currency: str) -> Money:
    """The fees that came back with some refunds, also with those that bounced later."""
    keys = [fee_returned_key(refund_id) for refund_id in refund_ids]
    minor = (
        await tx.execute(
            select(func.sum(_P.amount_minor)).where(
                _P.business_key.in_(keys), _P.side == Side.DEBIT
            )
        )
    ).scalar()
    return Money(int(minor or 0), currency)


async def open_manual_review(
    tx: AsyncConnection, *, kind: str, payment_id: str, subject: str, detail: str, at: datetime
) -> bool:
    """Opens a manual review, once per kind and subject. Returns whether it is a new one; one that
    was closed is not opened again.
    """
    key = f"{kind}:{subject}"
    is_new = (await tx.execute(_REVIEW, {"key": key})).first() is None
    await insert_if_absent(
        tx,
        MANUAL_REVIEW,
        {
            "attention_key": key,
            "kind": kind,
            "payment_id": payment_id,
            "detail": detail,
            "created_at": at,
            "resolved_at": None,
        },
    )
    return is_new


async def close_manual_reviews(
    tx: AsyncConnection, *, payment_id: str, at: datetime, note: str
) -> None:
    """Closes the manual reviews of a payment, with a note of who closed them and why."""
    await tx.execute(
        update(MANUAL_REVIEW)
        .where(MANUAL_REVIEW.c.payment_id == payment_id, MANUAL_REVIEW.c.resolved_at.is_(None))
        .values(resolved_at=at, detail=MANUAL_REVIEW.c.detail + f" | {note}")
    )
