"""Signs and verifies caller tokens, by which services of the mesh authenticate to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.call import Caller, Role
from mesh.claims import Claims, invalid
from mesh.clock import Clock
from mesh.clock_skew import ClockSkewed, ClockWatch
from mesh.errors import TokenExpired
from mesh.files import Reloaded, fixed
from mesh.ids import Ids
from mesh.jwks import Key
from mesh.key_files import public_key_files, read_private_key, read_public_keys
from mesh.settings import MeshSettings
from mesh.signed_tokens import REMEMBER_SECONDS, begins, judge, signed, verified
from mesh.token_cache import TokenCache
from mesh.token_issuers import NO_SERVICES

CALLER_TYPE: Final = "paymesh-caller+jwt"
# for our own processes: a clock that is off by a minute must not stop a mesh
CALLER_LEEWAY_SECONDS = 120
CALLER_LIFETIME_SECONDS = 300
# a caller token is reused for at most this long, so that it never arrives expired
CALLER_REUSE_SECONDS = 200
# an older caller token is a replayed one, since no clock is off by so much
SKEW_SECONDS_MAX = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerClaims:
    """A verified caller token."""

    service: str
    on_behalf_of: str
    expires_at_seconds: int
    caller: Caller = field(repr=False, compare=False)


class CallerTokens:
    """Signs the tokens that this process sends to siblings, and verifies theirs."""

    def __init__(
        self,
        service: str,
        *,
        clock: Clock,
        ids: Ids,
        private_key: Ed25519PrivateKey | Reloaded[Ed25519PrivateKey] | None = None,
        public_keys: Mapping[str, Ed25519PublicKey] | Reloaded[dict[str, Key]] | None = None,
        watch: ClockWatch | None = None,
        monotonic: Callable[[], float] = monotonic,
    ) -> None:
        self._service = service
        self._clock = clock
        self._ids = ids
        self._private_key = (
            private_key
            if isinstance(private_key, Reloaded) or private_key is None
            else fixed(private_key)
        )
        self._keys = (
            public_keys
            if isinstance(public_keys, Reloaded)
            else fixed(_caller_keys(public_keys or {}))
        )
        self._keys_version = self._keys.version
        self._watch = watch or ClockWatch(now=monotonic)
        self._monotonic = monotonic
        self._remembered: TokenCache[CallerClaims] = TokenCache()
        self._signed: TokenCache[str] = TokenCache()
        self._signed_by: Ed25519PrivateKey | None = None

    @classmethod
    def from_settings(
        cls, settings: MeshSettings, *, clock: Clock, ids: Ids, watch: ClockWatch | None = None
    ) -> CallerTokens:
        """Reads our private key and the directory of public keys.

        Raises:
            ValueError: a key is not Ed25519, or a file name is not `<service>.pub.pem`.
            OSError: a file cannot be read.
        """
        own, directory = settings.caller_key_file, settings.caller_keys_dir
        private_key = (
            Reloaded("our caller key", lambda: read_private_key(own), lambda: (own,))
            if own is not None
            else None
        )
        public_keys = None
        if directory is not None:
            public_keys = Reloaded(
                "keys of callers",
                lambda: _caller_keys(read_public_keys(directory)),
                lambda: public_key_files(directory),
            )
        return cls(
            settings.service,
            clock=clock,
            ids=ids,
            private_key=private_key,
            public_keys=public_keys,
            watch=watch,
        )

    @property
    def can_sign(self) -> bool:
        """Whether this process has a private key."""
        return self._private_key is not None

    def sign(self, target: str, *, on_behalf_of: str = "") -> str:
        """A token for a target service, reused for CALLER_REUSE_SECONDS.

        Raises:
            ValueError: this process has no key.
        """
        if self._private_key is None:
            raise ValueError("caller_key_file is not set")
        key = self._private_key.get()
        if key is not self._signed_by:
            self._signed_by = key
            self._signed.clear()
        moment = self._monotonic()
        known = self._signed.get(f"{target} {on_behalf_of}", moment)
        if known is not None:
            return known
        issued = int(self._clock.now().timestamp())
        payload = {
            "iss": self._service,
            "aud": target,
            "iat": issued,
            "nbf": issued,
            "exp": issued + CALLER_LIFETIME_SECONDS,
            "sub": self._service,
            "jti": self._ids.new("T"),
            **({"on_behalf_of": on_behalf_of} if on_behalf_of else {}),
        }
        token = signed(payload, key, kind=CALLER_TYPE, key_id=self._service)
        self._signed.put(f"{target} {on_behalf_of}", token, until=moment + CALLER_REUSE_SECONDS)
        return token

    def verify(self, token: str) -> CallerClaims:
        """The claims of a token that a sibling made for this service.

        Raises:
            ClockSkewed: its clock and ours differ too much to tell.
            TokenExpired: it was valid once.
            TokenInvalid: anything else.
        """
        keys = self._keys.get()
        if self._keys.version != self._keys_version:
            self._keys_version = self._keys.version
            self._remembered.clear()
        moment = self._monotonic()
        known = self._remembered.get(token, moment)
        if known is not None:
            return known
        header, claims, everything = verified(token, {CALLER_TYPE: keys})
        judge(
            claims,
            issuer=header.kid,
            audience=self._service,
            lifetime_seconds_max=CALLER_LIFETIME_SECONDS,
        )
        person = everything.get("on_behalf_of", "")
        if claims.sub != claims.iss or not claims.jti:
            raise invalid("sub" if claims.jti else "jti")
        if not isinstance(person, str) or len(person) > 128:
            raise invalid("on_behalf_of")
        now_seconds = self._clock.now().timestamp()
        self._check_times(claims, now_seconds)
        caller = Caller(
            role=Role.SERVICE,
            subject=claims.iss,
            service=claims.iss,
            on_behalf_of=person,
            roles=frozenset({Role.SERVICE}),
        )
        service = CallerClaims(
            service=claims.iss,
            on_behalf_of=person,
            expires_at_seconds=int(claims.exp),
            caller=caller,
        )
        self._remembered.put(
            token, service, until=moment + min(REMEMBER_SECONDS, claims.exp - now_seconds)
        )
        return service

    def _check_times(self, claims: Claims, now_seconds: float) -> None:
        early, age = begins(claims) - now_seconds, now_seconds - claims.iat
        if age > SKEW_SECONDS_MAX:
            raise TokenExpired
        ahead = (
            early if early > 0 else min(0.0, CALLER_REUSE_SECONDS - age)
        )  # a younger token does not prove any clock skew
        self._watch.heard(claims.iss, ahead)
        if early > CALLER_LEEWAY_SECONDS or now_seconds - claims.exp >= CALLER_LEEWAY_SECONDS:
            raise ClockSkewed(ahead)


def _caller_keys(public_keys: Mapping[str, Ed25519PublicKey]) -> dict[str, Key]:
    return {name: Key("EdDSA", key) for name, key in public_keys.items() if name not in NO_SERVICES}
