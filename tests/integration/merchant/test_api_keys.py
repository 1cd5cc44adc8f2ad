"""Making, listing, revoking and rotating API keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from merchant_rpc.domain.api_key import KEYS_MAX, ApiKey
from merchant_rpc.domain.errors import (
    ApiKeyLimitReached,
    ApiKeyNotFound,
    MerchantNotFound,
    MerchantNotLive,
    MerchantStateInvalid,
    MerchantSuspended,
    ScopeNotHeld,
)
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.tables import ADMIN_ACTION, API_KEY
from merchant_rpc.usecases.api_keys import ApiKeys, RotateApiKey
from mesh.api_key_format import ApiKeyKind, is_well_formed, key_sha256
from mesh.errors import InvalidArgument, PageTokenInvalid
from mesh.scopes import SCOPES
from tests.builders.merchant_keys import PEPPERS, KeyWorld, key_world, member
from tests.support.fakes import EPOCH

CLERK = frozenset({"keys:write", "keys:read", "payments:read"})


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[KeyWorld]:
    async with key_world(database_url) as world:
        yield world


async def test_a_key_is_shown_once_and_only_its_digest_is_kept(world: KeyWorld) -> None:
    key = await world.create()
    text = world.shown[key.key_id]
    assert is_well_formed(text)
    assert text.startswith("pmsk_test_")
    assert (key.head, key.last_four) == (text[:16], text[-4:])
    assert await world.keys_of() == (key,)
    async with world.db.engine.connect() as connection:
        [row] = (await connection.execute(select(API_KEY))).all()
    assert text[16:-4] not in repr(row)
    assert key_sha256(text).hex() not in repr(row)
    assert row.pepper_id == next(iter(PEPPERS))


@pytest.mark.parametrize(
    ("merchant_id", "kind", "prefix"),
    [
        ("shop", ApiKeyKind.SECRET, "pmsk_live_"),
        ("shop_test", ApiKeyKind.SECRET, "pmsk_test_"),
        ("shop", ApiKeyKind.PUBLISHABLE, "pmpk_live_"),
        ("acme_test", ApiKeyKind.PUBLISHABLE, "pmpk_test_"),
    ],
)
async def test_kind_and_mode_stand_in_its_beginning(
    world: KeyWorld, merchant_id: str, kind: ApiKeyKind, prefix: str
) -> None:
    key = await world.create(merchant_id, kind=kind)
    assert world.shown[key.key_id].startswith(prefix)
    assert key.prefix == prefix


async def test_what_a_kind_may_do(world: KeyWorld) -> None:
    secret = await world.create()
    assert secret.scopes == {
        scope for scope in SCOPES if not scope.startswith(("members:", "channel_accounts:write"))
    }
    restricted = await world.create(kind=ApiKeyKind.RESTRICTED, scopes=["payments:write"])
    assert restricted.scopes == {"payments:write"}
    publishable = await world.create(kind=ApiKeyKind.PUBLISHABLE)
    assert publishable.scopes == frozenset()


@pytest.mark.parametrize(
    ("kind", "scopes"),
    [
        (ApiKeyKind.RESTRICTED, ["payments:write"]),
        (ApiKeyKind.RESTRICTED, ["payments:read", "refunds:read"]),
        (ApiKeyKind.SECRET, []),
    ],
)
async def test_nobody_makes_a_key_that_may_do_more_than_he_may(
    world: KeyWorld, kind: ApiKeyKind, scopes: list[str]
) -> None:
    with pytest.raises(ScopeNotHeld) as refusal:
        await world.create(kind=kind, scopes=scopes, caller=member(scopes=CLERK))
    assert "scopes" in refusal.value.fields
    assert await world.keys_of() == ()


@pytest.mark.parametrize(
    ("kind", "scopes"),
    [(ApiKeyKind.RESTRICTED, ["payments:read", "keys:write"]), (ApiKeyKind.PUBLISHABLE, [])],
)
async def test_somebody_makes_a_key_that_may_do_what_he_may(
    world: KeyWorld, kind: ApiKeyKind, scopes: list[str]
) -> None:
    assert await world.create(kind=kind, scopes=scopes, caller=member(scopes=CLERK))


@pytest.mark.parametrize(
    ("state", "is_test", "refusal"),
    [
        (MerchantState.SUSPENDED, False, MerchantSuspended),
        (MerchantState.SUSPENDED, True, MerchantSuspended),
        (MerchantState.CLOSED, True, MerchantSuspended),
        (MerchantState.PENDING_EMAIL, True, MerchantStateInvalid),
        (MerchantState.TEST_ONLY, False, MerchantNotLive),
    ],
)
async def test_a_merchant_that_may_not_sell_gets_no_key(
    world: KeyWorld, state: MerchantState, is_test: bool, refusal: type[Exception]
) -> None:
    before = MerchantState.TEST_ONLY if is_test else MerchantState.LIVE
    await world.merchant("other", before, is_test=is_test)
    old = await world.create("other")
    await world.become("other", state)
    with pytest.raises(refusal):
        await world.create("other")
    with pytest.raises(refusal):
        await world.rotate(old)
    assert await world.keys_of("other") == (old,)


async def test_a_suspended_merchant_may_still_revoke(world: KeyWorld) -> None:
    key = await world.create()
    await world.become("acme_test", MerchantState.SUSPENDED)
    assert (await world.revoke(key)).revoked_at == EPOCH


async def test_a_merchant_that_there_is_not_gets_no_key(world: KeyWorld) -> None:
    with pytest.raises(MerchantNotFound):
        await world.create("nobody")


@pytest.mark.parametrize("reason", ["", "  ", "ab", " a  "])
async def test_a_live_key_needs_a_reason(world: KeyWorld, reason: str) -> None:
    key = await world.create("shop")
    with pytest.raises(InvalidArgument) as refusal:
        await world.create("shop", reason=reason)
    assert list(refusal.value.fields) == ["reason"]
    with pytest.raises(InvalidArgument):
        await world.rotate(key, reason=reason)
    assert await world.create("shop_test", reason=reason)


async def test_a_key_that_would_have_ended_is_not_made(world: KeyWorld) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await world.create(expires_at=EPOCH)
    assert list(refusal.value.fields) == ["expires_at"]


async def test_addresses_that_are_none_are_refused(world: KeyWorld) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await world.create(addresses=["10.0.0.1", "10.0.0.1/8"])
    assert list(refusal.value.fields) == ["allowed_addresses[1]"]


async def test_addresses_are_kept(world: KeyWorld) -> None:
    await world.create(addresses=["203.0.113.0/24", "2001:db8::1"])
    [key] = await world.keys_of()
    assert key.allowed_addresses == ("203.0.113.0/24", "2001:db8::1")


async def test_a_merchant_has_a_hundred_living_keys_at_most(world: KeyWorld) -> None:
    for _ in range(KEYS_MAX - 1):
        key = await world.create()
    await world.create(expires_at=EPOCH + timedelta(hours=1))
    with pytest.raises(ApiKeyLimitReached):
        await world.create()
    with pytest.raises(ApiKeyLimitReached):
        await world.rotate(key, overlap=timedelta(hours=1))
    await world.rotate(key)  # one goes, one comes
    assert await world.create("shop_test")  # each merchant by itself
    world.clock.advance(3600)  # what has ended does not count
    await world.create()
    with pytest.raises(ApiKeyLimitReached):
        await world.create()
    await world.revoke(key)
    [*_, oldest] = await world.keys_of()
    await world.revoke(oldest)
    await world.create()


async def test_the_limit_holds_for_keys_that_are_made_at_once(world: KeyWorld) -> None:
    for _ in range(KEYS_MAX - 3):
        await world.create()
    made = await asyncio.gather(*(world.create() for _ in range(10)), return_exceptions=True)
    assert [type(each) for each in made].count(ApiKey) == 3
    assert [type(each) for each in made].count(ApiKeyLimitReached) == 7


async def test_keys_are_listed_newest_first_by_pages(world: KeyWorld) -> None:
    for _ in range(3):
        await world.create()
        await world.create()  # in the same moment
        world.clock.advance(1)
    await world.create("shop_test")
    everything = await world.keys_of()
    assert len(everything) == 6
    assert [key.created_at for key in everything] == sorted(
        (key.created_at for key in everything), reverse=True
    )
    seen: list[ApiKey] = []
    token = ""
    for _ in range(3):
        page, token = await world.keys.list(merchant_id="acme_test", page_size=2, page_token=token)
        seen += page
    assert (tuple(seen), token) == (everything, "")


async def test_a_page_token_of_another_merchant_is_refused(world: KeyWorld) -> None:
    for _ in range(3):
        await world.create()
    _, token = await world.keys.list(merchant_id="acme_test", page_size=1, page_token="")
    with pytest.raises(PageTokenInvalid):
        await world.keys.list(merchant_id="shop_test", page_size=1, page_token=token)


async def test_a_key_is_revoked_once(world: KeyWorld) -> None:
    key = await world.create()
    first = await world.revoke(key)
    assert (first.revoked_at, first.revoked_by) == (EPOCH, "member:M1")
    world.clock.advance(60)
    assert await world.revoke(key, caller=member(subject="member:M2")) == first
    assert await world.keys_of() == (first,)


async def test_a_key_of_another_merchant_is_not_found(world: KeyWorld) -> None:
    key = await world.create()
    foreign = replace(key, merchant_id="shop_test")
    with pytest.raises(ApiKeyNotFound):
        await world.revoke(foreign)
    with pytest.raises(ApiKeyNotFound):
        await world.rotate(foreign)
    assert (await world.keys_of())[0].revoked_at is None


async def test_a_key_of_a_merchant_that_there_is_not_is_not_found(world: KeyWorld) -> None:
    key = await world.create()
    with pytest.raises(ApiKeyNotFound):
        await world.revoke(replace(key, merchant_id="nobody"))


async def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends_at_once(
    world: KeyWorld,
) -> None:
    old = await world.create(
        kind=ApiKeyKind.RESTRICTED, scopes=["payments:read"], addresses=["10.0.0.0/8"]
    )
    world.clock.advance(1)
    fresh = await world.rotate(old)
    assert fresh.key_id != old.key_id
    assert world.shown[fresh.key_id] != world.shown[old.key_id]
    same = ("kind", "scopes", "allowed_addresses", "expires_at", "name", "is_test", "merchant_id")
    assert [getattr(fresh, name) for name in same] == [getattr(old, name) for name in same]
    ended = {key.key_id: key for key in await world.keys_of()}[old.key_id]
    assert ended.revoked_at == world.clock.now()


async def test_a_rotated_key_lives_on_for_the_overlap(world: KeyWorld) -> None:
    old = await world.create()
    await world.rotate(old, overlap=timedelta(hours=1))
    ended = {key.key_id: key for key in await world.keys_of()}[old.key_id]
    assert (ended.revoked_at, ended.expires_at) == (None, EPOCH + timedelta(hours=1))


async def test_who_never_saw_the_new_key_rotates_it_and_has_one_again(world: KeyWorld) -> None:
    old = await world.create()
    world.clock.advance(1)
    lost = await world.rotate(old)  # the answer never came
    with pytest.raises(ApiKeyNotFound):
        await world.rotate(old)  # so the same call again ends nobody's key
    [unknown] = [key for key in await world.keys_of() if key.revoked_at is None]
    assert unknown.key_id == lost.key_id
    world.clock.advance(1)
    found = await world.rotate(unknown)
    assert (await world.exchange(found)).key.key_id == found.key_id
    assert [key.key_id for key in await world.keys_of() if key.revoked_at is None] == [found.key_id]


async def test_a_key_that_rotates_itself_lives_on_so_a_lost_answer_costs_nothing(
    world: KeyWorld,
) -> None:
    old = await world.create()
    itself = member(subject=old.subject)
    with pytest.raises(InvalidArgument) as refused:
        await world.rotate(old, caller=itself)
    assert list(refused.value.fields) == ["overlap_minutes"]
    assert [key.revoked_at for key in await world.keys_of()] == [None]
    lost = await world.rotate(old, caller=itself, overlap=timedelta(minutes=1))
    assert (await world.exchange(old)).key.key_id == old.key_id
    again = await world.rotate(old, caller=itself, overlap=timedelta(minutes=1))
    await world.revoke(lost, caller=itself)
    assert (await world.exchange(again)).key.key_id == again.key_id
    other = await world.create()
    await world.rotate(other, caller=itself)  # which leaves it a key


async def test_a_rotation_makes_no_key_live_longer(world: KeyWorld) -> None:
    ends = EPOCH + timedelta(minutes=10)
    old = await world.create(expires_at=ends)
    fresh = await world.rotate(old, overlap=timedelta(hours=1))
    ended = {key.key_id: key for key in await world.keys_of()}[old.key_id]
    assert (ended.expires_at, fresh.expires_at) == (ends, ends)


async def test_a_key_that_has_ended_is_not_rotated(world: KeyWorld) -> None:
    revoked = await world.create()
    await world.revoke(revoked)
    expired = await world.create(expires_at=EPOCH + timedelta(seconds=1))
    world.clock.advance(1)
    for key in (revoked, expired):
        with pytest.raises(ApiKeyNotFound):
            await world.rotate(key)


async def test_nobody_rotates_a_key_that_may_do_more_than_he_may(world: KeyWorld) -> None:
    key = await world.create()
    with pytest.raises(ScopeNotHeld):
        await world.rotate(key, caller=member(scopes=CLERK))
    assert len(await world.keys_of()) == 1


async def test_what_is_done_to_keys_stands_in_the_log_of_actions(world: KeyWorld) -> None:
    key = await world.create(reason="a new shop")
    fresh = await world.rotate(key, overlap=timedelta(hours=1))
    await world.revoke(key, caller=member(subject="key:AK9"))
    await world.revoke(key)  # changes nothing
    async with world.db.engine.connect() as connection:
        rows = (await connection.execute(select(ADMIN_ACTION).order_by(ADMIN_ACTION.c.id))).all()
    assert [(row.method, row.target, row.actor, row.reason) for row in rows] == [
        ("CreateApiKey", key.key_id, "member:M1", "a new shop"),
        ("RotateApiKey", fresh.key_id, "member:M1", "once a year"),
        ("RevokeApiKey", key.key_id, "key:AK9", "lost"),
    ]
    assert {row.merchant_id for row in rows} == {"acme_test"}
    for text in world.shown.values():
        assert text[16:-4] not in repr(rows)


def test_nothing_widens_a_living_key() -> None:
    """No use case takes scopes or addresses for a key that there is."""
    assert {name for name in vars(ApiKeys) if not name.startswith("_")} == {
        "create",
        "list",
        "revoke",
        "rotate",
    }
    assert RotateApiKey.__slots__ == ("merchant_id", "key_id", "overlap", "reason")
