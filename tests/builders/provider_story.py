"""A payment at one simulated provider, told step by step: what the buyer does there, what the
provider tells, how time passes, and whether both books agree in the end.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import AuditTolerance
from mesh.db import Database
from payment_rpc.channels.inbound import Inbound
from payment_rpc.tables import ATTEMPT, PAYMENT, REFUND
from paymesh_cli.audit.parts import audit_databases
from tests.builders.provider_shop import ProviderShop, Said
from tests.builders.simulated_channel import SimulatedChannel
from tests.support.fakes import FakeClock

PRICE, PART = "100.00", "30.00"
ENDED = {"SUCCESS", "FAILED", "CLOSED", "LATE_REFUNDED"}
# seconds between rounds of the workers: leases, confirmations, questions, deadline and grace
PAUSES = (6.0, 21.0, 61.0, 61.0, 181.0, 900.0, 1200.0, 61.0, 3700.0, 181.0, 21600.0, 61.0)
_MOVED = ("capture", "refund")


class Shop(Protocol):
    """A `ProviderShop`, here or in another process."""

    async def do(self, deed: str, **named: Any) -> Any:
        """Does a deed."""
        ...


class ShopHere:
    """A shop in this process, whose time is the test's."""

    def __init__(self, shop: ProviderShop, clock: FakeClock) -> None:
        self._shop = shop
        self._clock = clock

    async def do(self, deed: str, **named: Any) -> Any:
        """Does a deed."""
        self._shop.joined.money.clock.set(self._clock.now())
        return await self._shop.do(deed, **named)


class ProviderStory:
    """A story under way. Time passes only when it says so.

    Attributes:
        shop: replaced when its process is.
    """

    def __init__(
        self,
        shop: Shop,
        simulated: SimulatedChannel,
        clock: FakeClock,
        databases: dict[str, Database],
        *,
        chance: random.Random,
    ) -> None:
        """`chance`: the order in which notices come."""
        self.shop = shop
        self.simulated = simulated
        self.provider = simulated.provider.name
        self.clock = clock
        self._databases = databases
        self._chance = chance
        self._told: set[int] = set()
        self._claimed: set[str] = set()

    @property
    def channel(self) -> str:
        """Our name of the account."""
        return f"{self.provider}_main"

    async def do(self, deed: str, **named: Any) -> Any:
        """A deed of the shop."""
        return await self.shop.do(deed, **named)

    async def order(self) -> str:
        """A buyer's order; its id."""
        return str(await self.do("order", price=PRICE, currency=self.simulated.currency))

    async def open(self, order_id: str, key: str = "") -> Said:
        """The buyer goes to the cashier."""
        said: Said = await self.do("open", order_id=order_id, channel=self.channel, key=key)
        return said

    async def visit(self, opened: Said) -> None:
        """The buyer sees what he was shown, by which Alipay learns of it."""
        assert opened.shown, opened
        if self.provider == "alipay":
            await self.simulated.client.get(opened.shown)

    async def pay(self, opened: Said) -> bool:
        """The buyer pays what he was shown; False where the provider refuses it."""
        await self.visit(opened)
        sent = {"own_id": await self.attempt_of(opened), "does": "pay"}
        answer = await self.simulated.client.post("/_sim/buyer", json=sent)
        assert answer.status_code in (200, 409), answer.text
        return answer.status_code == 200

    async def paid(self, key: str = "K1") -> Said:
        """A payment whose money is here, as far as the provider is concerned."""
        opened = await self.open(await self.order(), key)
        assert await self.pay(opened), opened
        return opened

    async def held(self) -> Said:
        """A payment whose money is held."""
        said: Said = await self.do("hold", order_id=await self.order(), channel=self.channel)
        assert await self.pay(said), said
        await self.settle(rounds=2)
        now = await self.payment(said)
        assert now.state == "AUTHORIZED", now
        return now

    async def payment(self, said: Said) -> Said:
        """A payment as it is."""
        now: Said = await self.do("payment", payment_id=said.about)
        return now

    async def attempt_of(self, said: Said) -> str:
        """The attempt of a payment."""
        [row] = await self.rows(ATTEMPT, ATTEMPT.c.payment_id == said.about)
        return str(row.attempt_id)

    async def tell(self) -> None:
        """The provider delivers, twice and in any order, what nobody has taken yet."""
        left = [
            (number, notice)
            for number, notice in enumerate(self.simulated.all_notices())
            if number not in self._told
        ] * 2
        self._chance.shuffle(left)
        for number, notice in left:
            if (await self.deliver(notice)).state.startswith("2"):
                self._told.add(number)

    async def deliver(self, notice: Inbound) -> Said:
        """One message arrives."""
        said: Said = await self.do(
            "deliver", channel=self.channel, body=notice.body, headers=dict(notice.headers)
        )
        return said

    async def pass_time(self, seconds: float) -> None:
        """Time passes, at the provider in steps: what follows from a deed takes its time from
        there. Buyers claim their refunds.
        """
        steps = min(3, int(seconds // 61))
        for step in (*[61.0] * steps, seconds - 61 * steps):
            self.clock.advance(step)
            await self.simulated.client.post("/_sim/clock", json={"advance_seconds": 0})
        if self.provider == "btcpay":
            await self._claim()

    async def settle(self, *, rounds: int = len(PAUSES), tells: bool = True) -> None:
        """Time passes, the workers work, and the provider tells."""
        for seconds in PAUSES[:rounds]:
            await self.pass_time(seconds)
            await self.do("work")
            if tells:
                await self.tell()

    async def rows(self, table: Table, *where: Any) -> list[Any]:
        """Rows of a table of payment_rpc, by primary key."""
        query = select(table).where(*where).order_by(*table.primary_key.columns)

        async def read(tx: AsyncConnection) -> list[Any]:
            return list(await tx.execute(query))

        return await self._databases["payment_rpc"].read(read)

    async def check(self) -> None:
        """Money moved once at most, both books agree, every payment has ended, and the strict audit
        finds nothing.
        """
        moved = [one for one in await self.simulated.money() if one[0] in _MOVED]
        there = {(kind, own_id): minor for kind, own_id, minor in moved}
        assert len(there) == len(moved), moved
        here = {
            ("capture", row.attempt_id): row.captured_minor
            for row in await self.rows(ATTEMPT)
            if row.state == "CAPTURED"
        } | {
            ("refund", row.refund_id): row.amount_minor
            for row in await self.rows(REFUND)
            if row.state == "SUCCESS"
        }
        assert here == there
        for row in await self.rows(PAYMENT):
            assert row.state in ENDED, row
            assert (row.state == "SUCCESS") == (row.captured_minor > row.refunded_minor), row
        assert await self.violations() == []

    async def violations(self) -> list[str]:
        """What `paymesh audit --strict` finds."""
        return [
            f"{where}: {found.check} {found.subject}: {found.detail}"
            async for where, found in audit_databases(
                self._databases,
                AuditTolerance(now=self.clock.now(), strict=True),
                sandbox_url="",
                api_key="",
                without_redis=tuple(self._databases),
            )
        ]

    async def _claim(self) -> None:
        for row in await self.rows(REFUND):
            if row.channel_refund_no and row.channel_refund_no not in self._claimed:
                self._claimed.add(row.channel_refund_no)
                sent = {"ref": row.channel_refund_no, "does": "claim"}
                await self.simulated.client.post("/_sim/buyer", json=sent)
