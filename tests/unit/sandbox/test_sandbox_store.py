"""The sandbox's file: its own guards, each without the domain in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mesh.money import Money
from sandbox import refund_store, schema, store
from sandbox.domain import CAPTURED, Kind, OutcomeDiffers, Refund, RefundStatus, Status, Transaction
from sandbox.server import listen
from sandbox.store import Store, Tx

NOW = datetime(2026, 11, 20, 12, 0, 0, 123_000, tzinfo=UTC)
OPEN = Transaction(
    attempt_id="ATT1",
    kind=Kind.CHECKOUT,
    trade_no="SBX1",
    status=Status.PENDING,
    amount=Money(9999, "CNY"),
    created_at=NOW,
    expires_at=NOW + timedelta(minutes=30),
    subject="Order",
    return_url="http://shop.test",
    cashier_token="token",
    merchant_name="Ümlaut & Söhne",
    description="two lamps",
)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Store]:
    file = Store(tmp_path / "deep" / "sandbox.db")
    await file.open()
    yield file
    await file.close()


@pytest.mark.parametrize(
    "transaction",
    [
        OPEN,
        OPEN.finish(CAPTURED, at=NOW),
        Transaction(
            attempt_id="ATT1",
            kind=Kind.TOMBSTONE,
            trade_no="SBX1",
            status=Status.CLOSED,
            amount=None,
            created_at=NOW,
            finished_at=NOW,
        ),
        Transaction(
            attempt_id="ATT1",
            kind=Kind.CHARGE,
            trade_no="SBX1",
            status=Status.FAILED,
            amount=Money(1, "JPY"),
            created_at=NOW,
            finished_at=NOW,
            decline_code="processing_error",
            message="m",
            card_brand="visa",
            card_last4="0119",
        ),
    ],
)
async def test_what_is_written_is_read_back(opened: Store, transaction: Transaction) -> None:
    await opened.run(store.insert, transaction)
    assert await opened.run(store.find, "ATT1") == transaction
    assert await opened.run(store.list_transactions, after=0, limit=10) == [(1, transaction)]


async def test_two_outcomes_of_one_transaction_are_refused_by_the_update_itself(
    opened: Store,
) -> None:
    await opened.run(store.insert, OPEN)
    paid = OPEN.finish(CAPTURED, at=NOW)
    await opened.run(store.save_outcome, paid)
    with pytest.raises(OutcomeDiffers):
        await opened.run(store.save_outcome, replace(paid, status=Status.CLOSED))
    assert await opened.run(store.find, "ATT1") == paid


@pytest.mark.parametrize(
    "change",
    [
        {"trade_no": "SBX2", "cashier_token": "other"},  # the same attempt id
        {"attempt_id": "ATT2", "cashier_token": "other"},  # the same trade number
        {"attempt_id": "ATT2", "trade_no": "SBX2"},  # the same cashier address
        # ended, but when?
        {
            "attempt_id": "ATT2",
            "trade_no": "SBX2",
            "cashier_token": "other",
            "status": Status.CAPTURED,
        },
        # open, but ended
        {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "finished_at": NOW},
        # about nothing
        {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "amount": None},
        {
            "attempt_id": "ATT2",
            "trade_no": "SBX2",
            "cashier_token": "other",
            "amount": Money(0, "CNY"),
        },
        # a tombstone that is open
        {
            "attempt_id": "ATT2",
            "trade_no": "SBX2",
            "cashier_token": "other",
            "amount": None,
            "kind": Kind.TOMBSTONE,
        },
        # a whole card number
        {
            "attempt_id": "ATT2",
            "trade_no": "SBX2",
            "cashier_token": "other",
            "card_last4": "4242424242424242",
        },
    ],
)
async def test_the_table_refuses_what_must_not_be(opened: Store, change: dict[str, Any]) -> None:
    await opened.run(store.insert, OPEN)
    with pytest.raises(sqlite3.IntegrityError):
        await opened.run(store.insert, replace(OPEN, **change))
    assert await opened.run(store.list_transactions, after=0, limit=10) == [(1, OPEN)]


async def test_a_transaction_that_fails_halfway_leaves_nothing(opened: Store) -> None:
    def half(tx: Tx) -> None:
        store.insert(tx, OPEN)
        store.insert_delivery(tx, event_id="EVT1", body=b"{}", due_at=NOW)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        await opened.run(half)
    assert await opened.run(store.find, "ATT1") is None
    assert await opened.run(store.list_due_deliveries, now=NOW, limit=10) == []


async def test_a_cancelled_caller_does_not_tear_a_transaction(opened: Store) -> None:
    task = asyncio.create_task(opened.run(store.insert, OPEN))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await opened.run(store.find, "ATT1") in (None, OPEN)
    # the next one is not blocked
    await opened.run(
        store.insert, replace(OPEN, attempt_id="ATT2", trade_no="SBX2", cashier_token="other")
    )


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    file = Store(tmp_path / "sandbox.db")
    with pytest.raises(RuntimeError, match="not open"):
        await file.run(store.find, "ATT1")
    await file.close()


def test_connections_inherit_immediate_sending() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert client.getpeername() == listener.getsockname()


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(schema.SCHEMA)
        old.execute(
            "INSERT INTO transactions (attempt_id, kind, trade_no, status, amount_minor, "
            "currency, created_ms, finished_ms, decline_code, "
            "message, card_brand, card_last4, subject, return_url) VALUES ('ATT1', 'CHARGE', "
            "'SBX1', 'CAPTURED', 9999, 'CNY', 1, 2, '', '', "
            "'visa', '4242', '', '')"
        )
        old.commit()
    for _ in range(2):  # the second time there is nothing to do
        file = Store(path)
        await file.open()
        found = await file.run(store.find, "ATT1")
        assert found is not None
        assert (found.captured, found.fee) == (Money(9999, "CNY"), Money(0, "CNY"))
        assert (found.merchant_name, found.description) == ("", "")
        await file.close()


REFUND = Refund(
    refund_id="RF1",
    refund_no="SBR1",
    attempt_id="ATT1",
    amount=Money(100, "CNY"),
    reason="r",
    status=RefundStatus.PENDING,
    created_at=NOW,
)


@pytest.mark.parametrize(
    "refund",
    [
        REFUND,
        REFUND.to(RefundStatus.SUCCESS, at=NOW, fee_returned=Money(1, "CNY")),
        REFUND.to(RefundStatus.FAILED, at=NOW, code="refused", message="m"),
        REFUND.to(RefundStatus.SUCCESS, at=NOW, fee_returned=Money(1, "CNY")).to(
            RefundStatus.REVERSED, at=NOW, code="bounced"
        ),
    ],
)
async def test_a_refund_is_read_back_as_it_was_written(opened: Store, refund: Refund) -> None:
    await opened.run(refund_store.insert_refund, refund)
    assert await opened.run(refund_store.find_refund, "RF1") == refund


@pytest.mark.parametrize(
    "change",
    [
        {"refund_no": "SBR2"},
        {"refund_id": "RF2"},
        {"refund_id": "RF2", "refund_no": "SBR2", "amount": Money(0, "CNY")},
        # gone, but when?
        {"refund_id": "RF2", "refund_no": "SBR2", "status": RefundStatus.SUCCESS},
        # gone, and its fee?
        {
            "refund_id": "RF2",
            "refund_no": "SBR2",
            "status": RefundStatus.SUCCESS,
            "finished_at": NOW,
        },
        # not gone, but its fee
        {"refund_id": "RF2", "refund_no": "SBR2", "fee_returned": Money(1, "CNY")},
        {"refund_id": "RF2", "refund_no": "SBR2", "reversed_at": NOW},
    ],
)
async def test_the_table_refuses_refunds_that_must_not_be(
    opened: Store, change: dict[str, Any]
) -> None:
    await opened.run(refund_store.insert_refund, REFUND)
    with pytest.raises(sqlite3.IntegrityError):
        await opened.run(refund_store.insert_refund, replace(REFUND, **change))


async def test_two_steps_of_one_refund_are_refused_by_the_update_itself(opened: Store) -> None:
    await opened.run(refund_store.insert_refund, REFUND)
    done = REFUND.to(RefundStatus.SUCCESS, at=NOW, fee_returned=Money(0, "CNY"))
    await opened.run(refund_store.save_refund, done, before=RefundStatus.PENDING)
    with pytest.raises(OutcomeDiffers):
        await opened.run(
            refund_store.save_refund,
            REFUND.to(RefundStatus.FAILED, at=NOW),
            before=RefundStatus.PENDING,
        )


async def test_what_is_scheduled_happens_once_in_order_and_not_before(opened: Store) -> None:
    for what, seconds in (("B", 2), ("A", 1), ("A", 9), ("C", 3)):
        await opened.run(
            store.schedule, what=what, subject="ATT1", due_at=NOW + timedelta(seconds=seconds)
        )
    taken = [
        scheduled.what
        for scheduled in await opened.run(
            store.take_scheduled, now=NOW + timedelta(seconds=2), limit=10
        )
    ]
    assert taken == ["A", "B"]
    assert await opened.run(store.take_scheduled, now=NOW + timedelta(seconds=2), limit=10) == []
    assert [
        scheduled.what
        for scheduled in await opened.run(
            store.take_scheduled, now=NOW + timedelta(days=1), limit=10
        )
    ] == ["C"]
