"""Checks the size of requests: the length of lists, maps, strings and bytes, and the size of the
whole message on the wire.

The bounds are those of buf.validate, read once at start. They are checked before the other rules,
because protovalidate validates every item of a list before it counts them: a list of 340 000 empty
items would block the process for half a minute. A field without a bound is an error at start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from paymesh.options.v1 import options_pb2

from mesh.errors import InvalidArgument

# a smaller message is cheap to validate, so its items are not counted first
CHECKED_FROM_BYTES: Final = 256
UNKNOWN_BYTES_MAX: Final = 1024  # for fields that are newer than this version

_VALIDATE: Final = "buf.validate.field"
_TAG_BYTES: Final = 3  # of a field with a number below 2^18
_NUMBER_BYTES: Final = 10  # of the longest varint
_LENGTH_BYTES: Final = 5
_TIME_BYTES: Final = 32  # a Timestamp or a Duration
_UTF8_BYTES: Final = 4  # of one character
_TIMES: Final = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})


class BoundMissing(ValueError):
    """A field has no bound. The message names every such field."""


class Bounds:
    """The bounds of one message type. `bytes_max` is the size of the largest valid message."""

    def __init__(self, descriptor: Descriptor) -> None:
        """Reads the rules of the fields.

        Raises:
            BoundMissing: a list, map, string or bytes field without a bound, or a recursive
                message type.
        """
        reader = _Reader()
        self._fields = reader.fields(descriptor, "")
        if reader.problems:
            raise BoundMissing(
                f"{descriptor.full_name}: {', '.join(reader.problems)} without a bound"
            )
        self.bytes_max = sum(field.bytes_max for field in self._fields)

    def check(self, message: Message) -> None:
        """Checks lengths and sizes only.

        Raises:
            InvalidArgument: a field is too long; names the first such field.
        """
        _check(message, self._fields, "")


def request_bytes_max(descriptor: Descriptor, declared: int = 0) -> int:
    """The size of the largest request that is read: what the method declares, else what its fields
    allow and UNKNOWN_BYTES_MAX.

    Raises:
        BoundMissing: see `Bounds`.
    """
    derived = Bounds(descriptor).bytes_max + UNKNOWN_BYTES_MAX
    return declared or derived


class _Field:
    """One field that can be too long, or a message field that contains one."""

    __slots__ = (
        "bytes_max",
        "inner",
        "is_list",
        "is_map",
        "items_max",
        "length_max",
        "name",
        "unit",
        "weighed",
    )

    def __init__(self, field: FieldDescriptor) -> None:
        self.name = field.name
        self.is_map = _is_map(field)
        self.is_list = field.is_repeated and not self.is_map
        self.items_max = 1
        self.length_max: int | None = None  # of a string in characters, of bytes in bytes
        self.unit = "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "characters"
        self.weighed: int | None = None  # maximum size of a message of a foreign package
        self.inner: tuple[_Field, ...] = ()
        self.bytes_max = 0


class _Reader:
    """Reads the fields of a message type and of its nested types."""

    def __init__(self) -> None:
        self.problems: list[str] = []  # paths of fields without a bound
        self._above: list[str] = []  # the message types that enclose the current one

    def fields(
        self,
        descriptor: Descriptor,
        path: str,
        rules: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> tuple[_Field, ...]:
        """The fields of a type. `rules`, by field name, replace those of the fields: a map declares
        the rules of its keys and values itself."""
        self._above.append(descriptor.full_name)
        fields = tuple(
            self._field(
                field,
                f"{path}{field.name}",
                rules_of(field) if rules is None else rules[field.name],
            )
            for field in descriptor.fields
        )
        self._above.pop()
        return fields

    def _field(self, descriptor: FieldDescriptor, path: str, rules: Mapping[str, Any]) -> _Field:
        field = _Field(descriptor)
        if field.is_list:
            items = rules.get("repeated", {})
            field.items_max = self._bound(items.get("max_items"), path)
            rules = _plain_rules(items.get("items"))
        elif field.is_map:
            rules = rules.get("map", {})
            field.items_max = self._bound(rules.get("max_pairs"), path)
        field.bytes_max = field.items_max * (
            _TAG_BYTES + self._content_bytes(descriptor, field, path, rules)
        )
        return field

    def _content_bytes(
        self, descriptor: FieldDescriptor, field: _Field, path: str, rules: Mapping[str, Any]
    ) -> int:
        """The maximum size of one item; fills in how it is checked."""
        match descriptor.type:
            case FieldDescriptor.TYPE_MESSAGE:
                return self._message_bytes(descriptor, field, path, rules)
            case FieldDescriptor.TYPE_STRING:
                field.length_max, bytes_max = self._text_bound(rules.get("string", {}), path)
                return _LENGTH_BYTES + bytes_max
            case FieldDescriptor.TYPE_BYTES:
                field.length_max = self._bound(
                    rules.get("bytes", {}).get("max_len") or rules.get("bytes", {}).get("len"), path
                )
                return _LENGTH_BYTES + field.length_max
            case _:
                return _NUMBER_BYTES

    def _message_bytes(
        self, descriptor: FieldDescriptor, field: _Field, path: str, rules: Mapping[str, Any]
    ) -> int:
        own, inner = options_of(descriptor), descriptor.message_type
        if inner is None or inner.full_name in _TIMES:
            return _TIME_BYTES
        if own.max_bytes:
            field.weighed = own.max_bytes
            return own.max_bytes + _LENGTH_BYTES
        if inner.full_name in self._above:
            self.problems.append(path)
            return 0
        parts = (
            {"key": _plain_rules(rules.get("keys")), "value": _plain_rules(rules.get("values"))}
            if field.is_map
            else None
        )
        field.inner = self.fields(inner, f"{path}.", parts)
        return _LENGTH_BYTES + sum(part.bytes_max for part in field.inner)

    def _bound(self, value: int | None, path: str) -> int:
        if not value:
            self.problems.append(path)
        return value or 0

    def _text_bound(self, rules: Mapping[str, Any], path: str) -> tuple[int, int]:
        """The length of the longest string in characters and in bytes."""
        bounds = []
        if "in" in rules or "const" in rules:
            words = [*rules.get("in", ()), *([rules["const"]] if "const" in rules else ())]
            bounds.append((max(map(len, words)), max(len(word.encode()) for word in words)))
        if length := rules.get("max_len") or rules.get("len"):
            bounds.append((length, length * _UTF8_BYTES))
        if length := rules.get("max_bytes") or rules.get("len_bytes"):
            bounds.append((length, length))
        if (width := _width(rules["pattern"]) if "pattern" in rules else None) is not None:
            bounds.append((width, width * (1 if is_ascii(rules["pattern"]) else _UTF8_BYTES)))
        if not bounds:
            self.problems.append(path)
            return 0, 0
        return min(chars for chars, _ in bounds), min(size for _, size in bounds)


def options_of(field: FieldDescriptor) -> options_pb2.FieldPolicy:
    """The policy options that a field declares."""
    policy: options_pb2.FieldPolicy = field.GetOptions().Extensions[options_pb2.field]
    return policy


def _width(pattern: str) -> int | None:
    """The length of the longest string that a pattern matches; None when it is unbounded, or the
    pattern is not anchored at both ends.
    """
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return None
    # Python has no public API for its pattern parser; this one is unchanged since 3.11.
    width: int = re._parser.parse(pattern).getwidth()[1]  # type: ignore[attr-defined]  # noqa: SLF001
    return width if width < 2**31 else None


def is_ascii(pattern: str) -> bool:
    """Whether a pattern of the contract matches ASCII characters only, because it lists all of its
    characters one by one or in ranges."""
    # without escaped backslashes, so that none is read as the start of another escape
    named = pattern.replace(r"\\", "")
    outside = re.sub(r"\[(?:\\.|[^\]\\])*\]", "", named)
    return (
        pattern.isascii()
        and re.search(r"\[\^|\\[DWSPpdws]|\(\?", named) is None
        and re.search(r"(?<!\\)\.", outside) is None
    )


def _check(message: Any, fields: tuple[_Field, ...], path: str) -> None:
    for field in fields:
        if field.is_list:
            items = getattr(message, field.name)
            if len(items) > field.items_max:
                raise _too_long(f"{path}{field.name}", f"must have at most {field.items_max} items")
            for index, item in enumerate(items):
                _check_one(item, field, f"{path}{field.name}[{index}]")
        elif field.is_map:
            if len(getattr(message, field.name)) > field.items_max:
                raise _too_long(f"{path}{field.name}", f"must have at most {field.items_max} pairs")
            _check_entries(getattr(message, field.name), field, f"{path}{field.name}")
        elif field.length_max is not None or (
            (field.inner or field.weighed) and message.HasField(field.name)
        ):
            _check_one(getattr(message, field.name), field, f"{path}{field.name}")


def _check_one(value: Any, field: _Field, path: str) -> None:
    if field.length_max is not None:
        if len(value) > field.length_max:
            raise _too_long(path, f"must be at most {field.length_max} {field.unit}")
    elif field.weighed is not None:
        if value.ByteSize() > field.weighed:
            raise _too_long(path, f"must be at most {field.weighed} bytes")
    elif field.inner:
        _check(value, field.inner, f"{path}.")


def _check_entries(entries: Mapping[Any, Any], field: _Field, path: str) -> None:
    of_key, of_value = field.inner
    for key, value in entries.items():
        _check_one(key, of_key, f"{path} key")
        _check_one(value, of_value, path)


def _too_long(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument.of(path, problem)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def rules_of(field: FieldDescriptor) -> Mapping[str, Any]:
    """The buf.validate rules of a field: kind -> rule -> value."""
    for extension, rules in field.GetOptions().ListFields():
        if extension.full_name == _VALIDATE:
            return _plain_rules(rules)
    return {}


def _plain_rules(rules: Any) -> Mapping[str, Any]:
    return {} if rules is None else {kind.name: _plain(value) for kind, value in rules.ListFields()}


def _plain(value: Any) -> Any:
    if not hasattr(value, "ListFields"):
        return value
    return {
        rule.name: list(content) if rule.is_repeated else content
        for rule, content in value.ListFields()
    }
