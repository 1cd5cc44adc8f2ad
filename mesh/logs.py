"""Logs: one JSON object per line on standard error, with the trace id of the call, and nothing that must stay secret.

Protobuf messages are never written out, fields with a telling name are masked, and texts lose bearer tokens, passwords in URLs and card numbers. Code
still logs facts by name, one by one; the mask is the second guard.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
import structlog
from google.protobuf.message import Message

from mesh.call import Call, current_trace_id

_SECRET_NAMES = re.compile(r"authorization|bearer|token|secret|password|passwd|cvv|cvc|card_number|credit_card|private_key|signature|dsn|database_url"
                           r"|redis_url|x-paymesh-caller", re.IGNORECASE)
_HARMLESS_NAMES = frozenset({"token_id"})
_TEXTS = (
    (re.compile(r"(?i)\bbearer\s+\S+"), "Bearer ***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "***"),     # JWTs
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), "://***@"),                               # passwords in URLs
    (re.compile(r"(?<![0-9A-Za-z])(?:[0-9][ -]?){12,18}[0-9](?![0-9A-Za-z])"), "***"),  # card numbers
)
MASK = "***"


def redacted(value: Any) -> Any:
    """A value that may stand in a log."""
    if isinstance(value, str):
        for pattern, replacement in _TEXTS:
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, Message):
        return f"<{value.DESCRIPTOR.full_name}>"
    if isinstance(value, dict):
        return {name: MASK if _is_secret(str(name)) else redacted(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else redacted(str(value))


def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None and name not in _HARMLESS_NAMES


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _is_secret(name):
            event[name] = MASK
        elif type(value) is not int and type(value) is not float and name not in {"level", "timestamp"}:
            event[name] = redacted(value)
    return event


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace_id = current_trace_id()
    if trace_id:
        event.setdefault("trace_id", trace_id)
    return event


class _StandardError:
    """Standard error as it is at the time of a line. A reader that went away costs the line, never the call that wrote it."""

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
    """Sets up structlog and routes the standard library's loggers through it. Call once, before the first line."""

    def add_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    before: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level, add_service, _add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info, _redact,
    ]
    last: structlog.typing.Processor = structlog.processors.JSONRenderer(serializer=_json) if json else structlog.dev.ConsoleRenderer()
    numeric = logging.getLevelNamesMapping()[level]
    structlog.configure(processors=[*before, last], wrapper_class=structlog.make_filtering_bound_logger(numeric),
                        logger_factory=structlog.PrintLoggerFactory(_STDERR), cache_logger_on_first_use=False)
    handler = logging.StreamHandler(_STDERR)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]))
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


class CallLog:
    """One line per served call, of facts that are harmless by their nature. Skips structlog's chain, which would cost more than the pipeline."""

    def __init__(self, service: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
        self._service = service
        self._silent = logging.getLevelNamesMapping()[level] > logging.INFO
        self._stream = stream or _STDERR
        self._encode = msgspec.json.Encoder().encode

    def write(self, method: str, code: int, seconds: float, call: Call) -> None:
        """A call ended with a gRPC code."""
        if self._silent:
            return
        caller = call.caller
        line = _CallLine("call", "info", self._service, datetime.now(UTC), method, code, round(seconds * 1000, 3), caller.role.value,
                         call.trace.trace_id, caller.subject, call.refusal, call.request_id)
        self._stream.write(self._encode(line).decode() + "\n")
