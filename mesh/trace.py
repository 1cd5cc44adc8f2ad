"""W3C trace context without a tracing library: every call has a trace id that its caller may have made, and each hop has its own span id."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.ASCII)
_BITS = random.Random()  # noqa: S311 - ids of traces are labels, not secrets; the system's source costs a system call per id


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a call stands in its trace."""

    trace_id: str   # 32 hex digits, never all zero
    span_id: str    # 16 hex digits: this hop
    sampled: bool

    @classmethod
    def start(cls, traceparent: str | None = None) -> Trace:
        """A new hop of the trace in a `traceparent`; a new trace where there is none or a broken one."""
        if traceparent is not None and len(traceparent) <= 128:
            match = _TRACEPARENT.fullmatch(traceparent)
            if match is not None and match[1].strip("0") and match[2].strip("0") and not traceparent.startswith("ff"):
                return cls(match[1], new_span_id(), bool(int(match[3], 16) & 1))
        return cls(f"{_BITS.getrandbits(128) or 1:032x}", new_span_id(), False)  # noqa: FBT003 - unsampled unless somebody above asks

    def traceparent(self) -> str:
        """What the next hop gets."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def new_span_id() -> str:
    """16 hex digits, never all zero."""
    return f"{_BITS.getrandbits(64) or 1:016x}"
