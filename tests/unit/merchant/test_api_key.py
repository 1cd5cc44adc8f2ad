"""What a key may do, from where, and until when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from merchant_rpc.domain.api_key import (
    ADDRESSES_MAX,
    ApiKey,
    allowed_addresses,
    end_of_key,
    scopes_of_key,
)
from mesh.api_key_format import ApiKeyKind
from mesh.errors import InvalidArgument
from tests.support.fakes import EPOCH

CATALOGUE = ("payments:read", "payments:write", "keys:write", "members:read", "members:write")


def api_key(**changes: object) -> ApiKey:
    fields: dict[str, object] = {
        "key_id": "AK1",
        "merchant_id": "acme_test",
        "kind": ApiKeyKind.SECRET,
        "is_test": True,
        "name": "shop",
        "head": "pmsk_test_7Hq2Wz",
        "last_four": "abcd",
        "scopes": frozenset({"payments:read"}),
        "allowed_addresses": (),
        "expires_at": None,
        "created_by": "member:M1",
        "created_at": EPOCH,
        **changes,
    }
    return ApiKey(**fields)  # type: ignore[arg-type]  # fields of a test


def test_a_secret_key_has_every_scope_but_those_over_people() -> None:
    assert scopes_of_key(ApiKeyKind.SECRET, (), catalogue=CATALOGUE) == {
        "payments:read",
        "payments:write",
        "keys:write",
    }


def test_a_publishable_key_has_none() -> None:
    assert scopes_of_key(ApiKeyKind.PUBLISHABLE, (), catalogue=CATALOGUE) == frozenset()


def test_a_restricted_key_has_what_it_names() -> None:
    named = ("payments:read", "payments:read")
    assert scopes_of_key(ApiKeyKind.RESTRICTED, named, catalogue=CATALOGUE) == {"payments:read"}


@pytest.mark.parametrize(
    ("kind", "named", "field"),
    [
        (ApiKeyKind.SECRET, ["payments:read"], "scopes"),
        (ApiKeyKind.PUBLISHABLE, ["payments:read"], "scopes"),
        (ApiKeyKind.RESTRICTED, [], "scopes"),
        (ApiKeyKind.RESTRICTED, ["payments:read", "gold:read"], "scopes[1]"),
        (ApiKeyKind.RESTRICTED, ["payments:delete"], "scopes[0]"),
        (ApiKeyKind.RESTRICTED, ["members:read"], "scopes[0]"),
        (ApiKeyKind.RESTRICTED, ["channel_accounts:write"], "scopes[0]"),
        (ApiKeyKind.RESTRICTED, ["members:write"], "scopes[0]"),
    ],
)
def test_other_scopes_are_refused_by_name(kind: ApiKeyKind, named: list[str], field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        scopes_of_key(kind, named, catalogue=CATALOGUE)
    assert list(refusal.value.fields) == [field]


def test_rights_over_people_are_refused_as_what_they_are() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        scopes_of_key(ApiKeyKind.RESTRICTED, ["members:read"], catalogue=CATALOGUE)
    assert refusal.value.fields == {"scopes[0]": "is for people alone"}


def test_addresses_and_networks_are_kept_in_one_spelling() -> None:
    given = ["203.0.113.0/24", "10.0.0.1", "10.0.0.1/32", "2001:DB8:0::/32", "10.0.0.1"]
    assert allowed_addresses(given) == ("203.0.113.0/24", "10.0.0.1", "2001:db8::/32")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "203.0.113.5/24",  # bits of a host in a network
        "203.0.113",
        "203.0.113.256",
        "010.0.0.1",
        "10.0.0.1/33",
        "10.0.0.0/8/8",
        "::/129",
        "fe80::1%eth0",
        "example.com",
        "10.0.0.1 ",
        "0.0.0.0/0",
        "::/0",
        "1" * 51,
    ],
)
def test_what_is_no_address_is_refused_by_its_place(text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        allowed_addresses(["10.0.0.1", text])
    assert list(refusal.value.fields) == ["allowed_addresses[1]"]


def test_a_list_has_an_end() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        allowed_addresses(["10.0.0.1"] * (ADDRESSES_MAX + 1))
    assert list(refusal.value.fields) == ["allowed_addresses"]


@pytest.mark.parametrize(
    "address", ["203.0.113.9", "::ffff:203.0.113.9", "2001:db8::7", "2001:db8::7%eth0"]
)
def test_a_client_inside_may_use_a_key(address: str) -> None:
    assert api_key(allowed_addresses=("203.0.113.0/24", "2001:db8::/32")).may_come_from(address)


@pytest.mark.parametrize(
    "address", ["", "203.0.114.1", "2001:db9::1", "not an address", "::203.0.113.9"]
)
def test_a_client_outside_may_not(address: str) -> None:
    assert not api_key(allowed_addresses=("203.0.113.0/24", "2001:db8::/32")).may_come_from(address)


@pytest.mark.parametrize("address", ["", "203.0.113.9", "not an address"])
def test_a_key_without_a_list_may_be_used_from_anywhere(address: str) -> None:
    assert api_key().may_come_from(address)


def test_a_key_ends_at_its_moment_and_not_before() -> None:
    ends = EPOCH + timedelta(hours=1)
    key = api_key(expires_at=ends)
    assert key.lives_at(ends - timedelta(milliseconds=1))
    assert not key.lives_at(ends)
    assert not api_key(revoked_at=EPOCH).lives_at(EPOCH)


@pytest.mark.parametrize("seconds", [0, -1, -1e9])
def test_a_key_that_has_ended_is_not_made(seconds: float) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        end_of_key(EPOCH + timedelta(seconds=seconds), now=EPOCH)
    assert list(refusal.value.fields) == ["expires_at"]


def test_a_key_may_have_no_end() -> None:
    assert end_of_key(None, now=EPOCH) is None


def test_subject_and_prefix_follow_from_the_key() -> None:
    assert api_key().subject == "key:AK1"
    assert api_key().prefix == "pmsk_test_"
    assert api_key(kind=ApiKeyKind.RESTRICTED, is_test=False).prefix == "pmrk_live_"
