"""Refunds: a claim link for the buyer, and the payouts of those who claim."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mesh.clock import Clock
from mesh.ids import Ids
from mesh.money import Money
from sandbox.providers.btcpay.events import EventLog
from sandbox.providers.btcpay.invoices import InvoiceDesk
from sandbox.providers.btcpay.objects import Payout, PayoutState, PullPayment
from sandbox.providers.btcpay.refusals import invalid, not_found, refused
from sandbox.providers.btcpay.triggers import LATER_SECONDS, course_of_payout
from sandbox.providers.btcpay.wire import RefundInvoice, read_money
from sandbox.providers.ledger import MoneyKind, MoneyLog
from sandbox.providers.simulation import Agenda

_ENDED = frozenset({PayoutState.COMPLETED, PayoutState.CANCELLED})
_PER_CENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?", re.ASCII)
_IN_COINS = frozenset({"RateThen", "CurrentRate", "OverpaidAmount"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundDesk:
    """Makes claims and pays them. Asking twice makes two, as BTCPay Server does."""

    clock: Clock
    ids: Ids
    agenda: Agenda
    money: MoneyLog
    events: EventLog
    desk: InvoiceDesk
    pull_payments: dict[str, PullPayment]
    payouts: dict[str, Payout]

    def find(self, pull_payment_id: str) -> PullPayment:
        """A pull payment. Raises Refused, 404."""
        try:
            return self.pull_payments[pull_payment_id]
        except KeyError:
            raise not_found("pullpayment") from None

    def payouts_of(self, pull_payment_id: str) -> list[Payout]:
        """The payouts of a pull payment."""
        return [one for one in self.payouts.values() if one.pull_payment_id == pull_payment_id]

    def refund(self, invoice_id: str, body: RefundInvoice) -> PullPayment:
        """A claim link.

        Raises:
            Refused: 404; 400, nothing was paid; 422.
        """
        invoice = self.desk.find(invoice_id)
        if not invoice.paid_satoshi:
            raise refused(400, "non-refundable", "Cannot refund this invoice")
        amount = self._amount(invoice_id, body)
        found = PullPayment(
            id=self.ids.new("")[-22:],
            invoice_id=invoice_id,
            name=body.name or f"Refund {invoice_id}",
            description=body.description or "",
            amount=amount,
            in_coins=body.refund_variant in _IN_COINS,
            created_at=self.clock.now(),
        )
        self.pull_payments[found.id] = found
        return found

    def claim(self, pull_payment_id: str, destination: str = "bcrt1qbuyer") -> Payout:
        """The buyer claims the whole. Raises Refused: 404; 400, it is claimed already."""
        pull_payment = self.find(pull_payment_id)
        if any(one.state is not PayoutState.CANCELLED for one in self.payouts_of(pull_payment_id)):
            raise refused(400, "overdraft", "The payout amount overdraws the pull payment's limit")
        payout = Payout(
            id=self.ids.new("")[-22:],
            pull_payment_id=pull_payment_id,
            state=PayoutState.AWAITING_APPROVAL,
            destination=destination,
            created_at=self.clock.now(),
        )
        self.payouts[payout.id] = payout
        self.events.payout("PayoutCreated", payout)
        for number, state in enumerate(course_of_payout(pull_payment.amount)):
            if number == 0 and state is PayoutState.AWAITING_PAYMENT:
                self.move(payout.id, state)
            else:
                self._move_later(payout.id, state, max(number, 1))
        return self.payouts[payout.id]

    def move(self, payout_id: str, state: PayoutState) -> Payout:
        """Gives a payout another state, unless it has ended."""
        payout = self.payouts[payout_id]
        if payout.state in _ENDED:
            return payout
        payout = replace(payout, state=state)
        self.payouts[payout_id] = payout
        approved = state is PayoutState.AWAITING_PAYMENT
        self.events.payout("PayoutApproved" if approved else "PayoutUpdated", payout)
        if state is PayoutState.COMPLETED:
            found = self.find(payout.pull_payment_id)
            self.money.record(MoneyKind.REFUND, ref=found.id, own_id=found.name, money=found.amount)
        return payout

    def _move_later(self, payout_id: str, state: PayoutState, minutes: int) -> None:
        self.agenda.after(minutes * LATER_SECONDS, lambda: self.move(payout_id, state))

    def _amount(self, invoice_id: str, body: RefundInvoice) -> Money:
        invoice = self.desk.find(invoice_id)
        paid = self.desk.worth(invoice.paid_satoshi, invoice.currency)
        match body.refund_variant:
            case "Custom":
                if not body.custom_amount or not body.custom_currency:
                    raise invalid("customAmount", "Amount and currency are required")
                whole = read_money(
                    body.custom_amount,
                    body.custom_currency,
                    path="customAmount",
                    currency_path="customCurrency",
                )
            case "OverpaidAmount":
                surplus = invoice.paid_satoshi - invoice.due_satoshi
                if surplus <= 0:
                    raise invalid("refundVariant", "Invoice is not overpaid")
                whole = self.desk.worth(surplus, invoice.currency)
            case _:
                whole = invoice.amount if invoice.amount and invoice.amount < paid else paid
        kept = whole.minor * _hundredths_of_a_per_cent(body.subtract_percentage) // 10_000
        if kept == whole.minor:
            raise invalid("subtractPercentage", "Nothing is left to refund")
        return Money(whole.minor - kept, whole.currency)


def _hundredths_of_a_per_cent(sent: int | str) -> int:
    match = _PER_CENT.fullmatch(str(sent))
    hundredths = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
    if not 0 <= hundredths <= 10_000:
        raise invalid("subtractPercentage", "Percentage must be a number between 0 and 100")
    return hundredths
