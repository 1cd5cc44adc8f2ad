"""A channel of ours and the simulated provider behind it, the same way for every provider: what the
shop asks, what the buyer does, what goes wrong, what money moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

import httpx

from mesh.clock import Clock
from mesh.money import Money
from payment_rpc.channels import Channel
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.requests import CapturedAttempt, Checkout
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact
from sandbox.providers.server import RunningProvider
from sandbox.providers.simulation import Provider
from sandbox.providers.webhooks import Target

TIMEOUT_SECONDS = 20.0
ORDER = Checkout(subject="tea 100% 茶 {", return_url="https://shop.example/back")


class SimulatedChannel:
    """Base: one class per provider says where it differs. `refs` has what the channel had
    remembered, by attempt.

    Attributes:
        steps: method, path and text of the request of each step, for faults.
        method: the way to pay whose checkout calls the provider.
        status_field: the field of a query's answer with the status word.
        closes: the provider can end an attempt.
        told_by: how the kinds of notices begin that say what became of a payment or refund.
        tells: notices say what became of something; otherwise they only say that something did.
        repeats_errors: an error of the provider's own is repeated for a day under the same key.
    """

    provider: ClassVar[Provider[Any]]
    steps: ClassVar[Mapping[str, tuple[str, str, str]]]
    method = ""
    currency = "CNY"
    status_field = ""
    closes = True
    told_by = ""
    tells = True
    repeats_errors = False

    def __init__(self, running: RunningProvider[Any], clock: Clock, client: httpx.AsyncClient):
        self.running = running
        self.clock = clock
        self.client = client
        self.refs: dict[str, str] = {}
        self.channel = self.open(running.url)

    def open(self, base_url: str, now: Callable[[], datetime] | None = None, **changed: Any) -> Any:
        """Another channel to the same account; `changed` are its credentials."""
        raise NotImplementedError

    def secrets(self) -> list[str]:
        """Texts that no log may have."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """What the account has done before the first attempt."""

    async def confirm(self) -> None:
        """What must happen before a payment counts."""

    async def meet_buyer(self, fact: ChannelFact) -> None:
        """What must happen before the provider knows the attempt: the buyer opens it."""

    async def checkout(
        self, attempt_id: str, minor: int, *, method: str | None = None, channel: Any = None
    ) -> ChannelFact:
        """Opens an attempt."""

        async def remember(ref: str) -> None:
            self.refs[attempt_id] = ref

        used: Channel = channel or self.channel
        return await used.checkout(
            attempt_id=attempt_id,
            amount=Money(minor, self.currency),
            order=Checkout(
                subject=ORDER.subject,
                return_url=ORDER.return_url,
                method=self.method if method is None else method,
                buyer_address="203.0.113.7",
                buyer_openid="oUpF8uMuAJO_M2pxb1Q9zNjWeS6o",
            ),
            expires_at=self.clock.now() + timedelta(minutes=30),
            remember=remember,
            timeout_seconds=TIMEOUT_SECONDS,
        )

    async def open_attempt(self, attempt_id: str, minor: int, **how: Any) -> ChannelFact:
        """Opens an attempt, and the buyer sees it."""
        fact = await self.checkout(attempt_id, minor, **how)
        await self.meet_buyer(fact)
        return fact

    async def buy(self, attempt_id: str, minor: int) -> ChannelFact:
        """An attempt that the buyer has paid, as the query says it."""
        await self.open_attempt(attempt_id, minor)
        await self.buyer(attempt_id, "pay")
        return await self.query(attempt_id)

    async def buyer(self, attempt_id: str, does: str) -> None:
        """The buyer's deed."""
        sent = {"own_id": attempt_id, "does": does}
        answer = await self.client.post("/_sim/buyer", json=sent)
        assert answer.status_code == 200, answer.text

    async def query(self, attempt_id: str, *, channel: Any = None) -> ChannelFact:
        """Asks for an attempt."""
        used: Channel = channel or self.channel
        ref = self.refs.get(attempt_id, "")
        return await used.query(attempt_id, ref=ref, timeout_seconds=TIMEOUT_SECONDS)

    async def close(self, attempt_id: str) -> ChannelFact:
        """Closes an attempt."""
        ref = self.refs.get(attempt_id, "")
        return await self.channel.close(attempt_id, ref=ref, timeout_seconds=TIMEOUT_SECONDS)

    async def refund(
        self, refund_id: str, attempt_id: str, minor: int, total: int, *, channel: Any = None
    ) -> RefundFact:
        """Gives back a part."""
        used: Channel = channel or self.channel
        return await used.refund(
            refund_id=refund_id,
            of=self.captured(attempt_id, total),
            amount=Money(minor, self.currency),
            reason="too late",
            timeout_seconds=TIMEOUT_SECONDS,
        )

    async def query_refund(
        self, refund_id: str, attempt_id: str, minor: int, total: int, *, channel: Any = None
    ) -> RefundFact:
        """Asks for a refund."""
        used: Channel = channel or self.channel
        return await used.query_refund(
            refund_id,
            of=self.captured(attempt_id, total),
            amount=Money(minor, self.currency),
            timeout_seconds=TIMEOUT_SECONDS,
        )

    def captured(self, attempt_id: str, total: int) -> CapturedAttempt:
        """What a refund is of."""
        return CapturedAttempt(
            attempt_id=attempt_id,
            amount=Money(total, self.currency),
            ref=self.refs.get(attempt_id, ""),
        )

    async def fault(self, step: str, kind: str, **more: Any) -> None:
        """Lets the next request of a step go wrong."""
        method, path, contains = self.steps[step]
        sent = {"method": method, "path": path, "contains": contains, "kind": kind, **more}
        answer = await self.client.post("/_sim/faults", json=sent)
        assert answer.status_code == 201, answer.text

    async def answered_bytes(self) -> int:
        """The length of the answer that the last fault spoiled."""
        told = (await self.client.get("/_sim/faults")).json()["answered"]
        return int(told[-1]["raw_bytes"])

    async def no_faults(self) -> None:
        """Ends all misbehaviour."""
        await self.client.delete("/_sim/faults")

    async def advance(self, seconds: float) -> None:
        """Moves the provider's clock."""
        await self.client.post("/_sim/clock", json={"advance_seconds": seconds})

    async def money(self) -> list[tuple[str, str, int]]:
        """Kind, own id and amount of all that really moved."""
        moved = (await self.client.get("/_sim/money")).json()["movements"]
        return [(one["kind"], one["own_id"], one["amount_minor"]) for one in moved]

    def target(self, url: str) -> Target:
        """Where notices go."""
        return Target(url=url)

    def notices(self) -> list[Inbound]:
        """What says what became of a payment or refund, as it is signed now."""
        return self.all_notices(self.told_by)

    def all_notices(self, told_by: str = "") -> list[Inbound]:
        """All notices so far whose kind begins so, signed now."""
        simulation = self.running.simulation
        rule = self.provider.rule(simulation.config, simulation.clock)
        found = []
        for one in simulation.deliveries.deliveries:
            if not one.notice.kind.startswith(told_by):
                continue
            outgoing = rule.render(one.notice, self.target(one.notice.url), 1)
            headers = {name.lower(): value for name, value in outgoing.headers.items()}
            found.append(Inbound(body=outgoing.body, headers=headers))
        return found
