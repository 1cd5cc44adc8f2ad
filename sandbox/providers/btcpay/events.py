"""Events: what a webhook is told. None carries the amount that is due: a shop asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mesh.clock import Clock
from mesh.ids import Ids
from mesh.times import milliseconds
from sandbox.providers.btcpay.answers import METHOD, payment_json
from sandbox.providers.btcpay.objects import Additional, Invoice, Payment, Payout
from sandbox.providers.webhooks import Notice

Json = dict[str, Any]


class EventLog:
    """Makes events and hands them on."""

    def __init__(
        self, *, clock: Clock, ids: Ids, store_id: str, send: Callable[[Notice], None]
    ) -> None:
        self._clock = clock
        self._ids = ids
        self._store_id = store_id
        self._send = send

    def invoice(self, kind: str, invoice: Invoice, **more: Any) -> None:
        """An event about an invoice."""
        subject = {"invoiceId": invoice.id, "metadata": invoice.metadata}
        self._tell(kind, {**subject, **more})

    def payment(self, kind: str, invoice: Invoice, payment: Payment) -> None:
        """InvoiceReceivedPayment, InvoicePaymentSettled."""
        self.invoice(
            kind,
            invoice,
            afterExpiration=payment.is_late,
            paymentMethodId=METHOD,
            payment=payment_json(invoice, payment),
        )

    def processing(self, invoice: Invoice) -> None:
        """InvoiceProcessing."""
        over = invoice.additional is Additional.PAID_OVER
        self.invoice("InvoiceProcessing", invoice, overPaid=over)

    def settled(self, invoice: Invoice, *, is_marked: bool) -> None:
        """InvoiceSettled."""
        over = invoice.additional is Additional.PAID_OVER
        self.invoice("InvoiceSettled", invoice, manuallyMarked=is_marked, overPaid=over)

    def invalid(self, invoice: Invoice, *, is_marked: bool) -> None:
        """InvoiceInvalid."""
        self.invoice("InvoiceInvalid", invoice, manuallyMarked=is_marked)

    def expired(self, invoice: Invoice, *, partially_paid: bool) -> None:
        """InvoiceExpired, and the event of its own for one that is partially paid."""
        self.invoice("InvoiceExpired", invoice, partiallyPaid=partially_paid)
        if partially_paid:
            self.invoice("InvoiceExpiredPaidPartial", invoice)

    def payout(self, kind: str, payout: Payout) -> None:
        """PayoutCreated, PayoutApproved, PayoutUpdated."""
        self._tell(
            kind,
            {
                "payoutId": payout.id,
                "pullPaymentId": payout.pull_payment_id,
                "payoutState": payout.state,
            },
        )

    def _tell(self, kind: str, subject: Json) -> None:
        head = {
            "type": kind,
            "timestamp": milliseconds(self._clock.now()) // 1000,
            "storeId": self._store_id,
        }
        body = msgspec.json.encode({**head, **subject})
        self._send(Notice(id=self._ids.new("")[-22:], kind=kind, body=body))
