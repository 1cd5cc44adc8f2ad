"""A shop in one process, both services, which sells through the simulated providers: everything that
a test has it do is a deed with a name, so that another process can do it too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from mesh import failpoints
from mesh.errors import MeshError
from mesh.failpoints import failpoint
from mesh.money import RequestedAmount
from order_rpc.domain.order import Order
from order_rpc.domain.policy import MerchantPolicy
from payment_rpc.channels import Channel
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.providers import PROVIDERS
from payment_rpc.channels.requests import Checkout
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import CASHIER, Payment
from payment_rpc.store import attempts
from payment_rpc.usecases.captures import CapturePayment
from payment_rpc.usecases.channel_steps import ChannelSteps
from payment_rpc.usecases.payment_start import NewPayment, PaymentStart
from paymesh_cli.demo_providers import VISITS
from tests.builders.order import PAYMENT_RPC
from tests.builders.order_payment import JoinedWorld, joined_world
from tests.builders.payment import CONFIG, LEASE_SECONDS
from tests.builders.payment_steps import CLERK, refund
from tests.support.fakes import FakeClock

TIMEOUT_SECONDS = 10.0  # shorter than the lease


@dataclass(frozen=True, slots=True)
class Said:
    """What a deed answered: a payment, a refund or a message, by its id and state, and what the
    buyer is shown; or a refusal by its reason.
    """

    state: str
    about: str = ""
    shown: str = ""


def open_channels(urls: Mapping[str, str], clock: FakeClock) -> dict[str, Channel]:
    """A channel to each simulator, by provider, under the name `<provider>_main`. Needs a running
    loop.
    """
    return {
        f"{name}_main": PROVIDERS[name].open_channel(
            account=f"{name}_main",
            credentials=PROVIDERS[name].parse(VISITS[name].credentials(url)),
            is_live=name == "wechat",
            notify_url=f"https://shop.example/{name}",
            base_url=url,
            now=clock.now,
        )
        for name, url in urls.items()
    }


@dataclass
class ProviderShop:
    """Takes money through the simulated providers. Time stands still between deeds."""

    joined: JoinedWorld
    channels: Mapping[str, Channel]

    async def do(self, deed: str, **named: Any) -> Any:
        """Does a deed. A refusal is an answer."""
        try:
            return await getattr(self, deed)(**named)
        except MeshError as refused:
            return Said(refused.reason, getattr(refused, "payment_id", ""))

    async def arm(self, point: str, action: str = "kill") -> None:
        """The process dies at this point."""
        failpoints.arm(f"{point}={action}", environment="test")

    async def order(self, price: str, currency: str) -> str:
        """A buyer's order; its id."""
        return (await self.joined.money.order(price, currency=currency)).order_id

    async def open(self, order_id: str, channel: str, key: str = "") -> Said:
        """The buyer goes to the cashier."""
        order = await self._order(order_id)
        return _said(await self.joined.money.cashier(order, channel=channel, key=key))

    async def hold(self, order_id: str, channel: str) -> Said:
        """The buyer goes to a cashier that will only hold the money."""
        world = self.joined.money
        order = await self._order(order_id)
        lease = timedelta(seconds=LEASE_SECONDS)
        started = await PaymentStart(
            db=world.db, clock=world.clock, ids=world.ids, lease=lease
        ).start(
            NewPayment(
                order=_to_pay(order),
                payment_method=CASHIER,
                channel=channel,
                card=None,
                idempotency_key=None,
                fingerprint={},
                capture_mode=CaptureMode.MANUAL,
            )
        )
        payment, attempt = started.payment, started.attempt
        assert payment is not None
        assert attempt is not None
        steps = ChannelSteps(db=world.db, clock=world.clock, lease=lease)
        fact = await self.channels[channel].checkout(
            attempt_id=attempt.attempt_id,
            amount=payment.amount,
            order=Checkout(subject="tea", return_url="https://shop.test/"),
            expires_at=payment.expires_at,
            remember=partial(steps.remember, attempt),
            timeout_seconds=TIMEOUT_SECONDS,
            capture=False,
        )
        failpoint("payment.charge.after_channel")
        return _said((await world.app.channel_results.apply(fact)).payment)

    async def deliver(self, channel: str, body: bytes, headers: dict[str, str]) -> Said:
        """A message of the provider arrives."""
        answer = await self.joined.money.app.callbacks.handle_callback(
            channel=channel, inbound=Inbound(body=body, headers=headers)
        )
        return Said(f"{answer.ack.status_code}", str(answer.result))

    async def capture(self, payment_id: str, amount: str = "", key: str = "") -> Said:
        """The shop takes held money."""
        command = CapturePayment(payment_id=payment_id, amount=RequestedAmount(amount, ""), key=key)
        return _said(await self.joined.money.app.captures.capture_payment(command, CLERK))

    async def void(self, payment_id: str) -> Said:
        """The shop lets held money go."""
        return _said(await self.joined.money.app.captures.void_payment(payment_id, CLERK))

    async def refund(self, payment_id: str, amount: str, key: str = "") -> Said:
        """The shop gives a part back."""
        payment = await self.joined.money.payment(payment_id)
        done = await refund(self.joined.money, payment, amount, key=key)
        return Said(str(done.state), done.refund_id)

    async def cancel(self, order_id: str) -> Said:
        """The buyer cancels his order."""
        order = await self.joined.orders.cancel(await self._order(order_id))
        return Said(str(order.state), order.order_id)

    async def ship(self, order_id: str) -> Said:
        """The shop ships, which takes held money."""
        order = await self.joined.orders.ship(await self._order(order_id))
        return Said(str(order.state), order.order_id)

    async def work(self) -> None:
        """Each worker of both services does what is due."""
        app, orders = self.joined.money.app, self.joined.orders
        await orders.expire()
        await orders.relay()
        await app.expiry.run_once()
        await app.polling.run_once()
        await app.callback_questions.run_once()
        await app.refunds.run_once()
        await app.order_relay.run_once()

    async def ask(self, attempt_id: str) -> Said:
        """The provider is asked about an attempt now."""
        world = self.joined.money
        attempt = await world.db.read(attempts.get_attempt, attempt_id)
        return _said((await world.app.polling.query(attempt)).payment)

    async def payment(self, payment_id: str) -> Said:
        """A payment as it is."""
        return _said(await self.joined.money.payment(payment_id))

    async def _order(self, order_id: str) -> Order:
        return await self.joined.orders.orders.get(
            merchant_id="mall", order_id=order_id, caller=PAYMENT_RPC
        )


