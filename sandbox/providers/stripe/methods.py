"""Reads what a buyer pays with: the tokens of test cards, debits and wallets. A raw card number is
refused, as Stripe does for accounts that have not proved that they may see one.
"""

from __future__ import annotations

from typing import Any, Final

from sandbox.providers.stripe import triggers
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.errors import StripeError, invalid, missing
from sandbox.providers.stripe.forms import nested, one_of, text
from sandbox.providers.stripe.objects import PaymentIntent
from sandbox.providers.stripe.triggers import Method

METHOD_DATA: Final = nested(
    {
        "type": one_of(*triggers.KINDS),
        "card": lambda _name, value: value,
        "sepa_debit": nested({"iban": text(34)}, "iban"),
        "us_bank_account": nested(
            {
                "account_number": text(17),
                "routing_number": text(9),
                "account_holder_type": one_of("individual", "company"),
                "account_type": one_of("checking", "savings"),
            },
            "account_number routing_number",
        ),
        "billing_details": nested({"name": text(), "email": text(), "phone": text()}),
    },
    "type",
)
_CURRENCIES: Final = {"sepa_debit": ("eur",), "us_bank_account": ("usd",)}
_DIGITS_MAX: Final = {"amex": 9, "card": 12}
_OTHER_DIGITS_MAX: Final = 8


def digits_max(method: Method) -> int:
    """How many digits an amount may have."""
    if method.kind != "card":
        return _OTHER_DIGITS_MAX
    return _DIGITS_MAX.get(method.brand, _DIGITS_MAX["card"])


def keep(account: Account, method: Method) -> str:
    """Gives a method an id of its own."""
    ref = account.new_id("pm_")
    account.methods[ref] = method
    return ref


def from_parameters(account: Account, sent: dict[str, Any]) -> str | None:
    """The id of the method that a request names; None when it names none.

    Raises:
        StripeError: no such method, a raw card number, an account that is no test account.
    """
    if token := sent.get("payment_method"):
        if token in triggers.BY_TOKEN:
            return keep(account, triggers.BY_TOKEN[token])
        if token not in account.methods:
            raise missing("PaymentMethod", token, param="payment_method")
        return str(token)
    data = sent.get("payment_method_data")
    if data is None:
        return None
    kind = data["type"]
    if kind == "card":
        raise StripeError(
            402,
            "Sending credit card numbers directly to the Stripe API is generally unsafe. Use a "
            "test token such as pm_card_visa.",
            executed=False,
        )
    if kind in triggers.WALLETS:
        return keep(account, triggers.wallet(kind))
    details = data.get(kind)
    if details is None:
        name = f"payment_method_data[{kind}]"
        raise invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")
    if kind == "us_bank_account" and details["routing_number"] != triggers.ACH_ROUTING:
        raise invalid(
            "Invalid routing number", param="routing_number", code="routing_number_invalid"
        )
    account_number = details["iban"] if kind == "sepa_debit" else details["account_number"]
    return keep(account, triggers.debit(kind, account_number))


def check_allowed(pi: PaymentIntent, method: Method) -> None:
    """Raises StripeError for a method that the PaymentIntent does not take."""
    redirects = method.kind in triggers.WALLETS
    allowed = (
        not (redirects and pi.automatic == "never")
        if pi.automatic
        else method.kind in pi.payment_method_types
    )
    if pi.currency not in _CURRENCIES.get(method.kind, (pi.currency,)):
        allowed = False
    if pi.capture_method == "manual" and method.processing:
        allowed = False
    if not allowed:
        raise invalid(
            f"The PaymentMethod provided ({method.kind}) is not allowed for this PaymentIntent.",
            param="payment_method",
            code="payment_intent_incompatible_payment_method",
        )
