"""WeChat Pay's words as facts. What cannot be read strictly raises `Unclear`; an unknown word
too.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from mesh.money import Money
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.wechat.amounts import Total, read_fen
from payment_rpc.channels.wechat.api import Reply
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.domain.statement import first_plausible

TRADE_STATES: Final = {
    "SUCCESS": ChannelStatus.CAPTURED,
    "REFUND": ChannelStatus.CAPTURED,  # paid, and at least a part of it was given back
    "NOTPAY": ChannelStatus.PENDING,  # also after the buyer failed, and after the deadline
    "USERPAYING": ChannelStatus.PENDING,
    "ACCEPT": ChannelStatus.PENDING,
    "CLOSED": ChannelStatus.CLOSED,
    "REVOKED": ChannelStatus.CLOSED,
    "PAYERROR": ChannelStatus.DECLINED,
}
REFUND_STATES: Final = {
    "PROCESSING": RefundChannelStatus.PENDING,
    "SUCCESS": RefundChannelStatus.SUCCESS,
    "CLOSED": RefundChannelStatus.FAILED,
    # the buyer's bank refused, and the money waits for a person to send it elsewhere: a second
    # refund would pay twice
    "ABNORMAL": RefundChannelStatus.PENDING,
}
# refusals of a prepay after which no order was made; others may be about an earlier call
PREPAY_REFUSED: Final = frozenset(
    {
        "APPID_MCHID_NOT_MATCH",
        "FREQUENCY_LIMITED",
        "INVALID_REQUEST",
        "MCH_NOT_EXISTS",
        "NO_AUTH",
        "PARAM_ERROR",
        "RATELIMIT_EXCEEDED",
        "RULE_LIMIT",
        "SIGN_ERROR",
    }
)
# refusals of a refund that came before WeChat Pay looked at it
REFUND_NOT_EXECUTED: Final = frozenset({"MCH_NOT_EXISTS", "NO_AUTH", "SIGN_ERROR"})
# refusals of a refund for good, once a question has shown that no earlier call was accepted
REFUND_REFUSED: Final = {
    "INVALID_REQUEST": "REFUND_NOT_ALLOWED",  # also: it does not match the order
    "PARAM_ERROR": "REFUND_FAILED",
    "RESOURCE_NOT_EXISTS": "REFUND_NOT_ALLOWED",  # nobody paid the order
    "USER_ACCOUNT_ABNORMAL": "REFUND_FAILED",
}

NOT_ENOUGH: Final = "NOT_ENOUGH"  # our balance; the same number is accepted later
# refusals of a refund after which a question shows whether an earlier call was accepted
ASKED_AFTER: Final = frozenset({*REFUND_REFUSED, *REFUND_NOT_EXECUTED, NOT_ENOUGH})

_NO_ORDER: Final = frozenset({"ORDER_NOT_EXIST", "RESOURCE_NOT_EXISTS"})
_NO_REFUND: Final = "RESOURCE_NOT_EXISTS"
_PAYING: Final = frozenset({"ACCEPT", "ACCEPTED", "USERPAYING"})
_NUMBER: Final = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
_CODE_URL: Final = re.compile(r"[!-~]{1,1024}")
_H5_URL: Final = re.compile(r"https?://[!-~]{1,2000}")
_PREPAY_ID: Final = re.compile(r"[!-~]{1,128}")

_REASONS: Final = {
    ChannelStatus.CLOSED: "PAYMENT_CLOSED",
    ChannelStatus.DECLINED: "CARD_DECLINED",
}
_REFUND_MESSAGES: Final = {
    "ABNORMAL": "the buyer's bank refused the refund; send it elsewhere in the merchant platform",
    "CLOSED": "the refund was closed; ask for a new one",
}

A = TypeVar("A")


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order in answers and notices. Unknown fields are ignored."""

    out_trade_no: str
    trade_state: str
    mchid: str
    appid: str
    amount: Total | None = None
    transaction_id: str = ""
    success_time: str = ""


