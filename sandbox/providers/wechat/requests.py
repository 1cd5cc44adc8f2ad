"""Checks the bodies of WeChat Pay's requests: names, types, lengths. An unknown name is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.providers.wechat.errors import Refused, wrong
from sandbox.providers.wechat.objects import CURRENCY, WechatConfig

Check = Callable[[Any], bool]
TRADE_TYPES: Final[Mapping[str, str]] = {
    "native": "NATIVE",
    "jsapi": "JSAPI",
    "h5": "MWEB",
    "app": "APP",
}
_EXPIRE_MIN = timedelta(minutes=1)
_EXPIRE_MAX = {"NATIVE": timedelta(days=7)}
_EXPIRE_MAX_OTHERS = timedelta(days=15)
_REASON_BYTES_MAX = 80
_URL_MAX = 256


def _text(least: int, most: int) -> Check:
    return lambda value: isinstance(value, str) and least <= len(value) <= most


def _matches(pattern: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_currency(value: Any) -> bool:
    return bool(value == CURRENCY)


def _is_anything(_value: Any) -> bool:
    return True


def _is_notify_url(value: Any) -> bool:
    """Production wants https; a simulator also tells programs on loopback."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"https?://[^\s?#]+", value) is not None
        and len(value) <= _URL_MAX
        and (value.startswith("https://") or "://127.0.0.1" in value or "://localhost" in value)
    )


_OUT_TRADE_NO = _matches(r"[A-Za-z0-9_\-|*]{6,32}")
_PREPAY: Final[Mapping[str, Check]] = {
    "appid": _text(1, 32),
    "mchid": _text(1, 32),
    "description": _text(1, 127),
    "out_trade_no": _OUT_TRADE_NO,
    "notify_url": _is_notify_url,
    "amount.total": _is_count,
}
_PREPAY_MAY: Final[Mapping[str, Check]] = {
    "amount.currency": _is_currency,
    "time_expire": _text(1, 64),
    "attach": _text(0, 128),
    "goods_tag": _text(1, 32),
    "support_fapiao": lambda value: isinstance(value, bool),
    "detail": _is_anything,
    "settle_info": _is_anything,
    "scene_info.payer_client_ip": _text(1, 45),
    "scene_info.device_id": _text(1, 32),
    "scene_info.store_info": _is_anything,
}
_PREPAY_OF: Final[Mapping[str, Mapping[str, Check]]] = {
    "JSAPI": {"payer.openid": _text(1, 128)},
    "MWEB": {
        "scene_info.payer_client_ip": _text(1, 45),
        "scene_info.h5_info.type": _matches("iOS|Android|Wap"),
    },
}
_H5_MAY: Final[Mapping[str, Check]] = {
    f"scene_info.h5_info.{name}": _text(1, 128)
    for name in ("app_name", "app_url", "bundle_id", "package_name")
}
_REFUND: Final[Mapping[str, Check]] = {
    "out_refund_no": _matches(r"[A-Za-z0-9_\-|*@]{1,64}"),
    "amount.refund": _is_count,
    "amount.total": _is_count,
    "amount.currency": _is_currency,
}
_REFUND_MAY: Final[Mapping[str, Check]] = {
    "transaction_id": _text(1, 32),
    "out_trade_no": _OUT_TRADE_NO,
    "reason": lambda value: (
        isinstance(value, str) and 1 <= len(value.encode()) <= _REASON_BYTES_MAX
    ),
    "notify_url": _is_notify_url,
    "funds_account": _matches("AVAILABLE|UNSETTLED"),
    "amount.from": _is_anything,
    "goods_detail": _is_anything,
}


def read_json(body: bytes) -> dict[str, Any]:
    """The body.

    Raises:
        Refused: it is no JSON object.
    """
    try:
        sent = json.loads(body)
    except ValueError:
        sent = None
    if not isinstance(sent, dict):
        raise Refused("PARAM_ERROR", "无法将输入源映射到目标字段")
    return sent


def check_prepay(
    sent: Mapping[str, Any], trade_type: str, config: WechatConfig, now: datetime
) -> datetime:
    """Checks a request to pay; returns until when the buyer can pay.

    Raises:
        Refused: PARAM_ERROR, names the field; APPID_MCHID_NOT_MATCH.
    """
    must = {**_PREPAY, **_PREPAY_OF.get(trade_type, {})}
    _check(sent, must=must, may={**_PREPAY_MAY, **(_H5_MAY if trade_type == "MWEB" else {})})
    if (sent["appid"], sent["mchid"]) != (config.appid, config.mchid):
        raise Refused("APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    longest = _EXPIRE_MAX.get(trade_type, _EXPIRE_MAX_OTHERS)
    if "time_expire" not in sent:
        return now + longest
    try:
        expires_at = datetime.fromisoformat(sent["time_expire"])
    except ValueError:
        raise wrong("time_expire") from None
    if expires_at.tzinfo is None or not now + _EXPIRE_MIN <= expires_at <= now + longest:
        raise wrong("time_expire")
    return expires_at.astimezone(UTC)


def check_refund(sent: Mapping[str, Any]) -> None:
    """Checks a request to refund.

    Raises:
        Refused: PARAM_ERROR, names the field.
    """
    _check(sent, must=_REFUND, may=_REFUND_MAY)
    if "transaction_id" not in sent and "out_trade_no" not in sent:
        raise wrong("out_trade_no")


def check_mchid(sent: Mapping[str, Any], config: WechatConfig) -> None:
    """Checks a request that names nothing but the merchant.

    Raises:
        Refused: PARAM_ERROR.
    """
    _check(sent, must={"mchid": lambda value: value == config.mchid}, may={})


def _check(sent: Mapping[str, Any], *, must: Mapping[str, Check], may: Mapping[str, Check]) -> None:
    known = {**may, **must}
    found = dict(_flat(sent, "", known))
    for name, value in found.items():
        if name not in known or not known[name](value):
            raise wrong(name)
    for name in must:
        if name not in found:
            raise wrong(name, "缺少参数")


def _flat(
    sent: Mapping[str, Any], prefix: str, known: Mapping[str, Check]
) -> list[tuple[str, Any]]:
    """Names such as `amount.total`, and values. An object of a known name stays whole."""
    found: list[tuple[str, Any]] = []
    for name, value in sent.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and path not in known:
            found += _flat(value, f"{path}.", known) or [(path, value)]
        else:
            found.append((path, value))
    return found
