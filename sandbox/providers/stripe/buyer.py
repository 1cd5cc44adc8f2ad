"""The buyer's deeds without a browser, and what his bank does.

| does | |
|---|---|
| pay | pays with `card` (a published number or token, else 4242…), or ends what waits for him |
| approve | authenticates, or comes back from the wallet |
| decline | fails to authenticate; otherwise pays with a card that is declined |
| settle, fail | a debit in processing ends |
| expire | a Session or an authorization runs out |
| dispute | disputes a paid charge |
| won, lost | the bank decides the dispute |
| refund_fails | his bank sends a refund back; `ref` is the refund |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox.providers.control import DeedRefused
from sandbox.providers.stripe import triggers
from sandbox.providers.stripe.account import Account, Cause
from sandbox.providers.stripe.attempts import Attempts
from sandbox.providers.stripe.disputes import ENDINGS, Disputes
from sandbox.providers.stripe.errors import StripeError
from sandbox.providers.stripe.objects import PaymentIntent
from sandbox.providers.stripe.payments import Payments
from sandbox.providers.stripe.refunds import Refunds
from sandbox.providers.stripe.sessions import Sessions

_CARD = "4242424242424242"
_DECLINED = "4000000000000002"


def method_of(card: str) -> triggers.Method:
    """The method of a number or token.

    Raises:
        DeedRefused: not a published one.
    """
    number = card.replace(" ", "")
    if number == triggers.INCORRECT_NUMBER.number:
        return triggers.INCORRECT_NUMBER
    found = triggers.BY_NUMBER.get(number) or triggers.BY_TOKEN.get(card)
    if found is None:
        raise DeedRefused(f"{card}: not a published test card")
    return found


class Buyer:
    """Whoever pays."""

    def __init__(
        self,
        account: Account,
        *,
        payments: Payments,
        attempts: Attempts,
        sessions: Sessions,
        refunds: Refunds,
        disputes: Disputes,
    ) -> None:
        self._account = account
        self._payments = payments
        self._attempts = attempts
        self._sessions = sessions
        self._refunds = refunds
        self._disputes = disputes

    def act(self, sent: Mapping[str, Any]) -> Mapping[str, Any]:
        """Does a deed; answers what has become of the payment.

        Raises:
            DeedRefused: no such payment, or not possible now.
        """
        self._account.cause = Cause()
        ref, does = self._find(sent), sent["does"]
        store = self._account.store
        try:
            if refund := store.refunds.get(ref):
                if does == "refund_fails" and refund.is_moved:
                    return self._account.views.refund(self._refunds.fail(refund))
                if does == "pay" and refund.status == "requires_action":
                    return self._account.views.refund(self._refunds.given(refund))
                raise DeedRefused(f"a refund that is {refund.status} does not do this")
            if session := store.sessions.get(ref):
                if does == "expire":
                    return self._account.views.session(self._sessions.expire(ref, {}))
                if session.payment_intent is None and does in {"pay", "decline"}:
                    card = sent.get("card", _CARD if does == "pay" else _DECLINED)
                    return self._shown(self._sessions.pay(ref, method_of(card)))
                ref = str(session.payment_intent)
            if ref not in store.payment_intents:
                raise DeedRefused(f"{ref}: no such payment")
            return self._shown(self._payment(store.payment_intents[ref], does, sent))
        except StripeError as error:
            raise DeedRefused(str(error)) from None

    def pay(self, ref: str, method: triggers.Method, *, return_url: str = "") -> PaymentIntent:
        """Pays a PaymentIntent or its Session with a method.

        Raises:
            StripeError: declined.
        """
        pi = self._account.store.payment_intents[ref]
        if pi.session:
            return self._sessions.pay(pi.session, method)
        return self._payments.confirm_as_buyer(ref, method, return_url=return_url)

    def authenticate(self, ref: str, *, succeeds: bool) -> PaymentIntent:
        """Answers the bank, or comes back from the wallet.

        Raises:
            StripeError: declined. DeedRefused: nothing waits for him.
        """
        pi = self._account.store.payment_intents[ref]
        if pi.status != "requires_action":
            raise DeedRefused(f"the payment is {pi.status}")
        done = self._attempts.authenticate(pi, succeeds=succeeds)
        self._sessions.follow(done)
        return done

    def _payment(self, pi: PaymentIntent, does: str, sent: Mapping[str, Any]) -> PaymentIntent:
        store = self._account.store
        waits = pi.status == "requires_action"
        charge = store.charges.get(pi.latest_charge or "")
        match does:
            case "pay" | "approve" | "decline" if waits and "card" not in sent:
                return self.authenticate(pi.id, succeeds=does != "decline")
            case "pay" | "decline":
                card = sent.get("card", _CARD if does == "pay" else _DECLINED)
                back = pi.return_url or "http://127.0.0.1/"
                return self.pay(pi.id, method_of(card), return_url=back)
            case "settle" | "fail" if pi.status == "processing":
                self._attempts.settle(pi.id, succeeds=does == "settle")
            case "expire" if pi.status == "requires_capture":
                self._attempts.run_out(pi.id)
            case "dispute" if charge and charge.amount_captured and not charge.dispute:
                self._disputes.open(charge.id, reason="fraudulent", inquiry=False)
            case "won" | "lost" if charge and charge.dispute and does in ENDINGS:
                self._disputes.close(store.disputes[charge.dispute], ending=does)
            case _:
                raise DeedRefused(f"a payment that is {pi.status} does not do {does}")
        return store.payment_intents[pi.id]

    def _find(self, sent: Mapping[str, Any]) -> str:
        if "ref" in sent:
            return str(sent["ref"])
        own, store = str(sent["own_id"]), self._account.store
        for refund in reversed(store.refunds.values()):
            if refund.metadata.get("refund_id") == own:
                return refund.id
        for pi in reversed(store.payment_intents.values()):
            if pi.own_id == own:
                return pi.id
        for session in reversed(store.sessions.values()):
            known = session.payment.get("metadata", {}).get("attempt_id")
            if own in {session.client_reference_id, session.metadata.get("attempt_id"), known}:
                return session.id
        raise DeedRefused(f"{own}: nothing with this id")

    def _shown(self, pi: PaymentIntent) -> Mapping[str, Any]:
        return self._account.views.payment_intent(self._account.store.payment_intents[pi.id])
