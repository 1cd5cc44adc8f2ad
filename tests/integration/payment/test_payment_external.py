"""CreatePayment of merchants: an order of their own begins to exist with its payment, once per
number; and the searches by which they find their payments.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh import failpoints
from mesh.call import Caller, Role, calling
from mesh.customers import email_digest
from mesh.errors import InvalidArgument, PermissionDenied
from mesh.failpoints import FailpointRaised
from mesh.money import Money, RequestedAmount
from mesh.token_issuers import CHECKOUT, OwnTokenSigner
from order_rpc.domain.order import Order, OrderState
from order_rpc.tables import ORDERS
from payment_rpc.domain.errors import (
    AmountMismatch,
    OrderAlreadyPaid,
    OrderExistsDifferent,
    OrderNotFound,
    OrderNotPayable,
)
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.tables import ATTEMPT, PAYMENT, REFUND
from payment_rpc.usecases.checkouts import CheckoutTokens
from payment_rpc.usecases.payment_requests import CreatePayment
from payment_rpc.usecases.queries import ListPayments
from tests.builders.external_payment import PRICE, command
from tests.builders.order import PAYMENT_WINDOW, buyer, merchant
from tests.builders.payment import PaymentWorld


async def create(world: PaymentWorld, order_no: str = "A-1", **changes: Any) -> Payment:
    """CreatePayment of a merchant."""
    wanted = command(order_no, **changes)
    return await world.app.payments.create_payment(wanted, merchant(wanted.merchant_id))


async def order_of(world: PaymentWorld, payment: Payment) -> Order:
    return await world.order_side.orders.get(
        merchant_id=payment.merchant_id, order_id=payment.order_id, caller=merchant()
    )


async def test_an_order_and_its_payment_begin_together_and_end_paid(world: PaymentWorld) -> None:
    payment = await create(world)
    assert (payment.state, payment.amount, payment.order_no, payment.user_id) == (
        PaymentState.PAYING,
        PRICE,
        "A-1",
        f"ext:{payment.order_id}",
    )
    assert payment.customer_digest == email_digest("mall", "li@example.com")
    assert (await order_of(world, payment)).expires_at == payment.expires_at
    await world.press(payment)
    await world.callbacks()
    await world.finish()
    assert (await order_of(world, payment)).state is OrderState.PAID
    assert (await world.payment(payment.payment_id)).order_no == "A-1"
    assert await world.ledger_problems() == []


async def test_fifty_equal_creates_at_once_are_one_order_and_one_payment(
    world: PaymentWorld,
) -> None:
    payments = await world.order_side.at_once(*(create(world) for _ in range(50)))
    assert len({payment.payment_id for payment in payments}) == 1
    assert len(await world.order_side.rows(ORDERS)) == 1
    assert len(await world.rows(PAYMENT)) == len(await world.rows(ATTEMPT)) == 1
    assert len(await world.at_sandbox()) == 1


async def test_the_same_number_again_is_the_same_payment_and_marked(world: PaymentWorld) -> None:
    first = await create(world)
    with calling(caller=merchant(), timeout_seconds=5) as call:
        again = await create(world)
    assert again.payment_id == first.payment_id
    assert call.trailing.count(("x-paymesh-idempotent-replayed", "true")) == 1


async def test_a_first_create_is_not_marked(world: PaymentWorld) -> None:
    with calling(caller=merchant(), timeout_seconds=5) as call:
        await create(world)
    assert call.trailing == ()


async def test_a_key_is_answered_while_order_rpc_is_away(world: PaymentWorld) -> None:
    first = await create(world, key="k1")
    world.orders.away = True
    assert (await create(world, key="k1")).payment_id == first.payment_id


async def test_the_same_number_with_another_amount_or_currency_names_it(
    world: PaymentWorld,
) -> None:
    await create(world)
    for amount, field in ((Money(9_999, "USD"), "amount"), (Money(10_000, "EUR"), "currency")):
        with pytest.raises(OrderExistsDifferent) as refused:
            await create(world, amount=amount)
        assert list(refused.value.fields) == [field]
    assert len(await world.rows(PAYMENT)) == 1


async def test_two_merchants_may_use_one_number(world: PaymentWorld) -> None:
    ours = await create(world)
    theirs = await create(world, merchant_id="tea_house")
    assert ours.order_id != theirs.order_id
    assert (ours.customer_digest != theirs.customer_digest) is True


async def test_a_paid_number_is_paid_and_a_closed_one_is_over(world: PaymentWorld) -> None:
    payment = await create(world)
    await world.press(payment)
    await world.callbacks()
    with pytest.raises(OrderAlreadyPaid):
        await create(world)
    other = await create(world, "A-2")
    await world.order_side.cancel(await order_of(world, other), caller=merchant())
    with pytest.raises(OrderNotPayable):
        await create(world, "A-2")


async def test_a_crash_between_the_two_calls_leaves_an_order_that_expires_by_itself(
    world: PaymentWorld,
) -> None:
    failpoints.arm("payment.external.after_register=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await create(world)
    failpoints.arm("", environment="test")
    assert await world.rows(PAYMENT) == []
    [row] = await world.order_side.rows(ORDERS)
    assert row["state"] == "PENDING_PAYMENT"
    world.clock.advance(PAYMENT_WINDOW.total_seconds() + 1)
    assert await world.order_side.expire() == 1
    await world.order_side.relay()
    [row] = await world.order_side.rows(ORDERS)
    assert row["state"] == "CANCELLED"
    with pytest.raises(OrderNotPayable):
        await create(world)


async def test_after_such_a_crash_the_same_call_pays_the_order_that_is_there(
    world: PaymentWorld,
) -> None:
    failpoints.arm("payment.external.after_register=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await create(world)
    failpoints.arm("", environment="test")
    payment = await create(world)
    [row] = await world.order_side.rows(ORDERS)
    assert payment.order_id == row["order_id"]


async def test_a_deadline_of_the_merchant_is_that_of_order_and_payment(
    world: PaymentWorld,
) -> None:
    at = world.clock.now() + timedelta(hours=3)
    assert (await create(world, expires_at=at)).expires_at == at


async def test_a_merchant_may_pay_an_order_of_its_own_by_our_id_and_no_buyers(
    world: PaymentWorld,
) -> None:
    payment = await create(world)
    by_id = command(payment.order_id)
    again = await world.app.payments.create_payment(
        CreatePayment(
            merchant_id="mall",
            order_id=payment.order_id,
            user_id="",
            amount=by_id.amount,
            channel="",
            return_url="",
            key="",
        ),
        merchant(),
    )
    assert again.payment_id == payment.payment_id
    of_buyer = await world.order()
    for order_id, amount, refusal in (
        (of_buyer.order_id, RequestedAmount("100.00", "CNY"), OrderNotFound),
        (payment.order_id, RequestedAmount("99.00", "USD"), AmountMismatch),
    ):
        with pytest.raises(refusal):
            await world.app.payments.create_payment(
                CreatePayment(
                    merchant_id="mall",
                    order_id=order_id,
                    user_id="",
                    amount=amount,
                    channel="",
                    return_url="",
                    key="",
                ),
                merchant(),
            )


async def test_late_money_of_an_external_order_goes_back(world: PaymentWorld) -> None:
    payment = await create(world)
    await world.order_side.cancel(await order_of(world, payment), caller=merchant())
    await world.press(payment)
    await world.callbacks()
    await world.finish()
    late = await world.payment(payment.payment_id)
    assert (late.state, late.disposition) == (
        PaymentState.LATE_SUCCESS,
        Disposition.REFUSED_CANCELLED,
    )
    [refund] = await world.rows(REFUND)
    assert (refund["automatic_of"], refund["amount_minor"]) == (payment.payment_id, 10_000)
    assert (await order_of(world, payment)).state is OrderState.CANCELLED
    assert await world.ledger_problems() == []


# The buyer's way.


def signer(world: PaymentWorld) -> OwnTokenSigner:
    return OwnTokenSigner(CHECKOUT, Ed25519PrivateKey.generate(), clock=world.clock, ids=world.ids)


async def test_a_checkout_token_is_of_one_order_and_ends_with_its_time(
    world: PaymentWorld,
) -> None:
    payment = await create(world)
    tokens = CheckoutTokens(clock=world.clock, signer=signer(world))
    claims = jwt.decode(tokens.of(payment), options={"verify_signature": False})
    assert (claims["sub"], claims["order_id"], claims["roles"], claims["merchant_id"]) == (
        f"ext:{payment.order_id}",
        payment.order_id,
        ["user"],
        "mall",
    )
    assert claims["exp"] == int(payment.expires_at.timestamp())
    world.clock.advance(PAYMENT_WINDOW.total_seconds())
    assert tokens.of(payment) == ""


async def test_there_is_no_checkout_token_without_a_key_or_for_an_order_of_the_catalogue(
    world: PaymentWorld,
) -> None:
    external = await create(world)
    assert CheckoutTokens(clock=world.clock, signer=None).of(external) == ""
    ours = await world.cashier(await world.order())
    assert CheckoutTokens(clock=world.clock, signer=signer(world)).of(ours) == ""


# Searches.


async def find(
    world: PaymentWorld, caller: Caller | None = None, **wanted: Any
) -> list[tuple[str, PaymentState]]:
    """What a search finds, page by page."""
    caller = caller or merchant()
    found: list[tuple[str, PaymentState]] = []
    token = ""
    while True:
        query = ListPayments(merchant_id="mall", page_size=2, page_token=token, **wanted)
        page, token = await world.app.payment_queries.list_payments(query, caller)
        found += [(payment.order_no, payment.state) for payment in page]
        if not token:
            return found


@pytest.fixture
async def five(world: PaymentWorld) -> PaymentWorld:
    """Five payments of one customer, a second apart; the third is paid. One of another customer,
    and one of another merchant.
    """
    for number in range(5):
        payment = await create(world, f"A-{number}")
        if number == 2:
            await world.press(payment)
            await world.callbacks()
        world.clock.advance(1)
    await create(world, "B-1", customer_email="wu@example.com")
    await create(world, "A-1", merchant_id="tea_house")
    return world


async def test_payments_of_an_erased_order_are_no_longer_found_by_its_customer(
    five: PaymentWorld,
) -> None:
    [paid] = [row for row in await five.rows(PAYMENT) if row["order_no"] == "A-2"]
    for _ in range(2):
        await five.app.customers.erase(merchant_id="mall", order_id=paid["order_id"])
    of_li = await find(five, customer_email="li@example.com")
    assert [number for number, _ in of_li] == ["A-4", "A-3", "A-1", "A-0"]
    assert [number for number, _ in await find(five, order="A-2")] == ["A-2"]
    [now] = [row for row in await five.rows(PAYMENT) if row["order_no"] == "A-2"]
    assert {**now, "customer_digest": None} == {**paid, "customer_digest": None}
    assert (now["customer_digest"], paid["customer_digest"] is None) == (None, False)


async def test_payments_are_found_by_number_customer_state_and_period(five: PaymentWorld) -> None:
    now = five.clock.now()
    numbers = [number for number, _ in await find(five)]
    assert numbers == ["B-1", "A-4", "A-3", "A-2", "A-1", "A-0"]
    assert [each for each, _ in await find(five, order="A-1")] == ["A-1"]
    assert await find(five, order="A-9") == []
    of_li = await find(five, customer_email=" LI@example.com")
    assert [number for number, _ in of_li] == ["A-4", "A-3", "A-2", "A-1", "A-0"]
    assert await find(five, state=PaymentState.SUCCESS) == [("A-2", PaymentState.SUCCESS)]
    assert await find(
        five, customer_email="li@example.com", state=PaymentState.SUCCESS, order="A-2"
    ) == [("A-2", PaymentState.SUCCESS)]
    period: dict[str, Any] = {
        "created_from": now - timedelta(seconds=3),
        "created_before": now - timedelta(seconds=1),
    }
    assert [number for number, _ in await find(five, **period)] == ["A-3", "A-2"]
    both = await find(five, customer_email="li@example.com", state=PaymentState.PAYING, **period)
    assert [number for number, _ in both] == ["A-3"]
    query = ListPayments(merchant_id="mall", order="A-1")
    assert await five.app.payment_queries.list_payments(query, merchant("tea_house")) == ((), "")


async def test_the_payment_of_an_order_is_found_by_the_merchants_number(
    five: PaymentWorld,
) -> None:
    payment = await five.app.payment_queries.get_payment_by_order_id(
        merchant_id="mall", order_id="A-2", caller=merchant()
    )
    assert (payment.order_no, payment.state) == ("A-2", PaymentState.SUCCESS)


@pytest.mark.parametrize("role", [Role.USER, Role.SERVICE])
async def test_a_buyer_and_a_service_name_an_order(world: PaymentWorld, role: Role) -> None:
    caller = (
        buyer()
        if role is Role.USER
        else Caller(role=role, subject="order_rpc", service="order_rpc")
    )
    with pytest.raises(InvalidArgument) as refused:
        await find(world, caller)
    assert list(refused.value.fields) == ["order_id"]
    with pytest.raises(PermissionDenied) as denied:
        await find(world, caller, order="A-1", customer_email="li@example.com")
    assert list(denied.value.fields) == ["customer_email"]
