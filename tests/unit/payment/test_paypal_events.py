"""PayPal's notices as news, credentials, and days of its transaction search."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.doubt import Doubt
from payment_rpc.channels.inbound import Ask
from payment_rpc.channels.paypal import events, statements
from payment_rpc.channels.paypal.credentials import parse
from payment_rpc.domain.dispute import DisputeStatus
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.statement import BadLine, LineType, StatementUnreadable
from tests.builders.statements import whole

USD = {"currency_code": "USD", "value": "99.99"}
AMOUNT = Money(9999, "USD")
CREDENTIALS = {"client_id": "client-0001", "client_secret": "secret-0001", "webhook_id": "WHK1"}


def capture(status: str, number: str = "CAP1", value: str = "99.99", **more: Any) -> dict[str, Any]:
    amount = {"currency_code": "USD", "value": value}
    return {"id": number, "status": status, "amount": amount, "custom_id": "ATT1", **more}


def received(kind: str, resource: Any, *, merchant_id: str = "") -> Any:
    body = {"id": "WH-1", "event_type": kind, "resource": resource}
    return events.read(json.dumps(body).encode(), merchant_id=merchant_id, doubt=Doubt("paypal"))


@pytest.mark.parametrize(
    ("kind", "resource", "attempt_id", "ref"),
    [
        (
            "CHECKOUT.ORDER.APPROVED",
            {"id": "ORD1", "purchase_units": [{"custom_id": "ATT1"}]},
            "ATT1",
            "ORD1",
        ),
        ("CHECKOUT.ORDER.COMPLETED", {"id": "ORD1"}, "", "ORD1"),
        ("CHECKOUT.PAYMENT-APPROVAL.REVERSED", {"order_id": "ORD1"}, "", "ORD1"),
        ("PAYMENT.AUTHORIZATION.VOIDED", {"id": "AUT1", "custom_id": "ATT1"}, "ATT1", ""),
        ("PAYMENT.CAPTURE.REVERSED", {"id": "CAP1", "custom_id": "ATT1"}, "ATT1", ""),
    ],
)
def test_events_that_only_say_ask(kind, resource, attempt_id, ref):
    (news,) = received(kind, resource).news
    assert isinstance(news, Ask)
    assert (news.subject.attempt_id, news.subject.ref) == (attempt_id, ref)


@pytest.mark.parametrize("kind", ["VAULT.PAYMENT-TOKEN.CREATED", "", "PAYMENT.CAPTURE.ODD"])
def test_an_event_of_an_unknown_type_means_nothing(kind):
    got = received(kind, {"id": "X"})
    assert (got.news, got.summary) == ((), kind)


def test_a_part_of_an_authorization_is_asked_about():
    related = {"related_ids": {"order_id": "ORD1", "authorization_id": "AUT1"}}
    resource = capture("COMPLETED", supplementary_data=related)
    (news,) = received("PAYMENT.CAPTURE.COMPLETED", resource).news
    assert isinstance(news, Ask)


def test_a_capture_with_an_unknown_word_is_unknown():
    (news,) = received("PAYMENT.CAPTURE.COMPLETED", capture("ODD")).news
    assert news.status is ChannelStatus.UNKNOWN


def test_a_refund_that_failed_later_came_back():
    resource = {"id": "REF1", "status": "FAILED", "custom_id": "RF1"}
    (news,) = received("PAYMENT.REFUND.FAILED", resource).news
    assert news.status is RefundChannelStatus.REVERSED


def test_a_refund_that_the_dashboard_made_is_not_ours():
    assert received("PAYMENT.CAPTURE.REFUNDED", {"id": "R", "status": "COMPLETED"}).news == ()


@pytest.mark.parametrize(
    ("status", "outcome", "expected"),
    [
        ("OPEN", "", DisputeStatus.OPENED),
        ("WAITING_FOR_SELLER_RESPONSE", "", DisputeStatus.OPENED),
        ("RESOLVED", "RESOLVED_BUYER_FAVOUR", DisputeStatus.LOST),
        ("RESOLVED", "RESOLVED_SELLER_FAVOUR", DisputeStatus.WON),
        ("RESOLVED", "CANCELED_BY_BUYER", DisputeStatus.CLOSED),
    ],
)
def test_disputes(status, outcome, expected):
    resource = {
        "dispute_id": "PP-D-1",
        "status": status,
        "dispute_amount": USD,
        "disputed_transactions": [{"custom": "ATT1"}],
        "dispute_outcome": {"outcome_code": outcome},
    }
    (news,) = received("CUSTOMER.DISPUTE.UPDATED", resource).news
    assert (news.status, news.attempt_id, news.amount) == (expected, "ATT1", AMOUNT)


def test_a_dispute_with_an_outcome_that_nobody_knows_says_nothing():
    resource = {"dispute_id": "D", "status": "RESOLVED", "dispute_amount": USD}
    assert received("CUSTOMER.DISPUTE.RESOLVED", resource).news == ()


def test_an_event_of_another_merchant_is_refused():
    resource = {**capture("COMPLETED"), "payee": {"merchant_id": "OTHER0001"}}
    with pytest.raises(SignatureInvalid):
        received("PAYMENT.CAPTURE.COMPLETED", resource, merchant_id="MERCHANT1")
    in_unit = {"id": "ORD1", "purchase_units": [{"payee": {"merchant_id": "OTHER0001"}}]}
    with pytest.raises(SignatureInvalid):
        received("CHECKOUT.ORDER.APPROVED", in_unit, merchant_id="MERCHANT1")
    assert received("PAYMENT.CAPTURE.COMPLETED", resource, merchant_id="OTHER0001").news


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"id":1,"event_type":"X","resource":{}}', b"\xff", b"[" * 5000],
)
def test_a_body_that_is_no_event_is_refused(body):
    with pytest.raises(InvalidArgument):
        events.read(body, merchant_id="", doubt=Doubt("paypal"))
    assert events.subject_of(body).attempt_id == ""


@pytest.mark.parametrize("resource", [None, 1, [], {"id": 5}, {"status": "COMPLETED"}])
def test_a_resource_that_cannot_be_read_is_refused(resource):
    with pytest.raises(InvalidArgument):
        received("PAYMENT.CAPTURE.COMPLETED", resource)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_secret": "has a space in it"}, "client_secret"),
        ({"client_secret": None}, "client_secret"),
        ({"webhook_id": "a|b|c"}, "webhook_id"),
        ({"other_webhook_ids": ["a b"]}, "other_webhook_ids"),
        ({"merchant_id": "short"}, "merchant_id"),
        ({"mode": "live"}, "mode"),
    ],
)
def test_credentials_that_are_none_are_refused_by_field(changed, field):
    with pytest.raises(InvalidArgument) as refused:
        parse({**CREDENTIALS, **changed})
    assert field in str(refused.value)
    assert "has a space" not in str(refused.value)


def test_credentials_show_no_secret():
    read = parse(CREDENTIALS)
    assert "secret-0001" not in repr(read)


def page(rows: list[dict[str, Any]], number: int = 1, pages: int = 1, items: int = -1) -> bytes:
    made = {
        "transaction_details": [{"transaction_info": row} for row in rows],
        "page": number,
        "total_pages": pages,
        "total_items": len(rows) if items < 0 else items,
    }
    return json.dumps(made).encode() + b"\n"


def row(code: str = "T0006", value: str = "99.99", **more: Any) -> dict[str, Any]:
    return {
        "transaction_id": "CAP1",
        "transaction_event_code": code,
        "transaction_status": "S",
        "transaction_amount": {"currency_code": "USD", "value": value},
        "transaction_initiation_date": "2026-11-20T12:00:00+0000",
        "custom_field": "ATT1",
        **more,
    }


def test_rows_of_a_day():
    rows = [
        row(fee_amount={"currency_code": "USD", "value": "-3.20"}),
        row("T1107", "-10.00", custom_field="RF1"),
        row("T0400", "-50.00"),  # to the bank
        row("T1201", "-9.00"),  # a chargeback: told by a dispute
        row("T0001", "-5.00"),  # a payment of ours
        row(transaction_status="P"),
        row(transaction_status="D"),
    ]
    lines: Any = whole(statements.parse(page(rows))).lines
    taken, given = lines
    assert (taken.type, taken.attempt_id, taken.amount, taken.fee) == (
        LineType.CAPTURE,
        "ATT1",
        AMOUNT,
        Money(320, "USD"),
    )
    assert (given.type, given.refund_id, given.amount, given.attempt_id) == (
        LineType.REFUND,
        "RF1",
        Money(1000, "USD"),
        "",
    )


@pytest.mark.parametrize(
    "bad",
    [
        row(value="1.001"),
        row(transaction_initiation_date="yesterday"),
        row(custom_field="a b"),
        row("T1107", "5.00", custom_field="RF1"),
        row("T1107", "-5.00", custom_field=""),
        {"transaction_id": "CAP1"},
    ],
)
def test_a_row_that_cannot_be_read_stops_no_other(bad):
    lines: Any = whole(statements.parse(page([bad, row()]))).lines
    first, second = lines
    assert isinstance(first, BadLine)
    assert (second.line_no, second.amount) == (2, AMOUNT)


def test_a_day_without_rows_is_empty():
    assert whole(statements.parse(page([]))).lines == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        page([row()])[:-1],
        page([row()])[:-20],
        page([row()], items=2),
        page([row()], pages=2),
        page([row()], 2, 2) + page([row()], 1, 2),
        page([row()], 1, 2, 2) + page([row()], 1, 2, 2),
    ],
)
def test_a_file_with_something_missing_is_refused(content):
    with pytest.raises(StatementUnreadable):
        whole(statements.parse(content))
