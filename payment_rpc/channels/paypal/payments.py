"""Calls about orders and authorizations as facts: every way in which one can end."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from mesh.money import Money
from mesh.outbound.connections import Answer, Lost, NotSent
from payment_rpc.channels.doubt import Doubt, Unclear, message_of
from payment_rpc.channels.paypal import answers
from payment_rpc.channels.paypal.amounts import write_amount
from payment_rpc.channels.paypal.answers import NOT_EXECUTED
from payment_rpc.channels.paypal.api import NO_CONTENT, OK, PayPalApi
from payment_rpc.channels.paypal.objects import Capture, Order, decode, issue_of
from payment_rpc.channels.paypal.orders import (
    UNPROCESSABLE,
    fetch_order,
    must_be_done,
    path_of,
    read_order_answer,
    refusal_of,
)
from payment_rpc.channels.requests import Checkout, Remember, is_remembered
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.facts import ChannelFact, ChannelStatus

_TEXT_MAX: Final = 127
_LOCALE: Final = re.compile(r"[a-z]{2}(?:-[A-Z][a-z]{3})?(?:-[A-Z]{2})?")
_DUPLICATE: Final = "DUPLICATE_INVOICE_ID"
_NOT_APPROVED: Final = "ORDER_NOT_APPROVED"


class PayPalPayments:
    """Makes calls and reads their answers."""

    def __init__(self, api: PayPalApi, doubt: Doubt) -> None:
        self._api = api
        self._doubt = doubt

    async def checkout(
        self,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        *,
        remember: Remember,
        capture: bool,
        left: TimeLeft,
    ) -> ChannelFact:
        """Makes an order and has its id committed. A repeated call gives the first order for six
        hours; a second order of the attempt takes no money, because only the committed one is ever
        captured.
        """
        body = _order_body(attempt_id, amount, order, capture=capture)
        try:
            answer = await self._api.call(
                "POST", "/v2/checkout/orders", body, left=left, request_id=attempt_id
            )
            issue = issue_of(answer.body)
            if answer.status_code in NOT_EXECUTED or (
                answer.status_code == UNPROCESSABLE and issue != _DUPLICATE
            ):
                return self._doubt.not_sent(attempt_id, f"PayPal refused: {issue}")
            made = read_order_answer(answer)
            fact = answers.read_order(made, attempt_id=attempt_id)
        except NotSent as problem:
            return self._doubt.not_sent(attempt_id, problem)
        except (Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)
        if not await is_remembered(remember, made.id, attempt_id=attempt_id):
            return self._doubt.unknown(attempt_id, "its order was not remembered", ref=made.id)
        return fact

    async def query(self, attempt_id: str, *, ref: str, left: TimeLeft) -> ChannelFact:
        """What an order says."""
        if not ref:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
        try:
            order = await fetch_order(self._api, ref, left)
            if order is None:
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
            return answers.read_order(order, attempt_id=attempt_id)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem)

    async def advance(self, attempt_id: str, *, ref: str, left: TimeLeft) -> ChannelFact:
        """Captures or authorizes an approved order. The key is the attempt's, so that a repeated
        step is the same step.
        """
        if not ref:
            return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
        try:
            order = await fetch_order(self._api, ref, left)
            if order is None:
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
            before = answers.read_order(order, attempt_id=attempt_id)
            if not before.is_our_turn:
                return before
            step = _STEPS[order.intent]
            answer = await self._api.call(
                "POST",
                f"{path_of(ref)}/{step}",
                {},
                left=left,
                request_id=f"{attempt_id}-{step}",
            )
            return await self._after_step(answer, before, left)
        except KeyError:
            return self._doubt.unknown(attempt_id, "the order has no known intent", ref=ref)
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem, ref=ref)

    async def _after_step(self, answer: Answer, before: ChannelFact, left: TimeLeft) -> ChannelFact:
        attempt_id, ref = before.attempt_id, before.ref
        if answer.status_code == UNPROCESSABLE:
            issue = issue_of(answer.body)
            if issue in answers.DONE_BEFORE:
                return await self.query(attempt_id, ref=ref, left=left)
            if issue == _NOT_APPROVED:
                return replace(before, is_our_turn=False)
            refused = answers.not_charged(
                issue, attempt_id=attempt_id, ref=ref, amount=before.amount
            )
            if refused is not None:
                return refused
        order = read_order_answer(answer, ref=ref)
        fact = answers.read_order(order, attempt_id=attempt_id)
        if fact.is_our_turn:
            raise Unclear("the order waits for what was just done")
        return fact

    async def capture(
        self,
        attempt_id: str,
        *,
        ref: str,
        capture_id: str,
        amount: Money,
        is_final: bool,
        left: TimeLeft,
    ) -> ChannelFact:
        """Takes a part of what an order holds. The fact counts all captures of the order."""
        try:
            order = await self._held_order(ref, left)
            held = order.unit.payments.authorizations[0]
            answer = await self._api.call(
                "POST",
                f"/v2/payments/authorizations/{held.id}/capture",
                {
                    "amount": write_amount(amount),
                    "final_capture": is_final,
                    "invoice_id": capture_id,
                },
                left=left,
                request_id=capture_id,
            )
            if answer.status_code == UNPROCESSABLE:
                issue = issue_of(answer.body)
                if issue not in answers.DONE_BEFORE and issue not in answers.NOT_CHARGED:
                    raise Unclear(f"answered 422 {message_of(issue)}")  # noqa: TRY301  # as any other
                is_refused = issue in answers.NOT_CHARGED
            else:
                must_be_done(answer)
                made = decode(answer.body, Capture)
                if made.amount is None:
                    raise Unclear("the capture has no amount")  # noqa: TRY301  # as any other
                is_refused = answers.CAPTURES.get(made.status) in (
                    ChannelStatus.DECLINED,
                    ChannelStatus.FAILED,
                )
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem, ref=ref)
        fact = await self.query(attempt_id, ref=ref, left=left)
        if fact.status is ChannelStatus.AUTHORIZED and not is_refused:
            return self._doubt.unknown(attempt_id, "its order does not show the capture", ref=ref)
        return fact

    async def void(self, attempt_id: str, *, ref: str, left: TimeLeft) -> ChannelFact:
        """Lets go what an order holds, or says how it ended before."""
        try:
            order = await self._held_order(ref, left)
            before = answers.read_order(order, attempt_id=attempt_id)
            if before.status is not ChannelStatus.AUTHORIZED:
                return before
            held = order.unit.payments.authorizations[0]
            answer = await self._api.call(
                "POST",
                f"/v2/payments/authorizations/{held.id}/void",
                {},
                left=left,
                request_id=f"{attempt_id}-void",
            )
            if answer.status_code not in (OK, NO_CONTENT, UNPROCESSABLE):
                raise Unclear(refusal_of(answer))  # noqa: TRY301  # as any other
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem, ref=ref)
        return await self.query(attempt_id, ref=ref, left=left)

    async def _held_order(self, ref: str, left: TimeLeft) -> Order:
        order = await fetch_order(self._api, ref, left) if ref else None
        if order is None or not order.unit.payments.authorizations:
            raise Unclear("no money is held")
        return order


_STEPS: Final = {"CAPTURE": "capture", "AUTHORIZE": "authorize"}


def _order_body(
    attempt_id: str, amount: Money, order: Checkout, *, capture: bool
) -> dict[str, object]:
    """An order with one unit. PayPal never captures it without us: it has no instruction to."""
    experience = {"user_action": "PAY_NOW", "shipping_preference": "NO_SHIPPING"}
    if order.return_url:
        experience |= {"return_url": order.return_url, "cancel_url": order.return_url}
    if order.merchant_name:
        experience["brand_name"] = order.merchant_name[:_TEXT_MAX]
    if _LOCALE.fullmatch(order.locale):
        experience["locale"] = order.locale
    return {
        "intent": "CAPTURE" if capture else "AUTHORIZE",
        "purchase_units": [
            {
                "reference_id": "default",
                "custom_id": attempt_id,
                "invoice_id": attempt_id,
                "description": order.subject[:_TEXT_MAX],
                "amount": write_amount(amount),
            }
        ],
        "payment_source": {"paypal": {"experience_context": experience}},
    }
