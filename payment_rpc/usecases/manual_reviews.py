"""Opens manual reviews and says so once, however often their cause is seen again: a channel repeats
its answer at each question.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.logs import get_logger
from payment_rpc.store import ledger

log = get_logger()


async def ask_for_review(
    tx: AsyncConnection, *, kind: str, payment_id: str, subject: str, detail: str, at: datetime
) -> None:
    """Opens a manual review with an alert, or does nothing when there was one of the kind about the
    subject.

    Args:
        subject: an attempt, a refund or a dispute.
    """
    if await ledger.open_manual_review(
        tx, kind=kind, payment_id=payment_id, subject=subject, detail=detail, at=at
    ):
        log.error("attention", alert=True, kind=kind, payment_id=payment_id, subject=subject)
