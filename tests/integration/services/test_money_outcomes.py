"""Every refusal of a method that moves money says what happened to it and whether the same request
may be sent again, whatever refused and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from paymesh.common.v1 import errors_pb2 as common
from paymesh.order.v1 import order_pb2
from paymesh.payment.v1 import payment_pb2 as pb
from paymesh.payment.v1 import payment_pb2_grpc

import payment_rpc.domain.errors
from mesh import errors
from mesh.errors import (
    Conflict,
    DeadlineExceeded,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InvalidArgument,
    MeshError,
    MoneyError,
    Outcome,
    OutcomeUnknown,
    RemoteError,
    Unavailable,
)
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from mesh.wire_errors import DETAILS_KEY
from payment_rpc.tables import ORDER_GATE
from tests.builders.all_services import (
    SERVICES,
    Tokens,
    contract,
    order_rpc_before,
    policy,
    running,
    served_by,
)
from tests.builders.payment import PaymentWorld, payment_world
from tests.support.echo import plain_channel

# What has effects in payment_rpc and moves no money: news of channels, statements, a signature for
# tests.
NO_MONEY = {
    "EraseCustomer",
    "GenerateSignature",
    "HandleCallback",
    "ImportStatement",
    "MockCallback",
    "TestChannelAccount",
}
OWN = [
    error
    for error in vars(payment_rpc.domain.errors).values()
    if isinstance(error, type) and issubclass(error, MoneyError) and error is not MoneyError
]
COMMON = [
    error
    for error in vars(errors).values()
    if isinstance(error, type)
    and issubclass(error, MeshError)
    and not issubclass(error, RemoteError | MoneyError)
]
UNTOUCHED = (Outcome.NOT_ATTEMPTED, True)
CARD = pb.CreditCard(
    credit_card_number="4242424242424242",
    credit_card_cvv="123",
    credit_card_expiration_year=2030,
    credit_card_expiration_month=12,
)
REQUESTS = {
    "Charge": pb.ChargeRequest(amount="100.00", order_id="ORD1", credit_card=CARD),
    "CancelPayment": pb.CancelPaymentRequest(payment_id="PAY1"),
    "GetPayment": pb.GetPaymentRequest(payment_id="PAY1"),
}
Handler = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Wire:
    """A refusal as it came over the wire."""

    code: int
    reason: str
    money: common.MoneyOutcome | None

    @property
    def said(self) -> tuple[Outcome, bool]:
        """What it says of money; an outcome without a name is no answer."""
        assert self.money is not None, self
        return Outcome(
            common.Outcome.Name(self.money.outcome).removeprefix("OUTCOME_")
        ), self.money.safe_to_retry


async def refused(call: Any) -> Wire:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    [raw] = [value for key, value in failed.value.trailing_metadata() or () if key == DETAILS_KEY]
    status, info, money = (
        status_pb2.Status.FromString(raw),
        error_details_pb2.ErrorInfo(),
        common.MoneyOutcome(),
    )
    assert [detail.Unpack(info) for detail in status.details].count(True) == 1
    told = [detail.Unpack(money) for detail in status.details].count(True)
    assert told <= 1
    return Wire(code=status.code, reason=info.reason, money=money if told else None)


class Refusing(payment_pb2_grpc.PaymentServiceServicer):
    """A service whose methods do what the test says, and then refuse."""

    handler: Handler

    async def Charge(self, request: pb.ChargeRequest, context: Any) -> pb.ChargeResponse:
        await self.handler()
        return pb.ChargeResponse()

    async def CancelPayment(
        self, request: pb.CancelPaymentRequest, context: Any
    ) -> pb.CancelPaymentResponse:
        await self.handler()
        return pb.CancelPaymentResponse()

    async def GetPayment(
        self, request: pb.GetPaymentRequest, context: Any
    ) -> pb.GetPaymentResponse:
        await self.handler()
        return pb.GetPaymentResponse()


class Line:
    """A caller of that service."""

    def __init__(self, world: PaymentWorld, service: Refusing, stub: Any, tokens: Tokens) -> None:
        self.world, self.service, self.stub, self.tokens = world, service, stub, tokens

    async def refusal(
        self, handler: Handler | Exception, *, key: str = "", method: str = "Charge"
    ) -> Wire:
        """What the caller hears when a method does this."""

        async def fail() -> None:
            assert isinstance(handler, Exception)
            raise handler

        self.service.handler = fail if isinstance(handler, Exception) else handler
        metadata = [self.tokens.bearer("user"), *([("idempotency-key", key)] if key else [])]
        return await refused(
            getattr(self.stub, method)(REQUESTS[method], metadata=metadata, timeout=30)
        )

    async def commit(self) -> None:
        """A transaction, as every use case has one before it asks a channel."""
        await self.world.execute(
            ORDER_GATE.insert().values(
                merchant_id="mall",
                order_id=self.world.ids.new("ORD"),
                state="OPEN",
                updated_at=self.world.clock.now(),
            )
        )


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with payment_world(
        f"sqlite+aiosqlite:///{tmp_path / 'payment.db'}",
        f"sqlite+aiosqlite:///{tmp_path / 'order.db'}",
        tmp_path,
    ) as world:
        partly: Any = Refusing
        tokens, service = Tokens(world.clock), partly()
        server = MeshServer(
            MeshSettings(service="payment_rpc", environment="test", port=0, var_dir=tmp_path),
            clock=world.clock,
            ids=world.ids,
            user_tokens=tokens.users,
            caller_tokens=tokens.of("payment_rpc"),
        )
        server.add(payment_pb2_grpc.add_PaymentServiceServicer_to_server, service)
        await server.start()
        try:
            async with plain_channel(server.port) as channel:
                yield Line(world, service, payment_pb2_grpc.PaymentServiceStub(channel), tokens)
        finally:
            await server.stop(0)


def money_methods(service: str) -> list[MethodDescriptor]:
    return [
        method
        for method in contract()
        if policy(method).moves_money and served_by(method.containing_service) == service
    ]


def test_every_method_with_effects_says_whether_it_moves_money() -> None:
    with_effects = {
        method.name
        for method in contract()
        if served_by(method.containing_service) == "payment_rpc"
        and method.GetOptions().idempotency_level != method.GetOptions().NO_SIDE_EFFECTS
    }
    assert {method.name for method in money_methods("payment_rpc")} == with_effects - NO_MONEY
    assert with_effects > NO_MONEY
    assert {method.name for method in money_methods("order_rpc")} == {
        "PayOrder",
        "RefundOrder",
        "ApproveRefund",
        "ShipOrder",
    }


async def test_each_refusal_of_payment_rpc_keeps_its_own_words(line: Line) -> None:
    assert len(OWN) > 20
    for error in OWN:
        wire = await line.refusal(error(payment_id="PAY7"))
        assert (wire.reason, *wire.said) == (
            error.reason,
            error.default_outcome,
            error.default_safe_to_retry,
        )
        assert wire.money is not None
        assert wire.money.payment_id == "PAY7"


async def test_each_refusal_of_the_mesh_is_about_money_in_a_method_that_moves_it_and_only_there(
    line: Line,
) -> None:
    assert {InvalidArgument, IdempotencyKeyReused, Unavailable, Conflict, DeadlineExceeded} < set(
        COMMON
    )
    for error in COMMON:
        wire = await line.refusal(error())
        assert wire.reason == error.reason
        assert wire.said == (
            (Outcome.UNKNOWN, False) if error is IdempotencyKeyInUse else UNTOUCHED
        )
        assert (await line.refusal(error(), method="GetPayment")).money is None
    assert (await line.refusal(IdempotencyKeyInUse(), key="k1")).said == (Outcome.UNKNOWN, True)
    unexpected = await line.refusal(ZeroDivisionError("on purpose"))
    assert (unexpected.reason, unexpected.said) == ("INTERNAL", UNTOUCHED)


async def test_what_fails_after_a_commit_may_have_moved_money(line: Line) -> None:
    for error in (
        Unavailable(),
        Conflict(),
        DeadlineExceeded(),
        InvalidArgument.of("x", "odd"),
        ZeroDivisionError("on purpose"),
    ):

        async def handler(error: Exception = error) -> None:
            await line.commit()
            raise error

        assert (await line.refusal(handler)).said == (Outcome.UNKNOWN, False)
        assert (await line.refusal(handler, key="k1")).said == (Outcome.UNKNOWN, True)
        # repeating it is harmless
        assert (await line.refusal(handler, method="CancelPayment")).said == (Outcome.UNKNOWN, True)
        assert (await line.refusal(handler, method="GetPayment")).money is None


async def test_what_was_rolled_back_moved_nothing(line: Line) -> None:
    async def work(_: Any) -> None:
        raise Unavailable

    async def handler() -> None:
        await line.world.db.run(work)

    assert (await line.refusal(handler)).said == UNTOUCHED


async def test_a_commit_without_an_answer_may_have_moved_money(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_answer(*_: Any) -> None:
        raise OutcomeUnknown

    monkeypatch.setattr(line.world.db, "_attempt_repeatedly", no_answer)
    assert (await line.refusal(line.commit)).said == (Outcome.UNKNOWN, False)


async def test_an_interrupted_call_may_have_moved_money_once_it_has_begun_a_transaction(
    line: Line,
) -> None:
    async def interrupted() -> None:
        raise asyncio.CancelledError

    async def interrupted_in_a_transaction() -> None:
        entered = asyncio.Event()

        async def work(_: Any) -> None:
            entered.set()

        transaction = asyncio.create_task(line.world.db.run(work))
        await entered.wait()
        transaction.cancel()
        await transaction

    assert (await line.refusal(interrupted)).said == UNTOUCHED
    assert (await line.refusal(interrupted_in_a_transaction)).said == (Outcome.UNKNOWN, False)


async def test_whatever_is_refused_before_a_method_begins_moved_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as servers:
        tokens = servers.tokens
        everybody = [tokens.bearer("user", "merchant", "admin")]
        methods = [method for service in SERVICES for method in money_methods(service)]
        assert len(methods) == 17
        for method in methods:
            admitted = (
                [tokens.caller("order_rpc", "payment_rpc")]
                if method.name == "ClosePayment"
                else everybody
            )
            empty = message_factory.GetMessageClass(method.input_type)().SerializeToString()
            channel = servers.channels[served_by(method.containing_service)]
            call: Any = channel.unary_unary(
                f"/{method.containing_service.full_name}/{method.name}", request_serializer=bytes
            )
            for code, metadata, body in (
                (16, [], empty),
                (16, [tokens.bearer("user", secret=b"x" * 32)], empty),
                (7, [tokens.bearer()], empty),
                (3, admitted, b"\xff"),
                (3, [*admitted, ("idempotency-key", "a b")], empty),
            ):
                wire = await refused(call(body, metadata=metadata, timeout=10))
                assert (wire.code, *wire.said) == (code, *UNTOUCHED), (method.name, wire)
        assert await servers.world.rows(ORDER_GATE) == []


async def test_an_order_that_cannot_be_read_left_no_money_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as servers:
        order = await servers.world.order()
        servers.world.orders.away = True
        stub = payment_pb2_grpc.PaymentServiceStub(servers.channels["payment_rpc"])
        wire = await refused(
            stub.Charge(
                pb.ChargeRequest(amount="100.00", order_id=order.order_id, credit_card=CARD),
                metadata=[servers.tokens.bearer("user")],
                timeout=10,
            )
        )
        assert (wire.reason, *wire.said) == ("NEIGHBOUR_UNAVAILABLE", *UNTOUCHED)


async def test_an_order_that_is_not_paid_or_refunded_says_what_happened_to_the_money(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as servers, order_rpc_before(servers) as stub:
        order, metadata = await servers.world.order(), [servers.tokens.bearer("user")]

        async def pay(order_id: str, **changes: str) -> Wire:
            return await refused(
                stub.PayOrder(
                    order_pb2.PayOrderRequest(order_id=order_id, **changes),
                    metadata=metadata,
                    timeout=10,
                )
            )

        wire = await pay("ORDnone")
        assert (wire.reason, *wire.said) == ("ORDER_NOT_FOUND", *UNTOUCHED)
        wire = await refused(
            stub.RefundOrder(
                order_pb2.RefundOrderRequest(order_id=order.order_id, reason="x"),
                metadata=metadata,
                timeout=10,
            )
        )
        assert (wire.reason, *wire.said) == ("REFUND_NOT_ALLOWED", *UNTOUCHED)
        # payment_rpc's own words
        wire = await pay(order.order_id, return_url="https://elsewhere.test/")
        assert (wire.reason, *wire.said) == ("RETURN_URL_NOT_ALLOWED", *UNTOUCHED)
        deaths = []

        async def dies() -> None:
            deaths.append(asyncio.create_task(servers.running["payment_rpc"].stop(0)))
            await asyncio.Event().wait()

        servers.world.channel.before_charge = dies
        wire = await pay(order.order_id)
        # asked again it is the same payment
        assert (wire.reason, *wire.said) == ("NEIGHBOUR_UNAVAILABLE", Outcome.UNKNOWN, True)
        await asyncio.gather(*deaths)
        wire = await pay(order.order_id)
        # nobody was there to be asked
        assert (wire.reason, *wire.said) == ("NEIGHBOUR_UNAVAILABLE", *UNTOUCHED)
