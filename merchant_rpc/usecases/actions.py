"""The log of what people and keys did, written in the transaction of the change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.admin_action import DONE, AdminAction
from merchant_rpc.store import actions as store
from mesh.call import Caller, Role, current_client_address, current_trace_id
from mesh.clock import Clock

REASON_LENGTH_MAX = 500


class Actions:
    """Writes the log of actions. A merchant's row is locked before, or there is no such row: one
    merchant's actions are written one after the other.
    """

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock

    async def record(
        self,
        tx: AsyncConnection,
        *,
        caller: Caller,
        merchant_id: str,
        method: str,
        target: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str = "",
        outcome: str = DONE,
        actor: str = "",
    ) -> None:
        """Adds one action.

        Args:
            merchant_id: "" for what is done to the installation.
            before, after: plain values; what is secret or personal as `digest_of` it.
            outcome: DONE, or the reason of a refusal.
            actor: who, where the caller has no token (a link says who it is).
        """
        await store.append(
            tx,
            AdminAction(
                action_id=0,
                merchant_id=merchant_id,
                actor=actor or actor_of(caller),
                method=method,
                target=target,
                before_json=_text(before),
                after_json=_text(after),
                reason=reason[:REASON_LENGTH_MAX],
                client_address=current_client_address(),
                trace_id=current_trace_id(),
                outcome=outcome,
                created_at=self._clock.now(),
            ),
        )

    async def was_done(
        self, tx: AsyncConnection, *, merchant_id: str, method: str, target: str
    ) -> bool:
        """Whether an action was done before, so that the same call again has nothing to do."""
        return await store.was_done(tx, merchant_id=merchant_id, method=method, target=target)


def actor_of(caller: Caller) -> str:
    """Who acts: the subject of the token, "service:" and a name, or "anonymous"."""
    if caller.role is Role.SERVICE:
        return f"service:{caller.service}"
    return caller.subject or "anonymous"


def digest_of(value: str) -> str:
    """What the log keeps of a secret or personal value: whether it changed, not what it is."""
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()


def _text(values: Mapping[str, Any] | None) -> str:
    return "" if values is None else json.dumps(values, separators=(",", ":"), sort_keys=True)
