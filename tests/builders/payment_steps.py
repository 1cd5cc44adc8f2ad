"""What tests of several files do with a payment_rpc: pay, spend, refund, call back, break off."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from mesh import failpoints
from mesh.call import Caller, Role
from mesh.failpoints import FailpointRaised
from mesh.money import Money, RequestedAmount
from order_rpc.domain.order import Order
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.domain.callback import CallbackResult
from payment_rpc.domain.card import Card
from payment_rpc.domain.errors import (
    CardDeclined,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import BALANCE, Payment
from payment_rpc.domain.refund import Refund
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.tables import (
    ATTEMPT,
)
from payment_rpc.usecases.channel_results import Applied
from payment_rpc.usecases.mock_callbacks import Hint
from payment_rpc.usecases.payment_requests import TopUp
from payment_rpc.usecases.refund_start import CreateRefund
from sandbox.signatures import sign_callback, sign_hint
from tests.builders.order import buyer
from tests.builders.payment import (
    DECLINED,
    PRICE,
    VISA,
    PaymentWorld,
    UnreliableChannel,
    with_amount,
)
from tests.support.fakes import EPOCH
from tests.support.sandbox_server import CALLBACK_SECRET, MD5_SECRET, inbound


def millis(world: PaymentWorld, *, shift_seconds: float = 0) -> str:
    return str(round((world.clock.now().timestamp() + shift_seconds) * 1000))


async def waiting(world: PaymentWorld) -> tuple[Payment, str]:
    """A payment at the cashier and its attempt."""
    payment = await world.cashier(await world.order())
    [attempt_id] = [
        row["attempt_id"]
        for row in await world.rows(ATTEMPT)
        if row["payment_id"] == payment.payment_id
    ]
    return payment, attempt_id


def callback(attempt_id: str, **changes: Any) -> bytes:
    return json.dumps(
        {
            "event_id": "EVT1",
            "attempt_id": attempt_id,
            "trade_no": "SBX1",
            "status": "CAPTURED",
            "amount": "100.00",
            "currency": "CNY",
            "decline_code": "",
            "message": "captured",
            "occurred_at": "2026-11-20T12:00:00.000Z",
            **changes,
        }
    ).encode()


async def deliver(
    world: PaymentWorld,
    body: bytes,
    *,
    timestamp: str = "",
    signature: str = "",
    channel: str = "sandbox",
) -> CallbackResult:
    timestamp = timestamp or millis(world)
    answer = await world.app.callbacks.handle_callback(
        channel=channel,
        inbound=inbound(
            body=body,
            timestamp=timestamp,
            signature=signature or sign_callback(CALLBACK_SECRET, timestamp=timestamp, body=body),
        ),
    )
    return answer.result


NOW = str(round(EPOCH.timestamp() * 1000))


def hint(
    payment_id: str, status: str = "SUCCESS", *, timestamp: str = NOW, nonce: str = "abc123"
) -> Hint:
    return Hint(payment_id=payment_id, callback_status=status, timestamp=timestamp, nonce=nonce)


def signed(one: Hint) -> str:
    return sign_hint(
        MD5_SECRET,
        payment_id=one.payment_id,
        callback_status=one.callback_status,
        timestamp=one.timestamp,
        nonce=one.nonce,
    )


async def attempt_of(world: PaymentWorld, payment_id: str) -> str:
    return next(
        row["attempt_id"] for row in await world.rows(ATTEMPT) if row["payment_id"] == payment_id
    )


async def capture(
    world: PaymentWorld, payment_id: str, *, amount: Money = PRICE, trade_no: str = ""
) -> Applied:
    """The channel says that it took money after all."""
    attempt_id = await attempt_of(world, payment_id)
    return await world.app.channel_results.apply(
        ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=amount,
            trade_no=trade_no or f"LATE-{payment_id[-4:]}",
            occurred_at=world.clock.now(),
        )
    )


async def declined(world: PaymentWorld, order: Order) -> str:
    """A payment that FAILED; its id."""
    with pytest.raises(CardDeclined) as refused:
        await world.charge(order, number=DECLINED)
    return refused.value.payment_id


async def relay(world: PaymentWorld) -> int:
    world.clock.advance(6)
    return await world.app.order_relay.run_once()


def arm(point: str) -> None:
    failpoints.arm(f"{point}=raise", environment="test")


async def crashed(world: PaymentWorld, point: str, order: Order, **changes: Any) -> None:
    """A charge whose process dies at a point."""
    arm(point)
    with pytest.raises(FailpointRaised):
        await world.charge(order, **changes)
    failpoints.arm("", environment="test")


TODAY = "2026-11-20"  # of the channel, when the clock starts: 20:00 in Shanghai
DAY_SECONDS = 86400


CLERK = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")


class RefundLine:
    """The channel's refunds, scripted: `outcomes` answers the next submissions, `truth` is what it
    knows by then.
    """

    def __init__(self, channel: UnreliableChannel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.truth: dict[str, RefundChannelStatus] = {}
        self.amounts: dict[str, Money] = {}
        self.submissions: list[str] = []
        self.next_status = RefundChannelStatus.SUCCESS
        self.lose_answers = False
        self.unreachable = False
        monkeypatch.setattr(channel, "refund", self.refund, raising=False)
        monkeypatch.setattr(channel, "query_refund", self.query_refund, raising=False)

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        if self.unreachable:
            return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_SENT)
        self.submissions.append(refund_id)
        self.truth.setdefault(refund_id, self.next_status)
        self.amounts[refund_id] = amount
        return self._answer(refund_id, lost=self.lose_answers)

    async def query_refund(self, refund_id: str, **call: Any) -> RefundFact:
        if refund_id not in self.truth:
            return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
        return self._answer(refund_id, lost=False)

    def _answer(self, refund_id: str, *, lost: bool) -> RefundFact:
        status = RefundChannelStatus.UNKNOWN if lost else self.truth[refund_id]
        reason = "refused" if status == "FAILED" else ""
        return RefundFact(
            refund_id=refund_id,
            status=status,
            channel_refund_no=f"SR{refund_id[-6:]}",
            reason=reason,
        )


async def paid(world: PaymentWorld, price: str = "100.00") -> Payment:
    return await world.charge(await world.order(price))


async def refund(
    world: PaymentWorld,
    payment: Payment,
    amount: str = "",
    *,
    caller: Caller = CLERK,
    **changes: Any,
) -> Refund:
    values: dict[str, Any] = {
        "payment_id": payment.payment_id,
        "amount": amount,
        "currency": "",
        "reason": "",
        "request_id": "",
        "key": "",
        **changes,
    }
    return await world.app.refunds.create_refund(CreateRefund(**with_amount(values)), caller)


def a_card(number: str = VISA) -> Card:
    return Card.parse(
        number=number, cvv="123", expiration_year=2030, expiration_month=12, today=date(2026, 1, 1)
    )


async def top_up(
    world: PaymentWorld,
    amount: str = "100.00",
    *,
    key: str = "",
    number: str = VISA,
    currency: str = "",
) -> Payment:
    return await world.app.payments.top_up(
        TopUp(
            merchant_id="mall",
            user_id=buyer().subject,
            amount=RequestedAmount(amount, currency),
            card=a_card(number),
            key=key or world.ids.new("K"),
        ),
        buyer(),
    )


async def spend(world: PaymentWorld, order: Any, *, key: str = "") -> Payment:
    return await world.charge(
        order,
        key=key,
        payment_method=BALANCE,
        number="",
        cvv="",
        expiration_year=0,
        expiration_month=0,
    )
