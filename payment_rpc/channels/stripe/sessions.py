"""Hosted pages: Checkout Sessions and their PaymentIntents."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.stripe.answers import check_attempt, read_session
from payment_rpc.channels.stripe.api import OK, StripeApi, decode, refusal
from payment_rpc.channels.stripe.intents import Intents, Stopped, created
from payment_rpc.channels.stripe.objects import Session
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.facts import ChannelFact, ChannelStatus

_SESSIONS = "/v1/checkout/sessions"


class Sessions:
    """Opens hosted pages, asks about them, and ends them."""

    def __init__(self, api: StripeApi, intents: Intents) -> None:
        self._api = api
        self._intents = intents

    async def create(
        self, form: Mapping[str, str], *, attempt_id: str, time_left: TimeLeft
    ) -> Session:
        """Opens one.

        Raises:
            Stopped: it is not known to be open.
        """
        answer = await created(
            self._api, _SESSIONS, form, attempt_id=attempt_id, time_left=time_left
        )
        try:
            session = decode(answer.body, Session)
            check_attempt(session.metadata, attempt_id)
        except Unclear as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem)) from None
        return session

    async def get(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> Session:
        """Asks for one.

        Raises:
            Stopped: no answer that can be read.
        """
        try:
            session = await self._api.read(f"{_SESSIONS}/{ref}", kind=Session, time_left=time_left)
            check_attempt(session.metadata, attempt_id)
        except Unclear as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem), ref=ref) from None
        return session

    async def query(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> ChannelFact:
        """What became of the payment of one.

        Raises:
            Stopped: no answer that can be read. Unclear: it cannot be understood.
        """
        session = await self.get(attempt_id, ref, time_left=time_left)
        return await self._read(session, attempt_id, time_left=time_left)

    async def expire(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> ChannelFact:
        """Ends an open one. Any other is asked about: its buyer was faster. Held money is let go.

        Raises:
            Stopped, Unclear: as `query`.
        """
        try:
            answer = await self._api.post(f"{_SESSIONS}/{ref}/expire", {}, time_left=time_left)
        except (NotSent, Lost) as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem), ref=ref) from None
        if answer.status_code not in (OK, 400):
            raise Stopped(ChannelStatus.UNKNOWN, str(refusal(answer)), ref=ref)
        fact = await self.query(attempt_id, ref, time_left=time_left)
        if fact.status is not ChannelStatus.AUTHORIZED:
            return fact
        return await self.void(attempt_id, ref, time_left=time_left)

    async def void(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> ChannelFact:
        """Lets the held money of one go.

        Raises:
            Stopped, Unclear: as `query`.
        """
        session = await self.get(attempt_id, ref, time_left=time_left)
        if session.payment_intent is None:
            return await self._read(session, attempt_id, time_left=time_left)
        intent = await self._intents.cancel(attempt_id, session.payment_intent, time_left=time_left)
        return read_session(session, intent, attempt_id=attempt_id)

    async def _read(self, session: Session, attempt_id: str, *, time_left: TimeLeft) -> ChannelFact:
        intent = None
        if session.payment_intent is not None:
            intent = await self._intents.get(
                attempt_id, session.payment_intent, time_left=time_left
            )
        return read_session(session, intent, attempt_id=attempt_id)
