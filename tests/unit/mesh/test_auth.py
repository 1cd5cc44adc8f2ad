"""Every way in which a token can be wrong. Each case changes one thing of a token that is
accepted.
"""

from __future__ import annotations

import base64
import json
from enum import Enum
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mesh.auth import CallerTokens, Role, UserClaims, UserTokenIssuer, UserTokens, read_jwks
from mesh.call import NOBODY, Caller, Scope
from mesh.clock_skew import ClockSkewed
from mesh.errors import PermissionDenied, TokenExpired, TokenInvalid
from mesh.settings import MeshSettings
from mesh.token_cache import ENTRY_BYTES, REMEMBERED_BYTES_MAX, TokenCache
from tests.support.fakes import EPOCH, FakeClock, FakeIds

SECRET = b"s" * 32
NOW = int(EPOCH.timestamp())


class Absent(Enum):
    """Stands for a claim that is left out; the same name in every test process."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tokens(clock: FakeClock) -> UserTokens:
    return user_tokens(clock)


def seconds(clock: FakeClock) -> Any:
    """A monotonic clock that goes with the wall clock."""
    return lambda: clock.now().timestamp()


def user_tokens(clock: FakeClock) -> UserTokens:
    return UserTokens.from_secret(SECRET, clock=clock, monotonic=seconds(clock))


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: bytes, payload: bytes, secret: bytes = SECRET) -> str:
    """A token of any content, with a right HMAC."""
    content = f"{part(header)}.{part(payload)}"
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update(content.encode())
    return f"{content}.{part(mac.finalize())}"


def claims(**changes: Any) -> dict[str, Any]:
    good = {
        "iss": "paymesh",
        "aud": "paymesh",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 3600,
        "sub": "alice",
        "jti": "T1",
        "roles": ["user"],
        "merchant_id": "mall",
        **changes,
    }
    return {name: value for name, value in good.items() if value is not ABSENT}


def token(header: dict[str, Any] | None = None, **changes: Any) -> str:
    head = {"alg": "HS256", "typ": "at+jwt", **(header or {})}
    return signed(
        text({name: value for name, value in head.items() if value is not ABSENT}),
        text(claims(**changes)),
    )


def test_a_good_token_says_who_calls(tokens: UserTokens) -> None:
    user = tokens.verify(token(roles=["user", "admin"], merchant_id="acme"))
    assert (user.subject, user.merchant_id, user.roles) == (
        "alice",
        "acme",
        {Role.USER, Role.ADMIN},
    )
    assert user.callers[Role.ADMIN] == Caller(
        role=Role.ADMIN, subject="alice", merchant_id="acme", roles=user.roles
    )
    assert set(user.callers) == {Role.PUBLIC, Role.USER, Role.ADMIN}


def test_unknown_roles_grant_nothing(tokens: UserTokens) -> None:
    assert tokens.verify(token(roles=["root", "service", "SERVICE", "user"])).roles == {Role.USER}
    assert tokens.verify(token(roles=ABSENT)).roles == frozenset()


def test_an_audience_among_others_is_enough(tokens: UserTokens) -> None:
    assert tokens.verify(token(aud=["other", "paymesh"])).subject == "alice"


@pytest.mark.parametrize("name", ["iss", "aud", "iat", "exp", "sub"])
def test_every_claim_that_decides_must_be_there_and_is_named_when_it_is_not(
    tokens: UserTokens, name: str
) -> None:
    unusable: tuple[Any, ...] = (ABSENT, None, {})
    for value in unusable:
        with pytest.raises(TokenInvalid, match=rf"\({name}\)"):
            tokens.verify(token(**{name: value}))


@pytest.mark.parametrize("name", ["iat", "nbf", "exp"])
@pytest.mark.parametrize("value", [str(NOW + 60), True, [], {}, 1e400, 10**400, -1, 0], ids=str)
def test_times_are_numbers_of_our_century(tokens: UserTokens, name: str, value: Any) -> None:
    with pytest.raises((TokenInvalid, TokenExpired)):
        tokens.verify(token(**{name: value, **({"iat": NOW} if name != "iat" else {})}))


@pytest.mark.parametrize(
    "literal", [b"1e9", b"NaN", b"Infinity", b"-Infinity", b"01", b'"\\ud800"']
)
def test_times_are_not_exotic_json(tokens: UserTokens, literal: bytes) -> None:
    payload = text(claims()).replace(str(NOW + 3600).encode(), literal)
    with pytest.raises(TokenInvalid):
        tokens.verify(signed(text({"alg": "HS256", "typ": "at+jwt"}), payload))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "paymes"},
        {"iss": "paymesh2"},
        {"iss": ["paymesh"]},
        {"iss": ""},
        {"aud": "payment_rpc"},
        {"aud": "paymes"},
        {"aud": "paymesh2"},
        {"aud": []},
        {"aud": ["other"]},
        {"aud": {"paymesh": 1}},
        {"aud": [1]},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a" * 256},
        {"sub": "a\x00b"},
        {"sub": "a\nb"},
        {"sub": "ä"},
        {"sub": "a b"},
        {"sub": "alice\n"},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 129},
        {"merchant_id": ""},
        {"merchant_id": "Acme"},
        {"merchant_id": "a" * 33},
        {"merchant_id": "a\n"},
        {"merchant_id": 1},
        {"merchant_id": None},
        {"roles": "admin"},
        {"roles": {"admin": 1}},
        {"roles": [["admin"]]},
        {"roles": None},
    ],
    ids=str,
)
def test_a_claim_for_somebody_else_or_of_another_form_is_refused(
    tokens: UserTokens, changes: dict[str, Any]
) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(token(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": NOW + 31},
        {"nbf": NOW + 31},  # not yet
        # longer than a day
        {"exp": NOW + 24 * 3600 + 1},
        {"iat": NOW - 100, "exp": NOW - 100},
        {"iat": NOW, "exp": NOW - 1},  # never
    ],
    ids=str,
)
def test_a_token_lives_for_a_day_at_most_and_not_before_it_was_made(
    tokens: UserTokens, changes: dict[str, Any]
) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(token(**changes))


def test_clocks_may_differ_by_half_a_minute(tokens: UserTokens, clock: FakeClock) -> None:
    tokens.verify(token(iat=NOW + 30, nbf=NOW + 30, exp=NOW + 60, jti="early"))
    late = token(exp=NOW + 60)
    clock.advance(89)
    assert tokens.verify(late).subject == "alice"
    clock.advance(1)
    with pytest.raises(TokenExpired):
        tokens.verify(late)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "nOnE"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"alg": ABSENT},
        {"alg": 1},
        {"alg": ["HS256"]},
        {"typ": "JWT"},
        {"typ": "paymesh-caller+jwt"},
        {"typ": ABSENT},
        {"typ": None},
        {"typ": "text/at+jwt"},
        {"typ": "at+jwt2"},
        {"kid": "other"},
        {"kid": "../../dev/null"},
        {"kid": "' OR 1=1--"},
        {"kid": 1},
        {"kid": "k" * 6000},
        {"kid": "https://evil.example"},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False, "crit": ["b64"]},
    ],
    ids=str,
)
def test_a_header_that_chooses_its_own_check_is_refused(
    tokens: UserTokens, header: dict[str, Any]
) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(token(header))


def test_a_key_inside_the_token_is_never_used(tokens: UserTokens) -> None:
    own = Ed25519PrivateKey.generate()
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(own.public_key()))
    for header in (
        {"jwk": jwk},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9/"},
        {"x5c": ["AAAA"]},
    ):
        forged = jwt.encode(claims(), own, algorithm="EdDSA", headers={"typ": "at+jwt", **header})
        with pytest.raises(TokenInvalid):
            tokens.verify(forged)


def test_a_changed_or_missing_signature_is_refused(tokens: UserTokens) -> None:
    good = token()
    head, payload, signature = good.split(".")
    other = part(text(claims(sub="bob")))
    swapped = signature[:-3] + ("AAA" if signature[-3:] != "AAA" else "BBB")
    for bad in (
        f"{head}.{other}.{signature}",
        f"{head}.{payload}.{swapped}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{good}.x",
        f"{good}.{payload}",
        "",
        ".",
        "..",
        "a.b.c",
        "ä.ä.ä",
        f" {good}",
        f"{good}\n",
        f"{head}..{signature}",
        signed(b"{}", text(claims())),
        signed(text({"alg": "HS256", "typ": "at+jwt"}), text(claims()), b"x" * 32),
    ):
        with pytest.raises(TokenInvalid):
            tokens.verify(bad)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"null", b"\xff", b'{"iss"', b"[" * 3000 + b"]" * 3000],
    ids=lambda raw: str(raw[:8]),
)
def test_a_payload_that_is_not_an_object_of_claims_is_refused(
    tokens: UserTokens, payload: bytes
) -> None:
    with pytest.raises(TokenInvalid):
        tokens.verify(signed(text({"alg": "HS256", "typ": "at+jwt"}), payload))
    with pytest.raises(TokenInvalid):
        tokens.verify(signed(payload, text(claims())))


def test_a_huge_token_is_refused_unread(tokens: UserTokens) -> None:
    with pytest.raises(TokenInvalid, match="form"):
        tokens.verify(token(note="x" * 9000))


def test_a_refusal_says_one_word_and_nothing_of_the_token(tokens: UserTokens) -> None:
    with pytest.raises(TokenInvalid) as refused:
        tokens.verify(token(aud="elsewhere-s3cr3t"))
    assert refused.value.message == "The token is invalid (audience)."
    assert not refused.value.metadata


def test_a_verified_token_is_believed_for_a_minute_and_not_past_its_end(clock: FakeClock) -> None:
    tokens = user_tokens(clock)
    long = token()
    first = tokens.verify(long)
    assert tokens.verify(long) is first
    clock.advance(59)
    assert tokens.verify(long) is first
    clock.advance(1)
    assert tokens.verify(long) is not first
    short = token(iat=NOW + 60, exp=NOW + 70)
    tokens.verify(short)
    clock.advance(40)  # remembered or not: the leeway has passed
    with pytest.raises(TokenExpired):
        tokens.verify(short)


def test_memory_for_tokens_is_bounded_and_keeps_the_recently_used(clock: FakeClock) -> None:
    tokens = UserTokens(
        user_tokens(clock)._keys, clock=clock, issuer="paymesh", cache=TokenCache(10 * 2400)
    )
    often = token(jti="often")
    known = tokens.verify(often)
    for number in range(100):
        tokens.verify(token(jti=str(number)))
        assert tokens.verify(often) is known
    assert len(tokens._remembered._young) + len(tokens._remembered._old) <= 10


def test_memory_for_tokens_is_bounded_in_bytes_whatever_their_size_and_what_is_kept_beside_them(
    clock: FakeClock,
) -> None:
    def held(cache: TokenCache[UserClaims]) -> int:
        return sum(len(text) + ENTRY_BYTES for text in (*cache._young, *cache._old))

    cache: TokenCache[UserClaims] = TokenCache(1_000_000)
    tokens = UserTokens(user_tokens(clock)._keys, clock=clock, issuer="paymesh", cache=cache)
    for number in range(300):
        tokens.verify(token(jti=str(number), note="x" * 5800))
        assert held(cache) <= 1_000_000
    assert len(cache._young) + len(cache._old) < 110
    user = tokens.verify(token(jti="asks"))
    user.charge(499_000)
    user.charge(499_000)
    assert held(cache) < 5000


def test_a_hundred_thousand_long_tokens_fit_into_the_bound(clock: FakeClock) -> None:
    cache: TokenCache[str] = TokenCache()
    for number in range(100_000):
        cache.put(f"{number:08192}", "claims", until=1e9)
    assert sum(map(len, (*cache._young, *cache._old))) <= REMEMBERED_BYTES_MAX
    assert cache.get(f"{99_999:08192}", 0) == "claims"


def test_short_secrets_are_refused(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        UserTokens.from_secret(b"s" * 31, clock=clock)
    with pytest.raises(ValueError, match="32 bytes"):
        UserTokenIssuer(b"s" * 31, clock=clock, ids=FakeIds())


def test_without_keys_every_token_is_refused(clock: FakeClock) -> None:
    with pytest.raises(TokenInvalid):
        UserTokens.from_settings(MeshSettings(), clock=clock).verify(token())


def test_what_the_issuer_makes_is_accepted(tokens: UserTokens, clock: FakeClock) -> None:
    issuer = UserTokenIssuer(SECRET, clock=clock, ids=FakeIds())
    user = tokens.verify(
        issuer.issue("carol", roles=["merchant"], merchant_id="acme", lifetime_seconds=60)
    )
    assert (user.subject, user.roles, user.merchant_id, user.expires_at_seconds) == (
        "carol",
        {Role.MERCHANT},
        "acme",
        NOW + 60,
    )


# Public keys

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = Ed25519PrivateKey.generate()
READERS: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}
PRIVATE: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def jwk(algorithm: str, key: Any = None, **changes: Any) -> dict[str, Any]:
    public = json.loads(READERS[algorithm].to_jwk((key or PRIVATE[algorithm]).public_key()))
    public.pop("key_ops", None)
    return {
        name: value
        for name, value in {
            **public,
            "kid": algorithm,
            "alg": algorithm,
            "use": "sig",
            **changes,
        }.items()
        if value is not ABSENT
    }


@pytest.fixture
def keyed(clock: FakeClock) -> UserTokens:
    return UserTokens(
        read_jwks(text({"keys": [jwk(name) for name in READERS]})), clock=clock, issuer="paymesh"
    )


@pytest.mark.parametrize("algorithm", READERS)
def test_public_keys_verify_their_algorithm_and_no_other(keyed: UserTokens, algorithm: str) -> None:
    def sign(kid: str) -> str:
        return jwt.encode(
            claims(), PRIVATE[algorithm], algorithm=algorithm, headers={"typ": "at+jwt", "kid": kid}
        )

    assert keyed.verify(sign(algorithm)).subject == "alice"
    for other in READERS.keys() - {algorithm}:
        with pytest.raises(TokenInvalid):
            keyed.verify(sign(other))
    with pytest.raises(TokenInvalid):
        keyed.verify(sign(""))


def test_a_public_key_is_no_hmac_secret(keyed: UserTokens) -> None:
    for algorithm, key in PRIVATE.items():
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        forged = signed(
            text({"alg": "HS256", "typ": "at+jwt", "kid": algorithm}), text(claims()), pem
        )
        with pytest.raises(TokenInvalid):
            keyed.verify(forged)


@pytest.mark.parametrize(
    "keys",
    [
        [jwk("RS256", kid=ABSENT)],
        [jwk("RS256", kid="")],
        [],
        [jwk("RS256", alg="RS512")],
        [jwk("RS256", alg="HS256")],
        [jwk("RS256", alg="ES256")],
        [jwk("RS256", use="enc")],
        [jwk("RS256"), jwk("EdDSA", kid="RS256")],
        [json.loads(READERS["EdDSA"].to_jwk(ED)) | {"kid": "x", "alg": "EdDSA"}],
        [json.loads(READERS["RS256"].to_jwk(RSA)) | {"kid": "x", "alg": "RS256"}],
        [json.loads(READERS["ES256"].to_jwk(EC)) | {"kid": "x", "alg": "ES256"}],
        [{"kty": "oct", "k": part(SECRET), "kid": "x", "alg": "HS256"}],
        [jwk("RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024))],
        [jwk("ES256", ec.generate_private_key(ec.SECP384R1()))],
    ],
    ids=[
        "no kid",
        "empty kid",
        "empty",
        "RS512",
        "alg HS256",
        "alg of another type",
        "for encryption",
        "kid twice",
        "private EdDSA",
        "private RSA",
        "private EC",
        "symmetric",
        "1024 bits",
        "P-384",
    ],
)
def test_a_key_set_without_a_fit_key_or_with_a_private_one_is_refused(
    keys: list[dict[str, Any]],
) -> None:
    with pytest.raises(ValueError):
        read_jwks(text({"keys": keys}))


def test_key_files_are_read_from_the_settings(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "jwks").write_bytes(text({"keys": [jwk("EdDSA")]}))
    (tmp_path / "secret").write_bytes(SECRET)
    tokens = UserTokens.from_settings(
        MeshSettings(
            environment="test",
            user_token_jwks_file=tmp_path / "jwks",
            user_token_secret_file=tmp_path / "secret",
        ),
        clock=clock,
    )
    assert tokens.verify(token()).subject == "alice"
    assert (
        tokens.verify(
            jwt.encode(
                claims(jti="2"), ED, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": "EdDSA"}
            )
        ).token_id
        == "2"
    )


# Callers

KEYS = {name: Ed25519PrivateKey.generate() for name in ("order_rpc", "payment_rpc", "stranger")}


def caller_tokens(service: str, clock: FakeClock, *, key: str | None = None) -> CallerTokens:
    public = {name: KEYS[name].public_key() for name in ("order_rpc", "payment_rpc")}
    return CallerTokens(
        service,
        clock=clock,
        ids=FakeIds(),
        private_key=KEYS[key or service],
        public_keys=public,
        monotonic=seconds(clock),
    )


def caller_token(
    *, key: str = "order_rpc", header: dict[str, Any] | None = None, **changes: Any
) -> str:
    payload = {
        "iss": "order_rpc",
        "aud": "payment_rpc",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
        "sub": "order_rpc",
        "jti": "1",
        **changes,
    }
    return jwt.encode(
        {name: value for name, value in payload.items() if value is not ABSENT},
        KEYS[key],
        algorithm="EdDSA",
        headers={"typ": "paymesh-caller+jwt", "kid": "order_rpc", **(header or {})},
    )


def test_a_service_names_itself_to_one_target(clock: FakeClock) -> None:
    token = caller_tokens("order_rpc", clock).sign("payment_rpc", on_behalf_of="mall/alice")
    caller = caller_tokens("payment_rpc", clock).verify(token)
    assert (caller.service, caller.on_behalf_of, caller.caller.role) == (
        "order_rpc",
        "mall/alice",
        Role.SERVICE,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "order_rpc"},
        {"aud": ABSENT},
        {"aud": "paymesh"},
        {"iss": "payment_rpc"},
        {"iss": "stranger"},
        {"sub": "payment_rpc"},
        {"iss": "payment_rpc", "sub": "payment_rpc"},
        {"exp": ABSENT},
        {"exp": NOW + 301},
        {"exp": str(NOW + 300)},
        {"jti": ABSENT},
        {"on_behalf_of": 1},
        {"on_behalf_of": "x" * 129},
        {"key": "payment_rpc"},
        {"key": "stranger"},
        {"header": {"kid": "stranger"}},
        {"header": {"kid": "payment_rpc"}},
        {"header": {"kid": ""}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"typ": "JWT"}},
    ],
    ids=str,
)
def test_a_caller_token_of_or_for_another_service_is_refused(
    clock: FakeClock, changes: dict[str, Any]
) -> None:
    caller_tokens("payment_rpc", clock).verify(caller_token())
    with pytest.raises(TokenInvalid):
        caller_tokens("payment_rpc", clock).verify(caller_token(**changes))


def test_a_caller_token_that_is_too_old_or_comes_from_the_future_is_a_difference_of_clocks_and_a_stale_one_is_not(
    clock: FakeClock,
) -> None:
    token = caller_token()
    caller_tokens("payment_rpc", clock).verify(
        caller_token(iat=NOW + 120, nbf=NOW + 120, exp=NOW + 420)
    )
    with pytest.raises(ClockSkewed):
        caller_tokens("payment_rpc", clock).verify(caller_token(iat=NOW + 121, exp=NOW + 400))
    with pytest.raises(ClockSkewed):
        caller_tokens("payment_rpc", clock).verify(caller_token(nbf=NOW + 121))
    clock.advance(419)
    caller_tokens("payment_rpc", clock).verify(token)
    clock.advance(1)
    with pytest.raises(ClockSkewed):
        caller_tokens("payment_rpc", clock).verify(token)
    clock.advance(24 * 3600)
    with pytest.raises(TokenExpired):
        caller_tokens("payment_rpc", clock).verify(token)


def test_a_remembered_caller_token_is_not_believed_past_its_end(clock: FakeClock) -> None:
    tokens = caller_tokens("payment_rpc", clock)
    token = caller_token(exp=NOW + 50)
    known = tokens.verify(token)
    clock.advance(49)
    assert tokens.verify(token) is known
    clock.advance(1)
    assert tokens.verify(token) is not known  # looked at once more: within the leeway
    clock.advance(120)
    with pytest.raises(ClockSkewed):
        tokens.verify(token)


def test_the_two_kinds_of_tokens_do_not_replace_each_other(clock: FakeClock) -> None:
    with pytest.raises(TokenInvalid):
        caller_tokens("payment_rpc", clock).verify(token())
    of_users = UserTokens(
        caller_tokens("payment_rpc", clock)._keys, clock=clock, issuer="order_rpc"
    )
    with pytest.raises(TokenInvalid, match="type"):
        of_users.verify(caller_token(aud="paymesh"))


def test_a_caller_token_is_reused_while_it_is_young(clock: FakeClock) -> None:
    tokens = caller_tokens("order_rpc", clock)
    first = tokens.sign("payment_rpc")
    clock.advance(199)
    assert tokens.sign("payment_rpc") == first
    assert tokens.sign("payment_rpc", on_behalf_of="mall/alice") != first
    assert tokens.sign("seckill_rpc") != first
    clock.advance(2)
    assert tokens.sign("payment_rpc") != first


def test_a_process_without_a_key_cannot_sign(clock: FakeClock) -> None:
    tokens = CallerTokens("order_rpc", clock=clock, ids=FakeIds())
    assert not tokens.can_sign
    with pytest.raises(ValueError, match="caller_key_file"):
        tokens.sign("payment_rpc")


def test_caller_keys_are_read_from_files(tmp_path: Path, clock: FakeClock) -> None:
    key = KEYS["order_rpc"]
    (tmp_path / "order_rpc.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "order_rpc.pub.pem").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    settings = MeshSettings(
        service="order_rpc", caller_key_file=tmp_path / "order_rpc.pem", caller_keys_dir=tmp_path
    )
    tokens = CallerTokens.from_settings(settings, clock=clock, ids=FakeIds())
    assert tokens.verify(tokens.sign("order_rpc")).service == "order_rpc"


def test_caller_keys_of_another_kind_or_name_are_refused(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "key.pem").write_bytes(
        EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(ValueError, match="Ed25519"):
        CallerTokens.from_settings(
            MeshSettings(caller_key_file=tmp_path / "key.pem"), clock=clock, ids=FakeIds()
        )
    for name, key in (("order_rpc", EC), ("Order", ED)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.pub.pem").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        with pytest.raises(ValueError, match=name):
            CallerTokens.from_settings(
                MeshSettings(caller_keys_dir=folder), clock=clock, ids=FakeIds()
            )


# Scopes


@pytest.mark.parametrize(
    ("caller", "scope"),
    [
        (Caller(role=Role.USER, subject="alice", merchant_id="acme"), Scope("acme", "alice")),
        (Caller(role=Role.MERCHANT, subject="alice", merchant_id="acme"), Scope("acme", None)),
        (Caller(role=Role.ADMIN, subject="root", merchant_id="mall"), Scope(None, None)),
        (Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc"), Scope(None, None)),
    ],
    ids=lambda value: getattr(value, "role", None),
)
def test_a_caller_sees_its_own(caller: Caller, scope: Scope) -> None:
    assert caller.scope() == scope


def test_nobody_sees_nothing() -> None:
    with pytest.raises(PermissionDenied):
        NOBODY.scope()


def test_every_api_key_of_a_merchant_is_one_caller_for_idempotency() -> None:
    """A key is rotated between a call and its repetition: the money must not go back twice."""
    first, second, other = (
        Caller(role=Role.MERCHANT, subject=subject, merchant_id=merchant_id)
        for subject, merchant_id in (("key:AK1", "acme"), ("key:AK2", "acme"), ("key:AK1", "umbra"))
    )
    clerk = Caller(role=Role.MERCHANT, subject="key", merchant_id="acme")
    assert first.key == second.key
    assert len({first.key, other.key, clerk.key}) == 3
