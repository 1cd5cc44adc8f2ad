"""Alipay's words as facts. What cannot be read strictly raises `Unclear`; an unknown word too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from mesh.money import Money
from payment_rpc.channels.alipay.amounts import read_amount
from payment_rpc.channels.alipay.api import Reply
from payment_rpc.channels.china import china_moment
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

TRADE_STATUSES: Final = {
    "WAIT_BUYER_PAY": ChannelStatus.PENDING,
    "TRADE_SUCCESS": ChannelStatus.CAPTURED,
    "TRADE_FINISHED": ChannelStatus.CAPTURED,  # it can be refunded no more
    # never paid, unless it has a time of payment: then it was paid and refunded in full
    "TRADE_CLOSED": ChannelStatus.CLOSED,
}
# codes of the gateway after which a request was certainly not carried out
NOT_EXECUTED: Final = frozenset({"40001", "40002", "40005", "40006"})
# business codes of a first precreate that made nothing; others may be about an earlier one
PRECREATE_REFUSED: Final = frozenset(
    {
        "ACCESS_FORBIDDEN",
        "EXIST_FORBIDDEN_WORD",
        "INVALID_PARAMETER",
        "PARTNER_ERROR",
        "TOTAL_FEE_EXCEED",
    }
)
NO_TRADE: Final = "TRADE_NOT_EXIST"
# business codes of a refund that gave nothing back, and our reason for each
REFUND_REFUSED: Final = {
    "REFUND_AMT_NOT_EQUAL_TOTAL": "REFUND_EXCEEDS_REFUNDABLE",
    "REFUND_FEE_ERROR": "REFUND_EXCEEDS_REFUNDABLE",
    "CURRENCY_NOT_SUPPORT": "CURRENCY_MISMATCH",
    "NOT_ALLOW_PARTIAL_REFUND": "REFUND_NOT_ALLOWED",
    "TRADE_HAS_CLOSE": "REFUND_NOT_ALLOWED",
    "TRADE_HAS_FINISHED": "REFUND_NOT_ALLOWED",
    "TRADE_NOT_ALLOW_REFUND": "REFUND_NOT_ALLOWED",
    "TRADE_NOT_EXIST": "REFUND_NOT_ALLOWED",
    **dict.fromkeys(
        (
            "BUYER_ENABLE_STATUS_FORBID",
            "BUYER_ERROR",
            "BUYER_NOT_EXIST",
            "CUSTOMER_VALIDATE_ERROR",
            "INVALID_PARAMETER",
            "ONLINE_TRADE_VOUCHER_NOT_ALLOW_REFUND",
            "REASON_TRADE_BEEN_FREEZEN",
            "REASON_TRADE_REFUND_FEE_ERR",
            "REASON_TRADE_STATUS_INVALID",
            "REFUND_ACCOUNT_NOT_EXIST",
            "REFUND_CHARGE_ERROR",
            "SELLER_BALANCE_NOT_ENOUGH",
            "TRADE_SETTLE_ERROR",
            "TRADE_STATUS_ERROR",
            "USER_NOT_MATCH_ERR",
        ),
        "REFUND_FAILED",
    ),
}

_PAYING: Final = "10003"
_TRADE_NO: Final = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
_QR_CODE: Final = re.compile(r"[!-~]{1,1024}")

A = TypeVar("A")


class _Trade(msgspec.Struct, frozen=True, kw_only=True):
    """A trade in answers and notices; all values are texts. Unknown fields are ignored."""

    out_trade_no: str
    trade_no: str
    trade_status: str
    total_amount: str
    send_pay_date: str = ""
    gmt_payment: str = ""
    credit_pay_mode: str = ""


class _Precreated(msgspec.Struct, frozen=True, kw_only=True):
    out_trade_no: str
    qr_code: str


class _Refunded(msgspec.Struct, frozen=True, kw_only=True):
    out_trade_no: str
    trade_no: str
    fund_change: str
    refund_fee: str
    gmt_refund_pay: str = ""


class _RefundFound(msgspec.Struct, frozen=True, kw_only=True):
    out_trade_no: str = ""
    out_request_no: str = ""
    trade_no: str = ""
    refund_status: str = ""
    refund_amount: str = ""
    gmt_refund_pay: str = ""


class _BillAddress(msgspec.Struct, frozen=True, kw_only=True):
    bill_download_url: str


def read_query(reply: Reply, *, attempt_id: str) -> ChannelFact:
    """What a query says about an attempt.

    Raises:
        Unclear: nothing certain.
    """
    if reply.is_success:
        return _trade_fact(_decode(reply.content, _Trade), attempt_id=attempt_id)
    if reply.code == _PAYING:
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.PENDING)
    if reply.sub_code == NO_TRADE:
        return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
    raise Unclear(reply)


def read_qr_code(reply: Reply, *, attempt_id: str) -> str:
    """The text of the QR code that a precreate made.

    Raises:
        Unclear: there is none.
    """
    if not reply.is_success:
        raise Unclear(reply)
    made = _decode(reply.content, _Precreated)
    if made.out_trade_no != attempt_id:
        raise Unclear("the answer is about another attempt")
    if not _QR_CODE.fullmatch(made.qr_code):
        raise Unclear("the answer has no usable code")
    return made.qr_code


def read_refund(reply: Reply, *, refund_id: str, attempt_id: str, amount: Money) -> RefundFact:
    """What the answer to a refund proves: SUCCESS, or nothing. Success of the call alone does not
    say that money moved: a repetition answers the same with `fund_change=N`.

    Raises:
        Unclear: nothing certain.
    """
    if not reply.is_success:
        raise Unclear(reply)
    done = _decode(reply.content, _Refunded)
    if done.out_trade_no != attempt_id:
        raise Unclear("the answer is about another attempt")
    if done.fund_change != "Y":
        raise Unclear("the channel took the refund, and moved nothing by this call")
    if read_amount(done.refund_fee) < amount:  # it counts all refunds of the trade
        raise Unclear("less was given back than we asked for")
    return _refunded(refund_id, done.trade_no, done.gmt_refund_pay)


def read_refund_query(
    reply: Reply, *, refund_id: str, attempt_id: str, amount: Money
) -> RefundFact:
    """What a question about a refund says: SUCCESS, or NOT_FOUND. An unknown number and a refund
    that is not decided are answered alike, and both may be submitted again under their number.

    Raises:
        Unclear: nothing certain.
    """
    if not reply.is_success:
        if reply.sub_code == NO_TRADE:
            return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
        raise Unclear(reply)
    found = _decode(reply.content, _RefundFound)
    if found.out_request_no not in ("", refund_id) or found.out_trade_no not in ("", attempt_id):
        raise Unclear("the answer is about another refund")
    if found.refund_status == "":
        return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
    if found.refund_status != "REFUND_SUCCESS":
        raise Unclear("the answer has an unknown status")
    if found.out_request_no != refund_id or read_amount(found.refund_amount) != amount:
        raise Unclear("the answer is about another amount")
    return _refunded(refund_id, found.trade_no, found.gmt_refund_pay)


def read_bill_address(reply: Reply) -> str:
    """Where a bill can be fetched.

    Raises:
        Unclear: there is none.
    """
    if not reply.is_success:
        raise Unclear(reply)
    return _decode(reply.content, _BillAddress).bill_download_url


def refund_refused(reply: Reply, *, refund_id: str) -> RefundFact:
    """A refund that was refused for good, with a code of `REFUND_REFUSED`."""
    return RefundFact(
        refund_id=refund_id,
        status=RefundChannelStatus.FAILED,
        reason=REFUND_REFUSED[reply.sub_code],
        message=str(reply),
    )


def trade_fact_of(fields: Mapping[str, str], *, attempt_id: str) -> ChannelFact:
    """What the fields of a trade say.

    Raises:
        Unclear: nothing certain.
    """
    try:
        trade = msgspec.convert(dict(fields), _Trade)
    except msgspec.ValidationError:
        raise Unclear("the notice lacks fields") from None
    return _trade_fact(trade, attempt_id=attempt_id)


def _trade_fact(trade: _Trade, *, attempt_id: str) -> ChannelFact:
    if trade.out_trade_no != attempt_id:
        raise Unclear("the answer is about another attempt")
    status = TRADE_STATUSES.get(trade.trade_status)
    if status is None:
        raise Unclear("the answer has an unknown status")
    paid_at = trade.send_pay_date or trade.gmt_payment
    if status is ChannelStatus.CLOSED and paid_at:
        status = ChannelStatus.CAPTURED
    if status is ChannelStatus.CAPTURED and trade.credit_pay_mode:
        raise Unclear(f"paid by credit of kind {message_of(trade.credit_pay_mode)}: look at it")
    return ChannelFact(
        attempt_id=attempt_id,
        status=status,
        amount=read_amount(trade.total_amount),
        trade_no=_number(trade.trade_no),
        reason="PAYMENT_CLOSED" if status is ChannelStatus.CLOSED else "",
        occurred_at=china_moment(paid_at),
    )


def _refunded(refund_id: str, trade_no: str, at: str) -> RefundFact:
    """Alipay has no number of its own for a refund: it is that of the trade."""
    return RefundFact(
        refund_id=refund_id,
        status=RefundChannelStatus.SUCCESS,
        channel_refund_no=_number(trade_no),
        occurred_at=china_moment(at),
    )


def _number(text: str) -> str:
    if not _TRADE_NO.fullmatch(text):
        raise Unclear("the answer has no usable trade number")
    return text


def _decode(content: bytes, kind: type[A]) -> A:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unclear("the answer lacks fields") from None
