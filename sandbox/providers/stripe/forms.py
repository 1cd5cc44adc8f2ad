"""Reads form-encoded parameters with brackets (`metadata[attempt_id]=…`, `expand[]=…`), and checks
them strictly: an unknown name, a wrong type or a missing value is refused with the parameter's
name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from sandbox.providers.stripe.errors import StripeError, invalid

Reader = Callable[[str, Any], Any]  # the parameter's name and its value to what it means

_NAME = re.compile(r"([A-Za-z0-9_]+)((?:\[[^\[\]]*\])*)")
_STEP = re.compile(r"\[([^\[\]]*)\]")
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_METADATA_KEYS_MAX: Final = 50
_METADATA_KEY_MAX: Final = 40
_METADATA_VALUE_MAX: Final = 500


def parse_form(encoded: bytes) -> dict[str, Any]:
    """The parameters as nested dictionaries and lists of strings.

    Raises:
        StripeError: brackets that do not match, or a parameter twice.
    """
    whole: dict[str, Any] = {}
    for name, value in parse_qsl(encoded.decode("utf-8", "replace"), keep_blank_values=True):
        match = _NAME.fullmatch(name)
        if match is None:
            raise invalid(f"Invalid parameter name: {name}", param=name)
        *way, last = [match[1], *_STEP.findall(match[2])]
        inner = whole
        for step in way:
            inner = inner.setdefault(step or str(len(inner)), {})
            if not isinstance(inner, dict):
                raise invalid(f"Invalid object: {name}", param=name)
        key = last or str(len(inner))
        if key in inner:
            raise invalid(f"Parameter given twice: {name}", param=name)
        inner[key] = value
    return {name: _with_lists(value) for name, value in whole.items()}


def _with_lists(value: Any) -> Any:
    """Dictionaries whose keys count from 0 are lists."""
    if not isinstance(value, dict):
        return value
    inner = {name: _with_lists(one) for name, one in value.items()}
    if set(inner) == {str(place) for place in range(len(inner))}:
        return [inner[str(place)] for place in range(len(inner))]
    return inner


def read(spec: Mapping[str, Reader], sent: Any, *, name: str = "", need: str = "") -> Any:
    """Checks parameters against what is known.

    Args:
        name: of the object that holds them; "" for the request.
        need: names of those that must be there, separated by spaces.

    Raises:
        StripeError: unknown, missing or malformed; nothing was done.
    """
    if not isinstance(sent, dict):
        raise invalid(f"Invalid object: {name}", param=name)
    full = {key: f"{name}[{key}]" if name else key for key in {*sent, *need.split()}}
    for key in need.split():
        if sent.get(key, "") == "":
            raise invalid(
                f"Missing required param: {full[key]}.", param=full[key], code="parameter_missing"
            )
    found = {}
    for key, value in sent.items():
        if key not in spec:
            raise invalid(
                f"Received unknown parameter: {full[key]}",
                param=full[key],
                code="parameter_unknown",
            )
        if value != "" or key in need.split():
            found[key] = spec[key](full[key], value)
    return found


def text(maximum: int = 5000) -> Reader:
    """A string."""

    def reader(name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {name}", param=name)
        if len(value) > maximum:
            raise invalid(
                f"Invalid string: {name} must be at most {maximum} characters",
                param=name,
                code="parameter_invalid_string_length",
            )
        return value

    return reader


def integer(least: int = 1) -> Reader:
    """A whole number."""

    def reader(name: str, value: Any) -> int:
        if not isinstance(value, str) or _INTEGER.fullmatch(value) is None:
            raise invalid(f"Invalid integer: {value}", param=name, code="parameter_invalid_integer")
        if int(value) < least:
            raise invalid(
                f"This value must be greater than or equal to {least}.",
                param=name,
                code="parameter_invalid_integer",
            )
        return int(value)

    return reader


def boolean(name: str, value: Any) -> bool:
    """`true` or `false`."""
    if value not in {"true", "false"}:
        raise invalid(f"Invalid boolean: {value}", param=name)
    return bool(value == "true")


def one_of(*words: str) -> Reader:
    """One of the words."""

    def reader(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise invalid(f"Invalid {name}: must be one of {', '.join(words)}", param=name)
        return value

    return reader


def nested(spec: Mapping[str, Reader], need: str = "") -> Reader:
    """An object."""
    return lambda name, value: read(spec, value, name=name, need=need)


def list_of(reader: Reader) -> Reader:
    """A list."""

    def whole(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise invalid("Invalid array", param=name)
        return tuple(reader(f"{name}[{place}]", one) for place, one in enumerate(value))

    return whole


def metadata(name: str, value: Any) -> dict[str, str]:
    """Up to 50 keys of 40 characters with values of 500."""
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise invalid("Invalid object: metadata", param=name)
    if len(value) > _METADATA_KEYS_MAX:
        raise invalid("Metadata can have up to 50 keys", param=name)
    for key, one in value.items():
        if len(key) > _METADATA_KEY_MAX or len(one) > _METADATA_VALUE_MAX:
            raise invalid(
                "Metadata keys have up to 40 characters, values up to 500",
                param=f"{name}[{key}]",
            )
    return {key: one for key, one in value.items() if one != ""}


def address(name: str, value: Any) -> str:
    """A web address."""
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]{1,2000}", value):
        raise StripeError(400, "Not a valid URL", code="url_invalid", param=name, executed=False)
    return value


# a moment in seconds, or bounds such as `created[gte]`
def bounds(name: str, value: Any) -> Callable[[int], bool]:
    """Whether a moment lies within `gt`, `gte`, `lt`, `lte`; a plain number is that second."""
    second = integer(0)
    if isinstance(value, str):
        exact = second(name, value)
        return lambda moment: moment == exact
    given = read(dict.fromkeys(("gt", "gte", "lt", "lte"), second), value, name=name)
    tests: dict[str, Callable[[int, int], bool]] = {
        "gt": lambda moment, bound: moment > bound,
        "gte": lambda moment, bound: moment >= bound,
        "lt": lambda moment, bound: moment < bound,
        "lte": lambda moment, bound: moment <= bound,
    }
    return lambda moment: all(tests[key](moment, bound) for key, bound in given.items())


EXPAND: Final[Mapping[str, Reader]] = {"expand": list_of(text(200))}