def _said(payment: Payment) -> Said:
    shown = "" if payment.next_action is None else payment.next_action.value
    return Said(str(payment.state), payment.payment_id, shown)


def _to_pay(order: Order) -> OrderToPay:
    return OrderToPay(
        order_id=order.order_id,
        merchant_id=order.merchant_id,
        user_id=order.user_id,
        amount=order.amount,
        state="PENDING_PAYMENT",
        expires_at=order.expires_at,
    )


@asynccontextmanager
async def provider_shop(
    payment_url: str, order_url: str, folder: Path, urls: Mapping[str, str]
) -> AsyncIterator[ProviderShop]:
    """A shop on two databases, which may have been another process's before. `urls`: of simulators,
    by provider.
    """
    policies = {"mall": MerchantPolicy(ships_on_authorized=True)}
    async with joined_world(payment_url, order_url, folder, policies=policies) as joined:
        world = joined.money
        channels = open_channels(urls, world.clock)
        try:
            world.app = world.make_app(
                channels={"sandbox": world.channel, **channels},
                config=replace(
                    CONFIG, answer_pauses_seconds=(0.0,), channel_timeout_seconds=TIMEOUT_SECONDS
                ),
            )
            yield ProviderShop(joined, channels)
        finally:
            for channel in channels.values():
                await channel.aclose()
