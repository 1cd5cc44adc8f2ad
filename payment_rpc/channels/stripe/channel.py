"""The channel to one account at Stripe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from mesh.problem_texts import WRONG_FORM
from payment_rpc.channels.absent import KeysConfigured
from payment_rpc.channels.capabilities import (
    UTC_DAY,
    Capabilities,
    Close,
    FeeKnown,
    Instrument,
    StatementKind,
)
from payment_rpc.channels.doubt import Doubt, Unclear, message_of
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.requests import (
    CapturedAttempt,
    CardDetails,
    Checkout,
    PaymentToken,
    Remember,
    is_remembered,
)
from payment_rpc.channels.stripe import events, statements
from payment_rpc.channels.stripe.amounts import CURRENCIES, to_stripe
from payment_rpc.channels.stripe.api import LIVE_URL, StripeApi, refusal
from payment_rpc.channels.stripe.credentials import Credentials
from payment_rpc.channels.stripe.intents import Stopped
from payment_rpc.channels.stripe.payments import Payments
from payment_rpc.channels.stripe.refunds import Refunds
from payment_rpc.channels.stripe.signatures import WebhookSecrets
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.domain.statement import Entry

# Stripe keeps idempotency keys for a day at least
_RESEND_WINDOW = timedelta(hours=23)
_STATEMENT_READY = timedelta(hours=12)
_NOT_COMMITTED = "its id was not committed"


def open_channel(
    *,
    account: str,
    credentials: Credentials,
    is_live: bool,
    notify_url: str,  # noqa: ARG001  # Stripe's dashboard has the address of the webhook
    base_url: str | None,
    now: Callable[[], datetime],
) -> StripeChannel:
    """The channel of an account.

    Raises:
        InvalidArgument: the key is of the other mode.
    """
    if credentials.is_live is not is_live:
        raise InvalidArgument.of("secret_key", WRONG_FORM)
    return StripeChannel(account, credentials, base_url or LIVE_URL, is_live=is_live, now=now)


class StripeChannel(KeysConfigured):
    """Takes payments at Stripe."""

    def __init__(
        self,
        account: str,
        credentials: Credentials,
        base_url: str,
        *,
        is_live: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._account = account
        self._is_live = is_live
        self._account_id = credentials.account_id
        self._webhook_secrets = WebhookSecrets(credentials.webhook_secrets)
        self._api = StripeApi(base_url, secret_key=credentials.secret_key)
        self._payments = Payments(self._api, methods=credentials.payment_method_types, now=now)
        self._doubt = Doubt(account)
        self._refunds = Refunds(self._api, self._doubt)
        self._capabilities = Capabilities(
            instruments=frozenset(
                {Instrument.TOKEN, Instrument.CLIENT_SECRET, Instrument.REDIRECT}
            ),
            currencies=CURRENCIES,
            close=Close.KNOWN,
            authorize=True,
            multiple_captures=credentials.multicapture,
            resend_window=_RESEND_WINDOW,
            ask_by_own_id=False,
            statement=StatementKind.LEDGER,
            statement_day=UTC_DAY,
            statement_ready=_STATEMENT_READY,
            # an answer tells the fee, an event does not: the statement has what is missing
            fee_known=FeeKnown.STATEMENT,
        )

    @property
    def name(self) -> str:
        """The account."""
        return self._account

    @property
    def provider(self) -> str:
        """Stripe."""
        return "stripe"

    @property
    def capabilities(self) -> Capabilities:
        """What every account can do, and several captures where it may."""
        return self._capabilities

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._api.aclose()

    async def charge(
        self,
        *,
        attempt_id: str,
        amount: Money,
        instrument: CardDetails | PaymentToken,
        expires_at: datetime | None,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        """Creates a PaymentIntent, has its id committed, and confirms it. A declined one is
        cancelled, which makes the refusal final. It has no end of its own: the core closes it.
        """
        if not isinstance(instrument, PaymentToken):
            raise TypeError("Stripe takes tokens, never card numbers")  # its capabilities say so
        time_left = TimeLeft(timeout_seconds)

        async def steps() -> ChannelFact:
            intent = await self._payments.create(
                attempt_id, amount, instrument, capture=capture, time_left=time_left
            )
            if not await is_remembered(remember, intent.id, attempt_id=attempt_id):
                return self._doubt.unknown(attempt_id, _NOT_COMMITTED, ref=intent.id)
            turn = self._payments.take_turn(attempt_id, intent, time_left=time_left)
            return await self._fact(attempt_id, intent.id, turn, not_sent=ChannelStatus.NOT_SENT)

        return await self._fact(attempt_id, "", steps(), not_sent=ChannelStatus.NOT_SENT)

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        expires_at: datetime,
        remember: Remember,
        timeout_seconds: float,
        capture: bool = True,
    ) -> ChannelFact:
        """Creates a PaymentIntent that the buyer's browser confirms: PENDING with CLIENT_SECRET.
        With `method` "hosted" it opens a page of Stripe's instead: REDIRECT_URL.
        """
        fact = await self._fact(
            attempt_id,
            "",
            self._payments.open(
                attempt_id,
                amount,
                order,
                expires_at=expires_at,
                capture=capture,
                time_left=TimeLeft(timeout_seconds),
            ),
            not_sent=ChannelStatus.NOT_SENT,
        )
        if fact.status is not ChannelStatus.PENDING:
            return fact
        if not await is_remembered(remember, fact.ref, attempt_id=attempt_id):
            return self._doubt.unknown(attempt_id, _NOT_COMMITTED, ref=fact.ref)
        return fact

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Confirms a charge of ours that was created and not confirmed, and cancels one that was
        declined. Anything else is the buyer's turn.
        """
        if not ref:
            return _not_found(attempt_id)
        call = self._payments.advance(attempt_id, ref, time_left=TimeLeft(timeout_seconds))
        return await self._fact(attempt_id, ref, call)

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What became of an attempt. Stripe cannot be asked by our id: NOT_FOUND without `ref`."""
        if not ref:
            return _not_found(attempt_id)
        call = self._payments.query(attempt_id, ref, time_left=TimeLeft(timeout_seconds))
        return await self._fact(attempt_id, ref, call)

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """Cancels what is not paid yet. PENDING where the bank is still at it: Stripe cancels no
        debit that is under way. NOT_FOUND without `ref`: then nobody can pay it.
        """
        if not ref:
            return _not_found(attempt_id)
        call = self._payments.close(attempt_id, ref, time_left=TimeLeft(timeout_seconds))
        return await self._fact(attempt_id, ref, call)

    async def capture(
        self,
        attempt_id: str,
        *,
        ref: str,
        capture_id: str,
        amount: Money,
        is_final: bool,
        timeout_seconds: float,
    ) -> ChannelFact:
        """Takes held money. A refusal answers with how the attempt is: still AUTHORIZED, or
        CAPTURED with what another call took.
        """
        if not is_final and not self._capabilities.multiple_captures:
            raise ValueError("Stripe takes one capture of this account")  # its capabilities say so
        form = {"amount_to_capture": str(to_stripe(amount))}
        if self._capabilities.multiple_captures:
            form["final_capture"] = "true" if is_final else "false"
        call = self._payments.capture(
            attempt_id, ref, form, key=capture_id, time_left=TimeLeft(timeout_seconds)
        )
        return await self._fact(attempt_id, ref, call)

    async def void(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Cancels, as `close` does: Stripe has one call for both."""
        return await self.close(attempt_id, ref=ref, timeout_seconds=timeout_seconds)

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        """Gives back a part of a capture. Stripe keeps its fee."""
        time_left = TimeLeft(timeout_seconds)
        try:
            intent = of.trade_no or await self._payments.intent_of(
                of.attempt_id, of.ref, time_left=time_left
            )
        except Stopped as stopped:
            return self._doubt.refund_not_sent(refund_id, stopped)
        return await self._refunds.refund(
            intent,
            refund_id=refund_id,
            attempt_id=of.attempt_id,
            amount=amount,
            reason=reason,
            time_left=time_left,
        )

    async def query_refund(
        self,
        refund_id: str,
        *,
        of: CapturedAttempt,
        amount: Money,
        timeout_seconds: float,
        refund_no: str = "",
    ) -> RefundFact:
        """What became of a refund: by Stripe's id of it, or by ours in the list of its payment."""
        time_left = TimeLeft(timeout_seconds)
        if refund_no:
            return await self._refunds.get(
                refund_no, refund_id=refund_id, amount=amount, time_left=time_left
            )
        try:
            intent = of.trade_no or await self._payments.intent_of(
                of.attempt_id, of.ref, time_left=time_left
            )
        except Stopped as stopped:
            return self._doubt.refund_unknown(refund_id, stopped)
        return await self._refunds.find(
            intent, refund_id=refund_id, amount=amount, time_left=time_left
        )

    def subject_of(self, inbound: Inbound) -> Subject:
        """The ids in an event."""
        return events.read_subject(inbound.body)

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads an event after checking its HMAC, its mode and its account."""
        self._webhook_secrets.check(
            header=inbound.headers.get("stripe-signature", ""),
            body=inbound.body,
            now=now,
        )
        return events.read_event(inbound.body, is_live=self._is_live, account_id=self._account_id)

    def ack(self, *, accepted: bool) -> Ack:
        """Stripe takes any 2xx, and delivers again for three days otherwise."""
        return Ack(status_code=200 if accepted else 400)

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """The rows of the account's balance of a day."""
        return await statements.download(self._api, date, time_left=TimeLeft(timeout_seconds))

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Reads them."""
        return statements.parse(content)

    async def check(self, *, timeout_seconds: float) -> str:
        """Lists one payment."""
        try:
            answer = await self._api.get(
                "/v1/payment_intents", [("limit", "1")], time_left=TimeLeft(timeout_seconds)
            )
        except (NotSent, Lost) as problem:
            return f"Stripe cannot be reached: {problem}"
        match answer.status_code:
            case 200:
                return ""
            case 401:
                return "Stripe does not know the secret key"
            case 403:
                return "the secret key may not read payments"
            case _:
                return f"Stripe {refusal(answer)}"

    async def _fact(
        self,
        attempt_id: str,
        ref: str,
        call: Awaitable[ChannelFact],
        *,
        not_sent: ChannelStatus = ChannelStatus.UNKNOWN,
    ) -> ChannelFact:
        """What a call says, or what is known without its answer."""
        try:
            return await call
        except Stopped as stopped:
            status = not_sent if stopped.status is ChannelStatus.NOT_SENT else stopped.status
            ref, problem = stopped.ref or ref, str(stopped)
        except Unclear as unclear:
            status, problem = ChannelStatus.UNKNOWN, str(unclear)
        match status:
            case ChannelStatus.NOT_SENT:
                return replace(self._doubt.not_sent(attempt_id, problem), ref=ref)
            case ChannelStatus.FAILED:
                return ChannelFact(
                    attempt_id=attempt_id,
                    status=status,
                    reason="CHANNEL_FAILED",
                    message=message_of(problem),
                    ref=ref,
                )
            case _:
                return self._doubt.unknown(attempt_id, problem, ref=ref)


def _not_found(attempt_id: str) -> ChannelFact:
    return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
