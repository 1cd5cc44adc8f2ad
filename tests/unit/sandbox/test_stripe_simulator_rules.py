"""Rules of the simulated Stripe: its currencies, its signature, its form encoding, and the triggers
of what no published card stands for.
"""

from __future__ import annotations

from typing import Any

import pytest

from mesh.ids import UlidIds
from sandbox.providers.simulation import Simulation
from sandbox.providers.stripe import PROVIDER, currencies, forms, triggers
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.attempts import Attempts
from sandbox.providers.stripe.config import StripeConfig
from sandbox.providers.stripe.disputes import Disputes
from sandbox.providers.stripe.errors import StripeError
from sandbox.providers.stripe.objects import Charge, PaymentIntent
from sandbox.providers.stripe.payments import Payments
from sandbox.providers.stripe.refunds import Refunds
from sandbox.providers.stripe.signatures import signature_header
from tests.support.fakes import FakeClock

STEP = triggers.STEP_SECONDS
# A vector that the official library accepts; it is made by hand, not by a provider.
VECTOR_BODY = (
    b'{"id":"evt_test_1","object":"event","api_version":"2026-10-28.endive","created":1795176000,'
    b'"type":"payment_intent.succeeded","data":{"object":{"id":"pi_test_1","object":'
    b'"payment_intent","amount":9999,"amount_received":9999,"currency":"usd","status":"succeeded",'
    b'"metadata":{"attempt_id":"ATT0001"}}}}'
)
VECTOR_SIGNATURE = "8e811edd20abaef43254958582e2653c82bfddb45e11a56f34b208e91ddc55d0"


class World:
    """An account without a server."""

    def __init__(self) -> None:
        self.simulation: Simulation[StripeConfig] = PROVIDER.simulation(
            FakeClock(), base_url="http://127.0.0.1:1"
        )
        self.account = Account(self.simulation)
        self.attempts = Attempts(self.account, Disputes(self.account))
        self.payments = Payments(self.account, self.attempts)
        self.refunds = Refunds(self.account)

    def pay(self, amount: int = 10_000, card: str = "pm_card_visa", **more: str) -> PaymentIntent:
        return self.payments.create(
            {
                "amount": str(amount),
                "currency": "usd",
                "confirm": "true",
                "payment_method": card,
                "automatic_payment_methods": {"enabled": "true", "allow_redirects": "never"},
                **more,
            }
        )

    def advance(self, seconds: float) -> None:
        self.simulation.clock.advance(seconds)
        self.simulation.agenda.run_due()

    def status(self, pi: PaymentIntent) -> str:
        return str(
            self.account.views.payment_intent(self.account.store.payment_intents[pi.id])["status"]
        )

    def moved(self) -> list[str]:
        return [one.kind.value for one in self.simulation.money.movements]

    def told(self, kind: str) -> int:
        return sum(event.kind == kind for event in self.account.store.events.values())


@pytest.fixture
def world() -> World:
    return World()


def test_the_signature_is_that_of_the_vector() -> None:
    secret = "whsec_paymesh_test_vector_1"
    header = signature_header((secret,), timestamp=1795176000, body=VECTOR_BODY)
    assert header == f"t=1795176000,v1={VECTOR_SIGNATURE}"
    both = signature_header(("whsec_new", secret), timestamp=1795176000, body=VECTOR_BODY)
    assert both.count("v1=") == 2
    assert both.endswith(f"v1={VECTOR_SIGNATURE}")


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (9999, "usd", "99.99"),
        (500, "jpy", "500"),
        (5120, "kwd", "5.120"),
        (500, "isk", "5"),
        (500, "ugx", "5"),
        (1234, "huf", "12.34"),
        (1234, "twd", "12.34"),
    ],
)
def test_amounts_have_the_digits_of_stripe(amount: int, currency: str, shown: str) -> None:
    assert currencies.money(amount, currency).format() == shown


def test_ariary_has_no_digits_at_stripe() -> None:
    assert currencies.digits("mga") == 0
    assert currencies.money(5, "mga").currency == "MGA"


@pytest.mark.parametrize(
    ("least", "currency"),
    [
        (50, "usd"),
        (30, "gbp"),
        (17_500, "huf"),
        (50, "jpy"),
        (400, "hkd"),
        (1000, "thb"),
        (1, "cny"),
    ],
)
def test_a_charge_has_a_minimum(least: int, currency: str) -> None:
    currencies.check_charge(least, currency)
    with pytest.raises(StripeError, match="at least"):
        currencies.check_charge(least - 1, currency)


