"""Credentials of provider accounts: read strictly, and shown nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mesh.errors import InvalidArgument
from mesh.problem_texts import WRONG_FORM

# how msgspec names a field of another form, a missing one and an unknown one
_WRONG = re.compile(r".* - at `(?:key` in `)?\$\.(?P<field>[A-Za-z0-9_]+).*`")
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`")
_FIELD_MAX = 64


class AccountSecrets(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of an account's credentials. Neither `repr` nor a traceback printed by rich has their
    fields.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


S = TypeVar("S", bound=AccountSecrets)


def read_fields(fields: Mapping[str, object], kind: type[S]) -> S:
    """The credentials in a file's or a request's fields.

    Raises:
        InvalidArgument: one is missing, unknown or of another form; names it, without its value.
    """
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.ValidationError as error:
        for pattern, problem in (
            (_WRONG, WRONG_FORM),
            (_MISSING, "is required"),
            (_UNKNOWN, "unknown"),
        ):
            if found := pattern.fullmatch(str(error)):
                raise InvalidArgument.of(found["field"][:_FIELD_MAX], problem) from None
        raise InvalidArgument.of("credentials", WRONG_FORM) from None
