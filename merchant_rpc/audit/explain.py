"""What merchant_rpc knows about a merchant, in words for a support person: what it is, who works
for it and what was done to it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.merchant import MerchantState, base_id, sibling_id
from merchant_rpc.domain.one_time_link import LIFETIME
from merchant_rpc.store.actions import list_actions
from merchant_rpc.tables import API_KEY, MEMBERSHIP, MERCHANT
from mesh.audit import TenantKey
from mesh.audit.explain import Actor, Explanation, PendingStep, TimelineEntry
from mesh.db import Database

ACTIONS_MAX = 200  # more than a person reads
_STANDING = {
    MerchantState.PENDING_EMAIL: "waits for its owner to use the link of the mail",
    MerchantState.TEST_ONLY: "may only use its test sibling",
    MerchantState.LIVE: "takes real money",
    MerchantState.SUSPENDED: "is suspended: nothing new begins, and money can go back",
    MerchantState.CLOSED: "is closed for ever; money can still go back",
}


async def find_orders(_db: Database, _name: str) -> list[TenantKey]:
    """No order is kept here."""
    return []


async def explain_order(_db: Database, _key: TenantKey) -> Explanation | None:
    """No order is kept here."""
    return None


async def explain_merchants(db: Database, name: str) -> dict[TenantKey, Explanation]:
    """The explanation of a merchant by its id or that of its test sibling."""
    return await db.read(_explain, base_id(name))


async def _explain(tx: AsyncConnection, merchant_id: str) -> dict[TenantKey, Explanation]:
    found = await tx.execute(select(MERCHANT).where(MERCHANT.c.merchant_id == merchant_id))
    merchant = found.one_or_none()
    if merchant is None:
        return {}
    ids = (merchant_id, sibling_id(merchant_id))
    people = await _count(tx, MEMBERSHIP, MEMBERSHIP.c.merchant_id == merchant_id)
    keys = await _count(tx, API_KEY, API_KEY.c.merchant_id.in_(ids), API_KEY.c.revoked_at.is_(None))
    actions = await list_actions(tx, merchant_ids=ids, before=None, limit=ACTIONS_MAX)
    state = MerchantState(merchant.state)
    headline = (
        f"Merchant {merchant_id} ({merchant.name}) {_STANDING[state]}. People: {people}; keys that "
        f"were not revoked, with those of its test sibling: {keys}; version of its settings: "
        f"{merchant.settings_version or 'none was ever set'}."
    )
    timeline = [
        TimelineEntry(at=merchant.created_at, actor=Actor.PERSON, text="It signed up."),
        *(
            TimelineEntry(
                at=action.created_at,
                actor=Actor.PERSON,
                text=f"{action.method} on {action.target} by {action.actor}"
                + (f" ({action.reason})" if action.reason else "")
                + ("." if action.outcome == "DONE" else f": {action.outcome}."),
            )
            for action in reversed(actions)
        ),
    ]
    pending = (
        (PendingStep(at=merchant.created_at + LIFETIME, text="The id is free again by then."),)
        if state is MerchantState.PENDING_EMAIL
        else ()
    )
    return {
        (merchant_id, merchant_id): Explanation(
            headlines=(headline,), timeline=tuple(timeline), pending=pending
        )
    }


async def _count(tx: AsyncConnection, table: Any, *conditions: Any) -> int:
    found = await tx.execute(select(func.count()).select_from(table).where(*conditions))
    return int(found.scalar_one())
