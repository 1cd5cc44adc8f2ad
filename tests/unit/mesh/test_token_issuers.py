"""What each issuer of user tokens may claim, and every way in which one could try to claim more.
Each attack changes one thing of a token that is accepted, and is signed with a right key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mesh.auth import CallerTokens, OwnTokenSigner, UserTokenIssuer, UserTokens
from mesh.call import Caller, Role
from mesh.claims import scopes_of
from mesh.errors import TokenExpired, TokenInvalid
from mesh.jwks import Key, secret_key
from mesh.settings import MeshSettings
from mesh.token_issuers import CHECKOUT, ISSUERS, MERCHANTS, OPERATORS, TokenIssuer
from tests.support.fakes import EPOCH, FakeClock, FakeIds

SECRET = b"s" * 32
NOW = int(EPOCH.timestamp())
ORDER = "ORD01ARZ3NDEKTSV4RRFFQ69G5FAV"
ABSENT = object()
DAY = 24 * 3600

KEYS = {name: Ed25519PrivateKey.generate() for name in (*ISSUERS, "order_rpc", "gateway")}

COMMON = {"aud": "paymesh", "iat": NOW, "nbf": NOW, "jti": "T1"}
CLAIMS: dict[str, dict[str, Any]] = {
    "merchant_rpc": {
        "iss": "paymesh-merchants",
        "exp": NOW + 30,
        "sub": "key:AK1",
        "roles": ["merchant"],
        "merchant_id": "acme",
        "scopes": ["payments:write"],
    },
    "payment_rpc": {
        "iss": "paymesh-checkout",
        "exp": NOW + 3600,
        "sub": f"ext:{ORDER}",
        "roles": ["user"],
        "merchant_id": "acme",
        "order_id": ORDER,
    },
    "operators": {
        "iss": "paymesh-operators",
        "exp": NOW + 300,
        "sub": "operator:M1",
        "roles": ["admin"],
    },
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def tokens(clock: FakeClock) -> UserTokens:
    return UserTokens(
        {"": secret_key(SECRET)},
        clock=clock,
        issuer="paymesh",
        own_keys={
            name: Key("EdDSA", key.public_key()) for name, key in KEYS.items() if name in ISSUERS
        },
        monotonic=lambda: clock.now().timestamp(),
    )


def own(
    kid: str, *, key: str = "", typ: str = "paymesh-user+jwt", header_kid: str = "", **changes: Any
) -> str:
    """A token of one of our issuers with some claims changed, signed whatever it says."""
    payload = {
        name: value
        for name, value in {**COMMON, **CLAIMS[kid], **changes}.items()
        if value is not ABSENT
    }
    return jwt.encode(
        payload,
        KEYS[key or kid],
        algorithm="EdDSA",
        headers={"typ": typ, "kid": header_kid or kid},
    )


def signer(issuer: TokenIssuer, clock: FakeClock | None = None) -> OwnTokenSigner:
    return OwnTokenSigner(issuer, KEYS[issuer.key_id], clock=clock or FakeClock(), ids=FakeIds())


# What is accepted


@pytest.mark.parametrize(
    ("kid", "changes", "caller"),
    [
        (
            "merchant_rpc",
            {},
            Caller(
                role=Role.MERCHANT,
                subject="key:AK1",
                merchant_id="acme",
                scopes=frozenset({"payments:write", "payments:read"}),
            ),
        ),
        (
            "merchant_rpc",
            {"sub": "member:MEM1", "sid": "SES1", "scopes": [], "amounts": "minor"},
            Caller(
                role=Role.MERCHANT,
                subject="member:MEM1",
                merchant_id="acme",
                scopes=frozenset(),
                session_id="SES1",
                minor_amounts=True,
            ),
        ),
        (
            "payment_rpc",
            {"exp": NOW + 8 * DAY},
            Caller(role=Role.USER, subject=f"ext:{ORDER}", merchant_id="acme", order_id=ORDER),
        ),
        (
            "operators",
            {"sid": "SES1", "exp": NOW + 900},
            Caller(role=Role.ADMIN, subject="operator:M1", session_id="SES1"),
        ),
    ],
)
def test_a_token_of_our_own_says_what_its_issuer_may_say(
    tokens: UserTokens, kid: str, changes: dict[str, Any], caller: Caller
) -> None:
    user = tokens.verify(own(kid, **changes))
    assert user.roles == {caller.role}
    found = user.callers[caller.role]
    assert found == Caller(
        role=caller.role,
        subject=caller.subject,
        merchant_id=caller.merchant_id,
        roles=user.roles,
        scopes=caller.scopes,
        order_id=caller.order_id,
        session_id=caller.session_id,
        minor_amounts=caller.minor_amounts,
    )
    assert user.order_id == caller.order_id


def test_a_publishable_key_has_no_role(tokens: UserTokens) -> None:
    user = tokens.verify(own("merchant_rpc", roles=[], scopes=[]))
    assert (user.roles, set(user.callers)) == (frozenset(), {Role.PUBLIC})
    assert user.callers[Role.PUBLIC].subject == "key:AK1"


def test_a_right_to_write_includes_reading_and_nothing_else() -> None:
    assert scopes_of({"scopes": ["payments:write", "orders:read"]}) == {
        "payments:write",
        "payments:read",
        "orders:read",
    }
    assert scopes_of({"scopes": "refunds:write openid"}) == {
        "refunds:write",
        "refunds:read",
        "openid",
    }
    assert scopes_of({"scopes": []}) == frozenset()
    assert scopes_of({}) is None


# Attacks with a key of our own

_SCOPELESS: dict[str, Any] = {"scopes": ABSENT}
ATTACKS: list[tuple[str, str, dict[str, Any], str]] = [
    # roles
    ("a merchant's key claims admin", "merchant_rpc", {"roles": ["admin"]}, "roles"),
    ("and besides its own", "merchant_rpc", {"roles": ["merchant", "admin"]}, "roles"),
    ("it claims to be a buyer", "merchant_rpc", {"roles": ["user"]}, "roles"),
    ("its role twice", "merchant_rpc", {"roles": ["merchant", "merchant"]}, "roles"),
    ("a role in capitals", "merchant_rpc", {"roles": ["MERCHANT"]}, "roles"),
    ("a member without a role", "merchant_rpc", {"sub": "member:M1", "roles": []}, "roles"),
    ("roles that are no list", "merchant_rpc", {"roles": "merchant"}, "claims"),
    ("no roles", "merchant_rpc", {"roles": ABSENT}, "claims"),
    ("a checkout token claims merchant", "payment_rpc", {"roles": ["merchant"]}, "roles"),
    ("and besides its own", "payment_rpc", {"roles": ["user", "merchant"]}, "roles"),
    ("a checkout token without a role", "payment_rpc", {"roles": []}, "roles"),
    ("an operator claims merchant", "operators", {"roles": ["merchant"]}, "roles"),
    ("an operator claims user", "operators", {"roles": ["user"]}, "roles"),
    ("an operator without a role", "operators", {"roles": []}, "roles"),
    # subjects
    ("a key's token speaks for a buyer", "merchant_rpc", {"sub": f"ext:{ORDER}"}, "sub"),
    ("a key's token speaks for an operator", "merchant_rpc", {"sub": "operator:M1"}, "sub"),
    ("a key's token speaks for a person", "merchant_rpc", {"sub": "alice"}, "sub"),
    ("a key without a name", "merchant_rpc", {"sub": "key:"}, "sub"),
    ("a key with a name of two", "merchant_rpc", {"sub": "key:AK1:AK2"}, "sub"),
    ("a key with a long name", "merchant_rpc", {"sub": "key:" + "A" * 49}, "sub"),
    ("a key in capitals", "merchant_rpc", {"sub": "KEY:AK1"}, "sub"),
    ("a checkout token speaks for a member", "payment_rpc", {"sub": "member:M1"}, "sub"),
    ("a checkout token speaks for a user", "payment_rpc", {"sub": "alice"}, "sub"),
    ("an operator speaks for a key", "operators", {"sub": "key:AK1"}, "sub"),
    ("an operator speaks for anybody", "operators", {"sub": "root"}, "sub"),
    # the order of a checkout token
    ("a checkout token without an order", "payment_rpc", {"order_id": ABSENT}, "order_id"),
    ("a checkout token of another order", "payment_rpc", {"order_id": "ORD2"}, "order_id"),
    ("a key's token with an order", "merchant_rpc", {"order_id": ORDER}, "order_id"),
    ("an operator with an order", "operators", {"order_id": ORDER}, "order_id"),
    # merchants
    ("a key without a merchant", "merchant_rpc", {"merchant_id": ABSENT}, "merchant_id"),
    ("a merchant that cannot be", "merchant_rpc", {"merchant_id": "A B"}, "merchant_id"),
    ("a checkout token without one", "payment_rpc", {"merchant_id": ABSENT}, "merchant_id"),
    ("an operator of a merchant", "operators", {"merchant_id": "acme"}, "merchant_id"),
    # scopes
    ("a key's token without scopes", "merchant_rpc", _SCOPELESS, "scopes"),
    (
        "a member's token without scopes",
        "merchant_rpc",
        {"sub": "member:M1", **_SCOPELESS},
        "scopes",
    ),
    ("scopes that are text", "merchant_rpc", {"scopes": "payments:write"}, "claims"),
    ("scopes of numbers", "merchant_rpc", {"scopes": [1]}, "claims"),
    ("a checkout token with scopes", "payment_rpc", {"scopes": ["payments:write"]}, "scopes"),
    ("an operator with scopes", "operators", {"scopes": ["payments:write"]}, "scopes"),
    # other claims
    ("a key with a session", "merchant_rpc", {"sid": "SES1"}, "sid"),
    ("a buyer with a session", "payment_rpc", {"sid": "SES1"}, "sid"),
    ("a session that cannot be", "merchant_rpc", {"sub": "member:M1", "sid": "a b"}, "sid"),
    ("a buyer with minor amounts", "payment_rpc", {"amounts": "minor"}, "amounts"),
    ("an operator with minor amounts", "operators", {"amounts": "minor"}, "amounts"),
    ("amounts of another kind", "merchant_rpc", {"amounts": "major"}, "claims"),
    ("a claim that nobody knows", "merchant_rpc", {"read_only": True}, "claims"),
    ("no id", "merchant_rpc", {"jti": ABSENT}, "claims"),
    ("no beginning", "merchant_rpc", {"nbf": ABSENT}, "claims"),
    # issuers and audiences
    ("the checkout's issuer", "merchant_rpc", {"iss": "paymesh-checkout"}, "issuer"),
    ("the operators' issuer", "merchant_rpc", {"iss": "paymesh-operators"}, "issuer"),
    ("the identity provider's issuer", "merchant_rpc", {"iss": "paymesh"}, "issuer"),
    ("the merchants' issuer", "operators", {"iss": "paymesh-merchants"}, "issuer"),
    ("another audience", "merchant_rpc", {"aud": "payment_rpc"}, "audience"),
    ("several audiences", "merchant_rpc", {"aud": ["paymesh", "other"]}, "claims"),
    # lifetimes
    ("a key that lives longer", "merchant_rpc", {"exp": NOW + 901}, "lifetime"),
    ("a checkout that lives longer", "payment_rpc", {"exp": NOW + 8 * DAY + 1}, "lifetime"),
    ("an operator that lives longer", "operators", {"exp": NOW + 901}, "lifetime"),
    ("a token that ends before it begins", "merchant_rpc", {"exp": NOW}, "lifetime"),
    # keys and types
    ("the key of another issuer", "merchant_rpc", {"key": "payment_rpc"}, "signature"),
    ("the operators' name, the merchants' key", "operators", {"key": "merchant_rpc"}, "signature"),
    ("another issuer's name and claims", "operators", {"header_kid": "merchant_rpc"}, "signature"),
    (
        "another issuer's name with its own key",
        "operators",
        {"header_kid": "merchant_rpc", "key": "merchant_rpc"},
        "issuer",
    ),
    ("the key of a sibling that issues nothing", "operators", {"header_kid": "order_rpc"}, "key"),
    ("the type of the identity provider", "merchant_rpc", {"typ": "at+jwt"}, "key"),
    ("the type of a caller token", "merchant_rpc", {"typ": "paymesh-caller+jwt"}, "type"),
    ("no type of ours", "merchant_rpc", {"typ": "JWT"}, "type"),
]


@pytest.mark.parametrize(
    ("kid", "changes", "why"),
    [attack[1:] for attack in ATTACKS],
    ids=[f"{attack[0]} ({attack[1]})" for attack in ATTACKS],
)
def test_a_key_claims_no_more_than_its_issuer_may(
    tokens: UserTokens, kid: str, changes: dict[str, Any], why: str
) -> None:
    tokens.verify(own(kid))
    with pytest.raises(TokenInvalid, match=rf"\({why}\)"):
        tokens.verify(own(kid, **changes))


def test_a_sibling_without_a_line_in_the_table_issues_nothing(clock: FakeClock) -> None:
    tokens = UserTokens(
        {},
        clock=clock,
        issuer="paymesh",
        own_keys={name: Key("EdDSA", key.public_key()) for name, key in KEYS.items()},
    )
    with pytest.raises(TokenInvalid, match=r"\(key\)"):
        tokens.verify(own("merchant_rpc", header_kid="gateway", key="gateway"))


# Attacks of the identity provider


def provider_token(**changes: Any) -> str:
    payload = {
        **COMMON,
        "iss": "paymesh",
        "exp": NOW + 3600,
        "sub": "alice",
        "roles": ["merchant"],
        "merchant_id": "acme",
        **changes,
    }
    return jwt.encode(payload, SECRET, algorithm="HS256", headers={"typ": "at+jwt"})


@pytest.mark.parametrize(
    "subject",
    [
        "key:AK1",
        "member:MEM1",
        f"ext:{ORDER}",
        "operator:M1",
        "KEY:AK1",
        "Operator:M1",
        "key:",
        "ext:auth0|1",
    ],
)
def test_the_identity_provider_speaks_for_none_of_our_own_subjects(
    tokens: UserTokens, subject: str
) -> None:
    assert tokens.verify(provider_token()).subject == "alice"
    with pytest.raises(TokenInvalid, match=r"\(sub\)"):
        tokens.verify(provider_token(sub=subject))


def test_the_identity_provider_makes_no_checkout_and_no_session(tokens: UserTokens) -> None:
    user = tokens.verify(provider_token(order_id=ORDER, sid="SES1", amounts="minor"))
    caller = user.callers[Role.MERCHANT]
    assert (user.order_id, caller.order_id, caller.session_id) == ("", "", "")
    assert not caller.minor_amounts


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, None),
        ({"scopes": []}, frozenset()),
        ({"scopes": ["orders:write"]}, frozenset({"orders:write", "orders:read"})),
        ({"scopes": "payments:read openid"}, frozenset({"payments:read", "openid"})),
    ],
)
def test_a_token_of_the_identity_provider_is_limited_by_scopes_only_where_it_has_the_claim(
    tokens: UserTokens, claims: dict[str, Any], scopes: frozenset[str] | None
) -> None:
    assert tokens.verify(provider_token(**claims)).callers[Role.MERCHANT].scopes == scopes


@pytest.mark.parametrize("scopes", [None, 1, {}, [1], [["payments:read"]]], ids=str)
def test_scopes_of_another_form_are_refused_rather_than_taken_for_none(
    tokens: UserTokens, scopes: Any
) -> None:
    with pytest.raises(TokenInvalid, match=r"\(scopes\)"):
        tokens.verify(provider_token(scopes=scopes))


def test_the_identity_providers_key_signs_no_token_of_our_own_type(tokens: UserTokens) -> None:
    payload = {**COMMON, **CLAIMS["operators"]}
    for kid in ("", "operators"):
        token = jwt.encode(
            payload,
            SECRET,
            algorithm="HS256",
            headers={"typ": "paymesh-user+jwt", **({"kid": kid} if kid else {})},
        )
        with pytest.raises(TokenInvalid):
            tokens.verify(token)


def test_a_type_of_the_identity_provider_in_the_settings_opens_no_type_of_our_own(
    clock: FakeClock,
) -> None:
    """Even where the provider names one of its keys as ours is named."""
    theirs = Ed25519PrivateKey.generate()
    tokens = UserTokens(
        {"operators": Key("EdDSA", theirs.public_key())},
        clock=clock,
        issuer="paymesh-operators",
        types=["at+jwt", "paymesh-user+jwt"],
        own_keys={"operators": Key("EdDSA", KEYS["operators"].public_key())},
    )
    assert tokens.verify(own("operators")).roles == {Role.ADMIN}
    token = jwt.encode(
        {**COMMON, **CLAIMS["operators"]},
        theirs,
        algorithm="EdDSA",
        headers={"typ": "paymesh-user+jwt", "kid": "operators"},
    )
    with pytest.raises(TokenInvalid, match=r"\(signature\)"):
        tokens.verify(token)


# Caller tokens and user tokens


def caller_tokens(service: str, clock: FakeClock) -> CallerTokens:
    return CallerTokens(
        service,
        clock=clock,
        ids=FakeIds(),
        private_key=KEYS[service],
        public_keys={name: key.public_key() for name, key in KEYS.items()},
    )


def test_caller_tokens_and_user_tokens_of_one_key_do_not_replace_each_other(
    tokens: UserTokens, clock: FakeClock
) -> None:
    sibling = caller_tokens("order_rpc", clock)
    user = signer(MERCHANTS, clock).sign(
        "key:AK1", merchant_id="acme", roles=[Role.MERCHANT], lifetime_seconds=30, scopes=[]
    )
    service = caller_tokens("merchant_rpc", clock).sign("order_rpc")
    assert sibling.verify(service).service == "merchant_rpc"
    assert tokens.verify(user).subject == "key:AK1"
    with pytest.raises(TokenInvalid, match=r"\(type\)"):
        tokens.verify(service)
    with pytest.raises(TokenInvalid, match=r"\(type\)"):
        sibling.verify(user)


def test_the_operators_key_authenticates_no_service(clock: FakeClock) -> None:
    sibling = caller_tokens("order_rpc", clock)
    with pytest.raises(TokenInvalid, match=r"\(key\)"):
        sibling.verify(caller_tokens("operators", clock).sign("order_rpc"))


# Times and keys


def test_the_token_of_a_key_ends_half_a_minute_after_its_end(
    tokens: UserTokens, clock: FakeClock
) -> None:
    token = own("merchant_rpc")
    clock.advance(59)
    assert tokens.verify(token).subject == "key:AK1"
    clock.advance(1)
    with pytest.raises(TokenExpired):
        tokens.verify(token)


def test_a_key_that_was_replaced_or_removed_signs_nothing_from_the_next_look_on(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.files.LOOK_SECONDS", 0)
    file = tmp_path / "merchant_rpc.pub.pem"

    def write(key: Ed25519PrivateKey) -> None:
        file.write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )

    write(KEYS["merchant_rpc"])
    settings = MeshSettings(caller_keys_dir=tmp_path)
    tokens = UserTokens.from_settings(settings, clock=clock)
    token = own("merchant_rpc")
    assert tokens.verify(token).subject == "key:AK1"
    write(Ed25519PrivateKey.generate())
    with pytest.raises(TokenInvalid, match=r"\(signature\)"):
        tokens.verify(token)
    file.unlink()
    with pytest.raises(TokenInvalid, match=r"\(key\)"):
        tokens.verify(token)


# The signer

_KEY: dict[str, Any] = {
    "subject": "key:AK1",
    "merchant_id": "acme",
    "roles": [Role.MERCHANT],
    "lifetime_seconds": 30,
    "scopes": ["payments:write"],
}
_BUYER: dict[str, Any] = {
    "subject": f"ext:{ORDER}",
    "merchant_id": "acme",
    "roles": [Role.USER],
    "lifetime_seconds": 3600,
    "order_id": ORDER,
}
_OPERATOR: dict[str, Any] = {
    "subject": "operator:M1",
    "merchant_id": "",
    "roles": [Role.ADMIN],
    "lifetime_seconds": 300,
}


def sign(issuer: TokenIssuer, subject: str, **claims: Any) -> str:
    return signer(issuer).sign(subject, **claims)


@pytest.mark.parametrize(
    ("issuer", "claims"),
    [(MERCHANTS, _KEY), (CHECKOUT, _BUYER), (OPERATORS, _OPERATOR)],
    ids=["merchants", "checkout", "operators"],
)
def test_what_is_signed_is_accepted(
    tokens: UserTokens, issuer: TokenIssuer, claims: dict[str, Any]
) -> None:
    user = tokens.verify(sign(issuer, **claims))
    assert (user.subject, user.merchant_id, user.roles) == (
        claims["subject"],
        claims["merchant_id"],
        set(claims["roles"]),
    )
    assert user.expires_at_seconds == NOW + claims["lifetime_seconds"]


@pytest.mark.parametrize(
    ("issuer", "claims", "changes", "why"),
    [
        (MERCHANTS, _KEY, {"roles": [Role.ADMIN]}, "roles"),
        (MERCHANTS, _KEY, {"roles": [Role.MERCHANT, Role.ADMIN]}, "roles"),
        (MERCHANTS, _KEY, {"subject": "operator:M1"}, "sub"),
        (MERCHANTS, _KEY, {"subject": "member:a b"}, "sub"),
        (MERCHANTS, _KEY, {"merchant_id": ""}, "merchant_id"),
        (MERCHANTS, _KEY, {"lifetime_seconds": 901}, "lifetime"),
        (MERCHANTS, _KEY, {"lifetime_seconds": 0}, "lifetime"),
        (MERCHANTS, _KEY, {"scopes": None}, "scopes"),
        (MERCHANTS, _KEY, {"scopes": ["payments:pay"]}, "payments:pay"),
        (MERCHANTS, _KEY, {"order_id": ORDER}, "order_id"),
        (MERCHANTS, _KEY, {"session_id": "SES1"}, "sid"),
        (CHECKOUT, _BUYER, {"roles": [Role.MERCHANT]}, "roles"),
        (CHECKOUT, _BUYER, {"order_id": "ORD2"}, "order_id"),
        (CHECKOUT, _BUYER, {"lifetime_seconds": 8 * DAY + 1}, "lifetime"),
        (CHECKOUT, _BUYER, {"minor_amounts": True}, "amounts"),
        (OPERATORS, _OPERATOR, {"roles": [Role.MERCHANT]}, "roles"),
        (OPERATORS, _OPERATOR, {"merchant_id": "acme"}, "merchant_id"),
        (OPERATORS, _OPERATOR, {"scopes": []}, "scopes"),
    ],
)
def test_nothing_is_signed_that_nobody_would_believe(
    issuer: TokenIssuer, claims: dict[str, Any], changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        sign(issuer, **{**claims, **changes})


def test_a_signer_reads_its_key_again_when_the_file_changes(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.files.LOOK_SECONDS", 0)
    file = tmp_path / "key.pem"
    first, second = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()

    def write(key: Ed25519PrivateKey) -> None:
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    write(first)
    own_signer = OwnTokenSigner.of_file(OPERATORS, file, clock=clock, ids=FakeIds())
    claims = {name: value for name, value in _OPERATOR.items() if name != "subject"}
    for key in (first, second):
        write(key)
        verifier = UserTokens(
            {},
            clock=clock,
            issuer="paymesh",
            own_keys={"operators": Key("EdDSA", key.public_key())},
        )
        assert verifier.verify(own_signer.sign("operator:M1", **claims)).roles == {Role.ADMIN}


def test_development_tokens_are_those_of_the_identity_provider(
    tokens: UserTokens, clock: FakeClock
) -> None:
    issuer = UserTokenIssuer(SECRET, clock=clock, ids=FakeIds())
    assert (
        tokens.verify(issuer.issue("alice", roles=["merchant"])).callers[Role.MERCHANT].scopes
        is None
    )
