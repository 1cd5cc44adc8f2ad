"""Messages as JSON Schema (2020-12, the dialect of OpenAPI 3.1). A message that is sent and one
that is received are described apart: what goes out has every field and one spelling, what comes in
has rules, optional fields and number literals."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.codec.dialect import (
    DURATION,
    HTTP_BODY,
    INT64,
    TIMESTAMP,
    enum_prefix,
    field_policy,
    map_entry,
    spellings,
)
from mesh.bounds import rules_of

Schema = dict[str, Any]
# strict: what comes in where a shop's amounts must be text
Direction = Literal["in", "strict", "out"]

_NUMERIC_RULES: Final = {
    "gte": "minimum",
    "lte": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
    "const": "const",
}
_STRING_RULES: Final = {
    "pattern": "pattern",
    "min_len": "minLength",
    "max_len": "maxLength",
    "const": "const",
}
_LIST_RULES: Final = {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"}
_SUFFIXES: Final[dict[Direction, str]] = {"in": ".Input", "strict": ".StrictInput", "out": ""}
_DURATION_PATTERN: Final = r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"


class Schemas:
    """The component schemas of a document, made when something refers to them."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def message(self, descriptor: Descriptor, direction: Direction) -> Schema:
        """A reference to the schema of a message."""
        if descriptor.full_name == TIMESTAMP:
            return {"type": "string", "format": "date-time"}
        if descriptor.full_name == DURATION:
            return {"type": "string", "pattern": _DURATION_PATTERN}
        if descriptor.full_name == HTTP_BODY:
            return {}
        if direction == "strict" and not _takes_numbers(descriptor, ()):
            direction = "in"
        name = descriptor.full_name + _SUFFIXES[direction]
        if name not in self.components:
            self.components[name] = {}  # what a recursive message meets
            self.components[name] = self.object(descriptor, direction)
        return {"$ref": f"#/components/schemas/{name}"}

    def object(
        self, descriptor: Descriptor, direction: Direction, *, without: Collection[str] = ()
    ) -> Schema:
        """The schema of a message itself, without some of its fields."""
        fields = [field for field in descriptor.fields if field.name not in without]
        schema: Schema = {
            "type": "object",
            "properties": {field.name: self.field(field, direction) for field in fields},
        }
        self._describe(schema, descriptor.full_name)
        required = [field.name for field in fields if direction == "out" or is_required(field)]
        if required:
            schema["required"] = required
        if direction != "out":
            schema["additionalProperties"] = False
            example = {
                field.name: value for field in fields if (value := example_of(field)) is not None
            }
            if example and example.keys() >= set(required):
                schema["examples"] = [example]
        return schema

    def field(
        self, field: FieldDescriptor, direction: Direction, *, always: bool = False
    ) -> Schema:
        """The schema of a field with its rules, comment and example. `always`: it is never absent
        where its type says that it may be.
        """
        rules = rules_of(field)
        entry = map_entry(field)
        if entry is not None:
            schema: Schema = {
                "type": "object",
                "additionalProperties": self._single(entry[1], direction),
            }
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field, direction)} | _translate(
                rules.get("repeated"), _LIST_RULES
            )
        else:
            schema = self._single(field, direction)
            if direction != "out":
                schema |= _value_rules(rules)
            elif field.has_presence and not always:
                schema = _nullable(schema)
        self._describe(schema, field.full_name)
        if direction != "out":
            self._describe_input(schema, field, direction)
        example = field_policy(field).example
        if example:
            schema["examples"] = [json.loads(example)]
        return schema

    def _single(self, field: FieldDescriptor, direction: Direction) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type, direction)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return {"type": "boolean"}
            case FieldDescriptor.TYPE_BYTES:
                return {"type": "string", "contentEncoding": "base64"}
            case FieldDescriptor.TYPE_STRING:
                return {
                    "type": ["string", "number"]
                    if direction == "in" and field_policy(field).number_ok
                    else "string"
                }
            case _ if field.type in INT64:
                return {
                    "type": ["integer", "string"] if direction != "out" else "string",
                    "format": "int64",
                }
            case _:
                return {"type": "integer", "format": "int32"}

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.full_name not in self.components:
            prefix = enum_prefix(enum)
            names = [value.name.removeprefix(prefix) for value in enum.values]
            lines = [
                f"`{name}`: {self._comments.get(f'{enum.full_name}.{value.name}', '')}"
                for name, value in zip(names, enum.values, strict=True)
            ]
            text = self._comments.get(enum.full_name, enum.name)
            self.components[enum.full_name] = {
                "type": "string",
                "enum": names,
                "description": "\n\n".join([text, *lines]),
            }
        return {"$ref": f"#/components/schemas/{enum.full_name}"}

    def _describe(self, schema: Schema, name: str) -> None:
        comment = self._comments.get(name)
        if comment:
            schema["description"] = comment

    def _describe_input(self, schema: Schema, field: FieldDescriptor, direction: Direction) -> None:
        policy = field_policy(field)
        notes = [schema["description"]] if "description" in schema else []
        if policy.minor_units_field and direction == "strict":
            notes.append(
                f"Text in major units. A bare integer is refused with both of its readings; where "
                f"the merchant has decided that its integers are minor units, it means "
                f"`{policy.minor_units_field}`."
            )
        elif policy.number_ok:
            notes.append(
                "A JSON number is taken digit for digit; exponents are refused."
                if direction == "in"
                else "Text, because a number of a shop's may be meant in minor units."
            )
        others = [name for name in spellings(field)[1:] if name != field.name]
        if others:
            notes.append(f"Also accepted as {', '.join(others)}.")
        if notes:
            schema["description"] = " ".join(notes)
        if policy.sensitive:
            schema["writeOnly"] = True


