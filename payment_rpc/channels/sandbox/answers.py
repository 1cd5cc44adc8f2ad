"""Parses responses and callbacks of the sandbox into facts. Invalid ones raise `Unclear`; nothing
is guessed.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec

from mesh.errors import InvalidArgument, MeshError, PermissionDenied
from mesh.free_text import plain
from mesh.money import Money
from payment_rpc.channels import CapturesPage, ListedRefund, RefundsPage
from payment_rpc.channels.doubt import Unclear
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import ChannelUnavailable, PaymentNotFound, PaymentStateInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.payment import NextAction
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import first_plausible

OK = 200
# raised by msgspec for bytes that do not match the struct
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_OWN_ID = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)  # as wide as our column, and what it takes
_TRADE_NO = re.compile(r"[ -~]{0,64}", re.ASCII)  # as wide as our column, and what it takes
_MESSAGE_MAX = 200  # as wide as our column
_CASHIER_URL = re.compile(r"https?://[!-~]{1,2040}")
_STATUSES = {
    status.value: status
    for status in (
        ChannelStatus.CAPTURED,
        ChannelStatus.DECLINED,
        ChannelStatus.FAILED,
        ChannelStatus.PENDING,
        ChannelStatus.CLOSED,
    )
}
_REFUND_STATUSES = {
    status.value: status
    for status in (
        RefundChannelStatus.SUCCESS,
        RefundChannelStatus.FAILED,
        RefundChannelStatus.PENDING,
        RefundChannelStatus.REVERSED,
    )
}
_REFUND_REASONS = {
    "not_captured": "REFUND_NOT_ALLOWED",
    "currency_mismatch": "CURRENCY_MISMATCH",
    "amount_exceeds_captured": "REFUND_EXCEEDS_REFUNDABLE",
}

P = TypeVar("P")
Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Transaction(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction in responses and callbacks of the sandbox. Unknown fields are ignored."""

    attempt_id: str
    trade_no: str
    status: str
    amount: str | None
    currency: str | None
    fee: str | None = None
    decline_code: str = ""
    message: str = ""
    duplicate_of: str = ""
    finished_at: Moment | None = None
    occurred_at: Moment | None = None
    cashier_url: str | None = None


