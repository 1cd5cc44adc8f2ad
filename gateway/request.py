"""An HTTP request, read with a limit on everything: which headers count, how large a body may be
and how long it may take. No route is known here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from gateway.errors import BodyTooLarge, MalformedBody, RequestTimeout, UnsupportedMediaType
from mesh.call import NOBODY, Caller
from mesh.errors import InvalidArgument, TokenInvalid
from mesh.languages import Language, preferred
from mesh.trace import Trace

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Key of an ASGI scope: a server that has it takes a whole answer (status, headers, body) at once.
WHOLE_ANSWER: Final = "paymesh.whole_answer"

_HEADER_NAME: Final = re.compile(r"[!-~]{1,100}")
_HEADER: Final = re.compile(r"[ -~]{0,1000}")
_CREDENTIALS: Final = frozenset({"authorization", "cookie", "x-api-key"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
# Parameters other than charset say nothing about JSON (RFC 8259, 11) and are not looked at.
_JSON: Final = re.compile(
    rb'application/json(?:\s*;\s*(?:charset="?utf-?8"?|(?!charset)[\w.+-]{1,64}=(?:[\w./:+-]{1,128}|"[^"\\\\]{0,128}")))*\s*;?',
    re.IGNORECASE,
)


class ClientGone(Exception):
    """The client closed the connection; nobody waits for a response."""


class Request:
    """One HTTP request without its body."""

    __slots__ = (
        "_repeated",
        "_scope",
        "caller",
        "given_id",
        "headers",
        "language",
        "method",
        "money_untouched",
        "query",
        "raw_path",
        "request_id",
        "safe_to_retry",
        "trace",
    )

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        headers: dict[bytes, bytes] = {}
        repeated: set[bytes] | None = None
        for name, value in scope["headers"]:
            if name in headers:
                repeated = repeated or set()
                repeated.add(name)
            headers[name] = value
        self.headers = headers
        self._repeated = repeated
        self.caller: Caller = NOBODY  # set once the token is verified
        # set before effects are caused: whether a repetition cannot do them twice
        self.safe_to_retry: bool | None = None
        # True for a method that moves money until its call leaves
        self.money_untouched = False
        accepted = headers.get(b"accept-language")
        self.language: Language | None = (
            None if accepted is None else preferred(accepted.decode("latin-1"))
        )
        self.trace = Trace.start(self._label(b"traceparent"))
        given = self.once(b"x-request-id")
        self.given_id = (
            given.decode("ascii") if given is not None and _REQUEST_ID.fullmatch(given) else ""
        )
        # made from the trace, so that it can be found there
        self.request_id = self.given_id or f"req-{self.trace.span_id}"

    @property
    def client(self) -> str:
        """The address of the client (or what a trusted proxy says of it)."""
        client = self._scope.get("client")
        return client[0] if client else ""

    def single(self, name: bytes) -> bytes | None:
        """A header that may stand once, or None.

        Raises:
            InvalidArgument: it stands twice, and neither is more right.
        """
        if self._repeated and name in self._repeated:
            raise InvalidArgument.of(name.decode("ascii"), "is given twice")
        return self.headers.get(name)

    def singles(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of some headers that are there.

        Raises:
            InvalidArgument: one of them stands twice.
        """
        found = {}
        for name in names:
            value = self.single(name)
            if value is not None:
                found[name] = value
        return found

    def all_headers(self) -> dict[str, str]:
        """Every header of printable ASCII without the credentials that are ours; repeated ones
        joined by ", " as far as they stay short enough.
        """
        found: dict[str, str] = {}
        for name, value in self._scope["headers"]:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            if key not in _CREDENTIALS and _HEADER_NAME.fullmatch(key) and _HEADER.fullmatch(text):
                joined = f"{found[key]}, {text}" if key in found else text
                found[key] = joined if _HEADER.fullmatch(joined) else found[key]
        return found

    def once(self, name: bytes) -> bytes | None:
        """A header that is never refused: None when it is absent or stands twice."""
        return None if self._repeated and name in self._repeated else self.headers.get(name)

    def bearer(self) -> str | None:
        """The bearer token, or None when there is no Authorization header.

        Raises:
            TokenInvalid: another scheme, or two of them.
        """
        header = self.headers.get(b"authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(b" ")
        if (
            scheme.lower() != b"bearer"
            or not token.isascii()
            or token.split() != [token]
            or (self._repeated and b"authorization" in self._repeated)
        ):
            raise TokenInvalid("Authorization must be one bearer token.")
        return token.decode("ascii")

    def _label(self, name: bytes) -> str | None:
        value = self.once(name)
        return value.decode("latin-1") if value is not None else None

    @property
    def has_body(self) -> bool:
        """Whether the head announces a body."""
        return (
            b"transfer-encoding" in self.headers
            or self.headers.get(b"content-length", b"").strip(b"0") != b""
        )

    def json_type(self) -> None:
        """Makes sure that the body says it is JSON.

        Raises:
            UnsupportedMediaType: it says something else, nothing, or that it is compressed.
        """
        content_type = self.single(b"content-type")
        if content_type is None or _JSON.fullmatch(content_type.strip()) is None:
            raise UnsupportedMediaType.of("content-type", "must be application/json in UTF-8")
        self.uncompressed()

    def uncompressed(self) -> None:
        """Makes sure that the body is not compressed: a small one may be huge inside.

        Raises:
            UnsupportedMediaType: it is.
        """
        if (self.single(b"content-encoding") or b"identity").lower() != b"identity":
            raise UnsupportedMediaType.of("content-encoding", "compressed bodies are not taken")

    def no_body(self) -> None:
        """Makes sure that a path without body gets none.

        Raises:
            MalformedBody: it does.
        """
        if self.has_body:
            raise MalformedBody.of("", "is not taken here")


async def read_body(
    request: Request, receive: Receive, *, bytes_max: int, seconds_max: float
) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: by its announced length or by what arrived. RequestTimeout: it did not end
            in time. ClientGone: the client closed the connection.
    """
    announced = request.headers.get(b"content-length", b"").lstrip(b"0") or b"0"
    if len(announced) > 12 or int(announced) > bytes_max:  # the parser lets digits through only
        raise _too_large(bytes_max)
    try:
        async with asyncio.timeout(seconds_max):
            message = await receive()
            body: bytes = _chunk(message)
            if not message.get("more_body", False):
                if len(body) > bytes_max:
                    raise _too_large(bytes_max)
                return body
            chunks, length = [body], len(body)
            while message.get("more_body", False):
                if length > bytes_max:
                    raise _too_large(bytes_max)
                message = await receive()
                chunks.append(_chunk(message))
                length += len(chunks[-1])
    except TimeoutError:
        raise RequestTimeout from None
    if length > bytes_max:
        raise _too_large(bytes_max)
    return b"".join(chunks)


def _chunk(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise ClientGone
    chunk: bytes = message.get("body", b"")
    return chunk


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge.of("body", f"must be at most {bytes_max} bytes")
