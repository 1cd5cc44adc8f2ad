"""The log of actions. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.admin_action import DONE, AdminAction
from merchant_rpc.tables import ACTION_LOG, ADMIN_ACTION
from mesh.log_chain import chained

_A = ADMIN_ACTION.c


async def append(tx: AsyncConnection, action: AdminAction) -> None:
    """Adds an action to the log of its merchant."""
    row = asdict(action)
    del row["action_id"]
    await tx.execute(insert(ADMIN_ACTION), await chained(tx, ACTION_LOG, [row]))


async def was_done(tx: AsyncConnection, *, merchant_id: str, method: str, target: str) -> bool:
    """Whether the log has this action of a merchant on a target, with the outcome DONE."""
    found = await tx.execute(
        select(_A.id)
        .where(
            _A.merchant_id == merchant_id,
            _A.target == target,
            _A.method == method,
            _A.outcome == DONE,
        )
        .limit(1)
    )
    return found.first() is not None


async def list_actions(
    tx: AsyncConnection, *, merchant_ids: Sequence[str], before: int | None, limit: int
) -> list[AdminAction]:
    """Actions on some merchants, newest first, beginning below `before`."""
    found: list[Any] = []
    for merchant_id in merchant_ids:  # each is one range of one index; a joint query would sort
        statement = select(ADMIN_ACTION).where(_A.merchant_id == merchant_id)
        if before is not None:
            statement = statement.where(_A.id < before)
        found += (await tx.execute(statement.order_by(_A.id.desc()).limit(limit))).all()
    found.sort(key=lambda row: int(row.id), reverse=True)
    return [_action(row) for row in found[:limit]]


def _action(row: Any) -> AdminAction:
    return AdminAction(
        action_id=row.id,
        merchant_id=row.merchant_id,
        actor=row.actor,
        method=row.method,
        target=row.target,
        before_json=row.before_json,
        after_json=row.after_json,
        reason=row.reason,
        client_address=row.client_address,
        trace_id=row.trace_id,
        outcome=row.outcome,
        created_at=row.created_at,
    )
