"""People who work for merchants, operators of the installation, and what each role may do."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mesh.errors import InvalidArgument
from mesh.scopes import SCOPE_AREAS

MEMBERS_MAX = 50  # members and open invitations of one merchant

_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f<>,;\"()\[\]\\]{1,64}@[A-Za-z0-9.-]{1,190}\.[A-Za-z0-9-]+")


class MemberRole(StrEnum):
    """What a member may do for one merchant."""

    OWNER = "OWNER"
    ADMIN = "ADMIN"
    DEVELOPER = "DEVELOPER"
    SUPPORT = "SUPPORT"
    FINANCE = "FINANCE"
    VIEWER = "VIEWER"

    @property
    def scopes(self) -> frozenset[str]:
        """Its rights, e.g. "payments:read"; a right to write is there together with the one to
        read.
        """
        return _SCOPES[self]


def _rights(*, read: tuple[str, ...] = (), write: tuple[str, ...] = ()) -> frozenset[str]:
    return frozenset(
        {f"{area}:read" for area in (*read, *write)} | {f"{area}:write" for area in write}
    )


_SCOPES = {
    MemberRole.OWNER: _rights(write=SCOPE_AREAS),
    MemberRole.ADMIN: _rights(
        read=("members",), write=tuple(area for area in SCOPE_AREAS if area != "members")
    ),
    MemberRole.DEVELOPER: _rights(
        read=("payments", "orders", "events", "channel_accounts"), write=("webhooks", "keys")
    ),
    MemberRole.SUPPORT: _rights(read=("payments", "events"), write=("orders", "refunds")),
    MemberRole.FINANCE: _rights(
        read=("payments", "reports", "channel_accounts"), write=("refunds",)
    ),
    MemberRole.VIEWER: _rights(read=("payments", "orders", "reports")),
}


class MemberState(StrEnum):
    """Whether a person may log in."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person, whoever he works for. Nothing secret of him is here."""

    member_id: str
    email: str = field(repr=False)
    name: str = field(repr=False)
    state: MemberState
    has_password: bool
    has_totp: bool
    is_operator: bool
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A person at one merchant."""

    account: Account
    merchant_id: str  # never a test sibling
    role: MemberRole
    invited_by: str  # subject of who did; "" for the owner who signed up
    created_at: datetime


def parse_email(text: str, *, field_name: str = "email") -> str:
    """An address as it is stored: in lower case, without blanks around it.

    Raises:
        InvalidArgument: it is not an address.
    """
    email = text.strip().lower()
    if not email.isascii() or not _EMAIL.fullmatch(email):
        raise InvalidArgument.of(field_name, "is not an e-mail address")
    return email


def email_digest(email: str) -> str:
    """SHA-256, in hex, of an address: what is looked up."""
    return hashlib.sha256(email.strip().lower().encode()).hexdigest()
