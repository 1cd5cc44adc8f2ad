"""A small identity provider: OpenID Connect over HTTP on this machine, as honest as a test wants
it.
"""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

CLIENT_ID, CLIENT_SECRET = "paymesh-console", "of the client"
KEY = Ed25519PrivateKey.from_private_bytes(b"signs tokens of the provider....")
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"signs tokens of somebody else...")


@dataclass(slots=True)
class OidcIssuer:
    """What it says, and what it was asked."""

    now: Callable[[], int]
    port: int = 0
    claims: dict[str, Any] = field(default_factory=dict)  # in the place of the honest ones
    discovery: dict[str, Any] = field(default_factory=dict)  # likewise
    signing_key: Ed25519PrivateKey = KEY
    kid: str = "k1"
    published_kid: str = "k1"
    raw: dict[str, bytes] = field(default_factory=dict)  # path -> the whole answer
    hangs: set[str] = field(default_factory=set)  # paths that get no answer
    hung: asyncio.Event = field(default_factory=asyncio.Event)  # somebody waits for one of them
    asked: list[str] = field(default_factory=list)  # paths
    forms: list[dict[str, str]] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its name."""
        return f"http://127.0.0.1:{self.port}"

    def log_in(self, authorization_url: str, *, sub: str, email: str) -> tuple[str, str]:
        """Somebody opens the URL and logs in: `code` and `state` of the redirect."""
        query = {
            key: value[0] for key, value in parse_qs(urlsplit(authorization_url).query).items()
        }
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self._codes)}"
        self._codes[code] = {**query, "sub": sub, "email": email}
        return code, query["state"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ")[1]
            length = [
                int(line.partition(":")[2])
                for line in head.split("\r\n")
                if line.lower().startswith("content-length:")
            ]
            body = await reader.readexactly(length[0]) if length else b""
            self.asked.append(path)
            if path in self.hangs:
                self.hung.set()
                await asyncio.sleep(3600)
            writer.write(self.raw.get(path) or self._answer(path, body.decode()))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, path: str, body: str) -> bytes:
        match path:
            case "/.well-known/openid-configuration":
                honest = {
                    "issuer": self.url,
                    "authorization_endpoint": f"{self.url}/authorize?tenant=1",
                    "token_endpoint": f"{self.url}/token",
                    "jwks_uri": f"{self.url}/keys",
                }
                return _json(200, honest | self.discovery)
            case "/keys":
                jwk = json.loads(OKPAlgorithm.to_jwk(KEY.public_key()))
                return _json(200, {"keys": [jwk | {"kid": self.published_kid, "use": "sig"}]})
            case "/token":
                return self._token({key: value[0] for key, value in parse_qs(body).items()})
        return _json(404, {})

    def _token(self, form: dict[str, str]) -> bytes:
        self.forms.append(form)
        begun = self._codes.pop(form["code"], None)
        if begun is None or form.get("client_secret") != CLIENT_SECRET:
            return _json(400, {"error": "invalid_grant"})
        challenge = urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest())
        if challenge.rstrip(b"=").decode() != begun["code_challenge"]:
            return _json(400, {"error": "invalid_grant"})
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": begun["sub"],
            "iat": self.now(),
            "exp": self.now() + 300,
            "nonce": begun["nonce"],
            "email": begun["email"],
            "email_verified": True,
        } | self.claims
        claims = {key: value for key, value in claims.items() if value is not None}
        token = jwt.encode(claims, self.signing_key, algorithm="EdDSA", headers={"kid": self.kid})
        return _json(200, {"access_token": "a", "token_type": "Bearer", "id_token": token})


def answer(status: int, body: bytes, *more: str) -> bytes:
    """An answer as bytes."""
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close", *more]
    return "\r\n".join([*head, "", ""]).encode() + body


def _json(status: int, document: object) -> bytes:
    return answer(status, json.dumps(document).encode(), "content-type: application/json")


@asynccontextmanager
async def oidc_issuer(now: Callable[[], int]) -> AsyncIterator[OidcIssuer]:
    """A provider that listens."""
    issuer = OidcIssuer(now=now)
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.port = server.sockets[0].getsockname()[1]
    try:
        yield issuer
    finally:
        server.close()
