"""JSON text to Python values without losing anything that the dialect decides about: literals of
numbers stay as they were written, a key that stands twice is found, and depth has an end. The
parser is msgspec, which knows nothing of the second and third; both are counted on its result."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.codec.dialect import FieldError

DEPTH_MAX: Final = 64  # levels of objects and lists; protobuf itself stops at 100

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NEGATIVE_ZERO: Final = re.compile(rb"-0(?![.0-9eE])")


class NumberLiteral:
    """A JSON number with a fraction or an exponent, exactly as it was written. Integers come as
    int.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class _Pairs(list[tuple[str, object]]):
    """An object as the list of its pairs, so that a key that stands twice is still there twice."""


_DECODE: Final = msgspec.json.Decoder(float_hook=NumberLiteral).decode


def read_json(body: bytes) -> object:
    """The value of a JSON document: dict, list, str, int, NumberLiteral, bool or None.

    Raises:
        FieldError: broken JSON, broken UTF-8, trailing characters, a key twice, `-0`, more than
            DEPTH_MAX levels.
    """
    # RFC 8259, 8.1: some programs write one, and it means nothing
    body = body.removeprefix(BOM_UTF8)
    try:
        value = _DECODE(body)
        keys = _keys(value, 1)
    except UnicodeDecodeError:
        raise FieldError("is not valid UTF-8") from None
    except RecursionError:
        raise FieldError(f"is nested deeper than {DEPTH_MAX} levels") from None
    except msgspec.DecodeError as error:
        raise FieldError(
            f"is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}"
        ) from None
    # Every key has one colon. Equal numbers prove that no key was lost, and nearly every body has
    # no other colons.
    if body.count(b":") != keys or b"-0" in body:
        _look_closer(body, keys)
    return value


def _keys(value: object, depth: int) -> int:
    """How many keys the objects of a value have in all.

    Raises:
        RecursionError: more than DEPTH_MAX levels.
    """
    inner: Iterable[object]
    if isinstance(value, dict):
        count = len(value)
        inner = value.values()
    elif isinstance(value, list):
        count = 0
        inner = value
    else:
        return 0
    if depth > DEPTH_MAX:
        raise RecursionError
    for item in inner:
        if isinstance(item, (dict, list)):
            count += _keys(item, depth + 1)
    return count


def _look_closer(body: bytes, keys: int) -> None:
    """Decides about a body that has colons or `-0` in unusual numbers, with its strings taken
    out.
    """
    bare = _STRING.sub(b"", body)
    if bare.count(b":") != keys:
        pairs = json.loads(body, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
        _refuse_double(pairs)
    if _NEGATIVE_ZERO.search(bare):
        # the parser makes 0 of it, which is not what was written
        raise FieldError("has the number -0")


def _refuse_double(value: object) -> None:
    """Names the first key that stands twice in its object.

    Raises:
        FieldError: at the key.
    """
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, inner in value:
            if key in seen:
                raise FieldError("is given twice", key)
            seen.add(key)
            _refuse_inside(inner, key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_inside(inner, index)


def _refuse_inside(value: object, place: str | int) -> None:
    try:
        _refuse_double(value)
    except FieldError as mismatch:
        raise mismatch.inside(place) from None
