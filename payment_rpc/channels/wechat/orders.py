"""Orders at WeChat Pay: one way to pay each for codes, phones' browsers and pages inside WeChat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from payment_rpc.channels.requests import Checkout
from payment_rpc.channels.wechat import answers
from payment_rpc.channels.wechat.api import Reply, WechatApi
from payment_rpc.domain.payment import NextAction

METHODS: Final = {"": "native", "native": "native", "h5": "h5", "jsapi": "jsapi"}


def problem_with(order: Checkout) -> str:
    """Why WeChat Pay could not take a checkout; "" when it can."""
    match order.method:
        case "h5" if not order.buyer_address:
            return "h5 needs the network address of the buyer"
        case "jsapi" if not order.buyer_openid:
            return "jsapi needs the openid of the buyer"
        case method if method not in METHODS:
            return "the channel has no such way to pay"
        case _:
            return ""


def buyer_of(method: str, order: Checkout) -> Mapping[str, object]:
    """What a way to pay says about the buyer."""
    match method:
        case "h5":
            scene = {"payer_client_ip": order.buyer_address, "h5_info": {"type": "Wap"}}
            return {"scene_info": scene}
        case "jsapi":
            return {"payer": {"openid": order.buyer_openid}}
        case _:
            return {}


def next_action(method: str, reply: Reply, api: WechatApi, *, return_url: str) -> NextAction:
    """What the buyer does next.

    Raises:
        Unclear: the answer does not say it.
    """
    match method:
        case "native":
            return NextAction(kind="QR_CODE", value=answers.read_code_url(reply))
        case "h5":
            url = answers.read_h5_url(reply)
            if return_url:
                url += f"&redirect_url={quote(return_url, safe='')}"
            return NextAction(kind="REDIRECT_URL", value=url)
        case _:
            params = api.client_params(answers.read_prepay_id(reply))
            return NextAction(kind="CLIENT_PARAMS", value=params)


def cut(text: str, bytes_max: int) -> str:
    """The text without what is too much; no character is halved."""
    return text.encode()[:bytes_max].decode(errors="ignore")
