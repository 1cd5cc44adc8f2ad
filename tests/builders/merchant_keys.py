"""API keys of merchant_rpc for tests: their use cases on a database of the test, and merchants in
every state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_bytes
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, update

from merchant_rpc.domain.api_key import ApiKey
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.peppers import Peppers
from merchant_rpc.tables import MERCHANT, MERCHANT_SETTING, metadata
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.api_keys import ApiKeys, CreateApiKey, RotateApiKey
from merchant_rpc.usecases.key_exchanges import KeyExchanges
from mesh.api_key_format import ApiKeyKind
from mesh.call import Caller, Role
from mesh.db import Database
from mesh.paging import PageTokens
from mesh.rate_limit import RateLimiter
from mesh.token_issuers import MERCHANTS, OwnTokenSigner
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import EPOCH, FakeClock, FakeIds

PEPPERS = {"2": b"2" * 32, "1": b"1" * 32}
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(b"signs the tokens of merchants...")
HOME = "203.0.113.7"
ATTEMPTS_PER_SECOND = 5


def member(
    merchant_id: str = "acme_test",
    *,
    scopes: frozenset[str] | None = None,
    subject: str = "member:M1",
) -> Caller:
    """Somebody of a merchant; without scopes he may do everything."""
    return Caller(role=Role.MERCHANT, subject=subject, merchant_id=merchant_id, scopes=scopes)


@dataclass(slots=True)
class KeyWorld:
    """What a test holds in its hands."""

    db: Database
    clock: FakeClock
    keys: ApiKeys
    peppers: Peppers
    exchanges: KeyExchanges = field(init=False)
    shown: dict[str, str] = field(default_factory=dict)  # key id -> key

    def seconds(self) -> float:
        """A monotonic clock."""
        return (self.clock.now() - EPOCH).total_seconds()

    async def merchant(
        self,
        merchant_id: str,
        state: MerchantState = MerchantState.TEST_ONLY,
        *,
        is_test: bool = False,
    ) -> None:
        """A merchant in a state."""
        now = self.clock.now() - timedelta(days=1)
        async with self.db.engine.begin() as connection:
            await connection.execute(
                insert(MERCHANT),
                {
                    "merchant_id": merchant_id,
                    "name": merchant_id,
                    "state": state,
                    "is_test": is_test,
                    "country": "",
                    "time_zone": "UTC",
                    "default_currency": "CNY",
                    "contact_email": "owner@acme.example",
                    "version": 1,
                    "settings_version": 0,
                    "created_at": now,
                    "updated_at": now,
                },
            )

    async def become(self, merchant_id: str, state: MerchantState) -> None:
        """Changes the state of a merchant now."""
        suspended = state is MerchantState.SUSPENDED
        async with self.db.engine.begin() as connection:
            await connection.execute(
                update(MERCHANT)
                .where(MERCHANT.c.merchant_id == merchant_id)
                .values(
                    state=state,
                    state_before=MerchantState.TEST_ONLY if suspended else None,
                    updated_at=self.clock.now(),
                )
            )

    async def set_settings(self, merchant_id: str, version: int, body: str) -> None:
        """A version of the settings of a merchant, in force from now on."""
        async with self.db.engine.begin() as connection:
            await connection.execute(
                insert(MERCHANT_SETTING),
                {
                    "merchant_id": merchant_id,
                    "version": version,
                    "body": body,
                    "created_by": "member:M1",
                    "created_at": self.clock.now(),
                },
            )
            await connection.execute(
                update(MERCHANT)
                .where(MERCHANT.c.merchant_id == merchant_id)
                .values(settings_version=version, updated_at=self.clock.now())
            )

    async def create(
        self,
        merchant_id: str = "acme_test",
        *,
        kind: ApiKeyKind = ApiKeyKind.SECRET,
        scopes: Sequence[str] = (),
        addresses: Sequence[str] = (),
        expires_at: datetime | None = None,
        reason: str = "a new shop",
        caller: Caller | None = None,
    ) -> ApiKey:
        """Makes a key; its text is in `shown`."""
        key, text = await self.keys.create(
            CreateApiKey(
                merchant_id=merchant_id,
                kind=kind,
                name="web shop",
                scopes=scopes,
                allowed_addresses=addresses,
                expires_at=expires_at,
                reason=reason,
            ),
            caller or member(merchant_id),
        )
        self.shown[key.key_id] = text
        return key

    async def revoke(self, key: ApiKey, *, caller: Caller | None = None) -> ApiKey:
        return await self.keys.revoke(
            merchant_id=key.merchant_id,
            key_id=key.key_id,
            reason="lost",
            caller=caller or member(key.merchant_id),
        )

    async def rotate(
        self,
        key: ApiKey,
        *,
        overlap: timedelta = timedelta(),
        reason: str = "once a year",
        caller: Caller | None = None,
    ) -> ApiKey:
        fresh, text = await self.keys.rotate(
            RotateApiKey(
                merchant_id=key.merchant_id, key_id=key.key_id, overlap=overlap, reason=reason
            ),
            caller or member(key.merchant_id),
        )
        self.shown[fresh.key_id] = text
        return fresh

    async def exchange(self, key: ApiKey, *, address: str = HOME) -> Any:
        """The token of a key that a program shows."""
        return await self.exchanges.exchange(self.shown[key.key_id], client_address=address)

    async def keys_of(self, merchant_id: str = "acme_test") -> tuple[ApiKey, ...]:
        found, _ = await self.keys.list(merchant_id=merchant_id, page_size=100, page_token="")
        return found


def exchanges_of(world: KeyWorld) -> KeyExchanges:
    """The exchanges of one replica."""
    return KeyExchanges(
        db=world.db,
        clock=world.clock,
        peppers=world.peppers,
        signer=OwnTokenSigner(MERCHANTS, SIGNING_KEY, clock=world.clock, ids=FakeIds()),
        attempts=RateLimiter(
            per_second=ATTEMPTS_PER_SECOND, burst=ATTEMPTS_PER_SECOND, now=world.seconds
        ),
        monotonic=world.seconds,
    )


@asynccontextmanager
async def key_world(
    url: str, *, peppers: dict[str, bytes] | None = None
) -> AsyncIterator[KeyWorld]:
    """The use cases of keys on an empty database, with the merchants acme (which may not take real
    money yet) and acme_test, and shop (which may) and shop_test.
    """
    db = open_patiently(url, metadata)
    await create_tables(db.engine, metadata)
    clock, ids = FakeClock(), FakeIds()
    of_installation = Peppers(peppers or PEPPERS)
    world = KeyWorld(
        db=db,
        clock=clock,
        peppers=of_installation,
        keys=ApiKeys(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=PageTokens(b"page tokens of merchant_rpc, tests"),
            actions=Actions(clock=clock),
            peppers=of_installation,
            random_bytes=token_bytes,
        ),
    )
    world.exchanges = exchanges_of(world)
    try:
        for merchant_id, state in (
            ("acme", MerchantState.TEST_ONLY),
            ("shop", MerchantState.LIVE),
        ):
            await world.merchant(merchant_id, state)
            await world.merchant(f"{merchant_id}_test", is_test=True)
        yield world
    finally:
        await db.close()
