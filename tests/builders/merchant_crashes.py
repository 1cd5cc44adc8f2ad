"""Writing calls of merchant_rpc, told in a process of their own that dies at a named point:
`python -m tests.builders.merchant_crashes <database> <story> <failpoints>`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.shop_settings import ShopSettings
from merchant_rpc.tables import API_KEY, MEMBER
from merchant_rpc.usecases.api_keys import CreateApiKey, RotateApiKey
from merchant_rpc.usecases.logins import CreateSession
from merchant_rpc.usecases.password_resets import ResetPassword
from mesh import failpoints
from mesh.api_key_format import ApiKeyKind
from tests.builders.merchant import HOME, PASSWORD, MerchantWorld, as_member, merchant_world

Step = Callable[[MerchantWorld], Awaitable[object]]
HOURS_SECONDS = 4 * 3600.0  # later than what was prepared, sooner than any link ends
OWNER = "owner@acme.example"
SELLS = "acme_test"  # the sibling, which needs no reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happens before in peace, and the call that dies.

    Attributes:
        is_repeatable: the call again does what it did, also after it was committed.
    """

    prepare: Step
    call: Step
    is_repeatable: bool = False


async def _nothing(_world: MerchantWorld) -> None:
    pass


async def _with_clerk(world: MerchantWorld) -> None:
    await world.merchant()
    await world.member()


async def _with_invitation(world: MerchantWorld) -> None:
    await world.merchant()
    await world.invite()


async def _with_key(world: MerchantWorld) -> None:
    await world.merchant()
    await _create_key(world)


async def _with_reset(world: MerchantWorld) -> None:
    await world.merchant()
    await world.app.password_resets.request_password_reset(OWNER, HOME)


async def _clerk(world: MerchantWorld) -> str:
    return (await world.people())[-1].account.member_id


async def _set_role(world: MerchantWorld) -> object:
    owner = as_member(await world.owner())
    return await world.set_role(await _clerk(world), MemberRole.VIEWER, owner)


async def _remove(world: MerchantWorld) -> None:
    clerk = next(row for row in await world.rows(MEMBER) if row.email == "clerk@acme.example")
    await world.remove(clerk.member_id, as_member(await world.owner()))


async def _accept(world: MerchantWorld) -> object:
    return await world.accept(await world.token())


async def _create_key(world: MerchantWorld) -> object:
    request = CreateApiKey(
        merchant_id=SELLS,
        kind=ApiKeyKind.SECRET,
        name="web shop",
        scopes=(),
        allowed_addresses=(),
        expires_at=None,
        reason="",
    )
    return await world.app.api_keys.create(request, as_member(await world.owner()))


async def _first_key(world: MerchantWorld) -> str:
    rows = await world.rows(API_KEY)
    return str(min(rows, key=lambda row: row.created_at).key_id)


async def _rotate_key(world: MerchantWorld) -> object:
    request = RotateApiKey(
        merchant_id=SELLS,
        key_id=await _first_key(world),
        overlap=timedelta(days=1),
        reason="",
    )
    return await world.app.api_keys.rotate(request, as_member(await world.owner()))


async def _revoke_key(world: MerchantWorld) -> object:
    return await world.app.api_keys.revoke(
        merchant_id=SELLS,
        key_id=await _first_key(world),
        reason="",
        caller=as_member(await world.owner()),
    )


async def _log_in(world: MerchantWorld) -> object:
    command = CreateSession(
        email=OWNER, password=PASSWORD, code="", merchant_id="", client_address=HOME
    )
    return await world.app.logins.create_session(command)


async def _reset(world: MerchantWorld) -> None:
    command = ResetPassword(
        token=await world.token(), password=f"{PASSWORD} anew", client_address=HOME
    )
    await world.app.password_resets.reset_password(command)


STORIES = {
    "sign_up": Story(prepare=_nothing, call=lambda world: world.sign_up()),
    "confirm": Story(prepare=lambda world: world.sign_up(), call=lambda world: world.confirm()),
    "step": Story(
        prepare=lambda world: world.merchant(),
        call=lambda world: world.step("suspend"),
        is_repeatable=True,
    ),
    "settings": Story(
        prepare=lambda world: world.merchant(),
        call=lambda world: world.update_settings(ShopSettings(channels=("sandbox",))),
    ),
    "invite": Story(
        prepare=lambda world: world.merchant(),
        call=lambda world: world.invite(),
        is_repeatable=True,
    ),
    "accept": Story(prepare=_with_invitation, call=_accept),
    "member_role": Story(prepare=_with_clerk, call=_set_role, is_repeatable=True),
    "member_remove": Story(prepare=_with_clerk, call=_remove, is_repeatable=True),
    "key_create": Story(
        prepare=lambda world: world.merchant(), call=_create_key, is_repeatable=True
    ),
    "key_rotate": Story(prepare=_with_key, call=_rotate_key, is_repeatable=True),
    "key_revoke": Story(prepare=_with_key, call=_revoke_key, is_repeatable=True),
    "log_in": Story(prepare=lambda world: world.merchant(), call=_log_in, is_repeatable=True),
    "reset": Story(prepare=_with_reset, call=_reset),
}


async def later(world: MerchantWorld) -> None:
    """Another process, some hours later: its ids are none of those before."""
    world.clock.advance(HOURS_SECONDS)
    for _ in range(1000):
        world.ids.new("X")


async def _die(url: str, story: str, armed: str) -> None:
    async with merchant_world(url) as world:
        await later(world)
        failpoints.arm(armed, environment="test")
        await STORIES[story].call(world)


if __name__ == "__main__":
    asyncio.run(_die(*sys.argv[1:4]))
