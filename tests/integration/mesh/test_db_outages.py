"""MariaDB behind a line that loses things, on the loop of production and on asyncio's: what may
have been committed is told apart from what was not, no deadline is missed, all of it heals."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import quote

import pytest
from pymysql.err import OperationalError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mesh.db import Database, open_database
from mesh.db.mysql import MySQLConnection
from mesh.errors import InvalidArgument, OutcomeUnknown, Unavailable
from tests.support.accounts import accounts, metadata, open_account, opened
from tests.support.echo import eventually
from tests.support.fault_proxy import FaultProxy, Loss, fault_proxy
from tools.servers import MariaDB, server_folder

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

UNIT_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # far below what a hung driver takes, far above a unit on a busy machine
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
    db = open_database(
        f"{host}@127.0.0.1:{proxy.port}/{rest.partition('/')[2]}",
        metadata,
        **{"unit_timeout_seconds": UNIT_SECONDS, **options},
    )
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
async def proxy(
    request: pytest.FixtureRequest, mariadb_server: MariaDB
) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(mariadb_server.port) as proxy:
        proxy.breaks_by_reset = request.param == "RST"
        yield proxy


@pytest.fixture
async def db(direct: tuple[Database, str], proxy: FaultProxy) -> AsyncIterator[Database]:
    async with behind(proxy, direct[1]) as db:
        yield db


async def ping(tx: AsyncConnection) -> int:
    return int((await tx.execute(text("SELECT 1"))).scalar_one())


def counted(
    work: Callable[[AsyncConnection], Awaitable[None]],
) -> tuple[Callable[[AsyncConnection], Awaitable[None]], list[int]]:
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


@pytest.mark.parametrize(
    ("loss", "is_there"), [(Loss.ANSWER, True), (Loss.ANSWER_SILENTLY, True), (Loss.REQUEST, False)]
)
async def test_a_commit_without_an_answer_is_unknown_and_not_repeated(
    direct: tuple[Database, str], proxy: FaultProxy, db: Database, *, loss: Loss, is_there: bool
) -> None:
    work, runs = counted(open_account)
    proxy.lose(COMMIT, loss)
    with pytest.raises(OutcomeUnknown):
        await in_time(db.run(work))
    assert proxy.has_struck
    assert len(runs) == 1
    assert await accounts(direct[0]) == (["a"] if is_there else [])
    await db.run(open_account, "b")  # the connection that nobody understands any more is gone


@pytest.mark.parametrize("code", [1317, 1969, 3024, 1180])
async def test_an_interrupted_commit_is_unknown_and_not_repeated(
    direct: tuple[Database, str], proxy: FaultProxy, db: Database, code: int
) -> None:
    work, runs = counted(open_account)
    proxy.answer_instead(COMMIT, interrupted(code))
    with pytest.raises(OutcomeUnknown):
        await in_time(db.run(work))
    assert (len(runs), await accounts(direct[0])) == (1, ["a"])


@pytest.mark.parametrize("code", [1213, 1205, 1020])
async def test_a_commit_that_is_refused_for_a_race_runs_again(
    direct: tuple[Database, str], proxy: FaultProxy, db: Database, code: int
) -> None:
    names = iter(("a", "b"))
    work, runs = counted(lambda tx: open_account(tx, next(names)))
    proxy.answer_instead(COMMIT, interrupted(code))
    await in_time(db.run(work), units=2)
    assert len(runs) == 2


async def test_a_connection_that_breaks_before_the_commit_costs_nothing(
    direct: tuple[Database, str], proxy: FaultProxy, db: Database
) -> None:
    work, runs = counted(open_account)
    proxy.lose(b"INSERT INTO account", Loss.ANSWER)
    await in_time(db.run(work), units=2)
    assert (len(runs), await accounts(direct[0])) == (2, ["a"])


async def test_connections_that_died_while_they_were_idle_are_replaced(
    proxy: FaultProxy, db: Database
) -> None:
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


async def test_a_frozen_line_ends_with_the_deadline_and_costs_no_connection(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
    async with behind(proxy, direct[1], pool_size=2) as db:
        proxy.freeze()
        # more often than there are connections
        for run in (db.run, db.run, db.run, db.read, db.read, db.read):
            with pytest.raises(Unavailable):
                await in_time(run(ping), units=2)
        proxy.thaw()
        for run in (db.run, db.read):
            assert await in_time(run(ping)) == 1
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of the queue pool


async def refuse(tx: AsyncConnection) -> None:
    await open_account(tx)
    raise InvalidArgument.of("amount", "no")


async def test_a_line_that_freezes_between_a_refusal_and_its_rollback_ends_with_the_deadline(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
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


async def test_a_commit_is_the_last_thing_that_a_transaction_waits_for(
    proxy: FaultProxy, db: Database
) -> None:
    """No ROLLBACK follows it: that would be a trip to the server for nothing, and one more chance
    to hang.
    """
    proxy.lose(b"ROLLBACK", Loss.ANSWER_SILENTLY)
    for _ in range(3):
        await in_time(db.run(ping))
    assert not proxy.has_struck
    with pytest.raises((InvalidArgument, Unavailable)):
        await in_time(db.run(refuse))
    assert proxy.has_struck


async def test_a_connection_returns_clean_after_a_refusal(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
    async with behind(proxy, direct[1], pool_size=1) as db:
        with pytest.raises(InvalidArgument):
            await db.run(refuse)
        await db.run(ping)  # commits on the same connection
        await direct[0].run(open_account)  # and no lock is left
    assert await accounts(direct[0]) == ["a"]


async def test_a_server_that_refuses_connections_is_unavailable_at_once(
    proxy: FaultProxy, db: Database
) -> None:
    proxy.refuse()
    for run in (db.run, db.read):
        with pytest.raises(Unavailable):
            await in_time(run(ping), units=2)
    proxy.refuse(refuses=False)
    for run in (db.run, db.read):
        assert await in_time(run(ping), units=2) == 1


async def test_a_killed_server_that_comes_back_is_used_again_without_help(
    own_mariadb: MariaDB,
) -> None:
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
        results = await asyncio.wait_for(
            asyncio.gather(*(run(ping) for run in (db.run, db.read) for _ in range(8))), 20
        )
        assert results == [1] * 16
        assert await accounts(db) == [f"a{number}" for number in range(8)]


# What died while nobody looked, and what dies in the middle


async def warmed(db: Database, *, count: int) -> None:
    """So many connections of each pool, idle."""
    both = asyncio.Barrier(count)

    async def meet(tx: AsyncConnection) -> None:
        await ping(tx)
        await both.wait()

    for run in (db.run, db.read):
        await asyncio.gather(*(run(meet) for _ in range(count)))


def idle(db: Database) -> list[Any]:
    """The driver's connections in both pools."""
    pools: list[Any] = [engine.pool for engine in (db._writer, db._reader)]
    return [
        record.dbapi_connection.driver_connection
        for pool in pools
        for record in pool._pool._queue._queue
    ]


