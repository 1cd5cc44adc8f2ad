"""A channel in memory that closes attempts in any of the five ways, and does what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from mesh.money import Money
from payment_rpc.channels.capabilities import Capabilities, Close, Instrument
from payment_rpc.channels.inbound import Ack, Inbound, KeyUnknown, Received
from payment_rpc.channels.requests import CapturedAttempt, Checkout, Remember, is_remembered
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable, SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import NextAction
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import Entry

Hook = Callable[[], Awaitable[None]]
SECRET = "right"
WATCH = timedelta(days=8)
_NAMES_ITS_OWN = (Close.KNOWN, Close.PROMISE, Close.NEVER)


@dataclass(slots=True)
class AtScripted:
    """What the channel knows of an attempt. `captures` counts how often it took money."""

    amount: Money
    ref: str
    status: ChannelStatus = ChannelStatus.PENDING
    is_approved: bool = False
    captures: int = 0
    surplus: int = 0  # in minor units


class ScriptedChannel:
    """A provider and the adapter to it.

    Hooks run once. `lose_checkout`, `lose_step`: the call arrives, its answer does not.
    `confirms`: checkout takes the money itself after `remember`, as a charge does.
    """

    def __init__(self, close: Close, name: str = "scripted") -> None:
        self._name = name
        self.capabilities = Capabilities(
            instruments=frozenset({Instrument.REDIRECT}),
            currencies=None,
            close=close,
            ask_by_own_id=close not in _NAMES_ITS_OWN,
            watch=WATCH if close is Close.NEVER else None,
        )
        self.known: dict[str, AtScripted] = {}
        self.pages: dict[str, Money] = {}  # of buyers, where the channel may not know of them yet
        self.tombstones: set[str] = set()
        self.refunded: dict[str, Money] = {}
        self.calls: list[tuple[str, str]] = []
        self.messages: dict[bytes, Received | Exception] = {}
        self.unknown_keys: set[str] = set()
        self.learned: list[str] = []
        self.can_learn = True
        self.has_own_refusal = True
        self.lose_checkout = self.lose_step = self.confirms = self.refuses_refunds = False
        self.is_silent = False  # questions get no answer
        self.before_remember: Hook | None = None
        self.during_query: Hook | None = None
        self.during_step: Hook | None = None
        self.aborted: list[str] = []  # not remembered

    @property
    def name(self) -> str:
        return self._name

    @property
    def provider(self) -> str:
        return "scripted"

    def count(self, call: str) -> int:
        """How often a call arrived."""
        return [name for name, _ in self.calls].count(call)

    # what buyers do

    def pay(self, attempt_id: str) -> bool:
        """The buyer pays, or approves what we have to capture; whether the channel let him."""
        if attempt_id in self.pages and attempt_id not in self.tombstones:
            self.known.setdefault(attempt_id, AtScripted(self.pages[attempt_id], f"R-{attempt_id}"))
        found = self.known.get(attempt_id)
        if found is None or found.status is not ChannelStatus.PENDING:
            return False
        if self.capabilities.close is Close.PROMISE:
            found.is_approved = True
        else:
            self.take(attempt_id)
        return True

    def take(self, attempt_id: str) -> None:
        """Money moves."""
        found = self.known[attempt_id]
        found.status = ChannelStatus.CAPTURED
        found.captures += 1

    def pay_more(self, attempt_id: str, minor: int) -> None:
        """The buyer pays what was paid already once more, or a part of it."""
        self.known[attempt_id].surplus += minor

    def fact(self, attempt_id: str) -> ChannelFact:
        """What the channel says of an attempt."""
        found = self.known.get(attempt_id)
        if found is None:
            status = (
                ChannelStatus.CLOSED if attempt_id in self.tombstones else ChannelStatus.NOT_FOUND
            )
            return ChannelFact(attempt_id=attempt_id, status=status)
        is_captured = found.status is ChannelStatus.CAPTURED
        return ChannelFact(
            attempt_id=attempt_id,
            status=found.status,
            amount=found.amount,
            ref=found.ref,
            trade_no=f"T-{attempt_id}" if is_captured else "",
            reason="PAYMENT_CLOSED" if found.status is ChannelStatus.CLOSED else "",
            is_our_turn=found.status is ChannelStatus.PENDING and found.is_approved,
            surplus=Money(found.surplus, found.amount.currency) if found.surplus else None,
        )

    # the calls of the core

    async def charge(self, **_call: Any) -> ChannelFact:
        raise AssertionError("this channel takes no cards")

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        expires_at: datetime,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        self.calls.append(("checkout", attempt_id))
        ref = ""
        if self.capabilities.close is Close.DEADLINE:
            self.pages[attempt_id] = amount
        elif attempt_id not in self.tombstones:
            ref = self.known.setdefault(attempt_id, AtScripted(amount, f"R-{attempt_id}")).ref
        await self._run("before_remember")
        if self.capabilities.close in _NAMES_ITS_OWN and not await is_remembered(
            remember, ref, attempt_id=attempt_id
        ):
            self.aborted.append(attempt_id)
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN, ref=ref)
        self.pages[attempt_id] = amount
        if self.confirms and self.known[attempt_id].status is ChannelStatus.PENDING:
            self.take(attempt_id)
        if self.lose_checkout:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        if attempt_id not in self.known or self.known[attempt_id].status is ChannelStatus.PENDING:
            return ChannelFact(
                attempt_id=attempt_id,
                status=ChannelStatus.PENDING,
                ref=ref,
                next_action=NextAction(kind="REDIRECT_URL", value=f"https://pay.test/{attempt_id}"),
            )
        return self.fact(attempt_id)

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        fact = self._answer("query", attempt_id, ref)
        await self._run("during_query")
        return fact

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        self.calls.append(("advance", attempt_id))
        await self._run("during_step")
        found = self.known[attempt_id]
        if found.is_approved and found.status is ChannelStatus.PENDING:
            self.take(attempt_id)
        if self.lose_step:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        return self.fact(attempt_id)

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        kind = self.capabilities.close
        fact = self._answer("close", attempt_id, ref)
        found = self.known.get(attempt_id)
        if kind is Close.TOMBSTONE and found is None:
            self.tombstones.add(attempt_id)
            return self.fact(attempt_id)
        if fact.status is ChannelStatus.NOT_FOUND:
            return (
                replace(fact, status=ChannelStatus.NOT_CLOSABLE) if kind is Close.DEADLINE else fact
            )
        if found is not None and found.status is ChannelStatus.PENDING:
            found.status = ChannelStatus.CLOSED
        return self.fact(attempt_id)

    async def capture(self, attempt_id: str, **_call: Any) -> ChannelFact:
        raise AssertionError(f"nothing is held under {attempt_id}")

    async def void(self, attempt_id: str, **_call: Any) -> ChannelFact:
        raise AssertionError(f"nothing is held under {attempt_id}")

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        if self.refuses_refunds:
            return RefundFact(refund_id=refund_id, status=RefundChannelStatus.FAILED)
        self.refunded[refund_id] = amount
        return RefundFact(refund_id=refund_id, status=RefundChannelStatus.SUCCESS)

    async def query_refund(self, refund_id: str, **_call: Any) -> RefundFact:
        status = (
            RefundChannelStatus.SUCCESS
            if refund_id in self.refunded
            else RefundChannelStatus.NOT_FOUND
        )
        return RefundFact(refund_id=refund_id, status=status)

    # messages

    def subject_of(self, inbound: Inbound) -> Subject:
        return Subject()

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        if inbound.headers.get("x-secret") != SECRET:
            raise SignatureInvalid("not ours")
        key = inbound.headers.get("x-key", "")
        if key in self.unknown_keys:
            raise KeyUnknown(key)
        message = self.messages[inbound.body]
        if isinstance(message, Exception):
            raise message
        return message

    def ack(self, *, accepted: bool) -> Ack | None:
        if accepted:
            return Ack(status_code=204)
        if not self.has_own_refusal:
            return None
        return Ack(
            status_code=400,
            content_type="application/json",
            body=json.dumps({"code": "FAIL"}).encode(),
        )

    async def learn_key(self, url: str, *, timeout_seconds: float) -> None:
        self.learned.append(url)
        await asyncio.sleep(0)  # as a call over the network gives way to others
        if self.can_learn:
            self.unknown_keys.discard(url)

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        raise ChannelUnavailable("there is none")

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        raise AssertionError("there is none")

    async def check(self, *, timeout_seconds: float) -> str:
        return ""

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _answer(self, call: str, attempt_id: str, ref: str) -> ChannelFact:
        self.calls.append((call, attempt_id))
        if self.is_silent:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.UNKNOWN)
        if not ref and not self.capabilities.ask_by_own_id:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
        return self.fact(attempt_id)

    async def _run(self, name: str) -> None:
        hook = getattr(self, name)
        if hook is not None:
            setattr(self, name, None)
            await hook()
