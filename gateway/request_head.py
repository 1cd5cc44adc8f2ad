"""What RFC 9110 and RFC 9112 demand of a request head before anything is done for it: version,
Host, transfer coding, expectation, target. Pure functions of the bytes that the parser found; the
connection decides what to do about a refusal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.errors import ExpectationFailed, HttpVersionUnsupported, Unimplemented
from mesh.errors import InvalidArgument, MeshError

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_OPTIONAL_SPACE: Final = b" \t"

Headers = Sequence[tuple[bytes, bytes]]


def check_head(version: str, method: str, headers: Headers) -> None:
    """Refuses a head that a server must not act upon.

    Args:
        version: as the parser read it, e.g. "1.1".
        method: in the letters of the client.
        headers: names in lower case.

    Raises:
        HttpVersionUnsupported: neither 1.0 nor 1.1. Unimplemented: CONNECT, or a transfer coding
            besides chunked. ExpectationFailed: an
        expectation other than 100-continue. InvalidArgument: Host is missing, doubled or no host;
        the length of the body cannot be known.
    """
    if version not in {"1.0", "1.1"}:
        raise HttpVersionUnsupported
    if method == "CONNECT":
        raise Unimplemented("CONNECT is not implemented.")
    hosts, codings = [], []
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif (
            name == b"expect"
            and version != "1.0"
            and value.strip(_OPTIONAL_SPACE).lower() != b"100-continue"
        ):
            raise ExpectationFailed
    if codings:
        _check_coding(version, b",".join(codings))
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise InvalidArgument.of("Host", "must be given once")
    if hosts and _HOST.fullmatch(hosts[0].strip(_OPTIONAL_SPACE)) is None:
        raise InvalidArgument.of("Host", "is not a host")


def _check_coding(version: str, value: bytes) -> None:
    codings = [coding.strip(_OPTIONAL_SPACE).lower() for coding in value.split(b",")]
    if version == "1.0":
        raise InvalidArgument.of("Transfer-Encoding", "is not part of HTTP/1.0")
    if codings[-1] != b"chunked" or codings.count(b"chunked") != 1:
        # else the end of the body is unknown
        raise InvalidArgument.of("Transfer-Encoding", "must end in chunked, once")
    if len(codings) > 1:
        raise Unimplemented("The only transfer coding is chunked.")


def split_target(method: str, target: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target: origin-form, absolute-form, or `*` of OPTIONS.

    The path is taken as it is written, still percent-encoded and with its dot segments.

    Raises:
        InvalidArgument: any other form, or a fragment.
    """
    rest = target
    if not target.startswith(b"/"):
        if target == b"*" and method == "OPTIONS":
            return target, b""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1] or _HOST.fullmatch(absolute[1]) is None:
            raise InvalidArgument.of("request target", "is neither a path nor an http address")
        rest = absolute[2]
        if not rest and method == "OPTIONS":
            return b"*", b""
        if not rest.startswith(b"/"):
            rest = b"/" + rest
    if b"#" in rest:
        raise InvalidArgument.of("request target", "has a fragment, which is never sent")
    path, _, query = rest.partition(b"?")
    return path, query


def refusal_of_parser(problem: str) -> MeshError | None:
    """What a complaint of the parser means where it is more than "this is not HTTP"; None
    elsewhere.
    """
    if problem in {"Invalid HTTP version", "Pause on PRI/Upgrade"}:
        return HttpVersionUnsupported()
    return None


def body_framing(headers: Headers) -> bytes:
    """The header line that says how long the body of a head is, e.g. `content-length: 5\\r\\n`;
    nothing when it has no body.
    """
    for name, value in headers:
        if name in {b"content-length", b"transfer-encoding"}:
            return name + b": " + value + b"\r\n"
    return b""


def has_body(headers: Headers) -> bool:
    """Whether a head announces a body."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in headers
    )