class _RefundAmount(msgspec.Struct, frozen=True, kw_only=True):
    refund: int
    currency: str = "CNY"


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund in answers; in notices its status has another name."""

    out_refund_no: str
    out_trade_no: str
    refund_id: str
    amount: _RefundAmount
    status: str = ""
    refund_status: str = ""
    success_time: str = ""
    mchid: str = ""


class _Code(msgspec.Struct, frozen=True, kw_only=True):
    code_url: str


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    h5_url: str


class _Prepaid(msgspec.Struct, frozen=True, kw_only=True):
    prepay_id: str


def read_code_url(reply: Reply) -> str:
    """The text of a native order's QR code.

    Raises:
        Unclear: there is none.
    """
    return _shaped(_decode_success(reply, _Code).code_url, _CODE_URL)


def read_h5_url(reply: Reply) -> str:
    """The address of an h5 order.

    Raises:
        Unclear: there is none.
    """
    return _shaped(_decode_success(reply, _Page).h5_url, _H5_URL)


def read_prepay_id(reply: Reply) -> str:
    """The id with which the buyer's WeChat opens an order.

    Raises:
        Unclear: there is none.
    """
    return _shaped(_decode_success(reply, _Prepaid).prepay_id, _PREPAY_ID)


def read_query(reply: Reply, *, attempt_id: str) -> ChannelFact:
    """What a query says about an attempt.

    Raises:
        Unclear: nothing certain.
    """
    if reply.status_code == 200:
        return order_fact(decode(reply.content, Order), attempt_id=attempt_id)
    if reply.status_code == 202 and reply.code in _PAYING:
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.PENDING)
    if reply.status_code == 404 and reply.code in _NO_ORDER:
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
    raise Unclear(reply)


def order_fact(order: Order, *, attempt_id: str) -> ChannelFact:
    """What an order says.

    Raises:
        Unclear: of another attempt, an unknown status, or a payment without amount or number.
    """
    if order.out_trade_no != attempt_id:
        raise Unclear("the answer is about another attempt")
    status = TRADE_STATES.get(order.trade_state)
    if status is None:
        raise Unclear("the answer has an unknown status")
    amount = None if order.amount is None else read_fen(order.amount.total, order.amount.currency)
    is_paid = status is ChannelStatus.CAPTURED
    if is_paid and amount is None:
        raise Unclear("the answer has no amount")
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=amount,
        trade_no=_shaped(order.transaction_id, _NUMBER) if is_paid else "",
        reason=_REASONS.get(status, ""),
        occurred_at=moment(order.success_time),
    )


def read_refund(reply: Reply, *, refund_id: str, attempt_id: str, amount: Money) -> RefundFact:
    """What an accepted refund is.

    Raises:
        Unclear: nothing certain.
    """
    if reply.status_code != 200:
        raise Unclear(reply)
    refund = decode(reply.content, Refund)
    if refund.out_refund_no != refund_id or refund.out_trade_no != attempt_id:
        raise Unclear("the answer is about another refund")
    if read_fen(refund.amount.refund, refund.amount.currency) != amount:
        raise Unclear("the answer is about another amount")
    return refund_fact(refund, word=refund.status)


def read_refund_query(
    reply: Reply, *, refund_id: str, attempt_id: str, amount: Money
) -> RefundFact:
    """What a question about a refund says. NOT_FOUND: it was not accepted, and may be sent again
    under its number.

    Raises:
        Unclear: nothing certain.
    """
    if reply.status_code == 404 and reply.code == _NO_REFUND:
        return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
    return read_refund(reply, refund_id=refund_id, attempt_id=attempt_id, amount=amount)


def refund_fact(refund: Refund, *, word: str) -> RefundFact:
    """What a refund says under a status word.

    Raises:
        Unclear: an unknown word, or no number.
    """
    status = REFUND_STATES.get(word)
    if status is None:
        raise Unclear("the answer has an unknown status")
    return RefundFact(
        refund_id=refund.out_refund_no,
        status=status,
        channel_refund_no=_shaped(refund.refund_id, _NUMBER),
        reason="REFUND_FAILED" if status is RefundChannelStatus.FAILED else "",
        message=_REFUND_MESSAGES.get(word, ""),
        occurred_at=moment(refund.success_time),
    )


def refund_refused(reply: Reply, *, refund_id: str) -> RefundFact:
    """A refund that was refused for good, with a code of `REFUND_REFUSED`."""
    return RefundFact(
        refund_id=refund_id,
        status=RefundChannelStatus.FAILED,
        reason=REFUND_REFUSED[reply.code],
        message=str(reply),
    )


def moment(text: str) -> datetime | None:
    """A time of RFC 3339 in UTC; None when it is none, or no time of our age."""
    try:
        told = datetime.fromisoformat(text)
        return None if told.tzinfo is None else first_plausible(told.astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def decode(content: bytes, kind: type[A]) -> A:
    """The fields of an answer or of a decrypted notice.

    Raises:
        Unclear: fields are missing or of another form.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unclear("the answer lacks fields") from None


def _decode_success(reply: Reply, kind: type[A]) -> A:
    if reply.status_code != 200:
        raise Unclear(reply)
    return decode(reply.content, kind)


def _shaped(text: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(text):
        raise Unclear("the answer has no usable number or address")
    return text
