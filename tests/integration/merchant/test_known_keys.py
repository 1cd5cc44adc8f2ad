"""Keys that were exchanged of late ask the database nothing, and are known as they were within the
last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from merchant_rpc.domain.errors import ApiKeyInvalid
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.store import api_keys
from merchant_rpc.usecases import known_keys
from merchant_rpc.usecases.known_keys import KEEP_SECONDS
from mesh.errors import Unavailable
from tests.builders.merchant_keys import KeyWorld, exchanges_of, key_world

Counts = dict[str, int]


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[KeyWorld]:
    async with key_world(database_url) as world:
        yield world


@pytest.fixture
def asked(world: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """How often the database was asked for keys, and for what changed."""
    counts = {"find": 0, "changed_since": 0}

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(api_keys, name)

        async def count(*args: Any) -> Any:
            counts[name] += 1
            return await real(*args)

        return count

    for name in counts:
        monkeypatch.setattr(api_keys, name, counted(name))
    return counts


def break_database(world: KeyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_args: Any) -> Any:
        raise Unavailable("the database is unavailable")

    monkeypatch.setattr(world.db, "read", away)


async def test_a_key_that_was_just_exchanged_asks_nothing(world: KeyWorld, asked: Counts) -> None:
    key = await world.create()
    for _ in range(3):
        await world.exchange(key)
    assert asked == {"find": 1, "changed_since": 1}


async def test_what_changed_is_asked_once_a_second(world: KeyWorld, asked: Counts) -> None:
    keys = [await world.create() for _ in range(3)]
    for _ in range(4):
        for number, key in enumerate(keys):
            await world.exchange(key, address=f"10.0.0.{number}")
        world.clock.advance(0.5)
    assert asked == {"find": 3, "changed_since": 2}


async def test_exchanges_that_come_at_once_ask_once(world: KeyWorld, asked: Counts) -> None:
    keys = [await world.create() for _ in range(20)]
    await world.exchange(keys[0])
    world.clock.advance(1)
    await asyncio.gather(
        *(world.exchange(key, address=f"10.0.0.{number}") for number, key in enumerate(keys))
    )
    assert asked["changed_since"] == 2
    assert asked["find"] <= 3


async def test_a_key_that_is_revoked_elsewhere_is_refused_a_second_later(world: KeyWorld) -> None:
    for end in (world.revoke, world.rotate):
        key = await world.create()
        here = exchanges_of(world)
        await here.exchange(world.shown[key.key_id], client_address="10.0.0.1")
        await end(key)
        world.clock.advance(1)
        with pytest.raises(ApiKeyInvalid):
            await here.exchange(world.shown[key.key_id], client_address="10.0.0.1")


async def test_a_key_that_another_one_takes_over_from_ends_when_that_was_said(
    world: KeyWorld,
) -> None:
    key = await world.create()
    await world.exchange(key)
    await world.rotate(key, overlap=timedelta(minutes=6))
    for _ in range(6 * 60 - 1):
        world.clock.advance(1)
        assert await world.exchange(key)
    world.clock.advance(1)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)


async def test_a_merchant_that_changes_twice_is_seen_both_times(world: KeyWorld) -> None:
    key = await world.create()
    await world.become("acme_test", MerchantState.SUSPENDED)
    await world.exchange(key)
    world.clock.advance(1)
    await world.exchange(key)
    await world.become("acme_test", MerchantState.CLOSED)
    world.clock.advance(1)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)


async def test_a_remembered_key_expires_at_its_moment(world: KeyWorld) -> None:
    key = await world.create(expires_at=world.clock.now() + timedelta(seconds=0.5))
    await world.exchange(key)
    world.clock.advance(0.5)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key)


async def test_a_remembered_key_stays_bound_to_its_addresses(world: KeyWorld) -> None:
    key = await world.create(addresses=["203.0.113.0/24"])
    await world.exchange(key)
    with pytest.raises(ApiKeyInvalid):
        await world.exchange(key, address="198.51.100.9")


async def test_nothing_is_open_while_the_database_is_away(
    world: KeyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await world.create()
    await world.exchange(key)
    break_database(world, monkeypatch)
    world.clock.advance(1)
    with pytest.raises(Unavailable):
        await world.exchange(key)
    with pytest.raises(Unavailable):
        await world.exchange(key)
    monkeypatch.undo()
    assert await world.exchange(key)


async def test_an_unknown_key_is_not_remembered(world: KeyWorld, asked: Counts) -> None:
    key = await world.create()
    for _ in range(2):
        with pytest.raises(ApiKeyInvalid):
            await world.exchanges.exchange_digest(
                b"?" * 32, prefix="pmsk_test_", client_address="10.0.0.1"
            )
    assert asked["find"] == 2
    assert await world.exchange(key)


async def test_a_row_that_was_changed_by_hand_is_read_again_after_a_while(
    world: KeyWorld, asked: Counts
) -> None:
    key = await world.create()
    await world.exchange(key)
    world.clock.advance(KEEP_SECONDS - 1)
    await world.exchange(key)
    assert asked["find"] == 1
    world.clock.advance(1)
    await world.exchange(key)
    assert asked["find"] == 2


async def test_so_many_keys_are_remembered_and_the_one_read_first_goes(
    world: KeyWorld, asked: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_keys, "KEYS_MAX", 2)
    keys = [await world.create() for _ in range(3)]
    for key in keys:
        await world.exchange(key)
    asked["find"] = 0
    await world.exchange(keys[2])
    assert asked["find"] == 0
    await world.exchange(keys[0])
    assert asked["find"] == 1
