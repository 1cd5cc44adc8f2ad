"""The simulated PayPal: orders, authorizations, captures, refunds, request ids, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mesh.money import Money
from sandbox.providers.paypal import triggers
from sandbox.providers.paypal.amounts import CURRENCIES, fee_of, read_amount, written_value
from sandbox.providers.paypal.config import pause_seconds
from tests.support.fakes import FakeClock
from tests.support.simulated_paypal import PayPalShop, issue_of, order_body, paypal_shop

DAY = 86_400
ORDERS = "/v2/checkout/orders"
AUTHORIZATIONS = "/v2/payments/authorizations"
CAPTURES = "/v2/payments/captures"
REFUNDS = "/v2/payments/refunds"


@pytest.fixture
async def shop() -> AsyncIterator[PayPalShop]:
    async with paypal_shop(FakeClock()) as it:
        yield it


# --- tokens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "form", "status", "error"),
    [
        (("wrong", "secret"), {"grant_type": "client_credentials"}, 401, "invalid_client"),
        (None, {"grant_type": "client_credentials"}, 401, "invalid_client"),
        ("right", {"grant_type": "password"}, 400, "unsupported_grant_type"),
        ("right", {}, 400, "unsupported_grant_type"),
    ],
)
async def test_a_token_is_for_the_client_alone(
    shop: PayPalShop, auth: Any, form: dict[str, str], status: int, error: str
) -> None:
    config = shop.simulation.config
    if auth == "right":
        auth = (config.client_id, config.client_secret)
    answer = await shop.client.post("/v1/oauth2/token", data=form, auth=auth)
    assert (answer.status_code, answer.json()["error"]) == (status, error)


async def test_a_token_ends_after_the_time_that_it_names(shop: PayPalShop) -> None:
    seconds = (await shop.fetch_token())["expires_in"]
    assert seconds == 9 * 3600
    await shop.advance(seconds - 1)
    assert (await shop.post(ORDERS, order_body())).status_code == 201
    await shop.advance(1)
    answer = await shop.post(ORDERS, order_body())
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


async def test_a_call_without_a_token_or_with_another_is_refused(shop: PayPalShop) -> None:
    bare = await shop.client.get(f"{ORDERS}/X")
    assert issue_of(bare) == (401, "AUTHENTICATION_FAILURE")
    shop.token = "A21AAsomething"
    other = await shop.get(f"{ORDERS}/X")
    assert (other.status_code, other.json()["error"]) == (401, "invalid_token")


# --- orders -----------------------------------------------------------------------------------------


async def test_an_order_goes_from_its_making_to_a_paid_capture(shop: PayPalShop) -> None:
    made = (await shop.post(ORDERS, order_body())).json()
    assert made["status"] == "PAYER_ACTION_REQUIRED"
    link = next(link for link in made["links"] if link["rel"] == "payer-action")
    assert "Two mugs" in (await shop.client.get(link["href"])).text
    back = await shop.client.post(link["href"], data={"does": "approve"})
    assert back.status_code == 303
    assert back.headers["location"].startswith("https://shop.test/done?order=1&token=" + made["id"])
    assert (await shop.get(f"{ORDERS}/{made['id']}")).json()["status"] == "APPROVED"
    done = (await shop.capture_order(made["id"])).json()
    capture = done["purchase_units"][0]["payments"]["captures"][0]
    assert (done["status"], capture["status"]) == ("COMPLETED", "COMPLETED")
    assert capture["seller_receivable_breakdown"] == {
        "gross_amount": {"currency_code": "USD", "value": "99.99"},
        "paypal_fee": {"currency_code": "USD", "value": "3.20"},
        "net_amount": {"currency_code": "USD", "value": "96.79"},
    }
    assert capture["custom_id"] == capture["invoice_id"] == "ATT0001"
    assert capture["supplementary_data"]["related_ids"]["order_id"] == made["id"]
    assert shop.moved() == [("capture", "99.99")]
    assert shop.events() == [
        "CHECKOUT.ORDER.APPROVED",
        "PAYMENT.CAPTURE.COMPLETED",
        "CHECKOUT.ORDER.COMPLETED",
    ]


async def test_a_buyer_who_cancels_goes_back_and_nothing_changes(shop: PayPalShop) -> None:
    made = (await shop.post(ORDERS, order_body())).json()
    back = await shop.client.post(f"/checkoutnow?token={made['id']}", data={"does": "cancel"})
    assert back.headers["location"] == f"https://shop.test/cancelled?token={made['id']}"
    assert issue_of(await shop.capture_order(made["id"])) == (422, "ORDER_NOT_APPROVED")


async def test_an_order_without_a_payment_source_has_a_link_to_approve(shop: PayPalShop) -> None:
    body = order_body()
    del body["payment_source"]
    made = (await shop.post(ORDERS, body, request_id="")).json()
    assert made["status"] == "CREATED"
    assert "approve" in {link["rel"] for link in made["links"]}


async def test_the_minimal_answer_names_no_fee(shop: PayPalShop) -> None:
    answer = await shop.capture_order(await shop.approved(), prefer="return=minimal")
    assert answer.json().keys() == {"id", "status", "links"}


async def test_an_order_is_captured_once_whatever_the_request_id(shop: PayPalShop) -> None:
    order_id = await shop.approved()
    assert (await shop.capture_order(order_id)).status_code == 201
    assert issue_of(await shop.capture_order(order_id)) == (422, "ORDER_ALREADY_CAPTURED")
    assert shop.moved() == [("capture", "99.99")]


async def test_an_invoice_id_is_paid_once(shop: PayPalShop) -> None:
    await shop.captured()
    second = await shop.approved()
    assert issue_of(await shop.capture_order(second)) == (422, "DUPLICATE_INVOICE_ID")
    third = await shop.approved(order_body(intent="AUTHORIZE"))
    assert issue_of(await shop.post(f"{ORDERS}/{third}/authorize")) == (422, "DUPLICATE_INVOICE_ID")
    assert shop.moved() == [("capture", "99.99")]


async def test_an_order_is_gone_after_six_hours(shop: PayPalShop) -> None:
    order_id = await shop.approved()
    await shop.advance(6 * 3600 - 1)
    assert (await shop.get(f"{ORDERS}/{order_id}")).status_code == 200
    await shop.advance(1)
    assert issue_of(await shop.get(f"{ORDERS}/{order_id}")) == (404, "INVALID_RESOURCE_ID")
    assert issue_of(await shop.capture_order(order_id)) == (404, "INVALID_RESOURCE_ID")
    assert shop.events()[-1] == "CHECKOUT.PAYMENT-APPROVAL.REVERSED"
    assert (await shop.deed(order_id, "approve")).status_code == 409


async def test_a_captured_order_stays(shop: PayPalShop) -> None:
    order_id = await shop.approved()
    await shop.capture_order(order_id)
    await shop.advance(8 * 3600)
    assert (await shop.get(f"{ORDERS}/{order_id}")).json()["status"] == "COMPLETED"


async def test_a_life_that_was_ended_early_ends_once(shop: PayPalShop) -> None:
    order_id = await shop.approved()
    await shop.deed(order_id, "expire")
    await shop.advance(7 * 3600)
    assert shop.events().count("CHECKOUT.PAYMENT-APPROVAL.REVERSED") == 1


async def test_an_order_for_a_capture_is_not_authorized(shop: PayPalShop) -> None:
    order_id = await shop.approved()
    answer = await shop.post(f"{ORDERS}/{order_id}/authorize")
    assert issue_of(answer) == (422, "ACTION_DOES_NOT_MATCH_INTENT")


async def test_the_instruction_to_complete_captures_without_the_shop(shop: PayPalShop) -> None:
    body = order_body() | {"processing_instruction": "ORDER_COMPLETE_ON_PAYMENT_APPROVAL"}
    await shop.approved(body)
    assert shop.moved() == [("capture", "99.99")]


# --- what a request may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "issue"),
    [
        ({}, 400, "MISSING_REQUIRED_PARAMETER"),
        (order_body() | {"intent": "SALE"}, 400, "INVALID_PARAMETER_VALUE"),
        (order_body() | {"surprise": 1}, 400, "INVALID_PARAMETER_SYNTAX"),
        (order_body() | {"purchase_units": []}, 400, "INVALID_PARAMETER_SYNTAX"),
        (order_body(custom_id="x" * 128), 400, "INVALID_PARAMETER_SYNTAX"),
        (
            order_body(amount={"currency_code": "USD", "value": 9.99}),
            400,
            "INVALID_PARAMETER_VALUE",
        ),
        (order_body("-1.00"), 400, "INVALID_PARAMETER_SYNTAX"),
        (order_body("1e2"), 400, "INVALID_PARAMETER_SYNTAX"),
        (order_body("1", "usd"), 400, "INVALID_PARAMETER_SYNTAX"),
        (order_body("0.00"), 422, "CANNOT_BE_ZERO_OR_NEGATIVE"),
        (order_body("1.00", "XAU"), 422, "CURRENCY_NOT_SUPPORTED"),
        (order_body("1.00", "KWD"), 422, "CURRENCY_NOT_SUPPORTED"),
        (order_body("12.50", "HUF"), 422, "DECIMALS_NOT_SUPPORTED"),
        (order_body("12.50", "JPY"), 422, "DECIMALS_NOT_SUPPORTED"),
        (order_body("12.50", "TWD"), 422, "DECIMALS_NOT_SUPPORTED"),
        (order_body("12.505"), 422, "DECIMAL_PRECISION"),
    ],
)
async def test_a_body_that_is_no_order_is_refused(
    shop: PayPalShop, body: Any, status: int, issue: str
) -> None:
    assert issue_of(await shop.post(ORDERS, body)) == (status, issue)


async def test_two_purchase_units_are_refused(shop: PayPalShop) -> None:
    body = order_body()
    body["purchase_units"] *= 2
    assert issue_of(await shop.post(ORDERS, body)) == (422, "UNSUPPORTED_MULTIPLE_PURCHASE_UNITS")


async def test_text_that_is_no_json_is_refused(shop: PayPalShop) -> None:
    headers = {"authorization": f"Bearer {shop.token}", "content-type": "application/json"}
    answer = await shop.client.post(ORDERS, content=b"{", headers=headers)
    assert issue_of(answer) == (400, "MALFORMED_REQUEST_JSON")
    headers["content-type"] = "text/plain"
    answer = await shop.client.post(ORDERS, content=b"{}", headers=headers)
    assert issue_of(answer) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("request_id", "prefer", "issue"),
    [
        ("", "return=minimal", "PAYPAL_REQUEST_ID_REQUIRED"),
        ("x" * 109, "return=minimal", "INVALID_STRING_LENGTH"),
        ("1", "return=everything", "INVALID_PARAMETER_VALUE"),
    ],
)
async def test_headers_are_checked_before_anything_is_done(
    shop: PayPalShop, request_id: str, prefer: str, issue: str
) -> None:
    answer = await shop.post(ORDERS, order_body(), request_id=request_id, prefer=prefer)
    assert issue_of(answer) == (400, issue)


async def test_an_unknown_path_and_a_wrong_method_have_answers_of_paypals_form(
    shop: PayPalShop,
) -> None:
    assert issue_of(await shop.get("/v2/nothing")) == (404, "RESOURCE_NOT_FOUND")
    assert issue_of(await shop.get(f"{ORDERS}/X/capture")) == (405, "METHOD_NOT_SUPPORTED")


# --- request ids ------------------------------------------------------------------------------------


async def test_a_repeated_call_gets_the_first_answer_with_200(shop: PayPalShop) -> None:
    first = await shop.post(ORDERS, order_body(), request_id="A")
    second = await shop.post(ORDERS, order_body("5.00"), request_id="A")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.content == second.content
    await shop.advance(6 * 3600)
    third = await shop.post(ORDERS, order_body(), request_id="A")
    assert third.status_code == 201
    assert third.json()["id"] != first.json()["id"]


async def test_a_refund_is_remembered_for_45_days(shop: PayPalShop) -> None:
    capture_id = (await shop.captured())["id"]
    first = await shop.refund(capture_id, "10.00", request_id="R")
    await shop.advance(45 * DAY - 1)
    await shop.fetch_token()
    assert (await shop.refund(capture_id, "10.00", request_id="R")).content == first.content
    assert shop.moved() == [("capture", "99.99"), ("refund", "10.00")]
    await shop.advance(1)
    assert (await shop.refund(capture_id, "10.00", request_id="R")).status_code == 201
    assert shop.moved()[1:] == [("refund", "10.00")] * 2


async def test_a_refused_call_is_not_remembered(shop: PayPalShop) -> None:
    made = (await shop.post(ORDERS, order_body())).json()
    assert (await shop.capture_order(made["id"], request_id="C")).status_code == 422
    await shop.deed(made["id"], "approve")
    assert (await shop.capture_order(made["id"], request_id="C")).status_code == 201


class Gate:
    """Slow calls wait here in place of two seconds."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def wait(self, _seconds: float) -> None:
        self.reached.set()
        await self.opened.wait()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    it = Gate()
    monkeypatch.setattr("sandbox.providers.paypal.calls.sleep", it.wait)
    return it


