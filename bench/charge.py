"""Charge on MariaDB against a bare script with the same statements and commits, and against a
transaction of two statements.

The statements are those that a charge really sends: recorded once, then replayed on plain aiomysql
connections with fresh identifiers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter
from typing import Any

import aiomysql
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from bench.machine import median
from bench.payment_apps import payment_app
from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.db import Database, open_database
from mesh.ids import UlidIds
from mesh.money import Money, RequestedAmount
from payment_rpc.app import PaymentApp
from payment_rpc.channels.capabilities import Capabilities, Close, Instrument
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.tables import metadata
from payment_rpc.usecases.payment_requests import Charge

CONNECTIONS = 16
ROUNDS = 5
ROUND_SECONDS = 2.0
_BUYER = Caller(role=Role.USER, subject="user-1", merchant_id="mall")
# Identifiers and the hashes that are made of them, as they stand in recorded parameters.
_FRESH = re.compile(r"\b(?:PAY|ATT|ORD|EVT|TRD|key-)[0-9A-Z]{10,}|\b[0-9a-f]{64}\b")


class AcquirerOfCards:
    """A card acquirer that answers at once."""

    name = provider = "sandbox"
    capabilities = Capabilities(
        instruments=frozenset({Instrument.CARD}), currencies=None, close=Close.TOMBSTONE
    )

    async def charge(self, *, attempt_id: str, amount: Money, **_: Any) -> ChannelFact:
        return ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.CAPTURED,
            amount=amount,
            trade_no=attempt_id.replace("ATT", "TRD"),
        )


@dataclass
class Recording:
    """The statements of one charge: a list per transaction."""

    transactions: list[list[tuple[str, Any]]] = field(default_factory=list)
    current: list[tuple[str, Any]] = field(default_factory=list)

    def listen(self, db: Database) -> None:
        """Starts recording what every engine sends, and the commits of the writing one."""
        engine = db.engine.sync_engine
        event.listen(Engine, "before_cursor_execute", self._execute)
        event.listen(engine, "commit", self._commit)

    def stop(self, db: Database) -> None:
        """Stops recording."""
        engine = db.engine.sync_engine
        event.remove(Engine, "before_cursor_execute", self._execute)
        event.remove(engine, "commit", self._commit)

    def _execute(
        self,
        _connection: Any,
        _cursor: Any,
        statement: str,
        parameters: Any,
        _context: Any,
        _many: Any,
    ) -> None:
        self.current.append((statement, parameters))

    def _commit(self, _connection: Any) -> None:
        self.transactions.append(self.current)
        self.current = []


async def open_app(url: str, channels: Mapping[str, Any]) -> tuple[PaymentApp, Database, UlidIds]:
    """payment_rpc on a new database, without its network."""
    ids = UlidIds(SystemClock())
    db = open_database(url, metadata, pool_size=CONNECTIONS)
    async with db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    app = payment_app(db, ids=ids, channels=channels)
    return app, db, ids


async def charge_once(app: PaymentApp, ids: UlidIds) -> None:
    """One buyer pays a new order."""
    await app.payments.charge(
        Charge(
            merchant_id="mall",
            order_id=ids.new("ORD"),
            user_id="user-1",
            amount=RequestedAmount("99.99"),
            payment_method="",
            number="4242424242424242",
            cvv="123",
            expiration_year=2040,
            expiration_month=12,
            key=ids.new("key-"),
        ),
        _BUYER,
    )


async def measure(url: str) -> tuple[dict[str, float], int, int]:
    """Charges, replays and two-statement transactions per second; statements and commits of one
    charge.
    """
    app, db, ids = await open_app(url, {"sandbox": AcquirerOfCards()})

    async def charge() -> None:
        await charge_once(app, ids)

    recording = Recording()
    await charge()
    recording.listen(db)
    await charge()
    recording.stop(db)
    parts = make_url(url)
    pool = await aiomysql.create_pool(
        host=parts.host,
        port=parts.port,
        user=parts.username,
        password=parts.password or "",
        db=parts.database,
        minsize=CONNECTIONS,
        maxsize=CONNECTIONS,
        charset="utf8mb4",
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )
    rates = await _in_turn(
        {
            "charge": charge,
            "same statements": _replay(pool, recording),
            "two statements": await _two_statements(pool),
        }
    )
    pool.terminate()
    await pool.wait_closed()
    await db.close()
    return (
        rates,
        sum(len(transaction) for transaction in recording.transactions),
        len(recording.transactions),
    )


async def _in_turn(kinds: dict[str, Callable[[], Awaitable[None]]]) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for round_number in range(ROUNDS + 1):
        for name, work in kinds.items():
            rate = await _rate(work)
            if round_number:
                rates[name].append(rate)
    return {name: median(values) for name, values in rates.items()}


async def _rate(work: Callable[[], Awaitable[None]]) -> float:
    begin = perf_counter()
    done = 0

    async def loop() -> None:
        nonlocal done
        while perf_counter() < begin + ROUND_SECONDS:
            await work()
            done += 1

    await asyncio.gather(*(loop() for _ in range(CONNECTIONS)))
    return done / (perf_counter() - begin)


def _replay(pool: Any, recording: Recording) -> Callable[[], Awaitable[None]]:
    numbers = count(1)

    async def replay() -> None:
        number = next(numbers)
        names: dict[str, str] = {}

        def fresh(found: re.Match[str]) -> str:
            old = found[0]
            return names.setdefault(old, f"{number:0{len(old) - 4}X}{len(names):04X}"[: len(old)])

        for transaction in recording.transactions:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                for statement, parameters in transaction:
                    await _execute(cursor, statement, parameters, fresh)
                await connection.commit()

    return replay


async def _execute(
    cursor: Any, statement: str, parameters: Any, fresh: Callable[[re.Match[str]], str]
) -> None:
    def renew(value: Any) -> Any:
        return _FRESH.sub(fresh, value) if isinstance(value, str) else value

    if parameters and isinstance(parameters[0], (tuple, list)):
        await cursor.executemany(statement, [tuple(map(renew, row)) for row in parameters])
    else:
        await cursor.execute(statement, tuple(map(renew, parameters)))
    if cursor.description:
        await cursor.fetchall()


async def _two_statements(pool: Any) -> Callable[[], Awaitable[None]]:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(
            "CREATE TABLE two_statements (id BIGINT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(64), b "
            "BIGINT)"
        )
        await connection.commit()
    numbers = count(1)

    async def transaction() -> None:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(
                "INSERT INTO two_statements (a, b) VALUES (%s, %s)", ("x" * 32, next(numbers))
            )
            await cursor.execute(
                "UPDATE two_statements SET b = b + 1 WHERE id = %s", (cursor.lastrowid,)
            )
            await connection.commit()

    return transaction
