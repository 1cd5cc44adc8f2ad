"""What the dialect calls things: the spellings of a field, the names of enum values without their
prefix, which well-known types are spoken, and the one exception that says where a document does not
fit."""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from paymesh.options.v1 import options_pb2

from mesh.bounds import rules_of

TIMESTAMP: Final = "google.protobuf.Timestamp"
DURATION: Final = "google.protobuf.Duration"
HTTP_BODY: Final = "google.api.HttpBody"

INT64: Final = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
    }
)
_FLOATS: Final = frozenset({FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT})
_SPOKEN: Final = frozenset({TIMESTAMP, DURATION})

# a name that the client chose is cut before it is repeated in an error
_SHOWN_NAME_LENGTH: Final = 64
_WORD_BOUNDARY: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class FieldError(Exception):
    """A JSON document, query string or path segment does not fit its message.

    Attributes:
        problem: what is wrong, for people; never repeats a value, which may be a secret.
        path: the way to the place, outermost first: names and list indexes.
    """

    def __init__(self, problem: str, *path: str | int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str | int] = list(path)

    def inside(self, place: str | int) -> FieldError:
        """The same problem, seen from one level further out."""
        self.path.insert(0, place)
        return self

    @property
    def field(self) -> str:
        """The place as people write it, e.g. `items[0].quantity`; "" for the document itself."""
        text = ""
        for place in self.path:
            if isinstance(place, int):
                text += f"[{place}]"
            else:
                shown = (
                    place if len(place) <= _SHOWN_NAME_LENGTH else place[:_SHOWN_NAME_LENGTH] + "…"
                )
                text += f".{shown}" if text else shown
        return text


class UnsupportedField(Exception):
    """A message has a field of a type that the dialect does not speak."""


def map_entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """The key and value fields of a map<…>, or None for any other field."""
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return None
    return entry.fields_by_name["key"], entry.fields_by_name["value"]


def field_policy(field: FieldDescriptor) -> options_pb2.FieldPolicy:
    """What the field declares about itself; empty when it declares nothing."""
    policy: options_pb2.FieldPolicy = field.GetOptions().Extensions[options_pb2.field]
    return policy


def longest(field: FieldDescriptor) -> int | None:
    """How many items a list, or pairs a map, may have by the contract; None for any other field and
    for one without a bound.
    """
    rules = rules_of(field)
    bound: int | None = rules.get("repeated", {}).get("max_items") or rules.get("map", {}).get(
        "max_pairs"
    )
    return bound


def spellings(field: FieldDescriptor) -> tuple[str, ...]:
    """Every name that the field may have on input: its own, lowerCamelCase, and its aliases; its
    own first, each once.
    """
    return tuple(dict.fromkeys((field.name, field.json_name, *field_policy(field).json_alias)))


def enum_prefix(enum: EnumDescriptor) -> str:
    """The prefix that the contract puts before every value of an enum, e.g. `ORDER_STATE_` for
    OrderState.
    """
    return _WORD_BOUNDARY.sub("_", enum.name).upper() + "_"


def enum_names_out(enum: EnumDescriptor) -> dict[int, str]:
    """The name that goes out for each known number: without prefix; the first one where numbers are
    aliased.
    """
    prefix = enum_prefix(enum)
    return {
        number: value.name.removeprefix(prefix) for number, value in enum.values_by_number.items()
    }


def enum_names_in(enum: EnumDescriptor) -> dict[str, int]:
    """Every name that is taken for a value: with and without prefix."""
    prefix = enum_prefix(enum)
    names = {value.name.removeprefix(prefix): value.number for value in enum.values}
    return names | {value.name: value.number for value in enum.values}


def refuse_unspoken(field: FieldDescriptor) -> None:
    """Stops at start-up what the dialect has no form for. There are no floats: an amount is a
    decimal string.

    Raises:
        UnsupportedField: a float, a group, a oneof, or a well-known type other than Timestamp and
            Duration.
    """
    # `optional` makes a oneof with an underscore
    if field.containing_oneof is not None and not field.containing_oneof.name.startswith("_"):
        raise UnsupportedField(f"{field.full_name}: oneofs are not spoken")
    if field.type in _FLOATS or field.type == FieldDescriptor.TYPE_GROUP:
        raise UnsupportedField(
            f"{field.full_name}: floats and groups are not spoken; write a decimal as a string"
        )
    if (
        field.message_type is not None
        and field.message_type.full_name.startswith("google.")
        and field.message_type.full_name not in _SPOKEN
    ):
        raise UnsupportedField(
            f"{field.full_name}: {field.message_type.full_name} is not spoken in JSON"
        )
