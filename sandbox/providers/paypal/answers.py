"""Objects as PayPal's API answers them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mesh.money import Money
from sandbox.providers.paypal.amounts import amount_json, fee_of
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.objects import (
    PAID,
    Authorization,
    AuthorizationStatus,
    Capture,
    CaptureStatus,
    Dispute,
    Intent,
    Order,
    OrderStatus,
    Refund,
    RefundStatus,
)

Json = dict[str, Any]

PAYER = {
    "name": {"given_name": "John", "surname": "Doe"},
    "email_address": "sb-buyer@personal.example.com",
    "address": {"country_code": "US"},
}


def written_time(moment: datetime) -> str:
    """A moment in whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Answers:
    """Writes objects with their links."""

    def __init__(self, books: Books, base_url: str) -> None:
        """
        Args:
            base_url: of the simulator, without a slash at its end.
        """
        self._books = books
        self._base_url = base_url

    def approval_url(self, order: Order) -> str:
        """Where the buyer approves."""
        return f"{self._base_url}/checkoutnow?token={order.id}"

    def approval_link(self, order: Order) -> dict[str, str]:
        """The link to it."""
        relation = "payer-action" if order.has_source else "approve"
        return {"href": self.approval_url(order), "rel": relation, "method": "GET"}

    def minimal(self, full: Json) -> Json:
        """What `Prefer: return=minimal` leaves."""
        return {name: full[name] for name in ("id", "status", "links") if name in full}

    def order(self, order: Order) -> Json:
        """An order."""
        path = f"/v2/checkout/orders/{order.id}"
        links = [self._link(path, "self")]
        if order.status not in {OrderStatus.COMPLETED, OrderStatus.VOIDED}:
            finish = "capture" if order.intent is Intent.CAPTURE else "authorize"
            links += [self.approval_link(order), self._link(path, "update", "PATCH")]
            links.append(self._link(f"{path}/{finish}", finish, "POST"))
        answer: Json = {
            "id": order.id,
            "intent": order.intent,
            "status": order.status,
            "purchase_units": [{**order.unit, **self._payments(order)}],
            "create_time": written_time(order.created_at),
            "update_time": written_time(order.updated_at),
            "links": links,
        }
        if order.payer_id:
            payer = {**PAYER, "payer_id": order.payer_id}
            answer["payer"] = payer
            answer["payment_source"] = {
                "paypal": {
                    "email_address": PAYER["email_address"],
                    "account_id": order.payer_id,
                    "account_status": "VERIFIED",
                    "name": PAYER["name"],
                    "address": PAYER["address"],
                }
            }
        elif order.has_source:
            answer["payment_source"] = {"paypal": {}}
        return answer

    def _payments(self, order: Order) -> Json:
        captures = list(self._books.captures_of(order.id))
        payments = {
            "authorizations": [
                self.authorization(found) for found in self._books.authorizations_of(order.id)
            ],
            "captures": [self.capture(found) for found in captures],
            "refunds": [
                self.refund(found)
                for capture in captures
                for found in self._books.refunds_of(capture.id)
            ],
        }
        filled = {name: found for name, found in payments.items() if found}
        return {"payments": filled} if filled else {}

    def authorization(self, found: Authorization) -> Json:
        """An authorization."""
        path = f"/v2/payments/authorizations/{found.id}"
        links = [self._link(path, "self")]
        if found.status in {AuthorizationStatus.CREATED, AuthorizationStatus.PARTIALLY_CAPTURED}:
            links += [
                self._link(f"{path}/{name}", name, "POST")
                for name in ("capture", "void", "reauthorize")
            ]
        links.append(self._link(f"/v2/checkout/orders/{found.order_id}", "up"))
        return {
            **self._common(found),
            "seller_protection": {"status": "ELIGIBLE"},
            "expiration_time": written_time(found.expires_at),
            "supplementary_data": {"related_ids": {"order_id": found.order_id}},
            "links": links,
        }

    def capture(self, found: Capture) -> Json:
        """A capture. The fee is known as soon as it is paid."""
        path = f"/v2/payments/captures/{found.id}"
        related = {"order_id": found.order_id}
        if found.authorization_id:
            related["authorization_id"] = found.authorization_id
        up = (
            f"/v2/payments/authorizations/{found.authorization_id}"
            if found.authorization_id
            else f"/v2/checkout/orders/{found.order_id}"
        )
        answer: Json = {
            **self._common(found),
            "final_capture": found.is_final,
            "disbursement_mode": "INSTANT",
            "seller_protection": {"status": "ELIGIBLE"},
            "supplementary_data": {"related_ids": related},
            "links": [
                self._link(path, "self"),
                self._link(f"{path}/refund", "refund", "POST"),
                self._link(up, "up"),
            ],
        }
        if found.status in PAID:
            answer["seller_receivable_breakdown"] = self._shares(found.amount, fee_of(found.amount))
        elif found.status is CaptureStatus.PENDING:
            answer["seller_receivable_breakdown"] = {"gross_amount": amount_json(found.amount)}
        return answer

    def refund(self, found: Refund) -> Json:
        """A refund. PayPal keeps the fee of the payment."""
        answer: Json = {
            **self._common(found),
            "links": [
                self._link(f"/v2/payments/refunds/{found.id}", "self"),
                self._link(f"/v2/payments/captures/{found.capture_id}", "up"),
            ],
        }
        if found.note:
            answer["note_to_payer"] = found.note
        if found.status in {RefundStatus.PENDING, RefundStatus.COMPLETED}:
            answer["seller_payable_breakdown"] = {
                **self._shares(found.amount, Money.zero(found.amount.currency)),
                "total_refunded_amount": amount_json(found.total),
            }
        return answer

    def dispute(self, found: Dispute) -> Json:
        """A dispute."""
        capture = self._books.capture(found.capture_id)
        answer: Json = {
            "dispute_id": found.id,
            "create_time": written_time(found.created_at),
            "update_time": written_time(found.updated_at),
            "disputed_transactions": [
                {
                    "seller_transaction_id": capture.id,
                    "custom": capture.custom_id,
                    "invoice_number": capture.invoice_id,
                    "gross_amount": amount_json(capture.amount),
                    "transaction_status": "COMPLETED",
                }
            ],
            "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
            "status": "RESOLVED" if found.outcome else "WAITING_FOR_SELLER_RESPONSE",
            "dispute_amount": amount_json(found.amount),
            "dispute_life_cycle_stage": "CHARGEBACK",
            "links": [self._link(f"/v1/customer/disputes/{found.id}", "self")],
        }
        if found.outcome:
            answer["dispute_outcome"] = {"outcome_code": found.outcome}
        return answer

    def _common(self, found: Authorization | Capture | Refund) -> Json:
        answer: Json = {
            "id": found.id,
            "status": found.status,
            "amount": amount_json(found.amount),
            "create_time": written_time(found.created_at),
            "update_time": written_time(found.updated_at),
        }
        if found.reason:
            answer["status_details"] = {"reason": found.reason}
        if found.custom_id:
            answer["custom_id"] = found.custom_id
        if found.invoice_id:
            answer["invoice_id"] = found.invoice_id
        return answer

    def _shares(self, gross: Money, fee: Money) -> Json:
        return {
            "gross_amount": amount_json(gross),
            "paypal_fee": amount_json(fee),
            "net_amount": amount_json(gross - fee),
        }

    def _link(self, path: str, relation: str, method: str = "GET") -> dict[str, str]:
        return {"href": self._base_url + path, "rel": relation, "method": method}
