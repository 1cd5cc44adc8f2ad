"""Disputes that a channel reports. A person decides about one: nothing moves by itself."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.dispute import DisputeFact
from payment_rpc.usecases.manual_reviews import ask_for_review


async def write_dispute(
    tx: AsyncConnection, fact: DisputeFact, attempt: Attempt, *, at: datetime
) -> None:
    """Opens a manual review, once for each state of a dispute."""
    due = f", evidence until {fact.evidence_due.isoformat()}" if fact.evidence_due else ""
    await ask_for_review(
        tx,
        kind=f"DISPUTE_{fact.status}",
        payment_id=attempt.payment_id,
        subject=fact.dispute_ref,
        detail=f"{fact.amount} under {attempt.channel_trade_no or attempt.channel_ref}"
        f" ({fact.reason or 'no reason given'}){due}",
        at=at,
    )
