"""Every keyed method of the contract against who uses the key: a person whose token gained a role
hears the first answer, anybody else never does.

Which methods there are is read from the contract: a new keyed method needs a line in REQUESTS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from paymesh.options.v1 import options_pb2

from mesh.call import Caller, Role
from order_rpc.domain.order import Order
from tests.builders.all_services import (
    ROLES,
    Servers,
    contract,
    policy,
    running,
    served_by,
)
from tests.builders.holding_channel import held_payment
from tests.builders.order import buyer
from tests.builders.payment import VISA

CARD = {
    "credit_card_number": VISA,
    "credit_card_cvv": "123",
    "credit_card_expiration_year": 2030,
    "credit_card_expiration_month": 12,
}
REPLAYED = ("x-paymesh-idempotent-replayed", "true")


@dataclass(frozen=True)
class Person:
    """Somebody with a token. `tenant` is the token's; the requests are all about the shop
    `mall`.
    """

    subject: str
    tenant: str = "mall"


@dataclass
class Shop:
    """What the requests are about, made once for each person."""

    servers: Servers
    orders: dict[Person, Order] = field(default_factory=dict)
    paid: Any = None
    refundable: Any = None

    async def order_of(self, person: Person) -> Order:
        if person not in self.orders:
            self.orders[person] = await self.servers.world.order(caller=buyer(person.subject))
        return self.orders[person]

    async def paid_order(self, person: Person) -> Order:
        order = await self.order_of(person)
        await self.servers.world.charge(order)
        return order


Recipe = Callable[[Shop, Person], Awaitable[dict[str, Any]]]


async def product(shop: Shop, person: Person) -> dict[str, Any]:
    return {
        "merchant_id": "mall",
        "sku_id": f"cup-of-{person.subject}-{person.tenant}",
        "name": "A cup",
        "price": "5.00",
        "available": "7",
    }


async def stock(shop: Shop, person: Person) -> dict[str, Any]:
    order = await shop.order_of(Person("somebody"))
    return {
        "merchant_id": "mall",
        "sku_id": order.lines[0].sku_id,
        "quantity": "3",
        "reason": "found some",
    }


def is_clerk(person: Person) -> bool:
    """People whose first role is to work for a shop have it in their name."""
    return person.subject.endswith(".merchant")


async def new_order(shop: Shop, person: Person) -> dict[str, Any]:
    if is_clerk(person):
        item = {"sku_id": "A-BIKE", "quantity": 1, "unit_price": "100.00"}
        return {"merchant_id": "mall", "currency": "USD", "items": [item]}
    order = await shop.order_of(Person("somebody"))
    return {
        "merchant_id": "mall",
        "user_id": person.subject,
        "items": [{"sku_id": order.lines[0].sku_id, "quantity": 1}],
    }


async def refund_of_order(shop: Shop, person: Person) -> dict[str, Any]:
    order = await shop.paid_order(person)
    return {"merchant_id": "mall", "order_id": order.order_id, "amount": "10.00"}


async def charge(shop: Shop, person: Person) -> dict[str, Any]:
    order = await shop.order_of(person)
    return {
        "merchant_id": "mall",
        "user_id": person.subject,
        "order_id": order.order_id,
        "amount": "100.00",
        "credit_card": CARD,
    }


async def cashier(shop: Shop, person: Person) -> dict[str, Any]:
    if is_clerk(person):
        number = f"of-{person.subject}"
        return {
            "merchant_id": "mall",
            "order_id": number,
            "currency": "USD",
            "amount_minor": "10000",
        }
    order = await shop.order_of(person)
    return {"merchant_id": "mall", "user_id": person.subject, "order_id": order.order_id}


async def refund_of_payment(shop: Shop, person: Person) -> dict[str, Any]:
    shop.paid = shop.paid or await shop.servers.world.charge(
        await shop.order_of(Person("somebody"))
    )
    return {"payment_id": shop.paid.payment_id, "amount": "10.00"}


async def capture(shop: Shop, person: Person) -> dict[str, Any]:
    assert shop.servers.holding is not None
    held = await held_payment(shop.servers.world, shop.servers.holding)
    return {"payment_id": held.payment_id, "amount": "10.00"}


async def top_up(shop: Shop, person: Person) -> dict[str, Any]:
    return {
        "merchant_id": "mall",
        "user_id": person.subject,
        "amount": "10.00",
        "credit_card": CARD,
    }


async def activity(shop: Shop, person: Person) -> dict[str, Any]:
    return {
        "merchant_id": "mall",
        "sku_id": "mug",
        "price": "5.00",
        "total": "3",
        "ends_at": "2040-01-01T00:00:00Z",
    }


# the request, and the field of the answer that says what was made
REQUESTS: dict[str, tuple[Recipe, str]] = {
    "paymesh.order.v1.CatalogService.CreateProduct": (product, "product.sku_id"),
    "paymesh.order.v1.CatalogService.AdjustStock": (stock, "movement.movement_id"),
    "paymesh.order.v1.OrderService.CreateOrder": (new_order, "order.order_id"),
    "paymesh.order.v1.OrderService.RefundOrder": (refund_of_order, "refund.request_id"),
    "paymesh.payment.v1.PaymentService.Charge": (charge, "payment.payment_id"),
    "paymesh.payment.v1.PaymentService.CreatePayment": (cashier, "payment.payment_id"),
    "paymesh.payment.v1.PaymentService.CapturePayment": (capture, "payment.payment_id"),
    "paymesh.payment.v1.RefundService.CreateRefund": (refund_of_payment, "refund.refund_id"),
    "paymesh.payment.v1.WalletService.TopUp": (top_up, "payment.payment_id"),
    "paymesh.seckill.v1.ActivityService.CreateActivity": (activity, "activity.activity_id"),
}
KEYED = [
    method
    for method in contract()
    if policy(method).idempotency
    in (options_pb2.IDEMPOTENCY_OPTIONAL, options_pb2.IDEMPOTENCY_REQUIRED)
]


@pytest.fixture
async def servers(tmp_path: Path, redis_url: str) -> AsyncIterator[Servers]:
    async with running(tmp_path, redis_url, holds=True) as servers:
        yield servers


async def call(
    servers: Servers, method: MethodDescriptor, request: dict[str, Any], person: Person, *roles: str
) -> tuple[str, bool]:
    """What was made, and whether the server calls its answer a replay."""
    kind, answer = (
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
    )
    stub = servers.channels[served_by(method.containing_service)].unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=kind.SerializeToString,
        response_deserializer=answer.FromString,
    )
    bearer = servers.tokens.bearer(*roles, subject=person.subject, merchant_id=person.tenant)
    under_way: grpc.aio.UnaryUnaryCall[Any, Any] = stub(
        ParseDict(request, kind()), metadata=[bearer, ("idempotency-key", "k1")], timeout=30
    )
    found: Message | str = await under_way
    for name in REQUESTS[method.full_name][1].split("."):
        found = getattr(found, name)
    return str(found), REPLAYED in tuple(
        (name, value) for name, value in await under_way.trailing_metadata()
    )


def people_of(method: MethodDescriptor) -> list[str]:
    """The roles of people that a method admits."""
    return [ROLES[rule.role] for rule in policy(method).rules if rule.role in ROLES]


def test_every_keyed_method_of_the_contract_is_tried() -> None:
    assert {method.full_name for method in KEYED} == set(REQUESTS)


@pytest.mark.parametrize("method", KEYED, ids=lambda method: method.name)
async def test_a_person_whose_token_gained_roles_hears_what_the_key_did_before(
    servers: Servers, method: MethodDescriptor
) -> None:
    shop, recipe = Shop(servers), REQUESTS[method.full_name][0]
    for role in people_of(method):
        person = Person(f"a.{role}")
        request = await recipe(shop, person)
        first = await call(servers, method, request, person, role)
        assert first[1] is False
        for roles in ((role,), (role, "merchant"), ("admin", "merchant", "user"), (role,)):
            assert await call(servers, method, request, person, *roles) == (first[0], True), roles


@pytest.mark.parametrize("method", KEYED, ids=lambda method: method.name)
async def test_two_people_with_one_key_never_hear_of_each_other(
    servers: Servers, method: MethodDescriptor
) -> None:
    shop, recipe = Shop(servers), REQUESTS[method.full_name][0]
    others = [(Person(f"b.{role}"), role) for role in people_of(method)]
    if "admin" in people_of(method):  # one name in two tenants is two people
        others.append((Person("a", "tea"), "admin"))
    role = people_of(method)[0]
    made = [await call(servers, method, await recipe(shop, Person("a")), Person("a"), role)]
    made += [
        await call(servers, method, await recipe(shop, person), person, role)
        for person, role in others
    ]
    assert [replayed for _, replayed in made] == [False] * len(made)
    assert len({what for what, _ in made}) == len(made)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall"),
            Caller(role=Role.ADMIN, subject="clerk", merchant_id="mall"),
        ),
        (
            Caller(role=Role.USER, subject="clerk", merchant_id="mall"),
            Caller(role=Role.PUBLIC, subject="clerk", merchant_id="mall"),
        ),
        (
            Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc"),
            Caller(
                role=Role.SERVICE, subject="order_rpc", service="order_rpc", on_behalf_of="mall/u1"
            ),
        ),
    ],
)
def test_one_caller_has_one_key_however_it_was_admitted(one: Caller, other: Caller) -> None:
    assert one.key == other.key


def test_no_two_callers_have_one_key() -> None:
    callers = [
        *(
            Caller(role=Role.USER, subject=subject, merchant_id=tenant)
            for subject in ("a", "b", "order_rpc")
            for tenant in ("mall", "tea", "order_rpc")
        ),
        *(
            Caller(role=Role.SERVICE, subject=name, service=name)
            for name in ("order_rpc", "payment_rpc")
        ),
    ]
    assert len({caller.key for caller in callers}) == len(callers)
