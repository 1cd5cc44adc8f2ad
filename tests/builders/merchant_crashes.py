"""Writing calls of merchant_rpc, told in a process of their own that dies at a named point:
`python -m tests.builders.merchant_crashes <database> <story> <failpoints>`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.shop_settings import ShopSettings
from merchant_rpc.tables import MEMBER
from mesh import failpoints
from tests.builders.merchant import MerchantWorld, as_member, merchant_world

Step = Callable[[MerchantWorld], Awaitable[object]]
HOURS_SECONDS = 4 * 3600.0  # later than what was prepared, sooner than any link ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happens before in peace, and the call that dies."""

    prepare: Step
    call: Step


async def _nothing(_world: MerchantWorld) -> None:
    pass


async def _with_clerk(world: MerchantWorld) -> None:
    await world.merchant()
    await world.member()


async def _with_invitation(world: MerchantWorld) -> None:
    await world.merchant()
    await world.invite()


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


STORIES = {
    "sign_up": Story(prepare=_nothing, call=lambda world: world.sign_up()),
    "confirm": Story(prepare=lambda world: world.sign_up(), call=lambda world: world.confirm()),
    "step": Story(prepare=lambda world: world.merchant(), call=lambda world: world.step("suspend")),
    "settings": Story(
        prepare=lambda world: world.merchant(),
        call=lambda world: world.update_settings(ShopSettings(channels=("sandbox",))),
    ),
    "invite": Story(prepare=lambda world: world.merchant(), call=lambda world: world.invite()),
    "accept": Story(prepare=_with_invitation, call=_accept),
    "member_role": Story(prepare=_with_clerk, call=_set_role),
    "member_remove": Story(prepare=_with_clerk, call=_remove),
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
