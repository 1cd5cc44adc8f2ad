"""The identity provider of a firm, over the network: OpenID Connect, code flow with PKCE (S256).

What it says is believed only after its signature, issuer, audience, times and nonce were checked.
Its answers are bounded in time and size, no redirect is followed, and every URL is https or leads
to this machine.
"""

from __future__ import annotations

import asyncio
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError

from merchant_rpc.domain.errors import LoginFailed
from mesh.clock import Clock
from mesh.errors import Unavailable
from mesh.jwks import Key, read_jwks
from mesh.logs import get_logger
from mesh.settings import is_loopback

REQUEST_SECONDS: Final = 2.5
BODY_BYTES_MAX: Final = 256 * 1024
DISCOVERED_FOR: Final = timedelta(minutes=10)
# A token with an unknown key has the keys read again, but not by everybody who sends such tokens.
KEYS_READ_EVERY: Final = timedelta(seconds=10)
LEEWAY_SECONDS: Final = 30
SUB_LENGTH_MAX: Final = 255
# nothing compressed: a small body may unpack to a large one
_HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity"}
log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcClient:
    """What the provider knows us by.

    Attributes:
        issuer: its address, as its tokens name it.
        client_secret_file: read at each log-in, so that it can be replaced.
        redirect_url: where it sends people back to.
    """

    issuer: str
    client_id: str
    client_secret_file: Path | None
    scopes: str
    redirect_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who logged in, as the provider says. `email` is "" unless the provider verified it."""

    sub: str
    email: str = field(repr=False)


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


class IdentityProvider:
    """Asks the identity provider. Never call it in a transaction."""

    def __init__(self, client: OidcClient, *, clock: Clock) -> None:
        """Raises ValueError when a URL is neither https nor of this machine."""
        require_safe(client.issuer)
        self._client = client
        self._clock = clock
        self._http = httpx.AsyncClient(
            # a proxy of the environment must not see codes and secrets
            trust_env=False,
            follow_redirects=False,
            timeout=REQUEST_SECONDS,
        )
        self._discovery: tuple[datetime, _Discovery] | None = None
        self._keys: tuple[datetime, dict[str, Key]] | None = None

    async def close(self) -> None:
        """Closes every connection."""
        await self._http.aclose()

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """The URL that a person opens to log in.

        Raises:
            Unavailable: the provider is away, or answers what cannot be used.
        """
        discovery = await self._discover()
        return str(
            prepare_grant_uri(
                discovery.authorization_endpoint,
                client_id=self._client.client_id,
                response_type="code",
                redirect_uri=self._client.redirect_url,
                scope=self._client.scopes,
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    async def identify(self, code: str, *, nonce: str, verifier: str) -> Identity:
        """Exchanges the code of a redirect for who logged in.

        Raises:
            LoginFailed: the provider does not take the code, or its token cannot be believed.
            Unavailable: the provider is away, or answers what cannot be used.
        """
        discovery = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.redirect_url,
            "client_id": self._client.client_id,
            "code_verifier": verifier,
        }
        secret = await asyncio.to_thread(self._secret)
        if secret:
            form["client_secret"] = secret
        status, body = await self._ask("POST", discovery.token_endpoint, form)
        if status in {400, 401}:
            log.warning("oidc_code_refused", status=status)
            raise LoginFailed
        token = _read(body, _Tokens, status=status).id_token
        claims = await self._believed(token, discovery, nonce=nonce)
        sub = claims.get("sub")
        if not isinstance(sub, str) or not 0 < len(sub) <= SUB_LENGTH_MAX or not sub.isascii():
            raise _unbelievable("sub")
        email = claims.get("email")
        # some providers write "true"
        is_verified = claims.get("email_verified") in (True, "true")
        return Identity(sub=sub, email=email if is_verified and isinstance(email, str) else "")

    async def _believed(
        self, token: str, discovery: _Discovery, *, nonce: str
    ) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(str(header.get("kid", "")), discovery)
            claims = jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                # judged below, by our clock
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_aud": False,
                },
            )
            judged = CodeIDToken(
                claims,
                header,
                options={
                    "iss": {"essential": True, "value": discovery.issuer},
                    "aud": {"essential": True, "value": self._client.client_id},
                },
                params={"nonce": nonce, "client_id": self._client.client_id},
            )
            judged.validate(now=int(self._clock.now().timestamp()), leeway=LEEWAY_SECONDS)
        except (jwt.PyJWTError, JoseError, ValueError, TypeError) as problem:
            raise _unbelievable(str(problem)) from None
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise _unbelievable("nonce")
        return dict(claims)

    async def _key(self, kid: str, discovery: _Discovery) -> Key:
        now = self._clock.now()
        known = self._keys
        may_read = known is None or now - known[0] >= KEYS_READ_EVERY
        is_old = known is not None and now - known[0] >= DISCOVERED_FOR
        if known is None or (may_read and (is_old or kid not in known[1])):
            status, body = await self._ask("GET", discovery.jwks_uri)
            if status != 200:
                raise Unavailable(f"the identity provider answered {status} for its keys")
            try:
                known = (now, read_jwks(body))
            except (ValueError, msgspec.MsgspecError, binascii.Error) as problem:
                raise Unavailable(f"keys of the identity provider: {problem}") from None
            self._keys = known
        key = known[1].get(kid)
        if key is None:
            raise _unbelievable("kid")
        return key

    async def _discover(self) -> _Discovery:
        now = self._clock.now()
        if self._discovery is not None and now - self._discovery[0] < DISCOVERED_FOR:
            return self._discovery[1]
        url = self._client.issuer.rstrip("/") + "/.well-known/openid-configuration"
        status, body = await self._ask("GET", url)
        found: _Discovery = _read(body, _Discovery, status=status)
        if found.issuer != self._client.issuer:
            raise Unavailable("the identity provider calls itself by another name")
        try:
            for each in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
                require_safe(each)
        except ValueError as problem:
            raise Unavailable(f"the identity provider: {problem}") from None
        self._discovery = (now, found)
        return found

    async def _ask(
        self, method: str, url: str, form: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        body = bytearray()
        try:
            # httpx limits each wait for bytes; only this ends one that sends a byte at a time
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                self._http.stream(method, url, data=form, headers=_HEADERS) as answer,
            ):
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > BODY_BYTES_MAX:
                        raise Unavailable("the identity provider answers too much")
                return answer.status_code, bytes(body)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
            log.warning("oidc_provider_away", problem=repr(problem))
            raise Unavailable("the identity provider is away") from None

    def _secret(self) -> str:
        file = self._client.client_secret_file
        if file is None:
            return ""
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as problem:
            log.error("oidc_client_secret_unreadable", alert=True, problem=str(problem))
            raise Unavailable("the secret for the identity provider cannot be read") from None


def require_safe(url: str) -> None:
    """Raises ValueError unless a URL is https, or http to this machine."""
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or (
        parts.scheme == "http" and is_loopback(parts.hostname or "")
    )
    if not is_safe or not parts.hostname or parts.username is not None or parts.fragment:
        raise ValueError("a URL of an identity provider is https, without a user")


def _unbelievable(problem: str) -> LoginFailed:
    log.warning("oidc_token_refused", alert=True, problem=problem[:200])
    return LoginFailed()


def _read(body: bytes, kind: type[Any], *, status: int) -> Any:
    if status != 200:
        raise Unavailable(f"the identity provider answered {status}")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError:
        raise Unavailable("the identity provider answers what cannot be read") from None
