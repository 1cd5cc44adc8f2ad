"""Objects as the Greenfield API answers them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mesh.money import Money
from mesh.times import milliseconds
from sandbox.providers.btcpay.objects import SATOSHI, Invoice, Payment, Payout, PullPayment

Json = dict[str, Any]

METHOD = "BTC-CHAIN"


def written_coins(satoshi: int) -> str:
    """Coins with eight decimals."""
    sign, size = "-" if satoshi < 0 else "", abs(satoshi)
    return f"{sign}{size // SATOSHI}.{size % SATOSHI:08d}"


def seconds(moment: datetime) -> int:
    """A moment as the API writes it."""
    return milliseconds(moment) // 1000


def address(invoice: Invoice) -> str:
    """Where coins go."""
    return f"bcrt1q{invoice.id.lower()}"


def payment_link(invoice: Invoice) -> str:
    """The text of the QR code (BIP 21)."""
    missing = max(0, invoice.due_satoshi - invoice.paid_satoshi)
    amount = f"?amount={written_coins(missing)}" if missing else ""
    return f"bitcoin:{address(invoice)}{amount}"


def payment_json(invoice: Invoice, payment: Payment) -> Json:
    """A payment."""
    status = "Settled" if payment.is_settled else "Invalid" if payment.is_invalid else "Processing"
    return {
        "id": payment.id,
        "receivedDate": seconds(payment.at),
        "value": written_coins(payment.satoshi),
        "fee": "0.0",
        "status": status,
        "destination": address(invoice),
    }


def payment_method_json(invoice: Invoice, *, rate: str) -> Json:
    """How an invoice can be paid, and what was."""
    paid, due = invoice.paid_satoshi, invoice.due_satoshi
    return {
        "paymentMethodId": METHOD,
        "currency": "BTC",
        "destination": address(invoice),
        "paymentLink": payment_link(invoice),
        "rate": rate,
        "paymentMethodPaid": written_coins(paid),
        "totalPaid": written_coins(paid),
        "due": written_coins(due - paid if due else 0),  # negative when too much was paid
        "amount": written_coins(due),
        "paymentMethodFee": "0.0",
        "payments": [payment_json(invoice, one) for one in invoice.payments if one.is_seen],
        "activated": True,
        "additionalData": {},
    }


def invoice_json(
    invoice: Invoice, *, paid: Money, base_url: str, store_id: str, markable: list[str]
) -> Json:
    """An invoice.

    Args:
        paid: what was paid, at the invoice's rate.
    """
    return {
        "id": invoice.id,
        "storeId": store_id,
        "amount": invoice.amount.format() if invoice.amount else "0",
        "paidAmount": paid.format(),
        "currency": invoice.currency,
        "type": "Standard" if invoice.amount else "TopUp",
        "checkoutLink": f"{base_url}/i/{invoice.id}",
        "createdTime": seconds(invoice.created_at),
        "expirationTime": seconds(invoice.expires_at),
        "monitoringExpiration": seconds(invoice.monitored_until),
        "status": invoice.status,
        "additionalStatus": invoice.additional,
        "availableStatusesForManualMarking": markable,
        "archived": invoice.is_archived,
        "metadata": invoice.metadata,
        "checkout": invoice.checkout,
    }


def pull_payment_json(found: PullPayment, *, base_url: str, satoshi_per_minor: int) -> Json:
    """A pull payment."""
    coins = written_coins(found.amount.minor * satoshi_per_minor)
    return {
        "id": found.id,
        "name": found.name,
        "description": found.description,
        "currency": "BTC" if found.in_coins else found.amount.currency,
        "amount": coins if found.in_coins else found.amount.format(),
        "autoApproveClaims": True,
        "archived": False,
        "startsAt": seconds(found.created_at),
        "viewLink": f"{base_url}/pull-payments/{found.id}",
    }


def payout_json(found: Payout, pull_payment: PullPayment, *, satoshi_per_minor: int) -> Json:
    """A payout."""
    return {
        "id": found.id,
        "revision": 0,
        "pullPaymentId": found.pull_payment_id,
        "date": seconds(found.created_at),
        "destination": found.destination,
        "originalCurrency": pull_payment.amount.currency,
        "originalAmount": pull_payment.amount.format(),
        "payoutCurrency": "BTC",
        "payoutAmount": written_coins(pull_payment.amount.minor * satoshi_per_minor),
        "payoutMethodId": METHOD,
        "state": found.state,
        "metadata": {},
    }
