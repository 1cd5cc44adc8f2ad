"""The sandbox's file: its own guards, each without the domain in front of it."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mesh.money import Money
from sandbox import store
from sandbox.domain import CAPTURED, Kind, OutcomeDiffers, Status, Transaction
from sandbox.server import listen
from sandbox.store import Store, Tx

NOW = datetime(2026, 11, 20, 12, 0, 0, 123_000, tzinfo=UTC)
OPEN = Transaction(attempt_id="ATT1", kind=Kind.CHECKOUT, trade_no="SBX1", status=Status.PENDING, amount=Money(9999, "CNY"), created_at=NOW,
                   expires_at=NOW + timedelta(minutes=30), subject="Order", return_url="http://shop.test", cashier_token="token")


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Store]:
    file = Store(tmp_path / "deep" / "sandbox.db")
    await file.open()
    yield file
    await file.close()


@pytest.mark.parametrize("transaction", [
    OPEN, OPEN.finish(CAPTURED, at=NOW),
    Transaction(attempt_id="ATT1", kind=Kind.TOMBSTONE, trade_no="SBX1", status=Status.CLOSED, amount=None, created_at=NOW, finished_at=NOW),
    Transaction(attempt_id="ATT1", kind=Kind.CHARGE, trade_no="SBX1", status=Status.FAILED, amount=Money(1, "JPY"), created_at=NOW, finished_at=NOW,
                decline_code="processing_error", message="m", card_brand="visa", card_last4="0119"),
])
async def test_what_is_written_is_read_back(opened: Store, transaction: Transaction) -> None:
    await opened.run(store.insert, transaction)
    assert await opened.run(store.find, "ATT1") == transaction
    assert await opened.run(store.list_transactions, after=0, limit=10) == [(1, transaction)]


async def test_two_outcomes_of_one_transaction_are_refused_by_the_update_itself(opened: Store) -> None:
    await opened.run(store.insert, OPEN)
    paid = OPEN.finish(CAPTURED, at=NOW)
    await opened.run(store.save_outcome, paid)
    with pytest.raises(OutcomeDiffers):
        await opened.run(store.save_outcome, replace(paid, status=Status.CLOSED))
    assert await opened.run(store.find, "ATT1") == paid


@pytest.mark.parametrize("change", [
    {"trade_no": "SBX2", "cashier_token": "other"},                       # the same attempt id
    {"attempt_id": "ATT2", "cashier_token": "other"},                     # the same trade number
    {"attempt_id": "ATT2", "trade_no": "SBX2"},                           # the same cashier address
    {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "status": Status.CAPTURED},       # ended, but when?
    {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "finished_at": NOW},              # open, but ended
    {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "amount": None},                  # about nothing
    {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "amount": Money(0, "CNY")},
    {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "amount": None, "kind": Kind.TOMBSTONE},  # a tombstone that is open
    {"attempt_id": "ATT2", "trade_no": "SBX2", "cashier_token": "other", "card_last4": "4242424242424242"},        # a whole card number
])
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
    await opened.run(store.insert, replace(OPEN, attempt_id="ATT2", trade_no="SBX2", cashier_token="other"))  # the next one is not blocked


async def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    file = Store(tmp_path / "sandbox.db")
    with pytest.raises(RuntimeError, match="not open"):
        await file.run(store.find, "ATT1")
    await file.close()


def test_connections_inherit_immediate_sending() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert client.getpeername() == listener.getsockname()
