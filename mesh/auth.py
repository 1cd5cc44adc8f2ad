"""Authenticates users. A user token identifies the person, a caller token (`mesh.caller_tokens`)
the sibling service; every server verifies both. User tokens come from the identity provider and
from three issuers of our own (`mesh.token_issuers`), each with a type, keys and claims of its own.

The decoder takes the algorithm from our own key record, never from the token. It reads claims with
exact types, because PyJWT alone accepts a token without `exp`, or with `exp` as text. Keys, revoked
tokens and the keys of callers are read again when their files change.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

import jwt

from mesh.call import NOBODY, Caller, Role, Scope, current_caller
from mesh.caller_tokens import CallerClaims, CallerTokens
from mesh.claims import ClaimNames, Claims, invalid, scopes_of, subject_of
from mesh.clock import Clock
from mesh.clock_skew import ClockSkewed, ClockWatch
from mesh.errors import TokenExpired
from mesh.files import Reloaded, fixed
from mesh.ids import Ids
from mesh.jwks import Key, read_jwks, secret_key
from mesh.key_files import public_key_files, read_public_keys
from mesh.policies import DEFAULT_MERCHANT
from mesh.revocations import Revocations
from mesh.secret_files import read_secrets
from mesh.settings import MeshSettings
from mesh.signed_tokens import AUDIENCE, REMEMBER_SECONDS, Header, begins, judge, verified
from mesh.token_cache import TokenCache
from mesh.token_issuers import (
    ISSUERS,
    OWN_TYPE,
    RESERVED_SUBJECTS,
    OwnTokenSigner,
    SpokenClaims,
    TokenIssuer,
    judged,
)

__all__ = [
    "NOBODY",
    "Caller",
    "CallerClaims",
    "CallerTokens",
    "OwnTokenSigner",
    "Role",
    "Scope",
    "TokenIssuer",
    "UserClaims",
    "UserTokenIssuer",
    "UserTokens",
    "current_caller",
    "read_jwks",
]

USER_TYPE: Final = "at+jwt"  # RFC 9068
ISSUER: Final = "the issuer of user tokens"  # source name in `ClockWatch`
LEEWAY_SECONDS = 30  # clock skew that is tolerated for user tokens
USER_LIFETIME_SECONDS_MAX = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class UserClaims:
    """A verified user token. `callers` has the caller for each of its roles and for PUBLIC.
    `validated_requests` caches what the pipeline found about its requests, for as long as the token
    is cached."""

    subject: str
    merchant_id: str
    roles: frozenset[Role]
    expires_at_seconds: int
    token_id: str
    order_id: str = ""  # of a checkout token: the one order that it is for
    callers: Mapping[Role, Caller] = field(repr=False, compare=False)
    validated_requests: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    charge: Callable[[int], None] = field(
        default=lambda _: None, repr=False, compare=False
    )  # counts bytes that are put into `validated_requests`


class UserTokens:
    """Verifies user tokens."""

    def __init__(
        self,
        keys: Mapping[str, Key] | Reloaded[dict[str, Key]],
        *,
        clock: Clock,
        issuer: str,
        audience: str = AUDIENCE,
        types: Iterable[str] = (USER_TYPE,),
        names: ClaimNames | None = None,
        own_keys: Mapping[str, Key] | Reloaded[dict[str, Key]] | None = None,
        revocations: Reloaded[Revocations] | None = None,
        watch: ClockWatch | None = None,
        cache: TokenCache[UserClaims] | None = None,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        """`keys` are the identity provider's, `own_keys` those of `mesh.token_issuers`."""
        self._keys = keys if isinstance(keys, Reloaded) else fixed(dict(keys))
        self._own_keys = own_keys if isinstance(own_keys, Reloaded) else fixed(dict(own_keys or {}))
        self._clock = clock
        self._issuer = issuer
        self._audience = audience
        self._types = frozenset(kind.lower().removeprefix("application/") for kind in types)
        self._names = names or ClaimNames()
        self._revocations = revocations or fixed(Revocations())
        self._watch = watch or ClockWatch(now=monotonic)
        self._remembered = cache or TokenCache()
        self._seen = self._versions()
        self._monotonic = monotonic

    @classmethod
    def from_settings(
        cls, settings: MeshSettings, *, clock: Clock, watch: ClockWatch | None = None
    ) -> UserTokens:
        """Reads the key files of the settings. Without any, every token is refused.

        Raises:
            ValueError: a secret is too short, a JWKS has no usable key or has a private one, or the
                list of revoked tokens cannot be parsed.
            OSError: a file cannot be read.
        """
        secret_file, jwks_file, revoked_file = (
            settings.user_token_secret_file,
            settings.user_token_jwks_file,
            settings.user_tokens_revoked_file,
        )
        files = [file for file in (secret_file, jwks_file) if file is not None]
        revocations = None
        if revoked_file is not None:
            revocations = Reloaded(
                "revoked user tokens",
                lambda: Revocations.of_file(revoked_file),
                lambda: (revoked_file,),
            )
        directory, own_keys = settings.caller_keys_dir, None
        if directory is not None:
            own_keys = Reloaded(
                "keys of our own issuers",
                lambda: _read_own_keys(directory),
                lambda: public_key_files(directory),
            )
        names = ClaimNames(
            roles=tuple(settings.user_token_roles_claims),
            role_names=settings.user_token_role_names,
            default_role=settings.user_token_default_role,
            merchant=settings.user_token_merchant_claim,
            default_merchant=settings.user_token_default_merchant,
        )
        return cls(
            Reloaded(
                "keys of user tokens",
                lambda: _read_user_keys(secret_file, jwks_file),
                lambda: files,
            ),
            clock=clock,
            issuer=settings.user_token_issuer,
            audience=settings.user_token_audience,
            types=settings.user_token_types,
            names=names,
            own_keys=own_keys,
            revocations=revocations,
            watch=watch,
        )

    @classmethod
    def from_secret(
        cls,
        secret: bytes,
        *,
        clock: Clock,
        issuer: str = "paymesh",
        monotonic: Callable[[], float] = monotonic,
    ) -> UserTokens:
        """HS256 with one secret of at least 32 bytes."""
        return cls({"": secret_key(secret)}, clock=clock, issuer=issuer, monotonic=monotonic)

    def verify(self, token: str) -> UserClaims:
        """The claims of a token.

        Raises:
            TokenExpired: it was valid once.
            TokenInvalid: anything else.
            ClockSkewed: our clock looks wrong; another replica may accept the token.
        """
        keys, own_keys = self._keys.get(), self._own_keys.get()
        revocations = self._revocations.get()
        versions = self._versions()
        if versions != self._seen:  # a cached token may have become invalid
            self._seen = versions
            self._remembered.clear()
        moment = self._monotonic()
        known = self._remembered.get(token, moment)
        if known is not None:
            return known
        header, claims, everything = verified(
            token, {**dict.fromkeys(self._types, keys), OWN_TYPE: own_keys}
        )
        spoken = self._spoken(header, claims, everything)
        now_seconds = self._clock.now().timestamp()
        self._check_times(claims, now_seconds)
        user = self._user(claims, spoken)
        if revocations.hold(claims, subject=user.subject, merchant_id=user.merchant_id):
            raise invalid("revoked")
        self._remembered.put(
            token, user, until=moment + min(REMEMBER_SECONDS, claims.exp - now_seconds)
        )
        return user

    def _versions(self) -> tuple[int, int, int]:
        return self._keys.version, self._own_keys.version, self._revocations.version

    def _spoken(
        self, header: Header, claims: Claims, everything: Mapping[str, Any]
    ) -> SpokenClaims:
        """What a token says about its user, by the rules of its issuer."""
        if header.kind == OWN_TYPE:
            return judged(header.kid, claims, everything)
        judge(
            claims,
            issuer=self._issuer,
            audience=self._audience,
            lifetime_seconds_max=USER_LIFETIME_SECONDS_MAX,
        )
        if claims.sub.lower().startswith(RESERVED_SUBJECTS):
            raise invalid("sub")
        roles = self._names.roles_of(everything)
        return SpokenClaims(
            roles=roles,
            merchant_id=self._names.merchant_of(everything, roles),
            scopes=scopes_of(everything),
        )

    def _check_times(self, claims: Claims, now_seconds: float) -> None:
        early = begins(claims) - now_seconds
        if early > 0:
            self._watch.heard(ISSUER, claims.iat - now_seconds)
        late = now_seconds - claims.exp
        if early <= LEEWAY_SECONDS and late < LEEWAY_SECONDS:
            return
        error = self._watch.our_error_seconds()
        if (error > 0 and early > LEEWAY_SECONDS >= early - error) or (
            error < 0 and late >= LEEWAY_SECONDS > late + error
        ):
            raise ClockSkewed(error)
        if early > LEEWAY_SECONDS:
            raise invalid("not yet")
        raise TokenExpired

    def _user(self, claims: Claims, spoken: SpokenClaims) -> UserClaims:
        subject = subject_of(claims.sub)
        callers = {
            role: Caller(
                role=role,
                subject=subject,
                merchant_id=spoken.merchant_id,
                roles=spoken.roles,
                scopes=spoken.scopes,
                order_id=spoken.order_id,
                session_id=spoken.session_id,
                minor_amounts=spoken.minor_amounts,
            )
            for role in (*spoken.roles, Role.PUBLIC)
        }
        return UserClaims(
            subject=subject,
            merchant_id=spoken.merchant_id,
            roles=spoken.roles,
            expires_at_seconds=int(claims.exp),
            token_id=claims.jti,
            order_id=spoken.order_id,
            callers=callers,
            charge=self._remembered.charge,
        )


