"""MariaDB behind a line that loses things, on the loop of production and on asyncio's: what may have been committed is told apart from what was
not, no deadline is missed, all of it heals."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.db import Database, open_database
from mesh.errors import InvalidArgument, OutcomeUnknown, Unavailable
from tests.fault_proxy import FaultProxy, Loss, fault_proxy
from tests.integration.test_db_transactions import accounts, metadata, open_account, opened
from tests.servers import MariaDB

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

UNIT_SECONDS = 0.5
PATIENCE_SECONDS = 3.0  # far below what a hung driver takes, far above a unit on a busy machine
COMMIT = b"\x03COMMIT"
Run = Callable[..., Awaitable[Any]]


def interrupted(code: int) -> bytes:
    """The packet with which a server says that a statement was interrupted."""
    content = b"\xff" + struct.pack("<H", code) + b"#70100Query execution was interrupted"
    return len(content).to_bytes(3, "little") + b"\x01" + content


@asynccontextmanager
async def behind(proxy: FaultProxy, url: str, **options: Any) -> AsyncIterator[Database]:
    """A database behind a proxy, with warm connections for writing and reading."""
    host, _, rest = url.rpartition("@")
    db = open_database(f"{host}@127.0.0.1:{proxy.port}/{rest.partition('/')[2]}", metadata, **{"unit_timeout_seconds": UNIT_SECONDS, **options})
    try:
        await db.run(ping)
        await db.read(ping)
        yield db
    finally:
        proxy.thaw()
        await db.close()


@pytest.fixture
async def direct(mariadb_url_factory: Callable[[], str]) -> AsyncIterator[tuple[Database, str]]:
    """The database without the proxy, to look at what happened; and its URL."""
    url = mariadb_url_factory()
    async with opened(url) as db:
        yield db, url


@pytest.fixture(params=["RST", "FIN"])
async def proxy(request: pytest.FixtureRequest, mariadb_server: MariaDB) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(mariadb_server.port) as proxy:
        proxy.breaks_by_reset = request.param == "RST"
        yield proxy


@pytest.fixture
async def db(direct: tuple[Database, str], proxy: FaultProxy) -> AsyncIterator[Database]:
    async with behind(proxy, direct[1]) as db:
        yield db


async def ping(tx: AsyncConnection) -> int:
    return int((await tx.execute(text("SELECT 1"))).scalar_one())


def counted(work: Callable[[AsyncConnection], Awaitable[None]]) -> tuple[Callable[[AsyncConnection], Awaitable[None]], list[int]]:
    runs: list[int] = []

    async def run(tx: AsyncConnection) -> None:
        runs.append(1)
        await work(tx)
    return run, runs


async def in_time(call: Awaitable[Any], *, units: float = 1) -> Any:
    """Awaits a call that has to end with its deadline."""
    started = monotonic()
    try:
        return await asyncio.wait_for(call, units * UNIT_SECONDS + PATIENCE_SECONDS)
    finally:
        assert monotonic() - started < units * UNIT_SECONDS + PATIENCE_SECONDS


@pytest.mark.parametrize(("loss", "is_there"), [(Loss.ANSWER, True), (Loss.ANSWER_SILENTLY, True), (Loss.REQUEST, False)])
async def test_a_commit_without_an_answer_is_unknown_and_not_repeated(direct: tuple[Database, str], proxy: FaultProxy, db: Database, *, loss: Loss,
                                                                     is_there: bool) -> None:
    work, runs = counted(open_account)
    proxy.lose(COMMIT, loss)
    with pytest.raises(OutcomeUnknown):
        await in_time(db.run(work))
    assert proxy.has_struck
    assert len(runs) == 1
    assert await accounts(direct[0]) == (["a"] if is_there else [])
    await db.run(open_account, "b")  # the connection that nobody understands any more is gone


@pytest.mark.parametrize("code", [1317, 1969, 3024, 1180])
async def test_an_interrupted_commit_is_unknown_and_not_repeated(direct: tuple[Database, str], proxy: FaultProxy, db: Database, code: int) -> None:
    work, runs = counted(open_account)
    proxy.answer_instead(COMMIT, interrupted(code))
    with pytest.raises(OutcomeUnknown):
        await in_time(db.run(work))
    assert (len(runs), await accounts(direct[0])) == (1, ["a"])


@pytest.mark.parametrize("code", [1213, 1205, 1020])
async def test_a_commit_that_is_refused_for_a_race_runs_again(direct: tuple[Database, str], proxy: FaultProxy, db: Database, code: int) -> None:
    names = iter(("a", "b"))
    work, runs = counted(lambda tx: open_account(tx, next(names)))
    proxy.answer_instead(COMMIT, interrupted(code))
    await in_time(db.run(work), units=2)
    assert len(runs) == 2


async def test_a_connection_that_breaks_before_the_commit_costs_nothing(direct: tuple[Database, str], proxy: FaultProxy, db: Database) -> None:
    work, runs = counted(open_account)
    proxy.lose(b"INSERT INTO account", Loss.ANSWER)
    await in_time(db.run(work), units=2)
    assert (len(runs), await accounts(direct[0])) == (2, ["a"])


async def test_connections_that_died_while_they_were_idle_are_replaced(proxy: FaultProxy, db: Database) -> None:
    for run in (db.run, db.read):
        proxy.cut()
        assert await in_time(run(ping), units=2) == 1


async def test_a_read_is_repeated_once_and_no_more(proxy: FaultProxy, db: Database) -> None:
    proxy.lose(b"SELECT 1", Loss.ANSWER)
    assert await in_time(db.read(ping), units=2) == 1
    proxy.lose(b"SELECT 1", Loss.ANSWER, times=2)
    with pytest.raises(Unavailable):
        await in_time(db.read(ping), units=2)
    assert await db.read(ping) == 1


async def test_a_frozen_line_ends_with_the_deadline_and_costs_no_connection(direct: tuple[Database, str], proxy: FaultProxy) -> None:
    async with behind(proxy, direct[1], pool_size=2) as db:
        proxy.freeze()
        for run in (db.run, db.run, db.run, db.read, db.read, db.read):  # more often than there are connections
            with pytest.raises(Unavailable):
                await in_time(run(ping), units=2)
        proxy.thaw()
        for run in (db.run, db.read):
            assert await in_time(run(ping)) == 1
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of the queue pool


async def refuse(tx: AsyncConnection) -> None:
    await open_account(tx)
    raise InvalidArgument.of("amount", "no")


async def test_a_line_that_freezes_between_a_refusal_and_its_rollback_ends_with_the_deadline(direct: tuple[Database, str], proxy: FaultProxy) -> None:
    async with behind(proxy, direct[1], pool_size=2) as db:
        async def refuse_and_freeze(tx: AsyncConnection) -> None:
            proxy.freeze()
            raise InvalidArgument.of("amount", "no")
        for _ in range(3):
            with pytest.raises((Unavailable, InvalidArgument)):
                await in_time(db.run(refuse_and_freeze))
            proxy.thaw()
            assert await in_time(db.run(ping)) == 1
    assert await accounts(direct[0]) == []


async def test_a_commit_is_the_last_thing_that_a_transaction_waits_for(proxy: FaultProxy, db: Database) -> None:
    """No ROLLBACK follows it: that would be a trip to the server for nothing, and one more chance to hang."""
    proxy.lose(b"ROLLBACK", Loss.ANSWER_SILENTLY)
    for _ in range(3):
        await in_time(db.run(ping))
    assert not proxy.has_struck
    with pytest.raises((InvalidArgument, Unavailable)):
        await in_time(db.run(refuse))
    assert proxy.has_struck


async def test_a_connection_returns_clean_after_a_refusal(direct: tuple[Database, str], proxy: FaultProxy) -> None:
    async with behind(proxy, direct[1], pool_size=1) as db:
        with pytest.raises(InvalidArgument):
            await db.run(refuse)
        await db.run(ping)  # commits on the same connection
        await direct[0].run(open_account)  # and no lock is left
    assert await accounts(direct[0]) == ["a"]


async def test_a_server_that_refuses_connections_is_unavailable_at_once(proxy: FaultProxy, db: Database) -> None:
    proxy.refuse()
    for run in (db.run, db.read):
        with pytest.raises(Unavailable):
            await in_time(run(ping), units=2)
    proxy.refuse(refuses=False)
    for run in (db.run, db.read):
        assert await in_time(run(ping), units=2) == 1


async def test_a_killed_server_that_comes_back_is_used_again_without_help(own_mariadb: MariaDB) -> None:
    async with opened(own_mariadb.create_database(), pool_size=4) as db:
        await asyncio.gather(*(db.run(open_account, f"a{number}") for number in range(8)))
        await asyncio.gather(*(db.read(ping) for _ in range(8)))
        inside = asyncio.Event()

        async def caught(tx: AsyncConnection) -> None:
            await open_account(tx, "caught")
            inside.set()
            await tx.execute(text("SELECT SLEEP(30)"))
        running = asyncio.create_task(db.run(caught))
        await asyncio.wait_for(inside.wait(), 5)
        own_mariadb.kill()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(running, 10)
        for run in (db.run, db.read):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(run(ping), 10)
        own_mariadb.start()
        results = await asyncio.wait_for(asyncio.gather(*(run(ping) for run in (db.run, db.read) for _ in range(8))), 20)
        assert results == [1] * 16
        assert await accounts(db) == [f"a{number}" for number in range(8)]
