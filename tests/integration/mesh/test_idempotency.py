"""Idempotency keys and inboxes on real databases: the first call does the work, later ones get its
answer, and nobody meets a stranger's key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import idempotency, inbox
from mesh.db import ConstraintViolated, Database
from mesh.errors import IdempotencyKeyReused, RequestCanceled
from mesh.idempotency import (
    MONEY_RETENTION,
    PURGE_BATCH,
    RECEIPT,
    IdempotencyKey,
    IdempotencyRecord,
)
from mesh.inbox import INBOX
from tests.support.databases import create_tables, open_patiently
from tests.support.fakes import EPOCH

KEY = IdempotencyKey(merchant_id="mall", caller="mall/u1", method="Charge", key="k1")
FIRST = {"order_id": "ORD1", "amount": "100"}


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = open_patiently(database_url, RECEIPT.metadata)
    await create_tables(db.engine, RECEIPT.metadata)
    await create_tables(db.engine, INBOX.metadata)
    yield db
    await db.close()


async def claim(
    db: Database, key: IdempotencyKey = KEY, *, resource_id: str = "PAY1", **options: Any
) -> None:
    await db.run(
        idempotency.claim,
        key,
        **{"fingerprint": FIRST, "resource_id": resource_id, "now": EPOCH, **options},
    )


async def find(db: Database, key: IdempotencyKey = KEY, **changes: str) -> IdempotencyRecord | None:
    return await db.read(idempotency.find, key, fingerprint={**FIRST, **changes})


async def rows(db: Database) -> list[Any]:
    async def read(tx: AsyncConnection) -> list[Any]:
        return list((await tx.execute(select(RECEIPT).order_by(RECEIPT.c.idempotency_key))).all())

    return await db.read(read)


async def test_the_first_call_finds_nothing_and_the_next_one_what_it_began(db: Database) -> None:
    assert await find(db) is None
    await claim(db)
    assert await find(db) == IdempotencyRecord(resource_id="PAY1", answer=None)
    await db.run(idempotency.finish, resource_id="PAY1", answer="paid")
    assert await find(db) == IdempotencyRecord(resource_id="PAY1", answer="paid")


async def test_a_call_with_its_answer_at_hand_is_done_at_once(db: Database) -> None:
    await claim(db, answer="created")
    assert await find(db) == IdempotencyRecord(resource_id="PAY1", answer="created")


async def test_the_first_final_answer_stays(db: Database) -> None:
    await claim(db)
    for answer in ("declined", "paid after all"):
        await db.run(idempotency.finish, resource_id="PAY1", answer=answer)
    assert await find(db) == IdempotencyRecord(resource_id="PAY1", answer="declined")


async def test_an_answer_goes_to_every_key_of_the_row_and_to_no_other_row(db: Database) -> None:
    await claim(db)
    await claim(db, replace(KEY, key="k2"))
    await claim(db, replace(KEY, key="k3"), resource_id="PAY2")
    await db.run(idempotency.finish, resource_id="PAY1", answer="paid")
    assert [row.answer for row in await rows(db)] == ["paid", "paid", None]


async def test_another_request_with_the_key_is_refused_and_the_differing_fields_are_named(
    db: Database,
) -> None:
    await claim(db)
    several: list[dict[str, Any]] = [
        {"amount": "200"},
        {"amount": "200", "order_id": "ORD2"},
        {"currency": "USD"},
    ]
    for changes in several:
        with pytest.raises(IdempotencyKeyReused) as refused:
            await find(db, **changes)
        assert set(refused.value.fields) == set(changes)
        assert "200" not in str(refused.value.fields)


async def test_a_field_that_is_missing_differs_too(db: Database) -> None:
    await claim(db)
    with pytest.raises(IdempotencyKeyReused) as refused:
        await db.read(idempotency.find, KEY, fingerprint={"order_id": "ORD1"})
    assert list(refused.value.fields) == ["amount"]


async def test_a_key_belongs_to_its_merchant_caller_and_method(db: Database) -> None:
    await claim(db)
    for other in (
        {"merchant_id": "tea"},
        {"caller": "mall/u2"},
        {"caller": "tea/u1"},
        {"method": "CreatePayment"},
        {"key": "K1"},
    ):
        assert await find(db, replace(KEY, **other), amount="999") is None, other
        await claim(db, replace(KEY, **other), resource_id="PAY2")
        assert await find(db) == IdempotencyRecord(resource_id="PAY1", answer=None)


async def test_the_longest_key_fits(db: Database) -> None:
    longest = IdempotencyKey(
        merchant_id="m" * 32, caller="merchant:" + "u" * 64, method="M" * 64, key="~" * 255
    )
    await claim(db, longest)
    assert await find(db, longest) is not None


async def test_of_two_first_calls_at_once_one_works_and_the_other_finds_its_receipt(
    db: Database,
) -> None:
    both = asyncio.Barrier(2)
    worked: list[str] = []

    async def call(tx: AsyncConnection, name: str) -> str:
        record = await idempotency.find(tx, KEY, fingerprint=FIRST)
        if record is not None:
            return record.resource_id
        if tx.dialect.name == "mysql" and len(worked) < 2:
            worked.append(name)
            await both.wait()  # both have seen that they are first
        await idempotency.claim(tx, KEY, fingerprint=FIRST, resource_id=name, now=EPOCH)
        return name

    answers = await asyncio.wait_for(asyncio.gather(db.run(call, "PAY1"), db.run(call, "PAY2")), 10)
    assert len(set(answers)) == 1
    assert [row.resource_id for row in await rows(db)] == [answers[0]]


async def test_a_receipt_of_a_transaction_that_fails_was_never_there(db: Database) -> None:
    async def call(tx: AsyncConnection) -> None:
        await idempotency.claim(tx, KEY, fingerprint=FIRST, resource_id="PAY1", now=EPOCH)
        raise IdempotencyKeyReused

    with pytest.raises(IdempotencyKeyReused):
        await db.run(call)
    assert await find(db) is None


async def test_purging_takes_what_is_over_and_never_what_has_no_answer(db: Database) -> None:
    await claim(db, replace(KEY, key="done"), resource_id="PAY1")
    await db.run(idempotency.finish, resource_id="PAY1", answer="paid")
    await claim(db, replace(KEY, key="running"), resource_id="PAY2")
    await claim(
        db, replace(KEY, key="short"), resource_id="PAY3", answer="x", retention=timedelta(hours=24)
    )
    assert (
        await db.run(idempotency.purge, now=EPOCH + timedelta(hours=24) - timedelta(milliseconds=1))
        == 0
    )
    assert await db.run(idempotency.purge, now=EPOCH + timedelta(hours=24)) == 1
    assert await db.run(idempotency.purge, now=EPOCH + MONEY_RETENTION) == 1
    assert [row.idempotency_key for row in await rows(db)] == ["running"]


async def test_purging_goes_on_in_pieces_until_nothing_is_left(db: Database) -> None:
    async def fill(tx: AsyncConnection) -> None:
        for number in range(PURGE_BATCH + 5):
            await idempotency.claim(
                tx,
                replace(KEY, key=f"k{number}"),
                fingerprint={},
                resource_id="PAY1",
                now=EPOCH,
                answer="x",
            )

    await db.run(fill)
    assert [await db.run(idempotency.purge, now=EPOCH + MONEY_RETENTION) for _ in range(3)] == [
        PURGE_BATCH,
        5,
        0,
    ]


# Inbox


async def test_an_event_is_new_once_per_consumer(db: Database) -> None:
    async def handle(consumer: str, event_id: str) -> bool:
        return await db.run(inbox.first_time, consumer=consumer, event_id=event_id, now=EPOCH)

    events = [
        ("order_rpc", "EVT1"),
        ("order_rpc", "EVT1"),
        ("other", "EVT1"),
        ("order_rpc", "evt1"),
    ]
    assert [await handle(*event) for event in events] == [True, False, True, True]


async def test_of_twenty_deliveries_at_once_one_is_new(db: Database) -> None:
    effects = []

    async def handle(tx: AsyncConnection) -> bool:
        is_new = await inbox.first_time(tx, consumer="order_rpc", event_id="EVT1", now=EPOCH)
        effects.append(is_new)
        return is_new

    answers = await asyncio.wait_for(asyncio.gather(*(db.run(handle) for _ in range(20))), 20)
    assert sorted(answers) == [False] * 19 + [True]


async def test_an_event_whose_effect_failed_is_new_again(db: Database) -> None:
    async def handle(tx: AsyncConnection) -> None:
        assert await inbox.first_time(tx, consumer="order_rpc", event_id="EVT1", now=EPOCH)
        raise ConstraintViolated("uq_something")

    for _ in range(2):
        with pytest.raises(ConstraintViolated):
            await db.run(handle)


async def test_events_that_were_handled_are_forgotten_by_age(db: Database) -> None:
    for number in range(3):
        assert await db.run(
            inbox.first_time,
            consumer="c",
            event_id=f"EVT{number}",
            now=EPOCH + timedelta(days=number),
        )
    assert await db.run(inbox.purge, before=EPOCH + timedelta(days=2)) == 2
    assert not await db.run(inbox.first_time, consumer="c", event_id="EVT2", now=EPOCH)
    assert await db.run(inbox.first_time, consumer="c", event_id="EVT1", now=EPOCH)


async def test_a_key_that_was_taken_back_is_refused(db: Database) -> None:
    assert await db.run(idempotency.find_or_tombstone, KEY, now=EPOCH) is None
    with pytest.raises(RequestCanceled):
        await find(db)
    assert await find(db, replace(KEY, key="k2")) is None
