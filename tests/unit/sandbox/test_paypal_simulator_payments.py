"""The simulated PayPal after the capture: authorizations, refunds, transaction search, events."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandbox.providers.paypal import triggers
from tests.support.fakes import FakeClock
from tests.support.simulated_paypal import PayPalShop, issue_of, order_body, paypal_shop

DAY = 86_400
AUTHORIZATIONS = "/v2/payments/authorizations"
CAPTURES = "/v2/payments/captures"
REFUNDS = "/v2/payments/refunds"
SEARCH = "/v1/reporting/transactions"
EVENTS = "/v1/notifications/webhooks-events"
TODAY = {"start_date": "2026-11-20T00:00:00Z", "end_date": "2026-11-21T00:00:00Z"}


@pytest.fixture
async def shop() -> AsyncIterator[PayPalShop]:
    async with paypal_shop(FakeClock()) as it:
        yield it


# --- authorizations ---------------------------------------------------------------------------------


async def test_an_authorization_is_captured_in_parts(shop: PayPalShop) -> None:
    held = await shop.authorized("100.00")
    path = f"{AUTHORIZATIONS}/{held['id']}"
    part = {"amount": {"currency_code": "USD", "value": "30.00"}}
    assert (await shop.post(f"{path}/capture", part)).json()["final_capture"] is False
    assert (await shop.get(path)).json()["status"] == "PARTIALLY_CAPTURED"
    too_much = {"amount": {"currency_code": "USD", "value": "70.01"}}
    answer = await shop.post(f"{path}/capture", too_much)
    assert issue_of(answer) == (422, "MAX_CAPTURE_AMOUNT_EXCEEDED")
    await shop.post(f"{path}/capture", part | {"final_capture": True})
    assert (await shop.get(path)).json()["status"] == "CAPTURED"
    assert shop.moved() == [
        ("authorize", "100.00"),
        ("capture", "30.00"),
        ("capture", "30.00"),
        ("void", "40.00"),
    ]
    for call in ("capture", "void", "reauthorize"):
        answer = await shop.post(f"{path}/{call}")
        assert issue_of(answer) == (422, "AUTHORIZATION_ALREADY_CAPTURED")


async def test_an_authorization_is_let_go(shop: PayPalShop) -> None:
    held = await shop.authorized()
    path = f"{AUTHORIZATIONS}/{held['id']}"
    answer = await shop.post(f"{path}/void", prefer="return=minimal")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await shop.get(path)).json()["status"] == "VOIDED"
    assert shop.moved() == [("authorize", "99.99"), ("void", "99.99")]
    assert shop.events()[-1] == "PAYMENT.AUTHORIZATION.VOIDED"
    order_id = held["supplementary_data"]["related_ids"]["order_id"]
    assert (await shop.get(f"/v2/checkout/orders/{order_id}")).json()["status"] == "VOIDED"
    assert issue_of(await shop.post(f"{path}/void")) == (422, "PREVIOUSLY_VOIDED")
    assert issue_of(await shop.post(f"{path}/capture")) == (422, "PREVIOUSLY_VOIDED")


async def test_an_authorization_ends_after_29_days(shop: PayPalShop) -> None:
    held = await shop.authorized()
    assert held["expiration_time"] == "2026-12-19T12:00:00Z"
    await shop.advance(29 * DAY)
    await shop.fetch_token()
    assert (await shop.get(f"{AUTHORIZATIONS}/{held['id']}")).json()["status"] == "VOIDED"
    assert shop.moved()[-1] == ("void", "99.99")


@pytest.mark.parametrize(
    ("digits", "first", "later"), [(47, "PENDING", "CREATED"), (48, "DENIED", "DENIED")]
)
async def test_an_authorization_becomes_what_its_amount_asks_for(
    shop: PayPalShop, digits: int, first: str, later: str
) -> None:
    held = await shop.authorized(f"10.{digits}")
    assert held["status"] == first
    assert shop.moved() == []
    await shop.advance(60)
    assert (await shop.get(f"{AUTHORIZATIONS}/{held['id']}")).json()["status"] == later
    assert shop.moved() == ([("authorize", f"10.{digits}")] if later == "CREATED" else [])


async def test_an_authorization_is_renewed_once_after_three_days(shop: PayPalShop) -> None:
    held = await shop.authorized("100.00")
    path = f"{AUTHORIZATIONS}/{held['id']}/reauthorize"
    more = {"amount": {"currency_code": "USD", "value": "115.00"}}
    too_much = {"amount": {"currency_code": "USD", "value": "115.01"}}
    assert issue_of(await shop.post(path, more)) == (422, "REAUTHORIZATION_TOO_SOON")
    await shop.advance(3 * DAY)
    await shop.fetch_token()
    assert issue_of(await shop.post(path, too_much)) == (422, "AMOUNT_CANNOT_BE_GREATER")
    second = (await shop.post(path, more)).json()
    assert (second["status"], second["expiration_time"]) == ("CREATED", held["expiration_time"])
    answer = await shop.post(f"{AUTHORIZATIONS}/{second['id']}/reauthorize")
    assert issue_of(answer) == (422, "MAX_NUMBER_OF_REAUTHORIZATION_ALLOWED_EXCEEDED")
    assert issue_of(await shop.post(path, more)) == (422, "PREVIOUSLY_VOIDED")
    assert shop.moved() == [("authorize", "100.00"), ("void", "100.00"), ("authorize", "115.00")]


async def test_seventy_five_dollars_are_the_most_that_a_renewal_adds(shop: PayPalShop) -> None:
    held = await shop.authorized("1000.00")
    await shop.advance(3 * DAY)
    await shop.fetch_token()
    path = f"{AUTHORIZATIONS}/{held['id']}/reauthorize"
    too_much = {"amount": {"currency_code": "USD", "value": "1075.01"}}
    assert issue_of(await shop.post(path, too_much)) == (422, "AMOUNT_CANNOT_BE_GREATER")


async def test_a_declined_capture_leaves_its_authorization_as_it_was(shop: PayPalShop) -> None:
    held = await shop.authorized("100.00")
    path = f"{AUTHORIZATIONS}/{held['id']}"
    part = {"amount": {"currency_code": "USD", "value": "30.31"}, "final_capture": True}
    assert (await shop.post(f"{path}/capture", part)).json()["status"] == "DECLINED"
    assert (await shop.get(path)).json()["status"] == "CREATED"


# --- refunds ----------------------------------------------------------------------------------------


async def test_a_capture_is_refunded_in_parts_to_the_last_cent(shop: PayPalShop) -> None:
    capture_id = (await shop.captured())["id"]
    first = (await shop.refund(capture_id, "10.00")).json()
    assert first["status"] == "COMPLETED"
    assert first["seller_payable_breakdown"]["total_refunded_amount"]["value"] == "10.00"
    assert (await shop.get(f"{CAPTURES}/{capture_id}")).json()["status"] == "PARTIALLY_REFUNDED"
    assert issue_of(await shop.refund(capture_id, "90.00")) == (422, "REFUND_AMOUNT_EXCEEDED")
    assert issue_of(await shop.refund(capture_id, "9.00", "EUR")) == (422, "CURRENCY_MISMATCH")
    rest = (await shop.refund(capture_id)).json()
    assert rest["amount"]["value"] == "89.99"
    assert (await shop.get(f"{CAPTURES}/{capture_id}")).json()["status"] == "REFUNDED"
    assert issue_of(await shop.refund(capture_id)) == (422, "CAPTURE_FULLY_REFUNDED")
    assert issue_of(await shop.refund(capture_id, "1.00")) == (422, "CAPTURE_FULLY_REFUNDED")
    assert shop.moved() == [("capture", "99.99"), ("refund", "10.00"), ("refund", "89.99")]
    up = next(link["href"] for link in rest["links"] if link["rel"] == "up")
    assert up.endswith(f"{CAPTURES}/{capture_id}")


@pytest.mark.parametrize(("digits", "course"), triggers.REFUNDS.items())
async def test_a_refund_becomes_what_its_amount_asks_for(
    shop: PayPalShop, digits: int, course: triggers.RefundCourse
) -> None:
    capture_id = (await shop.captured())["id"]
    made = (await shop.refund(capture_id, f"10.{digits}")).json()
    assert made["status"] == course.status
    assert made.get("status_details", {}).get("reason", "") == course.reason
    await shop.advance(triggers.LATER_SECONDS)
    later = (await shop.get(f"{REFUNDS}/{made['id']}")).json()
    assert later["status"] == course.then
    expected = []
    if "COMPLETED" in {course.status, course.then}:
        expected.append(("refund", f"10.{digits}"))
    if course.status == "COMPLETED":
        expected.append(("refund_reversed", f"10.{digits}"))
    assert shop.moved()[1:] == expected
    stays = later["status"] == "COMPLETED"
    status = (await shop.get(f"{CAPTURES}/{capture_id}")).json()["status"]
    assert status == ("PARTIALLY_REFUNDED" if stays else "COMPLETED")


@pytest.mark.parametrize(
    ("digits", "issue"),
    [*triggers.REFUNDS_REFUSED.items(), (triggers.PART_REFUSED, "PARTIAL_REFUND_NOT_ALLOWED")],
)
async def test_a_refund_is_refused_as_its_amount_asks_for(
    shop: PayPalShop, digits: int, issue: str
) -> None:
    capture_id = (await shop.captured())["id"]
    assert issue_of(await shop.refund(capture_id, f"10.{digits}")) == (422, issue)
    assert shop.moved() == [("capture", "99.99")]


async def test_a_refund_has_the_id_that_came_with_it_and_no_other(shop: PayPalShop) -> None:
    path = f"{CAPTURES}/{(await shop.captured())['id']}/refund"
    amount = {"amount": {"currency_code": "USD", "value": "10.00"}}
    assert (await shop.post(path, amount | {"custom_id": "RF1"})).json()["custom_id"] == "RF1"
    assert "custom_id" not in (await shop.post(path, amount)).json()
    assert [one.own_id for one in shop.simulation.money.movements] == ["ATT0001", "RF1", ""]


async def test_a_pending_refund_uses_up_its_capture(shop: PayPalShop) -> None:
    capture_id = (await shop.captured(order_body("10.61")))["id"]
    assert (await shop.refund(capture_id)).json()["status"] == "PENDING"
    assert issue_of(await shop.refund(capture_id, "1.00")) == (422, "CAPTURE_FULLY_REFUNDED")


async def test_a_refund_needs_a_paid_capture_of_the_last_180_days(shop: PayPalShop) -> None:
    pending = await shop.captured(order_body("10.13", own_id="ATT0002"))
    assert issue_of(await shop.refund(pending["id"])) == (422, "PENDING_CAPTURE")
    declined = await shop.captured(order_body("10.31", own_id="ATT0003"))
    assert issue_of(await shop.refund(declined["id"])) == (422, "REFUND_NOT_ALLOWED")
    assert issue_of(await shop.refund("NONE")) == (404, "INVALID_RESOURCE_ID")
    capture_id = (await shop.captured())["id"]
    await shop.advance(180 * DAY + 1)
    await shop.fetch_token()
    assert issue_of(await shop.refund(capture_id)) == (422, "REFUND_TIME_LIMIT_EXCEEDED")


# --- transaction search -----------------------------------------------------------------------------


async def test_the_search_shows_what_moved_in_pages(shop: PayPalShop) -> None:
    capture = await shop.captured()
    await shop.advance(1)
    refund = (await shop.refund(capture["id"], "10.00")).json()
    answer = (await shop.get(SEARCH, **TODAY, fields="all", page_size="1")).json()
    assert (answer["total_items"], answer["total_pages"]) == (2, 2)
    paid = answer["transaction_details"][0]["transaction_info"]
    assert paid["transaction_event_code"] == "T0006"
    assert paid["transaction_amount"] == {"currency_code": "USD", "value": "99.99"}
    assert paid["fee_amount"] == {"currency_code": "USD", "value": "-3.20"}
    assert paid["transaction_id"] == capture["id"]
    assert paid["custom_field"] == paid["invoice_id"] == "ATT0001"
    second = (await shop.get(SEARCH, **TODAY, page_size="1", page="2")).json()
    back = second["transaction_details"][0]["transaction_info"]
    assert back["transaction_event_code"] == "T1107"
    assert back["transaction_amount"]["value"] == "-10.00"
    assert (back["transaction_id"], back["paypal_reference_id"]) == (refund["id"], capture["id"])


async def test_the_search_says_how_each_transaction_stands(shop: PayPalShop) -> None:
    for number, value in enumerate(("10.13", "10.31", "10.81", "10.00")):
        await shop.captured(order_body(value, own_id=f"ATT{number}"))
    last = list(shop.simulation.money.movements)[-1]
    await shop.refund(last.ref, "1.64")
    await shop.advance(60)
    rows = [
        one["transaction_info"]
        for one in (await shop.get(SEARCH, **TODAY)).json()["transaction_details"]
    ]
    assert [
        (
            row["transaction_event_code"],
            row["transaction_status"],
            row["transaction_amount"]["value"],
        )
        for row in rows
    ] == [
        ("T0006", "P", "10.13"),
        ("T0006", "D", "10.31"),
        ("T0006", "S", "10.81"),
        ("T0006", "S", "10.00"),
        ("T1107", "S", "-1.64"),
        ("T1201", "S", "-10.81"),
        ("T1100", "S", "1.64"),
    ]


@pytest.mark.parametrize(
    ("change", "issue"),
    [
        ({"start_date": ""}, "INVALID_PARAMETER_SYNTAX"),
        ({"start_date": "2026-11-20T00:00:00"}, "INVALID_PARAMETER_SYNTAX"),
        ({"end_date": "2026-12-21T00:00:01Z"}, "INVALID_PARAMETER_VALUE"),
        ({"end_date": "2026-11-19T00:00:00Z"}, "INVALID_PARAMETER_VALUE"),
        ({"page_size": "501"}, "INVALID_PARAMETER_VALUE"),
        ({"page": "0"}, "INVALID_PARAMETER_VALUE"),
        ({"surprise": "1"}, "INVALID_PARAMETER_SYNTAX"),
    ],
)
async def test_a_search_that_paypal_would_not_do_is_refused(
    shop: PayPalShop, change: dict[str, str], issue: str
) -> None:
    assert issue_of(await shop.get(SEARCH, **{**TODAY, **change})) == (400, issue)


async def test_a_search_needs_both_ends(shop: PayPalShop) -> None:
    answer = await shop.get(SEARCH, start_date=TODAY["start_date"])
    assert issue_of(answer) == (400, "MISSING_REQUIRED_PARAMETER")


# --- events -----------------------------------------------------------------------------------------


async def test_missed_events_are_listed_and_sent_again(shop: PayPalShop) -> None:
    await shop.captured()
    first = (await shop.get(EVENTS, page_size="2")).json()
    assert [event["event_type"] for event in first["events"]] == [
        "CHECKOUT.ORDER.COMPLETED",
        "PAYMENT.CAPTURE.COMPLETED",
    ]
    assert first["links"][0]["rel"] == "next"
    last = (await shop.get(EVENTS, page_size="2", page="2")).json()
    assert [event["event_type"] for event in last["events"]] == ["CHECKOUT.ORDER.APPROVED"]
    assert last["links"] == []
    event_id = last["events"][0]["id"]
    assert (await shop.post(f"{EVENTS}/{event_id}/resend")).status_code == 202
    sent = [one.notice for one in shop.simulation.deliveries.deliveries]
    assert (sent[0].id, sent[0].body) == (sent[-1].id, sent[-1].body)
    assert issue_of(await shop.post(f"{EVENTS}/WH-NONE/resend")) == (404, "INVALID_RESOURCE_ID")


async def test_events_of_a_time_alone_are_listed(shop: PayPalShop) -> None:
    await shop.captured()
    none = await shop.get(EVENTS, start_time="2026-11-20T12:00:01Z")
    assert none.json()["events"] == []
    of_a_kind = await shop.get(EVENTS, event_type="PAYMENT.CAPTURE.COMPLETED")
    assert of_a_kind.json()["count"] == 1


async def test_a_deed_that_is_none_is_refused(shop: PayPalShop) -> None:
    order_id = await shop.approved()
    assert (await shop.deed(order_id, "dance")).status_code == 409
    assert (await shop.deed("NOTHING", "approve")).status_code == 409
    by_own_id = await shop.client.post("/_sim/buyer", json={"own_id": "ATT0001", "does": "pay"})
    assert by_own_id.json() == {"ref": order_id, "status": "APPROVED"}
