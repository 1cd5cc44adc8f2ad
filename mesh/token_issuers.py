"""Issues and judges user tokens of our own. Besides the identity provider three issuers speak for
users: merchant_rpc for the keys and members of merchants, payment_rpc for the buyer of one order of
a merchant, and the operators' key for our staff.

A key is bound to its issuer, and the issuer to what it may claim. The signer and every verifier
apply the same rules, so a stolen or confused key can never claim more than its line here says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mesh.call import KEY_SUBJECT, Role
from mesh.claims import MERCHANT_ID, Claims, invalid, scopes_of
from mesh.clock import Clock
from mesh.errors import TokenInvalid
from mesh.files import Reloaded, fixed
from mesh.ids import Ids
from mesh.key_files import read_private_key
from mesh.scopes import SCOPES
from mesh.signed_tokens import AUDIENCE, judge, signed

OWN_TYPE: Final = "paymesh-user+jwt"
KEY, MEMBER, BUYER, OPERATOR = KEY_SUBJECT, "member:", "ext:", "operator:"
# Of subjects that only our own issuers may claim. In any case of letters, because not every place
# that compares a subject tells them apart.
RESERVED_SUBJECTS: Final = (KEY, MEMBER, BUYER, OPERATOR)

_ID = re.compile(r"[A-Za-z0-9_-]{1,48}", re.ASCII)
_ROLES: Final = {role.value: role for role in (Role.USER, Role.MERCHANT, Role.ADMIN)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuer:
    """What one of our own issuers may claim.

    Attributes:
        key_id: `kid` of its tokens, and the name of its file `<key_id>.pub.pem`.
        issuer: `iss` of its tokens.
        role: the one role of its tokens.
        subjects: what its subjects begin with.
        has_merchant: its tokens name a merchant; otherwise they name none.
        lifetime_seconds_max: of a token.
    """

    key_id: str
    issuer: str
    role: Role
    subjects: tuple[str, ...]
    has_merchant: bool
    lifetime_seconds_max: int


MERCHANTS: Final = TokenIssuer(
    key_id="merchant_rpc",
    issuer="paymesh-merchants",
    role=Role.MERCHANT,
    subjects=(KEY, MEMBER),
    has_merchant=True,
    lifetime_seconds_max=15 * 60,
)
CHECKOUT: Final = TokenIssuer(
    key_id="payment_rpc",
    issuer="paymesh-checkout",
    role=Role.USER,
    subjects=(BUYER,),
    has_merchant=True,
    lifetime_seconds_max=8 * 24 * 3600,
)
OPERATORS: Final = TokenIssuer(
    key_id="operators",
    issuer="paymesh-operators",
    role=Role.ADMIN,
    subjects=(OPERATOR,),
    has_merchant=False,
    lifetime_seconds_max=15 * 60,
)
ISSUERS: Final = {issuer.key_id: issuer for issuer in (MERCHANTS, CHECKOUT, OPERATORS)}
# Keys that belong to no process: they never authenticate a service.
NO_SERVICES: Final = frozenset({OPERATORS.key_id})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenClaims:
    """What a token says about its user; see `mesh.call.Caller`."""

    roles: frozenset[Role]
    merchant_id: str
    scopes: frozenset[str] | None
    order_id: str = ""
    session_id: str = ""
    minor_amounts: bool = False


class _Payload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All claims that our own tokens may have. Any other is refused: what we do not know may be a
    limit that a newer issuer has set.
    """

    iss: str
    aud: str
    iat: int
    nbf: int
    exp: int
    sub: str
    jti: str
    roles: list[str]
    merchant_id: str = ""
    scopes: list[str] | None = None
    order_id: str = ""
    sid: str = ""
    amounts: Literal["", "minor"] = ""


def judged(key_id: str, claims: Claims, everything: Mapping[str, Any]) -> SpokenClaims:
    """The claims of a token that the key of one of our issuers has signed.

    Raises:
        TokenInvalid: a claim that this issuer may not make, or that is not of its form.
    """
    payload = _judged_payload(key_id, claims, everything)
    return SpokenClaims(
        roles=frozenset(_ROLES[role] for role in payload.roles),
        merchant_id=payload.merchant_id,
        scopes=scopes_of(everything),
        order_id=payload.order_id,
        session_id=payload.sid,
        minor_amounts=payload.amounts == "minor",
    )


