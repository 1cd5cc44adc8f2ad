"""Alipay's notices, after their signature is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from payment_rpc.channels.alipay.answers import trade_fact_of
from payment_rpc.channels.alipay.credentials import Credentials
from payment_rpc.channels.inbound import Ask
from payment_rpc.domain.callback import Subject
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

_TRADE: Final = "trade_status_sync"
# to the gateway of the application, not to the address in a request
_FLOW_BACK: Final = "alipay.trade.refund.depositback.completed"
_BANK_REFUSED: Final = "F"
_OWN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class _FlowBack(msgspec.Struct, frozen=True, kw_only=True):
    """A refund on its way to a bank card."""

    out_trade_no: str
    out_request_no: str
    dback_status: str


def must_be_ours(fields: Mapping[str, str], credentials: Credentials) -> None:
    """Genuine notices of other applications exist.

    Raises:
        SignatureInvalid: of another application, or of another merchant.
    """
    is_ours = fields.get("app_id") == credentials.app_id
    if fields.get("notify_type") == _TRADE or "seller_id" in fields:
        is_ours = is_ours and fields.get("seller_id") == credentials.seller_id
    if not is_ours:
        raise SignatureInvalid("the notice is of another application or merchant")


def read(fields: Mapping[str, str]) -> ChannelFact | RefundFact | Ask | None:
    """What a notice says; None for one that means nothing to us. One that speaks of a refund or of
    a closed trade is a reason to ask: it is neither a payment nor a failure.

    Raises:
        Unclear: an unknown status, or an amount that cannot be read.
        KeyError: it names no attempt or refund of a form that ours have.
    """
    if _kind(fields) == _FLOW_BACK:
        return _flow_back(fields.get("biz_content", ""))
    if _kind(fields) != _TRADE:
        return None
    attempt_id = _own_id(fields["out_trade_no"])
    speaks_of_refund = any(fields.get(name) for name in ("refund_fee", "gmt_refund", "out_biz_no"))
    if speaks_of_refund or fields.get("trade_status") == "TRADE_CLOSED":
        return Ask(subject=subject_of(fields))
    return trade_fact_of(fields, attempt_id=attempt_id)


def event_id(fields: Mapping[str, str]) -> str:
    """The same in all deliveries of a notice, and another one for each status."""
    notify_id = fields.get("notify_id", "")
    return f"{notify_id}:{fields.get('trade_status', '')}" if notify_id else ""


def summary(fields: Mapping[str, str]) -> str:
    """Type and status, for the log."""
    return f"{_kind(fields)} {fields.get('trade_status', '')}".strip()


def subject_of(fields: Mapping[str, str]) -> Subject:
    """The ids in a notice."""
    names = {"event_id": "notify_id", "attempt_id": "out_trade_no", "refund_id": "out_biz_no"}
    told = {name: fields.get(field, "") for name, field in names.items()}
    return Subject(**{name: text for name, text in told.items() if _OWN_ID.fullmatch(text)})


def _kind(fields: Mapping[str, str]) -> str:
    return fields.get("notify_type") or fields.get("msg_method", "")


def _flow_back(content: str) -> RefundFact | None:
    """The bank refused a refund after it had left."""
    try:
        told = msgspec.json.decode(content, type=_FlowBack)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise KeyError("biz_content") from None
    if told.dback_status != _BANK_REFUSED:
        return None
    return RefundFact(
        refund_id=_own_id(told.out_request_no),
        status=RefundChannelStatus.REVERSED,
        reason="REFUND_REVERSED",
        message="the buyer's bank sent the refund back",
    )


def _own_id(text: str) -> str:
    if not _OWN_ID.fullmatch(text):
        raise KeyError(text)
    return text
