"""Reads the claims of tokens: their types and times as in RFC 7519 and RFC 9068, and the id, roles
and tenant that we derive from them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mesh.call import Role
from mesh.errors import TokenInvalid

TOKEN_ID_CHARACTERS_MAX = 128
SECONDS_MAX = 2**40  # tens of thousands of years; an `exp` of 10**400 is not a valid time

MERCHANT_ID: Final = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)
_SUBJECT = re.compile(
    r"[\x21-\x7e]{1,255}", re.ASCII
)  # OpenID Connect Core, 2; no spaces, which separate fields in Redis
_PLAIN = re.compile(r"[A-Za-z0-9_.:@-]{1,64}", re.ASCII)
_HARMLESS = re.compile(rb"[A-Za-z0-9_@-]")
_ESCAPED, _DIGEST = "enc:", "sha256:"
_AT = re.compile(r"at `\$\.?([A-Za-z_]*)")
_MISSING: Final = object()
_ROLES = {"user": Role.USER, "merchant": Role.MERCHANT, "admin": Role.ADMIN}


def invalid(why: str) -> TokenInvalid:
    """The error for an invalid token, with one word about the reason and no part of the token."""
    return TokenInvalid(f"The token is invalid ({why}).")


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The registered claims. Times are NumericDates: seconds since 1970, with or without a
    fraction.
    """

    iss: str
    aud: str | list[str]
    iat: int | float
    exp: int | float
    sub: str
    nbf: int | float | None = None  # not required by RFC 9068
    jti: str = ""


def read_claims(payload: bytes) -> tuple[Claims, dict[str, Any]]:
    """The registered claims of a payload, and all its claims.

    Raises:
        TokenInvalid: names the claim that is missing or invalid.
    """
    try:
        everything = msgspec.json.decode(payload, type=dict[str, Any])
        claims = msgspec.convert(everything, type=Claims)
    except msgspec.ValidationError as problem:
        raise invalid(_claim_of(str(problem))) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise invalid("claims") from None
    for name in ("iat", "exp", "nbf"):
        moment = getattr(claims, name)
        if moment is not None and not 0 < moment < SECONDS_MAX:
            raise invalid(name)
    if _SUBJECT.fullmatch(claims.sub) is None:
        raise invalid("sub")
    if len(claims.jti) > TOKEN_ID_CHARACTERS_MAX or ("jti" in everything and not claims.jti):
        raise invalid("jti")
    return claims, everything


def _claim_of(problem: str) -> str:
    """The claim in an error of msgspec: "Expected `str`, got `int` - at `$.sub`", "Object missing
    required field `exp`".
    """
    missing = re.search(r"missing required field `([a-z]+)`", problem)
    if missing is not None:
        return missing[1]
    found = _AT.search(problem)
    return (found[1] if found is not None else "") or "claims"


def subject_of(sub: str) -> str:
    """Our id for a subject. Most subjects are used as they are. Others (`auth0|123`, a URL, a long
    one) are encoded in the characters of our ids: `enc:` and every other byte as `.` and two hex
    digits, or `sha256:` and a digest where that would be longer than 64. No two subjects get the
    same id: a subject that begins like an encoded one is encoded too."""
    if _PLAIN.fullmatch(sub) is not None and not sub.startswith((_ESCAPED, _DIGEST)):
        return sub
    raw = sub.encode()
    escaped = _ESCAPED + "".join(
        chr(byte) if _HARMLESS.fullmatch(bytes((byte,))) else f".{byte:02x}" for byte in raw
    )
    if len(escaped) <= 64:
        return escaped
    return _DIGEST + base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str] | None:
    """The claim `scopes` with what follows from it: a right to write includes reading. None
    without the claim. Words that are no scope of ours grant nothing.

    Raises:
        TokenInvalid: it is neither a list of strings nor text.
    """
    if "scopes" not in claims:
        return None
    value = claims["scopes"]
    words = value.split(" ") if isinstance(value, str) else _words("scopes", value)
    return frozenset(words) | {
        f"{area}:read"
        for area, _, right in (word.partition(":") for word in words)
        if right == "write"
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """The names of the claims in which an identity provider writes roles and tenant.

    Attributes:
        roles: claims with the roles, each a list or space-separated text; "realm_access.roles"
            reads an object in a claim.
        role_names: the provider's role name -> "user", "merchant" or "admin"; our own names are
            always accepted.
        default_role: the role of a token without any of our roles, or "".
        merchant: claim with the tenant.
        default_merchant: tenant of buyers whose token has no such claim; "" refuses them.
    """

    roles: Sequence[str] = ("roles",)
    role_names: Mapping[str, str] = field(default_factory=dict)
    default_role: str = ""
    merchant: str = "merchant_id"
    default_merchant: str = ""

    def roles_of(self, claims: Mapping[str, Any]) -> frozenset[Role]:
        """The known roles of a token; any other role name is ignored.

        Raises:
            TokenInvalid: a claim with roles is not a list of strings.
        """
        found = set()
        for path in self.roles:
            for word in _words(path, _at(claims, path)):
                role = _ROLES.get(self.role_names.get(word, word))
                if role is not None:
                    found.add(role)
        if not found and self.default_role:
            found.add(_ROLES[self.default_role])
        return frozenset(found)

    def merchant_of(self, claims: Mapping[str, Any], roles: frozenset[Role]) -> str:
        """The tenant of a token. Without the claim it is `default_merchant`, which may be "" only
        when the roles include neither USER nor MERCHANT.

        Raises:
            TokenInvalid: it is not a merchant id, or it is missing and a role needs it.
        """
        merchant = _at(claims, self.merchant)
        if merchant is _MISSING:
            if Role.MERCHANT in roles or (Role.USER in roles and not self.default_merchant):
                raise invalid(f"{self.merchant} is missing")
            return self.default_merchant
        if not isinstance(merchant, str) or MERCHANT_ID.fullmatch(merchant) is None:
            raise invalid(self.merchant)
        return merchant


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, which may contain dots (`https://shop.example/roles`), else by its path;
    _MISSING when there is none.
    """
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _words(path: str, value: Any) -> Sequence[str]:
    if value is _MISSING:
        return ()
    if isinstance(value, str) and path.rpartition(".")[2] in {"scope", "scp"}:
        return value.split(" ")  # RFC 8693, 4.2
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    raise invalid(path)
