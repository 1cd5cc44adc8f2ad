"""Access tokens: made for the client's id and secret, valid for some hours."""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from mesh.clock import Clock
from mesh.ids import Ids
from sandbox.providers.paypal.config import PayPalConfig
from sandbox.providers.paypal.refusals import Refused

_SCOPES = (
    "https://uri.paypal.com/services/payments/payment/authcapture "
    "https://uri.paypal.com/services/payments/refund "
    "https://uri.paypal.com/services/reporting/search/read "
    "https://uri.paypal.com/services/applications/webhooks"
)


class TokenRefused(Exception):
    """The answer of OAuth: `error` and `error_description`."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, "error_description": description}


class Tokens:
    """Makes tokens and knows them again."""

    def __init__(self, config: PayPalConfig, clock: Clock, ids: Ids) -> None:
        self._config = config
        self._clock = clock
        self._ids = ids
        self._ends: dict[str, datetime] = {}

    def issue(self, authorization: str, body: bytes) -> dict[str, Any]:
        """A new token.

        Args:
            authorization: the header. body: the form.

        Raises:
            TokenRefused: wrong client or wrong kind of grant.
        """
        expected = f"{self._config.client_id}:{self._config.client_secret}"
        if not hmac.compare_digest(_basic(authorization), expected.encode()):
            raise TokenRefused(401, "invalid_client", "Client Authentication failed")
        form = parse_qs(body.decode("ascii", "replace"))
        if form.get("grant_type") != ["client_credentials"]:
            raise TokenRefused(400, "unsupported_grant_type", "Grant Type is NULL or unsupported")
        token = "A21AA" + self._ids.new("") + self._ids.new("")
        now = self._clock.now()
        self._ends[token] = now + self._config.token_life
        return {
            "scope": _SCOPES,
            "access_token": token,
            "token_type": "Bearer",
            "app_id": "APP-80W284485P519543T",
            "expires_in": int(self._config.token_life.total_seconds()),
            "nonce": f"{now:%Y-%m-%dT%H:%M:%SZ}{self._ids.new('')}",
        }

    def check(self, authorization: str) -> None:
        """Checks the header of a call.

        Raises:
            Refused: there is none. TokenRefused: it is unknown, or too old.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused("AUTHENTICATION_FAILURE")
        end = self._ends.get(token)
        if end is None:
            raise TokenRefused(401, "invalid_token", "Token signature verification failed")
        if self._clock.now() >= end:
            raise TokenRefused(401, "invalid_token", "The token has expired")


def _basic(authorization: str) -> bytes:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
