"""What happens when payment_rpc dies between two steps of a payment at a provider, and when it
comes back: one story per step, told at each point of it. order_rpc is in the same process, and
dies with it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mesh.db import Database
from payment_rpc.tables import PAYMENT, REFUND
from tests.builders.provider_shop import Said
from tests.builders.provider_story import PART, ProviderStory
from tests.builders.simulated_channel import SimulatedChannel
from tests.e2e.provider_process import Place, ShopDied, ShopProcess
from tests.support.fakes import FakeClock

HOLDING = ("stripe", "paypal")
NAMING = ("stripe", "paypal", "btcpay")  # they are asked by ids of their own
ALL = ("stripe", "paypal", "alipay", "wechat", "btcpay")

Story = Callable[["Crash"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """A story at a provider, during which payment_rpc dies at a point.

    Attributes:
        worker_first: workers find what the crash left before the caller calls again.
    """

    provider: str
    story: Story
    point: str
    worker_first: bool

    @property
    def name(self) -> str:
        first = "worker" if self.worker_first else "caller"
        return f"{self.provider}-{self.story.__name__}-{self.point}-{first}"


CASES: list[Case] = []


def dies_at(*points: str, at: tuple[str, ...] = ALL) -> Callable[[Story], Story]:
    """The story is told at each of these points, at each of these providers."""

    def register(story: Story) -> Story:
        CASES.extend(
            Case(provider, story, point, worker_first)
            for provider in at
            for point in points
            for worker_first in (True, False)
        )
        return story

    return register


class Crash(ProviderStory):
    """A story whose shop dies once."""

    def __init__(
        self,
        case: Case,
        place: Place,
        simulated: SimulatedChannel,
        clock: FakeClock,
        databases: dict[str, Database],
        *,
        chance: random.Random,
    ) -> None:
        self.case = case
        self._place = place
        self._process = ShopProcess(place, clock, number=1)
        super().__init__(self._process, simulated, clock, databases, chance=chance)

    async def run(self) -> None:
        """Tells the story.

        Raises:
            AssertionError: the process did not die at the point, or something is wrong after it.
        """
        try:
            await self.case.story(self)
            assert self._process.number == 2, "nobody died"
            await self.check()
        except BaseException as failure:
            for log in sorted(self._place.folder.glob("*.log")):
                failure.add_note(f"{log.name}\n{log.read_text()[-3000:]}")
            raise

    async def dies(self, deed: Callable[[], Awaitable[Any]]) -> None:
        """A deed during which the process is killed; another one is there afterwards."""
        await self.do("arm", point=self.case.point)
        with pytest.raises(ShopDied):
            await deed()
        assert self._process.was_killed
        self.stop()
        self.shop = self._process = ShopProcess(self._place, self.clock, number=2)
        if self.case.worker_first:
            await self.settle(rounds=3)

    def stop(self) -> None:
        """Ends the process."""
        self._process.stop()


# --------------------------------------------------------------------------------------------------


@dies_at("payment.channel.after_create", "payment.channel.after_remember", at=NAMING)
@dies_at(
    "payment.cashier.after_tx1",
    "payment.charge.after_channel",
    "payment.fact.before_commit",
    "payment.fact.after_commit",
)
async def opening(crash: Crash) -> None:
    order_id = await crash.order()
    await crash.dies(lambda: crash.open(order_id, "K1"))
    await crash.pass_time(21)
    again = await crash.open(order_id, "K1")
    [first] = {row.payment_id for row in await crash.rows(PAYMENT)}
    assert again.about == first, again
    if not again.shown:  # a worker was quicker, and it was lost: the order is free
        again = await crash.open(order_id, "K2")
    assert await crash.pay(again)
    await crash.settle()
    assert [row.state for row in await crash.rows(PAYMENT)][-1] == "SUCCESS"
    last = [await crash.open(order_id, "K1") for _ in range(2)]
    assert last[0] == last[1]
    assert last[0].about == first


@dies_at("payment.callback.after_commit")
@dies_at("payment.fact.before_commit", "payment.fact.after_commit")
@dies_at("payment.channel.after_intention", "payment.channel.after_step", at=("paypal",))
async def being_told(crash: Crash) -> None:
    said = await crash.paid()
    if crash.provider == "btcpay":
        await crash.pass_time(61)
    await crash.dies(crash.tell)
    await crash.settle()
    assert (await crash.payment(said)).state == "SUCCESS"


@dies_at("payment.fact.before_commit", "payment.fact.after_commit")
@dies_at("payment.channel.after_intention", "payment.channel.after_step", at=("paypal",))
async def asking(crash: Crash) -> None:
    said = await crash.paid()
    await crash.pass_time(61)
    await crash.dies(lambda: crash.do("work"))
    await crash.settle()
    assert (await crash.payment(said)).state == "SUCCESS"


@dies_at(
    "payment.refund.after_tx1",
    "payment.refund.after_channel",
    "payment.refund_fact.before_commit",
    "payment.refund_fact.after_commit",
)
async def refunding(crash: Crash) -> None:
    said = await crash.paid()
    await crash.settle(rounds=3)

    async def gives_back() -> Said:
        done: Said = await crash.do("refund", payment_id=said.about, amount=PART, key="R1")
        return done

    await crash.dies(gives_back)
    again = await gives_back()
    await crash.settle()
    assert (await gives_back()).about == again.about
    assert [row.state for row in await crash.rows(REFUND)] == ["SUCCESS"]


@dies_at("payment.close.after_closing")
# BTCPay Server closes nothing, so nothing is committed
@dies_at(
    "payment.fact.before_commit",
    "payment.fact.after_commit",
    at=("stripe", "paypal", "alipay", "wechat"),
)
async def cancelling(crash: Crash) -> None:
    order_id = await crash.order()
    said = await crash.open(order_id, "K1")
    await crash.visit(said)
    await crash.dies(lambda: crash.do("cancel", order_id=order_id))
    await crash.pay(said)
    await crash.settle()


# --------------------------------------------------------------------------------------------------


@dies_at(
    "payment.channel.after_intention",
    "payment.channel.after_step",
    "payment.fact.before_commit",
    "payment.fact.after_commit",
    at=HOLDING,
)
async def capturing(crash: Crash) -> None:
    said = await crash.held()

    async def captures() -> Said:
        done: Said = await crash.do("capture", payment_id=said.about, amount=PART, key="C1")
        return done

    await crash.dies(captures)
    await captures()
    await crash.settle()
    answers = [await captures() for _ in range(2)]
    assert [answer.state for answer in answers] == ["SUCCESS"] * 2


@dies_at(
    "payment.channel.after_step",
    "order.ship.after_capture",
    "order.ship.before_commit",
    "order.ship.after_commit",
    at=HOLDING,
)
async def shipping(crash: Crash) -> None:
    said = await crash.held()
    [payment] = await crash.rows(PAYMENT)

    async def ships() -> Said:
        done: Said = await crash.do("ship", order_id=payment.order_id)
        return done

    await crash.dies(ships)
    await ships()
    await crash.settle()
    assert (await ships()).state == "SHIPPED"
    assert (await crash.payment(said)).state == "SUCCESS"
    assert [kind for kind, _, _ in await crash.simulated.money()] == ["authorize", "capture"]


@dies_at("payment.close.after_closing", "payment.fact.before_commit", at=HOLDING)
async def letting_go(crash: Crash) -> None:
    said = await crash.held()
    await crash.dies(lambda: crash.do("void", payment_id=said.about))
    await crash.settle()
    assert (await crash.do("void", payment_id=said.about)).state == "CLOSED"
    assert [kind for kind, _, _ in await crash.simulated.money()] == ["authorize", "void"]