@pytest.mark.parametrize("request_id", ["same", "other"])
async def test_a_second_capture_is_told_to_wait_while_the_first_runs(
    shop: PayPalShop, gate: Gate, request_id: str
) -> None:
    order_id = await shop.approved(order_body("10.46"))
    first = asyncio.create_task(shop.capture_order(order_id, request_id="same"))
    await gate.reached.wait()
    second = await shop.capture_order(order_id, request_id=request_id)
    assert issue_of(second) == (422, "ORDER_COMPLETION_IN_PROGRESS")
    gate.opened.set()
    assert (await first).status_code == 201
    assert shop.moved() == [("capture", "10.46")]


async def test_a_second_refund_is_told_to_wait_while_the_first_runs(
    shop: PayPalShop, gate: Gate
) -> None:
    capture_id = (await shop.captured())["id"]
    first = asyncio.create_task(shop.refund(capture_id, "10.72", request_id="R"))
    await gate.reached.wait()
    second = await shop.refund(capture_id, "10.72", request_id="R")
    assert issue_of(second) == (409, "PREVIOUS_REQUEST_IN_PROGRESS")
    gate.opened.set()
    assert (await first).status_code == 201


# --- triggers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "course"), triggers.CAPTURES.items())
async def test_a_capture_becomes_what_its_amount_asks_for(
    shop: PayPalShop, digits: int, course: triggers.CaptureCourse
) -> None:
    capture = await shop.captured(order_body(f"10.{digits}"))
    assert capture["status"] == course.status
    assert capture.get("status_details", {}).get("reason", "") == course.reason
    assert shop.moved() == []
    await shop.advance(triggers.LATER_SECONDS)
    later = (await shop.get(f"{CAPTURES}/{capture['id']}")).json()
    assert later["status"] == (course.then or course.status)
    paid = later["status"] == "COMPLETED"
    assert shop.moved() == ([("capture", f"10.{digits}")] if paid else [])
    assert ("paypal_fee" in later.get("seller_receivable_breakdown", {})) is paid


