"""PayPal's words as facts, word by word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.money import Money
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.paypal import answers
from payment_rpc.channels.paypal.objects import Order, Refund, decode, issue_of
from payment_rpc.domain.facts import ChannelStatus

USD = {"currency_code": "USD", "value": "99.99"}
AMOUNT = Money(9999, "USD")
CREDENTIALS = {"client_id": "client-0001", "client_secret": "secret-0001", "webhook_id": "WHK1"}


def order(status: str, *, intent: str = "CAPTURE", **payments: Any) -> Order:
    unit = {"custom_id": "ATT1", "amount": USD, "payments": payments}
    made = {"id": "ORD1", "status": status, "intent": intent, "purchase_units": [unit]}
    return decode(json.dumps(made).encode(), Order)


def capture(status: str, number: str = "CAP1", value: str = "99.99", **more: Any) -> dict[str, Any]:
    amount = {"currency_code": "USD", "value": value}
    return {"id": number, "status": status, "amount": amount, "custom_id": "ATT1", **more}


def fact(one: Order) -> Any:
    return answers.read_order(one, attempt_id="ATT1")


@pytest.mark.parametrize(
    ("word", "status", "is_our_turn"),
    [
        ("CREATED", "PENDING", False),
        ("SAVED", "PENDING", False),
        ("PAYER_ACTION_REQUIRED", "PENDING", False),
        ("APPROVED", "PENDING", True),
        ("VOIDED", "CLOSED", False),
    ],
)
def test_orders_in_which_nothing_was_captured(word, status, is_our_turn):
    read = fact(order(word))
    assert (read.status, read.is_our_turn, read.amount, read.ref) == (
        status,
        is_our_turn,
        AMOUNT,
        "ORD1",
    )


@pytest.mark.parametrize("word", ["COMPLETED", "completed", "PAID", ""])
def test_the_word_of_an_order_alone_is_no_payment(word):
    with pytest.raises(Unclear):
        fact(order(word))


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("COMPLETED", "CAPTURED"),
        ("PENDING", "PENDING"),
        ("DECLINED", "DECLINED"),
        ("FAILED", "FAILED"),
        ("REFUNDED", "CAPTURED"),
        ("PARTIALLY_REFUNDED", "CAPTURED"),
    ],
)
@pytest.mark.parametrize("said", ["COMPLETED", "APPROVED"])
def test_the_capture_decides_whatever_the_order_says(word, status, said):
    read = fact(order(said, captures=[capture(word)]))
    assert (read.status, read.amount, read.trade_no) == (status, AMOUNT, "CAP1")
    assert not read.is_our_turn


@pytest.mark.parametrize("word", ["SETTLED", "completed", ""])
def test_a_word_of_a_capture_that_nobody_knows_is_unclear(word):
    with pytest.raises(Unclear):
        fact(order("COMPLETED", captures=[capture(word)]))


def test_a_paid_capture_counts_beside_declined_ones():
    read = fact(order("COMPLETED", captures=[capture("DECLINED"), capture("COMPLETED", "CAP2")]))
    assert (read.status, read.trade_no) == (ChannelStatus.CAPTURED, "CAP2")


def test_a_waiting_capture_counts_beside_declined_ones():
    read = fact(order("COMPLETED", captures=[capture("PENDING"), capture("DECLINED", "CAP2")]))
    assert read.status is ChannelStatus.PENDING


@pytest.mark.parametrize(
    "changed",
    [
        {"custom_id": "ATT2"},
        {"amount": {"currency_code": "USD", "value": "12.345"}},
        {"amount": None},
    ],
)
def test_a_capture_that_contradicts_itself_is_unclear(changed):
    with pytest.raises(Unclear):
        fact(order("COMPLETED", captures=[{**capture("COMPLETED"), **changed}]))


def test_an_order_of_another_attempt_is_unclear():
    with pytest.raises(Unclear):
        answers.read_order(order("APPROVED"), attempt_id="ATT2")


@pytest.mark.parametrize(
    ("fee", "read"),
    [
        ({"currency_code": "USD", "value": "3.20"}, Money(320, "USD")),
        ({"currency_code": "EUR", "value": "3.20"}, None),
        ({"currency_code": "USD", "value": "x"}, None),
        (None, None),
    ],
)
def test_a_fee_is_read_or_not_known(fee, read):
    breakdown = {"paypal_fee": fee} if fee else {}
    one = capture("COMPLETED", seller_receivable_breakdown=breakdown)
    assert fact(order("COMPLETED", captures=[one])).fee == read


HELD = {"id": "AUT1", "amount": USD, "expiration_time": "2026-12-29T17:50:22Z"}


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("CREATED", "AUTHORIZED"),
        ("PENDING", "PENDING"),
        ("DENIED", "DECLINED"),
        ("VOIDED", "CLOSED"),
    ],
)
def test_authorizations(word, status):
    read = fact(order("COMPLETED", intent="AUTHORIZE", authorizations=[{**HELD, "status": word}]))
    assert read.status == status
    assert (read.held_until is not None) is (status == "AUTHORIZED")
    assert read.capturable == (AMOUNT if status == "AUTHORIZED" else None)


@pytest.mark.parametrize("word", ["CAPTURED", "PARTIALLY_CAPTURED", "HELD"])
def test_an_authorization_that_was_captured_needs_its_capture(word):
    with pytest.raises(Unclear):
        fact(order("COMPLETED", authorizations=[{**HELD, "status": word}]))


def test_captures_of_an_authorization_are_summed():
    held = {**HELD, "status": "PARTIALLY_CAPTURED"}
    parts = [capture("COMPLETED", value="40.00"), capture("COMPLETED", "CAP2", value="10.00")]
    read = fact(order("COMPLETED", authorizations=[held], captures=parts))
    assert (read.amount, read.capturable) == (Money(5000, "USD"), Money(4999, "USD"))
    parts[1]["final_capture"] = True
    assert fact(order("COMPLETED", authorizations=[held], captures=parts)).capturable is None


def test_a_declined_capture_leaves_the_money_held():
    held = {**HELD, "status": "CREATED"}
    read = fact(order("COMPLETED", authorizations=[held], captures=[capture("DECLINED")]))
    assert read.status is ChannelStatus.AUTHORIZED


@pytest.mark.parametrize(("issue", "status"), answers.NOT_CHARGED.items())
def test_refusals_of_a_capture(issue, status):
    read = answers.not_charged(issue, attempt_id="ATT1", ref="ORD1", amount=AMOUNT)
    assert read is not None
    assert (read.status, read.amount) == (status, AMOUNT)
    assert read.status is not ChannelStatus.DECLINED or issue not in read.message


@pytest.mark.parametrize(
    "issue", ["ORDER_COMPLETION_IN_PROGRESS", "INTERNAL_SERVER_ERROR", "DUPLICATE_INVOICE_ID", ""]
)
def test_other_refusals_prove_nothing(issue):
    assert answers.not_charged(issue, attempt_id="A", ref="O", amount=AMOUNT) is None


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("COMPLETED", "SUCCESS"),
        ("PENDING", "PENDING"),
        ("FAILED", "FAILED"),
        ("CANCELLED", "FAILED"),
    ],
)
def test_refunds(word, status):
    one = Refund(id="REF1", status=word, custom_id="RF1")
    read = answers.read_refund(one, refund_id="RF1")
    assert (read.status, read.channel_refund_no) == (status, "REF1")


@pytest.mark.parametrize(
    "one",
    [
        {"id": "REF1", "status": "DONE"},
        {"id": "REF1", "status": "COMPLETED", "custom_id": "RF2"},
        {"id": "REF1", "status": "COMPLETED", "amount": {"currency_code": "USD", "value": "1.00"}},
    ],
)
def test_refunds_that_are_not_the_expected_ones(one):
    with pytest.raises(Unclear):
        answers.read_refund(
            decode(json.dumps(one).encode(), Refund), refund_id="RF1", amount=AMOUNT
        )


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{", b'"x"', b"\xff", b"[" * 5000])
def test_what_is_no_order_is_unclear(content):
    with pytest.raises(Unclear):
        decode(content, Order)
    assert issue_of(content) == ""


def test_the_issue_of_an_error_is_found():
    error = {"name": "UNPROCESSABLE_ENTITY", "details": [{"issue": "ORDER_EXPIRED"}]}
    assert issue_of(json.dumps(error).encode()) == "ORDER_EXPIRED"
    assert issue_of(b'{"name":"RATE_LIMIT_REACHED"}') == "RATE_LIMIT_REACHED"


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "https://shop.example/ x", "", "//x", "https://" + "x" * 3000]
)
def test_a_buyer_is_sent_to_web_addresses_only(url):
    made = {"id": "O", "status": "CREATED", "links": [{"rel": "payer-action", "href": url}]}
    with pytest.raises(Unclear):
        answers.payer_action(decode(json.dumps(made).encode(), Order))
