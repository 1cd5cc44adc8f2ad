"""What Stripe's words mean: every row of its tables, and what is in none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mesh.money import Money
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.inbound import Ask
from payment_rpc.channels.stripe.answers import read_intent, read_refund, read_session
from payment_rpc.channels.stripe.api import decode
from payment_rpc.channels.stripe.events import read_event
from payment_rpc.channels.stripe.objects import PaymentIntent, Refund, Session, error_of
from payment_rpc.channels.stripe.statements import parse
from payment_rpc.domain.dispute import DisputeFact, DisputeStatus
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from payment_rpc.domain.statement import BadLine, Line, LineType, StatementUnreadable
from tests.builders.statements import Whole, whole

USD = Money(9999, "USD")
DECLINED = {"code": "card_declined", "decline_code": "generic_decline", "message": "No."}


def intent(status: str, *, flow: str = "client", **more: Any) -> PaymentIntent:
    return decode(encoded_intent(status, flow=flow, **more), PaymentIntent)


def encoded_intent(status: str, *, flow: str = "client", **more: Any) -> bytes:
    metadata = {"attempt_id": "ATT1", "flow": flow, **more.pop("metadata", {})}
    return msgspec.json.encode(
        {
            "id": "pi_1",
            "object": "payment_intent",
            "status": status,
            "amount": 9999,
            "amount_received": 9999 if status == "succeeded" else 0,
            "amount_capturable": 9999 if status == "requires_capture" else 0,
            "currency": "usd",
            "client_secret": "pi_1_secret_2",
            "metadata": metadata,
            **more,
        }
    )


def read(status: str, **more: Any) -> ChannelFact:
    return read_intent(intent(status, **more), attempt_id="ATT1")


@pytest.mark.parametrize("flow", ["client", "token", "hosted"])
@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("requires_payment_method", ChannelStatus.PENDING),
        ("requires_confirmation", ChannelStatus.PENDING),
        ("requires_action", ChannelStatus.PENDING),
        ("processing", ChannelStatus.PENDING),
        ("requires_capture", ChannelStatus.AUTHORIZED),
        ("succeeded", ChannelStatus.CAPTURED),
        ("canceled", ChannelStatus.CLOSED),
    ],
)
def test_every_status_has_its_meaning(word: str, status: ChannelStatus, flow: str) -> None:
    fact = read(word, flow=flow)
    assert (fact.status, fact.amount, fact.trade_no) == (status, USD, "pi_1")
    assert fact.ref == ("" if flow == "hosted" else "pi_1")


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "teleported"},
        {"status": "SUCCEEDED"},
        {"status": ""},
        {"status": "succeeded", "amount_received": 0},
        {"status": "succeeded", "amount_received": None},
        {"status": "succeeded", "amount_received": -1},
        {"status": "succeeded", "currency": "USD"},
        {"status": "succeeded", "currency": "xxx"},
        {"status": "requires_capture", "amount_capturable": None},
        {"status": "processing", "amount": 0},
        {"status": "processing", "metadata": {"attempt_id": "ATT2"}},
        {"status": "processing", "id": "../balance"},
        {"status": "processing", "id": "pi_" + "1" * 70},
        {"status": "requires_payment_method", "client_secret": "a b"},
        {
            "status": "requires_action",
            "next_action": {"type": "redirect_to_url", "redirect_to_url": {"url": "javascript:x"}},
        },
        {"status": "requires_action", "next_action": {"type": "redirect_to_url"}},
    ],
)
def test_what_is_in_no_table_is_unclear(changed: dict[str, Any]) -> None:
    word = changed.pop("status")
    with pytest.raises(Unclear):
        read(word, **changed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"\xff",
        b"[" * 100_000,
        encoded_intent("succeeded").replace(b"payment_intent", b"charge"),
        encoded_intent("succeeded", amount_received="9999"),
        encoded_intent("succeeded", amount_received=99.99),
        encoded_intent("succeeded")[:-1],
    ],
)
def test_what_is_no_payment_is_unclear(body: bytes) -> None:
    with pytest.raises(Unclear):
        decode(body, PaymentIntent)


@pytest.mark.parametrize(
    ("flow", "word", "more", "expected"),
    [
        ("token", "requires_confirmation", {}, True),
        ("token", "requires_payment_method", {}, False),
        ("token", "requires_payment_method", {"last_payment_error": DECLINED}, True),
        ("token", "requires_action", {}, True),  # there is no buyer
        ("token", "requires_action", {"metadata": {"return_url": "https://a.example"}}, False),
        ("token", "processing", {}, False),
        ("client", "requires_confirmation", {}, False),
        ("client", "requires_payment_method", {"last_payment_error": DECLINED}, False),
        ("hosted", "requires_payment_method", {"last_payment_error": DECLINED}, False),
    ],
)
def test_a_step_is_ours_where_nobody_else_can_take_it(
    flow: str, word: str, more: dict[str, Any], *, expected: bool
) -> None:
    assert read(word, flow=flow, **more).is_our_turn is expected


REDIRECT = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.example/3ds"}}


@pytest.mark.parametrize(
    ("action", "kind", "value"),
    [
        (REDIRECT, "REDIRECT_URL", "https://bank.example/3ds"),
        (
            {
                "type": "alipay_handle_redirect",
                "alipay_handle_redirect": {"url": "https://a.example"},
            },
            "REDIRECT_URL",
            "https://a.example",
        ),
        (
            {
                "type": "wechat_pay_display_qr_code",
                "wechat_pay_display_qr_code": {"data": "weixin://wxpay/bizpayurl?pr=1"},
            },
            "QR_CODE",
            "weixin://wxpay/bizpayurl?pr=1",
        ),
        ({"type": "use_stripe_sdk", "use_stripe_sdk": {}}, "CLIENT_SECRET", "pi_1_secret_2"),
        ({"type": "verify_with_microdeposits"}, "CLIENT_SECRET", "pi_1_secret_2"),
        ({"type": 5}, "CLIENT_SECRET", "pi_1_secret_2"),
    ],
)
def test_an_action_that_is_not_known_is_for_stripes_script(
    action: dict[str, Any], kind: str, value: str
) -> None:
    found = read("requires_action", next_action=action).next_action
    assert found is not None
    assert (found.kind, found.value) == (kind, value)


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (DECLINED, "CARD_DECLINED", "No."),
        ({"code": "card_declined", "decline_code": "insufficient_funds"}, "INSUFFICIENT_FUNDS", ""),
        ({"code": "insufficient_funds"}, "INSUFFICIENT_FUNDS", ""),
        ({"code": "expired_card", "message": "Expired\n."}, "CARD_DECLINED", "Expired\ufffd."),
        ({"message": "x" * 999}, "CARD_DECLINED", "x" * 200),
        ({"message": "no 4242424242424242"}, "CARD_DECLINED", "no ************4242"),
        *(
            ({"decline_code": code, "message": "It was stolen."}, "CARD_DECLINED", None)
            for code in ("fraudulent", "lost_card", "stolen_card", "pickup_card", "restricted_card")
        ),
    ],
)
def test_a_decline_says_why_and_never_that_a_card_is_stolen(
    error: dict[str, str], reason: str, message: str | None
) -> None:
    fact = read("canceled", flow="token", last_payment_error=error)
    assert (fact.status, fact.reason) == (ChannelStatus.DECLINED, reason)
    assert fact.message == ("Your card was declined." if message is None else message)


def test_a_checkout_that_was_declined_and_cancelled_is_closed() -> None:
    fact = read("canceled", last_payment_error=DECLINED, canceled_at=1795176000)
    assert (fact.status, fact.reason) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED")
    assert fact.occurred_at is not None


def charge(currency: str = "usd", fee: int = 320, amount: int = 9999) -> dict[str, Any]:
    row = {"id": "txn_1", "amount": amount, "fee": fee, "currency": currency, "created": 1795176000}
    return {"id": "ch_1", "created": 1795175000, "balance_transaction": row}


@pytest.mark.parametrize(
    ("latest", "fee"),
    [
        (charge(), Money(320, "USD")),
        (charge(fee=0), Money(0, "USD")),
        (charge("eur"), None),
        (charge(fee=-5), None),
        (charge(amount=4000), None),  # of one of several captures, and so not the whole fee
        ({**charge(), "balance_transaction": "txn_1"}, None),
        ({**charge(), "balance_transaction": None}, None),
        ("ch_1", None),
        (None, None),
    ],
)
def test_a_fee_is_told_where_it_is_in_the_currency_of_the_payment(
    latest: object, fee: Money | None
) -> None:
    assert read("succeeded", latest_charge=latest).fee == fee


def session(status: str | None, payment: PaymentIntent | None = None, **more: Any) -> ChannelFact:
    body = {
        "id": "cs_test_1",
        "object": "checkout.session",
        "status": status,
        "amount_total": 9999,
        "currency": "usd",
        "url": "https://checkout.example/1",
        "metadata": {"attempt_id": "ATT1"},
        **more,
    }
    found = decode(msgspec.json.encode(body), Session)
    return read_session(found, payment, attempt_id="ATT1")


@pytest.mark.parametrize(
    ("status", "word", "expected"),
    [
        ("open", None, ChannelStatus.PENDING),
        ("open", "requires_payment_method", ChannelStatus.PENDING),
        ("open", "requires_action", ChannelStatus.PENDING),
        ("open", "succeeded", ChannelStatus.CAPTURED),
        ("expired", None, ChannelStatus.CLOSED),
        ("expired", "requires_payment_method", ChannelStatus.CLOSED),
        ("expired", "requires_confirmation", ChannelStatus.CLOSED),
        ("expired", "processing", ChannelStatus.PENDING),
        ("expired", "requires_action", ChannelStatus.PENDING),
        ("expired", "succeeded", ChannelStatus.CAPTURED),
        ("expired", "canceled", ChannelStatus.CLOSED),
        ("complete", "succeeded", ChannelStatus.CAPTURED),
        ("complete", "requires_capture", ChannelStatus.AUTHORIZED),
        ("complete", "processing", ChannelStatus.PENDING),
        ("complete", "requires_payment_method", ChannelStatus.DECLINED),
    ],
)
def test_a_page_is_what_its_payment_is(
    status: str, word: str | None, expected: ChannelStatus
) -> None:
    payment = None if word is None else intent(word, flow="hosted")
    fact = session(status, payment)
    assert (fact.status, fact.ref, fact.amount) == (expected, "cs_test_1", USD)


@pytest.mark.parametrize(
    ("status", "more"),
    [
        ("complete", {}),  # without a payment
        ("teleported", {}),
        (None, {}),
        ("open", {"url": None}),
        ("open", {"url": "javascript:alert(1)"}),
        ("open", {"amount_total": None}),
        ("open", {"id": "1"}),
        ("open", {"metadata": {"attempt_id": "ATT2"}}),
    ],
)
def test_a_page_that_cannot_be_understood_is_unclear(
    status: str | None, more: dict[str, Any]
) -> None:
    with pytest.raises(Unclear):
        session(status, **more)


def refund(status: str, **more: Any) -> Refund:
    body = {
        "id": "re_1",
        "object": "refund",
        "status": status,
        "amount": 4000,
        "currency": "usd",
        "created": 1795176000,
        "metadata": {"refund_id": "RF1"},
        **more,
    }
    return decode(msgspec.json.encode(body), Refund)


@pytest.mark.parametrize(
    ("word", "more", "status", "reason"),
    [
        ("pending", {}, RefundChannelStatus.PENDING, ""),
        ("requires_action", {}, RefundChannelStatus.PENDING, ""),
        ("succeeded", {"balance_transaction": "txn_1"}, RefundChannelStatus.SUCCESS, ""),
        ("failed", {}, RefundChannelStatus.FAILED, "REFUND_FAILED"),
        (
            "failed",
            {"balance_transaction": "txn_1"},
            RefundChannelStatus.REVERSED,
            "REFUND_REVERSED",
        ),
        (
            "failed",
            {"failure_balance_transaction": "txn_2"},
            RefundChannelStatus.REVERSED,
            "REFUND_REVERSED",
        ),
        ("canceled", {}, RefundChannelStatus.FAILED, "REFUND_FAILED"),
        (
            "canceled",
            {"failure_balance_transaction": "txn_2"},
            RefundChannelStatus.REVERSED,
            "REFUND_REVERSED",
        ),
    ],
)
def test_every_status_of_a_refund_has_its_meaning(
    word: str, more: dict[str, Any], status: RefundChannelStatus, reason: str
) -> None:
    fact = read_refund(refund(word, **more), refund_id="RF1", amount=Money(4000, "USD"))
    assert (fact.status, fact.reason, fact.channel_refund_no) == (status, reason, "re_1")


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "teleported"},
        {"status": "succeeded", "amount": 3999},
        {"status": "succeeded", "currency": "eur"},
        {"status": "succeeded", "metadata": {"refund_id": "RF2"}},
        {"status": "succeeded", "metadata": {}},
        {"status": "succeeded", "id": "re/1"},
    ],
)
def test_another_refund_is_unclear(changed: dict[str, Any]) -> None:
    with pytest.raises(Unclear):
        read_refund(refund(**changed), refund_id="RF1", amount=Money(4000, "USD"))


def event(kind: str, obj: dict[str, Any] | bytes, **more: Any) -> bytes:
    inner = obj if isinstance(obj, bytes) else msgspec.json.encode(obj)
    return msgspec.json.encode(
        {
            "id": "evt_1",
            "type": kind,
            "created": 1795176000,
            "api_version": "2026-10-28.endive",
            "livemode": False,
            "data": {"object": msgspec.Raw(inner)},
            **more,
        }
    )


def dispute(status: str, **more: Any) -> bytes:
    body = {
        "id": "dp_1",
        "object": "dispute",
        "status": status,
        "amount": 9999,
        "currency": "usd",
        "reason": "fraudulent",
        "payment_intent": "pi_1",
        **more,
    }
    return event("charge.dispute.updated", body)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("warning_needs_response", DisputeStatus.OPENED),
        ("warning_under_review", DisputeStatus.OPENED),
        ("warning_closed", DisputeStatus.CLOSED),
        ("needs_response", DisputeStatus.OPENED),
        ("under_review", DisputeStatus.OPENED),
        ("charge_refunded", DisputeStatus.CLOSED),
        ("won", DisputeStatus.WON),
        ("lost", DisputeStatus.LOST),
    ],
)
def test_every_status_of_a_dispute_has_its_meaning(word: str, status: DisputeStatus) -> None:
    [fact] = read_event(dispute(word), is_live=False, account_id="").news
    assert isinstance(fact, DisputeFact)
    assert (fact.status, fact.ref, fact.amount, fact.fee) == (status, "pi_1", USD, None)


def test_a_dispute_has_the_fee_of_its_rows_and_an_end_of_evidence() -> None:
    row = charge(fee=1500)["balance_transaction"]
    body = dispute(
        "needs_response",
        balance_transactions=[row],
        evidence_details={"due_by": 1795176000},
    )
    [fact] = read_event(body, is_live=False, account_id="").news
    assert isinstance(fact, DisputeFact)
    assert (fact.fee, fact.evidence_due) == (Money(1500, "USD"), fact.occurred_at)


@pytest.mark.parametrize(
    "body",
    [
        event("customer.created", {"id": "cus_1", "object": "customer"}),
        event("payment_intent.created", encoded_intent("requires_payment_method")),
        event("payment_intent.succeeded", encoded_intent("succeeded", metadata={"attempt_id": ""})),
        event("refund.updated", {"id": "re_1", "object": "refund"}),
        dispute("teleported"),
        dispute("won", payment_intent=None),
    ],
)
def test_what_means_nothing_to_us_is_acknowledged(body: bytes) -> None:
    found = read_event(body, is_live=False, account_id="")
    assert found.news == ()
    assert found.event_id == "evt_1"
    assert found.summary


@pytest.mark.parametrize(
    "body",
    [
        event("payment_intent.succeeded", encoded_intent("succeeded"), api_version="2017-08-15"),
        event("payment_intent.succeeded", encoded_intent("succeeded"), api_version=None),
        event("payment_intent.succeeded", encoded_intent("teleported")),
        event("payment_intent.succeeded", encoded_intent("succeeded", amount_received="1")),
        event(
            "payment_intent.payment_failed", encoded_intent("requires_confirmation", flow="token")
        ),
        event("payment_intent.amount_capturable_updated", encoded_intent("requires_capture")),
    ],
)
def test_what_cannot_be_believed_is_a_reason_to_ask(body: bytes) -> None:
    [ask] = read_event(body, is_live=False, account_id="").news
    assert isinstance(ask, Ask)
    assert (ask.subject.attempt_id, ask.subject.ref) == ("ATT1", "pi_1")


def statement(*rows: list[Any]) -> Whole:
    lines = [msgspec.json.encode(row) for row in rows]
    return whole(parse(b"\n".join([*lines, b'{"rows":%d}' % len(rows)]) + b"\n"))


def row(category: str, amount: int, fee: int = 0, **more: Any) -> list[Any]:
    fields: dict[str, Any] = {
        "id": "txn_1",
        "category": category,
        "amount": amount,
        "fee": fee,
        "currency": "usd",
        "created": 1795176000,
        "source": "ch_1",
        "intent": "pi_1",
        "attempt_id": "ATT1",
        "refund_id": "",
        "paid": abs(amount),
        "paid_currency": "usd",
        **more,
    }
    return list(fields.values())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (row("charge", 9999, 320), [(LineType.CAPTURE, "99.99", "3.20", "pi_1")]),
        (
            row("charge", 6400, 200, paid=9999, paid_currency="jpy"),
            [(LineType.CAPTURE, "9999", "0", "pi_1"), (LineType.FEE, "2.00", "0.00", "txn_1")],
        ),
        (
            row("refund", -4000, refund_id="RF1", source="re_1"),
            [(LineType.REFUND, "40.00", "0.00", "re_1")],
        ),
        (
            row("refund_failure", 4000, refund_id="RF1", source="re_1"),
            [(LineType.REFUND_REVERSED, "40.00", "0.00", "re_1")],
        ),
        (row("fee", -250), [(LineType.FEE, "2.50", "0.00", "txn_1")]),
        (row("fee", 0, 250), [(LineType.FEE, "2.50", "0.00", "txn_1")]),
        (row("payout", -99_999), [(LineType.PAYOUT, "999.99", "0.00", "txn_1")]),
        (row("other_adjustment", -5), [(LineType.ADJUSTMENT, "0.05", "0.00", "txn_1")]),
        (
            row("dispute", -9999, 1500, source="dp_1"),
            [(LineType.DISPUTE, "99.99", "15.00", "dp_1")],
        ),
        (
            row("dispute_reversal", 9999, source="dp_1"),
            [(LineType.DISPUTE_REVERSED, "99.99", "0.00", "dp_1")],
        ),
    ],
)
def test_every_row_becomes_its_lines(
    given: list[Any], expected: list[tuple[LineType, str, str, str]]
) -> None:
    found = statement(given).lines
    assert [
        (line.type, line.amount.format(), line.fee.format(), line.trade_no)
        for line in found
        if isinstance(line, Line)
    ] == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    "bad",
    [
        row("teleport", 5),
        row("charge", 0),
        row("charge", 9999, currency="USD"),
        row("charge", 9999, created=0),
        row("charge", 9999, attempt_id="../x"),
        row("charge", 9999, intent="pi 1"),
        row("refund", -5),  # without a number of ours
        row("partial_capture_reversal", -5, intent=""),
        ["txn_1"],
        [*row("charge", 9999), "more"],
    ],
)
def test_a_bad_row_stops_no_good_one(bad: list[Any]) -> None:
    found = statement(row("charge", 9999), bad, row("charge", 5, intent="pi_2"))
    assert [type(line) for line in found.lines] == [Line, BadLine, Line]


def test_what_was_let_go_of_a_hold_is_taken_off_its_charge() -> None:
    found = statement(row("charge", 9999, 320), row("partial_capture_reversal", -5999))
    [line] = found.lines
    assert isinstance(line, Line)
    assert line.amount == Money(4000, "USD")


def test_each_capture_of_a_hold_is_a_line_with_its_own_amount_and_fee() -> None:
    found = statement(
        row("charge", 4000, 146, id="txn_1", paid=9999),
        row("charge", 1000, 59, id="txn_2", paid=9999, created=1795176060),
        row("partial_capture_reversal", -4999, id="txn_3", paid=9999),
    )
    assert [
        (line.amount, line.fee, line.trade_no) for line in found.lines if isinstance(line, Line)
    ] == [
        (Money(4000, "USD"), Money(146, "USD"), "pi_1"),
        (Money(1000, "USD"), Money(59, "USD"), "pi_1"),
    ]


def test_a_part_of_a_hold_in_another_currency_is_told_and_not_guessed() -> None:
    rest = row("partial_capture_reversal", -3800, paid=9999, paid_currency="jpy")
    found = statement(row("charge", 6400, 200, paid=9999, paid_currency="jpy"), rest)
    [line] = found.lines
    assert isinstance(line, BadLine)
    assert line.problem == "a part of a hold was taken in another currency"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b'{"rows":0}',
        b'{"rows":1}\n',
        b'{"rows":0}\n{"rows":0}\n',
        b"[]\n",
        b'{"rows":0,"more":1}\n',
        b"\xff\n",
    ],
)
def test_a_file_that_was_cut_off_is_refused(content: bytes) -> None:
    with pytest.raises(StatementUnreadable):
        whole(parse(content))


def test_an_empty_day_has_no_lines() -> None:
    assert statement().lines == ()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"error":5}'])
def test_an_error_that_is_none_of_stripes_says_nothing(body: bytes) -> None:
    assert error_of(body).type == ""


def test_what_is_no_id_of_a_payment_is_never_asked_for() -> None:
    body = event(
        "payment_intent.succeeded", encoded_intent("succeeded", id="pi_1/../x"), api_version="1"
    )
    [ask] = read_event(body, is_live=False, account_id="").news
    assert isinstance(ask, Ask)
    assert (ask.subject.attempt_id, ask.subject.ref) == ("ATT1", "")
