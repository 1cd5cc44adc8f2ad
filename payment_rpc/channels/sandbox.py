"""The sandbox as a channel. Every way in which a call can end becomes a fact; an answer that cannot
be read is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from urllib.parse import quote

import msgspec

from mesh.errors import InvalidArgument
from mesh.logs import get_logger
from mesh.money import Money
from payment_rpc.channels import CapturesPage, CardDetails, RefundsPage
from payment_rpc.channels import sandbox_answers as answers
from payment_rpc.channels import sandbox_signatures as signatures
from payment_rpc.channels.connections import CONNECTIONS_MAX, Connections, Lost, NotSent
from payment_rpc.channels.sandbox_answers import Unclear
from payment_rpc.channels.sandbox_api import SandboxApi
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

PUBLISHED_MD5_SECRET = "ymall-payment-secret-key-2024"  # noqa: S105  # source 001 prints it in its README

_NOT_FOUND = 404
_NOT_CLOSABLE = (409, "not_closable")

# The sandbox's documentation says that it records nothing when it answers these.
_REFUSED_UNSEEN = frozenset({(400, "invalid_request"), (401, "unauthorized")})

_log = get_logger()


class SandboxChannel:
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
    ) -> None:
        """
        Args:
            base_url: from configuration only.
            callback_secret: HMAC key of callbacks.
            md5_secret: of source 001's rule.
            other_callback_secrets, other_md5_secrets: accepted too, while a secret is rotated.
            connections_max: calls in flight; more wait for at most 2 s.
        """
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
            Connections(base_url, headers=headers, connections_max=connections_max)
        )

    @property
    def name(self) -> str:
        """As in `channel` of a payment."""
        return "sandbox"

    @property
    def closable(self) -> bool:
        """`close` leaves tombstones."""
        return True

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._api.aclose()

    async def charge(
        self,
        *,
        attempt_id: str,
        amount: Money,
        card: CardDetails,
        expires_at: datetime | None,
        timeout_seconds: float,
    ) -> ChannelFact:
        """Charges a card."""
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
        return await self._open(
            "/v1/charges", body, attempt_id=attempt_id, timeout_seconds=timeout_seconds
        )

    async def checkout(
        self,
        *,
        attempt_id: str,
        amount: Money,
        subject: str,
        return_url: str,
        expires_at: datetime,
        timeout_seconds: float,
        merchant_name: str = "",
        description: str = "",
    ) -> ChannelFact:
        """Opens a cashier page; the fact is PENDING with REDIRECT_URL."""
        body = {
            "attempt_id": attempt_id,
            "amount": amount.format(),
            "currency": amount.currency,
            "subject": subject,
            "return_url": return_url,
            "expires_at": expires_at.isoformat(),
            "merchant_name": merchant_name,
            "description": description,
        }
        return await self._open(
            "/v1/checkouts", body, attempt_id=attempt_id, timeout_seconds=timeout_seconds
        )

    async def query(self, attempt_id: str, *, timeout_seconds: float) -> ChannelFact:
        """What became of an attempt; NOT_FOUND when the sandbox does not know it."""
        return await self._ask(
            "GET",
            f"/v1/transactions/{quote(attempt_id, safe='')}",
            attempt_id=attempt_id,
            timeout_seconds=timeout_seconds,
        )

    async def refund(
        self, *, refund_id: str, attempt_id: str, amount: Money, reason: str, timeout_seconds: float
    ) -> RefundFact:
        """Gives back a part of what was captured under an attempt."""
        body = {
            "refund_id": refund_id,
            "attempt_id": attempt_id,
            "amount": amount.format(),
            "currency": amount.currency,
            "reason": reason,
        }
        try:
            status_code, content = await self._api.exchange(
                "POST", "/v1/refunds", body, timeout_seconds=timeout_seconds
            )
            if (status_code, answers.error_code(content)) not in _REFUSED_UNSEEN:
                _must_be_ok(status_code, content)
                return answers.read_refund(
                    content, refund_id=refund_id, attempt_id=attempt_id, amount=amount
                )
            problem = f"refused with {status_code}"
        except NotSent as error:
            problem = str(error)
        except (Lost, Unclear) as error:
            return self._refund_unknown(refund_id, error)
        _log.error("channel_not_reached", channel=self.name, refund_id=refund_id, problem=problem)
        return RefundFact(
            refund_id=refund_id,
            status=RefundChannelStatus.NOT_SENT,
            reason="CHANNEL_UNAVAILABLE",
            message=problem,
        )

    async def query_refund(self, refund_id: str, *, timeout_seconds: float) -> RefundFact:
        """What became of a refund; NOT_FOUND when the sandbox does not know it."""
        try:
            status_code, content = await self._api.exchange(
                "GET",
                f"/v1/refunds/{quote(refund_id, safe='')}",
                None,
                timeout_seconds=timeout_seconds,
            )
            if status_code == _NOT_FOUND and answers.error_code(content) == "not_found":
                return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
            _must_be_ok(status_code, content)
            return answers.read_refund(content, refund_id=refund_id)
        except (NotSent, Lost, Unclear) as error:
            return self._refund_unknown(refund_id, error)

    async def close(self, attempt_id: str, *, timeout_seconds: float) -> ChannelFact:
        """Closes an attempt, with a tombstone when the sandbox does not know it; NOT_CLOSABLE when
        the sandbox does not close this one.
        """
        return await self._ask(
            "POST",
            f"/v1/transactions/{quote(attempt_id, safe='')}/close",
            attempt_id=attempt_id,
            timeout_seconds=timeout_seconds,
        )

    def verify_callback(
        self, *, body: bytes, timestamp: str, signature: str, now: datetime
    ) -> ChannelFact | RefundFact:
        """Reads a callback after checking its HMAC."""
        signatures.check_callback(
            self._callback_secrets, body=body, timestamp=timestamp, signature=signature, now=now
        )
        try:
            about = msgspec.json.decode(body, type=answers.Callback)
        except answers.UNREADABLE:
            raise InvalidArgument.of("body", "not a callback of this channel") from None
        match about.kind:
            case "payment":
                try:
                    return answers.read_transaction(body, attempt_id=about.attempt_id)
                except Unclear as problem:
                    return self._unknown(about.attempt_id, problem)
            case "refund" if about.refund_id:
                try:
                    return answers.read_refund(body, refund_id=about.refund_id)
                except Unclear as problem:
                    return self._refund_unknown(about.refund_id, problem)
            case _:
                raise InvalidArgument.of("body", "about neither a payment nor a refund")

    def subject_of(self, body: bytes) -> Subject:
        """The ids in a callback."""
        return answers.read_subject(body)

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

    async def statement(self, date: date, *, timeout_seconds: float) -> bytes:
        """The channel's file of a day."""
        return await self._api.statement(date, timeout_seconds=timeout_seconds)

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

    async def _open(
        self, path: str, body: Mapping[str, object], *, attempt_id: str, timeout_seconds: float
    ) -> ChannelFact:
        """A call that may move money."""
        try:
            status_code, content = await self._api.exchange(
                "POST", path, body, timeout_seconds=timeout_seconds
            )
            if (
                status_code == answers.OK
                or (status_code, answers.error_code(content)) not in _REFUSED_UNSEEN
            ):
                return _read_answer(status_code, content, attempt_id=attempt_id)
            problem = f"refused with {status_code}"
        except NotSent as error:
            problem = str(error)
        except (Lost, Unclear) as error:
            return self._unknown(attempt_id, error)
        _log.error("channel_not_reached", channel=self.name, attempt_id=attempt_id, problem=problem)
        return ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.NOT_SENT,
            reason="CHANNEL_UNAVAILABLE",
            message=problem,
        )

    async def _ask(
        self, method: str, path: str, *, attempt_id: str, timeout_seconds: float
    ) -> ChannelFact:
        """A call that moves no money: its failure says nothing about the attempt."""
        try:
            status_code, content = await self._api.exchange(
                method, path, None, timeout_seconds=timeout_seconds
            )
            if status_code == _NOT_FOUND and answers.error_code(content) == "not_found":
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
            if (status_code, answers.error_code(content)) == _NOT_CLOSABLE:
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_CLOSABLE)
            return _read_answer(status_code, content, attempt_id=attempt_id)
        except (NotSent, Lost, Unclear) as error:
            return self._unknown(attempt_id, error)

    def _refund_unknown(self, refund_id: str, problem: Exception) -> RefundFact:
        _log.warning(
            "channel_answer_unknown", channel=self.name, refund_id=refund_id, problem=str(problem)
        )
        return RefundFact(
            refund_id=refund_id, status=RefundChannelStatus.UNKNOWN, message=str(problem)
        )

    def _unknown(self, attempt_id: str, problem: Exception) -> ChannelFact:
        _log.warning(
            "channel_answer_unknown", channel=self.name, attempt_id=attempt_id, problem=str(problem)
        )
        return ChannelFact(
            attempt_id=attempt_id, status=ChannelStatus.UNKNOWN, message=str(problem)
        )


def _read_answer(status_code: int, content: bytes, *, attempt_id: str) -> ChannelFact:
    _must_be_ok(status_code, content)
    return answers.read_transaction(content, attempt_id=attempt_id)


def _must_be_ok(status_code: int, content: bytes) -> None:
    if status_code != answers.OK:
        raise Unclear(f"answered {status_code} {answers.error_code(content)}".rstrip())
