"""Payments: PaymentIntents of our own, and those of hosted pages. Every call raises `Stopped` with
what is known instead of an answer, and `Unclear` for an answer that cannot be understood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from mesh.money import Money
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.requests import Checkout, PaymentToken
from payment_rpc.channels.stripe import forms
from payment_rpc.channels.stripe.answers import (
    check_ref,
    is_ours_to_confirm,
    is_ours_to_end,
    read_intent,
    read_session,
    return_url_of,
)
from payment_rpc.channels.stripe.api import StripeApi
from payment_rpc.channels.stripe.intents import Intents, Stopped
from payment_rpc.channels.stripe.objects import PaymentIntent
from payment_rpc.channels.stripe.sessions import Sessions
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.facts import ChannelFact, ChannelStatus


class Payments:
    """Opens payments and takes their steps."""

    def __init__(
        self, api: StripeApi, *, methods: Sequence[str], now: Callable[[], datetime]
    ) -> None:
        """`methods`: what buyers may pay with; none: what is switched on in the dashboard."""
        self._intents = Intents(api)
        self._sessions = Sessions(api, self._intents)
        self._methods = methods
        self._now = now

    async def create(
        self,
        attempt_id: str,
        amount: Money,
        token: PaymentToken,
        *,
        capture: bool,
        time_left: TimeLeft,
    ) -> PaymentIntent:
        """Creates a payment that we confirm."""
        form = forms.token_form(attempt_id, amount, token, methods=self._methods, capture=capture)
        intent = await self._intents.create(form, attempt_id=attempt_id, time_left=time_left)
        check_ref(intent.id)
        return intent

    async def open(
        self,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        *,
        expires_at: datetime,
        capture: bool,
        time_left: TimeLeft,
    ) -> ChannelFact:
        """Opens what the buyer pays with, in his browser or on a page of Stripe's."""
        if order.method != "hosted":
            form = forms.client_form(
                attempt_id, amount, order, methods=self._methods, capture=capture
            )
            intent = await self._intents.create(form, attempt_id=attempt_id, time_left=time_left)
            return read_intent(intent, attempt_id=attempt_id)
        if not order.return_url:
            raise Stopped(ChannelStatus.NOT_SENT, "a page of Stripe's needs a return_url")
        form = forms.hosted_form(
            attempt_id,
            amount,
            order,
            methods=self._methods,
            capture=capture,
            expires_at=expires_at,
            now=self._now(),
        )
        session = await self._sessions.create(form, attempt_id=attempt_id, time_left=time_left)
        return read_session(session, None, attempt_id=attempt_id)

    async def query(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> ChannelFact:
        """What became of a payment."""
        if _is_session(ref):
            return await self._sessions.query(attempt_id, ref, time_left=time_left)
        intent = await self._intents.get(attempt_id, ref, time_left=time_left)
        return read_intent(intent, attempt_id=attempt_id)

    async def advance(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> ChannelFact:
        """Takes the step that is ours, if one is. None is on a hosted page."""
        if _is_session(ref):
            return await self._sessions.query(attempt_id, ref, time_left=time_left)
        intent = await self._intents.get(attempt_id, ref, time_left=time_left)
        return await self.take_turn(attempt_id, intent, time_left=time_left)

    async def take_turn(
        self, attempt_id: str, intent: PaymentIntent, *, time_left: TimeLeft
    ) -> ChannelFact:
        """Confirms what nobody confirmed yet, and cancels what was declined."""
        if is_ours_to_confirm(intent):
            intent = await self._intents.confirm(
                attempt_id, intent.id, return_url=return_url_of(intent), time_left=time_left
            )
        fact = read_intent(intent, attempt_id=attempt_id)
        if not is_ours_to_end(intent):
            return fact
        try:
            intent = await self._intents.cancel(attempt_id, intent.id, time_left=time_left)
            return read_intent(intent, attempt_id=attempt_id)
        except (Stopped, Unclear):
            return fact  # PENDING, and still our turn

    async def close(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> ChannelFact:
        """Ends a payment that has not moved money, and lets held money go."""
        if _is_session(ref):
            return await self._sessions.expire(attempt_id, ref, time_left=time_left)
        intent = await self._intents.cancel(attempt_id, ref, time_left=time_left)
        return read_intent(intent, attempt_id=attempt_id)

    async def capture(
        self,
        attempt_id: str,
        ref: str,
        form: Mapping[str, str],
        *,
        key: str,
        time_left: TimeLeft,
    ) -> ChannelFact:
        """Takes held money."""
        intent_id = await self.intent_of(attempt_id, ref, time_left=time_left)
        intent = await self._intents.capture(
            attempt_id, intent_id, form, key=key, time_left=time_left
        )
        return read_intent(intent, attempt_id=attempt_id)

    async def intent_of(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> str:
        """The PaymentIntent of a payment."""
        found: str | None = ref
        if _is_session(ref):
            found = (await self._sessions.get(attempt_id, ref, time_left=time_left)).payment_intent
        if not found:
            raise Stopped(ChannelStatus.UNKNOWN, "it has no payment at Stripe", ref=ref)
        return found


def _is_session(ref: str) -> bool:
    return ref.startswith("cs_")
