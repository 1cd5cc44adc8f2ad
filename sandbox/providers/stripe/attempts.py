"""One try of a payment: the card is charged, declined, or must be authenticated first; debits take
their time; authorizations run out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from sandbox.providers.ledger import MoneyKind
from sandbox.providers.stripe import triggers
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.disputes import Disputes
from sandbox.providers.stripe.errors import StripeError
from sandbox.providers.stripe.objects import Charge, PaymentIntent
from sandbox.providers.stripe.triggers import Decline, Method

_DAY: Final = 86_400
_AUTHORIZED_SECONDS: Final = 7 * _DAY
_AUTHORIZED_BY_MERCHANT_SECONDS: Final = 5 * _DAY  # Visa, when the buyer is away
_MESSAGES: Final = {
    "card_declined": "Your card was declined.",
    "expired_card": "Your card has expired.",
    "incorrect_cvc": "Your card's security code is incorrect.",
    "incorrect_number": "Your card number is incorrect.",
    "processing_error": "An error occurred while processing your card. Try again in a little bit.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
    "payment_intent_authentication_failure": "The provided PaymentMethod has failed "
    "authentication. You can provide payment_method_data or a new PaymentMethod to attempt to "
    "fulfill this PaymentIntent again.",
    "payment_intent_payment_attempt_failed": "The payment failed.",
}
_AUTHENTICATION_REQUIRED: Final = Decline(
    code="authentication_required", decline_code="authentication_required"
)
_NOT_AUTHENTICATED: Final = Decline(code="payment_intent_authentication_failure")
_DEBIT_FAILED: Final = Decline(code="payment_intent_payment_attempt_failed")


class Attempts:
    """Tries payments of an account."""

    def __init__(self, account: Account, disputes: Disputes) -> None:
        self._account = account
        self._disputes = disputes

    def start(self, pi: PaymentIntent, *, error_on_action: bool) -> PaymentIntent:
        """Tries to pay with the PaymentIntent's method.

        Raises:
            StripeError: declined; the PaymentIntent wants another method now.
        """
        method = _method(pi)
        if pi.off_session and method.authenticate:
            raise self._decline(pi, _AUTHENTICATION_REQUIRED)
        if method.authenticate in {"always", "on_session"} or method.action:
            if error_on_action:
                raise self._decline(pi, _AUTHENTICATION_REQUIRED)
            waiting = replace(
                pi, status="requires_action", next_action=self._action(pi), last_payment_error=None
            )
            self._account.tell_payment("payment_intent.requires_action", waiting)
            return self._account.save(waiting)
        return self._charge(pi)

    def authenticate(self, pi: PaymentIntent, *, succeeds: bool) -> PaymentIntent:
        """The buyer has answered his bank, or has come back from a wallet.

        Raises:
            StripeError: declined, by the buyer's failure or afterwards by the bank.
        """
        if not succeeds:
            raise self._decline(pi, _NOT_AUTHENTICATED)
        return self._charge(replace(pi, next_action=None))

    def settle(self, ref: str, *, succeeds: bool) -> None:
        """A debit ends. Does nothing when it has ended."""
        pi = self._account.store.payment_intents[ref]
        if pi.status != "processing":
            return
        if succeeds:
            self._captured(pi)
            return
        self._decline(pi, _DEBIT_FAILED)

    def run_out(self, ref: str) -> None:
        """An authorization ends by itself. Does nothing when it has ended."""
        pi = self._account.store.payment_intents[ref]
        if pi.status == "requires_capture":
            self.release(pi, reason="automatic")
            self._account.tell_charge("charge.expired", str(pi.latest_charge))

    def release(self, pi: PaymentIntent, *, reason: str | None) -> PaymentIntent:
        """Gives the rest of an authorization back. What was captured in part has succeeded."""
        account = self._account
        charge = account.store.charges[str(pi.latest_charge)]
        account.store.charges[charge.id] = replace(
            charge,
            released=True,
            captured=pi.amount_received > 0,
            amount_refunded=charge.amount - pi.amount_received,
        )
        account.move(
            MoneyKind.VOID,
            ref=pi.id,
            own_id=pi.own_id,
            amount=pi.amount_capturable,
            currency=pi.currency,
        )
        if pi.amount_received:
            done = account.save(replace(pi, status="succeeded", amount_capturable=0))
            account.tell_payment("payment_intent.succeeded", done)
            return done
        return self.close(replace(pi, amount_capturable=0), reason=reason)

    def close(self, pi: PaymentIntent, *, reason: str | None) -> PaymentIntent:
        """Cancels what holds no money."""
        closed = self._account.save(
            replace(
                pi,
                status="canceled",
                canceled_at=self._account.now(),
                cancellation_reason=reason,
                next_action=None,
            )
        )
        self._account.tell_payment("payment_intent.canceled", closed)
        return closed

    def book(self, pi: PaymentIntent, *, amount: int, captured: int) -> None:
        """Books a capture; with `automatic_async` only after the answer that tells of it.

        Args:
            amount: of the row. captured: what the fee is for.
        """
        source, created = str(pi.latest_charge), self._account.now()
        account = self._account

        def book() -> None:
            row = account.post(
                "charge",
                amount=amount,
                currency=pi.currency,
                source=source,
                fee=account.fee(captured, pi.currency),
                created=created,
            )
            charge = account.store.charges[source]
            if charge.balance_transaction is None:
                account.store.charges[source] = replace(charge, balance_transaction=row.id)

        def book_later() -> None:
            book()
            account.tell_charge("charge.updated", source)

        if pi.capture_method == "automatic_async":
            account.later(0, book_later)
        else:
            book()

    def _charge(self, pi: PaymentIntent) -> PaymentIntent:
        account, method = self._account, _method(pi)
        if method.decline is not None:
            raise self._decline(pi, method.decline)
        if method.processing:
            charge = self._new_charge(pi, status="pending")
            waiting = account.save(
                replace(pi, status="processing", latest_charge=charge.id, last_payment_error=None)
            )
            account.tell_payment("payment_intent.processing", waiting)
            if method.processing != "forever":
                account.later(
                    triggers.STEP_SECONDS,
                    lambda: self.settle(pi.id, succeeds=method.processing == "succeeded"),
                )
            return waiting
        charge = self._new_charge(pi, status="succeeded")
        charged = replace(pi, latest_charge=charge.id, last_payment_error=None)
        if pi.capture_method == "manual":
            return self._authorized(charged, charge)
        return self._captured(charged)

    def _authorized(self, pi: PaymentIntent, charge: Charge) -> PaymentIntent:
        account = self._account
        held = account.save(
            replace(pi, status="requires_capture", amount_capturable=pi.amount, next_action=None)
        )
        account.move(
            MoneyKind.AUTHORIZE,
            ref=pi.id,
            own_id=pi.own_id,
            amount=pi.amount,
            currency=pi.currency,
        )
        account.tell_charge("charge.succeeded", charge.id)
        account.tell_payment("payment_intent.amount_capturable_updated", held)
        until = charge.capture_before or account.now()
        account.later(until - account.now(), lambda: self.run_out(pi.id))
        return held

    def _captured(self, pi: PaymentIntent) -> PaymentIntent:
        account, method = self._account, _method(pi)
        charge = account.store.charges[str(pi.latest_charge)]
        account.store.charges[charge.id] = replace(
            charge, status="succeeded", captured=True, amount_captured=pi.amount
        )
        paid = account.save(
            replace(pi, status="succeeded", amount_received=pi.amount, next_action=None)
        )
        account.move(
            MoneyKind.CAPTURE, ref=pi.id, own_id=pi.own_id, amount=pi.amount, currency=pi.currency
        )
        self.book(paid, amount=pi.amount, captured=pi.amount)
        account.tell_charge("charge.succeeded", charge.id)
        account.tell_payment("payment_intent.succeeded", paid)
        if method.fraud_warning:
            warning = {"object": "radar.early_fraud_warning", "charge": charge.id}
            warning |= {
                "id": self._account.new_id("issfr_"),
                "fraud_type": "misc",
                "payment_intent": pi.id,
            }
            account.tell("radar.early_fraud_warning.created", warning)
        if method.dispute:
            self._disputes.open(charge.id, reason=method.dispute, inquiry=method.inquiry)
        return paid

    def _new_charge(
        self, pi: PaymentIntent, *, status: str, decline: Decline | None = None
    ) -> Charge:
        now = self._account.now()
        method = _method(pi)
        lasts = _AUTHORIZED_SECONDS
        if pi.off_session and method.brand == "visa":
            lasts = _AUTHORIZED_BY_MERCHANT_SECONDS
        if triggers.runs_out_soon(pi.amount):
            lasts = int(triggers.STEP_SECONDS)
        held = pi.capture_method == "manual" and method.kind == "card" and status == "succeeded"
        charge = Charge(
            id=self._account.new_id("ch_"),
            created=now,
            payment_intent=pi.id,
            payment_method=str(pi.payment_method),
            method=method if decline is None else replace(method, decline=decline),
            amount=pi.amount,
            currency=pi.currency,
            metadata=pi.metadata,
            status=status,
            capture_before=now + lasts if held else None,
            failure_code=decline.code if decline else None,
            failure_message=_message(decline) if decline else None,
        )
        self._account.store.charges[charge.id] = charge
        return charge

    def _decline(self, pi: PaymentIntent, decline: Decline) -> StripeError:
        """Ends the try; the error is the answer of the request, if one waits."""
        account = self._account
        if pi.status == "processing":
            charge = replace(
                account.store.charges[str(pi.latest_charge)],
                status="failed",
                failure_code=decline.code,
                failure_message=_message(decline),
            )
            account.store.charges[charge.id] = charge
        else:
            charge = self._new_charge(pi, status="failed", decline=decline)
        error: dict[str, Any] = {
            "type": "card_error",
            "code": decline.code,
            "message": _message(decline),
            "charge": charge.id,
            "doc_url": f"https://stripe.com/docs/error-codes/{decline.code.replace('_', '-')}",
        }
        for name in ("decline_code", "advice_code"):
            if value := getattr(decline, name):
                error[name] = value
        if decline.decline_code:
            error["network_decline_code"] = "05"
        if decline is _NOT_AUTHENTICATED:
            error["type"] = "invalid_request_error"
        method = {"id": pi.payment_method, "object": "payment_method", "type": _method(pi).kind}
        failed = account.save(
            replace(
                pi,
                status="requires_payment_method",
                payment_method=None,
                method=None,
                next_action=None,
                latest_charge=charge.id,
                last_payment_error={**error, "payment_method": method},
            )
        )
        account.tell_charge("charge.failed", charge.id)
        account.tell_payment("payment_intent.payment_failed", failed)
        more = {name: error[name] for name in error if name not in {"type", "code", "message"}}
        more |= {"payment_intent": account.views.payment_intent(failed), "payment_method": method}
        return StripeError(
            402, _message(decline), kind="card_error", code=decline.code, fields=more
        )

    def _action(self, pi: PaymentIntent) -> dict[str, Any]:
        method = _method(pi)
        url = f"{self._account.simulation.base_url}/_sim/authenticate/{pi.id}"
        back = pi.return_url
        details: dict[str, Any]
        match method.action:
            case "wechat_pay_display_qr_code":
                details = {
                    "data": f"weixin://wxpay/bizpayurl?pr={pi.id[-9:]}",
                    "hosted_instructions_url": url,
                    "image_data_url": "",
                    "image_url_png": url,
                    "image_url_svg": url,
                }
            case "alipay_handle_redirect":
                details = {"native_data": None, "native_url": None, "return_url": back, "url": url}
            case triggers.UNKNOWN_ACTION:
                details = {"url": url}
            case _ if back:
                redirect = {"return_url": back, "url": url}
                return {"type": "redirect_to_url", "redirect_to_url": redirect}
            case _:
                script = {"type": "three_d_secure_redirect", "stripe_js": url}
                return {"type": "use_stripe_sdk", "use_stripe_sdk": script}
        return {"type": method.action, method.action: details}


def _message(decline: Decline) -> str:
    if decline.decline_code == "insufficient_funds":
        return "Your card has insufficient funds."
    return _MESSAGES.get(decline.code, _MESSAGES["card_declined"])


def _method(pi: PaymentIntent) -> Method:
    if pi.method is None:
        raise AssertionError(f"{pi.id} is tried without a payment method")
    return triggers.with_amount(pi.method, pi.amount)
