"""The meaning of a request as text, to tell whether two requests with one idempotency key are the
same. The contract marks the fields that count.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from paymesh.options.v1 import options_pb2


def fingerprint(message: Message) -> dict[str, str]:
    """The meaning of a request as flat text: path of every set field marked `fingerprint` ->
    canonical value. A marked message field counts with all of its leaves. Sensitive fields never
    appear, marked or not. Fields at their default are left out: a field added later changes
    nothing."""
    return dict(_marked(message, prefix="", inherited=False))


def _marked(message: Message, *, prefix: str, inherited: bool) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        sensitive, own = _fingerprint_policy(field)
        if sensitive:
            continue
        marked = inherited or own
        for path, item in _items(field, value, f"{prefix}{field.name}"):
            if isinstance(item, Message):
                yield from _marked(item, prefix=f"{path}.", inherited=marked)
            elif marked:
                yield path, _canonical(field, item)


@cache  # reading an option costs more than the rest of a fingerprint
def _fingerprint_policy(field: FieldDescriptor) -> tuple[bool, bool]:
    policy = field.GetOptions().Extensions[options_pb2.field]
    return policy.sensitive, policy.fingerprint


def _items(field: FieldDescriptor, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not field.is_repeated:
        yield path, value
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        for key in sorted(value):
            yield f"{path}[{key}]", value[key]
    else:
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item


def _canonical(field: FieldDescriptor, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return str(field.enum_type.values_by_number[value].name)
    return str(value)
