"""CORS: which web pages may call. Exact origins from the settings, never a wildcard. Callers send
bearer tokens, never cookies, so that credentials are not allowed across origins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.request import Request
from gateway.responses import Headers, Response

_ALLOWED_HEADERS: Final = (
    "authorization",
    "x-api-key",
    "content-type",
    "idempotency-key",
    "x-request-id",
    "traceparent",
    "last-event-id",
)
_EXPOSED_HEADERS: Final = (
    b"x-request-id, traceparent, idempotent-replayed, retry-after, www-authenticate"
)
_PREFLIGHT_SECONDS: Final = b"600"  # what browsers take at most without asking again


class Cors:
    """The allow-list."""

    def __init__(self, origins: Iterable[str], *, bound_headers: Iterable[str] = ()) -> None:
        """Takes the exact origins, and the headers that fill fields of requests."""
        self._allowed = ", ".join(
            [*_ALLOWED_HEADERS, *sorted({*bound_headers} - {*_ALLOWED_HEADERS})]
        ).encode()
        self._headers: dict[bytes, Headers] = {
            origin.encode(): [
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", _EXPOSED_HEADERS),
            ]
            for origin in origins
        }
        self._vary: Headers = [(b"vary", b"Origin")] if self._headers else []

    def headers(self, request: Request) -> Headers:
        """The CORS headers of a response; none for an origin that is not allowed."""
        if not self._headers:
            return self._vary
        origin = request.once(b"origin")
        return self._vary + self._headers.get(origin, []) if origin is not None else self._vary

    def options(self, request: Request, allow: str) -> Response:
        """The answer to OPTIONS on a known path: the verbs, and for a page on the list what it may
        send.
        """
        headers: Headers = [(b"allow", allow.encode())]
        asks = b"access-control-request-method" in request.headers
        if asks and request.once(b"origin") in self._headers:
            headers += [
                (b"access-control-allow-methods", allow.encode()),
                (b"access-control-allow-headers", self._allowed),
                (b"access-control-max-age", _PREFLIGHT_SECONDS),
            ]
        return Response(204, b"", content_type=b"", headers=headers)
