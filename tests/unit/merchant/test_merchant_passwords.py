"""Passwords: what is hashed, what fits, and how many may be at work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from merchant_rpc.domain.errors import LoginDelayed
from merchant_rpc.passwords import Passwords

GOOD = "correct horse battery"


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(memory_kib=64, rounds=1, lanes=1, waiting_max=1)
    yield made
    await made.close()


async def test_a_password_fits_its_hash_and_no_other(passwords: Passwords) -> None:
    hashed = await passwords.hash(GOOD)

    assert hashed.startswith("$argon2id$")
    assert GOOD not in hashed
    assert await passwords.verify(hashed, GOOD)
    for other in ("", GOOD + " ", GOOD.upper(), GOOD[:-1], "nobody has this password"):
        assert not await passwords.verify(hashed, other)


async def test_two_hashes_of_one_password_differ(passwords: Passwords) -> None:
    assert await passwords.hash(GOOD) != await passwords.hash(GOOD)


async def test_a_password_is_the_same_however_a_keyboard_composes_its_letters(
    passwords: Passwords,
) -> None:
    assert await passwords.verify(
        await passwords.hash("caf\u00e9 caf\u00e9"), "cafe\u0301 cafe\u0301"
    )


async def test_without_an_account_no_password_fits_and_a_hash_is_computed_all_the_same(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    fits = passwords._fits

    def count(*of: Any) -> bool:
        computed.append(of)
        return fits(*of)

    monkeypatch.setattr(passwords, "_fits", count)

    for no_account in (None, ""):
        assert not await passwords.verify(no_account, "nobody has this password")

    assert len(computed) == 2


@pytest.mark.parametrize("stored", ["x", "$argon2id$broken", "$2b$12$abcdefghijklmnopqrstuv"])
async def test_what_is_no_hash_fits_nothing(passwords: Passwords, stored: str) -> None:
    assert not await passwords.verify(stored, GOOD)


async def test_a_hash_is_outdated_when_the_parameters_have_changed(passwords: Passwords) -> None:
    stronger = Passwords(memory_kib=128, rounds=1, lanes=1)
    hashed = await passwords.hash(GOOD)

    assert not passwords.is_outdated(hashed)
    assert stronger.is_outdated(hashed)
    assert await stronger.verify(hashed, GOOD)
    await stronger.close()


async def test_two_run_one_waits_and_the_next_is_told_to_come_again(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, go = [], [], threading.Event()

    def slow(*_: str) -> bool:
        running.append(1)
        most.append(len(running))
        go.wait(10)
        running.pop()
        return True

    monkeypatch.setattr(passwords, "_fits", slow)
    admitted = [asyncio.create_task(passwords.verify("x", GOOD)) for _ in range(3)]
    await asyncio.sleep(0)

    with pytest.raises(LoginDelayed) as refused:
        await passwords.verify("x", GOOD)
    assert refused.value.retry_after_seconds == 1
    with pytest.raises(LoginDelayed):
        await passwords.hash(GOOD)

    go.set()
    assert await asyncio.gather(*admitted) == [True, True, True]
    assert max(most) <= 2
    assert await passwords.verify("x", GOOD)  # there is room again


async def test_a_call_that_stops_waiting_leaves_its_place_only_when_its_hash_has_ended(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Barrier(3), threading.Event()

    def slow(*_: str) -> bool:
        begun.wait(10)
        go.wait(10)
        return True

    monkeypatch.setattr(passwords, "_fits", slow)
    two = [asyncio.create_task(passwords.verify("x", GOOD)) for _ in range(2)]
    await asyncio.to_thread(begun.wait, 10)
    for task in two:
        task.cancel()
    await asyncio.gather(*two, return_exceptions=True)
    waiting = asyncio.create_task(passwords.hash(GOOD))
    await asyncio.sleep(0)

    with pytest.raises(LoginDelayed):
        await passwords.hash(GOOD)

    go.set()
    assert (await waiting).startswith("$argon2id$")


async def test_after_the_end_nothing_is_hashed() -> None:
    closed = Passwords(memory_kib=64, rounds=1, lanes=1)
    await closed.close()
    with pytest.raises(LoginDelayed):
        await closed.hash(GOOD)
