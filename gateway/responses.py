"""HTTP responses of successful calls: the success envelope, the status that the contract chooses,
raw bytes of google.api.HttpBody.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import Descriptor

from gateway.codec import Encoders
from gateway.codec.dialect import HTTP_BODY, enum_names_in
from gateway.schema import HttpRule, Method, body_type, find_field, message_class
from mesh.policies import StatusByEnum

Headers = list[tuple[bytes, bytes]]

JSON: Final = b"application/json"
_BYTES: Final = b"application/octet-stream"
_HEADER: Final = re.compile(r"[\x20-\x7e]{1,200}")
_SUCCESS: Final = b'{"code":"00000","message":"success","data":'
_TRACE: Final = b',"trace_id":"'
_END: Final = b'"}\n'


NO_STORE: Final = b"no-store"  # Cache-Control of what belongs to one caller


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list)
    reason: str = ""  # of an error, for the log
    cache_control: bytes = NO_STORE


def envelope(data: object, trace_id: str) -> bytes:
    """The body of a success. It ends with a newline, so that a shell prompts on a new line."""
    return b"".join((_SUCCESS, msgspec.json.encode(data), _TRACE, trace_id.encode(), _END))


class ResponseBuilder:
    """Makes the HTTP responses of one HTTP rule from response messages."""

    def __init__(self, method: Method, rule: HttpRule, encoders: Encoders) -> None:
        """Raises UnsupportedField when the response has no JSON form; the lint of the schema finds
        that first.
        """
        self._parse: Callable[[bytes], Any] = message_class(method.output_type).FromString
        self._status = method.policy.http.success_status
        self._statuses = [
            _status_reader(method.output_type, choice)
            for choice in method.policy.http.status_by_enum
        ]
        self._status_field = method.policy.http.status_field
        self._data = _data_reader(method.output_type, rule.response_body, encoders)
        self._raw = _raw_reader(method.output_type, rule.response_body)

    def success(self, message_bytes: bytes, trace_id: str) -> Response:
        """The HTTP response for the bytes of a response message.

        Raises:
            google.protobuf.message.DecodeError: the bytes are no message. ValueError: a time in it
                is out of range.
        """
        message = self._parse(message_bytes)
        status = self._status
        for holds, chosen in self._statuses:
            if holds(message):
                status = chosen
                break
        if self._status_field:
            status = getattr(message, self._status_field) or status
        if self._raw is not None:
            body = self._raw(message)
            return Response(
                status,
                body.data,
                content_type=body.content_type.encode()
                if _HEADER.fullmatch(body.content_type)
                else _BYTES,
            )
        return Response(status, envelope(self._data(message), trace_id))


def _status_reader(output: Descriptor, choice: StatusByEnum) -> tuple[Callable[[Any], bool], int]:
    field_path = find_field(output, tuple(choice.field.split(".")))
    if field_path is None or field_path.enum_type is None:
        raise LookupError(choice.field)
    number = enum_names_in(field_path.enum_type)[choice.value]
    read = attrgetter(choice.field)
    return lambda message: read(message) == number, choice.status


def _data_reader(
    output: Descriptor, response_body: str, encoders: Encoders
) -> Callable[[Any], object]:
    if not response_body:
        return encoders.of(output)
    inner = output.fields_by_name[response_body]
    if inner.message_type is not None and inner.message_type.full_name == HTTP_BODY:
        return lambda _message: None
    convert = encoders.value_of(inner)
    read = attrgetter(response_body)
    if inner.has_presence:
        return lambda message: convert(read(message)) if message.HasField(response_body) else None
    return lambda message: convert(read(message))


def _raw_reader(output: Descriptor, response_body: str) -> Callable[[Any], Any] | None:
    """Finds the google.api.HttpBody of a response, or None when it answers JSON."""
    body = body_type(output, response_body or "*")
    if body is None or body.full_name != HTTP_BODY:
        return None
    return attrgetter(response_body) if response_body else lambda message: message
