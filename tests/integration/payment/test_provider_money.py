"""payment_rpc on the simulated providers: whatever races or is lost between the two, money is taken
once at most, and what nobody wants goes back.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from payment_rpc.tables import ATTEMPT, LEDGER_TRANSACTION, PAYMENT
from tests.builders.provider_channels import KINDS, simulated_channel
from tests.builders.provider_shop import Said, provider_shop
from tests.builders.provider_story import PART, ProviderStory, ShopHere
from tests.conftest import PROOF
from tests.support.fakes import FakeClock

BATCH = 10  # races between two looks at what they left
Rounds = Callable[[int, int], int]
# what the provider did, though the shop does not hear it
DOUBTS: list[tuple[str, dict[str, int]]] = [
    ("lost_answer", {}),
    ("status_after", {"status": 500}),
    ("cut_at", {"bytes": 150}),
]
DOUBTED = sorted(KINDS)
if not PROOF:  # a part, drawn by the seed
    chance = random.Random(os.environ["PMTEST_SEED"])
    DOUBTS, DOUBTED = chance.sample(DOUBTS, 1), sorted(chance.sample(DOUBTED, 2))


@pytest.fixture
async def story(
    request: pytest.FixtureRequest, database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[ProviderStory]:
    """A shop in this process at one provider."""
    clock = FakeClock()
    async with (
        simulated_channel(request.param, clock) as simulated,
        provider_shop(
            database_url_factory(),
            database_url_factory(),
            tmp_path,
            {request.param: simulated.running.url},
        ) as shop,
    ):
        money = shop.joined.money
        databases = {"payment_rpc": money.db, "order_rpc": money.order_side.db}
        chance = random.Random(os.environ["PMTEST_SEED"])
        yield ProviderStory(ShopHere(shop, clock), simulated, clock, databases, chance=chance)


every_provider = pytest.mark.parametrize("story", sorted(KINDS), indirect=True)
holding = pytest.mark.parametrize("story", ["paypal", "stripe"], indirect=True)


# --- races ----------------------------------------------------------------------------------------


@every_provider
async def test_a_buyer_who_pays_while_his_order_is_cancelled_has_paid_or_gets_it_back(
    story: ProviderStory, rounds: Rounds
) -> None:
    for first in range(0, rounds(BATCH, 1000), BATCH):
        for number in range(first, first + BATCH):
            order_id = await story.order()
            opened = await story.open(order_id)
            if number % 3 == 0:  # no call of ours is under way any more
                story.clock.advance(21)

            async def pays(opened: Said = opened) -> None:
                await story.pay(opened)
                await story.do("ask", attempt_id=await story.attempt_of(opened))

            both = [pays(), story.do("cancel", order_id=order_id)]
            await asyncio.gather(*(both if number % 2 else reversed(both)))
        await story.settle()
    await story.check()


@holding
async def test_of_a_capture_and_a_void_at_once_one_wins(
    story: ProviderStory, rounds: Rounds
) -> None:
    for _ in range(0, rounds(BATCH, 1000), BATCH):
        for number, said in enumerate(await _held(story)):
            calls = [_capture(story, said), story.do("void", payment_id=said.about)]
            if number % 2:
                calls.reverse()
            await asyncio.gather(*calls)
        await story.settle()
    await story.check()
    assert {row.state for row in await story.rows(PAYMENT)} <= {"SUCCESS", "CLOSED"}


@holding
async def test_of_two_captures_at_once_one_wins(story: ProviderStory, rounds: Rounds) -> None:
    for _ in range(0, rounds(BATCH, 1000), BATCH):
        for said in await _held(story):
            await asyncio.gather(_capture(story, said, PART), _capture(story, said))
        await story.settle(rounds=4)
    await story.settle()
    await story.check()
    assert {row.state for row in await story.rows(PAYMENT)} == {"SUCCESS"}


async def _held(story: ProviderStory) -> list[Said]:
    """Payments whose money is held."""
    opened = [
        await story.do("hold", order_id=await story.order(), channel=story.channel)
        for _ in range(BATCH)
    ]
    for said in opened:
        assert await story.pay(said)
    await story.settle(rounds=2)
    return opened


async def _capture(story: ProviderStory, said: Said, amount: str = "") -> Said:
    done: Said = await story.do("capture", payment_id=said.about, amount=amount)
    return done


# --- doubts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["btcpay", "paypal", "stripe", "wechat"], indirect=True)
async def test_what_a_lost_answer_had_for_the_buyer_is_shown_to_the_same_call(
    story: ProviderStory,
) -> None:
    order_id = await story.order()
    await story.simulated.fault("checkout", "lost_answer")
    opened = await story.open(order_id, "K1")
    assert (opened.state, opened.shown) == ("PAYING", "")
    assert (await story.open(order_id, "K1")).shown == ""  # somebody may be at it
    await story.pass_time(21)
    again = await story.open(order_id, "K1")
    assert again.about == opened.about
    assert await story.pay(again)
    await story.settle(rounds=4)
    assert (await story.payment(opened)).state == "SUCCESS"
    await story.check()


@pytest.mark.parametrize("story", DOUBTED, indirect=True)
async def test_whatever_answer_of_a_provider_is_lost_money_moves_once(story: ProviderStory) -> None:
    for step in story.simulated.steps:
        for kind, more in DOUBTS:
            await story.simulated.fault(step, kind, **more)
            await (_cancelled(story) if step == "close" else _bought_and_given_back(story))
            await story.simulated.no_faults()
    await story.settle()
    await story.check()


async def _bought_and_given_back(story: ProviderStory) -> None:
    """What the answer would have shown is shown to the same call, once nobody is at it any more; or
    the payment was lost, and the order is free.
    """
    order_id = await story.order()
    opened = await story.open(order_id, f"K{order_id}")
    if opened.state == "PAYING" and not opened.shown:
        await story.pass_time(21)
        again = await story.open(order_id, f"K{order_id}")
        assert again.about == opened.about
        opened = again
    if not opened.shown:  # Stripe repeats an error of its own to the same key for a day
        await story.settle(rounds=3)
        opened = await story.open(order_id)
    assert await story.pay(opened)
    await story.settle(rounds=4)
    await story.do("refund", payment_id=opened.about, amount=PART)
    await story.settle(rounds=4)


async def _cancelled(story: ProviderStory) -> None:
    order_id = await story.order()
    await story.visit(await story.open(order_id))
    await story.do("cancel", order_id=order_id)
    await story.settle(rounds=4)


@every_provider
async def test_equal_notices_at_once_are_one_posting(story: ProviderStory, rounds: Rounds) -> None:
    await story.paid()
    await story.pass_time(61)
    for notice in story.simulated.all_notices():
        story.clock.advance(2)  # a channel may send a thousand in that time
        said = await asyncio.gather(*(story.deliver(notice) for _ in range(rounds(20, 1000))))
        assert {each.state[:1] for each in said} == {"2"}
    await story.settle()
    await story.check()
    booked = [row.kind for row in await story.rows(LEDGER_TRANSACTION)]
    assert sum(kind.startswith("CAPTURED") for kind in booked) == 1
    assert len(await story.rows(ATTEMPT)) == 1
