"""A session: how long somebody stays logged in, for which merchant, and which of its refresh tokens
is good.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from merchant_rpc.domain.errors import MerchantNotFound
from merchant_rpc.domain.member import MemberRole, MemberState
from merchant_rpc.domain.merchant import MerchantState, base_id, sibling_id

ACCESS_SECONDS: Final = 300  # of an access token
IDLE: Final = timedelta(minutes=30)
ABSOLUTE: Final = timedelta(hours=12)
# Two tabs of one browser refresh with one token, or an answer is lost and asked for again. Within
# this time the second one gets the same answer; later it is somebody with a copy.
GRACE: Final = timedelta(seconds=10)
LISTED_MAX: Final = 100
MEMBER, OPERATOR = "member:", "operator:"
_TOKEN: Final = re.compile(r"(SES[0-9A-Z]{26})_([1-9][0-9]{0,6})_([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who logs in, with what he proves it by."""

    member_id: str
    email: str = field(repr=False)
    state: MemberState
    is_operator: bool
    password_hash: str | None = field(repr=False)
    totp_secret: str | None = field(repr=False)  # encrypted
    totp_pending: str | None = field(repr=False)  # encrypted
    totp_last_step: int | None

    @property
    def may_log_in(self) -> bool:
        """Whether he is not disabled."""
        return self.state is MemberState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class ActsFor:
    """A merchant that a person works for."""

    merchant_id: str  # never a test sibling
    role: MemberRole
    state: MerchantState


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session without its tokens. `merchant_id` is "" for an operator."""

    session_id: str
    member_id: str
    merchant_id: str
    refresh_seed: str = field(repr=False)
    rotation: int
    rotated_at: datetime
    client_address: str
    created_at: datetime
    last_used_at: datetime
    idle_expires_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None

    @classmethod
    def begin(
        cls,
        *,
        session_id: str,
        member_id: str,
        merchant_id: str,
        refresh_seed: str,
        client_address: str,
        now: datetime,
    ) -> Session:
        """A new session."""
        return cls(
            session_id=session_id,
            member_id=member_id,
            merchant_id=merchant_id,
            refresh_seed=refresh_seed,
            rotation=1,
            rotated_at=now,
            client_address=client_address,
            created_at=now,
            last_used_at=now,
            idle_expires_at=now + IDLE,
            expires_at=now + ABSOLUTE,
        )

    def lives_at(self, now: datetime) -> bool:
        """Whether it may be used."""
        return self.revoked_at is None and now < self.idle_expires_at

    def judge(self, rotation: int, now: datetime) -> Use:
        """What to do with a refresh token that we made."""
        if not self.lives_at(now):
            return Use.REFUSE
        if rotation == self.rotation:
            return Use.ROTATE
        if rotation == self.rotation - 1 and now - self.rotated_at <= GRACE:
            return Use.REPEAT
        return Use.END

    def used(self, *, merchant_id: str, client_address: str, now: datetime) -> Session:
        """After a use of its refresh token, with the next one."""
        return replace(
            self,
            merchant_id=merchant_id,
            client_address=client_address,
            rotation=self.rotation + 1,
            rotated_at=now,
            last_used_at=now,
            idle_expires_at=min(now + IDLE, self.expires_at),
        )

    @property
    def token_text(self) -> str:
        """What the code of its present refresh token is made for."""
        return token_text(self.session_id, self.rotation, self.refresh_seed)


class Use(StrEnum):
    """What becomes of a refresh token that is shown."""

    ROTATE = "ROTATE"  # the good one: it ends, the next one is given
    REPEAT = "REPEAT"  # the one before, a moment ago: the good one is given again
    END = "END"  # an old one: somebody has a copy, so the session ends
    REFUSE = "REFUSE"  # the session has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshToken:
    """The parts of a refresh token; only `code` is secret."""

    session_id: str
    rotation: int
    code: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> RefreshToken | None:
        """The parts; None for what we never made."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            return None
        return cls(session_id=found[1], rotation=int(found[2]), code=found[3])

    def __str__(self) -> str:
        """The token."""
        return f"{self.session_id}_{self.rotation}_{self.code}"


def token_text(session_id: str, rotation: int, seed: str) -> str:
    """What the code of one refresh token is made for."""
    return f"{session_id}|{rotation}|{seed}"


def chosen(wanted: str, memberships: Iterable[ActsFor], *, is_operator: bool) -> ActsFor | None:
    """The merchant that a token is for, which may be a test sibling; None: an operator, for none.

    Args:
        wanted: "" for the merchant that the person has joined first, its test sibling while it is
            TEST_ONLY.

    Raises:
        MerchantNotFound: there is no such merchant, or the person does not work for it.
    """
    found = list(memberships)
    if not wanted:
        if is_operator:
            return None
        if not found:
            raise MerchantNotFound
        first = found[0]
        is_test = first.state is MerchantState.TEST_ONLY
        return replace(first, merchant_id=sibling_id(first.merchant_id)) if is_test else first
    for one in found:
        if one.merchant_id == base_id(wanted):
            return replace(one, merchant_id=wanted)
    raise MerchantNotFound(f"there is no merchant {wanted}", merchant_id=wanted)