class _Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund in responses and callbacks of the sandbox."""

    refund_id: str
    attempt_id: str
    refund_no: str
    status: str
    amount: str
    currency: str
    fee_returned: str | None = None
    code: str = ""
    message: str = ""
    occurred_at: Moment | None = None


class _Captures(msgspec.Struct, frozen=True, kw_only=True):
    """A page of transactions, which are decoded one by one."""

    captures: list[msgspec.Raw]
    next_after: int | None


class _Refunds(msgspec.Struct, frozen=True, kw_only=True):
    """A page of refunds, which are decoded one by one."""

    refunds: list[msgspec.Raw]
    next_after: int | None


class _ErrorDetail(msgspec.Struct, frozen=True):
    code: str


class _ErrorAnswer(msgspec.Struct, frozen=True):
    error: _ErrorDetail


class _SignatureAnswer(msgspec.Struct, frozen=True):
    signature: str


class Callback(msgspec.Struct, frozen=True):
    """The subject of a callback. Without a kind it is a payment."""

    attempt_id: Id
    kind: str = "payment"
    refund_id: Id = ""


class _Named(msgspec.Struct, frozen=True):
    """The ids in a callback or an entry of a page; "" when not given."""

    event_id: Id = ""
    attempt_id: Id = ""
    refund_id: Id = ""


def read_transaction(content: bytes, *, attempt_id: str) -> ChannelFact:
    """The fact in a response about an attempt.

    Raises:
        Unclear: it is not a transaction, or not of this attempt.
    """
    try:
        answer = msgspec.json.decode(content, type=_Transaction)
    except UNREADABLE:
        raise Unclear("the answer is not a transaction") from None
    if answer.attempt_id != attempt_id:
        raise Unclear("the answer is about another attempt")
    if answer.duplicate_of and not (
        _OWN_ID.fullmatch(attempt_id) and _OWN_ID.fullmatch(answer.duplicate_of)
    ):
        raise Unclear("an attempt id is none")
    status = _STATUSES.get(answer.status)
    if status is None:
        raise Unclear("the answer has an unknown status")
    amount = _read_amount(answer)
    if amount is None and status is not ChannelStatus.CLOSED:
        raise Unclear("the answer has no amount")
    if _TRADE_NO.fullmatch(answer.trade_no) is None or (
        not answer.trade_no and status is ChannelStatus.CAPTURED
    ):
        raise Unclear("the answer has no usable trade number")
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=amount,
        trade_no=answer.trade_no,
        reason=_reason(status, answer.decline_code),
        message=plain(answer.message)[:_MESSAGE_MAX],
        occurred_at=first_plausible(answer.finished_at, answer.occurred_at),
        next_action=_next_action(status, answer),
        fee=None if amount is None else _read_fee(answer.fee, amount.currency),
        duplicate_of=answer.duplicate_of,
    )


def read_refund(
    content: bytes, *, refund_id: str, attempt_id: str = "", amount: Money | None = None
) -> RefundFact:
    """The fact in a response about a refund.

    Args:
        attempt_id: the expected attempt of the refund; "" when not known.
        amount: the expected amount; None when not known.

    Raises:
        Unclear: it is not a refund, or not the expected one.
    """
    try:
        answer = msgspec.json.decode(content, type=_Refund)
    except UNREADABLE:
        raise Unclear("the answer is not a refund") from None
    if answer.refund_id != refund_id or attempt_id not in ("", answer.attempt_id):
        raise Unclear("the answer is about another refund")
    status = _REFUND_STATUSES.get(answer.status)
    if status is None:
        raise Unclear("the answer has an unknown status")
    try:
        told = Money.parse(answer.amount, answer.currency)
    except InvalidArgument:
        raise Unclear("the amount cannot be read") from None
    if amount not in (None, told):
        raise Unclear("the answer is about another amount")
    if _TRADE_NO.fullmatch(answer.refund_no) is None or not answer.refund_no:
        raise Unclear("the answer has no usable refund number")
    return RefundFact(
        refund_id=refund_id,
        status=status,
        channel_refund_no=answer.refund_no,
        reason=_refund_reason(status, answer.code),
        message=plain(answer.message)[:_MESSAGE_MAX],
        occurred_at=first_plausible(answer.occurred_at),
        fee_returned=_read_fee(answer.fee_returned, told.currency),
    )


def read_captures(content: bytes) -> CapturesPage:
    """A page of captures. Unreadable entries are listed separately and do not fail the page.

    Raises:
        Unclear: it is not a page.
    """
    page = _decode_page(content, _Captures)
    captures, unreadable = [], []
    for entry in page.captures:
        try:
            fact = read_transaction(bytes(entry), attempt_id=_named(entry).attempt_id)
            if fact.status is not ChannelStatus.CAPTURED:
                raise Unclear("it is not a capture")  # noqa: TRY301  # handled like all other unreadable entries
            captures.append(fact)
        except Unclear as problem:
            unreadable.append(_unreadable(entry, problem))
    return CapturesPage(
        captures=tuple(captures),
        unreadable=tuple(unreadable),
        next_after=_next_after(page.next_after),
    )


def read_refunds(content: bytes) -> RefundsPage:
    """A page of refunds. Unreadable entries are listed separately and do not fail the page.

    Raises:
        Unclear: it is not a page.
    """
    page = _decode_page(content, _Refunds)
    refunds, unreadable = [], []
    for entry in page.refunds:
        try:
            named = _named(entry)
            fact = read_refund(bytes(entry), refund_id=named.refund_id)
            told = msgspec.json.decode(entry, type=_Refund)
            refunds.append(
                ListedRefund(
                    fact=fact,
                    attempt_id=named.attempt_id,
                    amount=Money.parse(told.amount, told.currency),
                )
            )
        except Unclear as problem:
            unreadable.append(_unreadable(entry, problem))
    return RefundsPage(
        refunds=tuple(refunds),
        unreadable=tuple(unreadable),
        next_after=_next_after(page.next_after),
    )


def read_subject(body: bytes) -> Subject:
    """The subject that a callback names; empty when it cannot be read. Does not verify the
    callback.
    """
    try:
        named = msgspec.json.decode(body, type=_Named)
    except UNREADABLE:
        return Subject()
    return Subject(event_id=named.event_id, attempt_id=named.attempt_id, refund_id=named.refund_id)


def read_signature(content: bytes) -> str:
    """The signature in a response.

    Raises:
        Unclear: there is none.
    """
    try:
        return msgspec.json.decode(content, type=_SignatureAnswer).signature
    except UNREADABLE:
        raise Unclear("the answer is not a signature") from None


def error_code(content: bytes) -> str:
    """`error.code` of a documented error response, or ""."""
    try:
        return msgspec.json.decode(content, type=_ErrorAnswer).error.code
    except UNREADABLE:
        return ""


def _decode_page(content: bytes, kind: type[P]) -> P:
    try:
        return msgspec.json.decode(content, type=kind)
    except UNREADABLE:
        raise Unclear("the answer is not a page") from None


def _named(entry: msgspec.Raw) -> _Named:
    try:
        return msgspec.json.decode(entry, type=_Named)
    except UNREADABLE:
        raise Unclear("an entry names nothing") from None


def _next_after(position: int | None) -> str:
    return "" if position is None else str(position)


def _unreadable(entry: msgspec.Raw, problem: Unclear) -> str:
    return f"{problem}: {bytes(entry)[:_MESSAGE_MAX].decode(errors='backslashreplace')}"


def _read_amount(answer: _Transaction) -> Money | None:
    """The amount; None for a tombstone."""
    if answer.amount is None or answer.currency is None:
        if answer.amount is answer.currency:
            return None
        raise Unclear("amount and currency go together")
    try:
        return Money.parse(answer.amount, answer.currency)
    except InvalidArgument:
        raise Unclear("the amount cannot be read") from None


def _read_fee(fee: str | None, currency: str) -> Money | None:
    """A fee; None when it cannot be read, because the rest of the response is still valid."""
    if fee is None:
        return None
    try:
        return Money.parse(fee, currency, allow_zero=True)
    except InvalidArgument:
        return None


def _next_action(status: ChannelStatus, answer: _Transaction) -> NextAction | None:
    if status is not ChannelStatus.PENDING or answer.cashier_url is None:
        return None
    if not _CASHIER_URL.fullmatch(answer.cashier_url):  # it is shown to the buyer's browser
        raise Unclear("the cashier address is not one")
    return NextAction(kind="REDIRECT_URL", value=answer.cashier_url)


def _reason(status: ChannelStatus, decline_code: str) -> str:
    """The reason in our catalogue. It is never CARD_INVALID, which means that nothing was sent: a
    card that the issuer declined was sent.
    """
    match status:
        case ChannelStatus.DECLINED:
            return "INSUFFICIENT_FUNDS" if decline_code == "insufficient_funds" else "CARD_DECLINED"
        case ChannelStatus.FAILED:
            return "CHANNEL_FAILED"
        case ChannelStatus.CLOSED:
            return "PAYMENT_CLOSED"
        case _:
            return ""


def _refund_reason(status: RefundChannelStatus, code: str) -> str:
    match status:
        case RefundChannelStatus.FAILED:
            return _REFUND_REASONS.get(code, "REFUND_FAILED")
        case RefundChannelStatus.REVERSED:
            return "REFUND_REVERSED"
        case _:
            return ""


def not_signed(status_code: int, code: str) -> MeshError:
    """The error for an outcome that the sandbox did not sign."""

    match (status_code, code):
        case (404, "not_found"):
            return PaymentNotFound("the channel does not know this payment")
        case (409, "conflict"):
            return PaymentStateInvalid("the payment ended otherwise at the channel")
        case (403, "disabled"):
            return PermissionDenied("the channel signs on request in development only")
        case _:
            return ChannelUnavailable("the channel did not sign")
