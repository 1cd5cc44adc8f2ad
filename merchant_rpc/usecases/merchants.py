"""Whether a merchant may sell: administrators activate, suspend, resume and close. Its test sibling
goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.admin_action import AdminAction
from merchant_rpc.domain.errors import MerchantStateInvalid
from merchant_rpc.domain.merchant import (
    Merchant,
    MerchantState,
    Verb,
    base_id,
    sibling_id,
)
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.store import actions as action_store
from merchant_rpc.store import endings, merchants
from merchant_rpc.store import one_time_links as link_store
from merchant_rpc.store.merchants import MerchantPage
from merchant_rpc.usecases.actions import Actions, actor_of
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.paging import Key, PageTokens
from mesh.times import from_milliseconds, milliseconds

_Change = Callable[[Merchant, datetime], Merchant]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMerchants:
    """A page of merchants; None lists those in every state."""

    state: MerchantState | None
    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantStep:
    """A step that an administrator takes, and why."""

    merchant_id: str
    method: str  # the RPC
    reason: str


class Merchants:
    """GetMerchant, ListMerchants, ActivateMerchant, SuspendMerchant, ResumeMerchant, CloseMerchant,
    ListAdminActions. Each step may be repeated: the second time it finds what it wanted.
    """

    def __init__(
        self, *, db: Database, clock: Clock, page_tokens: PageTokens, actions: Actions
    ) -> None:
        self._db = db
        self._clock = clock
        self._page_tokens = page_tokens
        self._actions = actions

    async def get(self, *, merchant_id: str, caller: Caller) -> Merchant:
        """A merchant.

        Raises:
            MerchantNotFound: there is none, or it is not the caller's.
        """
        return await self._db.read(
            merchants.get_merchant, merchant_id=merchant_id, visible_to=caller
        )

    async def list_merchants(self, query: ListMerchants) -> tuple[tuple[Merchant, ...], str]:
        """One page of merchants without their siblings, newest first, and the token of the next
        one.

        Raises:
            PageTokenInvalid.
        """

        async def read(before: tuple[Key, ...] | None, limit: int) -> Sequence[Merchant]:
            key = (from_milliseconds(int(before[0])), str(before[1])) if before else None
            page = MerchantPage(state=query.state, before=key, limit=limit)
            return await self._db.read(merchants.list_merchants, page)

        return await self._page_tokens.page(
            read,
            list_name="ListMerchants",
            filter={"state": query.state or ""},
            types=(int, str),
            size=query.page_size,
            token=query.page_token,
            key=lambda merchant: (milliseconds(merchant.created_at), merchant.merchant_id),
        )

    async def activate(self, step: MerchantStep, caller: Caller) -> Merchant:
        """Lets a merchant take real money. Its sibling stays what it is.

        Raises:
            MerchantNotFound, MerchantStateInvalid.
        """
        return await self._take(
            step,
            caller,
            done=frozenset({MerchantState.LIVE}),
            change=lambda merchant, now: merchant.step(Verb.ACTIVATE, now=now),
        )

    async def suspend(self, step: MerchantStep, caller: Caller) -> Merchant:
        """Refuses everything new of a merchant and its sibling; money can go back.

        Raises:
            MerchantNotFound, MerchantStateInvalid.
        """
        return await self._take(
            step,
            caller,
            done=frozenset({MerchantState.SUSPENDED}),
            change=lambda merchant, now: merchant.step(Verb.SUSPEND, now=now),
        )

    async def resume(self, step: MerchantStep, caller: Caller) -> Merchant:
        """Makes a merchant and its sibling what they were before they were suspended.

        Raises:
            MerchantNotFound, MerchantStateInvalid.
        """
        return await self._take(
            step,
            caller,
            done=frozenset({MerchantState.TEST_ONLY, MerchantState.LIVE}),
            change=lambda merchant, now: merchant.resume(now=now),
        )

    async def close(self, step: MerchantStep, caller: Caller) -> Merchant:
        """Ends a merchant and its sibling for ever, with their keys, sessions and invitations.

        Raises:
            MerchantNotFound, MerchantStateInvalid.
        """
        return await self._take(
            step,
            caller,
            done=frozenset({MerchantState.CLOSED}),
            change=lambda merchant, now: merchant.step(Verb.CLOSE, now=now),
        )

    async def list_actions(
        self, *, merchant_id: str, page_size: int, page_token: str, caller: Caller
    ) -> tuple[tuple[AdminAction, ...], str]:
        """One page of what was done to a merchant and its sibling, newest first, and the token of
        the next one.

        Raises:
            MerchantNotFound, PageTokenInvalid.
        """
        await self.get(merchant_id=merchant_id, caller=caller)
        base = base_id(merchant_id)

        async def read(before: tuple[Key, ...] | None, limit: int) -> Sequence[AdminAction]:
            return await self._db.read(
                action_store.list_actions,
                merchant_ids=(base, sibling_id(base)),
                before=int(before[0]) if before else None,
                limit=limit,
            )

        return await self._page_tokens.page(
            read,
            list_name="ListAdminActions",
            filter={"merchant_id": base},
            types=(int,),
            size=page_size,
            token=page_token,
            key=lambda action: (action.action_id,),
        )

    async def _take(
        self,
        step: MerchantStep,
        caller: Caller,
        *,
        done: frozenset[MerchantState],
        change: _Change,
    ) -> Merchant:
        merchant = await self._db.run(self._step, step, caller, done=done, change=change)
        failpoint("merchant.step.after_commit")
        return merchant

    async def _step(
        self,
        tx: AsyncConnection,
        step: MerchantStep,
        caller: Caller,
        *,
        done: frozenset[MerchantState],
        change: _Change,
    ) -> Merchant:
        before = await merchants.lock_merchant(tx, merchant_id=step.merchant_id)
        if before.is_test:
            raise MerchantStateInvalid(
                "a test sibling goes with its merchant",
                fields={"merchant_id": f"is the test sibling of {base_id(step.merchant_id)}"},
                state=before.state,
                verb=step.method,
            )
        if before.state in done:
            return before
        now = self._clock.now()
        after = change(before, now)
        await merchants.update_merchant(tx, after)
        sibling = await merchants.lock_merchant(tx, merchant_id=sibling_id(step.merchant_id))
        if before.state is not MerchantState.TEST_ONLY or after.state is not MerchantState.LIVE:
            await merchants.update_merchant(tx, change(sibling, now))
        ended = {}
        if after.state is MerchantState.CLOSED:
            ended = await self._end(tx, after, now=now, by=actor_of(caller))
        await self._actions.record(
            tx,
            caller=caller,
            merchant_id=after.merchant_id,
            method=step.method,
            target=after.merchant_id,
            before={"state": before.state},
            after={"state": after.state, **ended},
            reason=step.reason,
        )
        failpoint("merchant.step.before_commit")
        return after

    async def _end(
        self, tx: AsyncConnection, merchant: Merchant, *, now: datetime, by: str
    ) -> dict[str, int]:
        ids = (merchant.merchant_id, sibling_id(merchant.merchant_id))
        await link_store.delete_below(tx, kind=LinkKind.INVITATION, prefix=merchant.merchant_id)
        return {
            "keys_ended": await endings.end_keys(tx, merchant_ids=ids, now=now, revoked_by=by),
            "sessions_ended": await endings.end_sessions(tx, merchant_ids=ids, now=now),
        }
