"""PaymentIntents: create, confirm, cancel, capture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sandbox.providers.ledger import MoneyKind
from sandbox.providers.stripe import currencies, methods, triggers
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.attempts import Attempts
from sandbox.providers.stripe.errors import StripeError, invalid
from sandbox.providers.stripe.forms import (
    EXPAND,
    Reader,
    address,
    boolean,
    integer,
    list_of,
    metadata,
    nested,
    one_of,
    read,
    text,
)
from sandbox.providers.stripe.objects import PaymentIntent

_CAPTURE_METHODS: Final = ("automatic", "automatic_async", "manual")
_REASONS: Final = ("abandoned", "duplicate", "fraudulent", "requested_by_customer")
_CONFIRM: Final[Mapping[str, Reader]] = {
    "payment_method": text(),
    "payment_method_data": methods.METHOD_DATA,
    "return_url": address,
    "off_session": boolean,
    "error_on_requires_action": boolean,
    "client_secret": text(),
    "use_stripe_sdk": boolean,
    **EXPAND,
}
_SHOWN: Final[Mapping[str, Reader]] = {
    "description": text(1000),
    "statement_descriptor": text(22),
    "statement_descriptor_suffix": text(22),
    "receipt_email": text(512),
    "setup_future_usage": one_of("on_session", "off_session"),
    "payment_method_options": lambda _name, value: value,
}
_CREATE: Final[Mapping[str, Reader]] = {
    **_CONFIRM,
    **_SHOWN,
    "amount": integer(),
    "currency": text(10),
    "confirm": boolean,
    "capture_method": one_of(*_CAPTURE_METHODS),
    "metadata": metadata,
    "payment_method_types": list_of(one_of(*triggers.KINDS)),
    "automatic_payment_methods": nested(
        {"enabled": boolean, "allow_redirects": one_of("always", "never")}, "enabled"
    ),
}
_ONLY_WITH_CONFIRM: Final = ("return_url", "off_session", "error_on_requires_action")
_CANCEL: Final[Mapping[str, Reader]] = {"cancellation_reason": one_of(*_REASONS), **EXPAND}
_CAPTURE: Final[Mapping[str, Reader]] = {
    "amount_to_capture": integer(),
    "final_capture": boolean,
    "metadata": metadata,
    **EXPAND,
}
_CONFIRMABLE: Final = ("requires_payment_method", "requires_confirmation", "requires_action")
_CANCELABLE: Final = (*_CONFIRMABLE, "requires_capture")


class Payments:
    """The PaymentIntents of an account."""

    def __init__(self, account: Account, attempts: Attempts) -> None:
        self._account = account
        self._attempts = attempts

    def create(self, sent: dict[str, Any]) -> PaymentIntent:
        """Makes a PaymentIntent, and confirms it when asked to."""
        given = read(_CREATE, sent, need="amount currency")
        confirms = given.get("confirm", False)
        for name in () if confirms else _ONLY_WITH_CONFIRM:
            if name in given:
                raise invalid(f"`{name}` can only be used with `confirm=true`.", param=name)
        currencies.check_currency(given["currency"])
        currencies.check_step(given["amount"], given["currency"])
        currencies.check_charge(given["amount"], given["currency"])
        pi = self._new(given)
        if confirms:
            return self._confirm(pi, given)
        if method := methods.from_parameters(self._account, given):
            pi = self._with_method(pi, method)
        return self._created(pi)

    def make(
        self,
        *,
        amount: int,
        currency: str,
        session: str,
        given: Mapping[str, Any],
        kinds: tuple[str, ...],
    ) -> PaymentIntent:
        """The PaymentIntent of a Checkout Session."""
        pi = self._new({**given, "amount": amount, "currency": currency})
        return self._created(
            replace(pi, session=session, automatic=None, payment_method_types=kinds)
        )

    def confirm(self, ref: str, sent: dict[str, Any]) -> PaymentIntent:
        """Tries to pay.

        Raises:
            StripeError: declined, no method, or not in a state to be confirmed.
        """
        pi = self._account.store.payment_intents.need(ref)
        return self._confirm(pi, read(_CONFIRM, sent))

    def confirm_as_buyer(
        self, ref: str, method: triggers.Method, *, return_url: str
    ) -> PaymentIntent:
        """The buyer pays on a page, which waits for him to authenticate if it must."""
        pi = self._account.store.payment_intents.need(ref)
        self._check_state(pi, _CONFIRMABLE, "confirm")
        known = methods.keep(self._account, method)
        ready = replace(self._with_method(pi, known), return_url=return_url, off_session=False)
        return self._attempts.start(ready, error_on_action=False)

    def cancel(self, ref: str, sent: dict[str, Any]) -> PaymentIntent:
        """Cancels for good; an authorization is given back.

        Raises:
            StripeError: too late, or a Checkout Session has to be expired instead.
        """
        pi = self._account.store.payment_intents.need(ref)
        reason = read(_CANCEL, sent).get("cancellation_reason")
        self._check_state(pi, _CANCELABLE, "cancel")
        if pi.session and pi.status != "requires_capture":
            raise self._unexpected(
                pi,
                "You cannot cancel this PaymentIntent because it was created by a Checkout "
                f"Session. Expire the Session ({pi.session}) instead.",
            )
        if pi.status == "requires_capture":
            return self._attempts.release(pi, reason=reason)
        return self._attempts.close(pi, reason=reason)

    def capture(self, ref: str, sent: dict[str, Any]) -> PaymentIntent:
        """Captures what was authorized, or a part. The rest is given back, unless further captures
        were announced with `final_capture=false`.

        Raises:
            StripeError: nothing to capture, or more than that.
        """
        account = self._account
        pi = account.store.payment_intents.need(ref)
        given = read(_CAPTURE, sent)
        self._check_state(pi, ("requires_capture",), "capture")
        amount = given.get("amount_to_capture", pi.amount_capturable)
        currencies.check_step(amount, pi.currency, param="amount_to_capture")
        if amount > pi.amount_capturable:
            raise StripeError(
                400,
                f"The amount_to_capture ({amount}) is greater than the amount_capturable "
                f"({pi.amount_capturable}) of this PaymentIntent.",
                code="amount_too_large",
                param="amount_to_capture",
            )
        is_final = given.get("final_capture", True)
        if not is_final and not account.config.multicapture:
            raise invalid("Multicapture is not available for this account.", param="final_capture")
        return self._captured(pi, amount, is_final=is_final)

    def _captured(self, pi: PaymentIntent, amount: int, *, is_final: bool) -> PaymentIntent:
        account = self._account
        received, rest = pi.amount_received + amount, pi.amount_capturable - amount
        charge = account.store.charges[str(pi.latest_charge)]
        is_first = pi.amount_received == 0
        account.store.charges[charge.id] = replace(
            charge, amount_captured=received, captured=is_final or not rest
        )
        account.move(
            MoneyKind.CAPTURE, ref=pi.id, own_id=pi.own_id, amount=amount, currency=pi.currency
        )
        taken = replace(pi, amount_received=received, amount_capturable=rest)
        # Stripe books a single partial capture as the whole charge and the part that was given back
        whole = is_final and is_first
        self._attempts.book(taken, amount=pi.amount if whole else amount, captured=amount)
        account.tell_charge("charge.captured", charge.id)
        if not is_final and rest:
            held = account.save(taken)
            account.tell_payment("payment_intent.amount_capturable_updated", held)
            return held
        if not rest:
            paid = account.save(replace(taken, status="succeeded"))
            account.tell_payment("payment_intent.succeeded", paid)
            return paid
        if whole:
            account.post(
                "refund",
                amount=-rest,
                currency=pi.currency,
                source=charge.id,
                category="partial_capture_reversal",
            )
        return self._attempts.release(taken, reason=None)

    def _new(self, given: Mapping[str, Any]) -> PaymentIntent:
        ref = self._account.new_id("pi_")
        automatic = given.get("automatic_payment_methods")
        kinds = given.get("payment_method_types")
        if automatic is not None and kinds is not None:
            raise invalid(
                "You may only specify one of these parameters: automatic_payment_methods, "
                "payment_method_types.",
                param="payment_method_types",
            )
        if automatic is None and kinds is None:
            automatic = {"enabled": True}
        redirects = "always" if automatic is None else automatic.get("allow_redirects", "always")
        is_automatic = automatic is not None and automatic["enabled"]
        return PaymentIntent(
            id=ref,
            client_secret=f"{ref}_secret_{self._account.new_id('')}",
            created=self._account.now(),
            amount=given["amount"],
            currency=given["currency"],
            capture_method=given.get("capture_method", "automatic_async"),
            metadata=given.get("metadata", {}),
            automatic=redirects if is_automatic else None,
            payment_method_types=kinds or (triggers.KINDS if is_automatic else ("card",)),
            more={name: given[name] for name in _SHOWN if name in given},
        )

    def _created(self, pi: PaymentIntent) -> PaymentIntent:
        self._account.save(pi)
        self._account.tell_payment("payment_intent.created", pi)
        return pi

    def _confirm(self, pi: PaymentIntent, given: Mapping[str, Any]) -> PaymentIntent:
        self._check_state(pi, _CONFIRMABLE, "confirm")
        known = methods.from_parameters(self._account, dict(given)) or pi.payment_method
        if known is None:
            raise self._unexpected(
                pi,
                "You cannot confirm this PaymentIntent because it's missing a payment method. "
                "Update the PaymentIntent with a payment method and then confirm it again.",
            )
        if pi.automatic == "always" and "return_url" not in given:
            raise invalid(
                "This PaymentIntent is configured to accept payment methods that might redirect "
                "your customer off of your page: you must provide a `return_url`, or set "
                "`automatic_payment_methods[allow_redirects]` to `never`.",
                param="return_url",
            )
        ready = replace(
            self._with_method(pi, known),
            return_url=given.get("return_url"),
            off_session=given.get("off_session", False),
            next_action=None,
        )
        if pi.id not in self._account.store.payment_intents:
            self._created(ready)
        return self._attempts.start(
            self._account.save(ready),
            error_on_action=given.get("error_on_requires_action", False),
        )

    def _with_method(self, pi: PaymentIntent, known: str) -> PaymentIntent:
        method = self._account.methods[known]
        methods.check_allowed(pi, method)
        currencies.check_charge(pi.amount, pi.currency, digits_max=methods.digits_max(method))
        return replace(pi, status="requires_confirmation", payment_method=known, method=method)

    def _check_state(self, pi: PaymentIntent, allowed: tuple[str, ...], verb: str) -> None:
        if pi.status not in allowed:
            raise self._unexpected(
                pi,
                f"You cannot {verb} this PaymentIntent because it has a status of {pi.status}. "
                "Only a PaymentIntent with one of the following statuses may be used: "
                + ", ".join(allowed),
            )

    def _unexpected(self, pi: PaymentIntent, message: str) -> StripeError:
        return StripeError(
            400,
            message,
            code="payment_intent_unexpected_state",
            fields={"payment_intent": self._account.views.payment_intent(pi)},
        )
