"""Refunds at a BTCPay Server as facts. The server has no idempotency keys: the name of a claim is
our refund id, and it is looked for before one is made.
"""

from __future__ import annotations

from typing import Final

from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.btcpay import answers
from payment_rpc.channels.btcpay.answers import PullPayment
from payment_rpc.channels.btcpay.api import OK, BTCPayApi
from payment_rpc.channels.btcpay.credentials import Credentials
from payment_rpc.channels.btcpay.locks import Locks
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.requests import CapturedAttempt
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

_REASON_MAX: Final = 500


class BTCPayRefunds:
    """Makes calls and reads their answers."""

    def __init__(self, api: BTCPayApi, doubt: Doubt, credentials: Credentials) -> None:
        self._api = api
        self._doubt = doubt
        self._payout_methods = credentials.payout_methods
        self._locks = Locks()

    async def refund(
        self, refund_id: str, *, of: CapturedAttempt, amount: Money, reason: str, left: TimeLeft
    ) -> RefundFact:
        """The claim that is there, or a new one."""
        async with self._locks.alone(refund_id):
            try:
                claim = await self._api.claim_named(refund_id, left)
                invoice_id = of.trade_no or of.ref or await self._invoice_of(of.attempt_id, left)
            except (NotSent, Lost) as problem:  # nothing was made
                return self._doubt.refund_not_sent(refund_id, problem)
            except Unclear as problem:
                return self._doubt.refund_unknown(refund_id, problem)
            if claim is not None:
                return await self._read_claim(claim, refund_id, amount, left)
            return await self._create(invoice_id, refund_id, amount, reason, left)

    async def _create(
        self, invoice_id: str, refund_id: str, amount: Money, reason: str, left: TimeLeft
    ) -> RefundFact:
        body = {
            "name": refund_id,
            "description": reason[:_REASON_MAX],
            "payoutMethods": list(self._payout_methods),
            "refundVariant": "Custom",
            "customAmount": amount.format(),
            "customCurrency": amount.currency,
        }
        try:
            answer = await self._api.refund(invoice_id, body, left)
            code = answers.code_of(answer.body)
            if answer.status_code in (401, 403):
                return self._doubt.refund_not_sent(refund_id, f"the server refused: {code}")
            if answer.status_code in (400, 422):
                return RefundFact(
                    refund_id=refund_id,
                    status=RefundChannelStatus.FAILED,
                    reason="REFUND_NOT_ALLOWED",
                    message=f"the server refused: {code}",
                )
            if answer.status_code != OK:
                raise Unclear(f"answered {answer.status_code} {code}".rstrip())  # noqa: TRY301  # as any other
            made = answers.decode(answer.body, answers.PullPayment)
            return answers.read_refund(made, (), refund_id=refund_id, amount=amount)
        except NotSent as problem:
            return self._doubt.refund_not_sent(refund_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    async def query(
        self, refund_id: str, *, amount: Money, refund_no: str, left: TimeLeft
    ) -> RefundFact:
        """The claim with our id as its name, and its payouts."""
        try:
            claim = await self._api.claim_named(refund_id, left)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)
        if claim is None and not refund_no:
            return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
        if claim is None or refund_no not in ("", claim.id):
            return self._doubt.refund_unknown(refund_id, "its claim is not the one that was made")
        return await self._read_claim(claim, refund_id, amount, left)

    async def _read_claim(
        self, claim: PullPayment, refund_id: str, amount: Money, left: TimeLeft
    ) -> RefundFact:
        try:
            payouts = await self._api.payouts_of(claim.id, left)
            return answers.read_refund(claim, payouts, refund_id=refund_id, amount=amount)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    async def _invoice_of(self, attempt_id: str, left: TimeLeft) -> str:
        invoices = await self._api.invoices_of(attempt_id, "", left)
        paid = await self._api.with_payments(invoices, left)
        if not paid:
            raise Unclear("nothing was captured")
        fact = answers.read_attempt(paid, attempt_id=attempt_id, ref="")
        if not fact.trade_no:
            raise Unclear("nothing was captured")
        return fact.trade_no
