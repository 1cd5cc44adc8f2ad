"""Disputes that a channel reports. A person decides about one: nothing moves by itself."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.logs import get_logger
from payment_rpc.domain.attempt import Attempt
from payment_rpc.domain.dispute import DisputeFact
from payment_rpc.store import ledger

log = get_logger()


async def write_dispute(
    tx: AsyncConnection, fact: DisputeFact, attempt: Attempt, *, at: datetime
) -> None:
    """Opens a manual review, once for each state of a dispute."""
    kind = f"DISPUTE_{fact.status}"
    log.error(
        "attention",
        alert=True,
        kind=kind,
        payment_id=attempt.payment_id,
        attempt_id=attempt.attempt_id,
    )
    due = f", evidence until {fact.evidence_due.isoformat()}" if fact.evidence_due else ""
    await ledger.open_manual_review(
        tx,
        kind=kind,
        payment_id=attempt.payment_id,
        subject=fact.dispute_ref,
        detail=f"{fact.amount} under {attempt.channel_trade_no or attempt.channel_ref}"
        f" ({fact.reason or 'no reason given'}){due}",
        at=at,
    )