@pytest.mark.parametrize(("digits", "issue"), triggers.CAPTURES_REFUSED.items())
async def test_a_capture_is_refused_as_its_amount_asks_for(
    shop: PayPalShop, digits: int, issue: str
) -> None:
    order_id = await shop.approved(order_body(f"10.{digits}"))
    assert issue_of(await shop.capture_order(order_id)) == (422, issue)
    assert (await shop.get(f"{ORDERS}/{order_id}")).json()["status"] == "APPROVED"
    assert shop.moved() == []


async def test_a_refused_instrument_sends_the_buyer_back(shop: PayPalShop) -> None:
    order_id = await shop.approved(order_body("10.33"))
    answer = await shop.capture_order(order_id)
    assert issue_of(answer) == (422, "INSTRUMENT_DECLINED")
    assert answer.json()["links"][0]["rel"] == "redirect"
    page = await shop.client.get(answer.json()["links"][0]["href"])
    assert "another way to pay" in page.text
    assert issue_of(await shop.capture_order(order_id)) == (422, "INSTRUMENT_DECLINED")
    await shop.deed(order_id, "approve")
    assert (await shop.capture_order(order_id)).status_code == 201


@pytest.mark.parametrize("deed", ["settle", "deny"])
async def test_somebody_settles_or_denies_a_pending_capture(shop: PayPalShop, deed: str) -> None:
    capture = await shop.captured(order_body("10.13"))
    assert (await shop.deed(capture["id"], deed)).status_code == 200
    later = (await shop.get(f"{CAPTURES}/{capture['id']}")).json()["status"]
    assert later == ("COMPLETED" if deed == "settle" else "DECLINED")
    assert shop.events()[-1] == f"PAYMENT.CAPTURE.{later}"


