"""How a merchant begins: somebody names an address, and proves that he reads its mail."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LinkInvalid, MerchantIdTaken
from merchant_rpc.domain.member import MemberRole, parse_email
from merchant_rpc.domain.merchant import Merchant, MerchantState, Verb, is_time_zone, sibling_id
from merchant_rpc.domain.names import is_reserved, parse_name
from merchant_rpc.domain.one_time_link import LIFETIME, LinkKind
from merchant_rpc.passwords import Passwords
from merchant_rpc.store import members, merchants
from merchant_rpc.store import one_time_links as link_store
from merchant_rpc.usecases.actions import Actions, digest_of
from merchant_rpc.usecases.attempt_limits import AttemptLimits
from merchant_rpc.usecases.mail import Mail, Template
from merchant_rpc.usecases.one_time_links import OneTimeLinks, digest
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.failpoints import failpoint
from mesh.ids import Ids
from mesh.money import DEFAULT_CURRENCY, currency_exponent

GRACE = timedelta(minutes=5)  # between the end of a link and of its sign-up


@dataclass(frozen=True, slots=True, kw_only=True)
class SignUp:
    """Somebody who wants to sell."""

    email: str = field(repr=False)
    name: str
    merchant_id: str
    country: str
    default_currency: str  # "" means CNY
    time_zone: str  # "" means UTC
    client_address: str


class SignUps:
    """SignUp, ConfirmSignUp."""

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
        reserved_ids: Collection[str] = (),
    ) -> None:
        """`reserved_ids`: of tenants that merchant_rpc does not know, e.g. those of an identity
        provider.
        """
        self._db = db
        self._clock = clock
        self._ids = ids
        self._actions = actions
        self._links = links
        self._mail = mail
        self._limits = limits
        self._passwords = passwords
        self._reserved_ids = frozenset(reserved_ids)

    async def sign_up(self, command: SignUp) -> None:
        """Reserves the id of a merchant for a day and sends a link to the address. An address that
        has an account gets a mail that says so; what the caller sees is the same.

        Raises:
            MailUnavailable, LoginDelayed, InvalidArgument: nothing was done. MerchantIdTaken.
        """
        self._mail.check()
        merchant = self._new_merchant(command)
        await self._limits.take_sign_up(
            client_address=command.client_address, email=merchant.contact_email
        )
        if is_reserved(merchant.merchant_id) or merchant.merchant_id in self._reserved_ids:
            raise MerchantIdTaken(fields={"merchant_id": "is taken"})
        await self._db.run(self._sign_up, merchant)
        failpoint("merchant.sign_up.after_commit")

    async def confirm(
        self, *, token: str, password: str, client_address: str, caller: Caller
    ) -> Merchant:
        """Begins the merchant, its test sibling and the account of its owner, once per link.

        Raises:
            LoginDelayed: nothing was done. LinkInvalid.
        """
        await self._limits.take_link(client_address=client_address, token_digest=digest(token))
        # Before the hash, which is expensive on purpose.
        await self._db.read(self._links.peek, LinkKind.SIGN_UP, token)
        password_hash = await self._passwords.hash(password)
        merchant = await self._db.run(
            self._confirm, token=token, password_hash=password_hash, caller=caller
        )
        failpoint("merchant.confirm.after_commit")
        return merchant

    async def expire_once(self) -> int:
        """Deletes some sign-ups that nobody confirmed; returns how many. Their ids are free."""
        return await self._db.run(self._expire)

    def _new_merchant(self, command: SignUp) -> Merchant:
        now = self._clock.now()
        currency = command.default_currency or DEFAULT_CURRENCY
        currency_exponent(currency, field="default_currency")
        if not is_time_zone(command.time_zone or "UTC"):
            raise InvalidArgument.of("time_zone", "expected an IANA name such as Asia/Shanghai")
        return Merchant(
            merchant_id=command.merchant_id,
            name=parse_name(command.name),
            state=MerchantState.PENDING_EMAIL,
            state_before=None,
            is_test=False,
            country=command.country,
            time_zone=command.time_zone or "UTC",
            default_currency=currency,
            contact_email=parse_email(command.email),
            version=1,
            settings_version=0,
            created_at=now,
            updated_at=now,
        )

    async def _sign_up(self, tx: AsyncConnection, merchant: Merchant) -> None:
        if await merchants.find_merchant(tx, merchant_id=merchant.merchant_id) is not None:
            raise MerchantIdTaken(fields={"merchant_id": "is taken"})
        await merchants.insert_merchant(tx, merchant)
        email = merchant.contact_email
        if await members.find_account(tx, email=email) is not None:
            # The id is reserved here too, or a second sign-up would tell who has an account.
            await self._mail.send(tx, Template.ACCOUNT_EXISTS, address=email)
        else:
            token = await self._links.issue(
                tx,
                LinkKind.SIGN_UP,
                merchant.merchant_id,
                {"merchant_id": merchant.merchant_id, "email": email},
            )
            await self._mail.send(
                tx,
                Template.SIGN_UP,
                address=email,
                token=token,
                values={"merchant_id": merchant.merchant_id, "merchant_name": merchant.name},
            )
        failpoint("merchant.sign_up.before_commit")

    async def _confirm(
        self, tx: AsyncConnection, *, token: str, password_hash: str, caller: Caller
    ) -> Merchant:
        said = await self._links.peek(tx, LinkKind.SIGN_UP, token)
        # the merchant comes first in every transaction
        pending = await merchants.find_merchant(tx, merchant_id=said["merchant_id"], lock=True)
        await self._links.redeem(tx, LinkKind.SIGN_UP, token)
        now = self._clock.now()
        if (
            pending is None
            or pending.state is not MerchantState.PENDING_EMAIL
            or pending.contact_email != said["email"]
            # He has an account meanwhile, from a second sign-up or an invitation.
            or await members.find_account(tx, email=said["email"]) is not None
        ):
            raise LinkInvalid
        merchant = pending.step(Verb.CONFIRM, now=now)
        await merchants.update_merchant(tx, merchant)
        await merchants.insert_merchant(tx, _sibling(merchant))
        owner = await members.insert_account(
            tx,
            member_id=self._ids.new("MEM"),
            email=said["email"],
            name="",
            password_hash=password_hash,
            now=now,
        )
        await members.insert_membership(
            tx,
            owner,
            merchant_id=merchant.merchant_id,
            role=MemberRole.OWNER,
            invited_by="",
            now=now,
        )
        await self._actions.record(
            tx,
            caller=caller,
            actor=f"member:{owner.member_id}",
            merchant_id=merchant.merchant_id,
            method="ConfirmSignUp",
            target=merchant.merchant_id,
            after={
                "state": merchant.state,
                "owner": owner.member_id,
                "email": digest_of(owner.email),
            },
        )
        failpoint("merchant.confirm.before_commit")
        return merchant

    async def _expire(self, tx: AsyncConnection) -> int:
        ids = await merchants.delete_unconfirmed(tx, before=self._clock.now() - LIFETIME - GRACE)
        for merchant_id in ids:
            await link_store.delete_of(tx, kind=LinkKind.SIGN_UP, subject=merchant_id)
        return len(ids)


def _sibling(merchant: Merchant) -> Merchant:
    return replace(
        merchant,
        merchant_id=sibling_id(merchant.merchant_id),
        is_test=True,
        version=1,
        created_at=merchant.updated_at,
    )