def _takes_numbers(message: Descriptor, above: tuple[str, ...]) -> bool:
    if message.full_name in above:
        return False
    return any(
        field_policy(field).number_ok
        or (
            field.message_type is not None
            and _takes_numbers(field.message_type, (*above, message.full_name))
        )
        for field in message.fields
    )


def is_required(field: FieldDescriptor) -> bool:
    """Whether the rules of a field refuse what stands for "absent": its default, or nothing where
    the field knows absence.
    """
    rules = rules_of(field)
    if rules.get("required") or field.has_presence:
        return bool(rules.get("required"))
    if 0 in rules.get("enum", {}).get("not_in", ()):
        return True
    for kind, values in rules.items():
        if kind == "string" and field.type == FieldDescriptor.TYPE_STRING:
            return _refuses_empty_text(values)
        if kind == "repeated":
            return bool(values.get("min_items"))
        if isinstance(values, Mapping):
            return bool(values.get("gte", 0) > 0 or values.get("gt", -1) >= 0)
    return False


def example_of(field: FieldDescriptor) -> object:
    """An example value: the field's own, or one made of those of its message; None when there is
    none.
    """
    declared = field_policy(field).example
    value: object = json.loads(declared) if declared else None
    if (
        value is None
        and field.message_type is not None
        and not field.message_type.full_name.startswith("google.")
    ):
        inner = {
            part.name: example
            for part in field.message_type.fields
            if (example := example_of(part)) is not None
        }
        value = inner or None
    return (
        [value]
        if field.is_repeated and value is not None and not isinstance(value, list)
        else value
    )


def _value_rules(rules: Mapping[str, Any]) -> Schema:
    schema: Schema = {}
    for kind, values in rules.items():
        if not isinstance(values, Mapping) or kind == "repeated":
            continue
        schema |= _translate(values, _STRING_RULES if kind == "string" else _NUMERIC_RULES)
        if "in" in values:
            schema["enum"] = values["in"]
        if "not_in" in values:
            schema["not"] = {"enum": values["not_in"]}
    return schema


def _translate(values: Mapping[str, Any] | None, names: Mapping[str, str]) -> Schema:
    return {names[rule]: value for rule, value in (values or {}).items() if rule in names}


def _nullable(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"oneOf": [schema, {"type": "null"}]}
    return schema | {"type": [schema["type"], "null"]}


def _refuses_empty_text(values: Mapping[str, Any]) -> bool:
    if values.get("min_len") or values.get("const") or ("in" in values and "" not in values["in"]):
        return True
    return "pattern" in values and re.search(values["pattern"], "") is None
