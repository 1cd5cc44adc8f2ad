"""Trees that a JSON reader made, or the texts of a path or query, to the arguments of a message's
constructor. One function per descriptor, compiled on first use; the C constructor then builds the
message in one call. Every refusal says where, and nothing that the contract does not name
passes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.codec.amounts import BareInteger, amount_reader, currency_names
from gateway.codec.dialect import (
    DURATION,
    TIMESTAMP,
    FieldError,
    UnsupportedField,
    enum_names_in,
    field_policy,
    longest,
    map_entry,
    refuse_unspoken,
    spellings,
)
from gateway.codec.reader import NumberLiteral
from gateway.codec.times import duration_fields, timestamp_fields

Arguments = dict[str, Any]
Decoder = Callable[[object], Arguments]
_Convert = Callable[[Any], object]

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_SIGNED_32: Final = (-(2**31), 2**31 - 1)
_SIGNED_64: Final = (-(2**63), 2**63 - 1)
_RANGES: Final = {
    FieldDescriptor.TYPE_INT32: _SIGNED_32,
    FieldDescriptor.TYPE_SINT32: _SIGNED_32,
    FieldDescriptor.TYPE_SFIXED32: _SIGNED_32,
    FieldDescriptor.TYPE_INT64: _SIGNED_64,
    FieldDescriptor.TYPE_SINT64: _SIGNED_64,
    FieldDescriptor.TYPE_SFIXED64: _SIGNED_64,
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_FIXED32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**64 - 1),
}
_WELL_KNOWN: Final[dict[str, _Convert]] = {TIMESTAMP: timestamp_fields, DURATION: duration_fields}
_URL_SAFE: Final = str.maketrans("-_", "+/")


class Numbers(Enum):
    """What a JSON number means in a string field."""

    TEXT = auto()  # its digits, where the contract has number_ok
    REFUSED = auto()  # nothing: in an amount it may be in major or in minor units
    MINOR = auto()  # minor units in an amount that has such a field beside it, else nothing


class Decoders:
    """The decoders of a descriptor pool."""

    def __init__(self, numbers: Numbers = Numbers.TEXT) -> None:
        self._numbers = numbers
        self._compiled: dict[str, Decoder] = {}

    def of(self, descriptor: Descriptor) -> Decoder:
        """The decoder of a message: tree -> arguments of its constructor.

        The decoder raises FieldError with the place. null is the same as absent.

        Raises:
            UnsupportedField: when the message holds a type that the dialect does not speak.
        """
        name = descriptor.full_name
        if name not in self._compiled:
            # what recursive messages meet while they are being compiled
            def finished(tree: object) -> Arguments:
                return self._compiled[name](tree)

            self._compiled[name] = finished
            try:
                self._compiled[name] = self._compile(descriptor)
            except UnsupportedField:
                del self._compiled[name]
                raise
        return self._compiled[name]

    def value_of(self, field: FieldDescriptor) -> _Convert:
        """The decoder of one field's JSON value."""
        entry = map_entry(field)
        if entry is not None:
            return self._map(*entry, most=longest(field))
        convert = self._single(field)
        return _list_of(convert, most=longest(field)) if field.is_repeated else convert

    def text_of(self, field: FieldDescriptor) -> Callable[[str], object]:
        """The decoder of one value of a field from the text of a path segment, query parameter or
        header.

        Raises:
            UnsupportedField: when a message other than a time has no text form.
        """
        if field.message_type is not None and field.message_type.full_name not in _WELL_KNOWN:
            raise UnsupportedField(
                f"{field.full_name}: {field.message_type.full_name} has no text form"
            )
        if field.type == FieldDescriptor.TYPE_BOOL:
            return _bool_text
        if field.enum_type is not None:
            return _enum_text(field.enum_type)
        return self._single(field)

    def _compile(self, descriptor: Descriptor) -> Decoder:
        table: dict[str, tuple[str, _Convert]] = {}
        for field in descriptor.fields:
            entry = (field.name, self.value_of(field))
            table.update(dict.fromkeys(spellings(field), entry))
        currencies = currency_names(descriptor)
        takes_minor = self._numbers is Numbers.MINOR

        def decode(tree: object) -> Arguments:
            if not isinstance(tree, dict):
                raise FieldError("must be an object")
            arguments: Arguments = {}
            for key, value in tree.items():
                known = table.get(key)
                if known is None:
                    raise FieldError("is not a field of this message", key)
                if value is None:
                    continue
                name, convert = known
                if name in arguments:
                    raise FieldError(f"is given twice, as another spelling of {name}", key)
                try:
                    arguments[name] = convert(value)
                except BareInteger as bare:
                    if not takes_minor:
                        raise bare.inside_of(tree, currencies, key) from None
                    bare.put_into(arguments, key)
                except FieldError as mismatch:
                    raise mismatch.inside(key) from None
            return arguments

        return decode

    def _single(self, field: FieldDescriptor) -> _Convert:
        refuse_unspoken(field)
        if field.message_type is not None:
            return _WELL_KNOWN.get(field.message_type.full_name) or self.of(field.message_type)
        if field.enum_type is not None:
            return _enum(field.enum_type)
        if field.type in _RANGES:
            return _integer(*_RANGES[field.type])
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return _bool
            case FieldDescriptor.TYPE_BYTES:
                return _bytes
            case _:
                return self._text(field)

    def _text(self, field: FieldDescriptor) -> _Convert:
        policy = field_policy(field)
        if self._numbers is Numbers.TEXT:
            return _string_or_number if policy.number_ok else _string
        return amount_reader(field) if policy.minor_units_field else _string

    def _map(self, key: FieldDescriptor, value: FieldDescriptor, *, most: int | None) -> _Convert:
        key_of = self.text_of(key)
        convert = _never_null(self._single(value))

        def decode(tree: object) -> dict[Any, object]:
            if not isinstance(tree, dict):
                raise FieldError("must be an object")
            if most is not None and len(tree) > most:
                raise FieldError(f"must have at most {most} entries")
            values: dict[Any, object] = {}
            for text, inner in tree.items():
                try:
                    values[key_of(text)] = convert(inner)
                except FieldError as mismatch:
                    raise mismatch.inside(text) from None
            return values

        return decode


