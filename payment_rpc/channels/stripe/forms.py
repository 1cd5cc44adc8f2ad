"""Requests that create something: PaymentIntents and Checkout Sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from mesh.money import Money
from mesh.times import milliseconds
from payment_rpc.channels.requests import Checkout, PaymentToken
from payment_rpc.channels.stripe.amounts import to_stripe
from payment_rpc.channels.stripe.answers import ATTEMPT, CLIENT, FLOW, HOSTED, RETURN_URL, TOKEN

Form = dict[str, str]

_METADATA_MAX = 500
_DESCRIPTION_MAX = 500
_NAME_MAX = 250
# how long a hosted page can be open, with a minute for clocks and for the call
_OPEN_MIN, _OPEN_MAX = timedelta(minutes=31), timedelta(hours=23, minutes=59)


def token_form(
    attempt_id: str,
    amount: Money,
    token: PaymentToken,
    *,
    methods: Sequence[str],
    capture: bool,
) -> Form:
    """A payment that we confirm. Where the buyer returns to is kept with it, so that the step after
    a crash is the same request, as its idempotency key demands.
    """
    form = _intent_form(attempt_id, amount, flow=TOKEN, capture=capture)
    form |= _methods(methods, redirects="always" if token.return_url else "never")
    form["payment_method"] = token.value
    for position, name in enumerate(RETURN_URL):
        part = token.return_url[position * _METADATA_MAX :][:_METADATA_MAX]
        if part:
            form[f"metadata[{name}]"] = part
    return form


def client_form(
    attempt_id: str, amount: Money, order: Checkout, *, methods: Sequence[str], capture: bool
) -> Form:
    """A payment that the buyer's browser confirms with the client secret."""
    form = _intent_form(attempt_id, amount, flow=CLIENT, capture=capture)
    form |= _methods(methods, redirects="always")
    if order.subject:
        form["description"] = _description(order)
    return form


def hosted_form(
    attempt_id: str,
    amount: Money,
    order: Checkout,
    *,
    methods: Sequence[str],
    capture: bool,
    expires_at: datetime,
    now: datetime,
) -> Form:
    """A page of Stripe's with one line. It is open for 30 minutes at least and a day at most,
    whatever the deadline: the core ends it earlier.
    """
    closes_at = min(max(expires_at, now + _OPEN_MIN), now + _OPEN_MAX)
    form = {
        "mode": "payment",
        "client_reference_id": attempt_id,
        "success_url": order.return_url,
        "cancel_url": order.return_url,
        "expires_at": str(milliseconds(closes_at) // 1000),
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": amount.currency.lower(),
        "line_items[0][price_data][unit_amount]": str(to_stripe(amount)),
        "line_items[0][price_data][product_data][name]": order.subject[:_NAME_MAX] or attempt_id,
        "payment_intent_data[capture_method]": "automatic" if capture else "manual",
        "payment_intent_data[description]": _description(order) or attempt_id,
    }
    for prefix in ("metadata", "payment_intent_data[metadata]"):
        form[f"{prefix}[{ATTEMPT}]"] = attempt_id
        form[f"{prefix}[{FLOW}]"] = HOSTED
    form |= {f"payment_method_types[{index}]": kind for index, kind in enumerate(methods)}
    return form


def _intent_form(attempt_id: str, amount: Money, *, flow: str, capture: bool) -> Form:
    return {
        "amount": str(to_stripe(amount)),
        "currency": amount.currency.lower(),
        # not `automatic_async`: the fee is known with the answer
        "capture_method": "automatic" if capture else "manual",
        f"metadata[{ATTEMPT}]": attempt_id,
        f"metadata[{FLOW}]": flow,
    }


def _methods(methods: Sequence[str], *, redirects: str) -> Form:
    """What the buyer may pay with: the account's list, or what is switched on in the dashboard."""
    if methods:
        return {f"payment_method_types[{index}]": kind for index, kind in enumerate(methods)}
    return {
        "automatic_payment_methods[enabled]": "true",
        "automatic_payment_methods[allow_redirects]": redirects,
    }


def _description(order: Checkout) -> str:
    return (order.description or order.subject)[:_DESCRIPTION_MAX]
