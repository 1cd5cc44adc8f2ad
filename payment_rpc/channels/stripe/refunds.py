"""Calls about refunds. Stripe cannot be asked by our id: the refunds of a payment are listed, and
ours is the one that carries our id. The list shows every refund that was made before.
"""

from __future__ import annotations

from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.doubt import Doubt, Unclear, message_of
from payment_rpc.channels.stripe.amounts import to_stripe
from payment_rpc.channels.stripe.answers import ATTEMPT, REFUND, read_refund
from payment_rpc.channels.stripe.api import (
    OK,
    Refused,
    StripeApi,
    decode,
    is_repeated,
    refusal,
)
from payment_rpc.channels.stripe.intents import NOT_EXECUTED
from payment_rpc.channels.stripe.objects import Refund, RefundList
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

_REASON_MAX = 500  # of a value of metadata
_PAGES_MAX = 50

_REASONS = {
    "charge_already_refunded": "REFUND_EXCEEDS_REFUNDABLE",
    "amount_too_large": "REFUND_EXCEEDS_REFUNDABLE",
    "charge_disputed": "REFUND_NOT_ALLOWED",
    "charge_not_refundable": "REFUND_NOT_ALLOWED",
}


class Refunds:
    """Gives money back."""

    def __init__(self, api: StripeApi, doubt: Doubt) -> None:
        self._api = api
        self._doubt = doubt

    async def refund(
        self,
        intent: str,
        *,
        refund_id: str,
        attempt_id: str,
        amount: Money,
        reason: str,
        time_left: TimeLeft,
    ) -> RefundFact:
        """Asks for a refund. A refusal may come from a first call that got through, so the list
        decides. The `reason` goes to the metadata: Stripe's own field takes three words only.
        """
        form = {
            "payment_intent": intent,
            "amount": str(to_stripe(amount)),
            f"metadata[{REFUND}]": refund_id,
            f"metadata[{ATTEMPT}]": attempt_id,
        }
        if reason:
            form["metadata[reason]"] = message_of(reason)[:_REASON_MAX]
        try:
            answer = await self._api.post(
                "/v1/refunds", form, key=f"{refund_id}-refund", time_left=time_left
            )
        except NotSent as problem:
            return self._doubt.refund_not_sent(refund_id, problem)
        except Lost as problem:
            return self._doubt.refund_unknown(refund_id, problem)
        if answer.status_code == OK and not is_repeated(answer):
            try:
                return read_refund(decode(answer.body, Refund), refund_id=refund_id, amount=amount)
            except Unclear as problem:
                return self._doubt.refund_unknown(refund_id, problem)
        refused = refusal(answer)
        if refused.status_code in NOT_EXECUTED:
            return self._doubt.refund_not_sent(refund_id, refused)
        if refused.status_code >= 500 and not is_repeated(answer):  # it may still be at it
            return self._doubt.refund_unknown(refund_id, refused)
        listed = await self.find(intent, refund_id=refund_id, amount=amount, time_left=time_left)
        if listed.status is not RefundChannelStatus.NOT_FOUND:
            return listed
        if not _is_final(refused):
            return self._doubt.refund_unknown(refund_id, refused)
        return RefundFact(
            refund_id=refund_id,
            status=RefundChannelStatus.FAILED,
            reason=_REASONS.get(refused.error.code or "", "REFUND_FAILED"),
            message=message_of(refused.error.message or ""),
        )

    async def get(
        self, refund_no: str, *, refund_id: str, amount: Money, time_left: TimeLeft
    ) -> RefundFact:
        """What became of a refund whose id at Stripe is known."""
        try:
            found = await self._api.read(
                f"/v1/refunds/{refund_no}", kind=Refund, time_left=time_left
            )
            return read_refund(found, refund_id=refund_id, amount=amount)
        except Unclear as problem:
            return self._doubt.refund_unknown(refund_id, problem)

    async def find(
        self, intent: str, *, refund_id: str, amount: Money, time_left: TimeLeft
    ) -> RefundFact:
        """What became of the refund that carries our id; NOT_FOUND when the payment has none."""
        after = ""
        try:
            for _page in range(_PAGES_MAX):
                query = [("payment_intent", intent), ("limit", "100")]
                if after:
                    query.append(("starting_after", after))
                page = await self._api.read(
                    "/v1/refunds", query, kind=RefundList, time_left=time_left
                )
                for refund in page.data:
                    if refund.metadata.get(REFUND) == refund_id:
                        return read_refund(refund, refund_id=refund_id, amount=amount)
                if not page.has_more:
                    return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
                if not page.data:
                    break
                after = page.data[-1].id
        except Unclear as problem:
            return self._doubt.refund_unknown(refund_id, problem)
        return self._doubt.refund_unknown(refund_id, "the list of refunds has no end")


def _is_final(refused: Refused) -> bool:
    """Stripe looked at the request and made no refund by it."""
    return refused.status_code in (400, 402, 404) and refused.error.type in (
        "invalid_request_error",
        "card_error",
    )
