"""Signed requests to WeChat Pay, and its signed answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from mesh.outbound.connections import ANSWER_BYTES_MAX, Answer, Connections
from payment_rpc.channels.doubt import Unclear, message_of
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.rsa_signatures import read_private_key, read_public_key
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.channels.wechat.credentials import Credentials
from payment_rpc.channels.wechat.signatures import (
    authorization,
    client_signature,
    must_be_signed,
)
from payment_rpc.domain.errors import SignatureInvalid

BASE_URL: Final = "https://api.mch.weixin.qq.com"  # there is no sandbox


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer other than success says. Branch on the code, never on the message."""

    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: signed by WeChat Pay when the status is a success, unsigned otherwise.

    Attributes:
        code: why it is no success, "" where it does not say.
    """

    status_code: int
    code: str
    message: str
    content: bytes

    @property
    def is_success(self) -> bool:
        """True for 200 and 204. 202 asks for patience."""
        return self.status_code in (200, 204)

    def __str__(self) -> str:
        return message_of(f"answered {self.status_code} {self.code} {self.message}".strip())


class WechatApi:
    """Signs requests and checks answers. `public_keys` are WeChat Pay's by their ids."""

    def __init__(
        self, credentials: Credentials, *, base_url: str, now: Callable[[], datetime]
    ) -> None:
        self._credentials = credentials
        self._key = read_private_key(credentials.private_key, field="private_key")
        self.public_keys = {
            serial: read_public_key(text, field="public_keys")
            for serial, text in credentials.public_keys.items()
        }
        self._now = now
        self._connections = Connections(
            base_url,
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": "paymesh",
                "wechatpay-serial": next(iter(credentials.public_keys)),
            },
            heard=PROVIDER_CLOCKS.heard,
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connections.aclose()

    async def call(
        self,
        method: str,
        target: str,
        content: Mapping[str, object] | None = None,
        *,
        left: TimeLeft,
    ) -> Reply:
        """Sends one request.

        Args:
            target: path and query, quoted; WeChat Pay must be reached at the root of its host,
                because they are signed.

        Raises:
            NotSent: no byte of it left. Lost: it may have arrived.
            Unclear: a success that WeChat Pay did not sign.
        """
        body = b"" if content is None else json.dumps(content, ensure_ascii=False).encode()
        answer = await self.fetch(method, target, body, left=left)
        is_success = 200 <= answer.status_code < 300
        if is_success:
            try:
                must_be_signed(answer.headers, answer.body, keys=self.public_keys, now=self._now())
            except SignatureInvalid as problem:
                raise Unclear(f"the answer is not signed by WeChat Pay: {problem}") from None
        refusal = _Refusal()
        if answer.status_code not in (200, 204):
            try:
                refusal = msgspec.json.decode(answer.body, type=_Refusal)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                refusal = _Refusal()
        return Reply(
            status_code=answer.status_code,
            code=refusal.code,
            message=refusal.message,
            content=answer.body,
        )

    async def fetch(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        left: TimeLeft,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """Sends one signed request; whether the answer is signed is not checked.

        Raises:
            NotSent, Lost: as `call`.
        """
        headers = {
            "authorization": authorization(
                self._key,
                mchid=self._credentials.mchid,
                serial_no=self._credentials.serial_no,
                method=method,
                target=target,
                timestamp=self._timestamp(),
                nonce=secrets.token_hex(16),
                body=body,
            )
        }
        if body:
            headers["content-type"] = "application/json"
        return await self._connections.exchange(
            method,
            target,
            body=body or None,
            headers=headers,
            timeout_seconds=left.in_seconds,
            answer_bytes_max=answer_bytes_max,
        )

    def client_params(self, prepay_id: str) -> str:
        """What the buyer's WeChat needs to open a prepaid order, as the text of a JSON object."""
        timestamp, nonce = self._timestamp(), secrets.token_hex(16)
        package, appid = f"prepay_id={prepay_id}", self._credentials.appid
        signature = client_signature(
            self._key, appid=appid, timestamp=timestamp, nonce=nonce, package=package
        )
        return json.dumps(
            {
                "appId": appid,
                "timeStamp": timestamp,
                "nonceStr": nonce,
                "package": package,
                "signType": "RSA",
                "paySign": signature,
            }
        )

    def _timestamp(self) -> str:
        return str(int(self._now().timestamp()))
