"""WeChat Pay's notices, after their signature is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.wechat.answers import Order, Refund, decode, order_fact, refund_fact
from payment_rpc.channels.wechat.credentials import Credentials
from payment_rpc.channels.wechat.signatures import Resource, decrypted
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact

_OWN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


N = TypeVar("N")


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A notice. Unknown fields are ignored."""

    id: str
    event_type: str
    resource: Resource
    create_time: str = ""


class _Named(msgspec.Struct, frozen=True):
    id: str = ""


class Unreadable(Exception):
    """A genuine notice about nothing that we can name."""


def read_notice(body: bytes) -> Notice:
    """The open part of a notice.

    Raises:
        Unreadable: it is none.
    """
    return _decode(body, Notice)


def news_of(
    notice: Notice, credentials: Credentials, doubt: Doubt
) -> ChannelFact | RefundFact | None:
    """What a notice says; None for one that means nothing to us.

    Raises:
        SignatureInvalid: encrypted for somebody else, or about another merchant or application.
        Unreadable: about nothing that we can name.
    """
    read = _READERS.get(notice.event_type)
    if read is None:
        return None
    return read(decrypted(notice.resource, credentials.api_v3_key.encode()), credentials, doubt)


def subject_of(body: bytes) -> Subject:
    """The id of a notice; the rest is encrypted."""
    try:
        told = _decode(body, _Named)
    except Unreadable:
        return Subject()
    return Subject(event_id=told.id) if _OWN_ID.fullmatch(told.id) else Subject()


def _paid(content: bytes, credentials: Credentials, doubt: Doubt) -> ChannelFact:
    order = _decode(content, Order)
    if (order.mchid, order.appid) != (credentials.mchid, credentials.appid):
        raise SignatureInvalid("the notice is of another merchant or application")
    if not _OWN_ID.fullmatch(order.out_trade_no):
        raise Unreadable
    try:
        return order_fact(order, attempt_id=order.out_trade_no)
    except Unclear as problem:
        return doubt.unknown(order.out_trade_no, problem)


def _refunded(content: bytes, credentials: Credentials, doubt: Doubt) -> RefundFact:
    refund = _decode(content, Refund)
    if refund.mchid != credentials.mchid:
        raise SignatureInvalid("the notice is of another merchant")
    if not _OWN_ID.fullmatch(refund.out_refund_no):
        raise Unreadable
    try:
        return refund_fact(refund, word=refund.refund_status)
    except Unclear as problem:
        return doubt.refund_unknown(refund.out_refund_no, problem)


# WeChat Pay tells no failed payments.
_READERS: Final[dict[str, Callable[[bytes, Credentials, Doubt], ChannelFact | RefundFact]]] = {
    "TRANSACTION.SUCCESS": _paid,
    "REFUND.SUCCESS": _refunded,
    "REFUND.ABNORMAL": _refunded,
    "REFUND.CLOSED": _refunded,
}


def _decode(content: bytes, kind: type[N]) -> N:
    try:
        return decode(content, kind)
    except Unclear:
        raise Unreadable from None
