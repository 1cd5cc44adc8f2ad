"""Limits of one connection: sizes, numbers and times. Those that an operator may want to change are
settings; the others are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import ErrorRenderer
from gateway.request import Receive, Scope, Send

PARTING_SECONDS: Final = 2.0  # how long a refused client may take to read why
HEADERS_MAX: Final = 200  # header fields of a head; trailer fields of a body
PIPELINED_MAX: Final = 8  # requests of one connection that wait for their turn
# of a body beyond twice its content: chunk sizes, chunk extensions, trailers
FRAMING_BYTES_MAX: Final = 64 * 1024
DISCARDED_BYTES_MAX: Final = 16 * 1024**2  # of a body whose request was answered early
LARGE_BYTES: Final = 64 * 1024  # bodies of this size are not copied behind their head


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a connection may do."""

    head_bytes_max: int  # of a head, and of trailers
    head_seconds: float  # a head, from the connection or its first byte
    body_seconds: float  # a body, from the end of its head
    stalled_seconds: float  # an answer of which the client reads nothing
    connections_max: int
    overloaded: Callable[[Scope, Receive, Send], Any]  # ASGI application that refuses
    error_renderer: ErrorRenderer
