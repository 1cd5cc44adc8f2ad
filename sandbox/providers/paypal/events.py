"""Events: what a webhook is told, and the list of them for a shop that missed some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from mesh.times import rfc3339
from sandbox.providers.paypal.answers import Answers
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.objects import Authorization, Capture, Dispute, Order, Refund

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """An event. Its bytes are the same whenever it is sent."""

    id: str
    type: str
    created_at: datetime
    body: bytes

    def read(self) -> Json:
        """The event as an object."""
        found: Json = msgspec.json.decode(self.body)
        return found


class EventLog:
    """Makes events, keeps them, hands them on."""

    def __init__(
        self, books: Books, answers: Answers, base_url: str, send: Callable[[Event], None]
    ) -> None:
        self._books = books
        self._answers = answers
        self._base_url = base_url
        self._send = send
        self.all: dict[str, Event] = {}

    def order(self, kind: str, order: Order) -> None:
        """CHECKOUT.ORDER.*"""
        self._tell(f"CHECKOUT.ORDER.{kind}", "checkout-order", self._answers.order(order))

    def approval_reversed(self, order: Order) -> None:
        """CHECKOUT.PAYMENT-APPROVAL.REVERSED: approved, and nothing was done with it."""
        unit = {"reference_id": order.reference_id}
        if order.custom_id:
            unit["custom_id"] = order.custom_id
        if order.invoice_id:
            unit["invoice_id"] = order.invoice_id
        resource = {
            "order_id": order.id,
            "purchase_units": [unit],
            "payment_source": {"paypal": {}},
        }
        self._tell("CHECKOUT.PAYMENT-APPROVAL.REVERSED", "payment_approval", resource)

    def authorization(self, kind: str, found: Authorization) -> None:
        """PAYMENT.AUTHORIZATION.*"""
        self._tell(
            f"PAYMENT.AUTHORIZATION.{kind}", "authorization", self._answers.authorization(found)
        )

    def capture(self, kind: str, found: Capture) -> None:
        """PAYMENT.CAPTURE.* about the capture itself."""
        self._tell(f"PAYMENT.CAPTURE.{kind}", "capture", self._answers.capture(found))

    def refund(self, kind: str, found: Refund) -> None:
        """PAYMENT.REFUND.*, and PAYMENT.CAPTURE.REFUNDED for one with success."""
        family = "CAPTURE" if kind == "REFUNDED" else "REFUND"
        self._tell(f"PAYMENT.{family}.{kind}", "refund", self._answers.refund(found))

    def dispute(self, kind: str, found: Dispute) -> None:
        """CUSTOMER.DISPUTE.*"""
        self._tell(f"CUSTOMER.DISPUTE.{kind}", "dispute", self._answers.dispute(found))

    def _tell(self, kind: str, resource_type: str, resource: Json) -> None:
        event_id = f"WH-{self._books.new_id()}-{self._books.new_id()}"
        path = f"{self._base_url}/v1/notifications/webhooks-events/{event_id}"
        now = self._books.now()
        event = Event(
            event_id,
            kind,
            now,
            msgspec.json.encode(
                {
                    "id": event_id,
                    "event_version": "1.0",
                    "create_time": rfc3339(now),
                    "resource_type": resource_type,
                    "resource_version": "2.0",
                    "event_type": kind,
                    "summary": kind.replace(".", " ").replace("-", " ").capitalize(),
                    "resource": resource,
                    "links": [
                        {"href": path, "rel": "self", "method": "GET"},
                        {"href": f"{path}/resend", "rel": "resend", "method": "POST"},
                    ],
                }
            ),
        )
        self.all[event_id] = event
        self._send(event)
