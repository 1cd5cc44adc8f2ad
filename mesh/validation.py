"""The rules that the contract writes beside its fields (buf.validate), and what a broken one is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from mesh.errors import InvalidArgument

_VALIDATOR = Validator()  # compiles a message's rules at its first use and keeps them


violations_of: Final[Callable[[Message], list[Violation]]] = _VALIDATOR.collect_violations  # every broken rule of a message


def broken_rules(violations: Sequence[Violation]) -> InvalidArgument:
    """The refusal that names each broken field (dotted path, indexes in brackets) and its rule. Values are never told."""
    fields: dict[str, str] = {}
    for violation in violations:
        proto = violation.proto
        fields.setdefault(_path(proto), proto.message or proto.rule_id)
    return InvalidArgument("; ".join(f"{path}: {problem}" if path else problem for path, problem in fields.items()), fields=fields)


def warm_up(message: Message) -> None:
    """Compiles the rules of a message type, so that the first call does not wait for it and a rule that does not compile stops the start."""
    _VALIDATOR.collect_violations(message)


def _path(violation: Any) -> str:
    path = ""
    for element in violation.field.elements if violation.field is not None else ():
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path