async def test_a_chargeback_takes_a_capture_back(shop: PayPalShop) -> None:
    capture = await shop.captured(order_body("10.81"))
    await shop.advance(60)
    assert shop.moved() == [("capture", "10.81"), ("dispute", "10.81")]
    assert shop.events()[-1] == "PAYMENT.CAPTURE.REVERSED"
    answer = await shop.refund(capture["id"])
    assert issue_of(answer) == (422, "REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK")


@pytest.mark.parametrize(("digits", "outcome"), triggers.DISPUTED.items())
async def test_a_dispute_opens_and_ends(shop: PayPalShop, digits: int, outcome: str) -> None:
    capture = await shop.captured(order_body(f"10.{digits}"))
    await shop.advance(60)
    assert shop.events()[-1] == "CUSTOMER.DISPUTE.CREATED"
    assert issue_of(await shop.refund(capture["id"])) == (422, "TRANSACTION_DISPUTED")
    await shop.advance(60)
    assert shop.events()[-1] == "CUSTOMER.DISPUTE.RESOLVED"
    lost = ("dispute", f"10.{digits}") in shop.moved()
    assert lost is (outcome == "RESOLVED_BUYER_FAVOUR")


async def test_every_pending_reason_of_paypal_can_be_asked_for() -> None:
    assert {course.reason for course in triggers.CAPTURES.values()} - {""} == {
        "BUYER_COMPLAINT",
        "CHARGEBACK",
        "ECHECK",
        "INTERNATIONAL_WITHDRAWAL",
        "OTHER",
        "PENDING_REVIEW",
        "RECEIVING_PREFERENCE_MANDATES_MANUAL_ACTION",
        "REFUNDED",
        "TRANSACTION_APPROVED_AWAITING_FUNDING",
        "UNILATERAL",
        "VERIFICATION_REQUIRED",
        "DECLINED_BY_RISK_FRAUD_FILTERS",
    }


