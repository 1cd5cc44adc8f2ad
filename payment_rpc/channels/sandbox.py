"""The sandbox as a channel: an HTTP client that turns every way a call can end into a fact, and
believes no answer that it does not understand.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from urllib.parse import quote

import msgspec
import structlog

from mesh.errors import InvalidArgument, MeshError, PermissionDenied
from mesh.money import Money
from payment_rpc.channels import CapturesPage, CardDetails, RefundsPage
from payment_rpc.channels import sandbox_answers as answers
from payment_rpc.channels.connections import (
    ANSWER_BYTES_MAX,
    CONNECTIONS_MAX,
    Connections,
    Lost,
    NotSent,
)
from payment_rpc.channels.sandbox_answers import Unclear
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import (
    ChannelUnavailable,
    PaymentNotFound,
    PaymentStateInvalid,
    SignatureInvalid,
)
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

PUBLISHED_MD5_SECRET = "ymall-payment-secret-key-2024"  # noqa: S105  # source 001 prints it in its README

_NOT_FOUND = 404
_NOT_CLOSABLE = (409, "not_closable")
_FRESHNESS = timedelta(minutes=5)
_STATEMENT_BYTES_MAX = 64 * 1024 * 1024  # of a day; a line has about 150
_PAGE = 500
_PAGE_BYTES_MAX = 4 * 1024 * 1024
# a channel that does not even take the connection: better to know that nothing was sent
_CONNECT_SECONDS_MAX = 2.0
_MILLISECONDS = re.compile(r"[0-9]{13}")
_NONCE = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_PAYMENT_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_HINT_STATUSES = frozenset({"SUCCESS", "FAILED"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Of these the sandbox's documentation says that it looked at nothing and recorded nothing.
_REFUSED_UNSEEN = frozenset({(400, "invalid_request"), (401, "unauthorized")})

_log = structlog.get_logger(__name__)


class SandboxChannel:
    """The adapter to sandbox/. One for the whole process: it keeps connections open. `aclose`
    it.
    """

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
            other_callback_secrets, other_md5_secrets: believed too, while one secret takes over
                from another.
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
        self._connections = Connections(base_url, headers=headers, connections_max=connections_max)

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
        await self._connections.aclose()

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
    ) -> ChannelFact:
        """Opens a cashier page; the fact is PENDING with REDIRECT_URL."""
        body = {
            "attempt_id": attempt_id,
            "amount": amount.format(),
            "currency": amount.currency,
            "subject": subject,
            "return_url": return_url,
            "expires_at": expires_at.isoformat(),
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
            status_code, content = await self._exchange(
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
            status_code, content = await self._exchange(
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
        """Reads a callback after checking hex HMAC-SHA256(secret, timestamp + "." + body)."""
        signed = timestamp.encode("utf-8", "replace") + b"." + body
        _must_be_one_of(
            signature,
            [
                hmac.new(secret, signed, hashlib.sha256).hexdigest()
                for secret in self._callback_secrets
            ],
        )
        _must_be_fresh(timestamp, now)
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
        """Checks UPPER(MD5(callback_status + nonce + payment_id + timestamp + secret)). The text
        has no separators, so only fixed forms keep a
        character from moving into the next field: `SUCCESSa` + `bc123` has the signature of
        `SUCCESS` + `abc123`."""
        if (
            callback_status not in _HINT_STATUSES
            or not _NONCE.fullmatch(nonce)
            or not _MILLISECONDS.fullmatch(timestamp)
            or not _PAYMENT_ID.fullmatch(payment_id)
        ):
            raise SignatureInvalid
        text = callback_status + nonce + payment_id + timestamp
        _must_be_one_of(
            signature,
            [
                hashlib.md5((text + secret).encode(), usedforsecurity=False).hexdigest().upper()
                for secret in self._md5_secrets
            ],
        )
        _must_be_fresh(timestamp, now)

    def subject_of_hint(self, *, payment_id: str, timestamp: str, nonce: str) -> Subject:
        """The payment, and the id that source 001 gives its callbacks: MD5(payment_id + timestamp +
        nonce). It is for people who look for it; ours is the digest of all fields, because other
        fields can have the same text without separators."""
        event_id = hashlib.md5(
            (payment_id + timestamp + nonce).encode("utf-8", "replace"), usedforsecurity=False
        ).hexdigest()
        return Subject(
            event_id=event_id, payment_id=payment_id if _PAYMENT_ID.fullmatch(payment_id) else ""
        )

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
            status_code, content = await self._exchange(
                "POST", path, body, timeout_seconds=timeout_seconds
            )
        except (NotSent, Lost):
            raise ChannelUnavailable("the channel did not sign") from None
        if status_code != answers.OK:
            raise _not_signed(status_code, answers.error_code(content))
        try:
            return answers.read_signature(content)
        except Unclear:
            raise ChannelUnavailable("the channel did not sign") from None

    async def statement(self, date: date, *, timeout_seconds: float) -> bytes:
        """The channel's file of a day."""
        try:
            status_code, content = await self._exchange(
                "GET",
                f"/v1/statements/{date.isoformat()}",
                None,
                timeout_seconds=timeout_seconds,
                answer_bytes_max=_STATEMENT_BYTES_MAX,
            )
        except (NotSent, Lost) as error:
            raise ChannelUnavailable(f"no statement: {error}") from None
        if status_code == answers.OK:
            return content
        code = answers.error_code(content)
        raise ChannelUnavailable(
            "the channel's day is not over"
            if code == "not_ready"
            else f"no statement: answered {status_code} {code}".rstrip()
        )

    async def captures_of_day(
        self, date: date, *, after: str, timeout_seconds: float
    ) -> CapturesPage:
        """A page of what was captured on a day."""
        content = await self._page(
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
        content = await self._page(
            f"/v1/days/{date.isoformat()}/refunds", after=after, timeout_seconds=timeout_seconds
        )
        try:
            return answers.read_refunds(content)
        except Unclear as problem:
            raise ChannelUnavailable(f"no refunds: {problem}") from None

    async def _page(self, path: str, *, after: str, timeout_seconds: float) -> bytes:
        """One page of a list.

        Raises:
            ChannelUnavailable: no answer, or a refusal.
        """
        try:
            status_code, content = await self._exchange(
                "GET",
                f"{path}?limit={_PAGE}&after={after or 0}",
                None,
                timeout_seconds=timeout_seconds,
                answer_bytes_max=_PAGE_BYTES_MAX,
            )
        except (NotSent, Lost) as error:
            raise ChannelUnavailable(f"no list: {error}") from None
        if status_code != answers.OK:
            raise ChannelUnavailable(
                f"no list: answered {status_code} {answers.error_code(content)}".rstrip()
            )
        return content

    async def _open(
        self, path: str, body: Mapping[str, object], *, attempt_id: str, timeout_seconds: float
    ) -> ChannelFact:
        """A call that may move money."""
        try:
            status_code, content = await self._exchange(
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
        """A call that moves no money: whatever goes wrong with it tells nothing about the
        attempt.
        """
        try:
            status_code, content = await self._exchange(
                method, path, None, timeout_seconds=timeout_seconds
            )
            if status_code == _NOT_FOUND and answers.error_code(content) == "not_found":
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
            if (status_code, answers.error_code(content)) == _NOT_CLOSABLE:
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_CLOSABLE)
            return _read_answer(status_code, content, attempt_id=attempt_id)
        except (NotSent, Lost, Unclear) as error:
            return self._unknown(attempt_id, error)

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        timeout_seconds: float,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> tuple[int, bytes]:
        """One request and its answer, status code and body.

        Raises:
            NotSent: no byte of the request left. Lost: it may have arrived.
        """
        if timeout_seconds <= 0:
            raise NotSent("no time left")
        # Waiting and connecting end before the whole does: then it is known that nothing was sent.
        connect_seconds = min(timeout_seconds / 2, _CONNECT_SECONDS_MAX)
        content = None if body is None else json.dumps(body).encode()
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._connections.request(
                    method,
                    path,
                    body=content,
                    connect_seconds=connect_seconds,
                    answer_bytes_max=answer_bytes_max,
                )
        except TimeoutError:
            raise Lost("no answer in time") from None
        return answer.status_code, answer.body

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


def _must_be_one_of(signature: str, expected: Sequence[str]) -> None:
    given = signature.encode("utf-8", "replace")
    if not any(hmac.compare_digest(each.encode(), given) for each in expected):
        raise SignatureInvalid


def _must_be_fresh(timestamp: str, now: datetime) -> None:
    """Refuses what was signed long ago, or will be: a message that somebody overheard is good for
    minutes only.
    """
    if not _MILLISECONDS.fullmatch(timestamp):
        raise SignatureInvalid("the timestamp is not in milliseconds")
    if abs(now - (_EPOCH + timedelta(milliseconds=int(timestamp)))) > _FRESHNESS:
        raise SignatureInvalid("the timestamp is more than 5 minutes off")


def _read_answer(status_code: int, content: bytes, *, attempt_id: str) -> ChannelFact:
    _must_be_ok(status_code, content)
    return answers.read_transaction(content, attempt_id=attempt_id)


def _must_be_ok(status_code: int, content: bytes) -> None:
    if status_code != answers.OK:
        raise Unclear(f"answered {status_code} {answers.error_code(content)}".rstrip())


def _not_signed(status_code: int, code: str) -> MeshError:
    match (status_code, code):
        case (404, "not_found"):
            return PaymentNotFound("the channel does not know this payment")
        case (409, "conflict"):
            return PaymentStateInvalid("the payment ended otherwise at the channel")
        case (403, "disabled"):
            return PermissionDenied("the channel signs on request in development only")
        case _:
            return ChannelUnavailable("the channel did not sign")
