"""Tokens and key sets in the forms in which Keycloak, Microsoft Entra ID and Auth0 publish them,
and every other form that RFC 9068 allows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs

from mesh.auth import Role, UserTokens
from mesh.claims import ClaimNames, subject_of
from mesh.errors import TokenInvalid
from mesh.jwks import read_jwks
from mesh.settings import MeshSettings
from tests.support.fakes import EPOCH, FakeClock

NOW = int(EPOCH.timestamp())
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT = rsa.generate_private_key(public_exponent=65537, key_size=1024)
REALM = "https://id.shop.example/realms/shop"
KEYCLOAK: dict[str, Any] = {
    "exp": NOW + 300,
    "iat": NOW,
    "auth_time": NOW - 5,
    "jti": "onrtac:3f0a9a52-7a0c-4f5e-9a0e-2d1c0d7d5a55",
    "iss": REALM,
    "aud": ["paymesh", "account"],
    "sub": "5c3a6f0e-8f0b-4a5e-9a1e-0b8b9f6f3f10",
    "typ": "Bearer",
    "azp": "web",
    "sid": "b1",
    "acr": "1",
    "allowed-origins": ["https://shop.example"],
    "realm_access": {"roles": ["default-roles-shop", "offline_access", "shop-clerk"]},
    "resource_access": {"account": {"roles": ["manage-account"]}},
    "scope": "openid profile email",
    "email_verified": True,
    "merchant_id": "acme",
}
ENTRA: dict[str, Any] = {
    "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
    "iss": "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 5000,
    "aio": "AXQAi/8IAAAA",
    "azp": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
    "azpacr": "0",
    "name": "Abe Lincoln",
    "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
    "preferred_username": "abeli@microsoft.com",
    "rh": "I",
    "roles": ["Paymesh.Admin"],
    "scp": "access_as_user",
    "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
    "uti": "fqiBqXLPj0eQa82S-IYFAA",
    "ver": "2.0",
}
AUTH0: dict[str, Any] = {
    "iss": "https://shop.eu.auth0.com/",
    "sub": "auth0|507f1f77bcf86cd799439011",
    "aud": ["https://api.shop.example", "https://shop.eu.auth0.com/userinfo"],
    "iat": NOW,
    "exp": NOW + 86400,
    "scope": "openid profile",
    "jti": "Vn3jrqZz",
    "client_id": "nZ8JDrV8Hklf3JumewRl2ke3ovPZn5Ho",
    "permissions": ["orders:manage"],
    "https://shop.example/merchant": "acme",
}
NAMES = ClaimNames(default_merchant="mall", default_role="user")


def number(value: int) -> str:
    return jwt.utils.to_base64url_uint(value).decode()


def key(kid: str, **more: Any) -> dict[str, Any]:
    public = KEY.public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "n": number(public.n), "e": number(public.e), **more}


SIGNING = key("sig-1", alg="RS256", use="sig")
OTHER_KEYS: dict[str, dict[str, Any]] = {
    "Keycloak's encryption key": key("enc-1", alg="RSA-OAEP", use="enc", x5c=["MIIC"], x5t="abc"),
    "PS256": key("ps-1", alg="PS256", use="sig"),
    "ES384": {
        **json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key())),
        "kid": "es-1",
        "alg": "ES384",
        "use": "sig",
    },
    "an unknown type": {"kty": "XYZ", "kid": "x", "use": "sig"},
    "a key type of the future": {"kty": "AKP", "kid": "ml", "alg": "ML-DSA-44", "pub": "AAAA"},
    "a symmetric key": {"kty": "oct", "k": "AAAA", "kid": "o", "alg": "HS256"},
    "a short RSA key": {**json.loads(RSAAlgorithm.to_jwk(SHORT.public_key())), "kid": "short"},
    "a key without kid": {name: value for name, value in SIGNING.items() if name != "kid"},
    "a broken key": key("broken", alg="RS256") | {"n": "!!"},
    "no key at all": {"kid": 7},
}


def user_tokens(issuer: str, **more: Any) -> UserTokens:
    return UserTokens(
        read_jwks(json.dumps({"keys": [SIGNING]}).encode()),
        clock=FakeClock(),
        issuer=issuer,
        **more,
    )


def signed(claims: dict[str, Any], *, typ: Any = "at+jwt", kid: str = "sig-1") -> str:
    return jwt.encode(claims, KEY, algorithm="RS256", headers={"typ": typ, "kid": kid})


# Key sets


@pytest.mark.parametrize("other", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_a_key_that_is_not_for_us_is_skipped_and_named_in_one_line(other: dict[str, Any]) -> None:
    with capture_logs() as logs:
        keys = read_jwks(
            json.dumps({"keys": [other, SIGNING], "issuer": "https://id.example"}).encode()
        )
    assert set(keys) == {"sig-1"}
    assert [line["event"] for line in logs] == ["jwks_keys_skipped"]
    assert len(logs[0]["skipped"]) == 1


@pytest.mark.parametrize("other", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_a_key_set_of_nothing_for_us_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no public"):
        read_jwks(json.dumps({"keys": [other]}).encode())


def test_a_key_without_alg_is_for_the_algorithm_of_its_type_alone() -> None:
    tokens = UserTokens(
        read_jwks(json.dumps({"keys": [key("sig-1", use="sig")]}).encode()),
        clock=FakeClock(),
        issuer=REALM,
    )
    assert tokens.verify(signed(KEYCLOAK)).merchant_id == "acme"
    with pytest.raises(TokenInvalid, match="signature"):
        tokens.verify(
            jwt.encode(KEYCLOAK, KEY, algorithm="PS256", headers={"typ": "at+jwt", "kid": "sig-1"})
        )


# RFC 9068


@pytest.mark.parametrize(
    "typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT", "application/at+JWT"]
)
def test_the_type_of_access_tokens_is_taken_in_every_spelling(typ: str) -> None:
    assert user_tokens(REALM).verify(signed(KEYCLOAK, typ=typ)).merchant_id == "acme"


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "id+jwt", "application/application/at+jwt", "logout+jwt", "", None, 7]
)
def test_any_other_type_is_refused(typ: Any) -> None:
    with pytest.raises(TokenInvalid):
        user_tokens(REALM).verify(signed(KEYCLOAK, typ=typ))


def test_a_provider_that_writes_JWT_is_taken_where_a_setting_says_so() -> None:
    assert (
        user_tokens(REALM, types=("at+jwt", "JWT")).verify(signed(KEYCLOAK, typ="JWT")).merchant_id
        == "acme"
    )


def test_times_may_have_fractions_and_nbf_may_be_absent() -> None:
    claims = {**KEYCLOAK, "iat": NOW + 0.5, "exp": NOW + 300.25}
    assert "nbf" not in claims
    assert user_tokens(REALM).verify(signed(claims)).expires_at_seconds == NOW + 300
    with pytest.raises(TokenInvalid, match="not yet"):
        user_tokens(REALM).verify(signed({**claims, "nbf": NOW + 30.5}))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"aud": "other"}, "audience"),
        ({"iss": "other"}, "issuer"),
        ({"aud": 7}, "aud"),
        ({"iat": "now"}, "iat"),
        ({"exp": None}, "exp"),
        ({"nbf": "x"}, "nbf"),
        ({"sub": ["a"]}, "sub"),
        ({"jti": 1}, "jti"),
        ({"roles": "admin"}, "roles"),
        ({"merchant_id": 3}, "merchant_id"),
    ],
)
def test_a_wrong_claim_is_named_and_is_not_called_a_wrong_signature(
    change: dict[str, Any], word: str
) -> None:
    with pytest.raises(TokenInvalid, match=rf"\({word}\)"):
        user_tokens(REALM).verify(signed({**KEYCLOAK, **change}))


# Providers


def test_a_token_of_keycloak_has_its_roles_in_an_object() -> None:
    names = ClaimNames(roles=("realm_access.roles",), role_names={"shop-clerk": "merchant"})
    user = user_tokens(REALM, names=names).verify(signed(KEYCLOAK))
    assert (user.roles, user.merchant_id, user.subject) == (
        {Role.MERCHANT},
        "acme",
        KEYCLOAK["sub"],
    )


def test_a_token_of_entra_has_no_jti_its_own_type_and_audience_and_app_roles() -> None:
    tokens = user_tokens(
        ENTRA["iss"],
        audience=ENTRA["aud"],
        types=("JWT",),
        names=ClaimNames(role_names={"Paymesh.Admin": "admin"}),
    )
    user = tokens.verify(signed(ENTRA, typ="JWT"))
    assert (user.roles, user.merchant_id, user.subject) == ({Role.ADMIN}, "", ENTRA["sub"])


def test_a_token_of_auth0_has_permissions_a_claim_with_a_url_for_its_name_and_a_subject_with_a_bar() -> (
    None
):
    names = ClaimNames(
        roles=("permissions", "scope"),
        role_names={"orders:manage": "merchant"},
        merchant="https://shop.example/merchant",
    )
    user = user_tokens(AUTH0["iss"], audience="https://api.shop.example", names=names).verify(
        signed(AUTH0)
    )
    assert (user.roles, user.merchant_id) == ({Role.MERCHANT}, "acme")
    assert user.subject == "enc:auth0.7c507f1f77bcf86cd799439011"


def test_roles_may_stand_in_a_scope() -> None:
    user = user_tokens(
        REALM, names=ClaimNames(roles=("scope",), role_names={"profile": "user"})
    ).verify(signed(KEYCLOAK))
    assert user.roles == {Role.USER}


def test_a_buyer_without_roles_is_one_where_a_setting_says_so() -> None:
    assert user_tokens(REALM).verify(signed(KEYCLOAK)).roles == frozenset()
    assert user_tokens(REALM, names=ClaimNames(default_role="user")).verify(
        signed(KEYCLOAK)
    ).roles == {Role.USER}


def test_the_settings_say_where_claims_are(tmp_path: Path) -> None:
    (tmp_path / "jwks").write_text(json.dumps({"keys": [SIGNING]}))
    settings = MeshSettings(
        user_token_jwks_file=tmp_path / "jwks",
        user_token_issuer=AUTH0["iss"],
        user_token_audience="https://api.shop.example",
        user_token_roles_claims=["permissions"],
        user_token_role_names={"orders:manage": "merchant"},
        user_token_merchant_claim="https://shop.example/merchant",
    )
    assert UserTokens.from_settings(settings, clock=FakeClock()).verify(signed(AUTH0)).roles == {
        Role.MERCHANT
    }


# Tenants


@pytest.mark.parametrize("role", ["user", "merchant"])
def test_a_token_without_a_merchant_opens_no_tenant(role: str) -> None:
    claims = {name: value for name, value in KEYCLOAK.items() if name != "merchant_id"} | {
        "roles": [role]
    }
    with pytest.raises(TokenInvalid, match="merchant_id is missing"):
        user_tokens(REALM).verify(signed(claims))
    with pytest.raises(TokenInvalid, match="merchant_id is missing"):
        user_tokens(REALM).verify(signed(claims | {"roles": ["admin", role]}))


def test_a_buyer_without_a_merchant_is_one_of_the_default_shop_and_a_clerk_never() -> None:
    claims = {name: value for name, value in KEYCLOAK.items() if name != "merchant_id"}
    tokens = user_tokens(REALM, names=ClaimNames(default_merchant="mall"))
    assert tokens.verify(signed(claims | {"roles": ["user"]})).merchant_id == "mall"
    with pytest.raises(TokenInvalid, match="merchant_id is missing"):
        tokens.verify(signed(claims | {"roles": ["user", "merchant"]}))


def test_our_own_staff_needs_no_merchant() -> None:
    claims = {name: value for name, value in KEYCLOAK.items() if name != "merchant_id"} | {
        "roles": ["admin"]
    }
    assert user_tokens(REALM).verify(signed(claims)).merchant_id == ""


# Subjects


@pytest.mark.parametrize(
    "sub",
    [
        "alice",
        "690222be-ff1a-4d56-abd1-7e4f7d38e474",
        "a.b@c:d",
        "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    ],
)
def test_most_subjects_are_their_own_id(sub: str) -> None:
    assert subject_of(sub) == sub


def test_no_two_subjects_get_one_id_and_every_id_fits_our_pattern() -> None:
    subjects = [
        "auth0|1",
        "auth0.7c1",
        "enc:auth0.7c1",
        "enc:enc:auth0.7c1",
        "a+b",
        "a#b",
        "a/b",
        "a.b",
        "a.2eb",
        "a|",
        "|a",
        "https://id.example/u/1",
        "https://id.example/u/" + "1" * 100,
        "x" * 65,
        "x" * 66,
        "sha256:" + "A" * 43,
        subject_of("x" * 65),
        "google-oauth2|103547991597142817347",
        "samlp|corp|alice@corp.example",
        "enc:",
        "sha256:",
    ]
    ids = [subject_of(sub) for sub in subjects]
    assert len(set(ids)) == len(subjects)
    for each in ids:
        assert len(each) <= 64
        assert (
            each.replace("_", "")
            .replace(".", "")
            .replace(":", "")
            .replace("@", "")
            .replace("-", "")
            .isalnum()
        )


@pytest.mark.parametrize("sub", ["", "a b", "a\x00b", "alice\n", "ä", "a\u200bb", "x" * 256])
def test_a_subject_that_is_no_visible_ascii_is_refused(sub: str) -> None:
    with pytest.raises(TokenInvalid, match=r"\(sub\)"):
        user_tokens(REALM).verify(signed({**KEYCLOAK, "sub": sub}))
