"""What a request may hold at most: length of its lists, maps, texts and bytes, and the size of the
whole on the wire.

The bounds are those of buf.validate, read once at start. They are looked at before the rules are:
protovalidate judges every item of a list before anybody counts them, so a list of 340 000 empty
items would stop the process for half a minute. A field without a bound stops the start.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from paymesh.options.v1 import options_pb2

from mesh.errors import InvalidArgument

# a smaller message cannot hold enough to be worth counting before its rules are judged
CHECKED_FROM_BYTES: Final = 256
UNKNOWN_BYTES_MAX: Final = 1024  # of fields that a newer caller knows and we do not

_VALIDATE: Final = "buf.validate.field"
_TAG_BYTES: Final = 3  # of a field with a number below 2^18
_NUMBER_BYTES: Final = 10  # of the longest varint
_LENGTH_BYTES: Final = 5
_TIME_BYTES: Final = 32  # a Timestamp or a Duration
_UTF8_BYTES: Final = 4  # of one character
_TIMES: Final = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})


class BoundMissing(ValueError):
    """A field may grow without end. The message names every such field."""


class Bounds:
    """The bounds of one message type. `bytes_max` is the size of the largest message that keeps
    them.
    """

    def __init__(self, descriptor: Descriptor) -> None:
        """Reads the rules beside the fields.

        Raises:
            BoundMissing: a list, map, text or bytes without a bound, or a message that may hold
                itself.
        """
        reader = _Reader()
        self._fields = reader.fields(descriptor, "")
        if reader.problems:
            raise BoundMissing(
                f"{descriptor.full_name}: {', '.join(reader.problems)} without a bound"
            )
        self.bytes_max = sum(field.bytes_max for field in self._fields)

    def check(self, message: Message) -> None:
        """Counts, and judges nothing else.

        Raises:
            InvalidArgument: something is longer than it may be; names the first such field.
        """
        _check(message, self._fields, "")


def request_bytes_max(descriptor: Descriptor, declared: int = 0) -> int:
    """The largest request that is read at all: what a method declares, else what its fields allow
    and some room for those that we do not know.

    Raises:
        BoundMissing: see `Bounds`.
    """
    derived = Bounds(descriptor).bytes_max + UNKNOWN_BYTES_MAX
    return declared or derived


class _Field:
    """One field that can be too long, or a message that has one."""

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
        self.length_max: int | None = None  # of a text in characters, of bytes in bytes
        self.unit = "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "characters"
        self.weighed: int | None = None  # a foreign message: largest size
        self.inner: tuple[_Field, ...] = ()
        self.bytes_max = 0


class _Reader:
    """Reads the fields of a message type and of those inside it."""

    def __init__(self) -> None:
        self.problems: list[str] = []  # paths of fields without a bound
        self._above: list[str] = []  # message types around the present one

    def fields(
        self,
        descriptor: Descriptor,
        path: str,
        rules: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> tuple[_Field, ...]:
        """`rules` stand in for those of the fields, by name: the rules of keys and values of a map
        stand beside the map."""
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
        """The size of one item; fills in how it is checked."""
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
        """The longest text in characters and in bytes."""
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
    """What a field declares about itself."""
    policy: options_pb2.FieldPolicy = field.GetOptions().Extensions[options_pb2.field]
    return policy


def _width(pattern: str) -> int | None:
    """The longest text that a pattern matches as a whole; None for one that has no end, or is not
    about the whole.
    """
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return None
    # Python has no public name for its parser of patterns; this one is the same since 3.11.
    width: int = re._parser.parse(pattern).getwidth()[1]  # type: ignore[attr-defined]  # noqa: SLF001
    return width if width < 2**31 else None


def is_ascii(pattern: str) -> bool:
    """Whether a pattern of the contract names its characters one by one or in ranges, all of them
    ASCII: then it matches nothing else."""
    # no escaped backslash is left to be taken for the beginning of something
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
