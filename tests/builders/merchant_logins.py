"""People who log in at merchant_rpc, for tests: its use cases on a database of the test, and members
and operators with passwords.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_bytes
from typing import Any

import jwt
import pyotp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Table, insert, select, update

from merchant_rpc.app import RETRY_CONSTRAINTS, MerchantApp, MerchantConfig
from merchant_rpc.domain.member import MemberRole, MemberState, email_digest
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.passwords import Passwords
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.peppers import Peppers
from merchant_rpc.tables import MEMBER, MEMBERSHIP, MERCHANT, metadata
from merchant_rpc.usecases.grants import Granted
from merchant_rpc.usecases.logins import CreateSession
from merchant_rpc.usecases.oidc_logins import Provider
from merchant_rpc.usecases.sessions import RefreshSession
from mesh.call import Caller, Role
from mesh.db import Database
from mesh.outbox import OUTBOX
from mesh.paging import PageTokens
from mesh.token_issuers import MERCHANTS, OPERATORS, OwnTokenSigner
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import FakeClock, FakeIds

PASSWORD = "correct horse battery"
OWNER = "owner@acme.example"
HOME, AWAY = "203.0.113.7", "198.51.100.9"
MEMBERS_KEY = Ed25519PrivateKey.from_private_bytes(b"signs the tokens of members.....")
OPERATORS_KEY = Ed25519PrivateKey.from_private_bytes(b"signs the tokens of operators...")
PEOPLE_KEYS = {"1": b"1" * 32}


def small_passwords() -> Passwords:
    """Hashes that cost next to nothing; as many may wait as a test likes."""
    return Passwords(memory_kib=8, rounds=1, lanes=1, waiting_max=5000)


@dataclass(slots=True)
class LoginWorld:
    """What a test holds in its hands."""

    app: MerchantApp
    db: Database
    clock: FakeClock
    passwords: Passwords
    key: PeopleKey
    ids: FakeIds = field(default_factory=FakeIds)

    async def merchant(
        self, merchant_id: str, state: MerchantState = MerchantState.TEST_ONLY
    ) -> None:
        """A merchant with its test sibling."""
        now = self.clock.now() - timedelta(days=1)
        for each, is_test in ((merchant_id, False), (f"{merchant_id}_test", True)):
            await self._insert(
                MERCHANT,
                merchant_id=each,
                name=each,
                state=MerchantState.TEST_ONLY if is_test else state,
                state_before=None,
                is_test=is_test,
                country="",
                time_zone="UTC",
                default_currency="CNY",
                contact_email=OWNER,
                version=1,
                settings_version=0,
                created_at=now,
                updated_at=now,
            )

    async def person(
        self,
        email: str = OWNER,
        *merchant_ids: str,
        role: MemberRole = MemberRole.OWNER,
        password: str | None = PASSWORD,
        state: MemberState = MemberState.ACTIVE,
        is_operator: bool = False,
        oidc_sub: str | None = None,
    ) -> str:
        """Somebody who works for these merchants, in this order; his member id."""
        now = self.clock.now() - timedelta(days=1)
        member_id = self.ids.new("MEM")
        await self._insert(
            MEMBER,
            member_id=member_id,
            email_digest=email_digest(email),
            email=email,
            name="",
            state=state,
            oidc_sub=oidc_sub,
            password_hash=None if password is None else await self.passwords.hash(password),
            is_operator=is_operator,
            created_at=now,
            updated_at=now,
        )
        for number, merchant_id in enumerate(merchant_ids):
            joined = now + timedelta(minutes=number)
            await self._insert(
                MEMBERSHIP,
                merchant_id=merchant_id,
                member_id=member_id,
                role=role,
                invited_by="",
                created_at=joined,
                updated_at=joined,
            )
        return member_id

    async def log_in(
        self,
        email: str = OWNER,
        password: str = PASSWORD,
        *,
        code: str = "",
        merchant_id: str = "",
        address: str = HOME,
    ) -> Granted:
        """CreateSession."""
        return await self.app.logins.create_session(
            CreateSession(
                email=email,
                password=password,
                code=code,
                merchant_id=merchant_id,
                client_address=address,
            )
        )

    async def refresh(self, token: str, *, merchant_id: str = "", address: str = HOME) -> Granted:
        """RefreshSession."""
        return await self.app.sessions.refresh_session(
            RefreshSession(refresh_token=token, merchant_id=merchant_id, client_address=address)
        )

    async def enrol(self, caller: Caller) -> tuple[pyotp.TOTP, tuple[str, ...]]:
        """A second factor of the caller: his app, and his recovery codes. The code of this moment
        is used."""
        secret, _ = await self.app.second_factor.enrol(PASSWORD, caller)
        totp = pyotp.TOTP(secret)
        codes = await self.app.second_factor.confirm(totp.at(self.clock.now()), caller)
        return totp, codes

    async def update(self, table: Table, **values: Any) -> None:
        """Changes all rows of a table."""
        async with self.db.engine.begin() as connection:
            await connection.execute(update(table).values(**values))

    async def rows(self, table: Table) -> list[Any]:
        """All rows of a table."""
        async with self.db.engine.connect() as connection:
            return list((await connection.execute(select(table))).all())

    async def mails(self) -> list[Any]:
        """The mails that wait, oldest first."""
        return [row for row in await self.rows(OUTBOX) if row.destination == "mail"]

    async def _insert(self, table: Table, **values: Any) -> None:
        async with self.db.engine.begin() as connection:
            await connection.execute(insert(table).values(**values))


def caller_of(granted: Granted) -> Caller:
    """Who calls with the access token of a session."""
    claims = claims_of(granted)
    return Caller(
        role=Role.ADMIN if granted.is_operator else Role.MERCHANT,
        subject=claims["sub"],
        merchant_id=claims.get("merchant_id", ""),
        session_id=claims["sid"],
        scopes=None if granted.is_operator else frozenset(claims["scopes"]),
    )


def claims_of(granted: Granted) -> dict[str, Any]:
    """The claims of the access token of a session; its signature is checked."""
    key = OPERATORS_KEY if granted.is_operator else MEMBERS_KEY
    return jwt.decode(
        granted.access_token,
        key.public_key(),
        algorithms=["EdDSA"],
        options={
            "verify_exp": False,
            "verify_aud": False,
            "verify_iat": False,
            "verify_nbf": False,
        },
    )


@asynccontextmanager
async def login_world(
    url: str,
    *,
    provider: Provider | None = None,
    oidc_needs_totp: bool = True,
    logs_mail: bool = True,
    operators: bool = True,
    clock: FakeClock | None = None,
) -> AsyncIterator[LoginWorld]:
    """merchant_rpc on an empty database."""
    db = open_patiently(url, metadata, retry_constraints=RETRY_CONSTRAINTS)
    await create_tables(db.engine, metadata)
    clock, ids = clock or FakeClock(), FakeIds()
    passwords = small_passwords()
    key = PeopleKey(PEOPLE_KEYS, random_bytes=token_bytes)
    app = MerchantApp(
        db=db,
        clock=clock,
        ids=ids,
        page_tokens=PageTokens(b"page tokens of merchant_rpc in tests"),
        signer=OwnTokenSigner(MERCHANTS, MEMBERS_KEY, clock=clock, ids=ids),
        operator_signer=OwnTokenSigner(OPERATORS, OPERATORS_KEY, clock=clock, ids=ids)
        if operators
        else None,
        peppers=Peppers({"1": b"1" * 32}),
        passwords=passwords,
        people_key=key,
        identity_provider=provider,
        random_bytes=token_bytes,
        config=MerchantConfig(
            public_url="https://pay.example",
            logs_mail=logs_mail,
            scan_interval_seconds=1,
            oidc_needs_totp=oidc_needs_totp,
        ),
    )
    try:
        yield LoginWorld(app=app, db=db, clock=clock, passwords=passwords, key=key)
    finally:
        await passwords.close()
        await db.close()