def _judged_payload(key_id: str, claims: Claims, everything: Mapping[str, Any]) -> _Payload:
    issuer = ISSUERS.get(key_id)
    if issuer is None:
        raise invalid("key")
    judge(
        claims,
        issuer=issuer.issuer,
        audience=AUDIENCE,
        lifetime_seconds_max=issuer.lifetime_seconds_max,
    )
    try:
        payload = msgspec.convert(everything, type=_Payload)
    except msgspec.ValidationError:
        raise invalid("claims") from None
    _judge_subject(issuer, payload)
    _judge_roles(issuer, payload)
    if issuer.has_merchant != (MERCHANT_ID.fullmatch(payload.merchant_id) is not None):
        raise invalid("merchant_id")
    if (payload.scopes is not None) != (issuer is MERCHANTS):
        raise invalid("scopes")
    if payload.amounts and issuer is not MERCHANTS:
        raise invalid("amounts")
    return payload


def _judge_subject(issuer: TokenIssuer, payload: _Payload) -> None:
    prefix, colon, name = payload.sub.partition(":")
    kind = prefix + colon
    if kind not in issuer.subjects or _ID.fullmatch(name) is None:
        raise invalid("sub")
    if (payload.order_id != name) if kind == BUYER else payload.order_id:
        raise invalid("order_id")  # a checkout token pays the order that it is named after
    if payload.sid and (kind not in {MEMBER, OPERATOR} or _ID.fullmatch(payload.sid) is None):
        raise invalid("sid")  # only people log in


def _judge_roles(issuer: TokenIssuer, payload: _Payload) -> None:
    # A publishable key has no role: it may do what anybody may, and is counted by its name.
    if payload.roles != [issuer.role] and (payload.roles or not payload.sub.startswith(KEY)):
        raise invalid("roles")


class OwnTokenSigner:
    """Signs the tokens of one of our own issuers."""

    def __init__(
        self,
        issuer: TokenIssuer,
        private_key: Ed25519PrivateKey | Reloaded[Ed25519PrivateKey],
        *,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._issuer = issuer
        self._private_key = private_key if isinstance(private_key, Reloaded) else fixed(private_key)
        self._clock = clock
        self._ids = ids

    @classmethod
    def of_file(cls, issuer: TokenIssuer, file: Path, *, clock: Clock, ids: Ids) -> Self:
        """Signs with the key of a file, which is read again when it changes.

        Raises:
            ValueError: it is not an Ed25519 key.
            OSError: the file cannot be read.
        """
        key = Reloaded(f"key of {issuer.issuer}", lambda: read_private_key(file), lambda: (file,))
        return cls(issuer, key, clock=clock, ids=ids)

    def sign(
        self,
        subject: str,
        *,
        merchant_id: str,
        roles: Iterable[Role],
        lifetime_seconds: int,
        scopes: Iterable[str] | None = None,
        order_id: str = "",
        session_id: str = "",
        minor_amounts: bool = False,
    ) -> str:
        """A token for a subject, e.g. `key:AK01…` of a merchant.

        Args:
            merchant_id: "" for operators.
            scopes: what a key or member may do; None for the other issuers.
            order_id: the one order of a checkout token, whose subject is `ext:<order_id>`.
            session_id: the session of a person who logged in.
            minor_amounts: bare integers in amounts are minor units.

        Raises:
            ValueError: the issuer may not claim this; names the claim.
        """
        now = int(self._clock.now().timestamp())
        payload = {
            "iss": self._issuer.issuer,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "sub": subject,
            "jti": self._ids.new("T"),
            "roles": [role.value for role in roles],
            **({"merchant_id": merchant_id} if merchant_id else {}),
            **({} if scopes is None else {"scopes": sorted(scopes)}),
            **({"order_id": order_id} if order_id else {}),
            **({"sid": session_id} if session_id else {}),
            **({"amounts": "minor"} if minor_amounts else {}),
        }
        self._refuse_what_nobody_would_believe(payload)
        return signed(payload, self._private_key.get(), kind=OWN_TYPE, key_id=self._issuer.key_id)

    def _refuse_what_nobody_would_believe(self, payload: dict[str, Any]) -> None:
        unknown = set(payload.get("scopes", ())) - SCOPES
        if unknown:
            raise ValueError(f"there is no scope {min(unknown)!r}")
        try:
            _judged_payload(self._issuer.key_id, msgspec.convert(payload, type=Claims), payload)
        except TokenInvalid as problem:
            raise ValueError(f"{self._issuer.issuer} may not claim this: {problem}") from None