def test_every_trigger_stands_in_the_table() -> None:
    known = {
        *triggers.CAPTURES,
        *triggers.CAPTURES_REFUSED,
        *triggers.SLOW,
        *triggers.DISPUTED,
        *triggers.REFUNDS,
        *triggers.REFUNDS_REFUSED,
        triggers.FUNDING_DECLINED,
        triggers.CHARGED_BACK,
        triggers.AUTHORIZATION_PENDING,
        triggers.AUTHORIZATION_DENIED,
        triggers.PART_REFUSED,
    }
    lines = (triggers.__doc__ or "").splitlines()
    assert {int(line[2:4]) for line in lines if line[2:4].isdigit()} == known


@pytest.mark.parametrize(
    ("issue", "status"),
    [
        ("INSTRUMENT_DECLINED", 422),
        ("DUPLICATE_INVOICE_ID", 422),
        ("PERMISSION_DENIED", 403),
        ("INVALID_RESOURCE_ID", 404),
        ("RATE_LIMIT_REACHED", 429),
        ("INTERNAL_SERVER_ERROR", 500),
    ],
)
async def test_a_mock_response_is_answered_and_nothing_is_done(
    shop: PayPalShop, issue: str, status: int
) -> None:
    order_id = await shop.approved()
    mock = f'{{"mock_application_codes":"{issue}"}}'
    answer = await shop.capture_order(order_id, paypal_mock_response=mock)
    assert issue_of(answer) == (status, issue)
    assert shop.moved() == []
    answer = await shop.capture_order(order_id, paypal_mock_response="{}")
    assert issue_of(answer) == (400, "INVALID_PARAMETER_SYNTAX")


# --- amounts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("currency", sorted(CURRENCIES))
def test_every_currency_is_written_as_it_is_read(currency: str) -> None:
    value = "1234" if currency in {"HUF", "JPY", "TWD"} else "1234.50"
    money = read_amount(currency, value, field="/amount")
    assert written_value(money) == value
    assert written_value(fee_of(money)).count(".") == value.count(".")


def test_a_fee_is_at_most_the_payment() -> None:
    assert fee_of(Money(20, "USD")) == Money(20, "USD")
    assert fee_of(Money(123400, "HUF")) == Money(3600, "HUF")


def test_an_event_is_repeated_25_times_in_three_days() -> None:
    pauses = [pause_seconds(tries, 500) for tries in range(1, 27)]
    assert pauses[-1] is None
    assert None not in pauses[:-1]
    assert 2 * DAY < sum(pause or 0 for pause in pauses) <= 3 * DAY
