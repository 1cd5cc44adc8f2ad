"""Writes logs: one JSON object per line on standard error, with the trace id of the call, without
secrets.

Protobuf messages are never written out, and fields with a sensitive name are masked. Bearer tokens,
passwords in URLs and card numbers are removed from texts. Code must still log facts one by one, by
name; the mask is the second safeguard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Generic, TextIO, TypeVar

import msgspec
import structlog
from google.protobuf.message import Message

from mesh.call import Call, current_trace_id

_SECRET_NAMES = re.compile(
    r"authorization|bearer|token|secret|password|passwd|cvv|cvc|card_number|credit_card|private_key|signature|dsn|database_url"
    r"|redis_url|x-paymesh-caller|x-api-key|api_key$",
    re.IGNORECASE,
)
_HARMLESS_NAMES = frozenset({"token_id"})
_TEXTS = (
    (re.compile(r"(?i)\bbearer\s+\S+"), "Bearer ***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "***"),  # JWTs
    (re.compile(r"pm[srp]k_[0-9A-Za-z_]+"), "***"),  # API keys, mistyped ones too
    # passwords in URLs
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), "://***@"),
    # card numbers
    (re.compile(r"(?<![0-9A-Za-z])(?:[0-9][ -]?){12,18}[0-9](?![0-9A-Za-z])"), "***"),
)
MASK = "***"
FLUSH_SECONDS = 0.1
LINES_MAX = 256
_URGENT_CODES = frozenset({2, 13, 15})  # UNKNOWN, INTERNAL, DATA_LOSS

Item = TypeVar("Item")
_EndedCall = tuple[str, int, float, float, Call]  # method, code, when, seconds


def redacted(value: Any) -> Any:
    """A value that is safe to log."""
    if isinstance(value, str):
        for pattern, replacement in _TEXTS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Message):
        return f"<{value.DESCRIPTOR.full_name}>"
    if isinstance(value, dict):
        return {
            name: MASK if _is_secret(str(name)) else redacted(item) for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else redacted(str(value))


def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None and name not in _HARMLESS_NAMES


def _redact(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _is_secret(name):
            event[name] = MASK
        elif (
            type(value) is not int
            and type(value) is not float
            and name not in {"level", "timestamp"}
        ):
            event[name] = redacted(value)
    return event


def _add_trace(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    trace_id = current_trace_id()
    if trace_id:
        event.setdefault("trace_id", trace_id)
    return event


class _StandardError:
    """Standard error, looked up for each line. If its reader is gone the line is lost, but the call
    that logged it does not fail.
    """

    def write(self, text: str) -> int:
        try:
            return sys.stderr.write(text)
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


_STDERR: Any = _StandardError()


def configure(service: str, level: str = "INFO", *, json: bool = True) -> None:
    """Configures structlog and routes the standard library's loggers through it. Call once, before
    the first line.
    """

    def add_service(
        _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    before: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        add_service,
        _add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_json)
        if json
        else structlog.dev.ConsoleRenderer()
    )
    numeric = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*before, last],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(_STDERR),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(_STDERR)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(numeric, logging.WARNING), force=True)


def _json(event: dict[str, Any], **_options: Any) -> str:
    return msgspec.json.encode(event).decode()


def get_logger() -> Any:
    """The logger; bind facts by name: `log.info("order_paid", order_id=...)`."""
    return structlog.get_logger()


class _CallLine(msgspec.Struct, omit_defaults=True):
    event: str
    level: str
    service: str
    timestamp: datetime
    method: str
    code: int
    ms: float
    role: str
    trace_id: str
    subject: str = ""
    reason: str = ""
    request_id: str = ""


class LineBuffer(Generic[Item]):
    """Buffers log lines and writes them in batches: a system call per line costs more than making
    the line, because it releases the interpreter lock. A kill -9 loses FLUSH_SECONDS of lines. If
    the reader of the log is gone, lines are lost, but no request fails and no memory grows.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[Item]], Iterable[bytes]],
        *,
        lines_max: int,
        stream: TextIO | None = None,
    ) -> None:
        """`encode` makes lines of the buffered items; `stream` is standard error by default."""
        self._encode = encode
        self._lines_max = lines_max
        self._stream = stream or _STDERR
        self._waiting: list[Item] = []

    def add(self, item: Item, *, urgent: bool = False) -> None:
        """Adds a line; an urgent one is written at once with the buffered lines."""
        self._waiting.append(item)
        if urgent or len(self._waiting) >= self._lines_max:
            self.flush()
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes the lines that wait."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        lines = b"\n".join([*self._encode(waiting), b""]).decode()
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(lines)
            self._stream.flush()


class CallLog:
    """One line per served call, with facts that are never sensitive. Lines are encoded in batches
    when they are written: encoding one during a call costs several times as much. Failed calls are
    written at once.
    """

    def __init__(self, service: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
        self._service = service
        self._silent = logging.getLevelNamesMapping()[level] > logging.INFO
        self._encode = msgspec.json.Encoder().encode
        self._lines: LineBuffer[_EndedCall] = LineBuffer(
            self._encoded, lines_max=LINES_MAX, stream=stream
        )

    def write(self, method: str, code: int, ended: float, seconds: float, call: Call) -> None:
        """Logs that a call ended with a gRPC code, at a moment of the monotonic clock."""
        if not self._silent:
            self._lines.add((method, code, ended, seconds, call), urgent=code in _URGENT_CODES)

    def flush(self) -> None:
        """Writes the lines that wait."""
        self._lines.flush()

    def _encoded(self, calls: Sequence[_EndedCall]) -> Iterator[bytes]:
        now, reference = datetime.now(UTC), monotonic()
        for method, code, ended, seconds, call in calls:
            yield self._encode(
                _CallLine(
                    "call",
                    "info",
                    self._service,
                    now - timedelta(seconds=reference - ended),
                    method,
                    code,
                    round(seconds * 1000, 3),
                    call.caller.role.value,
                    call.trace.trace_id,
                    call.caller.subject,
                    call.refusal,
                    call.request_id,
                )
            )
