"""Requests to Stripe and its OpenAPI document. Every test of this folder holds what it sends
against the document (conftest.py); here stands that no operation is left out, and that the document
refuses what is wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from stripe.params import (
    PaymentIntentCaptureParams,
    PaymentIntentCreateParamsAutomaticPaymentMethods,
)

from mesh.money import Money
from payment_rpc.domain.facts import ChannelStatus
from tests.support.fakes import FakeClock
from tests.support.openapi_requests import (
    FORM,
    NOT_IN_THE_DOCUMENT,
    Document,
    Sent,
    Watch,
    stripe_document,
)
from tests.support.simulated_stripe import CONFIG, SimulatedStripe, simulated_stripe
from tests.support.stripe_adapter import BACK, Shop, some_credentials, stripe_shop

PART = Money(4000, "USD")
INTENTS, SESSIONS = "/v1/payment_intents", "/v1/checkout/sessions"
INTENT = f"{INTENTS}/{{intent}}"
CAPTURE = f"{INTENT}/capture"
PAID, METHODS = "amount=9&currency=usd", "automatic_payment_methods"
HEADERS = {"authorization": "Bearer sk_test_1", "content-type": FORM}
OPERATIONS = {
    ("GET", INTENTS),
    ("POST", INTENTS),
    ("GET", INTENT),
    ("POST", f"{INTENT}/confirm"),
    ("POST", f"{INTENT}/cancel"),
    ("POST", CAPTURE),
    ("POST", SESSIONS),
    ("GET", f"{SESSIONS}/{{session}}"),
    ("POST", f"{SESSIONS}/{{session}}/expire"),
    ("POST", "/v1/refunds"),
    ("GET", "/v1/refunds"),
    ("GET", "/v1/refunds/{refund}"),
    ("GET", "/v1/balance_transactions"),
}


@pytest.fixture
def document() -> Document:
    return stripe_document()


@pytest.fixture
async def sim(clock: FakeClock) -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe(clock) as it:
        yield it


@pytest.fixture
async def shop(sim: SimulatedStripe, clock: FakeClock) -> AsyncIterator[Shop]:
    credentials = some_credentials(secret_key=CONFIG.secret_key, multicapture=True)
    async with stripe_shop(sim.url, clock, credentials) as it:
        yield it


async def test_every_operation_of_the_adapter_is_in_the_document(
    document: Document, watch: Watch, shop: Shop, clock: FakeClock
) -> None:
    assert watch.document is document
    paid = await shop.charge(return_url=BACK)
    assert await shop.query(paid.ref) == paid
    refund = await shop.refund(paid, PART)
    await shop.query_refund(paid, PART)
    await shop.query_refund(paid, PART, refund_no=refund.channel_refund_no)
    held = await shop.charge(capture=False, own_id="ATT2")
    for number, is_final in enumerate((False, True)):
        await shop.channel.capture(
            "ATT2",
            ref=held.ref,
            capture_id=f"CAP{number}",
            amount=PART,
            is_final=is_final,
            timeout_seconds=10,
        )
    let_go = await shop.charge(capture=False, own_id="ATT3")
    await shop.channel.void("ATT3", ref=let_go.ref, timeout_seconds=10)
    left = await shop.checkout(own_id="ATT4")
    await shop.close(left.ref, "ATT4")
    page = await shop.checkout("hosted", own_id="ATT5")
    await shop.query(page.ref, "ATT5")
    assert (await shop.close(page.ref, "ATT5")).status is ChannelStatus.CLOSED
    await shop.channel.statement((clock.now() - timedelta(days=1)).date(), timeout_seconds=10)
    assert await shop.channel.check(timeout_seconds=10) == ""
    assert watch.problems == []
    assert watch.operations == OPERATIONS


@pytest.mark.parametrize(
    ("method", "target", "body", "problem"),
    [
        ("POST", INTENTS, "amount=999", "'currency' is a required property"),
        ("POST", INTENTS, "amount=9.99&currency=usd", "amount: '9.99' is not of type 'integer'"),
        ("POST", INTENTS, "amount=9&amount=9&currency=usd", "amount: is there twice"),
        ("POST", INTENTS, f"{PAID}&colour=red", "'colour' was unexpected"),
        ("POST", INTENTS, f"{PAID}&capture_method=later", "'later' is not one of"),
        (
            "POST",
            INTENTS,
            f"{PAID}&{METHODS}[enabled]=true&{METHODS}[allow_redirects]=none",
            f"{METHODS}.allow_redirects: 'none' is not one of",
        ),
        (
            "POST",
            INTENTS,
            f"{PAID}&payment_method_types=card",
            "payment_method_types: 'card' is not of type 'array'",
        ),
        (
            "POST",
            SESSIONS,
            "success_url=https://shop.example&line_items[0][price]=p&line_items[0][unit]=9",
            "'unit' was unexpected",
        ),
        ("POST", "/v1/refunds", "payment_intent=pi_1&reason=cold", "'cold' is not one of"),
        ("POST", "/v1/refunds", "metadata=RF1", "metadata"),
        ("POST", f"{INTENTS}/pi_1/cancel", "cancellation_reason=tea", "'tea' is not one of"),
        ("GET", f"{INTENTS}?limit=ten", None, "limit: 'ten' is not of type 'integer'"),
        ("GET", f"{INTENTS}?page=2", None, "'page' was unexpected"),
        ("POST", f"{INTENTS}/pi_1/pay", "", "there is no such path"),
        ("DELETE", f"{INTENTS}/pi_1", None, "the path has no such method"),
    ],
)
def test_a_wrong_request_is_refused(
    document: Document, method: str, target: str, body: str | None, problem: str
) -> None:
    sent = Sent(
        method=method,
        target=target,
        headers=HEADERS,
        body=None if body is None else body.encode(),
    )
    watch = Watch(document)
    watch.saw(sent)
    assert any(problem in one for one in watch.problems), watch.problems
    assert watch.operations == set()


@pytest.mark.parametrize(
    ("headers", "problem"),
    [({"content-type": FORM}, "has no key"), ({"authorization": "Bearer sk"}, "is no form")],
)
def test_a_request_without_a_needed_header_is_refused(
    document: Document, headers: dict[str, str], problem: str
) -> None:
    _, problems = document.judge(
        Sent(method="POST", target="/v1/refunds", headers=headers, body=b"payment_intent=pi_1")
    )
    assert [problem in one for one in problems] == [True]


async def test_a_wrong_request_of_an_adapter_is_seen(
    document: Document, watch: Watch, shop: Shop
) -> None:
    await shop.query("pi_1?page=2")
    assert any("'page' was unexpected" in one for one in watch.problems)
    watch.problems.clear()  # else this test fails when it is over


def test_what_the_document_lacks_is_in_the_official_client(document: Document) -> None:
    known: dict[tuple[str, str], dict[str, type]] = {
        ("POST", CAPTURE): {"final_capture": PaymentIntentCaptureParams},
        ("POST", INTENTS): {
            f"{METHODS}.allow_redirects": PaymentIntentCreateParamsAutomaticPaymentMethods
        },
    }
    assert {operation: set(fields) for operation, fields in NOT_IN_THE_DOCUMENT.items()} == {
        operation: set(fields) for operation, fields in known.items()
    }
    for operation, fields in known.items():
        for place, parameters in fields.items():
            assert document.lacks(operation, place)  # else it is no exception any more
            assert place.split(".")[-1] in parameters.__annotations__
