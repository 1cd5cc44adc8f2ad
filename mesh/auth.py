"""Who calls. A user token says which person, a caller token says which sibling service; each is checked by every server for itself.

The decoder takes the algorithm from our own key record, never from the token, and reads claims with exact types: PyJWT alone accepts a token
without `exp`, or with `exp` as text. Verified tokens are remembered for at most a minute, because a signature check costs 30 to 80 µs.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, Generic, TypeVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mesh.call import NOBODY, Caller, Role, Scope, current_caller
from mesh.clock import Clock
from mesh.errors import TokenExpired, TokenInvalid
from mesh.ids import Ids
from mesh.policies import DEFAULT_MERCHANT
from mesh.settings import SECRET_BYTES_MIN, MeshSettings, read_secret

__all__ = ["NOBODY", "Caller", "CallerClaims", "CallerTokens", "Role", "Scope", "UserClaims", "UserTokenIssuer", "UserTokens", "current_caller"]

USER_TYPE: Final = "at+jwt"
CALLER_TYPE: Final = "paymesh-caller+jwt"
AUDIENCE: Final = "paymesh"
TOKEN_BYTES_MAX = 8192
LEEWAY_SECONDS = 30                # clocks of two machines
USER_LIFETIME_SECONDS_MAX = 24 * 3600
CALLER_LIFETIME_SECONDS = 300
CALLER_REUSE_SECONDS = 200         # a caller token is sent at most this long, so that it never arrives expired
REMEMBER_SECONDS = 60              # how long a verified token is believed without looking again
REMEMBER_MAX = 100_000             # about 100 MB with tokens of 700 bytes, and as much again when everybody repeats requests
RSA_BITS_MIN = 2048

_SUBJECT = re.compile(r"[A-Za-z0-9_.:@-]{1,64}", re.ASCII)
_MERCHANT = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)
_SERVICE = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_ROLES = {"user": Role.USER, "merchant": Role.MERCHANT, "admin": Role.ADMIN}


class _Header(msgspec.Struct, frozen=True):
    alg: str
    typ: str
    kid: str = ""


class _TimeClaims(msgspec.Struct, frozen=True, kw_only=True):
    iss: str
    aud: str | list[str]
    iat: int
    nbf: int
    exp: int
    sub: str
    jti: str


class _UserPayload(_TimeClaims, frozen=True, kw_only=True):
    roles: list[str] = []
    merchant_id: str = DEFAULT_MERCHANT


class _CallerPayload(_TimeClaims, frozen=True, kw_only=True):
    on_behalf_of: str = ""


_Payload = TypeVar("_Payload", bound=_TimeClaims)
_Claims = TypeVar("_Claims")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserClaims:
    """A verified user token. `callers` has the caller that it makes for every role that it holds (and PUBLIC), `asked` what the pipeline worked out
    about requests that it came with, for as long as the token is remembered."""

    subject: str
    merchant_id: str
    roles: frozenset[Role]
    expires_at_seconds: int
    token_id: str
    callers: Mapping[Role, Caller] = field(repr=False, compare=False)
    asked: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerClaims:
    """A verified caller token."""

    service: str
    on_behalf_of: str
    expires_at_seconds: int
    caller: Caller = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _Key:
    algorithm: str
    material: Any  # key object of `cryptography`, or bytes for HS256


class _Remembered(Generic[_Claims]):
    """Tokens by their text, each until its moment, in two generations: what was used since the older one was filled is kept, the rest goes when the
    younger one is full. A hit in the younger touches nothing else, which an ordered cache would have to."""

    __slots__ = ("_now", "_old", "_size", "_young")

    def __init__(self, size: int, now: Callable[[], float]) -> None:
        self._size = size // 2
        self._now = now  # monotonic seconds
        self._young: dict[str, tuple[float, _Claims]] = {}
        self._old: dict[str, tuple[float, _Claims]] = {}

    def get(self, token: str) -> _Claims | None:
        entry = self._young.get(token)
        if entry is None:
            entry = self._old.get(token)
            if entry is None:
                return None
            self._keep(token, entry)
        return entry[1] if self._now() < entry[0] else None

    def put(self, token: str, claims: _Claims, *, seconds: float) -> None:
        self._keep(token, (self._now() + seconds, claims))

    def _keep(self, token: str, entry: tuple[float, _Claims]) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[token] = entry


def _verified(token: str, keys: Mapping[str, _Key], token_type: str, payload_type: type[_Payload]) -> tuple[_Header, _Payload]:
    """Header and payload of a token whose form, type and signature are right. Claims are typed, not yet judged."""
    if len(token) > TOKEN_BYTES_MAX or _COMPACT.fullmatch(token) is None:
        raise _invalid("form")
    try:
        header = msgspec.json.decode(_unbase64(token[:token.index(".")]), type=_Header)
    except (msgspec.MsgspecError, binascii.Error, RecursionError):
        raise _invalid("form") from None
    if header.typ != token_type:
        raise _invalid("type")
    key = keys.get(header.kid)
    if key is None:
        raise _invalid("key")
    try:
        signed = _JWS.decode_complete(token, key.material, algorithms=[key.algorithm])
        return header, msgspec.json.decode(signed["payload"], type=payload_type)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise _invalid("signature") from None
    except (msgspec.MsgspecError, RecursionError):
        raise _invalid("claims") from None


_JWS = jwt.PyJWS()


def _judge(claims: _TimeClaims, *, issuer: str, audience: str, lifetime_seconds_max: int, now_seconds: float) -> None:
    if claims.iss != issuer:
        raise _invalid("issuer")
    if audience not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        raise _invalid("audience")
    if not (_SUBJECT.fullmatch(claims.sub) and 0 < len(claims.jti) <= 128):
        raise _invalid("subject")
    if claims.iat > now_seconds + LEEWAY_SECONDS or claims.nbf > now_seconds + LEEWAY_SECONDS:
        raise _invalid("not yet")
    if not 0 < claims.exp - claims.iat <= lifetime_seconds_max:
        raise _invalid("lifetime")
    if claims.exp <= now_seconds - LEEWAY_SECONDS:
        raise TokenExpired


def _invalid(why: str) -> TokenInvalid:
    return TokenInvalid(f"The token is invalid ({why}).")


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class UserTokens:
    """Verifies user tokens."""

    def __init__(self, keys: Mapping[str, _Key], *, clock: Clock, issuer: str, remember_max: int = REMEMBER_MAX,
                 monotonic: Callable[[], float] = monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._issuer = issuer
        self._remembered: _Remembered[UserClaims] = _Remembered(remember_max, monotonic)

    @classmethod
    def from_settings(cls, settings: MeshSettings, *, clock: Clock) -> UserTokens:
        """Reads the key files of the settings; without any, every token is refused.

        Raises:
            ValueError: a secret that is too short, or a JWKS that is not one of public RS256, ES256 or EdDSA keys with distinct `kid`s.
        """
        keys: dict[str, _Key] = {}
        if settings.user_token_secret_file is not None:
            keys[""] = _secret_key(read_secret(settings.user_token_secret_file))
        if settings.user_token_jwks_file is not None:
            keys.update(read_jwks(settings.user_token_jwks_file.read_bytes()))
        return cls(keys, clock=clock, issuer=settings.user_token_issuer)

    @classmethod
    def from_secret(cls, secret: bytes, *, clock: Clock, issuer: str = "paymesh", monotonic: Callable[[], float] = monotonic) -> UserTokens:
        """HS256 with one secret of at least 32 bytes."""
        return cls({"": _secret_key(secret)}, clock=clock, issuer=issuer, monotonic=monotonic)

    def verify(self, token: str) -> UserClaims:
        """The claims of a token.

        Raises:
            TokenExpired: it was good once. TokenInvalid: anything else.
        """
        known = self._remembered.get(token)
        if known is not None:
            return known
        now_seconds = self._clock.now().timestamp()
        _, payload = _verified(token, self._keys, USER_TYPE, _UserPayload)
        _judge(payload, issuer=self._issuer, audience=AUDIENCE, lifetime_seconds_max=USER_LIFETIME_SECONDS_MAX, now_seconds=now_seconds)
        if _MERCHANT.fullmatch(payload.merchant_id) is None:
            raise _invalid("merchant")
        claims = _user_claims(payload)
        self._remembered.put(token, claims, seconds=min(REMEMBER_SECONDS, payload.exp - now_seconds))
        return claims


def _user_claims(payload: _UserPayload) -> UserClaims:
    roles = frozenset(_ROLES[name] for name in payload.roles if name in _ROLES)  # a role that we do not know grants nothing
    callers = {role: Caller(role=role, subject=payload.sub, merchant_id=payload.merchant_id, roles=roles) for role in (*roles, Role.PUBLIC)}
    return UserClaims(subject=payload.sub, merchant_id=payload.merchant_id, roles=roles, expires_at_seconds=payload.exp, token_id=payload.jti,
                      callers=callers)


def _secret_key(secret: bytes) -> _Key:
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(f"a secret for HS256 has at least {SECRET_BYTES_MIN} bytes")
    return _Key("HS256", secret)


class _Jwk(msgspec.Struct, frozen=True):
    kid: str
    kty: str
    alg: str
    use: str = "sig"


class _Jwks(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


_JWK_READERS: dict[str, tuple[str, Any]] = {"RS256": ("RSA", RSAAlgorithm), "ES256": ("EC", ECAlgorithm), "EdDSA": ("OKP", OKPAlgorithm)}


def read_jwks(document: bytes) -> dict[str, _Key]:
    """The public keys of a JWKS by their `kid`.

    Raises:
        ValueError: not a JWKS, a key without `kid` or `alg`, another algorithm, a private key, an RSA key below 2048 bits, a `kid` twice.
    """
    keys: dict[str, _Key] = {}
    for raw in msgspec.json.decode(document, type=_Jwks).keys:
        jwk = msgspec.json.decode(raw, type=_Jwk)
        key_type, reader = _JWK_READERS.get(jwk.alg, ("", None))
        if reader is None or jwk.kty != key_type or jwk.use != "sig" or not jwk.kid or jwk.kid in keys:
            raise ValueError(f"JWKS: key {jwk.kid!r} is not a public RS256, ES256 or EdDSA key of its own")
        try:
            material = reader.from_jwk(bytes(raw).decode())
        except jwt.PyJWTError as problem:
            raise ValueError(f"JWKS: key {jwk.kid!r}: {problem}") from None
        if not _is_strong(material):
            raise ValueError(f"JWKS: key {jwk.kid!r} is not RSA with {RSA_BITS_MIN} bits or more, P-256 or Ed25519")
        keys[jwk.kid] = _Key(jwk.alg, material)
    return keys


def _is_strong(key: object) -> bool:
    match key:
        case RSAPublicKey():
            return key.key_size >= RSA_BITS_MIN
        case EllipticCurvePublicKey():
            return key.curve.name == "secp256r1"
        case _:
            return isinstance(key, Ed25519PublicKey)


class UserTokenIssuer:
    """Makes user tokens in development and tests. Production has an identity provider."""

    def __init__(self, secret: bytes, *, clock: Clock, ids: Ids, issuer: str = "paymesh") -> None:
        """Raises ValueError for a secret below 32 bytes."""
        self._key = _secret_key(secret)
        self._clock = clock
        self._ids = ids
        self._issuer = issuer

    def issue(self, subject: str, *, roles: Iterable[str] = ("user",), merchant_id: str = DEFAULT_MERCHANT, lifetime_seconds: int = 3600) -> str:
        """A token for a subject. Roles are "user", "merchant", "admin"."""
        now = int(self._clock.now().timestamp())
        payload = {"iss": self._issuer, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + lifetime_seconds, "sub": subject,
                   "jti": self._ids.new("T"), "roles": list(roles), "merchant_id": merchant_id}
        return jwt.encode(payload, self._key.material, algorithm="HS256", headers={"typ": USER_TYPE})


class CallerTokens:
    """Signs the tokens by which this process names itself to siblings, and verifies theirs."""

    def __init__(self, service: str, *, clock: Clock, ids: Ids, private_key: Ed25519PrivateKey | None = None,
                 public_keys: Mapping[str, Ed25519PublicKey] | None = None, monotonic: Callable[[], float] = monotonic) -> None:
        self._service = service
        self._clock = clock
        self._ids = ids
        self._private_key = private_key
        self._keys = {name: _Key("EdDSA", key) for name, key in (public_keys or {}).items()}
        self._remembered: _Remembered[CallerClaims] = _Remembered(REMEMBER_MAX, monotonic)
        self._signed: _Remembered[str] = _Remembered(REMEMBER_MAX, monotonic)

    @classmethod
    def from_settings(cls, settings: MeshSettings, *, clock: Clock, ids: Ids) -> CallerTokens:
        """Reads our private key and the directory of public keys.

        Raises:
            ValueError: a key that is not Ed25519, or a file whose name is not `<service>.pub.pem`.
        """
        private_key = None
        if settings.caller_key_file is not None:
            key = load_pem_private_key(settings.caller_key_file.read_bytes(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError(f"{settings.caller_key_file}: not an Ed25519 key")
            private_key = key
        public_keys = _read_public_keys(settings.caller_keys_dir) if settings.caller_keys_dir is not None else {}
        return cls(settings.service, clock=clock, ids=ids, private_key=private_key, public_keys=public_keys)

    @property
    def can_sign(self) -> bool:
        """True when this process has a key of its own."""
        return self._private_key is not None

    def sign(self, target: str, *, on_behalf_of: str = "") -> str:
        """A token for a target service, reused until it gets old.

        Raises:
            ValueError: this process has no key.
        """
        if self._private_key is None:
            raise ValueError("caller_key_file is not set")
        known = self._signed.get(f"{target} {on_behalf_of}")
        if known is not None:
            return known
        issued = int(self._clock.now().timestamp())
        payload = {"iss": self._service, "aud": target, "iat": issued, "nbf": issued, "exp": issued + CALLER_LIFETIME_SECONDS, "sub": self._service,
                   "jti": self._ids.new("T"), **({"on_behalf_of": on_behalf_of} if on_behalf_of else {})}
        token = jwt.encode(payload, self._private_key, algorithm="EdDSA", headers={"typ": CALLER_TYPE, "kid": self._service})
        self._signed.put(f"{target} {on_behalf_of}", token, seconds=CALLER_REUSE_SECONDS)
        return token

    def verify(self, token: str) -> CallerClaims:
        """The claims of a sibling's token for us.

        Raises:
            TokenExpired: it was good once. TokenInvalid: anything else.
        """
        known = self._remembered.get(token)
        if known is not None:
            return known
        now_seconds = self._clock.now().timestamp()
        header, payload = _verified(token, self._keys, CALLER_TYPE, _CallerPayload)
        _judge(payload, issuer=header.kid, audience=self._service, lifetime_seconds_max=CALLER_LIFETIME_SECONDS, now_seconds=now_seconds)
        if payload.sub != payload.iss or len(payload.on_behalf_of) > 128:
            raise _invalid("subject")
        caller = Caller(role=Role.SERVICE, subject=payload.iss, service=payload.iss, on_behalf_of=payload.on_behalf_of,
                        roles=frozenset({Role.SERVICE}))
        claims = CallerClaims(service=payload.iss, on_behalf_of=payload.on_behalf_of, expires_at_seconds=payload.exp, caller=caller)
        self._remembered.put(token, claims, seconds=min(REMEMBER_SECONDS, payload.exp - now_seconds))
        return claims


def _read_public_keys(directory: Path) -> dict[str, Ed25519PublicKey]:
    keys = {}
    for file in sorted(directory.glob("*.pub.pem")):
        service = file.name.removesuffix(".pub.pem")
        key = load_pem_public_key(file.read_bytes())
        if _SERVICE.fullmatch(service) is None or not isinstance(key, Ed25519PublicKey):
            raise ValueError(f"{file}: expected <service>.pub.pem with an Ed25519 public key")
        keys[service] = key
    return keys
