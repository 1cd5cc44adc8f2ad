"""Disputes: the buyer's bank takes the money back, until the shop wins. An inquiry takes none."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sandbox.providers.ledger import MoneyKind
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.objects import Dispute

_FEE: Final = 1500  # in the settlement currency
ENDINGS: Final = ("won", "lost")


class Disputes:
    """Disputes of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def open(self, charge_id: str, *, reason: str, inquiry: bool) -> Dispute:
        """The buyer disputes a charge."""
        account = self._account
        charge = account.store.charges[charge_id]
        dispute = Dispute(
            id=self._account.new_id("dp_"),
            created=account.now(),
            charge=charge.id,
            payment_intent=charge.payment_intent,
            amount=charge.amount_captured + charge.rest_released - charge.amount_refunded,
            currency=charge.currency,
            reason=reason,
            status="warning_needs_response" if inquiry else "needs_response",
        )
        account.store.charges[charge.id] = replace(charge, dispute=dispute.id)
        if not inquiry:
            dispute = self._book(dispute, -dispute.amount, category="dispute", fee=_FEE)
            self._move(dispute, MoneyKind.DISPUTE)
        account.store.disputes[dispute.id] = dispute
        self._tell("created", dispute)
        if not inquiry:
            self._tell("funds_withdrawn", dispute)
        return dispute

    def close(self, dispute: Dispute, *, ending: str) -> Dispute:
        """The bank decides; `ending` is one of ENDINGS. A dispute that is closed stays so."""
        if not dispute.status.endswith("needs_response"):
            return dispute
        is_inquiry = dispute.is_inquiry
        closed = replace(dispute, status="warning_closed" if is_inquiry else ending)
        reinstated = ending == "won" and not is_inquiry
        if reinstated:
            closed = self._book(closed, dispute.amount, category="dispute_reversal", fee=-_FEE)
            self._move(closed, MoneyKind.DISPUTE_REVERSED)
        self._account.store.disputes[closed.id] = closed
        self._tell("updated", closed)
        self._tell("closed", closed)
        if reinstated:
            self._tell("funds_reinstated", closed)
        return closed

    def _book(self, dispute: Dispute, amount: int, *, category: str, fee: int) -> Dispute:
        row = self._account.post(
            "adjustment",
            amount=amount,
            currency=dispute.currency,
            source=dispute.id,
            category=category,
            fee=fee,
        )
        return replace(dispute, balance_transactions=(*dispute.balance_transactions, row.id))

    def _move(self, dispute: Dispute, kind: MoneyKind) -> None:
        pi = self._account.store.payment_intents[dispute.payment_intent]
        self._account.move(
            kind,
            ref=dispute.id,
            own_id=pi.own_id,
            amount=dispute.amount,
            currency=dispute.currency,
        )

    def _tell(self, what: str, dispute: Dispute) -> None:
        self._account.tell(f"charge.dispute.{what}", self._account.views.dispute(dispute))
