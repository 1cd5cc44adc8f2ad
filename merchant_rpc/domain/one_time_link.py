"""Links that work once."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

LIFETIME = timedelta(hours=24)


class LinkKind(StrEnum):
    """What a link is for; the token of one kind is nothing to the others."""

    SIGN_UP = "SIGN_UP"
    INVITATION = "INVITATION"
    PASSWORD_RESET = "PASSWORD_RESET"  # noqa: S105  a kind of link
    OPERATOR = "OPERATOR"
    OIDC_LOGIN = "OIDC_LOGIN"
