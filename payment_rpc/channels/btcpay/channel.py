"""A store at a BTCPay Server as a channel. The server has no idempotency keys, so what exists is
looked for before anything is made, one caller at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from math import ceil
from typing import Final

from mesh.errors import InvalidArgument
from mesh.money import CURRENCIES, Money
from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.absent import ChargesNothing, HoldsNothing, KeysConfigured
from payment_rpc.channels.btcpay import answers, events, signatures
from payment_rpc.channels.btcpay.answers import Invoice
from payment_rpc.channels.btcpay.api import OK, BTCPayApi
from payment_rpc.channels.btcpay.credentials import Credentials
from payment_rpc.channels.btcpay.locks import Locks
from payment_rpc.channels.btcpay.refunds import BTCPayRefunds
from payment_rpc.channels.capabilities import Capabilities, Close, Instrument, Limits
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.requests import (
    CapturedAttempt,
    Checkout,
    Remember,
    is_remembered,
)
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.domain.statement import Entry, StatementUnreadable

_SUBJECT_MAX: Final = 500
_METHODS: Final = frozenset({"", "page", "qr"})


def open_channel(
    *,
    account: str,
    credentials: Credentials,
    is_live: bool,  # noqa: ARG001  # of the common form; a server is of one network
    notify_url: str,  # noqa: ARG001  # of the common form; the store's webhook has it
    base_url: str | None,
    now: Callable[[], datetime],
) -> BTCPayChannel:
    """Opens an account; must be called in a running loop.

    Args:
        is_live, notify_url: not used: the server is of one network, and its webhook says where
            notices go.
        base_url: of the server; None: the credentials have it.

    Raises:
        InvalidArgument: nobody says where the server is.
    """
    url = base_url or credentials.server_url
    if not url:
        raise InvalidArgument.of("server_url", "is required")
    return BTCPayChannel(account=account, credentials=credentials, base_url=url, now=now)


class BTCPayChannel(ChargesNothing, HoldsNothing, KeysConfigured):
    """The adapter. It keeps connections open until `aclose`."""

    def __init__(
        self,
        *,
        account: str,
        credentials: Credentials,
        base_url: str,
        now: Callable[[], datetime],
    ) -> None:
        self._account = account
        self._credentials = credentials
        self._now = now
        self._doubt = Doubt(account)
        self._api = BTCPayApi(credentials, base_url=base_url)
        self._locks = Locks()
        self._refunds = BTCPayRefunds(self._api, self._doubt, credentials)
        self._capabilities = Capabilities(
            instruments=frozenset({Instrument.REDIRECT, Instrument.QR}),
            currencies={code: Limits() for code in credentials.currencies or CURRENCIES},
            close=Close.NEVER,
            expires=(timedelta(minutes=1), timedelta(days=1)),
            # what came in the last minute may need a day for its confirmations
            watch=timedelta(minutes=credentials.monitoring_minutes, days=1),
        )

    @property
    def name(self) -> str:
        """The account, as in `channel` of a payment."""
        return self._account

    @property
    def provider(self) -> str:
        """Whose account it is."""
        return "btcpay"

    @property
    def capabilities(self) -> Capabilities:
        """Currencies are the store's."""
        return self._capabilities

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
        """An invoice, the one that the attempt has or a new one: REDIRECT_URL to its page, or with
        "qr" the QR_CODE for a wallet.
        """
        if not capture:
            raise ValueError("a BTCPay Server holds no money")  # its capabilities say so
        if order.method not in _METHODS:
            return self._doubt.not_sent(attempt_id, "the channel has no such way to pay")
        left = TimeLeft(timeout_seconds)
        async with self._locks.alone(attempt_id):
            try:
                before = await self._api.invoices_of(attempt_id, "", left)
            except (NotSent, Lost, Unclear) as problem:  # nothing was made
                return self._doubt.not_sent(attempt_id, problem)
            try:
                if before:
                    opened = _usable(before, amount)
                else:
                    made = await self._create(attempt_id, amount, order, expires_at, left)
                    if isinstance(made, ChannelFact):
                        return made
                    opened = made
                action = (
                    answers.code_to_scan(await self._api.methods_of(opened.id, left))
                    if order.method == "qr"
                    else answers.page_of(opened)
                )
            except NotSent as problem:
                return self._doubt.not_sent(attempt_id, problem)
            except (Lost, Unclear) as problem:
                return self._doubt.unknown(attempt_id, problem)
        if not await is_remembered(remember, opened.id, attempt_id=attempt_id):
            return self._doubt.unknown(attempt_id, "its invoice was not remembered", ref=opened.id)
        return ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.PENDING,
            amount=amount,
            next_action=action,
            ref=opened.id,
        )

    async def _create(
        self,
        attempt_id: str,
        amount: Money,
        order: Checkout,
        expires_at: datetime,
        left: TimeLeft,
    ) -> Invoice | ChannelFact:
        """A new invoice, or why there is none."""
        credentials = self._credentials
        minutes = ceil((expires_at - self._now()).total_seconds() / 60)
        checkout: dict[str, object] = {
            "speedPolicy": credentials.speed_policy,
            "expirationMinutes": max(minutes, 1),
            "monitoringMinutes": credentials.monitoring_minutes,
            "paymentTolerance": 0,  # less than was due is not what was due
        }
        if order.return_url:
            checkout["redirectURL"] = order.return_url
        body = {
            "amount": amount.format(),
            "currency": amount.currency,
            "metadata": {"orderId": attempt_id, "itemDesc": order.subject[:_SUBJECT_MAX]},
            "checkout": checkout,
        }
        answer = await self._api.create(body, left)
        code = answers.code_of(answer.body)
        if (answer.status_code, code) == answers.UNAVAILABLE:
            return ChannelFact(
                attempt_id=attempt_id,
                status=ChannelStatus.FAILED,
                amount=amount,
                reason="CHANNEL_FAILED",
                message="the server cannot make an invoice now",
            )
        if answer.status_code in answers.REFUSED:
            return self._doubt.not_sent(
                attempt_id, f"the server refused: {answer.status_code} {code}"
            )
        if answer.status_code != OK:
            raise Unclear(f"answered {answer.status_code} {code}".rstrip())
        invoice = answers.decode(answer.body, Invoice)
        if invoice.attempt_id != attempt_id or invoice.money() != amount:
            raise Unclear("the invoice is another one")
        return invoice

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """No step of an attempt is ours."""
        return await self.query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What was paid and confirmed to all invoices of an attempt."""
        left = TimeLeft(timeout_seconds)
        try:
            invoices = await self._api.invoices_of(attempt_id, ref, left)
            if not invoices:
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
            return answers.read_attempt(
                await self._api.with_payments(invoices, left),
                attempt_id=attempt_id,
                ref=ref or invoices[0].id,
            )
        except (NotSent, Lost, Unclear) as problem:
            return self._doubt.unknown(attempt_id, problem, ref=ref)

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """NOT_CLOSABLE, unless it was paid: coins may come to its address for ever."""
        fact = await self.query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)
        if fact.status in (ChannelStatus.PENDING, ChannelStatus.NOT_FOUND):
            return ChannelFact(
                attempt_id=attempt_id, status=ChannelStatus.NOT_CLOSABLE, ref=fact.ref
            )
        return fact

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        """A claim link, whose name is our id. PENDING until the buyer claimed all of it and the
        coins left, which may be never.
        """
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
        """The claim with our id as its name, and its payouts."""
        return await self._refunds.query(
            refund_id, amount=amount, refund_no=refund_no, left=TimeLeft(timeout_seconds)
        )

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads a notice."""
        signatures.check(
            self._credentials.webhook_secrets,
            body=inbound.body,
            signature=inbound.headers.get(signatures.HEADER, ""),
        )
        return events.read(inbound.body, store_id=self._credentials.store_id)

    def subject_of(self, inbound: Inbound) -> Subject:
        """The ids in a notice."""
        return events.subject_of(inbound.body)

    def ack(self, *, accepted: bool) -> Ack:
        """The server repeats a notice only after 5xx; any other refusal ends it for ever."""
        return Ack(status_code=200 if accepted else 503)

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """Never: its capabilities say so."""
        raise ChannelUnavailable("a BTCPay Server has no statements")

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Never: its capabilities say so."""
        raise StatementUnreadable("a BTCPay Server has no statements")

    async def check(self, *, timeout_seconds: float) -> str:
        """Asks for the store."""
        try:
            answer = await self._api.store(TimeLeft(timeout_seconds))
        except (NotSent, Lost) as problem:
            return f"the server cannot be reached: {problem}"
        match answer.status_code:
            case 200:
                return ""
            case 401 | 403:
                return "api_key is wrong, or has no rights at this store"
            case 404:
                return "store_id: the server has no such store"
            case status:
                return f"the server answered {status}"


def _usable(invoices: list[Invoice], amount: Money) -> Invoice:
    """The oldest invoice that can still be paid.

    Raises:
        Unclear: there is none, or it is of another amount.
    """
    for invoice in invoices:
        if (invoice.status, invoice.additional_status) == answers.OPEN:
            if invoice.money() != amount:
                raise Unclear("the attempt has an invoice of another amount")
            return invoice
    raise Unclear("the attempt's invoice cannot be paid any more, or was paid")
