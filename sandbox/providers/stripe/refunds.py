"""Refunds: they may wait, fail, and fail after they had succeeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sandbox.providers.ledger import MoneyKind
from sandbox.providers.stripe import currencies, triggers
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.errors import StripeError, invalid
from sandbox.providers.stripe.forms import EXPAND, Reader, integer, metadata, one_of, read, text
from sandbox.providers.stripe.objects import Charge, Refund

_CREATE: Final[Mapping[str, Reader]] = {
    "payment_intent": text(),
    "charge": text(),
    "amount": integer(),
    "reason": one_of("duplicate", "fraudulent", "requested_by_customer"),
    "metadata": metadata,
    **EXPAND,
}
_ENDED: Final = ("failed", "canceled")


class Refunds:
    """The refunds of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def create(self, sent: dict[str, Any]) -> Refund:
        """Gives back a capture or a part of it.

        Raises:
            StripeError: more than is left, nothing captured, disputed.
        """
        given = read(_CREATE, sent)
        charge = self._charge(given)
        amount = self._amount(charge, given)
        plan = triggers.refund_plan(amount, charge.method)
        if plan.refused:
            raise StripeError(
                402,
                "You have insufficient funds in your Stripe account for this refund.",
                kind="card_error",
                code="insufficient_funds",
            )
        refund = Refund(
            id=self._account.new_id("re_"),
            created=self._account.now(),
            charge=charge.id,
            payment_intent=charge.payment_intent,
            amount=amount,
            currency=charge.currency,
            reason=given.get("reason"),
            metadata=given.get("metadata", {}),
            status="pending",
            pending_reason=plan.pending_reason,
            failure_reason=plan.failure_reason,
        )
        made = self._become(self._book(refund), plan.first, is_new=True)
        if plan.then:
            self._account.later(
                triggers.STEP_SECONDS, lambda: self._step(refund.id, plan.first, plan.then)
            )
        return made

    def cancel(self, ref: str, sent: dict[str, Any]) -> Refund:
        """Cancels a refund that waits for the buyer."""
        read(EXPAND, sent)
        refund = self._account.store.refunds.need(ref)
        if refund.status != "requires_action":
            raise StripeError(400, f"A refund with the status {refund.status} cannot be canceled.")
        return self._become(refund, "canceled")

    def given(self, refund: Refund) -> Refund:
        """The buyer has said where the money shall go."""
        return self._become(refund, "succeeded")

    def fail(self, refund: Refund) -> Refund:
        """The buyer's bank sends the money back."""
        reason = refund.failure_reason or "expired_or_canceled_card"
        return self._become(replace(refund, failure_reason=reason), "failed")

    def _step(self, ref: str, before: str, then: str) -> None:
        refund = self._account.store.refunds[ref]
        if refund.status == before:
            self._become(refund, then)

    def _charge(self, given: Mapping[str, Any]) -> Charge:
        store = self._account.store
        if ("charge" in given) == ("payment_intent" in given):
            raise invalid(
                "One of the following params should be provided for this request: payment_intent "
                "or charge.",
                param="payment_intent",
                code="parameter_missing",
            )
        if "charge" in given:
            charge = store.charges.need(given["charge"], param="charge")
        else:
            pi = store.payment_intents.need(given["payment_intent"], param="payment_intent")
            found = store.charges.get(pi.latest_charge or "")
            if found is None or not found.amount_captured:
                raise StripeError(
                    400,
                    f"This PaymentIntent ({pi.id}) does not have a successful charge to refund.",
                    param="payment_intent",
                )
            charge = found
        if charge.dispute and not store.disputes[charge.dispute].is_inquiry:
            raise StripeError(
                400, f"Charge {charge.id} has been charged back.", code="charge_disputed"
            )
        return charge

    def _amount(self, charge: Charge, given: Mapping[str, Any]) -> int:
        left = charge.amount_captured - self._refunded(charge)
        if left <= 0:
            raise StripeError(
                400,
                f"Charge {charge.id} has already been refunded.",
                code="charge_already_refunded",
            )
        amount: int = given.get("amount", left)
        currencies.check_step(amount, charge.currency)
        if amount > left:
            raise StripeError(
                400,
                f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})",
                param="amount",
            )
        return amount

    def _refunded(self, charge: Charge) -> int:
        refunds = self._account.store.refunds_of(charge.id)
        return sum(refund.amount for refund in refunds if refund.status not in _ENDED)

    def _book(self, refund: Refund) -> Refund:
        """Money leaves the balance at once, except while the balance has too little."""
        if refund.pending_reason == "insufficient_funds" or refund.balance_transaction:
            return refund
        row = self._account.post(
            "refund", amount=-refund.amount, currency=refund.currency, source=refund.id
        )
        return replace(refund, balance_transaction=row.id)

    def _become(self, refund: Refund, status: str, *, is_new: bool = False) -> Refund:
        account = self._account
        had_moved = refund.is_moved and not is_new
        changed = replace(refund, status=status)
        if changed.is_moved:
            changed = self._book(replace(changed, pending_reason=None))
        if status in _ENDED and refund.balance_transaction:
            row = account.post(
                "refund_failure", amount=refund.amount, currency=refund.currency, source=refund.id
            )
            changed = replace(changed, failure_balance_transaction=row.id)
        account.store.refunds[changed.id] = changed
        if changed.is_moved and not had_moved:
            self._move(MoneyKind.REFUND, changed)
        if had_moved and not changed.is_moved:
            self._move(MoneyKind.REFUND_REVERSED, changed)
        charge = account.store.charges[changed.charge]
        account.store.charges[charge.id] = replace(
            charge, amount_refunded=self._refunded(charge) + charge.rest_released
        )
        view = account.views.refund(changed)
        if is_new:
            account.tell("refund.created", view)
            account.tell_charge("charge.refunded", charge.id)
        if not is_new or status == "failed":
            account.tell("refund.updated", view)
            account.tell("charge.refund.updated", view)
        if status == "failed":
            account.tell("refund.failed", view)
        return changed

    def _move(self, kind: MoneyKind, refund: Refund) -> None:
        self._account.move(
            kind,
            ref=refund.id,
            own_id=refund.metadata.get("refund_id", ""),
            amount=refund.amount,
            currency=refund.currency,
        )
