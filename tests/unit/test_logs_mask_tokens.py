"""A token that stands anywhere in a text never reaches a log."""

from __future__ import annotations

import jwt
import pytest

from mesh.logs import redacted

TOKEN = jwt.encode({"sub": "alice", "iss": "paymesh"}, "s" * 32, algorithm="HS256", headers={"typ": "at+jwt"})


@pytest.mark.parametrize("text", [
    "{}", "refused {}", "upstream said: {} is not good", "a={}&b=1", '{{"detail": "{}"}}', "x,{},y", "({})", "{}.", "{}\nnext line",
])
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
