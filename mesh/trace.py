"""Implements W3C trace context without a tracing library: a call has a trace id, which its caller
may have sent, and each hop has its own span id.
"""

from __future__ import annotations

import random
import re

LENGTH_MAX = 128  # 55 today; later versions may append

# Neither id is all zero, and version ff is none.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])(?:-.*)?",
    re.ASCII,
)
_SAMPLED = frozenset("13579bdf")
_BITS = random.Random()  # noqa: S311 - ids of traces are labels, not secrets; the system's source costs a system call per id


class Trace:
    """The position of a call in its trace."""

    __slots__ = ("_span_id", "_trace_id", "sampled")

    def __init__(self, trace_id: str = "", *, sampled: bool) -> None:
        """Takes a trace id of 32 hex digits; "" begins a new trace."""
        self._trace_id = trace_id
        self.sampled = sampled
        self._span_id = ""

    @classmethod
    def start(cls, traceparent: str | None = None) -> Trace:
        """A new hop of the trace in a `traceparent`; a new trace if that is missing or
        malformed.
        """
        if traceparent is not None and len(traceparent) <= LENGTH_MAX:
            match = _TRACEPARENT.fullmatch(traceparent)
            if match is not None:
                return cls(match[1], sampled=match[2] in _SAMPLED)
        return cls(sampled=False)

    @property
    def trace_id(self) -> str:
        """32 hex digits, never all zero. Made at first use, which often is the batched writing of
        log lines, outside of the calls.
        """
        if not self._trace_id:
            self._trace_id = f"{_BITS.getrandbits(128) or 1:032x}"
        return self._trace_id

    @property
    def span_id(self) -> str:
        """16 hex digits: this hop. Made at first use, because most calls make no further hop."""
        if not self._span_id:
            self._span_id = f"{_BITS.getrandbits(64) or 1:016x}"
        return self._span_id

    def traceparent(self) -> str:
        """The header for the next hop."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"
