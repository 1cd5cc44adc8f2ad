"""payment_rpc's adapter to Stripe inside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mesh.clock import Clock
from mesh.money import Money
from payment_rpc.channels.requests import CapturedAttempt, Checkout, PaymentToken
from payment_rpc.channels.stripe.channel import StripeChannel, open_channel
from payment_rpc.channels.stripe.credentials import Credentials, parse
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact

USD = Money(9999, "USD")
BACK = "https://shop.example/back"
SECONDS = 10.0


@dataclass(slots=True)
class Shop:
    """What the core does with the adapter, with short names.

    Attributes:
        remembered: ids that the adapter had committed; `forgets` makes committing fail.
    """

    channel: StripeChannel
    clock: Clock
    remembered: list[str] = field(default_factory=list)
    forgets: bool = False

    async def remember(self, ref: str) -> None:
        if self.forgets:
            raise RuntimeError("nothing could be committed")
        self.remembered.append(ref)

    async def charge(
        self,
        token: str = "pm_card_visa",
        amount: Money = USD,
        *,
        own_id: str = "ATT1",
        return_url: str = "",
        **more: Any,
    ) -> ChannelFact:
        return await self.channel.charge(
            attempt_id=own_id,
            amount=amount,
            instrument=PaymentToken(value=token, return_url=return_url),
            expires_at=None,
            **{"remember": self.remember, "timeout_seconds": SECONDS, **more},
        )

    async def checkout(
        self,
        method: str = "",
        amount: Money = USD,
        *,
        own_id: str = "ATT1",
        **more: Any,
    ) -> ChannelFact:
        return await self.channel.checkout(
            attempt_id=own_id,
            amount=amount,
            order=Checkout(subject="Tea", return_url=more.pop("return_url", BACK), method=method),
            expires_at=self.clock.now() + timedelta(hours=1),
            **{"remember": self.remember, "timeout_seconds": SECONDS, **more},
        )

    async def query(self, ref: str, own_id: str = "ATT1") -> ChannelFact:
        return await self.channel.query(own_id, ref=ref, timeout_seconds=SECONDS)

    async def advance(self, ref: str, own_id: str = "ATT1") -> ChannelFact:
        return await self.channel.advance(own_id, ref=ref, timeout_seconds=SECONDS)

    async def close(self, ref: str, own_id: str = "ATT1") -> ChannelFact:
        return await self.channel.close(own_id, ref=ref, timeout_seconds=SECONDS)

    async def capture(
        self, ref: str, amount: Money, *, capture_id: str = "CAP1", is_final: bool = True
    ) -> ChannelFact:
        return await self.channel.capture(
            "ATT1",
            ref=ref,
            capture_id=capture_id,
            amount=amount,
            is_final=is_final,
            timeout_seconds=SECONDS,
        )

    async def refund(
        self,
        paid: ChannelFact,
        amount: Money,
        *,
        refund_id: str = "RF1",
        seconds: float = SECONDS,
    ) -> RefundFact:
        return await self.channel.refund(
            refund_id=refund_id,
            of=capture_of(paid),
            amount=amount,
            reason="the tea was cold",
            timeout_seconds=seconds,
        )

    async def query_refund(
        self, paid: ChannelFact, amount: Money, *, refund_id: str = "RF1", refund_no: str = ""
    ) -> RefundFact:
        return await self.channel.query_refund(
            refund_id,
            of=capture_of(paid),
            amount=amount,
            refund_no=refund_no,
            timeout_seconds=SECONDS,
        )


def capture_of(paid: ChannelFact) -> CapturedAttempt:
    """What is given back."""
    assert paid.amount is not None
    return CapturedAttempt(
        attempt_id=paid.attempt_id, amount=paid.amount, ref=paid.ref, trade_no=paid.trade_no
    )


def some_credentials(**more: Any) -> Credentials:
    """Credentials that open nothing."""
    return parse({"secret_key": "sk_test_12345", "webhook_secrets": ["whsec_test"], **more})


@asynccontextmanager
async def stripe_shop(url: str, clock: Clock, credentials: Credentials) -> AsyncIterator[Shop]:
    """A shop whose account is at a URL."""
    channel = open_channel(
        account="stripe_eu",
        credentials=credentials,
        is_live=False,
        notify_url="https://shop.example/api/v1/callbacks/stripe_eu",
        base_url=url,
        now=clock.now,
    )
    try:
        yield Shop(channel, clock)
    finally:
        await channel.aclose()
