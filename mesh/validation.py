"""The rules that the contract writes beside its fields (buf.validate), and what a broken one is
called.
"""

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
    """The refusal that names each broken field (dotted path, indexes in brackets) and its rule, at
    most 20 of them. Values are never told. `others` are problems that were found besides, by
    path."""
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
    """Compiles the rules of a message type, so that the first call does not wait for it and a rule
    that does not compile stops the start.
    """
    _VALIDATOR.collect_violations(message)


def _is_missing(violation: Violation) -> bool:
    """Whether a text breaks its rule by not being there: to the caller that is no matter of
    patterns.
    """
    return bool(violation.field_value == "" and not violation.proto.for_key)


def _path(violation: Any) -> str:
    path = ""
    for element in violation.field.elements if violation.field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path
