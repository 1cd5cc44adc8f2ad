"""A PayPal application as a channel. Money moves by our call after the buyer approved; the core
takes that step once at a time, and never after it promised not to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from mesh.money import Money
from mesh.outbound.connections import Connections, Lost, NotSent
from mesh.settings import is_loopback
from payment_rpc.channels.absent import ChargesNothing
from payment_rpc.channels.capabilities import (
    Capabilities,
    Close,
    FeeKnown,
    Instrument,
    StatementKind,
)
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.paypal import events, signatures, statements
from payment_rpc.channels.paypal.amounts import CURRENCIES
from payment_rpc.channels.paypal.api import LIVE_URL, SANDBOX_URL, PayPalApi, TokenRefused
from payment_rpc.channels.paypal.credentials import Credentials
from payment_rpc.channels.paypal.payments import PayPalPayments
from payment_rpc.channels.paypal.refunds import PayPalRefunds
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.requests import (
    CapturedAttempt,
    Checkout,
    Remember,
)
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.domain.statement import Entry

CAPABILITIES: Final = Capabilities(
    instruments=frozenset({Instrument.REDIRECT}),
    currencies=CURRENCIES,
    close=Close.PROMISE,
    authorize=True,
    refund_window=timedelta(days=180),
    # an order must be approved within six hours after it was made
    expires=(timedelta(minutes=1), timedelta(hours=6)),
    resend_window=timedelta(hours=6),
    ask_by_own_id=False,
    statement=StatementKind.TRADES,
    statement_ready=statements.READY,
    fee_known=FeeKnown.AT_CAPTURE,
)


def open_channel(
    *,
    account: str,
    credentials: Credentials,
    is_live: bool,
    notify_url: str,  # noqa: ARG001  # of the common form; PayPal's dashboard has it
    base_url: str | None,
    now: Callable[[], datetime],
) -> PayPalChannel:
    """Opens an account; must be called in a running loop.

    Args:
        notify_url: not used: PayPal's dashboard says where notices go.
        base_url: of the API; None for PayPal's own of the mode. One on this machine is a simulator
            and vouches for its own certificates, never in live mode.
    """
    simulator = ""
    if base_url is not None and not is_live:
        url = urlsplit(base_url)
        simulator = f"{url.scheme}://{url.netloc}" if is_loopback(url.hostname or "") else ""
    certificates = signatures.Certificates(
        hosts=signatures.LIVE_HOSTS if is_live else signatures.SANDBOX_HOSTS,
        roots=None,
        simulator=simulator,
    )
    return PayPalChannel(
        account=account,
        credentials=credentials,
        base_url=base_url or (LIVE_URL if is_live else SANDBOX_URL),
        certificates=certificates,
        now=now,
    )


class PayPalChannel(ChargesNothing):
    """The adapter. It keeps connections open until `aclose`."""

    def __init__(
        self,
        *,
        account: str,
        credentials: Credentials,
        base_url: str,
        certificates: signatures.Certificates,
        now: Callable[[], datetime],
    ) -> None:
        self._account = account
        self._credentials = credentials
        self._certificates = certificates
        self._now = now
        self._doubt = Doubt(account)
        self._api = PayPalApi(credentials, base_url=base_url)
        self._payments = PayPalPayments(self._api, self._doubt)
        self._refunds = PayPalRefunds(self._api, self._doubt)

    @property
    def name(self) -> str:
        """The account, as in `channel` of a payment."""
        return self._account

    @property
    def provider(self) -> str:
        """Whose account it is."""
        return "paypal"

    @property
    def capabilities(self) -> Capabilities:
        """The same for all accounts."""
        return CAPABILITIES

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._api.aclose()

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
        """Makes an order; the fact is PENDING with REDIRECT_URL. PayPal takes no deadline: an order
        that nobody approves ends after six hours.
        """
        return await self._payments.checkout(
            attempt_id,
            amount,
            order,
            remember=remember,
            capture=capture,
            left=TimeLeft(timeout_seconds),
        )

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Captures, or authorizes, what the buyer approved."""
        return await self._payments.advance(attempt_id, ref=ref, left=TimeLeft(timeout_seconds))

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What became of an attempt. PayPal cannot be asked by our own id."""
        return await self._payments.query(attempt_id, ref=ref, left=TimeLeft(timeout_seconds))

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """How an attempt ended, or NOT_CLOSABLE: PayPal has no call that ends an order, and the
        promise not to capture it is the core's.
        """
        fact = await self.query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)
        if fact.status is ChannelStatus.PENDING:
            return ChannelFact(
                attempt_id=attempt_id, status=ChannelStatus.NOT_CLOSABLE, ref=fact.ref
            )
        return fact

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
        """Takes held money."""
        return await self._payments.capture(
            attempt_id,
            ref=ref,
            capture_id=capture_id,
            amount=amount,
            is_final=is_final,
            left=TimeLeft(timeout_seconds),
        )

    async def void(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """Lets held money go."""
        return await self._payments.void(attempt_id, ref=ref, left=TimeLeft(timeout_seconds))

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        """Gives back a part of a capture, once per refund id for 45 days."""
        return await self._refunds.refund(
            refund_id, of=of, amount=amount, reason=reason, left=TimeLeft(timeout_seconds)
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
        """What became of a refund: by PayPal's id, else it is looked for in its order."""
        return await self._refunds.query(
            refund_id, of=of, amount=amount, refund_no=refund_no, left=TimeLeft(timeout_seconds)
        )

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads a notice."""
        signatures.check(
            inbound, self._certificates, webhook_ids=self._credentials.webhook_ids, now=now
        )
        return events.read(
            inbound.body, merchant_id=self._credentials.merchant_id, doubt=self._doubt
        )

    def subject_of(self, inbound: Inbound) -> Subject:
        """The ids in a notice."""
        return events.subject_of(inbound.body)

    def ack(self, *, accepted: bool) -> Ack:
        """PayPal repeats a notice for three days unless it is answered with 2xx."""
        return Ack(status_code=200 if accepted else 400)

    async def learn_key(self, url: str, *, timeout_seconds: float) -> None:
        """Fetches a certificate."""
        origin = self._certificates.origin_of(url)
        connections = Connections(
            origin, headers={"accept-encoding": "identity"}, heard=PROVIDER_CLOCKS.heard
        )
        try:
            answer = await connections.exchange(
                "GET", url.removeprefix(origin), body=None, timeout_seconds=timeout_seconds
            )
        except (NotSent, Lost) as problem:
            raise ChannelUnavailable(f"no certificate: {problem}") from None
        finally:
            await connections.aclose()
        if answer.status_code != 200:
            raise ChannelUnavailable(f"no certificate: answered {answer.status_code}")
        self._certificates.learn(url, answer.body, now=self._now())

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """The pages of a day."""
        try:
            return await statements.fetch(
                self._api, date, until=until, left=TimeLeft(timeout_seconds)
            )
        except (NotSent, Lost, Unclear) as problem:
            raise ChannelUnavailable(f"no statement: {problem}") from None

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Reads the pages."""
        return statements.parse(content)

    async def check(self, *, timeout_seconds: float) -> str:
        """Fetches an access token and asks for an order that nobody made."""
        left = TimeLeft(timeout_seconds)
        try:
            answer = await self._api.call("GET", "/v2/checkout/orders/CHECK", left=left)
        except TokenRefused as problem:
            return f"client_id or client_secret is wrong, or of the other mode: {problem}"
        except (NotSent, Lost) as problem:
            return f"PayPal cannot be reached: {problem}"
        if answer.status_code in (400, 404, 422):
            return ""
        return f"PayPal answered {answer.status_code} where it knows no order"
