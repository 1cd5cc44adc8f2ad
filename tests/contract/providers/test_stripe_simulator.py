"""The simulated Stripe, judged by the official client: payments, captures, refunds, sessions,
statements, events.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import stripe

from mesh.times import milliseconds
from tests.support.fakes import FakeClock
from tests.support.simulated_stripe import (
    CONFIG,
    Endpoint,
    SimulatedStripe,
    simulated_stripe,
    webhook_endpoint,
)

# the official client hands bytes to httpx in a way that httpx no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
BACK = "https://shop.example/back"


@pytest.fixture
async def sim(clock: FakeClock) -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe(clock) as it:
        yield it


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with webhook_endpoint() as it:
        yield it


def order(amount: int = 9999, currency: str = "usd", **more: Any) -> dict[str, Any]:
    return {
        "amount": amount,
        "currency": currency,
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        "metadata": {"attempt_id": "ATT1"},
        **more,
    }


def paid(amount: int = 9999, card: str = "pm_card_visa", **more: Any) -> dict[str, Any]:
    return order(amount, confirm=True, payment_method=card, **more)


async def create(sim: SimulatedStripe, sent: dict[str, Any], key: str | None = None) -> Any:
    options: Any = {"idempotency_key": key} if key else {}
    return await sim.client.v1.payment_intents.create_async(sent, options)


async def look(sim: SimulatedStripe, ref: str) -> Any:
    return await sim.client.v1.payment_intents.retrieve_async(
        ref, {"expand": ["latest_charge.balance_transaction"]}
    )


async def test_a_payment_in_two_steps_moves_money_at_the_second(sim: SimulatedStripe) -> None:
    made = await create(sim, order(), "ATT1-create")
    assert (made.status, made.amount_received, made.livemode) == (
        "requires_payment_method",
        0,
        False,
    )
    assert made.client_secret.startswith(f"{made.id}_secret_")
    assert sim.moved() == []
    done = await sim.client.v1.payment_intents.confirm_async(
        made.id, {"payment_method": "pm_card_visa"}, {"idempotency_key": "ATT1-confirm-1"}
    )
    assert (done.status, done.amount_received) == ("succeeded", 9999)
    assert done.metadata["attempt_id"] == "ATT1"
    assert sim.moved() == [("capture", "ATT1", "99.99")]
    # 2.9 % and 30 cents of 99.99, half up
    row = (await look(sim, made.id)).latest_charge.balance_transaction
    assert (row.amount, row.fee, row.net, row.currency) == (9999, 320, 9679, "usd")
    headers = done.last_response.headers
    assert headers["Request-Id"].startswith("req_")
    assert headers["Stripe-Version"] == "2026-10-28.endive" == stripe.api_version


async def test_the_fee_comes_after_the_answer_unless_capture_is_synchronous(
    sim: SimulatedStripe,
) -> None:
    expand: Any = {"expand": ["latest_charge.balance_transaction"]}
    late = await create(sim, paid(**expand))
    assert late.latest_charge.balance_transaction is None
    at_once = await create(sim, paid(capture_method="automatic", **expand))
    assert at_once.latest_charge.balance_transaction.fee == 320


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedLostCard", "card_declined", "lost_card"),
        ("pm_card_visa_chargeDeclinedStolenCard", "card_declined", "stolen_card"),
        ("pm_card_visa_chargeDeclinedExpiredCard", "expired_card", None),
        ("pm_card_visa_chargeDeclinedIncorrectCvc", "incorrect_cvc", None),
        ("pm_card_visa_chargeDeclinedProcessingError", "processing_error", None),
        (
            "pm_card_visa_chargeDeclinedVelocityLimitExceeded",
            "card_declined",
            "card_velocity_exceeded",
        ),
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
        ("pm_card_radarBlock", "card_declined", "fraudulent"),
    ],
)
async def test_a_decline_ends_the_try_and_not_the_payment(
    sim: SimulatedStripe, card: str, code: str, decline_code: str | None
) -> None:
    made = await create(sim, order())
    with pytest.raises(stripe.CardError) as refused:
        await sim.client.v1.payment_intents.confirm_async(made.id, {"payment_method": card})
    error: Any = refused.value.error
    assert (refused.value.http_status, error.code) == (402, code)
    assert getattr(error, "decline_code", None) == decline_code
    assert error.payment_intent.status == "requires_payment_method"
    assert error.payment_intent.last_payment_error.code == code
    assert sim.moved() == []
    again = await sim.client.v1.payment_intents.confirm_async(
        made.id, {"payment_method": "pm_card_mastercard"}
    )
    assert (again.status, again.last_payment_error) == ("succeeded", None)
    assert sim.moved() == [("capture", "ATT1", "99.99")]


async def test_an_authorization_is_captured_in_part_and_the_rest_given_back(
    sim: SimulatedStripe,
) -> None:
    held = await create(sim, paid(capture_method="manual"))
    assert (held.status, held.amount_capturable) == ("requires_capture", 9999)
    done = await sim.client.v1.payment_intents.capture_async(held.id, {"amount_to_capture": 4000})
    assert (done.status, done.amount_received, done.amount_capturable) == ("succeeded", 4000, 0)
    assert sim.moved() == [
        ("authorize", "ATT1", "99.99"),
        ("capture", "ATT1", "40.00"),
        ("void", "ATT1", "59.99"),
    ]
    rows = (await sim.client.v1.balance_transactions.list_async()).data
    assert [(row.reporting_category, row.amount, row.fee) for row in rows] == [
        ("partial_capture_reversal", -5999, 0),
        ("charge", 9999, 146),
    ]
    charge: Any = (await look(sim, held.id)).latest_charge
    assert (charge.amount_captured, charge.amount_refunded, charge.refunded) == (4000, 5999, False)


async def test_several_captures_leave_the_authorization_open_until_the_final_one(
    sim: SimulatedStripe,
) -> None:
    held = await create(sim, paid(capture_method="manual"))
    capture = sim.client.v1.payment_intents.capture_async
    first = await capture(held.id, {"amount_to_capture": 4000, "final_capture": False})
    assert (first.status, first.amount_received, first.amount_capturable) == (
        "requires_capture",
        4000,
        5999,
    )
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await capture(held.id, {"amount_to_capture": 6000})
    assert refused.value.code == "amount_too_large"
    last = await capture(held.id, {"amount_to_capture": 1000})
    assert (last.status, last.amount_received) == ("succeeded", 5000)
    assert [kind for kind, _own, _amount in sim.moved()] == [
        "authorize",
        "capture",
        "capture",
        "void",
    ]
    rows = (await sim.client.v1.balance_transactions.list_async()).data
    assert [(row.reporting_category, row.amount, row.fee) for row in rows] == [
        ("charge", 1000, 59),
        ("charge", 4000, 146),
    ]


async def test_an_authorization_runs_out_after_seven_days(
    sim: SimulatedStripe, clock: FakeClock
) -> None:
    held = await create(sim, paid(capture_method="manual"))
    before = (await look(sim, held.id)).latest_charge.payment_method_details.card.capture_before
    assert before == milliseconds(clock.now()) // 1000 + 7 * 86_400
    await sim.advance(7 * 86_400 - 1)
    assert (await look(sim, held.id)).status == "requires_capture"
    await sim.advance(1)
    gone = await look(sim, held.id)
    assert (gone.status, gone.cancellation_reason) == ("canceled", "automatic")
    assert {"payment_intent.canceled", "charge.expired"} <= set(sim.told())
    assert sim.moved()[-1] == ("void", "ATT1", "99.99")
    with pytest.raises(stripe.InvalidRequestError, match="status of canceled"):
        await sim.client.v1.payment_intents.capture_async(held.id)


async def test_a_merchants_authorization_of_visa_runs_out_after_five_days(
    sim: SimulatedStripe, clock: FakeClock
) -> None:
    held = await create(sim, paid(capture_method="manual", off_session=True))
    card = (await look(sim, held.id)).latest_charge.payment_method_details.card
    assert card.capture_before == milliseconds(clock.now()) // 1000 + 5 * 86_400


async def test_cancel_is_final_and_too_late_it_carries_the_payment(sim: SimulatedStripe) -> None:
    payments = sim.client.v1.payment_intents
    made = await create(sim, order())
    closed = await payments.cancel_async(made.id, {"cancellation_reason": "abandoned"})
    assert (closed.status, closed.cancellation_reason) == ("canceled", "abandoned")
    done = await create(sim, paid())
    for verb, ref, status in (
        (payments.confirm_async, made.id, "canceled"),
        (payments.cancel_async, made.id, "canceled"),
        (payments.cancel_async, done.id, "succeeded"),
        (payments.confirm_async, done.id, "succeeded"),
        (payments.capture_async, done.id, "succeeded"),
    ):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            await verb(ref)
        error: Any = refused.value.error
        assert (refused.value.http_status, error.code) == (400, "payment_intent_unexpected_state")
        assert (error.payment_intent.id, error.payment_intent.status) == (ref, status)
    held = await create(sim, paid(capture_method="manual"))
    assert (await payments.cancel_async(held.id)).status == "canceled"
    assert sim.moved()[-1] == ("void", "ATT1", "99.99")


async def test_the_buyer_authenticates_on_the_banks_page(sim: SimulatedStripe) -> None:
    made = await create(
        sim,
        order(
            automatic_payment_methods={"enabled": True},
            confirm=True,
            payment_method="pm_card_threeDSecure2Required",
            return_url=BACK,
        ),
    )
    action: Any = made.next_action
    assert (made.status, action.type) == ("requires_action", "redirect_to_url")
    assert action.redirect_to_url.return_url == BACK
    page = await sim.http.get(action.redirect_to_url.url)
    assert (page.status_code, "99.99" in page.text) == (200, True)
    sent = await sim.http.post(action.redirect_to_url.url, data={"does": "complete"})
    assert sent.status_code == 303
    assert sent.headers["location"].startswith(f"{BACK}?payment_intent={made.id}&")
    assert sent.headers["location"].endswith("redirect_status=succeeded")
    assert (await look(sim, made.id)).status == "succeeded"


async def test_a_buyer_who_fails_to_authenticate_may_try_another_card(sim: SimulatedStripe) -> None:
    made = await create(sim, paid(card="pm_card_authenticationRequired"))
    assert made.next_action.type == "use_stripe_sdk"  # no return_url
    answer = await sim.http.post("/_sim/buyer", json={"own_id": "ATT1", "does": "decline"})
    assert answer.status_code == 409
    failed = await look(sim, made.id)
    assert failed.status == "requires_payment_method"
    assert failed.last_payment_error.code == "payment_intent_authentication_failure"
    assert (await sim.buyer(made.id, "pay"))["status"] == "succeeded"


@pytest.mark.parametrize("word", ["off_session", "error_on_requires_action"])
async def test_without_the_buyer_authentication_is_a_decline(
    sim: SimulatedStripe, word: str
) -> None:
    with pytest.raises(stripe.CardError) as refused:
        await create(sim, paid(card="pm_card_authenticationRequired", **{word: True}))
    assert refused.value.code == "authentication_required"
    assert sim.moved() == []


@pytest.mark.parametrize(
    ("kind", "action"),
    [("wechat_pay", "wechat_pay_display_qr_code"), ("alipay", "alipay_handle_redirect")],
)
async def test_a_wallet_has_its_own_next_action(
    sim: SimulatedStripe, kind: str, action: str
) -> None:
    made = await sim.client.v1.payment_intents.create_async(
        {
            "amount": 9999,
            "currency": "usd",
            "payment_method_types": [kind],
            "payment_method_data": {"type": kind},
            "confirm": True,
            "return_url": BACK,
        }
    )
    assert (made.status, made.next_action.type) == ("requires_action", action)
    assert (await sim.buyer(made.id, "approve"))["status"] == "succeeded"


@pytest.mark.parametrize(
    ("iban", "ending"),
    [
        ("AT321904300235473204", "succeeded"),
        ("AT861904300235473202", "requires_payment_method"),
    ],
)
async def test_a_debit_is_processed_before_it_ends(
    sim: SimulatedStripe, iban: str, ending: str
) -> None:
    made = await sim.client.v1.payment_intents.create_async(
        {
            "amount": 9999,
            "currency": "eur",
            "payment_method_types": ["sepa_debit"],
            "payment_method_data": {"type": "sepa_debit", "sepa_debit": {"iban": iban}},
            "confirm": True,
        }
    )
    assert made.status == "processing"
    with pytest.raises(stripe.InvalidRequestError):
        await sim.client.v1.payment_intents.cancel_async(made.id)
    await sim.advance(60)
    assert (await look(sim, made.id)).status == ending
    assert len(sim.moved()) == (ending == "succeeded")


async def refund(sim: SimulatedStripe, pi: str, **more: Any) -> Any:
    return await sim.client.v1.refunds.create_async({"payment_intent": pi, **more})


async def test_refunds_are_listed_by_payment_and_never_exceed_it(sim: SimulatedStripe) -> None:
    done = await create(sim, paid())
    first = await refund(sim, done.id, amount=4000, metadata={"refund_id": "RF1"})
    assert (first.status, first.amount, first.charge) == ("succeeded", 4000, done.latest_charge)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        await refund(sim, done.id, amount=6000)
    rest = await refund(sim, done.id, reason="requested_by_customer")
    assert rest.amount == 5999
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await refund(sim, done.id)
    assert refused.value.code == "charge_already_refunded"
    listed = await sim.client.v1.refunds.list_async({"payment_intent": done.id, "limit": 100})
    assert [one.id for one in listed.data] == [rest.id, first.id]
    assert (await look(sim, done.id)).status == "succeeded"
    assert (await look(sim, done.id)).latest_charge.refunded
    assert sim.moved()[1:] == [("refund", "RF1", "40.00"), ("refund", "", "59.99")]


async def test_a_refund_waits_or_comes_back_with_the_published_cards(sim: SimulatedStripe) -> None:
    retrieve = sim.client.v1.refunds.retrieve_async
    slow = await refund(sim, (await create(sim, paid(card="pm_card_pendingRefund"))).id)
    back = await refund(sim, (await create(sim, paid(card="pm_card_refundFail"))).id)
    assert (slow.status, slow.pending_reason, back.status) == ("pending", "processing", "succeeded")
    await sim.advance(60)
    assert (await retrieve(slow.id)).status == "succeeded"
    failed = await retrieve(back.id)
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    assert {"refund.created", "refund.updated", "refund.failed"} <= set(sim.told())
    assert [kind for kind, *_ in sim.moved()] == [
        "capture",
        "capture",
        "refund",
        "refund",
        "refund_reversed",
    ]
    rows = await sim.client.v1.balance_transactions.list_async({"type": "refund_failure"})
    assert [(row.amount, row.source) for row in rows.data] == [(9999, back.id)]


async def test_a_dispute_takes_the_money_until_the_shop_wins(sim: SimulatedStripe) -> None:
    done = await create(sim, paid(card="pm_card_createDispute"))
    [dispute] = (await sim.client.v1.disputes.list_async({"payment_intent": done.id})).data
    assert (dispute.status, dispute.reason, dispute.amount) == (
        "needs_response",
        "fraudulent",
        9999,
    )
    assert (await look(sim, done.id)).status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError, match="charged back"):
        await refund(sim, done.id)
    await sim.buyer(done.id, "won")
    assert (await sim.client.v1.disputes.retrieve_async(dispute.id)).status == "won"
    assert [kind for kind, *_ in sim.moved()] == ["capture", "dispute", "dispute_reversed"]
    assert [kind for kind in sim.told() if "dispute" in kind] == [
        f"charge.dispute.{what}"
        for what in ("created", "funds_withdrawn", "updated", "closed", "funds_reinstated")
    ]


async def test_an_inquiry_takes_no_money(sim: SimulatedStripe) -> None:
    done = await create(sim, paid(card="pm_card_createDisputeInquiry"))
    await sim.buyer(done.id, "lost")
    assert [kind for kind, *_ in sim.moved()] == ["capture"]


def session(**more: Any) -> dict[str, Any]:
    price = {"currency": "usd", "unit_amount": 5000, "product_data": {"name": "Tea & <cake>"}}
    return {
        "mode": "payment",
        "line_items": [{"price_data": price, "quantity": 2}],
        "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
        "cancel_url": BACK,
        "payment_intent_data": {"metadata": {"attempt_id": "ATT9"}},
        **more,
    }


async def test_a_hosted_page_takes_the_money_after_a_decline(sim: SimulatedStripe) -> None:
    made = await sim.client.v1.checkout.sessions.create_async(session())
    assert (made.status, made.payment_status, made.payment_intent) == ("open", "unpaid", None)
    page = await sim.http.get(made.url)
    assert "100.00 USD" in page.text
    assert "Tea &amp; &lt;cake&gt;" in page.text
    refused = await sim.http.post(made.url, data={"card": "4000000000000002"})
    assert (refused.status_code, "declined" in refused.text) == (402, True)
    known: Any = await sim.client.v1.checkout.sessions.retrieve_async(
        made.id, {"expand": ["payment_intent"]}
    )
    assert (known.status, known.payment_intent.status) == ("open", "requires_payment_method")
    with pytest.raises(stripe.InvalidRequestError, match="Expire the Session"):
        await sim.client.v1.payment_intents.cancel_async(known.payment_intent.id)
    done = await sim.http.post(made.url, data={"card": "4242424242424242"})
    assert done.headers["location"] == f"https://shop.example/done?session={made.id}"
    known = await sim.client.v1.checkout.sessions.retrieve_async(made.id)
    assert (known.status, known.payment_status, known.url) == ("complete", "paid", None)
    assert sim.moved() == [("capture", "ATT9", "100.00")]
    assert "checkout.session.completed" in sim.told()


async def test_a_hosted_page_authenticates_and_comes_back(sim: SimulatedStripe) -> None:
    made = await sim.client.v1.checkout.sessions.create_async(session())
    sent = await sim.http.post(made.url, data={"card": "4000000000003220"})
    bank = sent.headers["location"]
    assert "/_sim/authenticate/" in bank
    failed = await sim.http.post(bank, data={"does": "fail"})
    assert failed.headers["location"].endswith(f"/_sim/checkout/{made.id}")
    sent = await sim.http.post(made.url, data={"card": "4000000000003220"})
    done = await sim.http.post(sent.headers["location"], data={"does": "complete"})
    assert done.headers["location"] == f"https://shop.example/done?session={made.id}"
    assert sim.moved() == [("capture", "ATT9", "100.00")]


async def test_a_session_ends_by_order_or_by_itself(sim: SimulatedStripe, clock: FakeClock) -> None:
    sessions = sim.client.v1.checkout.sessions
    made = await sessions.create_async(session())
    assert (await sessions.expire_async(made.id)).status == "expired"
    with pytest.raises(stripe.InvalidRequestError, match="can be expired"):
        await sessions.expire_async(made.id)
    assert (await sim.http.post(made.url, data={"card": "4242424242424242"})).status_code == 410
    soon = milliseconds(clock.now()) // 1000 + 1800
    short = await sessions.create_async(session(expires_at=soon))
    await sim.advance(1800)
    assert (await sessions.retrieve_async(short.id)).status == "expired"
    assert sim.told().count("checkout.session.expired") == 2
    assert sim.moved() == []


async def test_a_shops_own_page_pays_with_the_client_secret(sim: SimulatedStripe) -> None:
    made = await create(sim, order())
    url = f"/_sim/pay/{made.id}"
    assert "99.99" in (await sim.http.get(url)).text
    assert (await sim.http.post(url, data={"card": "4242424242424241"})).status_code == 402
    assert (await sim.http.post(url, data={"card": "4242424242424242"})).status_code == 303
    assert "succeeded" in (await sim.http.get(url)).text


async def test_the_statement_has_pages_and_bounds(sim: SimulatedStripe, clock: FakeClock) -> None:
    begin = milliseconds(clock.now()) // 1000
    for _ in range(3):
        await create(sim, paid())
        await sim.advance(10)
    transactions = sim.client.v1.balance_transactions
    page = await transactions.list_async({"limit": 2, "expand": ["data.source"]})
    assert (len(page.data), page.has_more, page.data[0].source.object) == (2, True, "charge")
    assert [row.id async for row in page.auto_paging_iter()] == [
        row.id for row in (await transactions.list_async()).data
    ]
    within = await transactions.list_async({"created": {"gt": begin, "lt": begin + 20}})
    assert [row.created for row in within.data] == [begin + 10]
    assert sum(row.net for row in (await transactions.list_async()).data) == 3 * 9679
    balance = await sim.client.v1.balance.retrieve_async()
    assert balance.available[0].amount == 3 * 9679


async def test_a_foreign_currency_is_settled_in_the_accounts(sim: SimulatedStripe) -> None:
    done = await create(sim, paid(1500, currency="jpy", capture_method="automatic"))
    row = (await look(sim, done.id)).latest_charge.balance_transaction
    assert (row.currency, row.amount, row.fee, row.exchange_rate) == ("usd", 1000, 59, 0.006667)
    assert sim.moved() == [("capture", "ATT1", "1500")]


async def test_events_are_signed_and_those_not_taken_are_listed(
    sim: SimulatedStripe, endpoint: Endpoint, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: clock.now().timestamp())
    await sim.http.post("/_sim/webhooks", json={"url": endpoint.url})
    await sim.http.post("/_sim/webhooks/mode", json={"hold": True})
    done = await create(sim, paid(capture_method="automatic"), "ATT1-create")
    await sim.http.post("/_sim/webhooks/flush")
    secret = CONFIG.webhook_secret
    events = [stripe.Webhook.construct_event(body, sign, secret) for body, sign in endpoint.taken]
    assert [event.type for event in events] == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
    ]
    event = events[-1]
    assert (event.data.object.id, event.api_version) == (done.id, stripe.api_version)
    assert event.request.idempotency_key == "ATT1-create"
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(*endpoint.taken[0], "whsec_other")
    await create(sim, order())  # held back
    list_events = sim.client.v1.events.list_async
    assert len((await list_events({"delivery_success": False})).data) == 1
    endpoint.status = 302
    await sim.http.post("/_sim/webhooks/flush")
    missed = await list_events({"delivery_success": False, "type": "payment_intent.*"})
    assert [one.type for one in missed.data] == ["payment_intent.created"]
    taken = await list_events({"delivery_success": True, "limit": 2})
    assert [one.type for one in taken.data] == ["payment_intent.succeeded", "charge.succeeded"]
    assert taken.has_more


async def test_two_secrets_sign_while_one_is_rolled(
    sim: SimulatedStripe, endpoint: Endpoint, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: clock.now().timestamp())
    await sim.http.post("/_sim/webhooks/mode", json={"hold": True})
    await sim.http.post(
        "/_sim/webhooks", json={"url": endpoint.url, "secret": "whsec_new whsec_old"}
    )
    await create(sim, order())
    await sim.http.post("/_sim/webhooks/flush")
    for secret in ("whsec_new", "whsec_old"):
        assert stripe.Webhook.construct_event(*endpoint.taken[0], secret)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sk_test_somebody_elses_key_0000", stripe.AuthenticationError),
        (CONFIG.publishable_key, stripe.PermissionError),
        (CONFIG.reading_key, stripe.PermissionError),
    ],
)
async def test_a_wrong_key_does_nothing(
    sim: SimulatedStripe, key: str, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        await sim.client_with(key).v1.payment_intents.create_async(paid())
    assert sim.moved() == []


async def test_credentials_can_be_tried_without_doing_anything(sim: SimulatedStripe) -> None:
    reader = sim.client_with(CONFIG.reading_key)
    assert (await reader.v1.balance.retrieve_async()).object == "balance"
    account = await reader.v1.accounts.retrieve_current_async()
    assert (account.id, account.charges_enabled) == (CONFIG.account, True)
    assert account.default_currency == "usd"
