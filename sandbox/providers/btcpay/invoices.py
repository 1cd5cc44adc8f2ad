"""Invoices: made by the shop, paid by the buyer alone, watched for a while."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import msgspec

from mesh.clock import Clock
from mesh.errors import InvalidArgument
from mesh.ids import Ids
from mesh.money import Money, currency_exponent
from sandbox.providers.btcpay.events import EventLog
from sandbox.providers.btcpay.objects import (
    SATOSHI,
    Additional,
    Invoice,
    Payment,
    Status,
)
from sandbox.providers.btcpay.refusals import invalid, not_found, refused
from sandbox.providers.btcpay.triggers import LATER_SECONDS, UNAVAILABLE, course_of_invoice
from sandbox.providers.btcpay.wire import CreateInvoice, read_money
from sandbox.providers.ledger import MoneyKind, MoneyLog
from sandbox.providers.simulation import Agenda

_OPEN = frozenset({Status.NEW, Status.PROCESSING})


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceDesk:
    """What a shop and a buyer do with invoices, by id in the order in which they were made."""

    clock: Clock
    ids: Ids
    agenda: Agenda
    money: MoneyLog
    events: EventLog
    minor_per_coin: int
    invoices: dict[str, Invoice]

    def find(self, invoice_id: str) -> Invoice:
        """An invoice. Raises Refused, 404."""
        try:
            return self.invoices[invoice_id]
        except KeyError:
            raise not_found("invoice") from None

    def create(self, body: CreateInvoice) -> Invoice:
        """A new invoice.

        Raises:
            Refused: 422; 503 when its amount asks for it.
        """
        amount = None
        try:
            currency_exponent(body.currency)
        except InvalidArgument as problem:
            raise invalid("currency", str(problem)) from None
        if body.amount is not None and body.type != "TopUp":
            amount = read_money(body.amount, body.currency, path="amount")
        elif body.type == "Standard":
            raise invalid("amount", "A standard invoice has an amount")
        if amount and amount.minor % 100 == UNAVAILABLE:
            raise refused(
                503, "payment-method-unavailable", "BTC-CHAIN: the full node is not synchronized"
            )
        now = self.clock.now()
        expires_at = now + timedelta(minutes=body.checkout.expiration_minutes)
        invoice = Invoice(
            id=self.ids.new("")[-22:],
            amount=amount,
            currency=body.currency,
            metadata=body.metadata,
            checkout=msgspec.to_builtins(body.checkout),
            due_satoshi=amount.minor * self.satoshi_per_minor if amount else 0,
            status=Status.NEW,
            additional=Additional.NONE,
            created_at=now,
            expires_at=expires_at,
            monitored_until=expires_at + timedelta(minutes=body.checkout.monitoring_minutes),
        )
        self.invoices[invoice.id] = invoice
        self.agenda.at(invoice.expires_at, lambda: self.expire(invoice.id))
        self.agenda.at(invoice.monitored_until, lambda: self._end_monitoring(invoice.id))
        self.events.invoice("InvoiceCreated", invoice)
        return invoice

    @property
    def satoshi_per_minor(self) -> int:
        """The rate."""
        return SATOSHI // self.minor_per_coin

    def rate(self, currency: str) -> str:
        """The price of a coin."""
        return Money(self.minor_per_coin, currency).format()

    def worth(self, satoshi: int, currency: str) -> Money:
        """Coins at the invoice's rate, half up."""
        return Money((satoshi + self.satoshi_per_minor // 2) // self.satoshi_per_minor, currency)

    # --- the buyer --------------------------------------------------------------------------------

    def pay_as_asked(self, invoice_id: str) -> None:
        """Pays as the amount of the invoice asks for; one for any amount gets a thousandth coin."""
        invoice = self.find(invoice_id)
        course = course_of_invoice(invoice.amount)
        starts = {
            "now": self.clock.now(),
            "after expiry": invoice.expires_at + timedelta(seconds=LATER_SECONDS),
            "after monitoring": invoice.monitored_until + timedelta(seconds=LATER_SECONDS),
        }
        start = max(starts[course.when], self.clock.now())
        due = invoice.due_satoshi or SATOSHI // 1000

        for number, per_cent in enumerate(course.per_cent):
            at = start + timedelta(seconds=number * LATER_SECONDS)
            pay = partial(
                self.pay, invoice_id, due * per_cent // 100, at=at, confirms=course.confirms
            )
            if at <= self.clock.now():
                pay()
            else:
                self.agenda.at(at, pay)
        if course.marks is not None:
            self.mark(invoice_id, course.marks)

    def pay(
        self, invoice_id: str, satoshi: int, *, at: datetime | None = None, confirms: bool = True
    ) -> Payment:
        """Sends coins to the invoice's address: whatever its status, they arrive.

        Args:
            at: when they are sent; None: now. A clock that jumps does not make them late.
            confirms: they are confirmed after a minute, or at once where the invoice asks for none.
        """
        invoice = self.find(invoice_id)
        at = at or self.clock.now()
        payment = Payment(
            id=f"{self.ids.new('').lower()}-0",
            satoshi=satoshi,
            at=at,
            is_late=at >= invoice.expires_at,
            is_seen=at < invoice.monitored_until,
        )
        invoice = self._keep(replace(invoice, payments=(*invoice.payments, payment)))
        if not payment.is_seen:
            self._arrive(invoice, payment)
            return payment
        self.events.payment("InvoiceReceivedPayment", invoice, payment)
        self._count(invoice, payment)
        if invoice.checkout["speedPolicy"] == "HighSpeed" and confirms:
            self.confirm(invoice_id)
        elif confirms:
            minute_later = at + timedelta(seconds=LATER_SECONDS)
            self.agenda.at(minute_later, lambda: self.confirm(invoice_id))
        return payment

    def confirm(self, invoice_id: str) -> None:
        """Confirms the payments of an invoice that are not yet."""
        for payment in self.find(invoice_id).payments:
            if payment.is_settled or payment.is_invalid or not payment.is_seen:
                continue
            settled = replace(payment, is_settled=True)
            invoice = self.find(invoice_id)
            payments = tuple(settled if one.id == payment.id else one for one in invoice.payments)
            invoice = self._keep(replace(invoice, payments=payments))
            self._arrive(invoice, settled)
            self.events.payment("InvoicePaymentSettled", invoice, settled)
        invoice = self.find(invoice_id)
        if not self._is_full(invoice):
            return
        if invoice.status is Status.PROCESSING:
            invoice = self._keep(replace(invoice, status=Status.SETTLED))
            self.events.settled(invoice, is_marked=False)
        elif invoice.additional is Additional.PAID_LATE and invoice.status is not Status.SETTLED:
            # BTCPay Server sends no InvoiceSettled for a late payment
            self._keep(replace(invoice, status=Status.SETTLED))

    def expire(self, invoice_id: str) -> None:
        """Ends the time in which an invoice is to be paid, now."""
        invoice = self.find(invoice_id)
        if invoice.status is not Status.NEW:
            return
        now = self.clock.now()
        invoice = self._keep(
            replace(invoice, status=Status.EXPIRED, expires_at=min(now, invoice.expires_at))
        )
        partially = invoice.additional is Additional.PAID_PARTIAL
        self.events.expired(invoice, partially_paid=partially)

    # --- the shop ---------------------------------------------------------------------------------

    def mark(self, invoice_id: str, status: Status) -> Invoice:
        """A human says how an invoice ended. Changes nothing about coins.

        Raises:
            Refused: 404; 422, it cannot be marked so now.
        """
        invoice = self.find(invoice_id)
        if status not in markable(invoice):
            raise invalid("status", f"Status can't be marked {status} now")
        invoice = self._keep(replace(invoice, status=status, additional=Additional.MARKED))
        if status is Status.SETTLED:
            self.events.settled(invoice, is_marked=True)
        else:
            self.events.invalid(invoice, is_marked=True)
        return invoice

    def archive(self, invoice_id: str, *, is_archived: bool) -> Invoice:
        """Hides an invoice from lists, or shows it again."""
        return self._keep(replace(self.find(invoice_id), is_archived=is_archived))

    # --- inside -----------------------------------------------------------------------------------

    def _is_full(self, invoice: Invoice) -> bool:
        """True when enough was paid: a tolerance in per cent may be missing."""
        tolerance = int(invoice.checkout["paymentTolerance"])
        needed = invoice.due_satoshi - invoice.due_satoshi * tolerance // 100
        return invoice.paid_satoshi >= max(needed, 1)

    def _count(self, invoice: Invoice, payment: Payment) -> None:
        """The status that follows from a payment just seen."""
        over = bool(invoice.due_satoshi) and invoice.paid_satoshi > invoice.due_satoshi
        if invoice.additional is Additional.MARKED:
            return
        if invoice.status is Status.EXPIRED:
            late = Additional.PAID_LATE if self._is_full(invoice) else Additional.PAID_PARTIAL
            invoice = self._keep(replace(invoice, additional=late))
            if late is Additional.PAID_LATE:
                self.events.invoice("InvoicePaidAfterExpiration", invoice)
        elif invoice.status in _OPEN and self._is_full(invoice):
            more = Additional.PAID_OVER if over else Additional.NONE
            was_new = invoice.status is Status.NEW
            invoice = self._keep(replace(invoice, status=Status.PROCESSING, additional=more))
            if was_new:
                self.events.processing(invoice)
        elif invoice.status is Status.NEW:
            self._keep(replace(invoice, additional=Additional.PAID_PARTIAL))
        elif invoice.status is Status.SETTLED and not payment.is_late and over:
            self._keep(replace(invoice, additional=Additional.PAID_OVER))

    def _end_monitoring(self, invoice_id: str) -> None:
        """Unconfirmed payments are given up."""
        invoice = self.find(invoice_id)
        unconfirmed = [one for one in invoice.payments if one.is_seen and not one.is_settled]
        if not unconfirmed:
            return
        payments = tuple(
            replace(one, is_invalid=True) if one in unconfirmed else one for one in invoice.payments
        )
        invoice = self._keep(replace(invoice, payments=payments))
        late = invoice.additional is Additional.PAID_LATE
        if invoice.status is Status.PROCESSING or (invoice.status is Status.EXPIRED and late):
            invoice = self._keep(replace(invoice, status=Status.INVALID))
            self.events.invalid(invoice, is_marked=False)

    def _arrive(self, invoice: Invoice, payment: Payment) -> None:
        self.money.record(
            MoneyKind.CAPTURE,
            ref=invoice.id,
            own_id=invoice.order_id,
            money=self.worth(payment.satoshi, invoice.currency),
        )

    def _keep(self, invoice: Invoice) -> Invoice:
        self.invoices[invoice.id] = invoice
        return invoice


def markable(invoice: Invoice) -> list[Status]:
    """How a human may mark an invoice now."""
    ways = [Status.SETTLED, Status.INVALID]
    return [
        status
        for status in ways
        if invoice.status is not status
        and not (invoice.status is Status.EXPIRED and status is Status.INVALID)
    ]
