"""Keys become tokens of 30 seconds, and nobody is told why one does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import jwt
import pytest

from merchant_rpc.domain.errors import ApiKeyInvalid, LoginDelayed
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.peppers import Peppers
from merchant_rpc.store.api_keys import KeyUse
from merchant_rpc.usecases import key_exchanges
from mesh.api_key_format import ApiKeyKind, key_sha256, new_key
from mesh.auth import UserTokens
from mesh.call import Role
from mesh.errors import TokenExpired
from mesh.jwks import Key
from tests.builders.merchant_keys import (
    ATTEMPTS_PER_SECOND,
    HOME,
    PEPPERS,
    SIGNING_KEY,
    KeyWorld,
    key_world,
)
from tests.support.fakes import EPOCH

AWAY = "198.51.100.9"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[KeyWorld]:
    async with key_world(database_url) as world:
        yield world


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(
        token,
        SIGNING_KEY.public_key(),
        algorithms=["EdDSA"],
        audience="paymesh",
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    return found


async def test_a_key_becomes_a_token_of_thirty_seconds(world: KeyWorld) -> None:
    key = await world.create(kind=ApiKeyKind.RESTRICTED, scopes=["payments:write"])
    token = await world.exchange(key)
    said = claims(token.token)
    assert (said["iss"], said["sub"], said["merchant_id"]) == (
        "paymesh-merchants",
        f"key:{key.key_id}",
        "acme_test",
    )
    assert (said["roles"], said["scopes"]) == (["merchant"], ["payments:write"])
    assert said["exp"] == EPOCH.timestamp() + 30 == token.expires_at.timestamp()
    assert "amounts" not in said


async def test_a_publishable_key_has_neither_role_nor_scope(world: KeyWorld) -> None:
    said = claims((await world.exchange(await world.create(kind=ApiKeyKind.PUBLISHABLE))).token)
    assert (said["roles"], said["scopes"]) == ([], [])


async def test_the_digest_of_a_key_is_as_good_as_the_key(world: KeyWorld) -> None:
    key = await world.create()
    token = await world.exchanges.exchange_digest(
        key_sha256(world.shown[key.key_id]), prefix="pmsk_test_", client_address=HOME
    )
    assert claims(token.token)["sub"] == f"key:{key.key_id}"


async def test_an_unknown_key_is_refused(world: KeyWorld) -> None:
    await world.create()
    unknown = new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=bytes)
    with pytest.raises(ApiKeyInvalid):
        await world.exchanges.exchange(unknown, client_address=HOME)


async def test_a_mistyped_key_is_refused(world: KeyWorld) -> None:
    key = await world.create()
    text = world.shown[key.key_id]
    for wrong in (text[:-1] + "!", text[:-1], text + "0", "nonsense"):
        with pytest.raises(ApiKeyInvalid):
            await world.exchanges.exchange(wrong, client_address=HOME)
        world.clock.advance(1)


async def test_a_revoked_key_is_refused(world: KeyWorld) -> None:
    key = await world.create()
    await world.exchange(key)
    await world.revoke(key)
    world.clock.advance(1)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)


async def test_an_expired_key_is_refused_and_its_tokens_end_with_it(world: KeyWorld) -> None:
    key = await world.create(expires_at=EPOCH + timedelta(seconds=40))
    assert claims((await world.exchange(key)).token)["exp"] == EPOCH.timestamp() + 30
    world.clock.advance(30)
    assert claims((await world.exchange(key)).token)["exp"] == EPOCH.timestamp() + 40
    world.clock.advance(9.5)
    assert claims((await world.exchange(key)).token)["exp"] == EPOCH.timestamp() + 40
    world.clock.advance(0.5)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)


@pytest.mark.parametrize("prefix", ["pmsk_live_", "pmrk_test_", "pmpk_test_"])
async def test_a_key_of_another_kind_or_mode_is_refused(world: KeyWorld, prefix: str) -> None:
    key = await world.create()
    with pytest.raises(ApiKeyInvalid):
        await world.exchanges.exchange_digest(
            key_sha256(world.shown[key.key_id]), prefix=prefix, client_address=HOME
        )


async def test_a_key_from_a_forbidden_address_is_refused(world: KeyWorld) -> None:
    key = await world.create(addresses=["203.0.113.0/24"])
    assert await world.exchange(key)
    for address in (AWAY, "", "nonsense"):
        with pytest.raises(ApiKeyInvalid):
            await world.exchange(key, address=address)


async def test_a_suspended_merchants_key_works_on_because_money_can_go_back(
    world: KeyWorld,
) -> None:
    key = await world.create()
    await world.become("acme_test", MerchantState.SUSPENDED)
    assert await world.exchange(key)


async def test_a_closed_merchants_keys_have_ended(world: KeyWorld) -> None:
    key = await world.create()
    await world.become("acme_test", MerchantState.CLOSED)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)


async def test_an_old_pepper_still_finds_its_keys(database_url: str) -> None:
    old = {"1": PEPPERS["1"]}
    async with key_world(database_url, peppers=old) as world:
        key = await world.create()
        world.exchanges._peppers = Peppers(PEPPERS)
        assert await world.exchange(key)
        # at once: what is remembered is found by the digest of today's peppers
        world.exchanges._peppers = Peppers({"2": PEPPERS["2"]})
        with pytest.raises(ApiKeyInvalid):
            await world.exchange(key)


async def test_one_address_shows_so_many_keys_in_a_second(world: KeyWorld) -> None:
    key = await world.create()
    for _ in range(ATTEMPTS_PER_SECOND):
        await world.exchange(key)
    with pytest.raises(LoginDelayed) as refusal:
        await world.exchange(key)
    assert refusal.value.retry_after_seconds
    assert await world.exchange(key, address=AWAY)
    world.clock.advance(1)
    assert await world.exchange(key)


async def test_exchanges_that_come_at_once_each_get_their_own(world: KeyWorld) -> None:
    keys = [await world.create() for _ in range(20)]
    await world.revoke(keys[3])
    tokens = await asyncio.gather(
        *(world.exchange(key, address=f"10.0.0.{number}") for number, key in enumerate(keys)),
        return_exceptions=True,
    )
    for number, (key, token) in enumerate(zip(keys, tokens, strict=True)):
        if number == 3:
            assert isinstance(token, ApiKeyInvalid)
        else:
            assert claims(token.token)["sub"] == f"key:{key.key_id}"  # type: ignore[union-attr]


async def test_every_server_believes_a_token_for_a_minute_at_most(world: KeyWorld) -> None:
    """30 seconds of its life, and 30 seconds by which clocks may differ; also where a key that is
    remembered was exchanged once more after it was revoked.
    """
    key = await world.create(kind=ApiKeyKind.RESTRICTED, scopes=["payments:write"])
    await world.exchange(key)
    await world.revoke(key)
    world.clock.advance(0.9)
    token = (await world.exchange(key)).token
    world.clock.advance(-0.9)

    def seconds() -> float:
        return (world.clock.now() - EPOCH).total_seconds()

    server = UserTokens(
        {},
        own_keys={"merchant_rpc": Key("EdDSA", SIGNING_KEY.public_key())},
        clock=world.clock,
        issuer="paymesh",
        monotonic=seconds,
    )
    world.clock.advance(59)
    said = server.verify(token)
    assert said.roles == {Role.MERCHANT}
    assert said.callers[Role.MERCHANT].scopes == frozenset({"payments:write", "payments:read"})
    world.clock.advance(1)
    with pytest.raises(TokenExpired):
        server.verify(token)


async def test_what_was_revoked_is_listed_for_five_minutes(world: KeyWorld) -> None:
    keys = [await world.create() for _ in range(3)]
    await world.revoke(keys[0])
    world.clock.advance(299)
    await world.rotate(keys[1])
    subjects, _ = await world.exchanges.list_revocations()
    assert sorted(subjects) == [f"key:{keys[0].key_id}", f"key:{keys[1].key_id}"]
    world.clock.advance(2)
    subjects, _ = await world.exchanges.list_revocations()
    assert subjects == [f"key:{keys[1].key_id}"]


async def test_merchants_that_were_suspended_or_closed_are_listed(world: KeyWorld) -> None:
    assert (await world.exchanges.list_revocations())[1] == []
    await world.become("acme_test", MerchantState.SUSPENDED)
    await world.become("shop_test", MerchantState.CLOSED)
    _, merchant_ids = await world.exchanges.list_revocations()
    assert sorted(merchant_ids) == ["acme_test", "shop_test"]


async def test_the_last_use_is_written_in_the_background_once_a_minute(world: KeyWorld) -> None:
    key = await world.create()
    await world.exchange(key)
    assert (await world.keys_of())[0].last_used_at is None
    assert await world.exchanges.write_uses_once() == 1
    [used] = await world.keys_of()
    assert (used.last_used_at, used.last_used_address) == (EPOCH, HOME)
    world.clock.advance(59)
    await world.exchange(key, address=AWAY)
    assert await world.exchanges.write_uses_once() == 0
    world.clock.advance(1)
    await world.exchange(key, address=AWAY)
    assert await world.exchanges.write_uses_once() == 1
    [used] = await world.keys_of()
    assert (used.last_used_at, used.last_used_address) == (EPOCH + timedelta(minutes=1), AWAY)
    await world.exchange(key)
    assert await world.exchanges.write_uses_once() == 0


async def test_the_last_use_moves_forward_alone(world: KeyWorld) -> None:
    key = await world.create()
    await world.exchange(key)
    await world.exchanges.write_uses_once()
    world.clock.advance(-120)
    world.exchanges._uses[key.key_id] = KeyUse(
        key_id=key.key_id, address=AWAY, used_at=world.clock.now()
    )
    await world.exchanges.write_uses_once()
    assert (await world.keys_of())[0].last_used_address == HOME


async def test_a_refused_key_was_not_used(world: KeyWorld) -> None:
    key = await world.create(addresses=["10.0.0.1"])
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)
    assert await world.exchanges.write_uses_once() == 0


async def test_uses_that_wait_have_an_end(world: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_exchanges, "USES_MAX", 2)
    for number in range(4):
        await world.exchange(await world.create(), address=f"10.0.0.{number}")
    assert await world.exchanges.write_uses_once() == 2


async def test_a_merchant_that_counts_in_minor_units_says_so_in_its_tokens(
    world: KeyWorld,
) -> None:
    key = await world.create()
    for version, body, expected in (
        (1, '{"late_money": "ALWAYS_REFUND", "integer_amounts": "MINOR"}', "minor"),
        (2, '{"return_urls": ["https://acme.example/"]}', None),
    ):
        await world.set_settings("acme_test", version, body)
        world.clock.advance(1)
        assert claims((await world.exchange(key)).token).get("amounts") == expected
