"""Reads requests of Alipay's gateway: common parameters, `biz_content`, terms of a trade."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sandbox.providers.alipay.errors import Refused, business, invalid, missing
from sandbox.providers.alipay.objects import AlipayConfig, Terms
from sandbox.providers.alipay.signing import is_request_signed
from sandbox.providers.china import china_moment

PAGE_METHODS: Final = frozenset({"alipay.trade.page.pay", "alipay.trade.wap.pay"})
PRECREATE: Final = "alipay.trade.precreate"
_PRODUCTS = {
    "alipay.trade.page.pay": frozenset({"FAST_INSTANT_TRADE_PAY"}),
    # one client library sends the second word
    "alipay.trade.wap.pay": frozenset({"QUICK_WAP_WAY", "QUICK_WAP_PAY"}),
    PRECREATE: frozenset({"QR_CODE_OFFLINE", "FACE_TO_FACE_PAYMENT", ""}),
}
_TRADE = frozenset({"out_trade_no", "trade_no"})
# what `biz_content` may hold; other names are refused, so that a misspelled one is noticed
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(
        (*PAGE_METHODS, PRECREATE),
        frozenset(
            {
                *("out_trade_no", "total_amount", "subject", "body", "product_code"),
                *("time_expire", "timeout_express", "passback_params", "goods_detail"),
                *("extend_params", "qr_pay_mode", "qrcode_width", "quit_url", "store_id"),
                *("operator_id", "terminal_id", "seller_id", "discountable_amount"),
            }
        ),
    ),
    "alipay.trade.query": _TRADE | {"query_options"},
    "alipay.trade.close": _TRADE | {"operator_id"},
    "alipay.trade.cancel": _TRADE,
    "alipay.trade.refund": _TRADE
    | {"refund_amount", "out_request_no", "refund_reason", "operator_id", "query_options"},
    "alipay.trade.fastpay.refund.query": _TRADE | {"out_request_no", "query_options"},
    "alipay.data.dataservice.bill.downloadurl.query": frozenset({"bill_type", "bill_date"}),
}
_TEXT_LIMITS = {"out_trade_no": 64, "trade_no": 64, "out_request_no": 64, "subject": 256}
_TEXT_LIMITS |= {"refund_reason": 256, "body": 128, "passback_params": 512}
_OUT_TRADE_NO = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
_AMOUNT = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.([0-9]{1,2}))?", re.ASCII)
_FEN_MAX = 10_000_000_000
_TIMEOUT = re.compile(r"([0-9]{1,5})([mhd])", re.ASCII)
_MINUTES = {"m": 1, "h": 60, "d": 1440}
_EXPIRE_MIN, _EXPIRE_MAX = timedelta(minutes=1), timedelta(days=15)
# Alipay publishes no tolerance; local time of a machine that is not in China is outside of ours
_CLOCK_TOLERANCE = timedelta(minutes=15)


def single(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Parameters from the query and the form together.

    Raises:
        Refused: a name occurs twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise invalid("parameter", "参数重复")
    return found


def check_common(parameters: Mapping[str, str], config: AlipayConfig, now: datetime) -> None:
    """Checks the common parameters and the signature; the gateway looks at app_id first.

    Args:
        now: of the world outside, which dates its requests.

    Raises:
        Refused: 40001 or 40002, nothing was done.
    """
    for name in ("app_id", "method", "sign_type", "sign", "timestamp", "version", "charset"):
        if not parameters.get(name):
            raise missing("signature" if name == "sign" else name.replace("sign_", "signature_"))
    method = parameters["method"]
    if method not in FIELDS:
        raise invalid("method", "不存在的方法名")
    if parameters["app_id"] != config.app_id:
        raise invalid("app_id", "无效的AppID参数")
    if parameters["sign_type"] != "RSA2":
        raise invalid("signature_type", "无效签名类型")
    if parameters["charset"].lower() != "utf-8":
        raise invalid("charset", "字符集错误")
    if parameters["version"] != "1.0" or parameters.get("format", "JSON").upper() != "JSON":
        raise invalid("parameter", "参数无效")
    if not is_request_signed(config.merchant_key, parameters):
        raise invalid("signature", "验签出错")
    try:
        stamped = china_moment(parameters["timestamp"])
    except ValueError:
        raise invalid("timestamp", "非法的时间戳参数") from None
    # a browser may open a page long after it was made
    if method not in PAGE_METHODS and abs(now - stamped) > _CLOCK_TOLERANCE:
        raise invalid("timestamp", "非法的时间戳参数")


def read_content(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The `biz_content` of a request.

    Raises:
        Refused: no JSON object; a name that the method does not know; a value of the wrong type.
    """
    if not parameters.get("biz_content"):
        raise missing("biz_content")
    try:
        content = json.loads(parameters["biz_content"])
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise invalid("biz_content", "biz_content不是合法的JSON")
    if unknown := content.keys() - FIELDS[parameters["method"]]:
        raise business("INVALID_PARAMETER", f"参数无效: {','.join(sorted(unknown))}")
    for name, value in content.items():
        if name not in {"goods_detail", "extend_params", "query_options"}:
            _check_text(name, value)
    options = content.get("query_options", [])
    if not isinstance(options, list) or not all(isinstance(one, str) for one in options):
        raise business("INVALID_PARAMETER", "参数无效: query_options")
    return content


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > _TEXT_LIMITS.get(name, 1024):
        raise business("INVALID_PARAMETER", f"参数无效: {name}")


