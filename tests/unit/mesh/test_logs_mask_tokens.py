"""A token that stands anywhere in a text never reaches a log."""

from __future__ import annotations

from secrets import token_bytes

import jwt
import pytest

from mesh.api_key_format import ApiKeyKind, new_key
from mesh.logs import redacted

TOKEN = jwt.encode(
    {"sub": "alice", "iss": "paymesh"}, "s" * 32, algorithm="HS256", headers={"typ": "at+jwt"}
)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "refused {}",
        "upstream said: {} is not good",
        "a={}&b=1",
        '{{"detail": "{}"}}',
        "x,{},y",
        "({})",
        "{}.",
        "{}\nnext line",
    ],
)
def test_a_bare_jwt_is_masked_wherever_it_stands(text: str) -> None:
    masked = redacted(text.format(TOKEN))
    for part in TOKEN.split("."):
        assert part not in masked
    assert "***" in masked


def test_a_jwt_in_the_text_of_an_exception_is_masked() -> None:
    masked = redacted(ValueError(f"cannot read {TOKEN}"))
    assert masked == "cannot read ***"


def test_a_jwt_without_its_signature_is_masked_too() -> None:
    assert redacted(TOKEN.rpartition(".")[0] + ".") == "***"


def test_what_only_looks_like_the_begin_of_one_is_left_alone() -> None:
    assert redacted("eyJ is how they begin") == "eyJ is how they begin"


@pytest.mark.parametrize(
    "number",
    [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "378282246310005",
        "6222020000000000000",
    ],
)
@pytest.mark.parametrize("text", ["{}", "card {} was refused", "number={}&cvv=1", "[{}]"])
def test_a_card_number_is_masked_however_it_is_written(text: str, number: str) -> None:
    assert number not in redacted(text.format(number))


@pytest.mark.parametrize(
    "text", ["Bearer {}", "authorization: bearer {}", "BEARER {}", "(Bearer {})"]
)
def test_a_bearer_token_is_masked_whatever_its_form(text: str) -> None:
    assert "opaque-123" not in redacted(text.format("opaque-123"))


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "access_token",
        "client_secret",
        "db_password",
        "passwd",
        "cvv",
        "card_cvc",
        "card_number",
        "credit_card_number",
        "private_key",
        "signature",
        "x_channel_signature",
        "dsn",
        "database_url",
        "redis_url",
        "X-Paymesh-Caller",
    ],
)
def test_a_value_is_masked_by_its_name(name: str) -> None:
    assert redacted({"outer": [{name: "abc"}]}) == {"outer": [{name: "***"}]}


def test_passwords_in_urls_are_masked() -> None:
    assert (
        redacted("cannot reach mysql://shop:hunter2@db:3306/x")
        == "cannot reach mysql://***@db:3306/x"
    )
    assert "hunter2" not in redacted("redis://:hunter2@cache:6379/0")


@pytest.mark.parametrize("text", ["{}", "key={}&x=1", '{{"k": "{}"}}', "({})", "at{}", "{}."])
@pytest.mark.parametrize("mistyped", [False, True])
def test_an_api_key_is_masked_wherever_it_stands(text: str, mistyped: bool) -> None:
    key = new_key(ApiKeyKind.SECRET, is_test=False, random_bytes=token_bytes)
    masked = redacted(text.format(key[:-3] if mistyped else key))
    assert key[10:50] not in masked
    assert "***" in masked


@pytest.mark.parametrize("name", ["X-API-Key", "api_key"])
def test_a_field_that_is_named_after_api_keys_is_masked(name: str) -> None:
    assert redacted({name: "anything"}) == {name: "***"}


def test_the_id_of_a_key_is_told() -> None:
    assert redacted({"api_key_id": "AK01"}) == {"api_key_id": "AK01"}