@pytest.mark.parametrize(("digits", "card"), [(12, "pm_card_visa"), (9, "pm_card_amex")])
def test_a_charge_has_a_maximum_by_the_card(world: World, digits: int, card: str) -> None:
    assert world.pay(10**digits - 1, card).status == "succeeded"
    with pytest.raises(StripeError) as refused:
        world.pay(10**digits, card)
    assert refused.value.fields["code"] == "amount_too_large"


def test_exchange_rounds_half_up_both_ways() -> None:
    assert currencies.exchanged(1500, "jpy", "usd") == 1000
    assert currencies.exchanged(1, "eur", "usd") == 1
    assert currencies.exchanged(5, "eur", "usd") == 6  # 5.5
    assert currencies.exchanged(-5, "eur", "usd") == -6


@pytest.mark.parametrize(
    ("encoded", "meant"),
    [
        (b"a=1&b[c]=2&b[d][e]=3", {"a": "1", "b": {"c": "2", "d": {"e": "3"}}}),
        (b"expand[]=x&expand[]=y", {"expand": ["x", "y"]}),
        (b"expand[0]=x&expand[1]=y", {"expand": ["x", "y"]}),
        (b"l[0][a]=1&l[0][b]=2&l[1][a]=3", {"l": [{"a": "1", "b": "2"}, {"a": "3"}]}),
        (b"a=", {"a": ""}),
        (b"a=%F0%9F%8D%B5", {"a": "\N{TEACUP WITHOUT HANDLE}"}),
    ],
)
def test_brackets_nest(encoded: bytes, meant: dict[str, Any]) -> None:
    assert forms.parse_form(encoded) == meant


@pytest.mark.parametrize("encoded", [b"a=1&a=2", b"a[b=1", b"a]=1", b"a=1&a[b]=2", b"=1", b"a-b=1"])
def test_a_form_that_contradicts_itself_is_refused(encoded: bytes) -> None:
    with pytest.raises(StripeError):
        forms.parse_form(encoded)


@pytest.mark.parametrize(
    ("amount", "first", "then"),
    [
        (17_721, "processing", "succeeded"),
        (17_722, "processing", "requires_payment_method"),
        (17_723, "processing", "processing"),
        (17_727, triggers.UNKNOWN_STATUS, triggers.UNKNOWN_STATUS),
        (17_728, "requires_action", "requires_action"),
    ],
)
def test_an_amount_triggers_what_no_card_does(
    world: World, amount: int, first: str, then: str
) -> None:
    made = world.pay(amount)
    assert world.status(made) == first
    world.advance(STEP)
    assert world.status(made) == then
    expected = {"succeeded": 1, triggers.UNKNOWN_STATUS: 1}.get(then, 0)
    assert len(world.moved()) == expected


@pytest.mark.parametrize(
    ("amount", "decline_code", "advice"),
    [
        (17_724, "do_not_honor", "try_again_later"),
        (17_725, "fraudulent", "do_not_try_again"),
    ],
)
def test_an_amount_triggers_a_decline_with_advice(
    world: World, amount: int, decline_code: str, advice: str
) -> None:
    with pytest.raises(StripeError) as refused:
        world.pay(amount)
    fields = refused.value.fields
    assert (fields["decline_code"], fields["advice_code"]) == (decline_code, advice)


def test_a_processing_payment_that_never_ends_cannot_be_cancelled(world: World) -> None:
    made = world.pay(17_723)
    with pytest.raises(StripeError, match="status of processing"):
        world.payments.cancel(made.id, {})


def test_an_authorization_may_run_out_soon_and_a_part_of_it_stays_captured(world: World) -> None:
    gone = world.pay(17_726, capture_method="manual")
    part = world.pay(17_726, capture_method="manual")
    world.payments.capture(part.id, {"amount_to_capture": "100", "final_capture": "false"})
    world.advance(STEP - 1)
    assert world.status(gone) == "requires_capture"
    world.advance(1)
    assert (world.status(gone), world.status(part)) == ("canceled", "succeeded")
    assert world.moved() == ["authorize", "authorize", "capture", "void", "void"]


