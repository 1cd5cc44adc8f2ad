"""order_rpc through its port: the whole chain from a token to a row and back, and what bad input gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from paymesh.order.v1 import catalog_pb2, catalog_pb2_grpc, order_pb2, order_pb2_grpc

from mesh.errors import RemoteError
from order_rpc.domain.order import OrderState
from order_rpc.tables import ORDERS, PRODUCT
from tests.builders_order import RunningOrderRpc, running_order_rpc


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[RunningOrderRpc]:
    async with running_order_rpc(database_url) as server:
        yield server


class Client:
    """The generated stubs on one channel, as one person or as payment_rpc."""

    def __init__(self, channel: Any, *metadata: tuple[str, str]) -> None:
        self._orders: Any = order_pb2_grpc.OrderServiceStub(channel)
        self._catalog: Any = catalog_pb2_grpc.CatalogServiceStub(channel)
        self._metadata = metadata

    def __getattr__(self, method: str) -> Any:
        stub, messages = (self._orders, order_pb2) if hasattr(self._orders, method) else (self._catalog, catalog_pb2)

        async def call(*, key: str = "", **fields: Any) -> Any:
            metadata = [*self._metadata, *([("idempotency-key", key)] if key else [])]
            return await getattr(stub, method)(getattr(messages, f"{method}Request")(**fields), metadata=metadata)
        return call


@pytest.fixture
async def people(server: RunningOrderRpc) -> AsyncIterator[dict[str, Client]]:
    async with server.channel() as channel, server.channel(server.payment_rpc) as of_payment_rpc:
        yield {
            "nobody": Client(channel),
            "buyer": Client(channel, server.bearer("u1")),
            "other buyer": Client(channel, server.bearer("u2")),
            "same name elsewhere": Client(channel, server.bearer("u1", merchant_id="tea_house")),
            "merchant": Client(channel, server.bearer("clerk", "merchant")),
            "other merchant": Client(channel, server.bearer("clerk", "merchant", merchant_id="tea_house")),
            "admin": Client(channel, server.bearer("root", "admin")),
            "payment_rpc": Client(of_payment_rpc),
        }


def item(sku_id: str = "mug", quantity: int = 1, unit_price: str = "") -> order_pb2.NewOrderItem:
    return order_pb2.NewOrderItem(sku_id=sku_id, quantity=quantity, unit_price=unit_price)


def snapshot(**changes: Any) -> order_pb2.PaymentSnapshot:
    return order_pb2.PaymentSnapshot(**{"payment_id": "PAY1", "version": 3, "state": "SUCCESS", "captured": "19.80", "refunded": "0",
                                        "refund_reserved": "0", "currency": "CNY", **changes})


async def refusal(call: Any) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


async def test_a_purchase_from_the_shelf_to_paid(server: RunningOrderRpc, people: dict[str, Client]) -> None:
    made = (await people["merchant"].CreateProduct(sku_id="mug", name="茶杯", price="9.9", available=5)).product
    assert (made.merchant_id, made.price, made.currency, made.stock.available) == ("mall", "9.90", "CNY", 5)

    order = (await people["buyer"].CreateOrder(items=[item("mug", 2, "9.90")])).order
    assert (order.merchant_id, order.user_id, order.state, order.amount, order.currency) == ("mall", "u1", order_pb2.ORDER_STATE_PENDING_PAYMENT,
                                                                                            "19.80", "CNY")
    assert [(line.sku_id, line.name, line.unit_price, line.quantity, line.amount) for line in order.items] == [("mug", "茶杯", "9.90", 2, "19.80")]
    assert order.expires_at.seconds - order.created_at.seconds == 30 * 60
    assert not order.HasField("paid_at")
    assert (await people["payment_rpc"].GetOrder(order_id=order.order_id, merchant_id="mall")).order == order

    answer = await people["payment_rpc"].UpdateOrderStatus(merchant_id="mall", order_id=order.order_id, event_id="EVT-1", payment=snapshot(),
                                                           status=order_pb2.ORDER_STATE_PAID)
    assert (answer.disposition, answer.state) == (order_pb2.DISPOSITION_APPLIED, order_pb2.ORDER_STATE_PAID)
    paid = (await people["buyer"].GetOrder(order_id=order.order_id)).order
    assert (paid.state, paid.paid_payment_id, paid.version, paid.HasField("paid_at")) == (order_pb2.ORDER_STATE_PAID, "PAY1", 2, True)
    stock = (await people["nobody"].GetProduct(sku_id="mug")).product.stock
    assert (stock.available, stock.reserved, stock.sold) == (3, 0, 2)


async def test_products_are_listed_for_anybody_and_stocked_by_their_shop(people: dict[str, Client]) -> None:
    for sku_id in ("a", "b", "c"):
        await people["merchant"].CreateProduct(sku_id=sku_id, name=sku_id, price="1")
    first = await people["nobody"].ListProducts(page_size=2)
    assert [product.sku_id for product in first.products] == ["a", "b"]
    second = await people["nobody"].ListProducts(page_size=2, page_token=first.next_page_token)
    assert ([product.sku_id for product in second.products], second.next_page_token) == (["c"], "")
    assert (await people["admin"].SetStock(sku_id="a", available=7)).product.stock.available == 7
    assert len((await people["nobody"].ListProducts(merchant_id="tea_house")).products) == 0


async def test_a_repeated_call_with_a_key_is_answered_once_and_marked(server: RunningOrderRpc, people: dict[str, Client]) -> None:
    await people["merchant"].CreateProduct(sku_id="mug", name="A mug", price="9.90", available=50)
    request = order_pb2.CreateOrderRequest(items=[item("mug", 1, "9.90")]).SerializeToString()
    same = order_pb2.CreateOrderRequest(items=[item("mug", 1, "9.9")]).SerializeToString()  # the same price in other digits
    metadata = [server.bearer("u1"), ("idempotency-key", "k")]
    async with server.channel() as channel:
        path = "/paymesh.order.v1.OrderService/CreateOrder"
        first, _ = await channel.call(path, request, metadata=metadata)
        answers = await asyncio.gather(*(channel.call(path, again, metadata=metadata) for again in [request, same] * 10))
    assert {answer for answer, _ in answers} == {first}
    assert all(("x-paymesh-idempotent-replayed", "true") in list(trailing) for _, trailing in answers)
    other = await refusal(people["buyer"].CreateOrder(items=[item("mug", 2, "9.90")], key="k"))
    assert (other.reason, list(other.fields)) == ("IDEMPOTENCY_KEY_REUSED", ["items[0].quantity"])
    assert len(await server.app.rows(ORDERS)) == 1


async def test_a_product_created_again_with_its_key_is_marked_a_replay(server: RunningOrderRpc) -> None:
    request = catalog_pb2.CreateProductRequest(sku_id="mug", name="A mug", price="9.90", currency="CNY")
    same = catalog_pb2.CreateProductRequest(sku_id="mug", name="A mug", price="9.9")
    metadata = [server.bearer("clerk", "merchant"), ("idempotency-key", "k")]
    async with server.channel() as channel:
        path = "/paymesh.order.v1.CatalogService/CreateProduct"
        first, fresh = await channel.call(path, request.SerializeToString(), metadata=metadata)
        second, again = await channel.call(path, same.SerializeToString(), metadata=metadata)
    assert first == second
    marked = ("x-paymesh-idempotent-replayed", "true")
    assert (marked in list(fresh), marked in list(again)) == (False, True)


BAD_ORDERS = [
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


async def test_bad_orders_are_refused_with_their_field_and_change_nothing(server: RunningOrderRpc, people: dict[str, Client]) -> None:
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
    assert (sold_out.metadata, sold_out.domain) == ({"sku_id": "mug", "available": "5"}, "paymesh.order.v1")


BAD_PRODUCTS = [
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


async def test_bad_products_are_refused_with_their_field_and_change_nothing(server: RunningOrderRpc, people: dict[str, Client]) -> None:
    for changes, reason, field in BAD_PRODUCTS:
        refused = await refusal(people["merchant"].CreateProduct(**{"sku_id": "mug", "name": "A mug", "price": "1", **changes}))
        assert (refused.reason, list(refused.fields)) == (reason, [field]), changes
    assert await server.app.rows(PRODUCT) == []


async def test_a_product_that_exists_with_other_content_is_refused_by_field(people: dict[str, Client]) -> None:
    await people["merchant"].CreateProduct(sku_id="mug", name="A mug", price="1", available=5)
    refused = await refusal(people["merchant"].CreateProduct(sku_id="mug", name="A cup", price="2", available=5))
    assert (refused.reason, sorted(refused.fields), refused.grpc_code) == ("PRODUCT_ALREADY_EXISTS", ["name", "price"], 6)


@pytest.mark.parametrize(("who", "method", "fields", "reason"), [
    ("nobody", "CreateProduct", {"sku_id": "cup", "name": "A cup", "price": "1"}, "UNAUTHENTICATED"),
    ("buyer", "CreateProduct", {"sku_id": "cup", "name": "A cup", "price": "1"}, "PERMISSION_DENIED"),
    ("payment_rpc", "CreateProduct", {"sku_id": "cup", "name": "A cup", "price": "1"}, "PERMISSION_DENIED"),
    ("buyer", "SetStock", {"sku_id": "mug", "available": 1}, "PERMISSION_DENIED"),
    ("other merchant", "SetStock", {"sku_id": "mug", "available": 1}, "PRODUCT_NOT_FOUND"),
    ("nobody", "GetProduct", {"sku_id": "cup"}, "PRODUCT_NOT_FOUND"),
    ("nobody", "CreateOrder", {"items": [item()]}, "UNAUTHENTICATED"),
    ("merchant", "CreateOrder", {"items": [item()]}, "PERMISSION_DENIED"),
    ("same name elsewhere", "CreateOrder", {"items": [item()]}, "PRODUCT_NOT_FOUND"),
    ("buyer", "ListOrders", {"user_id": "u2"}, "PERMISSION_DENIED"),
    ("merchant", "ListOrders", {"merchant_id": "tea_house"}, "PERMISSION_DENIED"),
    ("buyer", "ListOrders", {"page_size": 10_000}, "INVALID_ARGUMENT"),
    ("buyer", "ListOrders", {"page_token": "forged"}, "PAGE_TOKEN_INVALID"),
    ("payment_rpc", "ListOrders", {}, "PERMISSION_DENIED"),
])
async def test_what_is_not_the_callers_to_do_is_refused(server: RunningOrderRpc, people: dict[str, Client], *, who: str, method: str,
                                                       fields: dict[str, Any], reason: str) -> None:
    await server.app.product("mug", available=5)
    assert (await refusal(getattr(people[who], method)(**fields))).reason == reason
    assert await server.app.stock() == (5, 0, 0)


async def test_an_order_is_not_found_by_anybody_else(server: RunningOrderRpc, people: dict[str, Client]) -> None:
    await server.app.product("mug", available=5)
    order_id = (await people["buyer"].CreateOrder(items=[item()])).order.order_id
    for who in ("merchant", "admin", "payment_rpc"):
        assert (await people[who].GetOrder(order_id=order_id)).order.order_id == order_id
    for who in ("other buyer", "same name elsewhere", "other merchant"):
        refused = await refusal(people[who].GetOrder(order_id=order_id))
        assert (refused.reason, refused.grpc_code) == ("ORDER_NOT_FOUND", 5), who
    elsewhere = await refusal(people["same name elsewhere"].GetOrder(order_id=order_id, merchant_id="mall"))
    assert elsewhere.grpc_code == 5
    assert [order.order_id for order in (await people["buyer"].ListOrders()).orders] == [order_id]
    assert not (await people["other buyer"].ListOrders()).orders
    assert [order.order_id for order in (await people["merchant"].ListOrders(user_id="u1", state="ORDER_STATE_PENDING_PAYMENT")).orders] == [order_id]


BAD_UPDATES = [
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


async def test_messages_about_payments_come_from_payment_rpc_only_and_make_sense(server: RunningOrderRpc, people: dict[str, Client]) -> None:
    await server.app.product("mug", "19.80", available=5)
    order = (await people["buyer"].CreateOrder(items=[item()])).order
    good = {"merchant_id": "mall", "order_id": order.order_id, "event_id": "EVT-1", "payment": snapshot()}
    for who in ("nobody", "buyer", "merchant", "admin"):
        assert (await refusal(people[who].UpdateOrderStatus(**good))).reason == ("UNAUTHENTICATED" if who == "nobody" else "PERMISSION_DENIED")
    for changes, field in BAD_UPDATES:
        refused = await refusal(people["payment_rpc"].UpdateOrderStatus(**{**good, **changes}))
        assert (refused.reason, list(refused.fields)) == ("INVALID_ARGUMENT", [field]), changes
        assert refused.is_definite
    unknown = await refusal(people["payment_rpc"].UpdateOrderStatus(**{**good, "order_id": "ORD-none"}))
    assert (unknown.reason, unknown.is_definite) == ("ORDER_NOT_FOUND", True)
    assert (await people["buyer"].GetOrder(order_id=order.order_id)).order == order


async def test_a_service_that_nobody_knows_is_refused(server: RunningOrderRpc) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from mesh.auth import CallerTokens

    app = server.app
    order = {"merchant_id": "mall", "order_id": "ORD1", "event_id": "EVT-1", "payment": snapshot()}
    forged = CallerTokens("payment_rpc", clock=app.clock, ids=app.ids, private_key=Ed25519PrivateKey.generate())
    async with server.channel(forged) as channel:
        assert (await refusal(Client(channel).UpdateOrderStatus(**order))).grpc_code == 16


async def test_business_refusals_of_a_payment_are_answers(server: RunningOrderRpc, people: dict[str, Client]) -> None:
    app = server.app
    await app.product("mug", "19.80", available=5)
    expected = [(OrderState.CANCELLED, "", order_pb2.DISPOSITION_REFUSED_CANCELLED),
                (OrderState.PAID, "PAY2", order_pb2.DISPOSITION_REFUSED_PAID_BY_OTHER),
                (OrderState.SHIPPED, "PAY1", order_pb2.DISPOSITION_ALREADY)]
    for number, (state, paid_by, disposition) in enumerate(expected):
        order = await app.order(("mug", 1))
        await app.force_state(order, state, paid_by=paid_by)
        answer = await people["payment_rpc"].UpdateOrderStatus(merchant_id="mall", order_id=order.order_id, event_id=f"EVT-{number}",
                                                               payment=snapshot())
        assert (answer.disposition, order_pb2.OrderState.Name(answer.state)) == (disposition, f"ORDER_STATE_{state}")
