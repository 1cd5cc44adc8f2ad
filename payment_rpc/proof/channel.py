"""What the sandbox says that it took and gave back, against what we have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database
from mesh.errors import Unavailable
from mesh.money import Money
from mesh.proof import OVERDUE, Allowance, Violation
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import ATTEMPT, REFUND

PAGE = 500
SECONDS_MAX = 10.0
_CHANNEL = "sandbox"
_A, _R = ATTEMPT.c, REFUND.c


async def channel_violations(db: Database, allowance: Allowance, *, base_url: str, api_key: str) -> AsyncIterator[Violation]:
    """Every capture there is one here, of the same amount, and the other way round; and every refund of ours ended there as it ended here.

    Raises:
        Unavailable: the channel does not answer.
    """
    headers = {"authorization": f"Bearer {api_key}"}
    try:
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=SECONDS_MAX, trust_env=False) as client:
            async for violation in _captures(db, client, allowance):
                yield violation
            async for violation in _refunds(db, client):
                yield violation
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise Unavailable(f"the sandbox at {base_url} does not tell its transactions: {error!r}") from error


async def _captures(db: Database, client: httpx.AsyncClient, allowance: Allowance) -> AsyncIterator[Violation]:
    matched, after = 0, 0
    while True:
        page = (await client.get("/v1/transactions", params={"after": after, "limit": PAGE})).raise_for_status().json()
        captured = {row["attempt_id"]: row for row in page["transactions"] if row["status"] == "CAPTURED"}
        ours = await db.read(_attempts, list(captured))
        for attempt_id, theirs in captured.items():
            own, amount = ours.get(attempt_id), Money.parse(theirs["amount"], theirs["currency"])
            if own is None:
                yield Violation(check="capture_known", subject=attempt_id, detail=f"the channel took {amount}, and we do not know the attempt")
            elif own.state == AttemptState.CAPTURED:
                matched += 1
                if (own.captured_minor, own.captured_currency, own.channel_trade_no) != (amount.minor, amount.currency, theirs["trade_no"]):
                    yield Violation(check="capture_same", subject=attempt_id, detail=f"the channel took {amount} under {theirs['trade_no']}, we have "
                                    f"{Money(own.captured_minor, own.captured_currency)} under {own.channel_trade_no}")
            elif allowance.strict or own.updated_at < allowance.before(OVERDUE):
                yield Violation(check="capture_known", subject=attempt_id, detail=f"the channel took {amount}, and here the attempt is {own.state}")
        if page["next_after"] is None:
            break
        after = page["next_after"]
    if await db.read(_count_captured) > matched:
        async for violation in _unknown_there(db, client):
            yield violation


async def _unknown_there(db: Database, client: httpx.AsyncClient) -> AsyncIterator[Violation]:
    """The numbers differ, so each capture is asked for."""
    for attempt_id in await db.read(_captured_ids):
        answer = await client.get(f"/v1/transactions/{quote(attempt_id, safe='')}")
        status = answer.json().get("status") if answer.status_code == httpx.codes.OK else "unknown"
        if status != "CAPTURED":
            yield Violation(check="capture_real", subject=attempt_id, detail=f"we have a capture, and at the channel the attempt is {status}")


async def _refunds(db: Database, client: httpx.AsyncClient) -> AsyncIterator[Violation]:
    for row in await db.read(_final_refunds):
        answer = await client.get(f"/v1/refunds/{quote(row.refund_id, safe='')}")
        status = answer.json().get("status") if answer.status_code == httpx.codes.OK else "unknown"
        if status != row.state:
            yield Violation(check="refund_same", subject=row.refund_id, detail=f"here it is {row.state}, at the channel {status}")


async def _attempts(tx: AsyncConnection, ids: Sequence[str]) -> dict[str, Any]:
    return {row.attempt_id: row for row in await tx.execute(select(ATTEMPT).where(_A.attempt_id.in_(ids)))}


async def _count_captured(tx: AsyncConnection) -> int:
    return (await tx.execute(select(func.count()).select_from(ATTEMPT).where(_A.channel == _CHANNEL, _A.state == AttemptState.CAPTURED))).scalar_one()


async def _captured_ids(tx: AsyncConnection) -> Sequence[str]:
    return (await tx.execute(select(_A.attempt_id).where(_A.channel == _CHANNEL, _A.state == AttemptState.CAPTURED).order_by(_A.attempt_id))
            ).scalars().all()


async def _final_refunds(tx: AsyncConnection) -> Sequence[Any]:
    final = (RefundState.SUCCESS, RefundState.REVERSED)
    return (await tx.execute(select(_R.refund_id, _R.state).where(_R.channel == _CHANNEL, _R.state.in_(final)).order_by(_R.refund_id))).all()
