"""Refunds at PayPal as facts."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from mesh.money import Money
from mesh.outbound.connections import Answer, Lost, NotSent
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.paypal import answers
from payment_rpc.channels.paypal.amounts import write_amount
from payment_rpc.channels.paypal.answers import NOT_EXECUTED
from payment_rpc.channels.paypal.api import PayPalApi
from payment_rpc.channels.paypal.objects import Order, Refund, decode, issue_of
from payment_rpc.channels.paypal.orders import UNPROCESSABLE, fetch_order, must_be_done
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

_NOTE_MAX: Final = 255


class PayPalRefunds:
    """Makes calls and reads their answers."""

    def __init__(self, api: PayPalApi, doubt: Doubt) -> None:
        self._api = api
        self._doubt = doubt

    async def refund(
        self, refund_id: str, *, of: CapturedAttempt, amount: Money, reason: str, left: TimeLeft
    ) -> RefundFact:
        """Gives back a part of a capture. A refusal that a repeated call may get too is believed
        only after a look at the order.
        """
        try:
            capture_id = of.trade_no or await self._capture_of(of, left)
            answer = await self._api.call(
                "POST",
                f"/v2/payments/captures/{quote(capture_id, safe='')}/refund",
                {
                    "amount": write_amount(amount),
                    "custom_id": refund_id,
                    "invoice_id": refund_id,
                    **({"note_to_payer": reason[:_NOTE_MAX]} if reason else {}),
                },
                left=left,
                request_id=refund_id,
            )
        except NotSent as problem:
            return self._doubt.refund_not_sent(refund_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)
        issue = issue_of(answer.body)
        if answer.status_code in NOT_EXECUTED:
            return self._doubt.refund_not_sent(refund_id, f"PayPal refused: {issue}")
        if answer.status_code == UNPROCESSABLE and issue in answers.REFUND_REFUSED:
            refused = answers.refund_refused(issue, refund_id=refund_id)
            if issue not in answers.REFUSED_AGAIN:
                return refused
            asked = await self.query(refund_id, of=of, amount=amount, refund_no="", left=left)
            return refused if asked.status is RefundChannelStatus.NOT_FOUND else asked
        try:
            refund = _refund_in(answer)
            return answers.read_refund(refund, refund_id=refund_id, amount=amount)
        except Unclear as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    async def query(
        self,
        refund_id: str,
        *,
        of: CapturedAttempt,
        amount: Money,
        refund_no: str,
        left: TimeLeft,
    ) -> RefundFact:
        """By PayPal's own id, else among the refunds of the order. NOT_FOUND: it is not there, and
        submitting it again under its key is safe.
        """
        try:
            refund = (
                _refund_in(
                    await self._api.call(
                        "GET", f"/v2/payments/refunds/{quote(refund_no, safe='')}", left=left
                    )
                )
                if refund_no
                else answers.refund_in(await self._order_of(of, left), refund_id)
            )
            if refund is None:
                return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
            return answers.read_refund(refund, refund_id=refund_id, amount=amount)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    async def _capture_of(self, of: CapturedAttempt, left: TimeLeft) -> str:
        """The capture of an order, for one whose number was never told."""
        order = await self._order_of(of, left)
        fact = answers.read_order(order, attempt_id=of.attempt_id)
        if not fact.trade_no:
            raise Unclear("its order has no capture")
        return fact.trade_no

    async def _order_of(self, of: CapturedAttempt, left: TimeLeft) -> Order:
        order = await fetch_order(self._api, of.ref, left) if of.ref else None
        if order is None:
            raise Unclear("its order is not known")
        return order


def _refund_in(answer: Answer) -> Refund:
    must_be_done(answer)
    return decode(answer.body, Refund)
