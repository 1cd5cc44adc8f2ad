"""Which channel takes a new payment, and that what was begun stays with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from payment_rpc.app import PaymentApp
from payment_rpc.channels.capabilities import Instrument, Limits
from payment_rpc.channels.inbound import Inbound
from payment_rpc.domain.channel_account import AccountState, ChannelAccount, DefaultFor
from payment_rpc.domain.errors import (
    ChannelNotSupported,
    ChannelUnavailable,
    InsufficientBalance,
    SignatureInvalid,
)
from payment_rpc.domain.merchant_terms import MerchantTerms
from payment_rpc.domain.payment import BALANCE, PaymentState
from payment_rpc.servicer.messages import payment_message
from payment_rpc.tables import ATTEMPT, CHANNEL_CALLBACK, PAYMENT
from payment_rpc.usecases.payment_requests import CreatePayment
from tests.builders.channel_accounts import Accounts, accounts_in
from tests.builders.order import buyer
from tests.builders.payment import PaymentWorld, with_amount

# Which channel is chosen does not depend on the database.
pytestmark = pytest.mark.one_database


@pytest.fixture
async def accounts(world: PaymentWorld) -> AsyncIterator[Accounts]:
    found = accounts_in(world)
    yield found
    await found.app.account_channels.aclose()


async def cashier(
    accounts: Accounts, order: Any, *, app: PaymentApp | None = None, **changes: Any
) -> Any:
    caller = buyer(order.user_id, order.merchant_id)
    values: dict[str, Any] = {
        "merchant_id": order.merchant_id,
        "order_id": order.order_id,
        "user_id": caller.subject,
        "amount": "",
        "currency": "",
        "channel": "",
        "return_url": "",
        "key": "",
        **changes,
    }
    return await (app or accounts.app).payments.create_payment(
        CreatePayment(**with_amount(values)), caller
    )


async def refused(accounts: Accounts, channel: str, **changes: Any) -> ChannelNotSupported:
    order = await accounts.world.order(**changes)
    with pytest.raises(ChannelNotSupported) as refusal:
        await cashier(accounts, order, channel=channel)
    assert list(refusal.value.fields) == ["channel"]
    assert await accounts.world.rows(PAYMENT) == []
    return refusal.value


@pytest.mark.parametrize("how", ["id", "provider", "nothing"])
async def test_a_payment_goes_through_the_account_that_was_named(
    accounts: Accounts, how: str
) -> None:
    account = await accounts.create(default_for=DefaultFor.MERCHANT)
    await accounts.create(label="another")
    names = {"id": account.account_id, "provider": "toy", "nothing": ""}
    payment = await cashier(accounts, await accounts.world.order(), channel=names[how])
    assert payment.channel == account.account_id
    [attempt] = await accounts.world.rows(ATTEMPT)
    assert attempt["channel"] == account.account_id
    [channel] = accounts.toy.channels
    assert channel.checkouts == [attempt["attempt_id"]]
    message = payment_message(payment)
    assert (message.channel, message.provider) == (account.account_id, "toy")


async def test_without_accounts_everything_is_as_before(accounts: Accounts) -> None:
    for name in ("", "sandbox", "MOCK", "mock"):
        payment = await cashier(accounts, await accounts.world.order(), channel=name)
        assert payment.channel == "sandbox"
        assert payment_message(payment).provider == "sandbox"
    assert (await refused_by_name(accounts, "toy")).message.endswith("'toy'")


async def refused_by_name(accounts: Accounts, channel: str) -> ChannelNotSupported:
    with pytest.raises(ChannelNotSupported) as refusal:
        await cashier(accounts, await accounts.world.order(), channel=channel)
    return refusal.value


async def test_accounts_of_others_do_not_exist(accounts: Accounts) -> None:
    theirs = await accounts.create("acme", default_for=DefaultFor.MERCHANT)
    for name in (theirs.account_id, "toy", "toy_000000000000", "nonsense"):
        await refused(accounts, name)
    payment = await cashier(accounts, await accounts.world.order())
    assert payment.channel == "sandbox"


@pytest.mark.parametrize("state", [AccountState.DISABLED, AccountState.DRAINING])
async def test_what_takes_no_new_payments_ends_what_was_begun(
    accounts: Accounts, state: AccountState
) -> None:
    world = accounts.world
    account = await accounts.create(default_for=DefaultFor.MERCHANT)
    order = await world.order()
    begun = await cashier(accounts, order, key="k1")
    account = await accounts.update(account, state=state)
    for name in (account.account_id, "toy", ""):
        assert state in (await refused_by_name(accounts, name)).message
    again = await cashier(accounts, order, key="k1")  # a repetition is not new
    assert again.payment_id == begun.payment_id
    await world.press(begun)
    world.clock.advance(60)
    await accounts.app.polling.run_once()
    assert (await world.payment(begun.payment_id)).state is PaymentState.SUCCESS


async def test_an_attempt_stays_with_its_account_when_the_default_changes(
    accounts: Accounts,
) -> None:
    first = await accounts.create(default_for=DefaultFor.MERCHANT)
    order = await accounts.world.order()
    begun = await cashier(accounts, order, key="k1")
    await accounts.create(label="second", default_for=DefaultFor.MERCHANT)
    again = await cashier(accounts, order, key="k1")
    assert (again.payment_id, again.channel) == (begun.payment_id, first.account_id)
    other = await cashier(accounts, order)  # the same order, and another channel now
    assert other.channel != first.account_id
    assert (await accounts.world.payment(begun.payment_id)).state is PaymentState.CLOSED


async def test_an_amount_that_the_channel_does_not_take_is_refused_before_anything_is_written(
    accounts: Accounts,
) -> None:
    await accounts.create(default_for=DefaultFor.MERCHANT)
    accounts.toy.currencies = {
        "CNY": Limits(minimum_minor=500, maximum_minor=20000, step_minor=100)
    }
    for price, currency in (("4.99", "CNY"), ("200.01", "CNY"), ("10.50", "CNY"), ("10.00", "USD")):
        order = await accounts.world.order(price, currency=currency)
        with pytest.raises(InvalidArgument) as refusal:
            await cashier(accounts, order)
        assert list(refusal.value.fields) == ["amount"]
    assert await accounts.world.rows(PAYMENT) == []
    assert accounts.toy.channels[0].checkouts == []
    await cashier(accounts, await accounts.world.order("5.00"))


async def test_a_card_goes_to_no_account(accounts: Accounts) -> None:
    """Card numbers never go to a real provider, nor to the sandbox of a shop with one."""
    world = accounts.world
    await accounts.create(default_for=DefaultFor.MERCHANT)
    with pytest.raises(ChannelNotSupported):
        await world.charge(await world.order(), app=accounts.app)
    assert await world.rows(PAYMENT) == []
    with pytest.raises(InsufficientBalance):
        await world.charge(await world.order(), app=accounts.app, payment_method=BALANCE)
    accounts.toy.instruments = frozenset({Instrument.TOKEN})
    with pytest.raises(ChannelNotSupported):
        await cashier(accounts, await world.order())


async def test_a_card_goes_to_the_sandbox_where_nothing_else_is_the_default(
    accounts: Accounts,
) -> None:
    await accounts.create()  # of its provider alone
    payment = await accounts.world.charge(await accounts.world.order(), app=accounts.app)
    assert (payment.state, payment.channel) == (PaymentState.SUCCESS, "sandbox")


class Terms:
    """A merchant as a test wants it."""

    def __init__(self, **terms: Any) -> None:
        self._terms = MerchantTerms(**terms)

    async def of(self, merchant_id: str) -> MerchantTerms:
        del merchant_id
        return self._terms


async def test_a_test_shop_uses_test_accounts_and_a_shop_may_name_what_it_uses(
    accounts: Accounts,
) -> None:
    world = accounts.world
    test_account = await accounts.create("acme_test")
    order = await world.order(caller=buyer("u1", "acme_test"))
    app = accounts.another_app(terms=Terms(is_test=True))
    payment = await cashier(accounts, order, channel=test_account.account_id, app=app)
    assert payment.channel == test_account.account_id
    live = await accounts.create("mall")
    order = await world.order()
    with pytest.raises(ChannelNotSupported):
        await cashier(accounts, order, channel=live.account_id, app=app)
    for named, takes in (("toy", True), (live.account_id, True), ("sandbox", False)):
        app = accounts.another_app(terms=Terms(channels=frozenset({named})))
        order = await world.order()
        if takes:
            await cashier(accounts, order, channel=live.account_id, app=app)
        else:
            with pytest.raises(ChannelNotSupported):
                await cashier(accounts, order, channel=live.account_id, app=app)
        await app.account_channels.aclose()


async def test_credentials_that_cannot_be_read_refuse_before_anything_is_written(
    accounts: Accounts,
) -> None:
    account: ChannelAccount = await accounts.create()
    app = accounts.another_app(account_keys=None)
    with pytest.raises(ChannelUnavailable, match="the key '2'"):
        await cashier(accounts, await accounts.world.order(), channel=account.account_id, app=app)
    assert await accounts.world.rows(PAYMENT) == []


async def test_an_address_of_a_provider_is_that_of_the_installations_own_account(
    accounts: Accounts,
) -> None:
    """As source 004 has it: /api/v1/webhooks/stripe."""
    await accounts.create("acme", default_for=DefaultFor.MERCHANT)
    forged = Inbound(body=b"{}", headers={})
    with pytest.raises(ChannelNotSupported):
        await accounts.app.callbacks.handle_callback(channel="toy", inbound=forged)
    account = await accounts.create()
    for address in ("toy", account.account_id):
        with pytest.raises(SignatureInvalid):
            await accounts.app.callbacks.handle_callback(channel=address, inbound=forged)
    rows = await accounts.world.rows(CHANNEL_CALLBACK)
    assert [row["channel"] for row in rows] == [account.account_id] * 2
