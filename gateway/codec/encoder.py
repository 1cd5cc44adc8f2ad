"""Messages to trees that a JSON writer takes. One function per descriptor, compiled on first use:
plain fields are read by one attrgetter in C, the others by a converter each. Defaults are written,
an unset message or optional field is null, so that an answer always has the same keys."""

from __future__ import annotations

import base64
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.codec.dialect import (
    DURATION,
    INT64,
    TIMESTAMP,
    UnsupportedField,
    enum_names_out,
    map_entry,
    refuse_unspoken,
)
from gateway.codec.times import duration_text, timestamp_text

Tree = dict[str, object]
Encoder = Callable[[Any], Tree]
_Convert = Callable[[Any], object]


def _bytes_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_WELL_KNOWN: Final[dict[str, _Convert]] = {TIMESTAMP: timestamp_text, DURATION: duration_text}


def _plain(value: object) -> object:
    return value


class Encoders:
    """The encoders of a descriptor pool."""

    def __init__(self) -> None:
        self._compiled: dict[str, Encoder] = {}

    def of(self, descriptor: Descriptor) -> Encoder:
        """The encoder of a message: message -> tree with snake_case names, every field present.

        Raises:
            UnsupportedField: when the message holds a type that the dialect does not speak.
        """
        name = descriptor.full_name
        if name not in self._compiled:
            # what recursive messages meet while they are being compiled
            def finished(message: Any) -> Tree:
                return self._compiled[name](message)

            self._compiled[name] = finished
            try:
                self._compiled[name] = self._compile(descriptor)
            except UnsupportedField:
                del self._compiled[name]
                raise
        return self._compiled[name]

    def value_of(self, field: FieldDescriptor) -> _Convert:
        """The encoder of one field's value, as read from its message."""
        entry = map_entry(field)
        if entry is not None:
            return self._map(*entry)
        convert = self._single(field)
        if field.is_repeated:
            return (
                list if convert is _plain else lambda values: [convert(value) for value in values]
            )
        return convert

    def _compile(self, descriptor: Descriptor) -> Encoder:
        plain: list[str] = []
        converted: list[tuple[str, Callable[[Any], Any], _Convert]] = []
        present: list[tuple[str, Callable[[Any], Any], _Convert]] = []
        for field in descriptor.fields:
            convert = self.value_of(field)
            if field.has_presence:
                present.append((field.name, attrgetter(field.name), convert))
            elif convert is _plain:
                plain.append(field.name)
            else:
                converted.append((field.name, attrgetter(field.name), convert))
        # keeps the order of the contract; null where nothing is set
        template: Tree = dict.fromkeys(field.name for field in descriptor.fields)
        read_plain = _reader(plain)

        def encode(message: Any) -> Tree:
            tree = template.copy()
            tree.update(read_plain(message))
            for name, read, convert in converted:
                tree[name] = convert(read(message))
            for name, read, convert in present:
                if message.HasField(name):
                    tree[name] = convert(read(message))
            return tree

        return encode

    def _single(self, field: FieldDescriptor) -> _Convert:
        refuse_unspoken(field)
        if field.message_type is not None:
            convert = _WELL_KNOWN.get(field.message_type.full_name)
            return convert or self.of(field.message_type)
        if field.enum_type is not None:
            names = enum_names_out(field.enum_type)
            return lambda number: names.get(number, number)
        if field.type in INT64:
            return str
        return _bytes_text if field.type == FieldDescriptor.TYPE_BYTES else _plain

    def _map(self, key: FieldDescriptor, value: FieldDescriptor) -> _Convert:
        convert = self._single(value)
        if key.type == FieldDescriptor.TYPE_BOOL:
            return lambda values: {
                "true" if key else "false": convert(value) for key, value in values.items()
            }
        return lambda values: {str(key): convert(value) for key, value in values.items()}


def _reader(names: list[str]) -> Callable[[Any], Any]:
    """Reads the named fields of a message as pairs, in C as far as possible."""
    match names:
        case []:
            return lambda _message: ()
        case [name]:
            read_one = attrgetter(name)
            return lambda message: ((name, read_one(message)),)
        case _:
            read = attrgetter(*names)
            return lambda message: zip(names, read(message), strict=False)
