"""Checkout Sessions: a hosted page that is open for 30 minutes to 24 hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sandbox.providers.stripe import currencies, triggers
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.attempts import Attempts
from sandbox.providers.stripe.errors import StripeError, invalid
from sandbox.providers.stripe.forms import (
    EXPAND,
    Reader,
    address,
    integer,
    list_of,
    metadata,
    nested,
    one_of,
    read,
    text,
)
from sandbox.providers.stripe.objects import PaymentIntent, Session
from sandbox.providers.stripe.payments import Payments

_SHORTEST_SECONDS: Final = 30 * 60
_LONGEST_SECONDS: Final = 24 * 3600
_UNPAID: Final = ("requires_payment_method", "requires_confirmation", "requires_action")
_PRODUCT: Final = nested({"name": text(1500), "description": text()}, "name")
_PRICE: Final = nested(
    {"currency": text(10), "unit_amount": integer(), "product_data": _PRODUCT},
    "currency unit_amount product_data",
)
_CREATE: Final[Mapping[str, Reader]] = {
    "mode": one_of("payment"),
    "ui_mode": one_of("hosted"),
    "line_items": list_of(
        nested({"price_data": _PRICE, "quantity": integer()}, "price_data quantity")
    ),
    "success_url": text(5000),
    "cancel_url": address,
    "client_reference_id": text(200),
    "customer_email": text(800),
    "expires_at": integer(),
    "locale": text(10),
    "metadata": metadata,
    "payment_method_types": list_of(one_of(*triggers.KINDS)),
    "payment_intent_data": nested(
        {
            "capture_method": one_of("automatic", "automatic_async", "manual"),
            "description": text(1000),
            "metadata": metadata,
            "statement_descriptor_suffix": text(22),
            "receipt_email": text(512),
            "setup_future_usage": one_of("on_session", "off_session"),
        }
    ),
    "submit_type": one_of("auto", "pay"),
    **EXPAND,
}


class Sessions:
    """The Checkout Sessions of an account."""

    def __init__(self, account: Account, payments: Payments, attempts: Attempts) -> None:
        self._account = account
        self._payments = payments
        self._attempts = attempts

    def create(self, sent: dict[str, Any]) -> Session:
        """Opens a Session."""
        account = self._account
        given = read(_CREATE, sent, need="mode line_items success_url")
        currency, amount, names = self._items(given["line_items"])
        now = account.now()
        expires_at = given.get("expires_at", now + _LONGEST_SECONDS)
        if not _SHORTEST_SECONDS <= expires_at - now <= _LONGEST_SECONDS:
            raise invalid(
                "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.",
                param="expires_at",
            )
        session = Session(
            id=self._account.new_id("cs_test_"),
            created=now,
            amount=amount,
            currency=currency,
            expires_at=expires_at,
            success_url=given["success_url"],
            cancel_url=given.get("cancel_url"),
            client_reference_id=given.get("client_reference_id"),
            metadata=given.get("metadata", {}),
            payment=given.get("payment_intent_data", {}),
            payment_method_types=given.get("payment_method_types", triggers.KINDS),
            items=names,
        )
        account.store.sessions[session.id] = session
        account.later(expires_at - now, lambda: self._run_out(session.id))
        return session

    def expire(self, ref: str, sent: dict[str, Any]) -> Session:
        """Ends an open Session, and cancels its payment.

        Raises:
            StripeError: it is not open.
        """
        read(EXPAND, sent)
        session = self._account.store.sessions.need(ref)
        if session.status != "open":
            raise StripeError(
                400,
                'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout '
                f"Session has a status of {session.status}.",
            )
        return self._expired(session)

    def pay(self, ref: str, method: triggers.Method) -> PaymentIntent:
        """The buyer pays on the hosted page.

        Raises:
            StripeError: declined, or the Session is not open.
        """
        session = self._account.store.sessions.need(ref)
        if session.status != "open":
            raise StripeError(400, f"This Checkout Session is {session.status}.")
        if session.payment_intent is None:
            pi = self._payments.make(
                amount=session.amount,
                currency=session.currency,
                session=session.id,
                given=session.payment,
                kinds=session.payment_method_types,
            )
            session = replace(session, payment_intent=pi.id)
            self._account.store.sessions[session.id] = session
        paid = self._payments.confirm_as_buyer(
            str(session.payment_intent),
            method,
            return_url=session.success_url.replace("{CHECKOUT_SESSION_ID}", session.id),
        )
        self.follow(paid)
        return paid

    def follow(self, pi: PaymentIntent) -> None:
        """Completes the Session whose payment has got so far, and tells how a debit ended."""
        account = self._account
        session = account.store.sessions.get(pi.session)
        if session is None:
            return
        if session.status == "open" and pi.status not in {*_UNPAID, "canceled"}:
            done = replace(session, status="complete")
            account.store.sessions[done.id] = done
            account.tell("checkout.session.completed", account.views.session(done))
            if pi.status == "processing":
                account.later(triggers.STEP_SECONDS, lambda: self._debit_ended(done.id))

    def _debit_ended(self, ref: str) -> None:
        account = self._account
        session = account.store.sessions[ref]
        pi = account.store.payment_intents[str(session.payment_intent)]
        if pi.status == "processing":
            return
        ending = "succeeded" if pi.status == "succeeded" else "failed"
        account.tell(f"checkout.session.async_payment_{ending}", account.views.session(session))

    def _items(self, items: tuple[Any, ...]) -> tuple[str, int, tuple[str, ...]]:
        if not items:
            raise invalid("line_items is empty", param="line_items", code="parameter_missing")
        codes = {item["price_data"]["currency"] for item in items}
        if len(codes) != 1:
            raise invalid("All prices must have the same currency.", param="line_items")
        currency = codes.pop()
        currencies.check_currency(currency)
        amount = sum(item["price_data"]["unit_amount"] * item["quantity"] for item in items)
        currencies.check_step(amount, currency)
        currencies.check_charge(amount, currency)
        names = tuple(item["price_data"]["product_data"]["name"] for item in items)
        return currency, amount, names

    def _run_out(self, ref: str) -> None:
        session = self._account.store.sessions[ref]
        if session.status == "open":
            self._expired(session)

    def _expired(self, session: Session) -> Session:
        account = self._account
        done = replace(session, status="expired")
        account.store.sessions[done.id] = done
        pi = account.store.payment_intents.get(session.payment_intent or "")
        if pi is not None and pi.status in _UNPAID:
            self._attempts.close(pi, reason=None)
        account.tell("checkout.session.expired", account.views.session(done))
        return done
