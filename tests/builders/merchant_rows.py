"""Two merchants of merchant_rpc with their test siblings, people and keys, for tests of who reaches
which of their rows; and a valid request for each method that is about one merchant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from paymesh.merchant.v1 import api_key_pb2, member_pb2, merchant_pb2

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.merchant import MerchantState, base_id
from merchant_rpc.tables import API_KEY, MEMBERSHIP, MERCHANT_SETTING, ONE_TIME_LINK
from merchant_rpc.usecases.api_keys import CreateApiKey
from mesh.api_key_format import ApiKeyKind
from mesh.call import Caller, Role
from tests.builders.merchant_logins import LoginWorld, login_world
from tests.support.fakes import FakeClock

SHOPS: Final = ("acme", "acme_test", "globex", "globex_test")
REASON: Final = "because"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A merchant or a test sibling, and rows that are its own."""

    merchant_id: str
    owner: str  # member ids; siblings have those of their merchant
    clerk: str
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantRows:
    """merchant_rpc, and the shops by their ids."""

    world: LoginWorld
    shops: Mapping[str, Shop]

    async def owned(self, merchant_id: str) -> list[Any]:
        """Every row of a merchant that its people may change."""
        base = base_id(merchant_id)
        tables = (API_KEY, MEMBERSHIP, MERCHANT_SETTING, ONE_TIME_LINK)
        return [
            tuple(row)
            for table in tables
            for row in await self.world.rows(table)
            if base in {base_id(getattr(row, "merchant_id", "")), *_subject(row)}
        ]


def _subject(row: Any) -> set[str]:
    return {str(getattr(row, "subject", "")).partition("/")[0]}


@asynccontextmanager
async def merchant_rows(folder: Path, clock: FakeClock) -> AsyncIterator[MerchantRows]:
    """merchant_rpc on a database of its own, with all SHOPS."""
    async with login_world(f"sqlite+aiosqlite:///{folder / 'merchant.db'}", clock=clock) as world:
        shops = {}
        for base in sorted({base_id(each) for each in SHOPS}):
            await world.merchant(base, MerchantState.LIVE)
            owner = await world.person(f"owner@{base}.example", base)
            clerk = await world.person(f"clerk@{base}.example", base, role=MemberRole.SUPPORT)
            for merchant_id in (base, f"{base}_test"):
                shops[merchant_id] = Shop(
                    merchant_id=merchant_id,
                    owner=owner,
                    clerk=clerk,
                    key_id=await _key(world, merchant_id),
                )
        yield MerchantRows(world=world, shops=shops)


async def _key(world: LoginWorld, merchant_id: str) -> str:
    request = CreateApiKey(
        merchant_id=merchant_id,
        kind=ApiKeyKind.SECRET,
        name="web shop",
        scopes=(),
        allowed_addresses=(),
        expires_at=None,
        reason=REASON,
    )
    operator = Caller(role=Role.ADMIN, subject="operator:M1", merchant_id="")
    key, _ = await world.app.api_keys.create(request, operator)
    return key.key_id


_KEY = api_key_pb2.API_KEY_KIND_SECRET
_VIEWER = member_pb2.MEMBER_ROLE_VIEWER
# By method: what a request needs besides its merchant, about rows of a shop.
REQUESTS: Mapping[str, Callable[[Shop], dict[str, Any]]] = {
    "GetMerchant": lambda _: {},
    "GetSettings": lambda _: {},
    "ListSettingsVersions": lambda _: {},
    "ListAdminActions": lambda _: {},
    "UpdateSettings": lambda _: {"settings": merchant_pb2.Settings(), "reason": REASON},
    "ListMembers": lambda _: {},
    "InviteMember": lambda shop: {
        "email": f"new@{base_id(shop.merchant_id)}.example",
        "role": _VIEWER,
    },
    "SetMemberRole": lambda shop: {"member_id": shop.clerk, "role": _VIEWER, "reason": REASON},
    "RemoveMember": lambda shop: {"member_id": shop.clerk, "reason": REASON},
    "CreateApiKey": lambda _: {"kind": _KEY, "name": "a key", "reason": REASON},
    "ListApiKeys": lambda _: {},
    "RotateApiKey": lambda shop: {
        "key_id": shop.key_id,
        "overlap_minutes": 60,
        "reason": REASON,
    },
    "RevokeApiKey": lambda shop: {"key_id": shop.key_id, "reason": REASON},
}
# Those that name a row of the merchant besides it.
NAME_A_ROW: Final = ("SetMemberRole", "RemoveMember", "RotateApiKey", "RevokeApiKey")
