"""The sandbox as a channel. Every way in which a call can end becomes a fact; an answer that cannot
be read is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from urllib.parse import quote

import msgspec

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.outbound.connections import CONNECTIONS_MAX, Connections, Lost, NotSent
from payment_rpc.channels import CapturesPage, RefundsPage
from payment_rpc.channels.absent import HoldsNothing, KeysConfigured
from payment_rpc.channels.capabilities import (
    Capabilities,
    Close,
    FeeKnown,
    Instrument,
    StatementKind,
)
from payment_rpc.channels.china import CHINA_DAY
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.inbound import Ack, Inbound, Received
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.requests import (
    CapturedAttempt,
    CardDetails,
    Checkout,
    PaymentToken,
    Remember,
)
from payment_rpc.channels.sandbox import answers, signatures
from payment_rpc.channels.sandbox.api import SandboxApi
from payment_rpc.channels.sandbox.calls import SandboxFacts
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundFact
from payment_rpc.domain.statement import ChannelDay, Entry, parse_statement

PUBLISHED_MD5_SECRET = "ymall-payment-secret-key-2024"  # noqa: S105  # source 001 prints it in its README

TIMESTAMP_HEADER = "x-channel-timestamp"
SIGNATURE_HEADER = "x-channel-signature"


class SandboxChannel(HoldsNothing, KeysConfigured):
    """The adapter to sandbox/. One per process: it keeps connections open until `aclose`."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        callback_secret: str,
        md5_secret: str = PUBLISHED_MD5_SECRET,
        other_callback_secrets: Sequence[str] = (),
        other_md5_secrets: Sequence[str] = (),
        connections_max: int = CONNECTIONS_MAX,
        statement_day: ChannelDay = CHINA_DAY,
    ) -> None:
        """
        Args:
            base_url: from configuration only.
            callback_secret: HMAC key of callbacks.
            md5_secret: of source 001's rule.
            other_callback_secrets, other_md5_secrets: accepted too, while a secret is rotated.
            connections_max: calls in flight; more wait for at most 2 s.
            statement_day: how it counts the days of its statements.
        """
        self._capabilities = Capabilities(
            instruments=frozenset({Instrument.CARD, Instrument.REDIRECT}),
            currencies=None,
            close=Close.TOMBSTONE,
            lists_days=True,
            statement=StatementKind.TRADES,
            statement_day=statement_day,
            fee_known=FeeKnown.AT_CAPTURE,
        )
        self._callback_secrets = [
            secret.encode() for secret in (callback_secret, *other_callback_secrets)
        ]
        self._md5_secrets = (md5_secret, *other_md5_secrets)
        headers = {
            "authorization": f"Bearer {api_key}",
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        self._api = SandboxApi(
            Connections(
                base_url,
                headers=headers,
                connections_max=connections_max,
                heard=PROVIDER_CLOCKS.heard,
            )
        )
        self._facts = SandboxFacts(self._api)

    @property
    def name(self) -> str:
        """As in `channel` of a payment."""
        return "sandbox"

    @property
    def provider(self) -> str:
        """There is one account of it."""
        return "sandbox"

    @property
    def capabilities(self) -> Capabilities:
        """It takes everything, and `close` leaves tombstones."""
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
        """Charges a card. It can be asked by our own id, so there is nothing to remember."""
        if isinstance(instrument, PaymentToken) or not capture:
            raise ValueError("the sandbox charges cards at once")  # its capabilities say so
        card = instrument
        body = {
            "attempt_id": attempt_id,
            "amount": amount.format(),
            "currency": amount.currency,
            "card": {
                "number": card.number,
                "cvv": card.cvv,
                "expiration_year": card.expiration_year,
                "expiration_month": card.expiration_month,
            },
            "expires_at": None if expires_at is None else expires_at.isoformat(),
        }
        return await self._facts.open(
            "/v1/charges", body, attempt_id=attempt_id, timeout_seconds=timeout_seconds
        )

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
        """Opens a cashier page; the fact is PENDING with REDIRECT_URL."""
        if not capture:
            raise ValueError("the sandbox holds no money")  # its capabilities say so
        body = {
            "attempt_id": attempt_id,
            "amount": amount.format(),
            "currency": amount.currency,
            "subject": order.subject,
            "return_url": order.return_url,
            "expires_at": expires_at.isoformat(),
            "merchant_name": order.merchant_name,
            "description": order.description,
        }
        return await self._facts.open(
            "/v1/checkouts", body, attempt_id=attempt_id, timeout_seconds=timeout_seconds
        )

    async def advance(self, attempt_id: str, *, ref: str, timeout_seconds: float) -> ChannelFact:
        """No step of an attempt is ours."""
        return await self.query(attempt_id, ref=ref, timeout_seconds=timeout_seconds)

    async def query(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """What became of an attempt; NOT_FOUND when the sandbox does not know it."""
        return await self._facts.ask(
            "GET",
            f"/v1/transactions/{quote(attempt_id, safe='')}",
            attempt_id=attempt_id,
            timeout_seconds=timeout_seconds,
        )

    async def refund(
        self,
        *,
        refund_id: str,
        of: CapturedAttempt,
        amount: Money,
        reason: str,
        timeout_seconds: float,
    ) -> RefundFact:
        """Gives back a part of what was captured under an attempt."""
        return await self._facts.refund(
            {
                "refund_id": refund_id,
                "attempt_id": of.attempt_id,
                "amount": amount.format(),
                "currency": amount.currency,
                "reason": reason,
            },
            refund_id=refund_id,
            attempt_id=of.attempt_id,
            amount=amount,
            timeout_seconds=timeout_seconds,
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
        """What became of a refund; NOT_FOUND when the sandbox does not know it."""
        return await self._facts.query_refund(refund_id, timeout_seconds=timeout_seconds)

    async def close(self, attempt_id: str, *, timeout_seconds: float, ref: str = "") -> ChannelFact:
        """Closes an attempt, with a tombstone when the sandbox does not know it; NOT_CLOSABLE when
        the sandbox does not close this one.
        """
        return await self._facts.ask(
            "POST",
            f"/v1/transactions/{quote(attempt_id, safe='')}/close",
            attempt_id=attempt_id,
            timeout_seconds=timeout_seconds,
        )

    def receive(self, inbound: Inbound, *, now: datetime) -> Received:
        """Reads a callback after checking its HMAC."""
        signatures.check_callback(
            self._callback_secrets,
            body=inbound.body,
            timestamp=inbound.headers.get(TIMESTAMP_HEADER, ""),
            signature=inbound.headers.get(SIGNATURE_HEADER, ""),
            now=now,
        )
        return Received(news=(self._news(inbound.body),))

    def _news(self, body: bytes) -> ChannelFact | RefundFact:
        try:
            about = msgspec.json.decode(body, type=answers.Callback)
        except answers.UNREADABLE:
            raise InvalidArgument.of("body", "not a callback of this channel") from None
        match about.kind:
            case "payment":
                try:
                    return answers.read_transaction(body, attempt_id=about.attempt_id)
                except Unclear as problem:
                    return self._facts.doubt.unknown(about.attempt_id, problem)
            case "refund" if about.refund_id:
                try:
                    return answers.read_refund(body, refund_id=about.refund_id)
                except Unclear as problem:
                    return self._facts.doubt.refund_unknown(about.refund_id, problem)
            case _:
                raise InvalidArgument.of("body", "about neither a payment nor a refund")

    def subject_of(self, inbound: Inbound) -> Subject:
        """The ids in a callback."""
        return answers.read_subject(inbound.body)

    def ack(self, *, accepted: bool) -> Ack | None:
        """The word on which it stops delivering."""
        return Ack(status_code=200, body=b"success") if accepted else None

    def verify_hint(
        self,
        *,
        payment_id: str,
        callback_status: str,
        timestamp: str,
        nonce: str,
        signature: str,
        now: datetime,
    ) -> None:
        """Checks the signature of source 001."""
        signatures.check_hint(
            self._md5_secrets,
            payment_id=payment_id,
            callback_status=callback_status,
            timestamp=timestamp,
            nonce=nonce,
            signature=signature,
            now=now,
        )

    def subject_of_hint(self, *, payment_id: str, timestamp: str, nonce: str) -> Subject:
        """The payment of a hint, and its id at source 001."""
        return signatures.hint_subject(payment_id=payment_id, timestamp=timestamp, nonce=nonce)

    async def sign(
        self,
        *,
        attempt_id: str,
        payment_id: str,
        callback_status: str,
        timestamp: str,
        nonce: str,
        timeout_seconds: float,
    ) -> str:
        """Lets the sandbox record an outcome as its truth and sign it."""
        body = {
            "payment_id": payment_id,
            "callback_status": callback_status,
            "timestamp": timestamp,
            "nonce": nonce,
        }
        path = f"/v1/transactions/{quote(attempt_id, safe='')}/signature"
        try:
            status_code, content = await self._api.exchange(
                "POST", path, body, timeout_seconds=timeout_seconds
            )
        except (NotSent, Lost):
            raise ChannelUnavailable("the channel did not sign") from None
        if status_code != answers.OK:
            raise answers.not_signed(status_code, answers.error_code(content))
        try:
            return answers.read_signature(content)
        except Unclear:
            raise ChannelUnavailable("the channel did not sign") from None

    async def statement(
        self, date: date, *, timeout_seconds: float, until: datetime | None = None
    ) -> bytes:
        """The channel's file of a day."""
        return await self._api.statement(date, timeout_seconds=timeout_seconds)

    def parse_statement(self, content: bytes, date: date) -> Iterator[Entry]:
        """Reads its CSV."""
        return parse_statement(content)

    async def check(self, *, timeout_seconds: float) -> str:
        """Asks for an attempt that nobody made."""
        fact = await self.query("check", timeout_seconds=timeout_seconds)
        return "" if fact.status is ChannelStatus.NOT_FOUND else fact.message

    async def captures_of_day(
        self, date: date, *, after: str, timeout_seconds: float
    ) -> CapturesPage:
        """A page of what was captured on a day."""
        content = await self._api.page(
            f"/v1/days/{date.isoformat()}/captures", after=after, timeout_seconds=timeout_seconds
        )
        try:
            return answers.read_captures(content)
        except Unclear as problem:
            raise ChannelUnavailable(f"no captures: {problem}") from None

    async def refunds_of_day(
        self, date: date, *, after: str, timeout_seconds: float
    ) -> RefundsPage:
        """A page of what was asked back on a day."""
        content = await self._api.page(
            f"/v1/days/{date.isoformat()}/refunds", after=after, timeout_seconds=timeout_seconds
        )
        try:
            return answers.read_refunds(content)
        except Unclear as problem:
            raise ChannelUnavailable(f"no refunds: {problem}") from None
