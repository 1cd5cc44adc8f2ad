"""Who works for a merchant, and as what. The people of a merchant are those of its test sibling."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import (
    LastOwner,
    MemberNotFound,
    MerchantNotFound,
    PersonRequired,
    ScopeNotHeld,
)
from merchant_rpc.domain.member import MemberRole, Membership
from merchant_rpc.domain.merchant import base_id, sibling_id
from merchant_rpc.store import endings, members, merchants
from merchant_rpc.usecases.actions import Actions
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint

MEMBER_PREFIX = "member:"
WRITES_MEMBERS = "members:write"
_REMOVE = "RemoveMember"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMemberRole:
    """Another role for a member, and why."""

    merchant_id: str
    member_id: str
    role: MemberRole
    reason: str


class Members:
    """ListMembers, SetMemberRole, RemoveMember."""

    def __init__(self, *, db: Database, clock: Clock, actions: Actions) -> None:
        self._db = db
        self._clock = clock
        self._actions = actions

    async def list_members(self, *, merchant_id: str, caller: Caller) -> list[Membership]:
        """Everybody who works for a merchant, oldest first.

        Raises:
            PersonRequired: the caller is a key.
        """
        refuse_keys(caller)
        return await self._db.read(members.list_memberships, merchant_id=base_id(merchant_id))

    async def set_role(self, command: SetMemberRole, caller: Caller) -> Membership:
        """Gives a member another role.

        Raises:
            PersonRequired, ScopeNotHeld, MemberNotFound, LastOwner.
        """
        membership = await self._db.run(self._set_role, command, caller)
        failpoint("merchant.member_role.after_commit")
        return membership

    async def remove(
        self, *, merchant_id: str, member_id: str, reason: str, caller: Caller
    ) -> None:
        """Ends a membership and its sessions. The person's account stays. Who was removed before
        is removed again: nothing happens.

        Raises:
            PersonRequired, ScopeNotHeld, MemberNotFound (he never worked here), LastOwner.
        """
        await self._db.run(
            self._remove,
            merchant_id=merchant_id,
            member_id=member_id,
            reason=reason,
            caller=caller,
        )
        failpoint("merchant.member_remove.after_commit")

    async def _set_role(
        self, tx: AsyncConnection, command: SetMemberRole, caller: Caller
    ) -> Membership:
        merchant_id = base_id(command.merchant_id)
        await check_may_give(tx, caller, merchant_id=merchant_id, role=command.role)
        before = await _membership(tx, merchant_id=merchant_id, member_id=command.member_id)
        if before.role is command.role:
            return before
        if before.role is MemberRole.OWNER:
            await _check_other_owner(tx, before)
        await members.set_role(
            tx,
            merchant_id=merchant_id,
            member_id=command.member_id,
            role=command.role,
            now=self._clock.now(),
        )
        await self._actions.record(
            tx,
            caller=caller,
            merchant_id=merchant_id,
            method="SetMemberRole",
            target=command.member_id,
            before={"role": before.role},
            after={"role": command.role},
            reason=command.reason,
        )
        failpoint("merchant.member_role.before_commit")
        return replace(before, role=command.role)

    async def _remove(
        self, tx: AsyncConnection, *, merchant_id: str, member_id: str, reason: str, caller: Caller
    ) -> None:
        merchant_id = base_id(merchant_id)
        await check_may_give(tx, caller, merchant_id=merchant_id)
        try:
            before = await _membership(tx, merchant_id=merchant_id, member_id=member_id)
        except MemberNotFound:
            if await self._actions.was_done(
                tx, merchant_id=merchant_id, method=_REMOVE, target=member_id
            ):
                return
            raise
        if before.role is MemberRole.OWNER:
            await _check_other_owner(tx, before)
        await members.delete_membership(tx, merchant_id=merchant_id, member_id=member_id)
        ended = await endings.end_sessions(
            tx,
            merchant_ids=(merchant_id, sibling_id(merchant_id)),
            member_id=member_id,
            now=self._clock.now(),
        )
        await self._actions.record(
            tx,
            caller=caller,
            merchant_id=merchant_id,
            method=_REMOVE,
            target=member_id,
            before={"role": before.role},
            after={"sessions_ended": ended},
            reason=reason,
        )
        failpoint("merchant.member_remove.before_commit")


def refuse_keys(caller: Caller) -> None:
    """Raises PersonRequired for an API key: people are the business of people."""
    if caller.subject.startswith("key:"):
        raise PersonRequired


async def check_may_give(
    tx: AsyncConnection, caller: Caller, *, merchant_id: str, role: MemberRole | None = None
) -> None:
    """Locks the merchant and checks that the caller may change its people, and has every right of a
    role that he gives. His role is read here: a token may be older than it.

    Raises:
        PersonRequired: the caller is not a member who is signed in. ScopeNotHeld: he may not, or
            not any more.
    """
    if not caller.subject.startswith(MEMBER_PREFIX):
        raise PersonRequired
    try:
        await merchants.lock_merchant(tx, merchant_id=merchant_id)
    except MerchantNotFound:
        raise PersonRequired from None  # nobody works for a merchant that is not there
    own = await members.find_membership(
        tx, merchant_id=merchant_id, member_id=caller.subject.removeprefix(MEMBER_PREFIX)
    )
    held = frozenset() if own is None else own.role.scopes
    if caller.scopes is not None:
        held &= caller.scopes
    if WRITES_MEMBERS not in held:
        raise ScopeNotHeld(fields={"scopes": f"{WRITES_MEMBERS} is needed"})
    if role is not None and (missing := sorted(role.scopes - held)):
        raise ScopeNotHeld(fields={"role": f"{role} may {missing[0]}"})


async def _membership(tx: AsyncConnection, *, merchant_id: str, member_id: str) -> Membership:
    found = await members.find_membership(tx, merchant_id=merchant_id, member_id=member_id)
    if found is None:
        raise MemberNotFound(member_id=member_id)
    return found


async def _check_other_owner(tx: AsyncConnection, owner: Membership) -> None:
    if not await members.has_other_owner(
        tx, merchant_id=owner.merchant_id, member_id=owner.account.member_id
    ):
        raise LastOwner
