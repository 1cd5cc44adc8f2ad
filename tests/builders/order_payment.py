"""order_rpc and payment_rpc joined in one process, both ways, with the real sandbox behind: what
tests of races between orders and money stand on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paymesh.payment.v1 import payment_pb2

from mesh.call import Caller, Role
from mesh.errors import MeshError, RemoteError, UpstreamUnavailable
from mesh.money import RequestedAmount
from order_rpc.domain.hold import HeldMoney
from order_rpc.domain.order import Order, OrderState
from order_rpc.domain.payment import CloseAnswer, CloseResult, PaymentSnapshot
from order_rpc.domain.policy import MerchantPolicy
from order_rpc.tables import RESERVATION
from payment_rpc.domain.order import OrderToPay
from payment_rpc.domain.payment import MONEY, Payment, PaymentState
from payment_rpc.servicer.messages import payment_message
from payment_rpc.tables import PAYMENT, REFUND
from payment_rpc.usecases.captures import CapturePayment
from payment_rpc.usecases.payment_requests import CreatePayment
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.payment import PaymentWorld, payment_world

ORDER_RPC = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")
_NOT_FOUND, _PRECONDITION = 5, 9


class PaymentsInProcess:
    """payment_rpc without the wire, for order_rpc. `away` makes it unreachable, `lose_answers` lets
    calls arrive and forgets what came back.
    """

    def __init__(self, world: PaymentWorld) -> None:
        self._world = world
        self.away = False
        self.lose_answers = False
        self.creates = 0

    async def close_payment(
        self, *, merchant_id: str, order_id: str, op_id: str, by_buyer: bool, lets_go: bool
    ) -> CloseAnswer:
        del op_id
        self._reach()
        closed = await self._world.app.cancellation.close_payment(
            merchant_id=merchant_id, order_id=order_id, by_buyer=by_buyer, lets_go=lets_go
        )
        self._answer()
        payment = None if closed.payment is None else snapshot_of(closed.payment)
        return CloseAnswer(
            result=CloseResult(closed.result.value), payment=payment, retry_after_seconds=1
        )

    async def capture_payment(self, *, payment_id: str, key: str) -> PaymentSnapshot:
        self._reach()
        try:
            payment = await self._world.app.captures.capture_payment(
                CapturePayment(payment_id=payment_id, amount=RequestedAmount(""), key=key),
                ORDER_RPC,
            )
        except MeshError as error:
            raise over_the_wire(error) from error
        self._answer()
        return snapshot_of(payment)

    async def erase_customer(self, *, merchant_id: str, order_id: str) -> None:
        self._reach()
        await self._world.app.customers.erase(merchant_id=merchant_id, order_id=order_id)
        self._answer()

    async def create_refund(
        self, *, payment_id: str, amount: str, currency: str, reason: str, request_id: str
    ) -> str:
        self._reach()
        try:
            refund = await self._world.app.refunds.create_refund(
                CreateRefund(
                    payment_id=payment_id,
                    amount=RequestedAmount(amount, currency),
                    reason=reason,
                    request_id=request_id,
                    key="",
                ),
                ORDER_RPC,
            )
        except MeshError as error:
            raise over_the_wire(error) from error
        self._answer()
        return refund.refund_id

    async def create_payment(
        self, order: Order, *, channel: str, return_url: str
    ) -> payment_pb2.Payment:
        self._reach()
        self.creates += 1
        data = OrderToPay(
            order_id=order.order_id,
            merchant_id=order.merchant_id,
            user_id=order.user_id,
            amount=order.amount,
            state="PENDING_PAYMENT",
            expires_at=order.expires_at,
        )
        try:
            payment = await self._world.app.payments.create_payment(
                CreatePayment(
                    merchant_id=order.merchant_id,
                    order_id=order.order_id,
                    user_id=order.user_id,
                    amount=RequestedAmount(""),
                    channel=channel,
                    return_url=return_url,
                    key="",
                    order=data,
                ),
                ORDER_RPC,
            )
        except MeshError as error:
            raise over_the_wire(error) from error
        self._answer()
        return payment_message(payment)

    def _reach(self) -> None:
        if self.away:
            raise UpstreamUnavailable("payment_rpc is away")

    def _answer(self) -> None:
        if self.lose_answers:
            raise UpstreamUnavailable("the answer was lost")


def over_the_wire(error: MeshError) -> RemoteError:
    """A refusal as its caller gets it."""
    code = _NOT_FOUND if error.reason.endswith("NOT_FOUND") else _PRECONDITION
    return RemoteError(
        error.message, remote_reason=error.reason, domain="paymesh.payment.v1", grpc_code=code
    )


def snapshot_of(payment: Payment) -> PaymentSnapshot:
    """What the answer to a close says of a payment."""
    return PaymentSnapshot(
        payment_id=payment.payment_id,
        version=payment.version,
        state=payment.state.value,
        captured=payment.captured,
        refunded=payment.refunded,
        refund_reserved=payment.refund_reserved,
        captured_in_part=payment.is_captured_in_part,
        held=HeldMoney(amount=payment.amount, until=payment.expires_at)
        if payment.state is PaymentState.AUTHORIZED
        else None,
    )


@dataclass
class JoinedWorld:
    """Both services and everything that works in their background."""

    money: PaymentWorld
    payment_rpc: PaymentsInProcess

    @property
    def orders(self) -> Any:
        """The order side."""
        return self.money.order_side

    async def settle(self, *, rounds: int = 6) -> None:
        """Time passes, and all workers of both services do what there is to do."""
        for _ in range(rounds):
            await self.money.callbacks()
            await self.orders.expire()
            await self.orders.relay()
            await self.money.finish(rounds=1)
            await self.money.app.refunds.run_once()
            self.money.clock.advance(30)

    async def problems(self, order: Order) -> list[str]:
        """What does not fit between an order, its stock and its money, once everything is quiet."""
        order = await self.orders.load(order)
        payments = [
            row for row in await self.money.rows(PAYMENT) if row["order_id"] == order.order_id
        ]
        units = {
            row["state"]
            for row in await self.orders.rows(RESERVATION)
            if row["order_id"] == order.order_id
        }
        live = [row["payment_id"] for row in payments if row["state"] == PaymentState.SUCCESS]
        kept = {
            row["payment_id"]: row["captured_minor"] - row["refunded_minor"] for row in payments
        }
        problems = []
        match order.state:
            case OrderState.PAID:
                if live != [order.paid_payment_id]:
                    problems.append(
                        f"{order.order_id} is PAID by {order.paid_payment_id}, its successful "
                        f"payments are {live}"
                    )
                if "COMMITTED" not in units or "RESERVED" in units:
                    problems.append(f"{order.order_id} is PAID, its units are {units}")
                problems += [
                    f"{payment_id} keeps {left}"
                    for payment_id, left in kept.items()
                    if left and payment_id != order.paid_payment_id
                ]
            case OrderState.CANCELLED:
                if units != {"RELEASED"}:
                    problems.append(f"{order.order_id} is CANCELLED, its units are {units}")
                problems += [
                    f"{order.order_id} is CANCELLED, {payment_id} keeps {left}"
                    for payment_id, left in kept.items()
                    if left
                ]
                problems += [
                    f"{row['payment_id']} is {row['state']}"
                    for row in payments
                    if row["state"] in MONEY
                ]
            case _:
                problems.append(
                    f"{order.order_id} is {order.state}, {[row['state'] for row in payments]}"
                )
        ended = ("SUCCESS", "FAILED", "REVERSED", "CANCELED")
        open_refunds = [
            row["refund_id"] for row in await self.money.rows(REFUND) if row["state"] not in ended
        ]
        return problems + [f"refund {refund_id} is open" for refund_id in open_refunds]


@asynccontextmanager
async def joined_world(
    payment_url: str,
    order_url: str,
    folder: Path,
    *,
    policies: dict[str, MerchantPolicy] | None = None,
    redis: Any = None,
) -> AsyncIterator[JoinedWorld]:
    """Builds both on fresh databases. `redis`: of the payment cache and of payment_rpc's events."""
    async with payment_world(payment_url, order_url, folder, redis=redis) as money:
        neighbour = PaymentsInProcess(money)
        scripted = money.order_side.payment_rpc
        for name in ("close_payment", "create_refund", "create_payment", "capture_payment"):
            setattr(scripted, name, getattr(neighbour, name))
        money.order_side.policies.update(policies or {})
        yield JoinedWorld(money=money, payment_rpc=neighbour)
