"""order_rpc through its port: the whole chain from a token to a row and back, and what bad input
gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.order.v1 import (
    allocation_pb2,
    allocation_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
    statistics_pb2,
    statistics_pb2_grpc,
)

from mesh.errors import RemoteError
from mesh.times import timestamp
from order_rpc.domain.order import OrderState
from order_rpc.tables import ORDERS, PRODUCT
from tests.builders.order import RunningOrderRpc, running_order_rpc


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[RunningOrderRpc]:
    async with running_order_rpc(database_url) as server:
        yield server


class Client:
    """The generated stubs on one channel, as one person or as payment_rpc."""

    def __init__(self, channel: Any, *metadata: tuple[str, str]) -> None:
        self._stubs: list[tuple[Any, Any]] = [
            (order_pb2_grpc.OrderServiceStub(channel), order_pb2),
            (catalog_pb2_grpc.CatalogServiceStub(channel), catalog_pb2),
            (allocation_pb2_grpc.AllocationServiceStub(channel), allocation_pb2),
            (statistics_pb2_grpc.StatisticsServiceStub(channel), statistics_pb2),
        ]
        self._metadata = metadata

    def __getattr__(self, method: str) -> Any:
        stub, messages = next(each for each in self._stubs if hasattr(each[0], method))

        async def call(*, key: str = "", **fields: Any) -> Any:
            metadata = [*self._metadata, *([("idempotency-key", key)] if key else [])]
            return await getattr(stub, method)(
                getattr(messages, f"{method}Request")(**fields), metadata=metadata
            )

        return call


@pytest.fixture
async def people(server: RunningOrderRpc) -> AsyncIterator[dict[str, Client]]:
    as_payment_rpc, as_seckill_rpc = (
        server.channel(server.payment_rpc),
        server.channel(server.seckill_rpc),
    )
    async with (
        server.channel() as channel,
        as_payment_rpc as of_payment_rpc,
        as_seckill_rpc as of_seckill_rpc,
    ):
        yield {
            "nobody": Client(channel),
            "buyer": Client(channel, server.bearer("u1")),
            "other buyer": Client(channel, server.bearer("u2")),
            "same name elsewhere": Client(channel, server.bearer("u1", merchant_id="tea_house")),
            "merchant": Client(channel, server.bearer("clerk", "merchant")),
            "other merchant": Client(
                channel, server.bearer("clerk", "merchant", merchant_id="tea_house")
            ),
            "admin": Client(channel, server.bearer("root", "admin")),
            "payment_rpc": Client(of_payment_rpc),
            "seckill_rpc": Client(of_seckill_rpc),
        }


def item(sku_id: str = "mug", quantity: int = 1, unit_price: str = "") -> order_pb2.NewOrderItem:
    return order_pb2.NewOrderItem(sku_id=sku_id, quantity=quantity, unit_price=unit_price)


def snapshot(**changes: Any) -> order_pb2.PaymentSnapshot:
    return order_pb2.PaymentSnapshot(
        **{
            "payment_id": "PAY1",
            "version": 3,
            "state": "SUCCESS",
            "captured": "19.80",
            "refunded": "0",
            "refund_reserved": "0",
            "currency": "CNY",
            **changes,
        }
    )


async def refusal(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


async def test_a_purchase_from_the_shelf_to_paid(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    made = (
        await people["merchant"].CreateProduct(sku_id="mug", name="茶杯", price="9.9", available=5)
    ).product
    assert (made.merchant_id, made.price, made.currency, made.stock.available) == (
        "mall",
        "9.90",
        "CNY",
        5,
    )

    order = (await people["buyer"].CreateOrder(items=[item("mug", 2, "9.90")])).order
    assert (order.merchant_id, order.user_id, order.state, order.amount, order.currency) == (
        "mall",
        "u1",
        order_pb2.ORDER_STATE_PENDING_PAYMENT,
        "19.80",
        "CNY",
    )
    assert [
        (line.sku_id, line.name, line.unit_price, line.quantity, line.amount)
        for line in order.items
    ] == [("mug", "茶杯", "9.90", 2, "19.80")]
    assert order.expires_at.seconds - order.created_at.seconds == 30 * 60
    assert not order.HasField("paid_at")
    assert (
        await people["payment_rpc"].GetOrder(order_id=order.order_id, merchant_id="mall")
    ).order == order

    answer = await people["payment_rpc"].UpdateOrderStatus(
        merchant_id="mall",
        order_id=order.order_id,
        event_id="EVT-1",
        payment=snapshot(),
        status=order_pb2.ORDER_STATE_PAID,
    )
    assert (answer.disposition, answer.state) == (
        order_pb2.DISPOSITION_APPLIED,
        order_pb2.ORDER_STATE_PAID,
    )
    paid = (await people["buyer"].GetOrder(order_id=order.order_id)).order
    assert (paid.state, paid.paid_payment_id, paid.version, paid.HasField("paid_at")) == (
        order_pb2.ORDER_STATE_PAID,
        "PAY1",
        2,
        True,
    )
    stock = (await people["merchant"].GetProduct(sku_id="mug")).product.stock
    assert (stock.available, stock.reserved, stock.sold) == (3, 0, 2)


async def test_products_are_listed_for_anybody_and_stocked_by_their_shop(
    people: dict[str, Client],
) -> None:
    for sku_id in ("a", "b", "c"):
        await people["merchant"].CreateProduct(sku_id=sku_id, name=sku_id, price="1")
    first = await people["nobody"].ListProducts(page_size=2)
    assert [product.sku_id for product in first.products] == ["a", "b"]
    second = await people["nobody"].ListProducts(page_size=2, page_token=first.next_page_token)
    assert ([product.sku_id for product in second.products], second.next_page_token) == (["c"], "")
    assert (await people["admin"].SetStock(sku_id="a", available=7)).product.stock.available == 7
    assert len((await people["nobody"].ListProducts(merchant_id="tea_house")).products) == 0


async def test_figures_and_what_is_not_on_sale_are_for_the_shop_alone(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await people["merchant"].CreateProduct(sku_id="mug", name="A mug", price="1", available=10)
    await people["merchant"].CreateProduct(
        sku_id="secret", name="A secret", price="1", available=10, on_sale=False
    )
    await people["buyer"].CreateOrder(items=[order_pb2.NewOrderItem(sku_id="mug", quantity=3)])
    for who, sees in (("nobody", False), ("buyer", False), ("merchant", True), ("admin", True)):
        listed = {
            product.sku_id: product.stock for product in (await people[who].ListProducts()).products
        }
        one = (await people[who].GetProduct(sku_id="mug")).product.stock
        two = (await people[who].GetStock(sku_id="mug")).stock
        assert [(each.available, each.reserved) for each in (one, two, listed["mug"])] == [
            (7, 3 if sees else 0)
        ] * 3, who
        assert ("secret" in listed) is sees
        for method in ("GetProduct", "GetStock"):
            if sees:
                await getattr(people[who], method)(sku_id="secret")
            else:
                with pytest.raises(RemoteError) as hidden:
                    await getattr(people[who], method)(sku_id="secret")
                assert hidden.value.reason == "PRODUCT_NOT_FOUND"
    # the shop of the token
    assert [
        product.sku_id for product in (await people["other merchant"].ListProducts()).products
    ] == []
    assert [
        product.sku_id
        for product in (await people["other merchant"].ListProducts(merchant_id="mall")).products
    ] == ["mug"]


async def test_a_repeated_call_with_a_key_is_answered_once_and_marked(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await people["merchant"].CreateProduct(sku_id="mug", name="A mug", price="9.90", available=50)
    request = order_pb2.CreateOrderRequest(items=[item("mug", 1, "9.90")]).SerializeToString()
    # the same price in other digits
    same = order_pb2.CreateOrderRequest(items=[item("mug", 1, "9.9")]).SerializeToString()
    metadata = [server.bearer("u1"), ("idempotency-key", "k")]
    async with server.channel() as channel:
        path = "/paymesh.order.v1.OrderService/CreateOrder"
        first, _ = await channel.call(path, request, metadata=metadata)
        answers = await asyncio.gather(
            *(channel.call(path, again, metadata=metadata) for again in [request, same] * 10)
        )
    assert {answer for answer, _ in answers} == {first}
    assert all(
        ("x-paymesh-idempotent-replayed", "true") in list(trailing) for _, trailing in answers
    )
    other = await refusal(people["buyer"].CreateOrder(items=[item("mug", 2, "9.90")], key="k"))
    assert (other.reason, list(other.fields)) == ("IDEMPOTENCY_KEY_REUSED", ["items[0].quantity"])
    assert len(await server.app.rows(ORDERS)) == 1


async def test_a_product_created_again_with_its_key_is_marked_a_replay(
    server: RunningOrderRpc,
) -> None:
    request = catalog_pb2.CreateProductRequest(
        sku_id="mug", name="A mug", price="9.90", currency="CNY"
    )
    same = catalog_pb2.CreateProductRequest(sku_id="mug", name="A mug", price="9.9")
    metadata = [server.bearer("clerk", "merchant"), ("idempotency-key", "k")]
    async with server.channel() as channel:
        path = "/paymesh.order.v1.CatalogService/CreateProduct"
        first, fresh = await channel.call(path, request.SerializeToString(), metadata=metadata)
        second, again = await channel.call(path, same.SerializeToString(), metadata=metadata)
    assert first == second
    marked = ("x-paymesh-idempotent-replayed", "true")
    assert (marked in list(fresh), marked in list(again)) == (False, True)


BAD_ORDERS: list[Any] = [
    ({"items": []}, "INVALID_ARGUMENT", "items"),
    ({"items": [item(quantity=0)]}, "INVALID_ARGUMENT", "items[0].quantity"),
    ({"items": [item(quantity=10_001)]}, "INVALID_ARGUMENT", "items[0].quantity"),
    ({"items": [item("")]}, "INVALID_ARGUMENT", "items[0].sku_id"),
    ({"items": [item("mug' OR 1=1")]}, "INVALID_ARGUMENT", "items[0].sku_id"),
    ({"items": [item()] * 101}, "INVALID_ARGUMENT", "items"),
    ({"items": [item(unit_price="-1")]}, "INVALID_ARGUMENT", "items[0].unit_price"),
    ({"items": [item(unit_price="1e3")]}, "INVALID_ARGUMENT", "items[0].unit_price"),
    ({"items": [item(unit_price="9.901")]}, "INVALID_ARGUMENT", "items[0].unit_price"),
    ({"items": [item(), item("cup")]}, "PRODUCT_NOT_FOUND", "items[1].sku_id"),
    ({"items": [item(quantity=6)]}, "OUT_OF_STOCK", "items"),
    ({"items": [item(unit_price="9.89")]}, "PRICE_CHANGED", "items[0].unit_price"),
    ({"items": [item(), item("yen")]}, "CURRENCY_MIXED", "items[1].sku_id"),
    ({"items": [item("gold", 2)]}, "TOTAL_TOO_LARGE", "items"),
    ({"items": [item()], "user_id": "u2"}, "PERMISSION_DENIED", "user_id"),
    ({"items": [item()], "merchant_id": "tea_house"}, "PERMISSION_DENIED", "merchant_id"),
]


async def test_bad_orders_are_refused_with_their_field_and_change_nothing(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    app = server.app
    await app.product("mug", "9.90", available=5)
    await app.product("yen", "100", currency="JPY")
    await app.product("gold", "9999999999999.99")
    for fields, reason, field in BAD_ORDERS:
        refused = await refusal(people["buyer"].CreateOrder(**fields))
        assert (refused.reason, list(refused.fields)) == (reason, [field]), fields
        assert refused.message
    assert await app.rows(ORDERS) == []
    assert await app.stock() == (5, 0, 0)
    sold_out = await refusal(people["buyer"].CreateOrder(items=[item(quantity=6)]))
    assert (sold_out.metadata, sold_out.domain) == (
        {"sku_id": "mug", "available": "5"},
        "paymesh.order.v1",
    )


BAD_PRODUCTS: list[Any] = [
    ({"price": "-1"}, "INVALID_ARGUMENT", "price"),
    ({"price": "1e3"}, "INVALID_ARGUMENT", "price"),
    ({"price": "0.001"}, "INVALID_ARGUMENT", "price"),
    ({"price": "1.5", "currency": "JPY"}, "INVALID_ARGUMENT", "price"),
    ({"price": "NaN"}, "INVALID_ARGUMENT", "price"),
    ({"price": "1234567890123456"}, "INVALID_ARGUMENT", "price"),
    ({"currency": "XXX"}, "INVALID_ARGUMENT", "currency"),
    ({"currency": "cny"}, "INVALID_ARGUMENT", "currency"),
    ({"name": ""}, "INVALID_ARGUMENT", "name"),
    ({"name": "x" * 201}, "INVALID_ARGUMENT", "name"),
    ({"available": -1}, "INVALID_ARGUMENT", "available"),
    ({"sku_id": "a b"}, "INVALID_ARGUMENT", "sku_id"),
    ({"merchant_id": "tea_house"}, "PERMISSION_DENIED", "merchant_id"),
]


async def test_bad_products_are_refused_with_their_field_and_change_nothing(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    for changes, reason, field in BAD_PRODUCTS:
        refused = await refusal(
            people["merchant"].CreateProduct(
                **{"sku_id": "mug", "name": "A mug", "price": "1", **changes}
            )
        )
        assert (refused.reason, list(refused.fields)) == (reason, [field]), changes
    assert await server.app.rows(PRODUCT) == []


async def test_a_product_that_exists_with_other_content_is_refused_by_field(
    people: dict[str, Client],
) -> None:
    await people["merchant"].CreateProduct(sku_id="mug", name="A mug", price="1", available=5)
    refused = await refusal(
        people["merchant"].CreateProduct(sku_id="mug", name="A cup", price="2", available=5)
    )
    assert (refused.reason, sorted(refused.fields), refused.grpc_code) == (
        "PRODUCT_ALREADY_EXISTS",
        ["name", "price"],
        6,
    )


@pytest.mark.parametrize(
    ("who", "method", "fields", "reason"),
    [
        (
            "nobody",
            "CreateProduct",
            {"sku_id": "cup", "name": "A cup", "price": "1"},
            "UNAUTHENTICATED",
        ),
        (
            "buyer",
            "CreateProduct",
            {"sku_id": "cup", "name": "A cup", "price": "1"},
            "PERMISSION_DENIED",
        ),
        (
            "payment_rpc",
            "CreateProduct",
            {"sku_id": "cup", "name": "A cup", "price": "1"},
            "PERMISSION_DENIED",
        ),
        ("buyer", "SetStock", {"sku_id": "mug", "available": 1}, "PERMISSION_DENIED"),
        ("other merchant", "SetStock", {"sku_id": "mug", "available": 1}, "PRODUCT_NOT_FOUND"),
        ("nobody", "GetProduct", {"sku_id": "cup"}, "PRODUCT_NOT_FOUND"),
        ("nobody", "CreateOrder", {"items": [item()]}, "UNAUTHENTICATED"),
        ("admin", "CreateOrder", {"items": [item()]}, "PERMISSION_DENIED"),
        ("same name elsewhere", "CreateOrder", {"items": [item()]}, "PRODUCT_NOT_FOUND"),
        ("buyer", "ListOrders", {"user_id": "u2"}, "PERMISSION_DENIED"),
        ("merchant", "ListOrders", {"merchant_id": "tea_house"}, "PERMISSION_DENIED"),
        ("buyer", "ListOrders", {"page_size": 10_000}, "INVALID_ARGUMENT"),
        ("buyer", "ListOrders", {"page_token": "forged"}, "PAGE_TOKEN_INVALID"),
        ("payment_rpc", "ListOrders", {}, "PERMISSION_DENIED"),
    ],
)
async def test_what_is_not_the_callers_to_do_is_refused(
    server: RunningOrderRpc,
    people: dict[str, Client],
    *,
    who: str,
    method: str,
    fields: dict[str, Any],
    reason: str,
) -> None:
    await server.app.product("mug", available=5)
    assert (await refusal(getattr(people[who], method)(**fields))).reason == reason
    assert await server.app.stock() == (5, 0, 0)


async def test_an_order_is_not_found_by_anybody_else(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", available=5)
    order_id = (await people["buyer"].CreateOrder(items=[item()])).order.order_id
    for who in ("merchant", "admin", "payment_rpc"):
        assert (await people[who].GetOrder(order_id=order_id)).order.order_id == order_id
    for who in ("other buyer", "same name elsewhere", "other merchant"):
        refused = await refusal(people[who].GetOrder(order_id=order_id))
        assert (refused.reason, refused.grpc_code) == ("ORDER_NOT_FOUND", 5), who
    elsewhere = await refusal(
        people["same name elsewhere"].GetOrder(order_id=order_id, merchant_id="mall")
    )
    assert elsewhere.grpc_code == 5
    assert [order.order_id for order in (await people["buyer"].ListOrders()).orders] == [order_id]
    assert not (await people["other buyer"].ListOrders()).orders
    assert [
        order.order_id
        for order in (
            await people["merchant"].ListOrders(user_id="u1", state="ORDER_STATE_PENDING_PAYMENT")
        ).orders
    ] == [order_id]


BAD_UPDATES: list[Any] = [
    ({"payment": None}, "payment"),
    ({"event_id": ""}, "event_id"),
    ({"status": order_pb2.ORDER_STATE_SHIPPED}, "status"),
    ({"status": 99}, "status"),
    ({"payment": snapshot(captured="19.801")}, "payment.captured"),
    ({"payment": snapshot(captured="-1")}, "payment.captured"),
    ({"payment": snapshot(currency="XXX")}, "payment.currency"),
    ({"payment": snapshot(version=0)}, "payment.version"),
    ({"payment": snapshot(state="")}, "payment.state"),
    ({"payment": snapshot(state="支付")}, "payment.state"),
]


async def test_messages_about_payments_come_from_payment_rpc_only_and_make_sense(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "19.80", available=5)
    order = (await people["buyer"].CreateOrder(items=[item()])).order
    good = {
        "merchant_id": "mall",
        "order_id": order.order_id,
        "event_id": "EVT-1",
        "payment": snapshot(),
    }
    for who in ("nobody", "buyer", "merchant", "admin"):
        assert (await refusal(people[who].UpdateOrderStatus(**good))).reason == (
            "UNAUTHENTICATED" if who == "nobody" else "PERMISSION_DENIED"
        )
    for changes, field in BAD_UPDATES:
        refused = await refusal(people["payment_rpc"].UpdateOrderStatus(**{**good, **changes}))
        assert (refused.reason, list(refused.fields)) == ("INVALID_ARGUMENT", [field]), changes
        assert refused.is_definite
    unknown = await refusal(
        people["payment_rpc"].UpdateOrderStatus(**{**good, "order_id": "ORD-none"})
    )
    assert (unknown.reason, unknown.is_definite) == ("ORDER_NOT_FOUND", True)
    assert (await people["buyer"].GetOrder(order_id=order.order_id)).order == order


async def test_a_service_that_nobody_knows_is_refused(server: RunningOrderRpc) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from mesh.auth import CallerTokens

    app = server.app
    order = {"merchant_id": "mall", "order_id": "ORD1", "event_id": "EVT-1", "payment": snapshot()}
    forged = CallerTokens(
        "payment_rpc", clock=app.clock, ids=app.ids, private_key=Ed25519PrivateKey.generate()
    )
    async with server.channel(forged) as channel:
        assert (await refusal(Client(channel).UpdateOrderStatus(**order))).grpc_code == 16


async def test_business_refusals_of_a_payment_are_answers(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    app = server.app
    await app.product("mug", "19.80", available=5)
    expected = [
        (OrderState.CANCELLED, "", order_pb2.DISPOSITION_REFUSED_CANCELLED),
        (OrderState.PAID, "PAY2", order_pb2.DISPOSITION_REFUSED_PAID_BY_OTHER),
        (OrderState.SHIPPED, "PAY1", order_pb2.DISPOSITION_ALREADY),
    ]
    for number, (state, paid_by, disposition) in enumerate(expected):
        order = await app.order(("mug", 1))
        await app.force_state(order, state, paid_by=paid_by)
        answer = await people["payment_rpc"].UpdateOrderStatus(
            merchant_id="mall",
            order_id=order.order_id,
            event_id=f"EVT-{number}",
            payment=snapshot(),
        )
        assert (answer.disposition, order_pb2.OrderState.Name(answer.state)) == (
            disposition,
            f"ORDER_STATE_{state}",
        )


async def test_a_hold_is_told_and_shown_in_the_words_of_the_contract(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "19.80", available=5)
    order = await server.app.order(("mug", 1))
    until = timestamp(server.app.clock.now() + timedelta(days=7))
    answer = await people["payment_rpc"].UpdateOrderStatus(
        merchant_id="mall",
        order_id=order.order_id,
        event_id="EVT-held",
        payment=snapshot(
            state="AUTHORIZED", captured="0", held_amount="19.80", held_until=until, version=2
        ),
    )
    assert answer.disposition == order_pb2.DISPOSITION_NOTED
    shown = (await people["buyer"].GetOrder(order_id=order.order_id)).order
    assert (shown.held_payment_id, shown.held_amount) == ("PAY1", "19.80")
    assert shown.held_until == shown.expires_at == until
    refused = await refusal(people["buyer"].CancelOrder(order_id=order.order_id))
    assert (refused.reason, refused.grpc_code) == ("MONEY_HELD", 9)


# The rest of an order's life, through the port.

ADDRESS = order_pb2.Address(
    recipient="王小明",
    phone="+86 138 0000 0000",
    country="CN",
    region="上海",
    city="上海",
    street="南京路 1",
    postal_code="200000",
)


async def paid(
    server: RunningOrderRpc, people: dict[str, Client], quantity: int = 2
) -> order_pb2.Order:
    order = (await people["buyer"].CreateOrder(items=[item("mug", quantity)])).order
    await people["payment_rpc"].UpdateOrderStatus(
        merchant_id="mall",
        order_id=order.order_id,
        event_id=server.app.ids.new("EVT"),
        payment=snapshot(captured=order.amount),
    )
    return (await people["buyer"].GetOrder(order_id=order.order_id)).order


async def test_an_order_is_paid_shipped_and_arrives(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "9.90", available=5)
    order = (
        await people["buyer"].CreateOrder(
            items=[item()], client_request_id="c1", shipping_address=ADDRESS
        )
    ).order
    assert (
        order.shipping_address,
        order.client_request_id,
        order.items_amount,
        order.shipping_amount,
        order.discount_amount,
    ) == (ADDRESS, "c1", "9.90", "0.00", "0.00")
    assert (
        order.pay_status,
        order.shipping_status,
        order.refund_status,
        order.items[0].stock_source,
    ) == (
        order_pb2.PAY_STATUS_UNPAID,
        order_pb2.SHIPPING_STATUS_PENDING,
        order_pb2.REFUND_STATUS_NONE,
        order_pb2.STOCK_SOURCE_CATALOG,
    )
    moved = order_pb2.Address(
        recipient="A", phone="1234567", country="DE", city="Berlin", street="Weg 1"
    )
    assert (
        await people["buyer"].SetShippingAddress(order_id=order.order_id, address=moved)
    ).order.shipping_address == moved
    payment = (await people["buyer"].PayOrder(order_id=order.order_id, channel="sandbox")).payment
    assert (payment.payment_id, payment.order_id, payment.amount) == (
        "PAY1",
        order.order_id,
        "9.90",
    )
    order = await paid(server, people)
    shipped = (
        await people["merchant"].ShipOrder(
            order_id=order.order_id, carrier="SF", tracking_number="T1"
        )
    ).order
    assert (shipped.state, shipped.shipping_status, shipped.HasField("shipped_at")) == (
        order_pb2.ORDER_STATE_SHIPPED,
        order_pb2.SHIPPING_STATUS_SHIPPED,
        True,
    )
    assert (
        await people["buyer"].CompleteOrder(order_id=order.order_id)
    ).order.shipping_status == order_pb2.SHIPPING_STATUS_DELIVERED
    entries = (await people["buyer"].GetOrderTimeline(order_id=order.order_id)).entries
    assert [(entry.event, entry.operator) for entry in entries] == [
        ("CREATE", "user:u1"),
        ("PAY", "payment_rpc"),
        ("SHIP", "merchant"),
        ("COMPLETE", "user:u1"),
    ]


async def test_an_order_is_cancelled_or_says_why_not(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "9.90", available=5)
    order = (await people["buyer"].CreateOrder(items=[item()])).order
    cancelled = (await people["buyer"].CancelOrder(order_id=order.order_id, reason="no")).order
    assert (cancelled.state, cancelled.HasField("cancelled_at")) == (
        order_pb2.ORDER_STATE_CANCELLED,
        True,
    )
    refused = await refusal(
        people["buyer"].CancelOrder(order_id=(await paid(server, people)).order_id)
    )
    assert (refused.reason, refused.grpc_code, refused.metadata["payment_id"]) == (
        "ORDER_ALREADY_PAID",
        9,
        "PAY1",
    )


async def test_a_refund_is_asked_for_approved_and_listed(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "9.90", available=5)
    order = await paid(server, people)
    await people["merchant"].ShipOrder(order_id=order.order_id, carrier="SF", tracking_number="T1")
    one = order_pb2.RefundItem(sku_id="mug", quantity=1)
    asked = (
        await people["buyer"].RefundOrder(order_id=order.order_id, items=[one], reason="broken")
    ).refund
    assert (asked.state, asked.amount, asked.currency) == (
        order_pb2.REFUND_REQUEST_STATE_REQUESTED,
        "9.90",
        "CNY",
    )
    assert (
        await refusal(
            people["buyer"].ApproveRefund(order_id=order.order_id, request_id=asked.request_id)
        )
    ).reason == "PERMISSION_DENIED"
    approved = (
        await people["merchant"].ApproveRefund(order_id=order.order_id, request_id=asked.request_id)
    ).refund
    assert (approved.state, approved.refund_id != "") == (
        order_pb2.REFUND_REQUEST_STATE_APPROVED,
        True,
    )
    told = order_pb2.RefundSnapshot(
        refund_id=approved.refund_id, request_id=asked.request_id, state="SUCCESS", amount="9.90"
    )
    await people["payment_rpc"].UpdateOrderStatus(
        merchant_id="mall",
        order_id=order.order_id,
        event_id="EVT-9",
        payment=snapshot(version=9, refunded="9.90", refunds=[told]),
    )
    assert [
        refund.state
        for refund in (await people["buyer"].ListOrderRefunds(order_id=order.order_id)).refunds
    ] == [order_pb2.REFUND_REQUEST_STATE_SUCCEEDED]
    second = (await people["buyer"].RefundOrder(order_id=order.order_id, amount="1")).refund
    assert (
        await people["merchant"].RejectRefund(
            order_id=order.order_id, request_id=second.request_id, reason="used"
        )
    ).refund.failure == "used"
    assert (await people["buyer"].GetOrder(order_id=order.order_id)).order.refunded_amount == "9.90"


async def test_a_refund_in_minor_units_is_the_same_refund_in_major_ones(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "9.90", available=5)
    order = await paid(server, people)
    keyed = {"order_id": order.order_id, "key": "R1"}
    first = (await people["buyer"].RefundOrder(amount_minor=150, **keyed)).refund
    assert (first.amount, first.currency) == ("1.50", "CNY")
    again = (await people["buyer"].RefundOrder(amount="1.5", **keyed)).refund
    assert again.request_id == first.request_id
    other = await refusal(people["buyer"].RefundOrder(amount_minor=151, **keyed))
    assert (other.reason, list(other.fields)) == ("IDEMPOTENCY_KEY_REUSED", ["amount"])


async def test_a_price_is_named_in_one_kind_of_units(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    shop, mug = people["merchant"], {"sku_id": "mug", "name": "A mug", "available": 5}
    made = (await shop.CreateProduct(**mug, price_minor=990)).product
    assert (await shop.CreateProduct(**mug, price="9.9")).product == made
    changed = await shop.UpdateProduct(sku_id="mug", price_minor=1200)
    free = await shop.UpdateProduct(sku_id="mug", price_minor=0)
    assert [made.price, changed.product.price, free.product.price] == ["9.90", "12.00", "0.00"]
    both = ["price", "price_minor"]
    for call, fields in (
        (shop.CreateProduct(sku_id="cup", name="A cup"), ["price"]),
        (shop.CreateProduct(sku_id="cup", name="A cup", price="1", price_minor=100), both),
        (shop.UpdateProduct(sku_id="mug", price="1", price_minor=100), both),
    ):
        refused = await refusal(call)
        assert (refused.reason, sorted(refused.fields)) == ("INVALID_ARGUMENT", fields)


async def test_a_shop_keeps_its_shelf_and_its_figures(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await people["merchant"].CreateProduct(
        sku_id="mug", name="A mug", price="9.90", available=5, on_sale=False
    )
    assert (
        await refusal(people["buyer"].CreateOrder(items=[item()]))
    ).reason == "PRODUCT_NOT_ON_SALE"
    changed = (
        await people["merchant"].UpdateProduct(sku_id="mug", on_sale=True, price="8.8")
    ).product
    assert (changed.on_sale, changed.price, changed.name) == (True, "8.80", "A mug")
    movement = (
        await people["merchant"].AdjustStock(sku_id="mug", quantity=-2, reason="broken", key="k")
    ).movement
    assert (movement.kind, movement.available_after) == (catalog_pb2.STOCK_MOVEMENT_KIND_ADJUST, 3)
    assert (
        await people["merchant"].AdjustStock(sku_id="mug", quantity=-2, reason="broken", key="k")
    ).movement == movement
    assert (await people["nobody"].GetStock(sku_id="mug")).stock.available == 3
    assert [
        each.quantity
        for each in (await people["merchant"].ListStockMovements(sku_id="mug")).movements
    ] == [-2, 5]
    await paid(server, people, quantity=1)
    [day] = (
        await people["merchant"].GetDailySummary(date="2026-11-20", time_zone="Asia/Shanghai")
    ).summaries
    assert (day.order_count, day.paid_amount, day.average_paid_amount, day.conversion) == (
        1,
        "8.80",
        "8.80",
        "1.0000",
    )
    days = (
        await people["merchant"].ListOrderStatistics(from_date="2026-11-01", to_date="2026-11-30")
    ).days
    assert [each.date for each in days] == ["2026-11-20"]
    assert len((await people["other merchant"].GetDailySummary(date="2026-11-20")).summaries) == 0
    since = Timestamp(seconds=int(server.app.clock.now().timestamp()) + 1)
    assert len((await people["merchant"].ListOrders(created_from=since)).orders) == 0
    assert len((await people["merchant"].ListOrders(created_before=since)).orders) == 1


async def test_a_flash_sale_takes_units_and_writes_orders(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", "9.90", available=5)
    seckill = people["seckill_rpc"]
    assert (
        await seckill.AllocateStock(
            op_id="OP1", merchant_id="mall", activity_id="ACT1", sku_id="mug", quantity=3
        )
    ).allocated == 3
    wanted = [
        allocation_pb2.SeckillOrder(
            order_id=f"ORDS{number}",
            merchant_id="mall",
            user_id=f"u{number}",
            activity_id="ACT1",
            sku_id="mug" if number else "gone",
            price="0.99",
            currency="CNY",
        )
        for number in range(3)
    ]
    answers = (await seckill.CreateSeckillOrders(orders=wanted)).answers
    assert [(answer.order_id, answer.result, answer.reason) for answer in answers] == [
        ("ORDS0", allocation_pb2.SECKILL_ORDER_RESULT_REFUSED, "PRODUCT_NOT_FOUND"),
        ("ORDS1", allocation_pb2.SECKILL_ORDER_RESULT_CREATED, ""),
        ("ORDS2", allocation_pb2.SECKILL_ORDER_RESULT_CREATED, ""),
    ]
    assert (await people["buyer"].GetOrder(order_id="ORDS1")).order.items[
        0
    ].stock_source == order_pb2.STOCK_SOURCE_ACTIVITY
    assert (
        await seckill.ReturnAllocation(
            op_id="ACT1", merchant_id="mall", activity_id="ACT1", quantity=1
        )
    ).returned == 1
    stock = (await people["merchant"].GetStock(sku_id="mug")).stock
    assert (stock.available, stock.allocated) == (3, 2)


BAD_CALLS: list[Any] = [
    (
        "buyer",
        "CreateOrder",
        {
            "items": [item()],
            "shipping_address": order_pb2.Address(
                recipient="A", phone="x", country="CN", city="B", street="C"
            ),
        },
        "shipping_address.phone",
    ),
    (
        "buyer",
        "CreateOrder",
        {
            "items": [item()],
            "shipping_address": order_pb2.Address(
                recipient="A", phone="12345", country="China", city="B", street="C"
            ),
        },
        "shipping_address.country",
    ),
    ("buyer", "CreateOrder", {"items": [item()], "client_request_id": "a b"}, "client_request_id"),
    ("buyer", "SetShippingAddress", {"order_id": "ORD1"}, "address"),
    ("buyer", "RefundOrder", {"order_id": "ORD1", "amount": "-1"}, "amount"),
    ("buyer", "RefundOrder", {"order_id": "ORD1", "amount_minor": 0}, "amount_minor"),
    (
        "buyer",
        "RefundOrder",
        {"order_id": "ORD1", "items": [order_pb2.RefundItem(sku_id="mug", quantity=0)]},
        "items[0].quantity",
    ),
    ("merchant", "RejectRefund", {"order_id": "ORD1", "request_id": "R"}, "reason"),
    (
        "merchant",
        "ShipOrder",
        {"order_id": "ORD1", "carrier": "SF", "tracking_number": "T 1"},
        "tracking_number",
    ),
    (
        "merchant",
        "ShipOrder",
        {"order_id": "ORD1", "carrier": "", "tracking_number": "T1"},
        "carrier",
    ),
    ("merchant", "AdjustStock", {"sku_id": "mug", "quantity": 0, "reason": "x"}, "quantity"),
    ("merchant", "AdjustStock", {"sku_id": "mug", "quantity": 1}, "reason"),
    ("merchant", "GetDailySummary", {"date": "20.11.2026"}, "date"),
    ("merchant", "GetDailySummary", {"date": "2026-02-30"}, "date"),
    ("merchant", "GetDailySummary", {"time_zone": "Nowhere/Nowhere"}, "time_zone"),
    ("merchant", "ListOrders", {"created_from": Timestamp(seconds=10**15)}, "created_from"),
    ("seckill_rpc", "CreateSeckillOrders", {"orders": []}, "orders"),
    (
        "seckill_rpc",
        "AllocateStock",
        {"op_id": "", "merchant_id": "mall", "activity_id": "A", "sku_id": "mug", "quantity": 1},
        "op_id",
    ),
]


async def test_bad_calls_are_refused_with_their_field(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    for who, method, fields, field in BAD_CALLS:
        refused = await refusal(getattr(people[who], method)(**fields))
        assert (refused.reason, list(refused.fields)) == ("INVALID_ARGUMENT", [field]), (
            method,
            fields,
        )
    items = [order_pb2.RefundItem(sku_id="mug", quantity=1)]
    for sent in (
        {"amount": "1", "items": items},
        {"amount_minor": 100, "items": items},
        {"amount": "1", "amount_minor": 100},
    ):
        both = await refusal(people["buyer"].RefundOrder(order_id="ORD1", **sent))
        assert both.reason == "INVALID_ARGUMENT", sent


NOT_YOUR_ORDER: list[Any] = [
    ("nobody", "CancelOrder", {}, "UNAUTHENTICATED"),
    ("payment_rpc", "CancelOrder", {}, "PERMISSION_DENIED"),
    ("other buyer", "CancelOrder", {}, "ORDER_NOT_FOUND"),
    ("other merchant", "CancelOrder", {}, "ORDER_NOT_FOUND"),
    ("merchant", "PayOrder", {}, "PERMISSION_DENIED"),
    ("other buyer", "PayOrder", {}, "ORDER_NOT_FOUND"),
    ("other buyer", "RefundOrder", {}, "ORDER_NOT_FOUND"),
    ("other merchant", "RefundOrder", {}, "ORDER_NOT_FOUND"),
    ("buyer", "ApproveRefund", {"request_id": "R"}, "PERMISSION_DENIED"),
    ("other merchant", "ApproveRefund", {"request_id": "R"}, "ORDER_NOT_FOUND"),
    ("buyer", "RejectRefund", {"request_id": "R", "reason": "x"}, "PERMISSION_DENIED"),
    ("merchant", "RejectRefund", {"request_id": "R", "reason": "x"}, "REFUND_NOT_FOUND"),
    ("buyer", "ShipOrder", {"carrier": "SF", "tracking_number": "T1"}, "PERMISSION_DENIED"),
    ("other merchant", "ShipOrder", {"carrier": "SF", "tracking_number": "T1"}, "ORDER_NOT_FOUND"),
    ("other buyer", "CompleteOrder", {}, "ORDER_NOT_FOUND"),
    ("other buyer", "SetShippingAddress", {"address": ADDRESS}, "ORDER_NOT_FOUND"),
    ("merchant", "SetShippingAddress", {"address": ADDRESS}, "PERMISSION_DENIED"),
    ("other buyer", "GetOrderTimeline", {}, "ORDER_NOT_FOUND"),
    ("other merchant", "ListOrderRefunds", {}, "ORDER_NOT_FOUND"),
]


async def test_an_order_is_led_by_those_whom_it_concerns(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", available=5)
    order_id = (await people["buyer"].CreateOrder(items=[item()])).order.order_id
    for who, method, fields, reason in NOT_YOUR_ORDER:
        assert (
            await refusal(getattr(people[who], method)(order_id=order_id, **fields))
        ).reason == reason, (who, method)
    assert (await people["buyer"].GetOrder(order_id=order_id)).order.version == 1


NOT_YOUR_SHOP: list[Any] = [
    ("buyer", "UpdateProduct", {"sku_id": "mug"}, "PERMISSION_DENIED"),
    ("other merchant", "UpdateProduct", {"sku_id": "mug"}, "PRODUCT_NOT_FOUND"),
    ("buyer", "AdjustStock", {"sku_id": "mug", "quantity": 1, "reason": "x"}, "PERMISSION_DENIED"),
    (
        "other merchant",
        "AdjustStock",
        {"sku_id": "mug", "quantity": 1, "reason": "x", "merchant_id": "mall"},
        "PERMISSION_DENIED",
    ),
    ("buyer", "ListStockMovements", {"sku_id": "mug"}, "PERMISSION_DENIED"),
    ("buyer", "GetDailySummary", {}, "PERMISSION_DENIED"),
    (
        "nobody",
        "ListOrderStatistics",
        {"from_date": "2026-11-20", "to_date": "2026-11-20"},
        "UNAUTHENTICATED",
    ),
    ("merchant", "GetDailySummary", {"merchant_id": "tea_house"}, "PERMISSION_DENIED"),
    (
        "payment_rpc",
        "AllocateStock",
        {"op_id": "O", "merchant_id": "mall", "activity_id": "A", "sku_id": "mug", "quantity": 1},
        "PERMISSION_DENIED",
    ),
    (
        "admin",
        "ReturnAllocation",
        {"op_id": "O", "merchant_id": "mall", "activity_id": "A", "quantity": 1},
        "PERMISSION_DENIED",
    ),
    (
        "seckill_rpc",
        "UpdateOrderStatus",
        {"merchant_id": "mall", "order_id": "ORD1", "event_id": "E", "payment": snapshot()},
        "PERMISSION_DENIED",
    ),
]


async def test_a_shop_and_its_sales_are_led_by_those_whom_they_concern(
    server: RunningOrderRpc, people: dict[str, Client]
) -> None:
    await server.app.product("mug", available=5)
    for who, method, fields, reason in NOT_YOUR_SHOP:
        assert (await refusal(getattr(people[who], method)(**fields))).reason == reason, (
            who,
            method,
        )
    assert await server.app.stock() == (5, 0, 0)