def _never_null(convert: _Convert) -> _Convert:
    def decode(value: object) -> object:
        if value is None:
            raise FieldError("must not be null")
        return convert(value)

    return decode


def _list_of(item: _Convert, *, most: int | None) -> _Convert:
    convert = _never_null(item)

    def decode(values: object) -> list[object]:
        if not isinstance(values, list):
            raise FieldError("must be a list")
        if most is not None and len(values) > most:  # before anything is made of an item
            raise FieldError(f"must have at most {most} items")
        done: list[object] = []
        for index, value in enumerate(values):
            try:
                done.append(convert(value))
            except FieldError as mismatch:
                raise mismatch.inside(index) from None
        return done

    return decode


def _string(value: object) -> object:
    if isinstance(value, str):
        return value
    raise FieldError("must be a string")


def _string_or_number(value: object) -> object:
    """Text as it is; a number digit for digit, so that 100.0 is "100.0" and no float ever sees
    it.
    """
    if isinstance(value, str):
        return value
    if type(value) is int:
        return str(value)
    if isinstance(value, NumberLiteral):
        literal = value.text
        if "e" in literal or "E" in literal:
            raise FieldError("must be written without an exponent")
        return literal
    raise FieldError("must be a string or a number")


def _bool(value: object) -> object:
    if isinstance(value, bool):
        return value
    raise FieldError("must be true or false")


def _bool_text(text: str) -> object:
    if text in {"true", "false"}:
        return text == "true"
    raise FieldError("must be true or false")


def _integer(least: int, most: int) -> _Convert:
    def decode(value: object) -> int:
        if type(value) is int:
            number = value
        elif isinstance(value, str) and _INTEGER.fullmatch(value):
            number = int(value)
        else:
            raise FieldError("must be an integer")
        if not least <= number <= most:
            raise FieldError(f"must be between {least} and {most}")
        return number

    return decode


def _enum(enum: EnumDescriptor) -> _Convert:
    names = enum_names_in(enum)
    numbers = frozenset(names.values())

    def decode(value: object) -> int:
        if isinstance(value, str):
            number = names.get(value)
            if number is not None:
                return number
        elif type(value) is int and value in numbers:
            return value
        raise FieldError(f"must be a value of {enum.name}")

    return decode


def _enum_text(enum: EnumDescriptor) -> Callable[[str], object]:
    by_name = _enum(enum)
    return lambda text: by_name(int(text) if _INTEGER.fullmatch(text) else text)


def _bytes(value: object) -> object:
    """Base64, standard or URL-safe, with or without padding."""
    if isinstance(value, str):
        try:
            return base64.b64decode(
                value.translate(_URL_SAFE) + "=" * (-len(value) % 4), validate=True
            )
        except (binascii.Error, ValueError):
            pass
    raise FieldError("must be base64")
