"""Merchants' own orders over gRPC: what a merchant may say and a buyer may not, and who sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.order.v1 import order_pb2, order_pb2_grpc

from mesh.errors import RemoteError
from order_rpc.servicer.messages import order_message
from order_rpc.tables import ORDERS
from tests.builders.external_order import create
from tests.builders.order import RunningOrderRpc, buyer, running_order_rpc

BIKE = {"sku_id": "A-BIKE", "product_name": "A bike", "unit_price": "100.00", "quantity": 1}


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[RunningOrderRpc]:
    async with running_order_rpc(database_url) as server:
        yield server


async def ask(
    server: RunningOrderRpc,
    method: str,
    *,
    role: str = "merchant",
    subject: str = "clerk",
    tenant: str = "mall",
    **fields: Any,
) -> Any:
    """One call as a person, or as payment_rpc."""
    tokens = server.payment_rpc if role == "payment_rpc" else None
    metadata = [] if tokens is not None else [server.bearer(subject, role, merchant_id=tenant)]
    async with server.channel(tokens) as channel:
        stub: Any = order_pb2_grpc.OrderServiceStub(channel)
        request = getattr(order_pb2, f"{method}Request")(**fields)
        return await getattr(stub, method)(request, metadata=metadata)


def external(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    lines = [order_pb2.NewOrderItem(**item) for item in items or (BIKE,)]
    return {"items": lines, "currency": "USD", "order_no": "A-1", **fields}


async def test_a_merchant_makes_and_sees_an_order_of_its_own(server: RunningOrderRpc) -> None:
    made = (
        await ask(
            server,
            "CreateOrder",
            **external(
                {**BIKE, "attributes": {"colour": "red"}},
                {"sku_id": "B", "unit_price_minor": 50, "quantity": 2},
                shipping_fee_minor=500,
                discount="1.00",
                amount_minor=10_500,
                customer_email="li@example.com",
                customer_name="Li",
                description="A bike",
                metadata={"cart": "7"},
                notify_url="https://shop.example/notify",
            ),
        )
    ).order
    assert (made.kind, made.order_no, made.amount, made.amount_minor, made.currency) == (
        order_pb2.ORDER_KIND_EXTERNAL,
        "A-1",
        "105.00",
        10_500,
        "USD",
    )
    assert (made.customer_email, made.customer_name, dict(made.metadata), made.notify_url) == (
        "li@example.com",
        "Li",
        {"cart": "7"},
        "https://shop.example/notify",
    )
    assert [(item.name, dict(item.attributes)) for item in made.items] == [
        ("A bike", {"colour": "red"}),
        ("B", {}),
    ]
    assert (await ask(server, "GetOrder", order_id="A-1")).order == made


async def test_the_buyer_of_an_external_order_does_not_see_what_its_merchant_notes(
    server: RunningOrderRpc,
) -> None:
    order = await create(server.app)
    seen = order_message(order, buyer(order.user_id))
    assert (seen.description, seen.amount, seen.order_no) == ("A bike", "100.00", "A-1")
    assert (seen.customer_email, seen.customer_name, dict(seen.metadata), seen.notify_url) == (
        "",
        "",
        {},
        "",
    )


MERCHANTS_ONLY: list[tuple[str, dict[str, Any]]] = [
    ("order_no", {"order_no": "A-1"}),
    ("currency", {"currency": "CNY"}),
    ("shipping_fee", {"shipping_fee": "1"}),
    ("shipping_fee_minor", {"shipping_fee_minor": 0}),
    ("discount", {"discount": "1"}),
    ("discount_minor", {"discount_minor": 1}),
    ("amount", {"amount": "1"}),
    ("amount_minor", {"amount_minor": 1}),
    ("customer_email", {"customer_email": "li@example.com"}),
    ("customer_name", {"customer_name": "Li"}),
    ("description", {"description": "cheap"}),
    ("metadata", {"metadata": {"a": "b"}}),
    ("notify_url", {"notify_url": "https://evil.example/"}),
    ("expires_at", {"expires_at": Timestamp(seconds=1)}),
    ("reserve_stock", {"reserve_stock": True}),
    ("items[0].unit_price_minor", {"item": {"unit_price_minor": 0}}),
    ("items[0].product_name", {"item": {"product_name": "Gift"}}),
    ("items[0].attributes", {"item": {"attributes": {"size": "L"}}}),
]


@pytest.mark.parametrize(
    ("field", "sent"), MERCHANTS_ONLY, ids=[name for name, _ in MERCHANTS_ONLY]
)
async def test_a_buyer_says_neither_prices_nor_customers(
    server: RunningOrderRpc, field: str, sent: dict[str, Any]
) -> None:
    await server.app.product()
    fields = dict(sent)
    line = order_pb2.NewOrderItem(sku_id="mug", quantity=1, **fields.pop("item", {}))
    with pytest.raises(RemoteError) as refused:
        await ask(server, "CreateOrder", role="user", subject="u1", items=[line], **fields)
    assert (refused.value.reason, list(refused.value.fields)) == ("PERMISSION_DENIED", [field])
    assert await server.app.rows(ORDERS) == []


def test_every_field_of_the_contract_is_a_buyers_or_a_merchants() -> None:
    of_buyers = {"items", "user_id", "merchant_id", "client_request_id", "shipping_address"}
    of_lines = {"sku_id", "quantity", "unit_price"}
    names = {name for name, _ in MERCHANTS_ONLY}
    assert names == (
        {field.name for field in order_pb2.CreateOrderRequest.DESCRIPTOR.fields} - of_buyers
    ) | {
        f"items[0].{field.name}"
        for field in order_pb2.NewOrderItem.DESCRIPTOR.fields
        if field.name not in of_lines
    }


MONEY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("items[0].unit_price", {"unit_price": "", "unit_price_minor": None}, {}),
    ("items[0].unit_price", {"unit_price_minor": 10_000}, {}),
    ("items[0].unit_price", {"unit_price": "100.001"}, {}),
    ("items[0].unit_price", {"unit_price": "100.5"}, {"currency": "JPY"}),
    ("items[0].unit_price", {"unit_price": "99999999999999.99"}, {}),
    ("amount", {}, {"amount": "100.00", "amount_minor": 10_000}),
    ("amount", {}, {"amount": "99.99"}),
    ("amount", {}, {"amount_minor": 9_999}),
    ("amount", {}, {"amount_minor": 100}),
    ("shipping_fee", {}, {"shipping_fee": "1", "shipping_fee_minor": 100}),
    ("discount", {}, {"discount": "1", "discount_minor": 100}),
    ("discount", {}, {"discount": "100.01"}),
    ("currency", {}, {"currency": ""}),
    ("currency", {}, {"currency": "XXX"}),
    ("user_id", {}, {"user_id": "u1"}),
    ("client_request_id", {}, {"client_request_id": "c1"}),
    ("customer_email", {}, {"customer_email": "nobody"}),
]


@pytest.mark.parametrize(("field", "item", "fields"), MONEY)
async def test_an_amount_has_exactly_one_spelling_and_fits_its_currency(
    server: RunningOrderRpc, field: str, item: dict[str, Any], fields: dict[str, Any]
) -> None:
    line = {name: value for name, value in {**BIKE, **item}.items() if value is not None}
    with pytest.raises(RemoteError) as refused:
        await ask(server, "CreateOrder", **external(line, **fields))
    assert refused.value.reason == "INVALID_ARGUMENT"
    assert next(iter(refused.value.fields)) == field
    assert await server.app.rows(ORDERS) == []


@pytest.mark.parametrize(
    ("currency", "major", "minor"), [("JPY", "100", 100), ("CNY", "1", 100), ("KWD", "0.1", 100)]
)
async def test_major_and_minor_units_are_those_of_the_currency(
    server: RunningOrderRpc, currency: str, major: str, minor: int
) -> None:
    for order_no, price in (("A-1", {"unit_price": major}), ("A-2", {"unit_price_minor": minor})):
        line = {"sku_id": "B", "quantity": 1, **price}
        order = (
            await ask(server, "CreateOrder", **external(line, currency=currency, order_no=order_no))
        ).order
        assert order.amount_minor == minor


async def test_two_hundred_lines_are_taken_and_one_more_is_not(server: RunningOrderRpc) -> None:
    lines = [{**BIKE, "sku_id": f"B-{number}"} for number in range(201)]
    assert len((await ask(server, "CreateOrder", **external(*lines[:200]))).order.items) == 200
    with pytest.raises(RemoteError) as refused:
        await ask(server, "CreateOrder", **external(*lines, order_no="A-2"))
    assert list(refused.value.fields) == ["items"]


async def test_a_buyer_orders_at_most_a_hundred_lines(server: RunningOrderRpc) -> None:
    await server.app.product()
    lines = [order_pb2.NewOrderItem(sku_id="mug", quantity=1)] * 101
    with pytest.raises(RemoteError) as refused:
        await ask(server, "CreateOrder", role="user", subject="u1", items=lines)
    assert refused.value.fields == {"items": "must have at most 100 items"}


async def test_only_payment_rpc_registers(server: RunningOrderRpc) -> None:
    wanted: dict[str, Any] = {
        "merchant_id": "mall",
        "order_no": "A-1",
        "amount_minor": 10_000,
        "currency": "USD",
        "operator": "merchant:key:AK1",
    }
    for role in ("user", "merchant", "admin"):
        with pytest.raises(RemoteError) as refused:
            await ask(server, "RegisterExternalOrder", role=role, **wanted)
        assert refused.value.reason == "PERMISSION_DENIED"
    first = await ask(server, "RegisterExternalOrder", role="payment_rpc", **wanted)
    again = await ask(server, "RegisterExternalOrder", role="payment_rpc", **wanted)
    assert (first.existed, again.existed, again.order) == (False, True, first.order)
    with pytest.raises(RemoteError) as refused:
        await ask(
            server, "RegisterExternalOrder", role="payment_rpc", **{**wanted, "amount_minor": 1}
        )
    assert (refused.value.reason, list(refused.value.fields)) == (
        "ORDER_EXISTS_DIFFERENT",
        ["amount"],
    )


async def test_a_merchant_finds_and_erases_what_it_said_of_a_customer(
    server: RunningOrderRpc,
) -> None:
    await ask(server, "CreateOrder", **external(customer_email="li@example.com"))
    found = await ask(server, "ListOrders", customer_email="LI@example.com")
    assert [order.order_no for order in found.orders] == ["A-1"]
    erased = await ask(server, "ErasePersonalData", order_id="A-1", reason="asked by letter")
    assert erased.order.customer_email == ""
    assert not (await ask(server, "ListOrders", customer_email="li@example.com")).orders
    with pytest.raises(RemoteError) as refused:
        await ask(
            server,
            "ErasePersonalData",
            tenant="tea_house",
            order_id="A-1",
            reason="why not",
        )
    assert refused.value.reason == "ORDER_NOT_FOUND"