def _read_user_keys(secret_file: Path | None, jwks_file: Path | None) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    if secret_file is not None:
        keys[""] = secret_key(*read_secrets(secret_file))
    if jwks_file is not None:
        keys.update(read_jwks(jwks_file.read_bytes()))
    return keys


def _read_own_keys(directory: Path) -> dict[str, Key]:
    return {
        name: Key("EdDSA", key)
        for name, key in read_public_keys(directory).items()
        if name in ISSUERS
    }


class UserTokenIssuer:
    """Issues user tokens in development and tests. Production uses an identity provider."""

    def __init__(self, secret: bytes, *, clock: Clock, ids: Ids, issuer: str = "paymesh") -> None:
        """Raises ValueError for a secret below 32 bytes."""
        self._key = secret_key(secret)
        self._clock = clock
        self._ids = ids
        self._issuer = issuer

    def issue(
        self,
        subject: str,
        *,
        roles: Iterable[str] = ("user",),
        merchant_id: str = DEFAULT_MERCHANT,
        lifetime_seconds: int = 3600,
    ) -> str:
        """A token for a subject. Roles are "user", "merchant", "admin"."""
        now = int(self._clock.now().timestamp())
        payload = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "sub": subject,
            "jti": self._ids.new("T"),
            "roles": list(roles),
            "merchant_id": merchant_id,
        }
        return jwt.encode(
            payload, self._key.material, algorithm="HS256", headers={"typ": USER_TYPE}
        )
