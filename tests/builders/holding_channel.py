"""A channel that holds money, in memory: for captures and voids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.money import Money
from order_rpc.domain.order import Order
from payment_rpc.channels.capabilities import Instrument
from payment_rpc.channels.requests import PaymentToken
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.hold import CaptureMode
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import CREDIT_CARD, Payment
from payment_rpc.usecases.payment_start import NewPayment, PaymentStart
from tests.builders.payment import LEASE_SECONDS, PaymentWorld
from tests.support.sandbox_server import API_KEY, CALLBACK_SECRET

HOLD = timedelta(days=7)
SHOP = Caller(role=Role.MERCHANT, subject="shop", merchant_id="mall")


class HoldingChannel(SandboxChannel):
    """Holds what an attempt owes until it is captured, whole or in parts, or let go. Takes tokens
    too, and keeps what it was asked to charge.

    `says` answers the next captures instead, without doing anything; `lose_answers` does what is
    asked and forgets the answer; `unreachable` does nothing and says UNKNOWN.
    """

    lose_answers = False
    unreachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._capabilities = replace(
            self.capabilities,
            authorize=True,
            multiple_captures=True,
            instruments=self.capabilities.instruments | {Instrument.TOKEN},
        )
        self.now: Callable[[], datetime] = SystemClock().now
        self.charged: list[Any] = []  # what buyers gave
        self.opened: list[bool] = []  # whether each page takes its money at once
        self.facts: dict[str, ChannelFact] = {}
        self.captures: list[tuple[str, Money]] = []  # key and amount of each call
        self.done: dict[str, Money] = {}  # captures that were carried out, by key
        self.says: list[ChannelStatus] = []

    def hold(self, attempt_id: str, amount: Money, *, until: datetime) -> ChannelFact:
        """Money is held under an attempt."""
        self.facts[attempt_id] = ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.AUTHORIZED,
            amount=amount,
            held_until=until,
            ref=f"ref_{attempt_id}",
        )
        return self.facts[attempt_id]

    async def charge(
        self, *, attempt_id: str, amount: Money, instrument: Any, capture: bool = True, **call: Any
    ) -> ChannelFact:
        self.charged.append(instrument)
        if not capture:
            return self.hold(attempt_id, amount, until=self.now() + HOLD)
        if isinstance(instrument, PaymentToken):
            return ChannelFact(
                attempt_id=attempt_id,
                status=ChannelStatus.CAPTURED,
                amount=amount,
                trade_no=f"T_{attempt_id}",
            )
        return await super().charge(
            attempt_id=attempt_id, amount=amount, instrument=instrument, **call
        )

    async def checkout(self, *, capture: bool = True, **call: Any) -> ChannelFact:
        self.opened.append(capture)
        return await super().checkout(**call)

    def let_go(self, attempt_id: str) -> None:
        """The hold is over, by whatever; what was taken of it stays taken."""
        fact = self.facts[attempt_id]
        self.facts[attempt_id] = (
            replace(fact, status=ChannelStatus.CAPTURED, amount=fact.taken, taken=None)
            if fact.taken
            else replace(fact, status=ChannelStatus.CLOSED, reason="PAYMENT_CLOSED")
        )

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        if attempt_id not in self.facts:
            return await super().query(attempt_id, timeout_seconds=timeout_seconds, ref=ref)
        return self._answer(attempt_id)

    async def capture(
        self,
        attempt_id: str,
        *,
        ref: str,
        capture_id: str,
        amount: Money,
        is_final: bool,
        timeout_seconds: float,
    ) -> ChannelFact:
        assert ref == f"ref_{attempt_id}"
        self.captures.append((capture_id, amount))
        if self.says:
            return ChannelFact(attempt_id=attempt_id, status=self.says.pop(0), message="no")
        if not self.unreachable:
            self.take(attempt_id, capture_id, amount, is_final=is_final)
        return self._answer(attempt_id)

    def take(self, attempt_id: str, capture_id: str, amount: Money, *, is_final: bool) -> None:
        """A capture arrives: once per key, and never more than is held."""
        fact = self.facts[attempt_id]
        total = amount if fact.taken is None else fact.taken + amount
        held = fact.amount
        if (
            fact.status is not ChannelStatus.AUTHORIZED
            or capture_id in self.done
            or held is None
            or total > held
        ):
            return
        self.done[capture_id] = amount
        known = replace(fact, taken=total, trade_no=f"T_{attempt_id}")
        self.facts[attempt_id] = known
        if is_final or total == held:
            self.facts[attempt_id] = replace(
                known, status=ChannelStatus.CAPTURED, amount=total, taken=None
            )

    async def void(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        if not self.unreachable and self.facts[attempt_id].status is ChannelStatus.AUTHORIZED:
            self.let_go(attempt_id)
        return self._answer(attempt_id)

    def _answer(self, attempt_id: str) -> ChannelFact:
        if self.lose_answers or self.unreachable:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        return self.facts[attempt_id]


def holding(world: PaymentWorld, **changes: Any) -> HoldingChannel:
    """Gives a shop a channel that holds money, in the place of the sandbox. `changes`: of the rest
    of its payment_rpc.
    """
    channel = HoldingChannel(
        base_url=world.sandbox.base_url, api_key=API_KEY, callback_secret=CALLBACK_SECRET
    )
    channel.now = world.clock.now
    world.app = world.make_app(channels={"sandbox": channel}, **changes)
    return channel


async def begin_held(world: PaymentWorld, order: Order) -> tuple[Payment, str]:
    """A payment of an order that asked for held money, and its attempt; nothing is held yet."""
    started = await PaymentStart(
        db=world.db, clock=world.clock, ids=world.ids, lease=timedelta(seconds=LEASE_SECONDS)
    ).start(
        NewPayment(
            order=OrderToPay(
                order_id=order.order_id,
                merchant_id=order.merchant_id,
                user_id=order.user_id,
                amount=order.amount,
                state="PENDING_PAYMENT",
                expires_at=order.expires_at,
            ),
            payment_method=CREDIT_CARD,
            channel="sandbox",
            card=None,
            idempotency_key=None,
            fingerprint={},
            capture_mode=CaptureMode.MANUAL,
        )
    )
    assert started.payment is not None
    assert started.attempt is not None
    return started.payment, started.attempt.attempt_id


async def held_payment(
    world: PaymentWorld, channel: HoldingChannel, order: Order | None = None
) -> Payment:
    """A payment whose money the channel holds; its first lease is over."""
    order = order or await world.order()
    _, attempt_id = await begin_held(world, order)
    fact = channel.hold(attempt_id, order.amount, until=world.clock.now() + HOLD)
    held = (await world.app.channel_results.apply(fact)).payment
    world.clock.advance(LEASE_SECONDS + 1)
    return held
