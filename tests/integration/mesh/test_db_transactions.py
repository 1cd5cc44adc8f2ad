"""Transactions on real databases: whole or not at all, again when the database asks for it, and
never cut by a caller that went away.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Table,
    Text,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from mesh.db import (
    BigInt,
    ConstraintViolated,
    Database,
    StaleRow,
    expect_one,
    insert_if_absent,
    open_database,
)
from mesh.db.transactions import ATTEMPTS
from mesh.errors import Conflict, InvalidArgument, Unavailable
from tests.support.accounts import ACCOUNT, accounts, metadata, open_account, opened
from tests.support.databases import create_tables
from tests.support.echo import eventually
from tools.servers import MariaDB

ENTRY = Table(
    "entry",
    metadata,
    Column("id", BigInt, primary_key=True, autoincrement=True),
    Column("payload", Text, nullable=False),
)
SECONDS = 10  # patience with a busy machine


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as db:
        yield db


async def balance(tx: AsyncConnection, account_id: str = "a") -> int:
    return int(
        (
            await tx.execute(select(ACCOUNT.c.balance).where(ACCOUNT.c.account_id == account_id))
        ).scalar_one()
    )


# Changes that meet


async def test_fifty_increments_at_once_are_fifty(db: Database) -> None:
    async def increment(tx: AsyncConnection) -> None:
        found = (
            await tx.execute(
                select(ACCOUNT.c.balance).where(ACCOUNT.c.account_id == "a").with_for_update()
            )
        ).scalar_one()
        await tx.execute(
            update(ACCOUNT).where(ACCOUNT.c.account_id == "a").values(balance=found + 1)
        )

    await db.run(open_account)
    await asyncio.gather(*(db.run(increment) for _ in range(50)))
    assert await db.read(balance) == 50


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_two_processes_on_one_file_wait_for_each_other_instead_of_running_again(
    database_url: str, db: Database
) -> None:
    async with opened(database_url) as other:

        async def increment(tx: AsyncConnection) -> None:
            found = await balance(tx)
            await asyncio.sleep(0)
            await tx.execute(
                update(ACCOUNT).where(ACCOUNT.c.account_id == "a").values(balance=found + 1)
            )

        await db.run(open_account)
        with capture_logs() as logs:
            await asyncio.gather(*(side.run(increment) for side in (db, other) for _ in range(20)))
        assert await db.read(balance) == 40
        assert logs == []


async def test_conditional_updates_lose_nothing_and_the_losers_hear_of_it(db: Database) -> None:
    async def increment(tx: AsyncConnection) -> None:
        row = (await tx.execute(select(ACCOUNT).where(ACCOUNT.c.account_id == "a"))).one()
        expect_one(
            await tx.execute(
                update(ACCOUNT)
                .where(ACCOUNT.c.account_id == "a", ACCOUNT.c.version == row.version)
                .values(balance=row.balance + 1, version=row.version + 1)
            )
        )

    await db.run(open_account)
    outcomes = Counter(
        type(outcome)
        for outcome in await asyncio.gather(
            *(db.run(increment) for _ in range(20)), return_exceptions=True
        )
    )
    assert set(outcomes) <= {type(None), Conflict}
    assert await db.read(balance) == outcomes[type(None)] > 0


async def test_a_stale_row_runs_the_transaction_again_and_gives_up_after_a_few_times(
    db: Database,
) -> None:
    runs: list[int] = []

    async def always_stale(tx: AsyncConnection) -> None:
        await open_account(tx, f"a{len(runs)}")
        runs.append(1)
        raise StaleRow

    with pytest.raises(Conflict):
        await db.run(always_stale)
    assert len(runs) == ATTEMPTS
    assert await accounts(db) == []


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_deadlock_runs_the_whole_transaction_again(db: Database) -> None:
    both, runs = asyncio.Barrier(2), Counter[str]()

    async def move(tx: AsyncConnection, *, source: str, target: str) -> None:
        runs[source] += 1
        await tx.execute(
            update(ACCOUNT)
            .where(ACCOUNT.c.account_id == source)
            .values(balance=ACCOUNT.c.balance - 1)
        )
        if runs[source] == 1:
            await both.wait()  # both hold their first row now
        await tx.execute(
            update(ACCOUNT)
            .where(ACCOUNT.c.account_id == target)
            .values(balance=ACCOUNT.c.balance + 1)
        )

    for name in ("a", "b"):
        await db.run(open_account, name, balance=5)
    with capture_logs() as logs:
        await asyncio.wait_for(
            asyncio.gather(
                db.run(move, source="a", target="b"), db.run(move, source="b", target="a")
            ),
            SECONDS,
        )
    assert sorted(runs.values()) == [1, 2]
    assert [entry["event"] for entry in logs] == ["transaction_retried"]
    # each step happened once
    assert (await db.read(balance, "a"), await db.read(balance, "b")) == (5, 5)


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_lock_wait_timeout_undoes_the_whole_transaction_before_it_runs_again(
    db: Database,
) -> None:
    held, release, runs = asyncio.Event(), asyncio.Event(), []

    async def hold(tx: AsyncConnection) -> None:
        await tx.execute(select(ACCOUNT).where(ACCOUNT.c.account_id == "b").with_for_update())
        held.set()
        await release.wait()

    async def move(tx: AsyncConnection) -> None:
        runs.append(1)
        if len(runs) == 2:
            release.set()
        await tx.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
        await tx.execute(
            update(ACCOUNT).where(ACCOUNT.c.account_id == "a").values(balance=ACCOUNT.c.balance + 1)
        )
        await tx.execute(
            update(ACCOUNT).where(ACCOUNT.c.account_id == "b").values(balance=ACCOUNT.c.balance + 1)
        )

    for name in ("a", "b"):
        await db.run(open_account, name)
    holder = asyncio.create_task(db.run(hold))
    await asyncio.wait_for(held.wait(), SECONDS)
    await asyncio.wait_for(db.run(move), SECONDS)
    await holder
    assert len(runs) == 2
    # the server alone would have kept the first statement
    assert (await db.read(balance, "a"), await db.read(balance, "b")) == (1, 1)


# Constraints by name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"account_id": "b", "owner": "a"}, "uq_account_owner"),
        ({"account_id": "a", "owner": "b"}, "pk_account"),
        ({"account_id": "b", "balance": -1}, "ck_account_balance"),
    ],
)
async def test_a_constraint_is_told_by_its_name(
    db: Database, values: dict[str, Any], name: str
) -> None:
    await db.run(open_account)
    with pytest.raises(ConstraintViolated) as violated:
        await db.run(open_account, **{"account_id": "b", **values})
    assert violated.value.name == name
    with pytest.raises(ConstraintViolated) as violated:
        await db.run(
            lambda tx: tx.execute(
                insert(ACCOUNT),
                [
                    {"account_id": "c", "owner": "c", "balance": 0, "version": 1, "note": ""},
                    {
                        "account_id": "b",
                        "owner": "b",
                        "balance": 0,
                        "version": 1,
                        "note": "",
                        **values,
                    },
                ],
            )
        )
    assert violated.value.name == name
    assert await accounts(db) == ["a"]


async def change(tx: AsyncConnection, /, **values: Any) -> None:
    await tx.execute(update(ACCOUNT).where(ACCOUNT.c.account_id == "b").values(**values))


async def test_an_update_names_its_constraint_too(db: Database) -> None:
    for name in ("a", "b"):
        await db.run(open_account, name)
    several: list[tuple[dict[str, Any], str]] = [
        ({"owner": "a"}, "uq_account_owner"),
        ({"account_id": "a"}, "pk_account"),
        ({"balance": -1}, "ck_account_balance"),
    ]
    for values, name in several:
        with pytest.raises(ConstraintViolated) as violated:
            await db.run(change, **values)
        assert violated.value.name == name


async def test_a_value_that_looks_like_an_error_message_does_not_choose_the_name(
    db: Database,
) -> None:
    owner = "x' for key 'pk_account'"
    await db.run(open_account, owner=owner)
    with pytest.raises(ConstraintViolated) as violated:
        await db.run(open_account, "b", owner=owner)
    assert violated.value.name == "uq_account_owner"


async def test_a_violation_that_only_means_somebody_was_quicker_runs_again_and_finds_the_row(
    database_url: str,
) -> None:
    async with opened(database_url, retry_constraints=["uq_account_owner"]) as db:
        both, runs = asyncio.Barrier(2), []

        async def claim(tx: AsyncConnection, account_id: str) -> str:
            runs.append(account_id)
            found = (
                await tx.execute(select(ACCOUNT.c.account_id).where(ACCOUNT.c.owner == "o"))
            ).scalar()
            if found is not None:
                return str(found)
            if database_url.startswith("mysql") and len(runs) <= 2:
                await both.wait()  # both have seen that it is not there
            await open_account(tx, account_id, owner="o")
            return account_id

        winners = await asyncio.wait_for(
            asyncio.gather(db.run(claim, "a"), db.run(claim, "b")), SECONDS
        )
        assert len(set(winners)) == 1
        assert await accounts(db) == [winners[0]]


# Refusals, callers that go away, time limits


async def test_a_refusal_leaves_nothing_and_reaches_the_caller(db: Database) -> None:
    async def refuse(tx: AsyncConnection) -> None:
        await open_account(tx)
        raise InvalidArgument.of("amount", "no")

    for _ in range(20):  # more often than the pool has connections
        with pytest.raises(InvalidArgument):
            await db.run(refuse)
    assert await accounts(db) == []
    await db.run(open_account)


async def test_a_caller_that_goes_away_does_not_cut_its_transaction(db: Database) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: AsyncConnection) -> None:
        await open_account(tx, "a")
        inside.set()
        await go_on.wait()
        await open_account(tx, "b")

    caller = asyncio.create_task(db.run(slow))
    await asyncio.wait_for(inside.wait(), SECONDS)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await db.close()  # waits for it
    assert await accounts(db) == ["a", "b"]


async def test_closing_waits_for_running_transactions(db: Database) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: AsyncConnection) -> None:
        inside.set()
        await go_on.wait()
        await open_account(tx)

    running = asyncio.create_task(db.run(slow))
    await asyncio.wait_for(inside.wait(), SECONDS)
    closing = asyncio.create_task(db.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await asyncio.wait_for(asyncio.gather(closing, running), SECONDS)


async def test_a_unit_that_takes_too_long_is_undone_and_nothing_was_done(database_url: str) -> None:
    async with opened(database_url, unit_timeout_seconds=0.3, pool_size=2) as db:

        async def endless(tx: AsyncConnection) -> None:
            await open_account(tx)
            await asyncio.Event().wait()

        for _ in range(3):  # one connection more than the pool has
            with pytest.raises(Unavailable):
                await asyncio.wait_for(db.run(endless), SECONDS)
        assert await accounts(db) == []
        await db.run(open_account)  # it holds no lock any more


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_statement_that_takes_too_long_is_ended_with_its_unit(database_url: str) -> None:
    async with opened(database_url, unit_timeout_seconds=0.3, pool_size=1) as db:
        await db.run(open_account)

        async def endless(tx: AsyncConnection) -> None:
            await tx.execute(text("SELECT SLEEP(30) FROM account FOR UPDATE"))

        for run in (db.run, db.read):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(run(endless), SECONDS)
        assert await db.run(balance) == 0


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_a_server_gives_up_statements_and_locks_by_itself(db: Database) -> None:
    async def limits(tx: AsyncConnection) -> tuple[str, float, int]:
        row = (
            await tx.execute(
                text("SELECT @@sql_mode, @@max_statement_time, @@innodb_lock_wait_timeout")
            )
        ).one()
        return row[0], float(row[1]), int(row[2])

    for run in (db.run, db.read):
        mode, statement_seconds, lock_seconds = await run(limits)
        assert "STRICT_ALL_TABLES" in mode
        assert (statement_seconds, lock_seconds) == (5.0, 3)


async def test_a_pool_without_a_free_connection_says_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_url, pool_size=1) as db:
        monkeypatch.setattr(db.engine.pool, "_timeout", 0.1)
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def slow(tx: AsyncConnection) -> None:
            inside.set()
            await go_on.wait()

        running = asyncio.create_task(db.run(slow))
        await asyncio.wait_for(inside.wait(), SECONDS)
        with pytest.raises(Unavailable):
            await db.run(open_account)
        go_on.set()
        await running
        await db.run(open_account)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_file_that_somebody_else_writes_is_a_conflict_and_then_heals(
    database_url: str,
) -> None:
    db = open_database(database_url, metadata)
    event.listen(
        db.engine.sync_engine,
        "connect",
        lambda connection, _: connection.cursor().execute("PRAGMA busy_timeout = 50"),
    )
    other = sqlite3.connect(database_url.partition(":///")[2], isolation_level=None)
    try:
        await create_tables(db.engine, metadata)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Conflict):
            await asyncio.wait_for(db.run(open_account), SECONDS)
        assert await accounts(db) == []  # reading goes on
        other.execute("ROLLBACK")
        await db.run(open_account)
        assert await accounts(db) == ["a"]
    finally:
        other.close()
        await db.close()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_folder_that_does_not_take_files_is_unavailable(
    tmp_path_factory: pytest.TempPathFactory, dialect: str
) -> None:
    folder = tmp_path_factory.mktemp("taken")
    (folder / "database.db").mkdir()
    db = open_database(f"sqlite+aiosqlite:///{folder / 'database.db'}", metadata)
    try:
        for run in (db.run, db.read):
            with pytest.raises(Unavailable):
                await run(balance)
    finally:
        await db.close()
        # aiosqlite does not wait for the thread of a connection that failed
        for thread in threading.enumerate():
            if "_connection_worker_thread" in thread.name:
                await asyncio.to_thread(thread.join, SECONDS)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_full_disk_is_unavailable_and_nothing_is_there(database_url: str) -> None:
    db = open_database(database_url, metadata)
    event.listen(
        db.engine.sync_engine,
        "connect",
        lambda connection, _: connection.cursor().execute("PRAGMA max_page_count = 20"),
    )
    try:
        await create_tables(db.engine, metadata)

        async def fill(tx: AsyncConnection) -> None:
            await open_account(tx)
            await tx.execute(insert(ENTRY).values(payload="x" * 1_000_000))

        with pytest.raises(Unavailable):
            await db.run(fill)
        assert await accounts(db) == []
        await db.run(open_account)
        assert await accounts(db) == ["a"]
    finally:
        await db.close()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_commit_is_on_the_disk_before_it_is_told(db: Database) -> None:
    full = 2
    async with db.engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == full


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_row_without_its_parent_is_refused_on_sqlite_too(db: Database) -> None:
    async with db.engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1


# Rows that may be there


async def test_twenty_inserts_if_absent_leave_the_first_row_as_it_is(db: Database) -> None:
    async def put(tx: AsyncConnection, number: int) -> int:
        values = {"account_id": "a", "owner": "a", "balance": number, "version": 1, "note": ""}
        await insert_if_absent(tx, ACCOUNT, values)
        return await balance(tx)

    seen = await asyncio.gather(*(db.run(put, number) for number in range(20)))
    assert len(set(seen)) == 1  # whoever inserted it, everybody sees that row
    assert await db.read(balance) == seen[0]


def waiting_for_locks(server: MariaDB) -> int:
    """How many transactions of the server wait for a row."""
    with server._cursor() as cursor:
        # not innodb_trx, which stays as it is while somebody looks often
        cursor.execute("SHOW ENGINE INNODB STATUS")
        return str(cursor.fetchone()[2]).count("LOCK WAIT")


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
async def test_an_insert_if_absent_locks_the_row_that_was_there(
    db: Database, mariadb_server: MariaDB
) -> None:
    await db.run(open_account)
    held, release, order = asyncio.Event(), asyncio.Event(), []

    async def enter(tx: AsyncConnection, name: str) -> None:
        await insert_if_absent(
            tx, ACCOUNT, {"account_id": "a", "owner": "a", "balance": 0, "version": 1, "note": ""}
        )
        order.append(name)
        if name == "first":
            held.set()
            await release.wait()
        order.append(name)

    first = asyncio.create_task(db.run(enter, "first"))
    await asyncio.wait_for(held.wait(), SECONDS)
    second = asyncio.create_task(db.run(enter, "second"))
    await eventually(lambda: waiting_for_locks(mariadb_server) > 0, seconds=SECONDS)
    release.set()
    await asyncio.wait_for(asyncio.gather(first, second), SECONDS)
    assert order == ["first", "first", "second", "second"]


async def test_an_insert_if_absent_swallows_no_bad_value(db: Database) -> None:
    with pytest.raises((ConstraintViolated, DBAPIError)):
        await db.run(
            insert_if_absent,
            ACCOUNT,
            {"account_id": "a", "owner": "a", "balance": -1, "version": 1, "note": ""},
        )
    with pytest.raises(DBAPIError):
        await db.run(
            insert_if_absent,
            ACCOUNT,
            {"account_id": "a", "owner": None, "balance": 0, "version": 1, "note": ""},
        )
    assert await accounts(db) == []


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
@pytest.mark.parametrize("values", [{"note": "x" * 11}, {"balance": "many"}, {"owner": "käufer"}])
async def test_a_value_that_does_not_fit_is_an_error_not_cut(
    db: Database, values: dict[str, Any]
) -> None:
    with pytest.raises(DBAPIError):
        await db.run(open_account, **values)
    assert await accounts(db) == []


# What values mean


async def test_identifiers_are_compared_byte_for_byte(db: Database) -> None:
    for name in ("abc", "ABC", "Abc"):
        await db.run(open_account, name)
    assert await accounts(db) == ["ABC", "Abc", "abc"]

    async def find(tx: AsyncConnection) -> list[str]:
        return list(
            (
                await tx.execute(select(ACCOUNT.c.account_id).where(ACCOUNT.c.account_id == "abc"))
            ).scalars()
        )

    assert await db.read(find) == ["abc"]


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 20, 12, 0, 0, 123000, UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999000, UTC),
        datetime(2400, 1, 1, tzinfo=UTC),
        None,
        datetime(2026, 11, 20, 20, 0, tzinfo=timezone(timedelta(hours=8))),
    ],
)
async def test_a_moment_comes_back_as_it_was_in_utc(db: Database, moment: datetime | None) -> None:
    async def read(tx: AsyncConnection) -> Any:
        return (await tx.execute(select(ACCOUNT.c.opened_at))).scalar_one()

    await db.run(open_account, opened_at=moment)
    found = await db.read(read)
    assert found == moment
    assert moment is None or found.tzinfo is UTC


async def test_a_naive_moment_is_refused(db: Database) -> None:
    with pytest.raises(StatementError, match="naive datetime"):
        await db.run(open_account, opened_at=datetime(2026, 11, 20))  # noqa: DTZ001  # the point of the test
    with pytest.raises(StatementError, match="naive datetime"):
        await db.read(
            lambda tx: tx.execute(
                select(ACCOUNT).where(ACCOUNT.c.opened_at < datetime(2026, 11, 20))  # noqa: DTZ001  # as above
            )
        )
    assert await accounts(db) == []


async def test_keys_count_up(db: Database) -> None:
    for _ in range(3):
        await db.run(lambda tx: tx.execute(insert(ENTRY).values(payload="x")))
    assert await db.read(_all_ids) == [1, 2, 3]


async def _all_ids(tx: AsyncConnection) -> list[int]:
    return list((await tx.execute(select(ENTRY.c.id).order_by(ENTRY.c.id))).scalars())


async def test_a_second_statement_behind_a_semicolon_never_runs(db: Database) -> None:
    await db.run(open_account)

    async def inject(tx: AsyncConnection) -> None:
        await tx.exec_driver_sql(
            "SELECT account_id FROM account ORDER BY owner; DROP TABLE account"
        )

    runs: list[Callable[..., Any]] = [db.run, db.read]
    for run in runs:
        with pytest.raises(DBAPIError):
            await run(inject)
    assert await accounts(db) == ["a"]


async def test_a_report_sees_one_moment_whatever_is_committed_meanwhile_and_leaves_nothing_open(
    db: Database,
) -> None:
    await db.run(open_account)

    async def report(tx: AsyncConnection, *, fails: bool) -> tuple[int, int]:
        first = await balance(tx)
        await db.run(
            lambda other: other.execute(update(ACCOUNT).values(balance=ACCOUNT.c.balance + 1))
        )
        if fails:
            raise ZeroDivisionError
        return first, await balance(tx)

    assert await db.read_at_one_moment(report, fails=False) == (0, 0)
    with pytest.raises(ZeroDivisionError):
        await db.read_at_one_moment(report, fails=True)
    assert await db.read(balance) == 2, "the next user of its connection is not kept at that moment"


async def test_a_read_sends_its_statement_and_nothing_besides(db: Database) -> None:
    await db.run(open_account)
    await db.read(balance)  # opens a connection
    sent: list[str] = []
    event.listen(
        db._reader.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2])
    )
    await db.read(balance)
    assert [statement.split()[0] for statement in sent] == ["SELECT"]


async def test_a_reader_sees_what_is_committed_and_not_what_is_not(db: Database) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: AsyncConnection) -> None:
        await open_account(tx)
        inside.set()
        await go_on.wait()

    writing = asyncio.create_task(db.run(slow))
    await asyncio.wait_for(inside.wait(), SECONDS)
    assert await accounts(db) == []
    go_on.set()
    await writing
    assert await accounts(db) == ["a"]
