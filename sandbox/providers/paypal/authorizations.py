"""Authorizations: 29 days, of which funds are certain for 3; one reauthorization in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from mesh.money import Money
from sandbox.providers.ledger import MoneyKind, MoneyLog
from sandbox.providers.paypal.amounts import last_two_digits, read_amount
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.captures import CaptureDesk
from sandbox.providers.paypal.events import EventLog
from sandbox.providers.paypal.objects import (
    Authorization,
    AuthorizationStatus,
    Capture,
    CaptureStatus,
    Order,
    OrderStatus,
)
from sandbox.providers.paypal.refusals import unprocessable
from sandbox.providers.paypal.triggers import (
    AUTHORIZATION_DENIED,
    AUTHORIZATION_PENDING,
    LATER_SECONDS,
)
from sandbox.providers.paypal.wire import Amount, CaptureAuthorization
from sandbox.providers.simulation import Agenda

_HONORED = timedelta(days=3)
_VALID = timedelta(days=29)
_MORE_PER_CENT = 115
_MORE_USD = 75_00
_ENDED = {
    AuthorizationStatus.CAPTURED: "AUTHORIZATION_ALREADY_CAPTURED",
    AuthorizationStatus.VOIDED: "PREVIOUSLY_VOIDED",
    AuthorizationStatus.DENIED: "AUTHORIZATION_DENIED",
    AuthorizationStatus.PENDING: "PENDING_AUTHORIZATION",
}


class AuthorizationDesk:
    """Makes authorizations, captures them, lets them go."""

    def __init__(
        self,
        books: Books,
        events: EventLog,
        captures: CaptureDesk,
        money: MoneyLog,
        agenda: Agenda,
    ) -> None:
        self._books = books
        self._events = events
        self._captures = captures
        self._money = money
        self._agenda = agenda

    def make(self, order: Order) -> Authorization:
        """Holds the amount of an order. Raises Refused, 422, for a known invoice id."""
        if self._books.knows_invoice(order.invoice_id, except_order=order.id):
            raise unprocessable("DUPLICATE_INVOICE_ID")
        digits = last_two_digits(order.amount)
        now = self._books.now()
        found = Authorization(
            id=self._books.new_id(),
            order_id=order.id,
            status=AuthorizationStatus.PENDING,
            reason="PENDING_REVIEW" if digits == AUTHORIZATION_PENDING else "",
            amount=order.amount,
            original=order.amount,
            custom_id=order.custom_id,
            invoice_id=order.invoice_id,
            created_at=now,
            updated_at=now,
            honored_until=now + _HONORED,
            expires_at=now + _VALID,
        )
        self._books.authorizations[found.id] = found
        self._agenda.at(found.expires_at, lambda: self._expire(found.id))
        if digits == AUTHORIZATION_DENIED:
            return self.deny(found.id)
        if digits == AUTHORIZATION_PENDING:
            self._agenda.after(LATER_SECONDS, lambda: self.grant(found.id))
            return found
        return self.grant(found.id)

    def grant(self, authorization_id: str) -> Authorization:
        """Holds the money of a pending authorization; another one stays as it is."""
        found = self._books.authorization(authorization_id)
        if found.status is not AuthorizationStatus.PENDING:
            return found
        found = self._keep(replace(found, status=AuthorizationStatus.CREATED, reason=""))
        self._record(MoneyKind.AUTHORIZE, found, found.amount.minor)
        self._events.authorization("CREATED", found)
        return found

    def deny(self, authorization_id: str) -> Authorization:
        """Ends a pending authorization; another one stays as it is."""
        found = self._books.authorization(authorization_id)
        if found.status is not AuthorizationStatus.PENDING:
            return found
        return self._keep(replace(found, status=AuthorizationStatus.DENIED))

    def amount_to_capture(self, authorization_id: str, body: CaptureAuthorization) -> Money:
        """What a request is about: its amount, or what is left.

        Raises:
            Refused: no such authorization; no such amount.
        """
        found = self._books.authorization(authorization_id)
        if body.amount is None:
            left = found.amount.minor - self._books.captured_minor(found.id)
            return Money(left, found.amount.currency)
        return read_amount(body.amount.currency_code, body.amount.value, field="/amount")

    def capture(self, authorization_id: str, body: CaptureAuthorization) -> Capture:
        """Captures a part or all of the rest; a final capture lets go of what then is left.

        Raises:
            Refused: 404; 422, it cannot be done.
        """
        found = self._open(authorization_id)
        amount = self.amount_to_capture(authorization_id, body)
        if amount.currency != found.amount.currency:
            raise unprocessable("AUTH_CAPTURE_CURRENCY_MISMATCH", field="/amount/currency_code")
        left = found.amount.minor - self._books.captured_minor(found.id)
        if amount.minor > left:
            raise unprocessable("MAX_CAPTURE_AMOUNT_EXCEEDED", field="/amount/value")
        capture = self._captures.make(
            order_id=found.order_id,
            authorization_id=found.id,
            amount=amount,
            custom_id=found.custom_id,
            invoice_id=body.invoice_id or found.invoice_id,
            is_final=body.final_capture,
        )
        if capture.status in {CaptureStatus.DECLINED, CaptureStatus.FAILED}:
            return capture
        left -= amount.minor
        ends = body.final_capture or left == 0
        self._keep(
            replace(
                found,
                status=AuthorizationStatus.CAPTURED
                if ends
                else AuthorizationStatus.PARTIALLY_CAPTURED,
            )
        )
        if ends and left:
            self._record(MoneyKind.VOID, found, left)
        return capture

    def void(self, authorization_id: str) -> Authorization:
        """Lets go of what is not captured.

        Raises:
            Refused: 404; 422, it is captured or ended otherwise.
        """
        return self._let_go(self._open(authorization_id))

    def reauthorize(self, authorization_id: str, wanted: Amount | None) -> Authorization:
        """A new authorization in place of one whose funds are no longer certain.

        Raises:
            Refused: 404; 422, too early, too late, too much or a second time.
        """
        found = self._open(authorization_id)
        if found.is_second:
            raise unprocessable("MAX_NUMBER_OF_REAUTHORIZATION_ALLOWED_EXCEEDED")
        if found.status is AuthorizationStatus.PARTIALLY_CAPTURED:
            raise unprocessable("REAUTHORIZATION_NOT_SUPPORTED")
        now = self._books.now()
        if now < found.honored_until:
            raise unprocessable("REAUTHORIZATION_TOO_SOON")
        amount = (
            read_amount(wanted.currency_code, wanted.value, field="/amount")
            if wanted
            else found.amount
        )
        if amount.currency != found.amount.currency:
            raise unprocessable("AUTH_CURRENCY_MISMATCH", field="/amount/currency_code")
        most = found.original.minor * _MORE_PER_CENT // 100
        if amount.currency == "USD":
            most = min(most, found.original.minor + _MORE_USD)
        if amount.minor > most:
            raise unprocessable("AMOUNT_CANNOT_BE_GREATER", field="/amount/value")
        self._record(MoneyKind.VOID, found, found.amount.minor)
        self._keep(replace(found, status=AuthorizationStatus.VOIDED, replaced=True))
        second = replace(
            found,
            id=self._books.new_id(),
            status=AuthorizationStatus.PENDING,
            amount=amount,
            created_at=now,
            honored_until=min(now + _HONORED, found.expires_at),
            is_second=True,
        )
        self._books.authorizations[second.id] = second
        self._agenda.at(second.expires_at, lambda: self._expire(second.id))
        return self.grant(second.id)

    def _open(self, authorization_id: str) -> Authorization:
        found = self._books.authorization(authorization_id)
        if issue := _ENDED.get(found.status):
            raise unprocessable(issue)
        return found

    def _expire(self, authorization_id: str) -> None:
        found = self._books.authorization(authorization_id)
        if found.status not in _ENDED or found.status is AuthorizationStatus.PENDING:
            self._let_go(found)

    def _let_go(self, found: Authorization) -> Authorization:
        left = found.amount.minor - self._books.captured_minor(found.id)
        if left and found.status is not AuthorizationStatus.PENDING:
            self._record(MoneyKind.VOID, found, left)
        found = self._keep(replace(found, status=AuthorizationStatus.VOIDED))
        self._events.authorization("VOIDED", found)
        self._void_order(found.order_id, found.updated_at)
        return found

    def _void_order(self, order_id: str, at: datetime) -> None:
        """An order is VOIDED when every authorization is, and nothing was captured."""
        if all(
            found.status is AuthorizationStatus.VOIDED
            for found in self._books.authorizations_of(order_id)
        ) and not any(self._books.captures_of(order_id)):
            order = self._books.orders[order_id]
            self._books.orders[order_id] = replace(order, status=OrderStatus.VOIDED, updated_at=at)

    def _record(self, kind: MoneyKind, found: Authorization, minor: int) -> None:
        money = Money(minor, found.amount.currency)
        self._money.record(kind, ref=found.id, own_id=found.custom_id, money=money)

    def _keep(self, found: Authorization) -> Authorization:
        found = replace(found, updated_at=self._books.now())
        self._books.authorizations[found.id] = found
        return found
