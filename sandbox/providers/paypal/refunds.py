"""Refunds of captures."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from mesh.money import Money
from sandbox.providers.ledger import MoneyKind, MoneyLog
from sandbox.providers.paypal.amounts import last_two_digits, read_amount
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.events import EventLog
from sandbox.providers.paypal.objects import PAID, Capture, CaptureStatus, Refund, RefundStatus
from sandbox.providers.paypal.refusals import unprocessable
from sandbox.providers.paypal.triggers import (
    LATER_SECONDS,
    PART_REFUSED,
    REFUNDS_REFUSED,
    course_of_refund,
)
from sandbox.providers.paypal.wire import RefundCapture
from sandbox.providers.simulation import Agenda

_WINDOW = timedelta(days=180)


class RefundDesk:
    """Makes refunds and settles them."""

    def __init__(self, books: Books, events: EventLog, money: MoneyLog, agenda: Agenda) -> None:
        self._books = books
        self._events = events
        self._money = money
        self._agenda = agenda

    def amount(self, capture_id: str, body: RefundCapture) -> Money:
        """What a request is about: its amount, or what is left of the capture.

        Raises:
            Refused: no such capture; no such amount.
        """
        capture = self._books.capture(capture_id)
        if body.amount is None:
            left = capture.amount.minor - self._books.refunded_minor(capture_id)
            return Money(left, capture.amount.currency)
        return read_amount(body.amount.currency_code, body.amount.value, field="/amount")

    def refund(self, capture_id: str, body: RefundCapture) -> Refund:
        """Refunds a capture or a part of it.

        Raises:
            Refused: 404, no such capture; 422, it cannot be done.
        """
        capture = self._books.capture(capture_id)
        amount = self.amount(capture_id, body)
        self._check(capture, amount)
        course = course_of_refund(amount)
        now = self._books.now()
        refund = Refund(
            id=self._books.new_id(),
            capture_id=capture.id,
            status=RefundStatus.PENDING,
            reason=course.reason,
            amount=amount,
            total=Money(self._books.refunded_minor(capture_id) + amount.minor, amount.currency),
            custom_id=body.custom_id or "",
            invoice_id=body.invoice_id or "",
            note=body.note_to_payer,
            created_at=now,
            updated_at=now,
        )
        self._books.refunds[refund.id] = refund
        if course.status is RefundStatus.PENDING:
            self._events.refund("PENDING", refund)
        else:
            refund = self.settle(refund.id, course.status)
        if (then := course.then) is not None:
            self._agenda.after(LATER_SECONDS, lambda: self.settle(refund.id, then))
        return refund

    def settle(self, refund_id: str, status: RefundStatus) -> Refund:
        """Changes a refund that may still change: a pending one ends, a completed one may fail."""
        refund = self._books.refund(refund_id)
        if refund.status not in {RefundStatus.PENDING, RefundStatus.COMPLETED}:
            return refund
        was_completed = refund.status is RefundStatus.COMPLETED
        if was_completed and status is RefundStatus.COMPLETED:
            return refund
        refund = replace(
            refund,
            status=status,
            reason="" if status is RefundStatus.COMPLETED else refund.reason,
            was_completed=was_completed,
            updated_at=self._books.now(),
        )
        self._books.refunds[refund_id] = refund
        self._count(refund.capture_id)
        if status is RefundStatus.COMPLETED:
            self._record(MoneyKind.REFUND, refund)
            self._events.refund("REFUNDED", refund)
            return refund
        if was_completed:
            self._record(MoneyKind.REFUND_REVERSED, refund)
        self._events.refund("FAILED", refund)
        return refund

    def _record(self, kind: MoneyKind, refund: Refund) -> None:
        self._money.record(kind, ref=refund.id, own_id=refund.custom_id, money=refund.amount)

    def _check(self, capture: Capture, amount: Money) -> None:
        if capture.status is CaptureStatus.PENDING:
            raise unprocessable("PENDING_CAPTURE")
        if capture.status not in PAID:
            raise unprocessable("REFUND_NOT_ALLOWED")
        if capture.reversed:
            raise unprocessable("REFUND_NOT_PERMITTED_DUE_TO_CHARGEBACK")
        if capture.disputed:
            raise unprocessable("TRANSACTION_DISPUTED")
        if amount.currency != capture.amount.currency:
            raise unprocessable("CURRENCY_MISMATCH", field="/amount/currency_code")
        left = capture.amount.minor - self._books.refunded_minor(capture.id)
        if left == 0:
            raise unprocessable("CAPTURE_FULLY_REFUNDED")
        if self._books.now() > capture.created_at + _WINDOW:
            raise unprocessable("REFUND_TIME_LIMIT_EXCEEDED")
        if amount.minor > left:
            raise unprocessable("REFUND_AMOUNT_EXCEEDED", field="/amount/value")
        if refusal := REFUNDS_REFUSED.get(last_two_digits(amount)):
            raise unprocessable(refusal)
        if last_two_digits(amount) == PART_REFUSED and amount != capture.amount:
            raise unprocessable("PARTIAL_REFUND_NOT_ALLOWED")

    def _count(self, capture_id: str) -> None:
        """The capture's status follows what of it was refunded."""
        capture = self._books.capture(capture_id)
        done = sum(
            found.amount.minor
            for found in self._books.refunds_of(capture_id)
            if found.status is RefundStatus.COMPLETED
        )
        status = CaptureStatus.PARTIALLY_REFUNDED if done else CaptureStatus.COMPLETED
        if done == capture.amount.minor:
            status = CaptureStatus.REFUNDED
        self._books.captures[capture_id] = replace(
            capture, status=status, updated_at=self._books.now()
        )
