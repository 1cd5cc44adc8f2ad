"""merchant_rpc for tests: its use cases on a database of the test, and short ways to call them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_bytes
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Table, insert, select

import merchant_rpc.app
from merchant_rpc.app import RETRY_CONSTRAINTS, MerchantConfig
from merchant_rpc.domain.member import Account, MemberRole, Membership
from merchant_rpc.domain.merchant import Merchant
from merchant_rpc.domain.shop_settings import SettingsVersion, ShopSettings
from merchant_rpc.passwords import Passwords
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.peppers import Peppers
from merchant_rpc.tables import SESSION, metadata
from merchant_rpc.usecases.invitations import AcceptInvitation, InviteMember
from merchant_rpc.usecases.members import SetMemberRole
from merchant_rpc.usecases.merchants import MerchantStep
from merchant_rpc.usecases.shop_settings import UpdateSettings
from merchant_rpc.usecases.sign_ups import SignUp
from mesh.call import NOBODY, Caller, Role
from mesh.db import Database
from mesh.outbox import OUTBOX
from mesh.paging import PageTokens
from mesh.token_issuers import MERCHANTS, OwnTokenSigner
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import FakeClock, FakeIds

PASSWORD = "correct horse battery"
HOME = "203.0.113.7"
ADMIN = Caller(role=Role.ADMIN, subject="root", merchant_id="mall")


def as_member(
    membership: Membership, *, merchant_id: str = "", scopes: frozenset[str] | None = None
) -> Caller:
    """A member who is signed in, with the rights of his role."""
    return Caller(
        role=Role.MERCHANT,
        subject=f"member:{membership.account.member_id}",
        merchant_id=merchant_id or membership.merchant_id,
        scopes=membership.role.scopes if scopes is None else scopes,
    )


@dataclass
class MerchantWorld:
    """The use cases of merchant_rpc and what a test needs to call them."""

    db: Database
    passwords: Passwords
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)
    page_tokens: PageTokens = field(
        default_factory=lambda: PageTokens(b"page tokens of merchant_rpc, tests")
    )

    def __post_init__(self) -> None:
        self.app = self.make()

    def make(
        self, *, logs_mail: bool = True, reserved: Sequence[str] = ()
    ) -> merchant_rpc.app.MerchantApp:
        """Another merchant_rpc on the same database."""
        return merchant_rpc.app.MerchantApp(
            db=self.db,
            clock=self.clock,
            ids=self.ids,
            page_tokens=self.page_tokens,
            signer=OwnTokenSigner(
                MERCHANTS, Ed25519PrivateKey.generate(), clock=self.clock, ids=self.ids
            ),
            operator_signer=None,
            peppers=Peppers({"1": b"1" * 32}),
            people_key=PeopleKey({"1": b"k" * 32}, random_bytes=token_bytes),
            identity_provider=None,
            passwords=self.passwords,
            random_bytes=token_bytes,
            config=MerchantConfig(
                public_url="https://pay.example",
                logs_mail=logs_mail,
                scan_interval_seconds=1,
                reserved_merchant_ids=tuple(reserved),
            ),
        )

    async def sign_up(
        self,
        merchant_id: str = "acme",
        email: str = "owner@acme.example",
        *,
        name: str = "Acme",
        country: str = "DE",
        currency: str = "EUR",
        time_zone: str = "Europe/Berlin",
        address: str = HOME,
        app: merchant_rpc.app.MerchantApp | None = None,
    ) -> None:
        await (app or self.app).sign_ups.sign_up(
            SignUp(
                email=email,
                name=name,
                merchant_id=merchant_id,
                country=country,
                default_currency=currency,
                time_zone=time_zone,
                client_address=address,
            )
        )

    async def confirm(
        self, token: str = "", *, password: str = PASSWORD, address: str = HOME
    ) -> Merchant:
        """Follows a link; without a token the last one that was sent."""
        return await self.app.sign_ups.confirm(
            token=token or await self.token(),
            password=password,
            client_address=address,
            caller=NOBODY,
        )

    async def merchant(self, merchant_id: str = "acme", email: str = "") -> Merchant:
        """A merchant that is TEST_ONLY, whose owner is `owner@<its id>.example`."""
        await self.sign_up(merchant_id, email or f"owner@{merchant_id}.example", address="")
        self.clock.advance(3600)  # nobody meets the limits by accident
        return await self.confirm()

    async def people(self, merchant_id: str = "acme") -> list[Membership]:
        return await self.app.members.list_members(merchant_id=merchant_id, caller=ADMIN)

    async def owner(self, merchant_id: str = "acme") -> Membership:
        """The one who has been owner longest."""
        people = await self.people(merchant_id)
        return next(each for each in people if each.role is MemberRole.OWNER)

    async def invite(
        self,
        email: str = "clerk@acme.example",
        role: MemberRole = MemberRole.SUPPORT,
        *,
        merchant_id: str = "acme",
        caller: Caller | None = None,
        app: merchant_rpc.app.MerchantApp | None = None,
    ) -> str:
        """Invites somebody, as the owner unless somebody else is named; the token of the mail."""
        await (app or self.app).invitations.invite(
            InviteMember(merchant_id=merchant_id, email=email, role=role),
            caller or as_member(await self.owner(merchant_id)),
        )
        return await self.token()

    async def accept(
        self, token: str, *, password: str = PASSWORD, name: str = "", address: str = HOME
    ) -> tuple[Account, Membership | None]:
        return await self.app.invitations.accept(
            AcceptInvitation(token=token, password=password, name=name, client_address=address),
            NOBODY,
        )

    async def member(
        self,
        role: MemberRole = MemberRole.SUPPORT,
        email: str = "clerk@acme.example",
        *,
        merchant_id: str = "acme",
    ) -> Membership:
        """Somebody who accepted an invitation."""
        _, membership = await self.accept(await self.invite(email, role, merchant_id=merchant_id))
        self.clock.advance(3600)
        assert membership is not None
        return membership

    async def set_role(
        self, member_id: str, role: MemberRole, caller: Caller, *, merchant_id: str = "acme"
    ) -> Membership:
        return await self.app.members.set_role(
            SetMemberRole(
                merchant_id=merchant_id, member_id=member_id, role=role, reason="a new job"
            ),
            caller,
        )

    async def remove(self, member_id: str, caller: Caller, *, merchant_id: str = "acme") -> None:
        await self.app.members.remove(
            merchant_id=merchant_id, member_id=member_id, reason="he left", caller=caller
        )

    async def step(
        self, verb: str, merchant_id: str = "acme", *, reason: str = "because", caller: Any = ADMIN
    ) -> Merchant:
        """`activate`, `suspend`, `resume` or `close`."""
        command = MerchantStep(
            merchant_id=merchant_id, method=f"{verb.capitalize()}Merchant", reason=reason
        )
        done: Merchant = await getattr(self.app.merchants, verb)(command, caller)
        return done

    async def update_settings(
        self,
        settings: ShopSettings,
        *,
        read_version: int = 0,
        merchant_id: str = "acme",
        caller: Caller = ADMIN,
    ) -> SettingsVersion:
        return await self.app.settings.update(
            UpdateSettings(
                merchant_id=merchant_id,
                settings=settings,
                read_version=read_version,
                reason="a sale",
            ),
            caller,
        )

    async def session(self, session_id: str, member_id: str, merchant_id: str) -> None:
        """A living session, as a log-in leaves it."""
        now = self.clock.now()
        async with self.db.engine.begin() as connection:
            await connection.execute(
                insert(SESSION),
                {
                    "session_id": session_id,
                    "member_id": member_id,
                    "merchant_id": merchant_id,
                    "refresh_seed": session_id.rjust(64, "0"),
                    "rotation": 1,
                    "rotated_at": now,
                    "client_address": "",
                    "created_at": now,
                    "last_used_at": now,
                    "idle_expires_at": now + timedelta(hours=1),
                    "expires_at": now + timedelta(hours=2),
                    "revoked_at": None,
                },
            )

    async def rows(self, table: Table) -> list[Any]:
        """Every row of a table, in its key's order."""
        async with self.db.engine.connect() as connection:
            return list(
                (await connection.execute(select(table).order_by(*table.primary_key))).all()
            )

    async def mails(self) -> list[dict[str, str]]:
        """What was mailed, oldest first."""
        return [json.loads(row.payload) for row in await self.rows(OUTBOX)]

    async def token(self) -> str:
        """The token of the link that was mailed last."""
        return (await self.mails())[-1]["link"].partition("#token=")[2]


@asynccontextmanager
async def merchant_world(url: str) -> AsyncIterator[MerchantWorld]:
    """merchant_rpc on an empty database."""
    db = open_patiently(url, metadata, retry_constraints=RETRY_CONSTRAINTS)
    passwords = Passwords(memory_kib=8, rounds=1, lanes=1)  # quick, not safe
    try:
        await create_tables(db.engine, metadata)
        yield MerchantWorld(db, passwords)
    finally:
        await passwords.close()
        await db.close()
