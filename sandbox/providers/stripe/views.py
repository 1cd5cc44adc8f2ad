"""The objects as JSON, with the members that Stripe documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sandbox.providers.stripe import triggers
from sandbox.providers.stripe.errors import invalid
from sandbox.providers.stripe.objects import (
    BalanceTransaction,
    Charge,
    Dispute,
    PaymentIntent,
    Refund,
    Session,
    Store,
)

Json = dict[str, Any]
_EXPANDABLE = {
    "data",
    "latest_charge",
    "balance_transaction",
    "failure_balance_transaction",
    "charge",
    "payment_intent",
    "source",
    "dispute",
}


class Views:
    """Shows objects of a store."""

    def __init__(self, store: Store, *, base_url: str, livemode: bool) -> None:
        self._store = store
        self._livemode = livemode
        self._base_url = base_url

    def by_id(self, ref: str) -> Json | None:
        """The object of an id, None when there is none."""
        tables: tuple[tuple[Mapping[str, Any], Callable[[Any], Json]], ...] = (
            (self._store.payment_intents, self.payment_intent),
            (self._store.charges, self.charge),
            (self._store.refunds, self.refund),
            (self._store.balance, self.balance_transaction),
            (self._store.disputes, self.dispute),
        )
        for table, view in tables:
            if ref in table:
                return view(table[ref])
        return None

    def payment_intent(self, pi: PaymentIntent) -> Json:
        """A PaymentIntent."""
        hidden = pi.status == "succeeded" and triggers.hides_status(pi.amount)
        return {
            "id": pi.id,
            "object": "payment_intent",
            "amount": pi.amount,
            "amount_capturable": pi.amount_capturable,
            "amount_details": {"tip": {}},
            "amount_received": pi.amount_received,
            "application": None,
            "application_fee_amount": None,
            "automatic_payment_methods": None
            if pi.automatic is None
            else {"allow_redirects": pi.automatic, "enabled": True},
            "canceled_at": pi.canceled_at,
            "cancellation_reason": pi.cancellation_reason,
            "capture_method": pi.capture_method,
            "client_secret": pi.client_secret,
            "confirmation_method": "automatic",
            "created": pi.created,
            "currency": pi.currency,
            "customer": None,
            "description": None,
            "last_payment_error": pi.last_payment_error,
            "latest_charge": pi.latest_charge,
            "livemode": self._livemode,
            "metadata": dict(pi.metadata),
            "next_action": pi.next_action,
            "on_behalf_of": None,
            "payment_method": pi.payment_method,
            "payment_method_options": {},
            "payment_method_types": list(pi.payment_method_types),
            "processing": None,
            "receipt_email": None,
            "review": None,
            "setup_future_usage": None,
            "shipping": None,
            "source": None,
            "statement_descriptor": None,
            "statement_descriptor_suffix": None,
            "status": triggers.UNKNOWN_STATUS if hidden else pi.status,
            "transfer_data": None,
            "transfer_group": None,
            **pi.more,
        }

    def charge(self, charge: Charge) -> Json:
        """A Charge."""
        method = charge.method
        return {
            "id": charge.id,
            "object": "charge",
            "amount": charge.amount,
            "amount_captured": charge.amount_captured,
            "amount_refunded": charge.amount_refunded,
            "balance_transaction": charge.balance_transaction,
            "captured": charge.captured,
            "created": charge.created,
            "currency": charge.currency,
            "customer": None,
            "description": None,
            "dispute": charge.dispute,
            "disputed": charge.dispute is not None,
            "failure_balance_transaction": None,
            "failure_code": charge.failure_code,
            "failure_message": charge.failure_message,
            "livemode": self._livemode,
            "metadata": dict(charge.metadata),
            "outcome": _outcome(charge),
            "paid": charge.status == "succeeded",
            "payment_intent": charge.payment_intent,
            "payment_method": charge.payment_method,
            "payment_method_details": {
                "type": method.kind,
                method.kind: _details(charge),
            },
            "receipt_url": f"{self._base_url}/_sim/pay/{charge.payment_intent}",
            "refunded": 0 < charge.amount == charge.amount_refunded,
            "status": charge.status,
        }

    def refund(self, refund: Refund) -> Json:
        """A Refund."""
        return {
            "id": refund.id,
            "object": "refund",
            "amount": refund.amount,
            "balance_transaction": refund.balance_transaction,
            "charge": refund.charge,
            "created": refund.created,
            "currency": refund.currency,
            "destination_details": {
                "type": "card",
                "card": {"type": "refund", "reference_status": "pending"},
            },
            **(
                {"failure_balance_transaction": refund.failure_balance_transaction}
                if refund.failure_balance_transaction
                else {}
            ),
            **(
                {"failure_reason": refund.failure_reason}
                if refund.failure_reason and refund.status == "failed"
                else {}
            ),
            "metadata": dict(refund.metadata),
            "payment_intent": refund.payment_intent,
            "pending_reason": refund.pending_reason if refund.status == "pending" else None,
            "reason": refund.reason,
            "receipt_number": None,
            "source_transfer_reversal": None,
            "status": refund.status,
            "transfer_reversal": None,
        }

    def balance_transaction(self, row: BalanceTransaction) -> Json:
        """A row of the balance."""
        fee = {
            "amount": row.fee,
            "application": None,
            "currency": row.currency,
            "description": "Stripe processing fees",
            "type": "stripe_fee",
        }
        return {
            "id": row.id,
            "object": "balance_transaction",
            "amount": row.amount,
            "available_on": row.created,
            "balance_type": "payments",
            "created": row.created,
            "currency": row.currency,
            "description": None,
            "exchange_rate": row.exchange_rate,
            "fee": row.fee,
            "fee_details": [fee] if row.fee else [],
            "net": row.amount - row.fee,
            "reporting_category": row.reporting_category,
            "source": row.source,
            "status": "available",
            "type": row.kind,
        }

    def dispute(self, dispute: Dispute) -> Json:
        """A Dispute."""
        rows = [self._store.balance[ref] for ref in dispute.balance_transactions]
        return {
            "id": dispute.id,
            "object": "dispute",
            "amount": dispute.amount,
            "balance_transactions": [self.balance_transaction(row) for row in rows],
            "charge": dispute.charge,
            "created": dispute.created,
            "currency": dispute.currency,
            "evidence": {},
            "evidence_details": {"due_by": dispute.created + 7 * 86_400, "has_evidence": False},
            "is_charge_refundable": dispute.is_inquiry,
            "livemode": self._livemode,
            "metadata": {},
            "payment_intent": dispute.payment_intent,
            "reason": dispute.reason,
            "status": dispute.status,
        }

    def session(self, session: Session) -> Json:
        """A Checkout Session."""
        url = f"{self._base_url}/_sim/checkout/{session.id}"
        pi = self._store.payment_intents.get(session.payment_intent or "")
        return {
            "id": session.id,
            "object": "checkout.session",
            "amount_subtotal": session.amount,
            "amount_total": session.amount,
            "automatic_tax": {"enabled": False, "status": None},
            "cancel_url": session.cancel_url,
            "client_reference_id": session.client_reference_id,
            "created": session.created,
            "currency": session.currency,
            "customer": None,
            "expires_at": session.expires_at,
            "livemode": self._livemode,
            "metadata": dict(session.metadata),
            "mode": "payment",
            "payment_intent": session.payment_intent,
            "payment_method_types": list(session.payment_method_types),
            "payment_status": "paid" if pi and pi.status == "succeeded" else "unpaid",
            "status": session.status,
            "success_url": session.success_url,
            "ui_mode": "hosted",
            "url": url if session.status == "open" else None,
        }

    def expanded(self, body: Json, paths: Sequence[str]) -> Json:
        """A body with ids replaced by their objects, as `expand[]` asks."""
        for path in paths:
            self._expand(body, path.split("."))
        return body

    def _expand(self, body: Json, way: list[str]) -> None:
        step, *rest = way
        found = body.get(step)
        if step == "data" and isinstance(found, list):
            for one in found if rest else ():
                self._expand(one, rest)
            return
        if isinstance(found, str):
            found = body[step] = self.by_id(found)
        if rest and isinstance(found, dict):
            self._expand(found, rest)


def check_paths(paths: Sequence[Any]) -> None:
    """Called before anything is done.

    Raises:
        StripeError: a path that leads to nothing that can be expanded.
    """
    for path in paths:
        if not isinstance(path, str) or not set(path.split(".")) <= _EXPANDABLE:
            raise invalid(f"This property cannot be expanded ({path}).", param="expand")


def _outcome(charge: Charge) -> Json:
    method, decline = charge.method, charge.method.decline
    failed = charge.status == "failed"
    return {
        "advice_code": decline.advice_code if failed and decline else None,
        "network_advice_code": None,
        "network_decline_code": "05" if failed else None,
        "network_status": "declined_by_network" if failed else "approved_by_network",
        "reason": decline.decline_code or decline.code if failed and decline else None,
        "risk_level": method.risk,
        "risk_score": {"normal": 12, "elevated": 67, "highest": 92}[method.risk],
        "seller_message": "Payment complete." if not failed else "The bank declined the payment.",
        "type": "issuer_declined"
        if failed and not (decline and decline.blocked)
        else "blocked"
        if failed
        else "authorized",
    }


def _details(charge: Charge) -> Json:
    method = charge.method
    if method.kind != "card":
        return {"last4": method.last4} if method.number else {}
    return {
        "amount_authorized": charge.amount,
        "brand": method.brand,
        **({"capture_before": charge.capture_before} if charge.capture_before else {}),
        "checks": {"address_line1_check": None, "cvc_check": "pass"},
        "country": "US",
        "exp_month": 12,
        "exp_year": 2034,
        "funding": "credit",
        "last4": method.last4,
        "network": method.brand,
        "three_d_secure": {"result": "authenticated", "version": "2.2.0"}
        if method.authenticate
        else None,
        "wallet": None,
    }