def read_terms(parameters: Mapping[str, str], content: Mapping[str, Any], now: datetime) -> Terms:
    """The terms of a trade that is to be paid by a page or a code.

    Raises:
        Refused: ACQ.INVALID_PARAMETER, names the field.
    """
    method = parameters["method"]
    require(content, ("out_trade_no", "total_amount", "subject"))
    if not _OUT_TRADE_NO.fullmatch(content["out_trade_no"]):
        raise business("INVALID_PARAMETER", "参数无效: out_trade_no")
    if set(content["subject"]) & set("/=&"):
        raise business("INVALID_PARAMETER", "参数无效: subject")
    if content.get("product_code", "") not in _PRODUCTS[method]:
        raise business("INVALID_PARAMETER", "参数无效: product_code")
    stamped = china_moment(parameters["timestamp"]) if method in PAGE_METHODS else now
    return Terms(
        out_trade_no=content["out_trade_no"],
        total=fen(content["total_amount"], "total_amount"),
        subject=content["subject"],
        body=content.get("body", ""),
        passback_params=content.get("passback_params", ""),
        method=method,
        notify_url=parameters.get("notify_url", ""),
        return_url=parameters.get("return_url", ""),
        expires_at=_expires_at(content, stamped),
    )


def _expires_at(content: Mapping[str, Any], stamped: datetime) -> datetime:
    expires_at = stamped + _EXPIRE_MAX
    if text := content.get("time_expire"):
        try:
            expires_at = china_moment(text)
        except ValueError:
            raise business("INVALID_PARAMETER", "参数无效: time_expire") from None
    elif text := content.get("timeout_express"):
        match = _TIMEOUT.fullmatch(text)
        if match is None:
            raise business("INVALID_PARAMETER", "参数无效: timeout_express")
        expires_at = stamped + timedelta(minutes=int(match[1]) * _MINUTES[match[2]])
    # the stamp is truncated to seconds
    if not _EXPIRE_MIN - timedelta(seconds=1) <= expires_at - stamped <= _EXPIRE_MAX:
        raise business("INVALID_PARAMETER", "参数无效: time_expire")
    return expires_at.astimezone(UTC)


def require(content: Mapping[str, Any], names: Collection[str]) -> None:
    """Checks that fields are there.

    Raises:
        Refused: ACQ.INVALID_PARAMETER, names the first that is missing or empty.
    """
    for name in names:
        if not content.get(name):
            raise business("INVALID_PARAMETER", f"参数无效: {name}")


def fen(text: str, field: str) -> int:
    """Reads an amount of yuan such as `99.9`.

    Raises:
        Refused: no amount from 0.01 to 100000000.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise business("INVALID_PARAMETER", f"参数无效: {field}")
    amount = int(text.split(".", maxsplit=1)[0]) * 100 + int((match[1] or "").ljust(2, "0"))
    if not 0 < amount <= _FEN_MAX:
        raise business("INVALID_PARAMETER", f"参数无效: {field}")
    return amount


def read_day(text: str) -> date:
    """Reads the day of a bill.

    Raises:
        Refused: not `yyyy-MM-dd`.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise Refused("40004", "invalid_arguments", "入参不合法")
    return day
