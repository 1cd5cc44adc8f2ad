"""Orders: made by the shop, approved by the buyer, captured or authorized by the shop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from sandbox.providers.paypal.amounts import last_two_digits, read_amount
from sandbox.providers.paypal.answers import Answers
from sandbox.providers.paypal.authorizations import AuthorizationDesk
from sandbox.providers.paypal.books import ORDER_LIFE, Books
from sandbox.providers.paypal.captures import CaptureDesk
from sandbox.providers.paypal.events import EventLog
from sandbox.providers.paypal.objects import Intent, Order, OrderStatus
from sandbox.providers.paypal.refusals import Refused, unprocessable
from sandbox.providers.paypal.triggers import FUNDING_DECLINED
from sandbox.providers.paypal.wire import CreateOrder, PurchaseUnit
from sandbox.providers.simulation import Agenda

_UNAPPROVED = frozenset({OrderStatus.CREATED, OrderStatus.PAYER_ACTION_REQUIRED})


class OrderDesk:
    """What a shop and a buyer do with orders."""

    def __init__(
        self,
        *,
        books: Books,
        events: EventLog,
        answers: Answers,
        captures: CaptureDesk,
        authorizations: AuthorizationDesk,
        agenda: Agenda,
    ) -> None:
        self._books = books
        self._events = events
        self._answers = answers
        self._captures = captures
        self._authorizations = authorizations
        self._agenda = agenda

    def create(self, body: CreateOrder) -> Order:
        """A new order.

        Raises:
            Refused: 400, 422.
        """
        if len(body.purchase_units) > 1:
            raise unprocessable("UNSUPPORTED_MULTIPLE_PURCHASE_UNITS", field="/purchase_units")
        unit = body.purchase_units[0]
        amount = read_amount(
            unit.amount.currency_code, unit.amount.value, field="/purchase_units/0/amount"
        )
        source = body.payment_source
        context = source.paypal.experience_context if source else body.application_context
        now = self._books.now()
        order = Order(
            id=self._books.new_id(),
            intent=Intent(body.intent),
            status=OrderStatus.PAYER_ACTION_REQUIRED if source else OrderStatus.CREATED,
            amount=amount,
            unit=_echoed(unit),
            reference_id=unit.reference_id,
            custom_id=unit.custom_id or "",
            invoice_id=unit.invoice_id or "",
            return_url=context.return_url if context else "",
            cancel_url=context.cancel_url if context else "",
            has_source=source is not None,
            capture_on_approval=body.processing_instruction == "ORDER_COMPLETE_ON_PAYMENT_APPROVAL",
            created_at=now,
            updated_at=now,
            expires_at=now + ORDER_LIFE,
        )
        self._books.orders[order.id] = order
        self._agenda.at(order.expires_at, lambda: self._end_of_life(order.id))
        return order

    def approve(self, order_id: str) -> Order:
        """The buyer agrees to pay; a second time, with another means of payment.

        Raises:
            Refused: 404; 422, nothing is left to approve.
        """
        order = self._books.order(order_id)
        if order.status is OrderStatus.APPROVED:
            changed = order.funding_changed or order.funding_refused
            order = replace(order, funding_refused=False, funding_changed=changed)
        elif order.status not in _UNAPPROVED:
            raise unprocessable("ORDER_ALREADY_COMPLETED")
        order = self._keep(replace(order, status=OrderStatus.APPROVED, payer_id="QYR5Z8XDVJNXQ"))
        self._events.order("APPROVED", order)
        return self.capture(order.id) if order.capture_on_approval else order

    def expire(self, order_id: str) -> None:
        """Ends the life of an order now."""
        order = self._books.order(order_id)
        self._books.orders[order_id] = replace(order, expires_at=self._books.now())
        self._end_of_life(order_id)

    def capture(self, order_id: str) -> Order:
        """Captures an approved order.

        Raises:
            Refused: 404; 422, it cannot be done. Nothing was charged then.
        """
        order = self._approved(order_id, Intent.CAPTURE)
        if last_two_digits(order.amount) == FUNDING_DECLINED and not order.funding_changed:
            self._keep(replace(order, funding_refused=True))
            raise Refused(
                "INSTRUMENT_DECLINED",
                description="The instrument presented was either declined by the processor or "
                "bank, or it can't be used for this payment.",
                links=(
                    {
                        "href": self._answers.approval_url(order),
                        "rel": "redirect",
                        "method": "GET",
                    },
                ),
            )
        self._captures.make(
            order_id=order.id,
            authorization_id="",
            amount=order.amount,
            custom_id=order.custom_id,
            invoice_id=order.invoice_id,
            is_final=True,
        )
        return self._complete(order)

    def authorize(self, order_id: str) -> Order:
        """Holds the money of an approved order. Raises Refused as `capture` does."""
        order = self._approved(order_id, Intent.AUTHORIZE)
        self._authorizations.make(order)
        return self._complete(order)

    def _approved(self, order_id: str, intent: Intent) -> Order:
        order = self._books.order(order_id)
        if order.intent is not intent:
            raise unprocessable("ACTION_DOES_NOT_MATCH_INTENT")
        if order.status in _UNAPPROVED:
            raise unprocessable("ORDER_NOT_APPROVED")
        if order.status is not OrderStatus.APPROVED:
            done = "CAPTURED" if intent is Intent.CAPTURE else "AUTHORIZED"
            raise unprocessable(f"ORDER_ALREADY_{done}")
        return order

    def _complete(self, order: Order) -> Order:
        order = self._keep(replace(order, status=OrderStatus.COMPLETED))
        self._events.order("COMPLETED", order)
        return order

    def _end_of_life(self, order_id: str) -> None:
        order = self._books.orders[order_id]
        if order.status is OrderStatus.APPROVED and not order.approval_reversed:
            self._keep(replace(order, approval_reversed=True))
            self._events.approval_reversed(order)

    def _keep(self, order: Order) -> Order:
        order = replace(order, updated_at=self._books.now())
        self._books.orders[order.id] = order
        return order


def _echoed(unit: PurchaseUnit) -> dict[str, Any]:
    """A purchase unit as it was sent, without what was left out."""
    sent: dict[str, Any] = {
        name: value
        for name, value in msgspec.to_builtins(unit).items()
        if value not in (None, "")  # of fields that were not sent
    }
    sent["amount"] = {name: value for name, value in sent["amount"].items() if value is not None}
    return sent
