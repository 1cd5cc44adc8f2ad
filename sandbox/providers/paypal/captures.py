"""Captures: how they are made, and what becomes of them later."""

from __future__ import annotations

from dataclasses import replace

from mesh.money import Money
from sandbox.providers.ledger import MoneyKind, MoneyLog
from sandbox.providers.paypal.amounts import last_two_digits
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.events import EventLog
from sandbox.providers.paypal.objects import PAID, Capture, CaptureStatus, Dispute
from sandbox.providers.paypal.refusals import unprocessable
from sandbox.providers.paypal.triggers import (
    CAPTURES_REFUSED,
    CHARGED_BACK,
    DISPUTED,
    LATER_SECONDS,
    course_of_capture,
)
from sandbox.providers.simulation import Agenda

_EVENTS = {
    CaptureStatus.COMPLETED: "COMPLETED",
    CaptureStatus.PENDING: "PENDING",
    CaptureStatus.DECLINED: "DECLINED",
    CaptureStatus.FAILED: "DECLINED",
}


class CaptureDesk:
    """Makes captures and settles them."""

    def __init__(self, books: Books, events: EventLog, money: MoneyLog, agenda: Agenda) -> None:
        self._books = books
        self._events = events
        self._money = money
        self._agenda = agenda

    def make(
        self,
        *,
        order_id: str,
        authorization_id: str,
        amount: Money,
        custom_id: str,
        invoice_id: str,
        is_final: bool,
    ) -> Capture:
        """A new capture. What it becomes is decided by its amount.

        Raises:
            Refused: 422; the amount asks for it, or another order was paid under this invoice id.
        """
        if refusal := CAPTURES_REFUSED.get(last_two_digits(amount)):
            raise unprocessable(refusal)
        if self._books.knows_invoice(invoice_id, except_order=order_id):
            raise unprocessable("DUPLICATE_INVOICE_ID")
        now = self._books.now()
        course = course_of_capture(amount)
        capture = Capture(
            id=self._books.new_id(),
            order_id=order_id,
            authorization_id=authorization_id,
            status=CaptureStatus.PENDING,
            reason=course.reason,
            amount=amount,
            custom_id=custom_id,
            invoice_id=invoice_id,
            is_final=is_final,
            created_at=now,
            updated_at=now,
        )
        self._books.captures[capture.id] = capture
        if course.status is CaptureStatus.PENDING:
            self._events.capture("PENDING", capture)
        else:
            capture = self.end(capture, course.status)
        if (then := course.then) is not None:
            self._agenda.after(LATER_SECONDS, lambda: self.settle(capture.id, then))
        self._plan_trouble(capture)
        return capture

    def settle(self, capture_id: str, status: CaptureStatus) -> Capture:
        """Ends a pending capture; another one stays as it is."""
        capture = self._books.capture(capture_id)
        return self.end(capture, status) if capture.status is CaptureStatus.PENDING else capture

    def end(self, capture: Capture, status: CaptureStatus) -> Capture:
        """Ends a capture: money moves when it is COMPLETED."""
        reason = "" if status is CaptureStatus.COMPLETED else capture.reason
        capture = self._keep(replace(capture, status=status, reason=reason))
        if status is CaptureStatus.COMPLETED:
            self._record(MoneyKind.CAPTURE, capture)
        self._events.capture(_EVENTS[status], capture)
        return capture

    def charge_back(self, capture_id: str) -> None:
        """A bank or PayPal takes a paid capture back."""
        capture = self._books.capture(capture_id)
        if capture.status in PAID and not capture.reversed:
            capture = self._keep(replace(capture, reversed=True))
            self._record(MoneyKind.DISPUTE, capture)
            self._events.capture("REVERSED", capture)

    def dispute(self, capture_id: str) -> Dispute | None:
        """Opens a dispute about a paid capture; None for another one, or while one is open."""
        capture = self._books.capture(capture_id)
        if capture.status not in PAID or capture.disputed or capture.reversed:
            return None
        self._keep(replace(capture, disputed=True))
        now = self._books.now()
        dispute = Dispute(
            id=f"PP-D-{self._books.new_id()}",
            capture_id=capture.id,
            amount=capture.amount,
            outcome="",
            created_at=now,
            updated_at=now,
        )
        self._books.disputes[dispute.id] = dispute
        self._events.dispute("CREATED", dispute)
        return dispute

    def resolve(self, dispute_id: str, outcome: str) -> None:
        """Ends an open dispute. The buyer's victory takes the money back."""
        dispute = self._books.disputes[dispute_id]
        if dispute.outcome:
            return
        dispute = replace(dispute, outcome=outcome, updated_at=self._books.now())
        self._books.disputes[dispute_id] = dispute
        self._keep(replace(self._books.capture(dispute.capture_id), disputed=False))
        if outcome == "RESOLVED_BUYER_FAVOUR":
            self.charge_back(dispute.capture_id)
        self._events.dispute("RESOLVED", dispute)

    def _plan_trouble(self, capture: Capture) -> None:
        digits = last_two_digits(capture.amount)
        if digits == CHARGED_BACK:
            self._agenda.after(LATER_SECONDS, lambda: self.charge_back(capture.id))
        if outcome := DISPUTED.get(digits):
            self._agenda.after(LATER_SECONDS, lambda: self._open(capture.id, outcome))

    def _open(self, capture_id: str, outcome: str) -> None:
        if dispute := self.dispute(capture_id):
            self._agenda.after(LATER_SECONDS, lambda: self.resolve(dispute.id, outcome))

    def _record(self, kind: MoneyKind, capture: Capture) -> None:
        self._money.record(kind, ref=capture.id, own_id=capture.custom_id, money=capture.amount)

    def _keep(self, capture: Capture) -> Capture:
        capture = replace(capture, updated_at=self._books.now())
        self._books.captures[capture.id] = capture
        return capture
