"""What a merchant may do as merchant_rpc says: a suspended one takes no new money, and what was
begun ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest
from paymesh.merchant.v1 import merchant_pb2

from mesh.call import calling
from mesh.errors import UpstreamUnavailable
from mesh.merchant_status import MerchantStatus
from mesh.money import RequestedAmount
from order_rpc.domain.order import Order, OrderState
from payment_rpc.app import PaymentApp
from payment_rpc.clients import terms_of
from payment_rpc.domain.errors import (
    ChannelNotSupported,
    MerchantNotLive,
    MerchantSuspended,
    ReturnUrlNotAllowed,
)
from payment_rpc.domain.merchant_terms import MerchantTerms
from payment_rpc.domain.payment import BALANCE, WALLET, Payment, PaymentState
from payment_rpc.tables import PAYMENT
from payment_rpc.usecases.payment_requests import CreatePayment, TopUp
from payment_rpc.usecases.payment_sending import APPLY_SECONDS
from tests.builders.external_payment import command
from tests.builders.order import buyer, merchant
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import a_card


class Terms:
    """merchant_rpc as a test wants it."""

    def __init__(self) -> None:
        self.now = MerchantTerms(return_urls=("https://shop.test/",))
        self.away = False

    async def of(self, merchant_id: str) -> MerchantTerms:
        del merchant_id
        if self.away:
            raise UpstreamUnavailable("merchant_rpc is away")
        return self.now


@pytest.fixture
def terms() -> Terms:
    return Terms()


@pytest.fixture
def app(world: PaymentWorld, terms: Terms) -> PaymentApp:
    """A payment_rpc that asks `terms`."""
    return world.make_app(terms=terms)


def ways(
    world: PaymentWorld, app: PaymentApp, order: Order
) -> list[Callable[[], Awaitable[object]]]:
    """Every way to begin a payment."""
    top_up = TopUp(
        merchant_id="mall",
        user_id="u1",
        amount=RequestedAmount("5.00", "CNY"),
        card=a_card(),
        key="",
    )
    return [
        lambda: world.charge(order, app=app),
        lambda: world.charge(order, app=app, payment_method=BALANCE),
        lambda: cashier(app, order),
        lambda: app.payments.create_payment(command(), merchant()),
        lambda: app.payments.top_up(top_up, buyer()),
    ]


async def cashier(app: PaymentApp, order: Order, *, return_url: str = "") -> Payment:
    return await app.payments.create_payment(
        CreatePayment(
            merchant_id="mall",
            order_id=order.order_id,
            user_id=order.user_id,
            amount=RequestedAmount(""),
            channel="",
            return_url=return_url,
            key="",
        ),
        buyer(),
    )


@pytest.mark.parametrize(
    ("status", "refusal"),
    [(MerchantStatus.SUSPENDED, MerchantSuspended), (MerchantStatus.NOT_LIVE, MerchantNotLive)],
)
async def test_no_way_to_pay_begins(
    world: PaymentWorld,
    app: PaymentApp,
    terms: Terms,
    status: MerchantStatus,
    refusal: type[Exception],
) -> None:
    order = await world.order()
    terms.now = MerchantTerms(status=status)
    for way in ways(world, app, order):
        with pytest.raises(refusal):
            await way()
    assert await world.rows(PAYMENT) == []
    assert await world.at_sandbox() == []


async def test_a_merchant_of_whom_nothing_is_known_takes_no_money(
    world: PaymentWorld, app: PaymentApp, terms: Terms
) -> None:
    order = await world.order()
    terms.away = True
    for way in ways(world, app, order):
        with pytest.raises(UpstreamUnavailable):
            await way()
    assert await world.rows(PAYMENT) == []


async def test_what_was_begun_before_a_suspension_ends_as_it_would(
    world: PaymentWorld, app: PaymentApp, terms: Terms
) -> None:
    order, other = await world.order(), await world.order()
    begun, keyed = await cashier(app, order), await world.charge(other, app=app, key="k1")
    terms.now = MerchantTerms(status=MerchantStatus.SUSPENDED)
    assert (await world.charge(other, app=app, key="k1")).payment_id == keyed.payment_id
    await world.press(begun)
    await world.callbacks()
    await world.finish()
    assert (await world.payment(begun.payment_id)).state is PaymentState.SUCCESS
    assert await world.order_state(order) is OrderState.PAID
    assert (await app.payment_queries.get_payment(begun.payment_id, merchant())).captured.minor
    assert await world.ledger_problems() == []


async def test_where_a_cashier_sends_buyers_is_the_merchants_choice(
    world: PaymentWorld, app: PaymentApp, terms: Terms
) -> None:
    order = await world.order()
    with pytest.raises(ReturnUrlNotAllowed):
        await cashier(app, order, return_url="https://other.test/end")
    terms.now = MerchantTerms(return_urls=("https://other.test/",))
    assert await cashier(app, order, return_url="https://other.test/end")


@pytest.mark.parametrize(
    ("terms_now", "channel", "is_taken"),
    [
        (MerchantTerms(), "alipay", True),
        (MerchantTerms(is_test=True), "alipay", False),
        (MerchantTerms(is_test=True), "sandbox", True),
        (MerchantTerms(channels=frozenset({"alipay"})), "sandbox", False),
        (MerchantTerms(channels=frozenset({"alipay"})), "alipay", True),
        (MerchantTerms(is_test=True, channels=frozenset({"alipay"})), "alipay", False),
        (MerchantTerms(is_test=True, channels=frozenset({"alipay"})), WALLET, True),
    ],
)
def test_a_channel_is_one_of_the_merchants_and_a_test_merchant_has_the_sandbox_only(
    terms_now: MerchantTerms, channel: str, is_taken: bool
) -> None:
    if is_taken:
        terms_now.require_open(channel=channel)
    else:
        with pytest.raises(ChannelNotSupported):
            terms_now.require_open(channel=channel)


M = merchant_pb2


def test_what_a_merchant_has_set_counts_and_the_rest_is_the_default() -> None:
    answer = M.GetMerchantSettingsResponse(
        is_known=True,
        state=M.MERCHANT_STATE_SUSPENDED,
        is_test=True,
        settings=M.Settings(channels=["alipay"], buyers_may_hold=True),
    )
    defaults = MerchantTerms(return_urls=("https://shop.test/",))
    assert terms_of(answer, defaults) == MerchantTerms(
        return_urls=defaults.return_urls,
        channels=frozenset({"alipay"}),
        is_test=True,
        buyers_may_hold=True,
        status=MerchantStatus.SUSPENDED,
    )
    assert not terms_of(M.GetMerchantSettingsResponse(), defaults).buyers_may_hold
    assert terms_of(
        M.GetMerchantSettingsResponse(), MerchantTerms(buyers_may_hold=True)
    ).buyers_may_hold


async def test_the_page_says_who_is_paid_and_what_for(
    world: PaymentWorld, app: PaymentApp, terms: Terms
) -> None:
    terms.now = MerchantTerms(name="Acme & Sons")
    payment = await app.payments.create_payment(command(description="Two mugs"), merchant())
    assert payment.next_action is not None
    async with httpx.AsyncClient(trust_env=False) as browser:
        page = (await browser.get(payment.next_action.value)).text
    assert "Acme &amp; Sons" in page
    assert "Two mugs" in page


async def test_what_merchant_rpc_takes_is_not_promised_to_the_channel(
    world: PaymentWorld, app: PaymentApp, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for_the_page = []

    async def slow(merchant_id: str) -> MerchantTerms:
        if await world.rows(PAYMENT):  # tx 1 is committed: it is asked for the name
            asked_for_the_page.append(merchant_id)
            call.deadline -= 1.0
        return terms.now

    monkeypatch.setattr(terms, "of", slow)
    with calling(caller=merchant(), timeout_seconds=4.0) as call:
        await app.payments.create_payment(command(), merchant())
        left_seconds = call.remaining_seconds()
    assert asked_for_the_page == ["mall"]
    assert world.channel.timeouts_seconds[-1] < 4.0 - 1.0 - APPLY_SECONDS
    assert left_seconds > 0
