"""An API key is known by its beginning, and a slip of the finger by its checksum."""

from __future__ import annotations

import hashlib
from secrets import token_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api_key_format import (
    KEY_CHARACTERS,
    RANDOM_BYTES,
    ApiKeyKind,
    begins_like_key,
    is_well_formed,
    key_sha256,
    new_key,
    prefix_of,
    stored_digest,
)

KINDS = st.sampled_from(ApiKeyKind)
RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)
KEY = new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=bytes)


@given(KINDS, st.booleans(), RANDOM)
def test_every_key_that_we_make_is_well_formed(
    kind: ApiKeyKind, is_test: bool, random: bytes
) -> None:
    key = new_key(kind, is_test=is_test, random_bytes=lambda _: random)
    assert is_well_formed(key)
    assert begins_like_key(key)
    assert key.startswith(prefix_of(kind, is_test=is_test))
    assert len(key) == KEY_CHARACTERS


@given(RANDOM, RANDOM)
def test_other_random_bits_are_another_key(one: bytes, other: bytes) -> None:
    keys = [
        new_key(ApiKeyKind.SECRET, is_test=False, random_bytes=random_bytes)
        for random_bytes in (lambda _: one, lambda _: other)
    ]
    assert (keys[0] == keys[1]) == (one == other)


@given(RANDOM, st.integers(0, KEY_CHARACTERS - 1), st.characters(codec="ascii"))
def test_one_wrong_character_is_noticed(random: bytes, place: int, character: str) -> None:
    key = new_key(ApiKeyKind.RESTRICTED, is_test=True, random_bytes=lambda _: random)
    wrong = key[:place] + character + key[place + 1 :]
    assert is_well_formed(wrong) == (wrong == key)


@given(RANDOM, st.integers(0, KEY_CHARACTERS - 2))
def test_two_characters_in_the_wrong_order_are_noticed(random: bytes, place: int) -> None:
    key = new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=lambda _: random)
    wrong = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_well_formed(wrong) == (wrong == key)


@given(st.text(max_size=100))
def test_nothing_else_is_a_key(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY[:-1],
        KEY + "0",
        KEY + "\n",
        " " + KEY,
        KEY.lower(),
        KEY.replace("test", "live"),
        KEY.replace("pmsk", "pmrk"),
        KEY.replace("pmsk", "pmzk"),
        KEY.replace("_test_", "_"),
        KEY[:10] + "é" + KEY[11:],
        KEY[:10] + "٣" + KEY[11:],
    ],
)
def test_what_is_nearly_a_key_is_none(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize(
    "text", ["eyJhbGciOiJIUzI1NiJ9.e30.x", "pmsk", "xpmsk_live_", "PMSK_live_"]
)
def test_a_token_does_not_mean_to_be_a_key(text: str) -> None:
    assert not begins_like_key(text)


def test_a_mistyped_key_still_means_to_be_one() -> None:
    assert begins_like_key("pmsk_liv")


def test_two_keys_share_nothing_but_their_beginning() -> None:
    keys = {new_key(ApiKeyKind.SECRET, is_test=False, random_bytes=token_bytes) for _ in range(100)}
    assert len({key[10:] for key in keys}) == 100


def test_the_stored_digest_depends_on_key_and_pepper() -> None:
    sha256 = key_sha256(KEY)
    assert sha256 == hashlib.sha256(KEY.encode()).digest()
    digests = {
        stored_digest(sha256, b"p" * 32),
        stored_digest(sha256, b"q" * 32),
        stored_digest(key_sha256(KEY + "x"), b"p" * 32),
    }
    assert len(digests) == 3
    assert all(len(digest) == 32 and digest != sha256 for digest in digests)
