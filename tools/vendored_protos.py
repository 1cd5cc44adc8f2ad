"""The protos of others that ours import, as text: `google/api` copied out of the
googleapis-common-protos wheel, `buf/validate` printed from the descriptor inside the protovalidate
wheel, which carries no source.

With them `buf build` and `protoc -I protos` work in a fresh checkout, in every language, without a
registry.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import (
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    text_format,
    timestamp_pb2,
)
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import Message

# private, hence the pin of protovalidate
from protovalidate._gen.buf.validate.validate_pb import _DESC

GOOGLE = ("google/api/annotations.proto", "google/api/http.proto", "google/api/httpbody.proto")
VALIDATE = "buf/validate/validate.proto"
_HEADER = """// Copyright 2023-2026 Buf Technologies, Inc.
// Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
//
// Printed by `make protos` from the descriptor in the protovalidate wheel. Comments are lost; everything else is as published.
"""
_IMPORTS = (duration_pb2, field_mask_pb2, timestamp_pb2)  # in the pool before validate.proto is
_OPEN_END = 536_870_912  # what protoc writes for `to max`, exclusive


def vendored() -> dict[str, str]:
    """Path below protos/ -> text."""
    packages = Path(sysconfig.get_path("purelib"))
    return {
        **{name: (packages / name).read_text() for name in GOOGLE},
        VALIDATE: print_file(validate_descriptor()),
    }


def validate_descriptor() -> FileDescriptorProto:
    """buf/validate/validate.proto as the wheel has it, its own options readable."""
    raw = bytes(_DESC.proto.to_binary())
    pool = descriptor_pool.Default()
    for module in _IMPORTS:
        pool.FindFileByName(module.DESCRIPTOR.name)
    pool.AddSerializedFile(raw)
    message_factory.GetMessageClassesForFiles([VALIDATE], pool)
    return FileDescriptorProto.FromString(raw)


def print_file(file: FileDescriptorProto) -> str:
    """A proto2 file, in the syntax that every parser reads: one option or element a statement, no
    lists of messages.

    Raises:
        ValueError: it uses something that this cannot print.
    """
    if file.syntax not in {"", "proto2"} or file.service:
        raise ValueError(f"{file.name}: only proto2 files without services are printed")
    lines = [
        _HEADER,
        'syntax = "proto2";',
        "",
        f"package {file.package};",
        "",
        *(f'import "{name}";' for name in file.dependency),
        "",
    ]
    lines += [f"option {line};" for line in _scalars(file.options)]
    scope = f".{file.package}."
    for message in file.message_type:
        lines += ["", *_message(message, scope, "")]
    for enum in file.enum_type:
        lines += ["", *_enum(enum, "")]
    for extension in file.extension:
        lines += [
            "",
            f"extend {extension.extendee.removeprefix('.')} {{",
            *_field(extension, scope, "  ", {}),
            "}",
        ]
    return "\n".join(lines) + "\n"


def _message(message: DescriptorProto, scope: str, indent: str) -> Iterator[str]:
    yield f"{indent}message {message.name} {{"
    inner = indent + "  "
    for option in _options(message.options):
        yield f"{inner}option {option};"
    for nested in message.nested_type:
        yield from _message(nested, scope, inner)
    for enum in message.enum_type:
        yield from _enum(enum, inner)
    for entry in _reserved(message):
        yield f"{inner}reserved {entry};"
    for extensible in message.extension_range:
        end = "max" if extensible.end >= _OPEN_END else str(extensible.end - 1)
        yield f"{inner}extensions {extensible.start} to {end};"
    opened = -1
    for field in message.field:
        place = field.oneof_index if field.HasField("oneof_index") else -1
        if opened not in {-1, place}:
            yield f"{inner}}}"
        if place not in {-1, opened}:
            yield f"{inner}oneof {message.oneof_decl[place].name} {{"
            for option in _options(message.oneof_decl[place].options):
                yield f"{inner}  option {option};"
        opened = place
        yield from _field(field, scope, inner + ("  " if place >= 0 else ""), {"oneof": place >= 0})
    if opened != -1:
        yield f"{inner}}}"
    yield f"{indent}}}"


def _reserved(message: DescriptorProto) -> Iterator[str]:
    for span in message.reserved_range:
        yield str(span.start) if span.end == span.start + 1 else f"{span.start} to {span.end - 1}"
    for name in message.reserved_name:
        yield f'"{name}"'


def _enum(enum: EnumDescriptorProto, indent: str) -> Iterator[str]:
    yield f"{indent}enum {enum.name} {{"
    for span in enum.reserved_range:
        yield f"{indent}  reserved {span.start}{'' if span.end == span.start else f' to {span.end}'};"
    for name in enum.reserved_name:
        yield f'{indent}  reserved "{name}";'
    for value in enum.value:
        yield f"{indent}  {value.name} = {value.number};"
    yield f"{indent}}}"


def _field(
    field: FieldDescriptorProto, scope: str, indent: str, where: dict[str, bool]
) -> Iterator[str]:
    label = (
        ""
        if where.get("oneof")
        else f"{FieldDescriptorProto.Label.Name(field.label).removeprefix('LABEL_').lower()} "
    )
    kind = (
        field.type_name.removeprefix(scope).removeprefix(".")
        or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )
    options = list(_options(field.options))
    if field.HasField("default_value"):
        options.insert(0, f"default = {field.default_value}")
    head = f"{indent}{label}{kind} {field.name} = {field.number}"
    if not options:
        yield f"{head};"
        return
    yield f"{head} ["
    for number, option in enumerate(options, 1):
        yield f"{indent}  {option}{',' if number < len(options) else ''}"
    yield f"{indent}];"


def _options(options: Message) -> Iterator[str]:
    """Options as `name = value` and extensions as `(name).field = value`, one of them for each
    element of a list.
    """
    yield from _scalars(options)
    for field, value in options.ListFields():
        if not field.is_extension:
            continue
        for inner, content in value.ListFields():
            for element in content if inner.is_repeated else [content]:
                text = (
                    f"{{{text_format.MessageToString(element, as_one_line=True)}}}"
                    if isinstance(element, Message)
                    else _literal(element)
                )
                yield f"({field.full_name}).{inner.name} = {text}"


def _scalars(options: Message) -> Iterator[str]:
    for field, value in options.ListFields():
        if not field.is_extension:
            yield f"{field.name} = {_literal(value)}"


def _literal(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return f'"{escaped}"'
        case int() | float():
            return str(value)
        case _:
            raise ValueError(f"cannot print {value!r}")
