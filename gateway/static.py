"""Responses that are the same for everybody: rendered and compressed once, cacheable, limited in
number for each address.
"""

from __future__ import annotations

import gzip
import re
from hashlib import sha256
from time import monotonic
from typing import Final

from gateway.limits import RateLimit, bucket_of
from gateway.request import Receive, Request
from gateway.responses import Headers, Response
from mesh.call import NOBODY
from mesh.policies import Limit
from mesh.wire_errors import COMMON

_KEEP: Final = b"public, max-age=300"
_GZIP: Final = re.compile(
    rb"(?:^|,)[ \t]*(?:gzip|\*)[ \t]*(?:;[ \t]*q=(?!0(?:\.0*)?[ \t]*(?:,|$))[0-9.]+[ \t]*)?(?:,|$)",
    re.IGNORECASE,
)
_TAG: Final = re.compile(rb'(?:W/)?("[^"]*")')


def downloads_limit() -> RateLimit:
    """How often one address may fetch pages of this kind, in all. They are large beside what a
    request for them costs the client.
    """
    return RateLimit(Limit(per_second=20, burst=60), now=monotonic)


class StaticRoute:
    """A path whose answer never changes while the process lives."""

    package = COMMON

    def __init__(
        self,
        route: str,
        body: bytes,
        *,
        content_type: bytes,
        limit: RateLimit,
        headers: Headers | None = None,
    ) -> None:
        """Takes the limit that it shares with others."""
        self.route = route
        self._content_type = content_type
        self._limit = limit
        self._headers: Headers = [*(headers or []), (b"vary", b"Accept-Encoding")]
        packed = gzip.compress(body, mtime=0)
        tag = sha256(body).hexdigest()[:32].encode()
        self._plain = (body, b'"%s"' % tag)
        # a picture does not get smaller
        self._packed = (packed, b'"%s-gzip"' % tag) if len(packed) < len(body) else None

    async def serve(
        self,
        request: Request,
        receive: Receive,  # noqa: ARG002  the shape of every handler
        values: tuple[bytes, ...],  # noqa: ARG002
    ) -> Response:
        """The page, or 304 for a client that has it.

        Raises:
            RateLimited: this address fetched too much just now.
        """
        self._limit.take(bucket_of(NOBODY, request.client))
        request.no_body()
        packed = (
            self._packed is not None
            and _GZIP.search(request.once(b"accept-encoding") or b"") is not None
        )
        body, tag = self._packed if packed and self._packed is not None else self._plain
        headers = [*self._headers, (b"etag", tag)]
        if tag in _TAG.findall(request.once(b"if-none-match") or b""):
            return Response(304, b"", content_type=b"", headers=headers, cache_control=_KEEP)
        if packed:
            headers.append((b"content-encoding", b"gzip"))
        return Response(
            200, body, content_type=self._content_type, headers=headers, cache_control=_KEEP
        )
