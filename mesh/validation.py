"""Checks messages against the contract's field rules (buf.validate) and names the violations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from mesh.errors import InvalidArgument
from mesh.problem_texts import rule_text

MISSING: Final = "is required"

_VALIDATOR = Validator()  # compiles a message's rules at its first use and keeps them


# every broken rule of a message
violations_of: Final[Callable[[Message], list[Violation]]] = _VALIDATOR.collect_violations


NAMED_MAX: Final = 20  # broken fields that a refusal names


def broken_rules(
    violations: Sequence[Violation], others: Mapping[str, str] | None = None
) -> InvalidArgument:
    """The error that names each broken field (dotted path, indexes in brackets) and its rule, at
    most 20 of them. It never contains values. `others` are further problems, by path.
    """
    fields: dict[str, str] = {}
    for violation in violations[:NAMED_MAX]:
        proto = violation.proto
        fields.setdefault(
            _path(proto),
            MISSING if _is_missing(violation) else rule_text(proto.rule_id, proto.message),
        )
    for path, problem in (others or {}).items():
        if len(fields) < NAMED_MAX:
            fields.setdefault(path, problem)
    return InvalidArgument(
        "; ".join(f"{path}: {problem}" if path else problem for path, problem in fields.items()),
        fields=fields,
    )


def warm_up(message: Message) -> None:
    """Compiles the rules of a message type at startup, so that the first call does not wait for it
    and a rule that does not compile fails the startup.
    """
    _VALIDATOR.collect_violations(message)


def _is_missing(violation: Violation) -> bool:
    """Whether a text breaks its rule because it is missing: the caller is then told so, and not of
    a pattern.
    """
    return bool(violation.field_value == "" and not violation.proto.for_key)


def _path(violation: Any) -> str:
    path = ""
    for element in violation.field.elements if violation.field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path