async def test_a_crowd_of_connections_that_died_while_they_were_idle_costs_no_unit(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
    async with behind(proxy, direct[1], pool_size=8, unit_timeout_seconds=5) as db:
        for _ in range(3):
            await warmed(db, count=8)
            proxy.cut()
            await eventually(lambda: not any(driver.is_alive for driver in idle(db)))
            with capture_logs() as logs:
                assert (
                    await asyncio.gather(
                        *(run(ping) for run in (db.run, db.read) for _ in range(16))
                    )
                    == [1] * 32
                )
            assert logs == [], "no unit had to run again"


async def test_a_connection_that_dies_inside_a_unit_costs_only_the_time(
    direct: tuple[Database, str], proxy: FaultProxy, db: Database
) -> None:
    dies = [True]

    async def dying(tx: AsyncConnection) -> None:
        await open_account(tx)
        if dies.pop():
            dies.append(False)
            proxy.cut()
            driver: Any = (await tx.get_raw_connection()).driver_connection
            await eventually(lambda: not driver.is_alive)
        await ping(tx)

    work, runs = counted(dying)
    await in_time(db.run(work), units=2)
    assert (len(runs), await accounts(direct[0])) == (2, ["a"])


async def test_a_connection_that_dies_right_before_the_commit_leaves_the_outcome_open(
    direct: tuple[Database, str], proxy: FaultProxy, db: Database
) -> None:
    async def dying(tx: AsyncConnection) -> None:
        await open_account(tx)
        proxy.cut()

    work, runs = counted(dying)
    with pytest.raises(OutcomeUnknown):
        await in_time(db.run(work))
    assert (len(runs), await accounts(direct[0])) == (1, [])
    assert await db.run(ping) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to perform operation on <TCPTransport closed=True>"),
        ConnectionResetError(),
        ValueError(),
    ],
    ids=repr,
)
async def test_whatever_a_driver_raises_during_a_commit_leaves_the_outcome_open(
    db: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def break_off(_: AsyncConnection) -> None:
        raise error

    work, runs = counted(open_account)
    with monkeypatch.context() as patched:
        patched.setattr(AsyncConnection, "commit", break_off)
        with pytest.raises(OutcomeUnknown):
            await db.run(work)
    assert len(runs) == 1
    assert await db.run(ping) == 1


async def test_a_rollback_that_fails_does_not_replace_what_went_wrong_first(
    proxy: FaultProxy, db: Database
) -> None:
    async def refuse_on_a_dead_line(tx: AsyncConnection) -> None:
        await open_account(tx)
        proxy.cut()
        raise InvalidArgument.of("amount", "no")

    with pytest.raises(InvalidArgument):
        await in_time(db.run(refuse_on_a_dead_line))
    proxy.lose(b"ROLLBACK", Loss.ANSWER_SILENTLY)
    with pytest.raises(InvalidArgument):
        await in_time(db.run(refuse), units=2)
    assert proxy.has_struck
    assert await db.run(ping) == 1


@pytest.mark.parametrize("is_writing", [True, False])
async def test_connections_that_a_middlebox_forgot_cost_one_deadline_and_not_one_each(
    direct: tuple[Database, str], proxy: FaultProxy, *, is_writing: bool
) -> None:
    async with behind(proxy, direct[1], pool_size=8, unit_timeout_seconds=2) as db:
        await warmed(db, count=8)
        proxy.strand()
        with pytest.raises(Unavailable):
            await (db.run if is_writing else db.read)(ping)
        for run in (db.run, db.read):
            assert [await run(ping) for _ in range(16)] == [1] * 16


class Closing:
    """A writer whose transport the loop has closed."""

    def __init__(self, *, is_closing: bool) -> None:
        self.transport = self
        self._is_closing = is_closing

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes) -> None:
        raise RuntimeError(
            "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
        )

    def close(self) -> None:
        self._is_closing = True


