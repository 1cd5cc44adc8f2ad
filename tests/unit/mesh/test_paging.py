from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import PageTokenInvalid
from mesh.paging import PageTokens, page_size
from mesh.settings import MeshSettings

TOKENS = PageTokens(b"p" * 32)
OURS: dict[str, Any] = {
    "list_name": "ListOrders",
    "filter": {"merchant_id": "mall", "user_id": "alice"},
}


@given(at=st.integers(-(2**63), 2**63 - 1), order_id=st.text(max_size=32))
def test_a_token_gives_back_the_key_it_was_made_of(at: int, order_id: str) -> None:
    token = TOKENS.encode(**OURS, key=(at, order_id))
    assert TOKENS.decode(token, **OURS, types=(int, str)) == (at, order_id)


def test_an_empty_token_is_the_first_page() -> None:
    assert TOKENS.decode("", **OURS, types=(int, str)) is None


def test_a_token_is_short_and_fits_into_a_url() -> None:
    token = TOKENS.encode(**OURS, key=(1_795_176_000_000, "ORD01JD0000000000000000000000"))
    assert len(token) < 200
    assert token.replace("-", "").replace("_", "").replace(".", "").isalnum()


@pytest.mark.parametrize(
    "other",
    [
        {**OURS, "list_name": "ListPayments"},
        {**OURS, "filter": {"merchant_id": "mall", "user_id": "bob"}},
        {**OURS, "filter": {"merchant_id": "mall"}},
        {**OURS, "filter": {"merchant_id": "mall", "user_id": "alice", "state": "PAID"}},
        {**OURS, "filter": {"merchant_id": "malluser_id", "": "alice"}},
    ],
)
def test_a_token_is_good_for_its_list_and_filter_only(other: dict[str, Any]) -> None:
    token = TOKENS.encode(**OURS, key=(1, "a"))
    with pytest.raises(PageTokenInvalid):
        TOKENS.decode(token, **other, types=(int, str))


def test_the_order_of_a_filter_does_not_matter() -> None:
    token = TOKENS.encode(**OURS, key=(1,))
    assert TOKENS.decode(
        token,
        list_name="ListOrders",
        filter={"user_id": "alice", "merchant_id": "mall"},
        types=(int,),
    ) == (1,)


@pytest.mark.parametrize("types", [(int,), (str, int), (int, int), (str, str), (int, str, str), ()])
def test_a_key_of_other_types_is_refused(types: tuple[type, ...]) -> None:
    token = TOKENS.encode(**OURS, key=(1, "a"))
    with pytest.raises(PageTokenInvalid):
        TOKENS.decode(token, **OURS, types=types)


def test_true_is_not_a_number() -> None:
    token = TOKENS.encode(**OURS, key=(True,))
    with pytest.raises(PageTokenInvalid):
        TOKENS.decode(token, **OURS, types=(int,))


@pytest.mark.parametrize("token", ["x", ".", "a.b", "W10.x", "☃", "{}", "\x00", "a" * 512, " "])
def test_what_we_did_not_make_is_refused(token: str) -> None:
    with pytest.raises(PageTokenInvalid):
        TOKENS.decode(token, **OURS, types=(int,))


def test_a_changed_character_is_refused() -> None:
    token = TOKENS.encode(**OURS, key=(1, "a"))
    for index, character in enumerate(token[:-1]):
        changed = token[:index] + ("A" if character != "A" else "B") + token[index + 1 :]
        with pytest.raises(PageTokenInvalid):
            TOKENS.decode(changed, **OURS, types=(int, str))


def test_a_token_of_another_installation_is_refused() -> None:
    with pytest.raises(PageTokenInvalid):
        TOKENS.decode(PageTokens(b"q" * 32).encode(**OURS, key=(1,)), **OURS, types=(int,))


def test_secrets_are_long_and_must_be_there() -> None:
    with pytest.raises(ValueError, match="32"):
        PageTokens(b"p" * 31)
    with pytest.raises(ValueError, match="page_token_secret_file"):
        PageTokens.from_settings(MeshSettings())


@pytest.mark.parametrize(
    ("asked", "rows"), [(0, 20), (1, 1), (100, 100), (101, 100), (10_000, 100), (-1, 20)]
)
def test_a_page_has_twenty_rows_unless_asked_and_a_hundred_at_most(asked: int, rows: int) -> None:
    assert page_size(asked) == rows
