"""CreatePayment and ListPayments of merchants through the port of payment_rpc: what a merchant must
say exactly once, and what nobody else may say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from mesh.errors import Outcome
from mesh.wire_errors import RemoteMoneyError, from_rpc_error
from order_rpc.tables import ORDERS
from payment_rpc.tables import PAYMENT
from tests.builders.all_services import Servers, running


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with running(tmp_path) as servers:
        yield servers


async def ask(servers: Servers, method: str, *, role: str = "merchant", **fields: Any) -> Any:
    stub = payment_pb2_grpc.PaymentServiceStub(servers.channels["payment_rpc"])
    request = getattr(payment_pb2, f"{method}Request")(**fields)
    return await getattr(stub, method)(request, metadata=[servers.tokens.bearer(role)], timeout=10)


async def refusal(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


def wanted(**changes: Any) -> dict[str, Any]:
    fields = {"order_id": "A-1", "amount_minor": 10_000, "currency": "USD", **changes}
    return {name: value for name, value in fields.items() if value is not None}


async def test_a_merchant_names_its_number_and_gets_it_back(servers: Servers) -> None:
    made = (await ask(servers, "CreatePayment", **wanted(customer_email="LI@Example.com"))).payment
    assert (made.order_no, made.amount, made.amount_minor, made.currency) == (
        "A-1",
        "100.00",
        10_000,
        "USD",
    )
    assert made.checkout_url == made.next_action.value
    assert made.checkout_url.startswith("http://127.0.0.1:")
    assert made.checkout_token == ""  # no key of our own in this process
    found = (await ask(servers, "ListPayments", customer_email="li@example.com")).payments
    assert [payment.payment_id for payment in found] == [made.payment_id]
    assert found[0].customer_email == ""
    by_number = (await ask(servers, "GetPaymentByOrderId", order_id="A-1")).payment
    assert by_number.payment_id == made.payment_id


@pytest.mark.parametrize(
    ("currency", "major", "minor"), [("JPY", "100", 100), ("CNY", "1", 100), ("KWD", "0.1", 100)]
)
async def test_major_and_minor_units_name_one_amount(
    servers: Servers, currency: str, major: str, minor: int
) -> None:
    first = await ask(
        servers, "CreatePayment", **wanted(amount_minor=None, amount=major, currency=currency)
    )
    again = await ask(servers, "CreatePayment", **wanted(amount_minor=minor, currency=currency))
    assert again.payment.payment_id == first.payment.payment_id
    assert again.payment.amount_minor == minor


BAD: list[tuple[str, dict[str, Any]]] = [
    ("amount", {"amount": "100.00"}),
    ("amount", {"amount_minor": None}),
    ("amount", {"amount": "100.5", "amount_minor": None, "currency": "JPY"}),
    ("amount", {"amount": "100.001", "amount_minor": None}),
    ("currency", {"currency": None}),
    ("currency", {"currency": "XXX"}),
    ("user_id", {"user_id": "u1"}),
    ("order", {"order": payment_pb2.OrderData(user_id="u1", amount="1", currency="USD")}),
    ("customer_email", {"customer_email": "nobody"}),
    ("description", {"order_id": f"ORD{1:026d}", "description": "A bike"}),
]


@pytest.mark.parametrize(("field", "changes"), BAD)
async def test_what_a_merchant_must_not_say_is_refused_before_an_order_is_made(
    servers: Servers, field: str, changes: dict[str, Any]
) -> None:
    if field == "order":
        changes["order"].expires_at.FromDatetime(servers.world.clock.now())
    error = await refusal(ask(servers, "CreatePayment", **wanted(**changes)))
    assert (error.reason, next(iter(error.fields))) == ("INVALID_ARGUMENT", field)
    assert isinstance(error, RemoteMoneyError)
    assert error.outcome is Outcome.NOT_ATTEMPTED
    assert await servers.world.order_side.rows(ORDERS) == []


@pytest.mark.parametrize("days", [-0.1, 0, 7.1])
async def test_a_deadline_is_in_the_future_and_at_most_a_week_away(
    servers: Servers, days: float
) -> None:
    at = Timestamp()
    at.FromDatetime(servers.world.clock.now() + timedelta(days=days))
    error = await refusal(ask(servers, "CreatePayment", **wanted(expires_at=at)))
    assert (error.reason, list(error.fields)) == ("INVALID_ARGUMENT", ["expires_at"])
    assert await servers.world.rows(PAYMENT) == []


async def test_another_amount_is_refused_with_its_name_and_moves_no_money(
    servers: Servers,
) -> None:
    await ask(servers, "CreatePayment", **wanted())
    error = await refusal(ask(servers, "CreatePayment", **wanted(amount_minor=10_001)))
    assert (error.reason, list(error.fields)) == ("ORDER_EXISTS_DIFFERENT", ["amount"])
    assert isinstance(error, RemoteMoneyError)
    assert error.outcome is Outcome.NOT_ATTEMPTED


OF_MERCHANTS: list[tuple[str, dict[str, Any]]] = [
    ("amount_minor", {"amount_minor": 1}),
    ("customer_email", {"customer_email": "li@example.com"}),
    ("customer_name", {"customer_name": "Li"}),
    ("description", {"description": "cheap"}),
    ("metadata", {"metadata": {"a": "b"}}),
    ("notify_url", {"notify_url": "https://evil.example/"}),
    ("expires_at", {"expires_at": Timestamp(seconds=1)}),
]


@pytest.mark.parametrize(("field", "sent"), OF_MERCHANTS, ids=[name for name, _ in OF_MERCHANTS])
async def test_a_buyer_says_nothing_of_a_merchants(
    servers: Servers, field: str, sent: dict[str, Any]
) -> None:
    order = await servers.world.order()
    error = await refusal(
        ask(servers, "CreatePayment", role="user", order_id=order.order_id, **sent)
    )
    assert (error.reason, list(error.fields)) == ("PERMISSION_DENIED", [field])
    assert await servers.world.rows(PAYMENT) == []


def test_every_field_of_the_contract_is_a_buyers_or_a_merchants() -> None:
    of_both = {"order_id", "amount", "currency", "channel", "return_url", "merchant_id", "capture"}
    assert {name for name, _ in OF_MERCHANTS} == {
        field.name for field in payment_pb2.CreatePaymentRequest.DESCRIPTOR.fields
    } - of_both - {"user_id", "order"}


async def test_a_number_of_a_merchant_means_nothing_to_a_buyer(servers: Servers) -> None:
    await ask(servers, "CreatePayment", **wanted())
    error = await refusal(ask(servers, "CreatePayment", role="user", order_id="A-1"))
    assert error.reason == "ORDER_NOT_FOUND"
    error = await refusal(ask(servers, "GetPaymentByOrderId", role="user", order_id="A-1"))
    assert error.reason == "PAYMENT_NOT_FOUND"
    error = await refusal(ask(servers, "ListPayments", role="user"))
    assert (error.reason, list(error.fields)) == ("INVALID_ARGUMENT", ["order_id"])
