"""Signed requests to Alipay's gateway, and its signed answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

import msgspec

from mesh.outbound.connections import Connections
from payment_rpc.channels.alipay.credentials import Credentials
from payment_rpc.channels.alipay.signatures import ALGORITHM, request_text, signed_answer
from payment_rpc.channels.china import china_text
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.rsa_signatures import read_private_key, read_public_key, sign
from payment_rpc.channels.time_left import TimeLeft

LIVE_URL: Final = "https://openapi.alipay.com"
SANDBOX_URL: Final = "https://openapi-sandbox.dl.alipaydev.com"
_PATH: Final = "/gateway.do"
_HEADERS: Final = {
    "accept-encoding": "identity",
    "content-type": "application/x-www-form-urlencoded;charset=utf-8",
}


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer has; unknown fields are ignored."""

    code: str
    msg: str = ""
    sub_code: str = ""
    sub_msg: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A signed answer.

    Attributes:
        code: 10000 for success.
        sub_code: the business code in capitals without its prefix, which Alipay writes in several
            ways (`ACQ.TRADE_NOT_EXIST`, `TRADE_NOT_EXIST`, `isp.bill_not_exist`), or "".
        content: the JSON object with all fields.
    """

    code: str
    sub_code: str
    message: str
    content: bytes

    @property
    def is_success(self) -> bool:
        """True when it has the fields of its method."""
        return self.code == "10000"

    def __str__(self) -> str:
        return message_of(f"answered {self.code} {self.sub_code} {self.message}".strip())


class AlipayApi:
    """Signs requests and checks answers. `alipay_keys` are those that sign for Alipay."""

    def __init__(
        self, credentials: Credentials, *, base_url: str, now: Callable[[], datetime]
    ) -> None:
        self._app_id = credentials.app_id
        self._key = read_private_key(credentials.private_key, field="private_key")
        self.alipay_keys = [
            read_public_key(text, field="alipay_public_key") for text in credentials.public_keys
        ]
        self._base_url = base_url.rstrip("/")
        self._now = now
        self._connections = Connections(base_url, headers=_HEADERS, heard=PROVIDER_CLOCKS.heard)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connections.aclose()

    def page_url(self, method: str, content: Mapping[str, str], **common: str) -> str:
        """An address that a browser opens."""
        return f"{self._base_url}{_PATH}?{urlencode(self.signed(method, content, **common))}"

    def signed(self, method: str, content: Mapping[str, object], **common: str) -> dict[str, str]:
        """The fields of a request. Empty ones in `common` are left out."""
        fields = {
            "app_id": self._app_id,
            "method": method,
            "format": "JSON",
            "charset": "utf-8",
            "sign_type": ALGORITHM,
            "timestamp": china_text(self._now()),
            "version": "1.0",
            **{name: value for name, value in common.items() if value},
            "biz_content": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        }
        return {**fields, "sign": sign(self._key, request_text(fields))}

    async def call(
        self, method: str, content: Mapping[str, object], *, left: TimeLeft, **common: str
    ) -> Reply:
        """Sends one request.

        Raises:
            NotSent: no byte of it left. Lost: it may have arrived.
            Unclear: the answer is not signed by Alipay, or none of its answers.
        """
        answer = await self._connections.exchange(
            "POST",
            _PATH,
            body=urlencode(self.signed(method, content, **common)).encode(),
            timeout_seconds=left.in_seconds,
        )
        if answer.status_code != 200:
            raise Unclear(f"answered {answer.status_code}")
        value = signed_answer(answer.body, f"{method.replace('.', '_')}_response", self.alipay_keys)
        try:
            head = msgspec.json.decode(value, type=_Head)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise Unclear("the answer has no code") from None
        return Reply(
            code=head.code,
            sub_code=head.sub_code.rpartition(".")[2].upper(),
            message=head.sub_msg or head.msg,
            content=value,
        )
