"""A BTCPay Server's words as facts, its amounts, its signatures and its credentials."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidArgument
from mesh.money import CURRENCIES, Money
from payment_rpc.channels.btcpay import answers, events, signatures
from payment_rpc.channels.btcpay.amounts import read_amount, worth
from payment_rpc.channels.btcpay.answers import Invoice, Method, Payout, PullPayment
from payment_rpc.channels.btcpay.credentials import parse
from payment_rpc.channels.doubt import Unclear
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.payment import NextAction

CREDENTIALS = {"store_id": "STORE1", "api_key": "key-0001", "webhook_secrets": ["secret-0001"]}
USD = Money(9999, "USD")


def invoice(status: str, additional: str, **changed: Any) -> Invoice:
    made = {
        "id": "INV1",
        "status": status,
        "additionalStatus": additional,
        "amount": "99.99",
        "currency": "USD",
        "createdTime": 1795176000,
        "checkoutLink": "https://pay.example/i/INV1",
        "metadata": {"orderId": "ATT1"},
    }
    return answers.decode(json.dumps({**made, **changed}).encode(), Invoice)


def paid(*values: str, status: str = "Settled", rate: str = "50000.0") -> list[Method]:
    payments = [{"value": one, "status": status, "receivedDate": 1795176060} for one in values]
    made = {"rate": rate, "payments": payments}
    return [answers.decode(json.dumps(made).encode(), Method)]


def fact(*invoices: tuple[Invoice, list[Method]]) -> Any:
    return answers.read_attempt(invoices, attempt_id="ATT1", ref="INV1")


@pytest.mark.parametrize(
    ("status", "additional"),
    [words for words, found in answers.INVOICES.items() if found is answers.PENDING],
)
def test_words_that_wait(status, additional):
    read = fact((invoice(status, additional), []))
    assert (read.status, read.amount) == (ChannelStatus.PENDING, USD)


def test_the_page_of_what_waits_for_its_buyer_is_told_again():
    assert fact((invoice("New", "None"), [])).next_action == NextAction(
        kind="REDIRECT_URL", value="https://pay.example/i/INV1"
    )
    for words in (("New", "PaidPartial"), ("Processing", "None"), ("Expired", "None")):
        assert fact((invoice(*words), [])).next_action is None
    # an answer without an address still says that it waits
    read = fact((invoice("New", "None", checkoutLink="javascript:alert(1)"), []))
    assert (read.status, read.next_action) == (ChannelStatus.PENDING, None)


@pytest.mark.parametrize("additional", ["None", "PaidOver", "PaidLate"])
def test_a_settled_invoice_is_worth_what_was_due(additional):
    read = fact((invoice("Settled", additional), paid("0.0019998")))
    assert (read.status, read.amount, read.surplus) == (ChannelStatus.CAPTURED, USD, None)
    assert (read.trade_no, read.fee) == ("INV1", Money(0, "USD"))
    assert read.occurred_at is not None


@pytest.mark.parametrize(
    ("status", "additional"),
    [
        *(words for words, found in answers.INVOICES.items() if found is answers.UNKNOWN),
        ("Settled", "PaidTwice"),
        ("Complete", "None"),
        ("settled", "None"),
        ("", ""),
        ("New", "Marked"),
    ],
)
def test_words_of_people_and_words_that_nobody_knows_are_no_fact(status, additional):
    with pytest.raises(Unclear):
        fact((invoice(status, additional), []))


def test_more_than_was_due_is_surplus():
    read = fact((invoice("Settled", "PaidOver"), paid("0.0019998", "0.0001")))
    assert (read.amount, read.surplus) == (USD, Money(500, "USD"))


def test_less_than_was_due_is_what_it_is_once_it_is_confirmed():
    read = fact((invoice("Expired", "PaidPartial"), paid("0.001")))
    assert (read.status, read.amount) == (ChannelStatus.CAPTURED, Money(5000, "USD"))
    for status in ("Processing", "Invalid"):
        waiting = fact((invoice("Expired", "PaidPartial"), paid("0.001", status=status)))
        assert waiting.status is ChannelStatus.PENDING


def test_the_invoice_that_was_paid_in_full_is_the_attempts():
    part = (invoice("Expired", "PaidPartial"), paid("0.001"))
    full = (invoice("Settled", "None", id="INV2"), paid("0.0019998"))
    read = fact(part, full)
    assert (read.trade_no, read.amount, read.surplus) == ("INV2", USD, Money(5000, "USD"))


def test_money_is_told_beside_an_invoice_that_somebody_marked():
    marked: Any = (invoice("Settled", "Marked"), [])
    read = fact(marked, (invoice("Settled", "None", id="INV2"), paid("0.0019998")))
    assert read.status is ChannelStatus.CAPTURED
    assert "INV1" in read.message


def test_two_currencies_of_one_attempt_are_unclear():
    one = (invoice("Settled", "None"), paid("0.002"))
    with pytest.raises(Unclear):
        fact(one, (invoice("Settled", "None", id="INV2", currency="EUR"), paid("0.002")))


@pytest.mark.parametrize(
    "changed",
    [{"amount": "1.001"}, {"amount": "-1"}, {"amount": "1e5"}, {"currency": "BTC"}],
)
def test_an_amount_that_cannot_be_read_is_unclear(changed):
    with pytest.raises(Unclear):
        fact((invoice("Settled", "None", **changed), paid("0.002")))


@pytest.mark.parametrize(("value", "rate"), [("-1", "1"), ("1e9", "1"), ("1", "x"), ("", "1")])
def test_coins_that_cannot_be_read_are_unclear(value, rate):
    with pytest.raises(Unclear):
        fact((invoice("Settled", "None"), paid(value, rate=rate)))


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 5000, b'{"id":1}'])
def test_what_is_no_invoice_is_unclear(content):
    with pytest.raises(Unclear):
        answers.decode(content, Invoice)
    assert answers.code_of(content) == ""


@pytest.mark.parametrize("url", ["javascript:alert(1)", "", "https://x y", "//x"])
def test_a_buyer_is_sent_to_web_addresses_only(url):
    with pytest.raises(Unclear):
        answers.page_of(invoice("New", "None", checkoutLink=url))


@pytest.mark.parametrize("text", [None, "", "no address", "bitcoin:\n", "x" * 50])
def test_only_a_payment_address_is_a_code(text):
    with pytest.raises(Unclear):
        answers.code_to_scan([Method(rate="1", payment_link=text)])


# amounts


@given(st.sampled_from(CURRENCIES), st.integers(1, 10**12), st.integers(0, 3))
def test_every_amount_goes_both_ways_with_any_zeros(currency, minor, zeros):
    written = Money(minor, currency).format()
    more = f"{written}{'0' * zeros}" if "." in written else written
    assert read_amount(more, currency) == Money(minor, currency)


def test_coins_are_rounded_down():
    assert worth(["0.001", "0.0005"], ["50000.55", "50000.55"], "USD") == Money(7500, "USD")
    assert worth([], [], "JPY") == Money(0, "JPY")


@pytest.mark.parametrize("text", ["1" * 40, "NaN", "Infinity", "1_0", "０"])
def test_numbers_are_checked_before_they_are_built(text):
    with pytest.raises(ValueError, match="not a number"):
        worth([text], ["1"], "USD")


# refunds


def payout(state: str, amount: str | None = "10.00") -> Payout:
    return Payout(id="P1", state=state, original_amount=amount)


@pytest.mark.parametrize(
    ("payouts", "status"),
    [
        ([], "PENDING"),
        ([payout("AwaitingApproval")], "PENDING"),
        ([payout("AwaitingPayment")], "PENDING"),
        ([payout("InProgress")], "PENDING"),
        ([payout("Cancelled")], "PENDING"),
        ([payout("Completed", "4.00")], "PENDING"),
        ([payout("Completed", "4.00"), payout("InProgress", "6.00")], "PENDING"),
        ([payout("Completed", "4.00"), payout("Completed", "6.00")], "SUCCESS"),
        ([payout("Cancelled"), payout("Completed")], "SUCCESS"),
        ([Payout(id="P1", state="Completed", amount="10.0")], "SUCCESS"),
    ],
)
def test_a_refund_is_done_when_all_of_it_left(payouts, status):
    claim = PullPayment(id="PP1", amount="10.00", currency="USD", name="RF1")
    read = answers.read_refund(claim, payouts, refund_id="RF1", amount=Money(1000, "USD"))
    assert (read.status, read.channel_refund_no) == (status, "PP1")


@pytest.mark.parametrize(
    ("claim", "payouts"),
    [
        (PullPayment(id="PP1", amount="11.00", currency="USD"), []),
        (PullPayment(id="PP1", amount="10.00", currency="EUR"), []),
        (PullPayment(id="PP1", amount="0.0002", currency="BTC"), []),
        (PullPayment(id="PP1", amount="10.00", currency="USD"), [payout("Paid")]),
        (PullPayment(id="PP1", amount="10.00", currency="USD"), [payout("Completed", None)]),
    ],
)
def test_a_claim_that_is_not_the_expected_one_is_unclear(claim, payouts):
    with pytest.raises(Unclear):
        answers.read_refund(claim, payouts, refund_id="RF1", amount=Money(1000, "USD"))


# notices: the vector's HMAC was made by OpenSSL

SECRET = "paymesh-btcpay-test-secret"  # of the vector
EVENT = {
    "deliveryId": "DEL0001",
    "webhookId": "WH0001",
    "originalDeliveryId": "DEL0001",
    "isRedelivery": False,
    "type": "InvoiceSettled",
    "timestamp": 1795176000,
    "storeId": "STORE1",
    "invoiceId": "INV0001",
    "metadata": {"orderId": "ATT0001"},
    "manuallyMarked": False,
    "overPaid": False,
}
BODY = json.dumps(EVENT, indent=2).encode()
SIGNATURE = "sha256=c033596436e4cea02e0d6898a0b99e5af4fb588c99bad7fa4a29126bfe408736"


def test_the_vector_is_accepted():
    assert (len(BODY), hashlib.sha256(BODY).hexdigest()[:16]) == (312, "5f42c1f0c0730a53")
    signatures.check([SECRET], body=BODY, signature=SIGNATURE)
    signatures.check(["another", SECRET], body=BODY, signature=SIGNATURE)


@pytest.mark.parametrize(
    ("body", "signature"),
    [
        (json.dumps(EVENT, separators=(",", ":")).encode(), SIGNATURE),
        (BODY + b"\n", SIGNATURE),
        (BODY.replace(b"INV0001", b"INV0002"), SIGNATURE),
        (BODY, SIGNATURE.removeprefix("sha256=")),
        (BODY, SIGNATURE.upper()),
        (BODY, SIGNATURE.replace("sha256", "sha1")),
        (BODY, SIGNATURE[:-1]),
        (BODY, f"{SIGNATURE}, {SIGNATURE}"),
        (BODY, ""),
        (BODY, "sha256="),
        (BODY, "é"),
    ],
)
def test_what_was_changed_is_refused(body, signature):
    with pytest.raises(SignatureInvalid):
        signatures.check([SECRET], body=body, signature=signature)


def test_a_notice_says_ask_and_keeps_the_name_of_its_first_delivery():
    event = {**EVENT, "deliveryId": "DEL0002", "isRedelivery": True}
    received = events.read(json.dumps(event).encode(), store_id="STORE1")
    assert received.event_id == "DEL0001"
    news: Any = received.news[0]
    assert (news.subject.attempt_id, news.subject.ref) == ("ATT0001", "INV0001")


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "PayoutCreated"},
        {"type": "PaymentRequestCreated"},
        {"invoiceId": None, "metadata": None},
        {"invoiceId": None, "metadata": {"orderId": 5}},
    ],
)
def test_a_notice_about_something_else_means_nothing(changed):
    body = json.dumps({**EVENT, **changed}).encode()
    assert events.read(body, store_id="STORE1").news == ()


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"type":1}', b"\xff", b"[" * 5000])
def test_a_body_that_is_no_notice_is_refused(body):
    with pytest.raises(InvalidArgument):
        events.read(body, store_id="STORE1")
    assert events.subject_of(body).ref == ""


def test_a_notice_of_another_store_is_refused():
    with pytest.raises(SignatureInvalid):
        events.read(BODY, store_id="STORE2")


# credentials


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"store_id": "a/b/c"}, "store_id"),
        ({"api_key": "has a space in it"}, "api_key"),
        ({"webhook_secrets": []}, "webhook_secrets"),
        ({"webhook_secrets": "secret-0001"}, "webhook_secrets"),
        ({"server_url": "ftp://server"}, "server_url"),
        ({"speed_policy": "HighSpeed"}, "speed_policy"),  # no confirmation can be taken back
        ({"monitoring_minutes": 10}, "monitoring_minutes"),
        ({"payout_methods": []}, "payout_methods"),
        ({"currencies": ["BTC"]}, "currencies"),
        ({"tolerance": 5}, "tolerance"),
    ],
)
def test_credentials_that_are_none_are_refused_by_field(changed, field):
    with pytest.raises(InvalidArgument) as refused:
        parse({**CREDENTIALS, **changed})
    assert field in str(refused.value)
    assert "has a space" not in str(refused.value)


def test_credentials_show_no_secret():
    shown = repr(parse(CREDENTIALS))
    assert "key-0001" not in shown
    assert "secret-0001" not in shown