@pytest.mark.parametrize(("is_known", "code"), [(True, 2006), (False, 2013)])
async def test_a_write_to_a_closed_connection_is_an_error_of_the_database(
    is_known: bool, code: int
) -> None:
    connection = MySQLConnection(silence_seconds=1)
    connection._reader, connection._writer = asyncio.StreamReader(), Closing(is_closing=is_known)
    with pytest.raises(OperationalError) as told:
        await connection.query("SELECT 1")
    assert told.value.args[0] == code
    await connection.ensure_closed()


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x00", b"\x05\x00\x00\x00\x0a", b""],
)
async def test_what_is_no_database_is_unavailable(greeting: bytes) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    db = open_database(
        f"mysql+aiomysql://paymesh:paymesh@127.0.0.1:{server.sockets[0].getsockname()[1]}/x",
        metadata,
    )
    try:
        for run in (db.run, db.read):
            with pytest.raises(Unavailable):
                await in_time(run(ping), units=20)
    finally:
        await db.close()
        server.close()


async def test_a_report_behind_a_line_that_froze_ends(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
    async def report(tx: AsyncConnection) -> None:
        await ping(tx)
        proxy.freeze()
        await ping(tx)

    async with behind(proxy, direct[1], pool_size=1, statement_seconds=0.5) as db:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await in_time(db.read_at_one_moment(report), units=3)
            proxy.thaw()
            assert await db.read(ping) == 1


async def test_a_caller_that_goes_away_during_a_read_costs_no_connection(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
    async with behind(proxy, direct[1], pool_size=2) as db:
        proxy.freeze()
        readers = [asyncio.create_task(db.read(ping)) for _ in range(2)]
        for _ in range(50):
            await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers, timeout=5)
        proxy.thaw()
        assert await asyncio.gather(*(db.read(ping) for _ in range(4))) == [1] * 4


# Sessions that nobody waits for any more


def sessions(server: MariaDB, statement: str) -> int:
    """How many sessions are busy with a statement."""
    with server._cursor() as cursor:
        cursor.execute("SHOW PROCESSLIST")
        return sum(statement in (row[7] or "") for row in cursor.fetchall())


async def test_a_statement_that_ran_out_of_time_is_ended_at_the_server(
    direct: tuple[Database, str], mariadb_server: MariaDB
) -> None:
    async with opened(direct[1], unit_timeout_seconds=UNIT_SECONDS, statement_seconds=60) as db:
        with pytest.raises(Unavailable):
            # Not SLEEP: that one looks by itself whether somebody waits for it.
            await db.run(lambda tx: tx.execute(text("SELECT BENCHMARK(2000000000, MD5('x'))")))
        await eventually(lambda: sessions(mariadb_server, "BENCHMARK") == 0)


async def test_a_transaction_behind_a_dead_line_gives_its_locks_back_soon(
    direct: tuple[Database, str], proxy: FaultProxy
) -> None:
    async with behind(proxy, direct[1], unit_timeout_seconds=1) as db:

        async def lock_and_lose_the_line(tx: AsyncConnection) -> None:
            await open_account(tx)
            proxy.strand()
            await ping(tx)

        with pytest.raises(Unavailable):
            await db.run(lock_and_lose_the_line)
        await in_time(direct[0].run(open_account), units=10)
    assert await accounts(direct[0]) == ["a"]


# Servers that change sides, and servers without room


@pytest.fixture
def two(own_mariadb: MariaDB) -> Iterator[tuple[MariaDB, MariaDB]]:
    """Two servers of this test alone."""
    other = MariaDB(server_folder())
    try:
        yield own_mariadb, other.start()
    finally:
        other.stop()


async def test_a_primary_that_became_read_only_is_left_at_once_by_readers_too(
    two: tuple[MariaDB, MariaDB],
) -> None:
    old, new = two
    urls = [server.create_database() for server in two]
    async with (
        opened(urls[0]) as before,
        opened(urls[1]) as after,
        fault_proxy(old.port) as proxy,
        behind(proxy, urls[0], pool_size=8, unit_timeout_seconds=5) as db,
    ):
        await warmed(db, count=8)
        await before.run(open_account, "old")
        old._execute("SET GLOBAL read_only = 1")
        with pytest.raises(Unavailable):
            await in_time(db.run(open_account, "nowhere"), units=2)
        with pytest.raises(Unavailable):
            await in_time(db.check(), units=2)
        await warmed(db, count=8)
        proxy.target_port = new.port
        await asyncio.gather(*(db.run(open_account, f"a{number}") for number in range(16)))
        everywhere = [f"a{number}" for number in sorted(map(str, range(16)))]
        assert await asyncio.gather(*(accounts(db) for _ in range(16))) == [everywhere] * 16
        assert await accounts(after) == everywhere
        await db.check()


async def test_a_server_that_takes_writes_again_is_used_again(own_mariadb: MariaDB) -> None:
    async with opened(own_mariadb.create_database()) as db:
        own_mariadb._execute("SET GLOBAL read_only = 1")
        with pytest.raises(Unavailable):
            await db.run(open_account)
        assert await accounts(db) == []
        own_mariadb._execute("SET GLOBAL read_only = 0")
        await db.run(open_account)


async def test_too_many_connections_of_our_user_are_no_defect_of_ours(own_mariadb: MariaDB) -> None:
    url = own_mariadb.create_database()
    own_mariadb._execute("ALTER USER paymesh@'%' WITH MAX_USER_CONNECTIONS 1")
    db, other = open_database(url, metadata), open_database(url, metadata)
    try:
        assert await db.read(ping) == 1
        for run in (other.run, other.read):
            with pytest.raises(Unavailable):
                await run(ping)
        await db.close()
        # this question and the server's own
        await eventually(lambda: sessions(own_mariadb, "") < 3)
        assert await other.run(ping) == 1
    finally:
        await db.close()
        await other.close()


async def test_a_password_is_sent_as_its_utf8(own_mariadb: MariaDB) -> None:
    own_mariadb._execute("SET NAMES utf8mb4", "ALTER USER paymesh@'%' IDENTIFIED BY 'пароль é 密'")
    url = own_mariadb.create_database().replace(
        "paymesh:paymesh", f"paymesh:{quote('пароль é 密')}"
    )
    db = open_database(url, metadata)
    try:
        assert await db.run(ping) == 1
    finally:
        await db.close()
