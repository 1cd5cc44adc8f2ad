"""How people join: an owner names an address, and who reads its mail accepts. Operators of the
installation join in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import (
    LinkInvalid,
    LoginFailed,
    MemberLimitReached,
    MerchantStateInvalid,
)
from merchant_rpc.domain.member import (
    MEMBERS_MAX,
    Account,
    MemberRole,
    Membership,
    email_digest,
    parse_email,
)
from merchant_rpc.domain.merchant import Merchant, MerchantState, base_id
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.passwords import Passwords
from merchant_rpc.store import members, merchants, people
from merchant_rpc.store import one_time_links as link_store
from merchant_rpc.usecases.actions import Actions, actor_of, digest_of
from merchant_rpc.usecases.attempt_limits import AttemptLimits
from merchant_rpc.usecases.mail import Mail, Template
from merchant_rpc.usecases.members import MEMBER_PREFIX, WRITES_MEMBERS, check_may_give
from merchant_rpc.usecases.one_time_links import OneTimeLinks, digest
from merchant_rpc.usecases.operators import Operators
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.failpoints import failpoint
from mesh.ids import Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteMember:
    """Whom to invite, and as what."""

    merchant_id: str
    email: str = field(repr=False)
    role: MemberRole


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptInvitation:
    """What somebody who follows a link says."""

    token: str = field(repr=False)
    password: str = field(repr=False)
    name: str = field(repr=False)
    client_address: str


class Invitations:
    """InviteMember, AcceptInvitation."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        actions: Actions,
        links: OneTimeLinks,
        mail: Mail,
        limits: AttemptLimits,
        passwords: Passwords,
        operators: Operators,
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._actions = actions
        self._links = links
        self._mail = mail
        self._limits = limits
        self._passwords = passwords
        self._operators = operators

    async def invite(self, command: InviteMember, caller: Caller) -> None:
        """Sends a link to an address. Earlier links to it for this merchant end.

        Raises:
            MailUnavailable, LoginDelayed: nothing was done. InvalidArgument: no address, or a
                member's. PersonRequired, ScopeNotHeld, MerchantStateInvalid, MemberLimitReached.
        """
        self._mail.check()
        email = parse_email(command.email)
        await self._limits.take_mail(email=email)
        await self._db.run(self._invite, command, caller, email=email)
        failpoint("merchant.invite.after_commit")

    async def accept(
        self, command: AcceptInvitation, caller: Caller
    ) -> tuple[Account, Membership | None]:
        """Lets somebody work for the merchant that invited him, or be an operator (then without a
        membership). An address without an account gets one.

        Raises:
            LoginDelayed: nothing was done. LinkInvalid. LoginFailed: the account exists and has
                another password; the link still works. MemberLimitReached.
        """
        token_digest = digest(command.token)
        await self._limits.take_link(
            client_address=command.client_address, token_digest=token_digest
        )
        kind, said = await self._db.read(self._said, command.token)
        password_hash = await self._password_hash(said["email"], command.password)
        accepted = await self._db.run(self._accept, command, kind, password_hash, caller)
        failpoint("merchant.accept.after_commit")
        return accepted

    async def _invite(
        self,
        tx: AsyncConnection,
        command: InviteMember,
        caller: Caller,
        *,
        email: str,
    ) -> None:
        merchant_id = base_id(command.merchant_id)
        await check_may_give(tx, caller, merchant_id=merchant_id, role=command.role)
        merchant = await merchants.lock_merchant(tx, merchant_id=merchant_id)
        if merchant.state is MerchantState.CLOSED:
            raise MerchantStateInvalid(
                "a closed merchant has no new members", state=merchant.state, verb="INVITE"
            )
        account = await members.find_account(tx, email=email)
        if account is not None and await members.find_membership(
            tx, merchant_id=merchant_id, member_id=account.member_id
        ):
            raise InvalidArgument.of("email", "is a member already")
        subject = f"{merchant_id}/{email_digest(email)}"
        open_links = await link_store.count_below(
            tx,
            kind=LinkKind.INVITATION,
            prefix=merchant_id,
            besides=subject,
            now=self._clock.now(),
        )
        taken = open_links + await members.count_memberships(tx, merchant_id=merchant_id)
        if taken >= MEMBERS_MAX:
            raise MemberLimitReached
        await self._send(tx, merchant, subject=subject, email=email, role=command.role, by=caller)
        failpoint("merchant.invite.before_commit")

    async def _send(
        self,
        tx: AsyncConnection,
        merchant: Merchant,
        *,
        subject: str,
        email: str,
        role: MemberRole,
        by: Caller,
    ) -> None:
        token = await self._links.issue(
            tx,
            LinkKind.INVITATION,
            subject,
            {
                "merchant_id": merchant.merchant_id,
                "email": email,
                "role": role,
                "invited_by": actor_of(by),
            },
        )
        await self._mail.send(
            tx,
            Template.INVITATION,
            address=email,
            token=token,
            values={"merchant_id": merchant.merchant_id, "merchant_name": merchant.name},
        )
        await self._actions.record(
            tx,
            caller=by,
            merchant_id=merchant.merchant_id,
            method="InviteMember",
            target=digest_of(email),
            after={"role": role},
        )

    async def _said(self, tx: AsyncConnection, token: str) -> tuple[LinkKind, dict[str, Any]]:
        try:
            return LinkKind.INVITATION, await self._links.peek(tx, LinkKind.INVITATION, token)
        except LinkInvalid:
            return LinkKind.OPERATOR, await self._links.peek(tx, LinkKind.OPERATOR, token)

    async def _password_hash(self, email: str, password: str) -> str:
        """The hash of a new account's password, or that of an account that exists, which the
        password fits. Outside of any transaction, because that takes long.
        """
        person = await self._db.read(people.find_by_email, email_digest(email))
        if person is None:
            return await self._passwords.hash(password)
        fits = await self._passwords.verify(person.password_hash, password)
        if person.password_hash is None or not fits or not person.may_log_in:
            raise LoginFailed
        return person.password_hash

    async def _accept(
        self,
        tx: AsyncConnection,
        command: AcceptInvitation,
        kind: LinkKind,
        password_hash: str,
        caller: Caller,
    ) -> tuple[Account, Membership | None]:
        name = command.name.strip()
        if kind is LinkKind.OPERATOR:
            said = await self._links.redeem(tx, kind, command.token)
            await self._operators.accept(tx, said, name=name, password_hash=password_hash)
            operator = await members.find_account(tx, email=said["email"])
            if operator is None:
                raise LinkInvalid
            failpoint("merchant.accept.before_commit")
            return operator, None
        said = await self._links.peek(tx, kind, command.token)
        # the merchant comes first in every transaction
        await merchants.lock_merchant(tx, merchant_id=said["merchant_id"])
        said = await self._links.redeem(tx, kind, command.token)
        account = await self._account(tx, said["email"], name, password_hash)
        membership = await self._join(tx, account, said)
        await self._actions.record(
            tx,
            caller=caller,
            actor=f"{MEMBER_PREFIX}{account.member_id}",
            merchant_id=membership.merchant_id,
            method="AcceptInvitation",
            target=account.member_id,
            after={
                "role": membership.role,
                "invited_by": said["invited_by"],
                "email": digest_of(account.email),
            },
        )
        failpoint("merchant.accept.before_commit")
        return account, membership

    async def _account(
        self, tx: AsyncConnection, email: str, name: str, password_hash: str
    ) -> Account:
        account = await members.find_account(tx, email=email)
        if account is None:
            return await members.insert_account(
                tx,
                member_id=self._ids.new("MEM"),
                email=email,
                name=name,
                password_hash=password_hash,
                now=self._clock.now(),
            )
        person = await people.lock_person(tx, account.member_id)
        if person is None or not person.may_log_in or person.password_hash != password_hash:
            raise LoginFailed  # it began, was disabled or has another password meanwhile
        return account

    async def _join(
        self, tx: AsyncConnection, account: Account, said: dict[str, Any]
    ) -> Membership:
        merchant_id, role = said["merchant_id"], MemberRole(said["role"])
        merchant = await merchants.find_merchant(tx, merchant_id=merchant_id)
        if merchant is None or merchant.state is MerchantState.CLOSED:
            raise LinkInvalid
        # An invitation is worth what its writer may give now.
        host = await members.find_membership(
            tx,
            merchant_id=merchant_id,
            member_id=said["invited_by"].removeprefix(MEMBER_PREFIX),
        )
        held = frozenset[str]() if host is None else host.role.scopes
        if WRITES_MEMBERS not in held or not role.scopes <= held:
            raise LinkInvalid
        if await members.find_membership(tx, merchant_id=merchant_id, member_id=account.member_id):
            raise LinkInvalid
        if await members.count_memberships(tx, merchant_id=merchant_id) >= MEMBERS_MAX:
            raise MemberLimitReached
        return await members.insert_membership(
            tx,
            account,
            merchant_id=merchant_id,
            role=role,
            invited_by=said["invited_by"],
            now=self._clock.now(),
        )
