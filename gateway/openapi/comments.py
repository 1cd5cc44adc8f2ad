"""Comments of the .proto files by the full name of what they stand before. Generated modules lose
them; the descriptor set keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf import descriptor_pb2

Place = tuple[int, ...]

# Field numbers of descriptor.proto: the path of a comment is made of them.
_FILE_MESSAGE: Final = 4
_FILE_ENUM: Final = 5
_FILE_SERVICE: Final = 6
_FIELD_OR_VALUE_OR_METHOD: Final = 2
_NESTED_MESSAGE: Final = 3
_NESTED_ENUM: Final = 4


def read_comments(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> dict[str, str]:
    """Full name -> its leading comment as one paragraph."""
    comments: dict[str, str] = {}
    for file in files:
        texts = {
            tuple(location.path): location.leading_comments
            for location in file.source_code_info.location
            if location.leading_comments
        }
        for name, place in _names(file):
            text = " ".join(texts.get(place, "").split())
            if text:
                comments[name] = text
    return comments


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Place]]:
    for index, message in enumerate(file.message_type):
        yield from _message_names(message, file.package, (_FILE_MESSAGE, index))
    for index, enum in enumerate(file.enum_type):
        yield from _enum_names(enum, file.package, (_FILE_ENUM, index))
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield name, (_FILE_SERVICE, index)
        for number, method in enumerate(service.method):
            yield f"{name}.{method.name}", (_FILE_SERVICE, index, _FIELD_OR_VALUE_OR_METHOD, number)


def _message_names(
    message: descriptor_pb2.DescriptorProto, scope: str, place: Place
) -> Iterator[tuple[str, Place]]:
    name = f"{scope}.{message.name}"
    yield name, place
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*place, _FIELD_OR_VALUE_OR_METHOD, index)
    for index, nested in enumerate(message.nested_type):
        yield from _message_names(nested, name, (*place, _NESTED_MESSAGE, index))
    for index, enum in enumerate(message.enum_type):
        yield from _enum_names(enum, name, (*place, _NESTED_ENUM, index))


def _enum_names(
    enum: descriptor_pb2.EnumDescriptorProto, scope: str, place: Place
) -> Iterator[tuple[str, Place]]:
    name = f"{scope}.{enum.name}"
    yield name, place
    for index, value in enumerate(enum.value):
        # Values are named by their enum here, so that two enums of one scope cannot meet.
        yield f"{name}.{value.name}", (*place, _FIELD_OR_VALUE_OR_METHOD, index)
