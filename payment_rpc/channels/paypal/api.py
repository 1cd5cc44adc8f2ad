"""HTTP calls to PayPal, with an access token that is renewed before it ends."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Final

import msgspec

from mesh.logs import get_logger
from mesh.outbound.connections import ANSWER_BYTES_MAX, Answer, Connections, Lost, NotSent
from payment_rpc.channels.paypal.credentials import Credentials
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.time_left import TimeLeft

LIVE_URL: Final = "https://api-m.paypal.com"
SANDBOX_URL: Final = "https://api-m.sandbox.paypal.com"
OK, CREATED, NO_CONTENT = 200, 201, 204

_RENEW_AFTER: Final = 0.8  # of a token's life
_UNAUTHORIZED: Final = 401

_log = get_logger()


class _TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int


class TokenRefused(NotSent):
    """PayPal gives no access token, so the call was not made."""


class Tokens:
    """The access token of an application. One caller at a time fetches a new one."""

    def __init__(self, connections: Connections, credentials: Credentials) -> None:
        self._connections = connections
        basic = f"{credentials.client_id}:{credentials.client_secret}".encode()
        self._headers = {
            "authorization": f"Basic {base64.b64encode(basic).decode()}",
            "content-type": "application/x-www-form-urlencoded",
        }
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._renewing = asyncio.Lock()

    async def get(self, left: TimeLeft) -> str:
        """A token that can be used now.

        Raises:
            NotSent: there is none, and no call was made with one.
        """
        if self._now_seconds() < self._renew_at:
            return self._token
        async with self._renewing:
            if self._now_seconds() >= self._renew_at:
                try:
                    await self._renew(left)
                except NotSent:
                    if self._now_seconds() >= self._ends_at:
                        raise
            return self._token

    def forget(self, token: str) -> None:
        """PayPal does not take a token any more."""
        if token == self._token:
            self._renew_at = self._ends_at = 0.0

    async def _renew(self, left: TimeLeft) -> None:
        try:
            answer = await self._connections.exchange(
                "POST",
                "/v1/oauth2/token",
                body=b"grant_type=client_credentials",
                timeout_seconds=left.in_seconds,
                headers=self._headers,
            )
        except Lost as problem:
            raise NotSent(f"no access token: {problem}") from None
        if answer.status_code != OK:
            raise TokenRefused(f"no access token: answered {answer.status_code}")
        try:
            got = msgspec.json.decode(answer.body, type=_TokenAnswer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise NotSent("no access token: the answer cannot be read") from None
        token = got.access_token
        if not (token and token.isascii() and token.isprintable()):
            raise NotSent("no access token: the answer has none")
        self._token = token
        self._ends_at = self._now_seconds() + got.expires_in
        self._renew_at = self._now_seconds() + got.expires_in * _RENEW_AFTER

    @staticmethod
    def _now_seconds() -> float:
        return asyncio.get_running_loop().time()


class PayPalApi:
    """Sends requests of one application."""

    def __init__(self, credentials: Credentials, *, base_url: str) -> None:
        self._connections = Connections(
            base_url, headers={"accept-encoding": "identity"}, heard=PROVIDER_CLOCKS.heard
        )
        self._tokens = Tokens(self._connections, credentials)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connections.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        left: TimeLeft,
        request_id: str = "",
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """One request. It is repeated once with a new token after 401, because PayPal executes
        nothing that it answers so.

        Args:
            request_id: PayPal's idempotency key; "" for requests that change nothing.

        Raises:
            NotSent: no byte of the request left, or there is no access token. Lost: it may have
                arrived.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", "prefer": "return=representation"}
        if request_id:
            headers["paypal-request-id"] = request_id
        for is_last in (False, True):
            token = await self._tokens.get(left)
            answer = await self._connections.exchange(
                method,
                path,
                body=content,
                timeout_seconds=left.in_seconds,
                headers={**headers, "authorization": f"Bearer {token}"},
                answer_bytes_max=answer_bytes_max,
            )
            if answer.status_code != _UNAUTHORIZED or is_last:
                break
            self._tokens.forget(token)
        if answer.status_code >= 400:
            _log.info(
                "paypal_refused",
                status_code=answer.status_code,
                path=path.partition("?")[0],
                debug_id=answer.headers.get("paypal-debug-id", "")[:64],
            )
        return answer
