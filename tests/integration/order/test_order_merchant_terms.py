"""What a merchant may do as merchant_rpc says: a suspended one takes no new orders, and everything
else goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from mesh.errors import MeshError, UpstreamUnavailable
from mesh.merchant_status import MerchantStatus
from mesh.money import Money
from order_rpc.domain.errors import MerchantNotLive, MerchantSuspended
from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.order import OrderState
from order_rpc.domain.payment import Disposition
from order_rpc.domain.policy import MerchantPolicy, PriceRule
from order_rpc.tables import ORDERS
from order_rpc.usecases.allocations import SeckillOrder
from tests.builders.external_order import create, register
from tests.builders.order import PAYMENT_WINDOW, SECKILL_RPC, OrderApp, buyer, merchant
from tests.builders.order import snapshot as of_payment


class Terms:
    """merchant_rpc as a test wants it."""

    def __init__(self) -> None:
        self.now = MerchantTerms(payment_window=PAYMENT_WINDOW)
        self.away = False

    async def of(self, merchant_id: str) -> MerchantTerms:
        del merchant_id
        if self.away:
            raise UpstreamUnavailable("merchant_rpc is away")
        return self.now

    def known(self, merchant_id: str) -> MerchantTerms:
        del merchant_id
        return self.now


@pytest.fixture
async def terms(app: OrderApp) -> Terms:
    """An order_rpc that asks `terms`, with a product and an order of each kind."""
    terms = Terms()
    app.terms = terms
    app.build()
    await app.product(available=10)
    return terms


REFUSED: list[tuple[MerchantStatus, type[Exception]]] = [
    (MerchantStatus.SUSPENDED, MerchantSuspended),
    (MerchantStatus.NOT_LIVE, MerchantNotLive),
]


@pytest.mark.parametrize(("status", "refusal"), REFUSED)
async def test_no_new_order_is_made_and_none_begins_to_be_paid(
    app: OrderApp, terms: Terms, status: MerchantStatus, refusal: type[Exception]
) -> None:
    order = await app.order()
    terms.now = MerchantTerms(payment_window=PAYMENT_WINDOW, status=status)
    calls: list[Callable[[], Awaitable[object]]] = [
        app.order,
        lambda: app.order(("mug", 1), ("mug", 1)),
        lambda: create(app),
        lambda: register(app),
        lambda: app.payments.pay(
            merchant_id="mall",
            order_id=order.order_id,
            channel="",
            return_url="",
            caller=buyer(),
        ),
    ]
    for call in calls:
        with pytest.raises(refusal):
            await call()
    assert len(await app.rows(ORDERS)) == 1
    assert app.payment_rpc.payments == []


async def test_everything_else_of_a_suspended_merchant_goes_on(app: OrderApp, terms: Terms) -> None:
    first, second, third = [await app.order() for _ in range(3)]
    external = await create(app)
    await app.cancel(third)
    terms.now = MerchantTerms(payment_window=PAYMENT_WINDOW, status=MerchantStatus.SUSPENDED)
    told = await app.tell(first, of_payment())
    assert told.disposition is Disposition.APPLIED
    refund = await app.refund(first, caller=merchant())
    assert refund.amount == Money(1000, "CNY")
    assert (await app.cancel(second)).state is OrderState.CANCELLED
    late = await app.tell(third, of_payment("PAY3"))
    assert late.disposition is Disposition.REFUSED_CANCELLED
    assert await app.load(external) == external
    assert await create(app) == external  # a repetition makes nothing new
    app.clock.advance(PAYMENT_WINDOW.total_seconds() + 1)
    assert await app.expire() == 1


async def test_shipping_discount_and_window_are_those_of_the_merchant(
    app: OrderApp, terms: Terms
) -> None:
    terms.now = MerchantTerms(
        payment_window=timedelta(hours=2),
        policy=MerchantPolicy(
            shipping={"CNY": PriceRule(amount=Money(800, "CNY"), threshold=None)}
        ),
    )
    order = await app.order()
    assert (order.shipping, order.expires_at - order.created_at) == (
        Money(800, "CNY"),
        timedelta(hours=2),
    )
    external = await create(app)
    assert (external.shipping.minor, external.expires_at - external.created_at) == (
        0,
        timedelta(hours=2),
    )


async def test_late_money_revives_where_the_merchant_says_so(app: OrderApp, terms: Terms) -> None:
    order = await app.order()
    await app.cancel(order)
    terms.now = MerchantTerms(
        payment_window=PAYMENT_WINDOW, policy=MerchantPolicy(revives_if_stock=True)
    )
    terms.away = True  # what is known is enough
    assert (await app.tell(order, of_payment())).disposition is Disposition.REVIVED


async def test_a_merchant_of_whom_nothing_is_known_gets_no_order(
    app: OrderApp, terms: Terms
) -> None:
    terms.away = True
    for call in (app.order(), create(app), register(app)):
        with pytest.raises(UpstreamUnavailable):
            await call
    assert await app.rows(ORDERS) == []


@pytest.mark.parametrize(("status", "refusal"), REFUSED)
async def test_no_new_order_of_a_flash_sale_is_written_and_an_old_one_stays(
    app: OrderApp, terms: Terms, status: MerchantStatus, refusal: type[MeshError]
) -> None:
    await app.seckill_order("ORDS1")
    terms.now = MerchantTerms(payment_window=PAYMENT_WINDOW, status=status)
    wanted = [
        SeckillOrder(
            order_id=order_id,
            merchant_id="mall",
            user_id=user_id,
            activity_id="ACT1",
            sku_id="1001",
            price=Money(990, "CNY"),
        )
        for order_id, user_id in (("ORDS1", "u1"), ("ORDS2", "u2"))
    ]
    answers = await app.allocations.create_seckill_orders(wanted, SECKILL_RPC)
    assert answers == ["", refusal.reason]
    assert [row["order_id"] for row in await app.rows(ORDERS)] == ["ORDS1"]


async def test_no_order_of_a_flash_sale_is_written_or_refused_while_nobody_knows(
    app: OrderApp, terms: Terms
) -> None:
    terms.away = True
    with pytest.raises(UpstreamUnavailable):
        await app.seckill_order("ORDS1")
    assert await app.rows(ORDERS) == []