def test_one_change_may_be_told_by_two_events(world: World) -> None:
    made = world.pay(17_729)
    assert world.told("payment_intent.succeeded") == 2
    ids = {one.id for one in world.account.store.events.values() if one.data["id"] == made.id}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("ending", "first", "then", "pending_reason", "failure_reason"),
    [
        (7742, "pending", "succeeded", "processing", None),
        (7743, "pending", "failed", "processing", "declined"),
        (7744, "pending", "succeeded", "insufficient_funds", None),
        (7745, "failed", "failed", None, "lost_or_stolen_card"),
        (7746, "pending", "canceled", "charge_pending", None),
        (7747, "succeeded", "failed", None, "expired_or_canceled_card"),
        (7749, triggers.UNKNOWN_STATUS, triggers.UNKNOWN_STATUS, None, None),
        (7750, "pending", "failed", "processing", "insufficient_funds"),
        (7751, "pending", "failed", "processing", "merchant_request"),
        (7752, "pending", "failed", "processing", "charge_for_pending_refund_disputed"),
        (7753, "pending", "failed", "processing", "unknown"),
        (7700, "succeeded", "succeeded", None, None),
    ],
)
def test_each_status_of_a_refund_has_a_trigger(
    world: World,
    *,
    ending: int,
    first: str,
    then: str,
    pending_reason: str | None,
    failure_reason: str | None,
) -> None:
    paid = world.pay(50_000)
    made = world.refunds.create({"payment_intent": paid.id, "amount": str(10_000 + ending)})
    view = world.account.views.refund
    assert (made.status, view(made)["pending_reason"]) == (first, pending_reason)
    world.advance(STEP)
    ended = world.account.store.refunds[made.id]
    assert (ended.status, view(ended).get("failure_reason")) == (then, failure_reason)
    succeeded = {"succeeded", triggers.UNKNOWN_STATUS}
    left = [kind for kind in world.moved() if kind != "capture"]
    assert left == ["refund"] * bool({first, then} & succeeded) + ["refund_reversed"] * (
        first in succeeded and then == "failed"
    )
    # what failed may be refunded again, and the balance agrees with the money
    charge: Charge = world.account.store.charges[made.charge]
    is_gone = ended.status in succeeded
    assert charge.amount_refunded == (made.amount if is_gone else 0)
    rows = world.account.store.balance.values()
    assert sum(row.amount for row in rows) == 50_000 - charge.amount_refunded


def test_a_refund_waits_for_the_buyer_and_may_be_cancelled_then(world: World) -> None:
    paid = world.pay(50_000)
    sent = {"payment_intent": paid.id, "amount": "17741"}
    waits, other = world.refunds.create(sent), world.refunds.create(sent)
    assert waits.status == "requires_action"
    assert world.refunds.cancel(waits.id, {}).status == "canceled"
    with pytest.raises(StripeError, match="cannot be canceled"):
        world.refunds.cancel(waits.id, {})
    assert world.refunds.given(other).status == "succeeded"
    assert world.moved() == ["capture", "refund"]


def test_a_refund_may_be_refused_with_402(world: World) -> None:
    paid = world.pay(50_000)
    with pytest.raises(StripeError) as refused:
        world.refunds.create({"payment_intent": paid.id, "amount": "17748"})
    assert (refused.value.status, world.moved()) == (402, ["capture"])


def test_what_is_held_cannot_be_refunded_and_a_part_only_as_far_as_captured(world: World) -> None:
    held = world.pay(capture_method="manual")
    with pytest.raises(StripeError, match="successful charge"):
        world.refunds.create({"payment_intent": held.id})
    world.payments.capture(held.id, {"amount_to_capture": "4000"})
    with pytest.raises(StripeError, match="greater than unrefunded"):
        world.refunds.create({"payment_intent": held.id, "amount": "4001"})
    assert world.refunds.create({"payment_intent": held.id}).amount == 4000


@pytest.mark.parametrize("method", triggers.METHODS, ids=lambda method: method.number)
def test_every_published_number_passes_luhn_and_ends_as_published(
    world: World, method: triggers.Method
) -> None:
    digits = [int(digit) for digit in reversed(method.number)]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[1::2]]
    assert (sum(digits[::2]) + sum(doubled)) % 10 == 0
    made = world.payments.create({"amount": "9999", "currency": "usd"})

    def pay() -> PaymentIntent:
        tried = world.payments.confirm_as_buyer(made.id, method, return_url="https://shop.example")
        assert (tried.status == "requires_action") == (
            method.authenticate in {"always", "on_session"}
        )
        if tried.status == "requires_action":
            return world.attempts.authenticate(tried, succeeds=True)
        return tried

    if method.decline:
        with pytest.raises(StripeError) as refused:
            pay()
        assert refused.value.fields["code"] == method.decline.code
        assert world.moved() == []
    else:
        assert pay().status == "succeeded"
        assert world.moved()[0] == "capture"


def test_ids_of_two_simulations_differ() -> None:
    first, second = World(), World()
    assert isinstance(first.simulation.ids, UlidIds)
    assert first.pay().id != second.pay().id
