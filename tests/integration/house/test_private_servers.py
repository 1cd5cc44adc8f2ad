"""The machinery of the other tests: what a green run would be worth nothing without."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pymysql
import pytest
import redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.processes import Processes
from tools import servers
from tools.servers import MariaDB, Redis

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""

GRANDPARENT = """
import sys, time
from pathlib import Path
from tools.processes import Process
inner = Process(sys.executable, "-c", "import time; time.sleep(600)", log_path=Path("/dev/null")).start()
print("inner", inner.pid, flush=True)
time.sleep(600)
"""


async def _statement(url: str, sql: str) -> list[tuple]:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            result = await connection.execute(text(sql))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        await engine.dispose()


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_gets_an_empty_database(database_url: str, turn: int) -> None:
    # fails when a table of the other turn is there
    await _statement(database_url, "CREATE TABLE mine (a INT)")


async def test_one_test_may_have_several_databases(database_url_factory: Callable[[], str]) -> None:
    first, second = database_url_factory(), database_url_factory()
    await _statement(first, "CREATE TABLE mine (a INT)")
    await _statement(second, "CREATE TABLE mine (a INT)")


async def test_identifiers_are_compared_byte_by_byte_on_mariadb(
    mariadb_url_factory: Callable[[], str],
) -> None:
    assert await _statement(
        mariadb_url_factory(),
        "SELECT 'a' = 'A', @@character_set_database, @@innodb_flush_log_at_trx_commit",
    ) == [(1, "utf8mb4", 1)]  # literals take the connection's collation
    url = mariadb_url_factory()
    await _statement(url, "CREATE TABLE mine (a VARCHAR(9))")
    await _statement(url, "INSERT INTO mine VALUES ('a'), ('A')")
    assert await _statement(url, "SELECT count(*) FROM mine WHERE a = 'A'") == [(1,)]


def test_a_fresh_mariadb_database_costs_little(mariadb_server: MariaDB) -> None:
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        mariadb_server.drop_database(mariadb_server.create_database())
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.1  # what others do meanwhile only adds to it


def test_a_database_is_dropped_although_a_test_left_a_transaction_open(
    mariadb_server: MariaDB,
) -> None:
    url = mariadb_server.create_database()
    name = url.rpartition("/")[2].partition("?")[0]
    left_open = pymysql.connect(
        host="127.0.0.1",
        port=mariadb_server.port,
        user="paymesh",
        password="paymesh",
        database=name,
    )
    left_open.cursor().execute("CREATE TABLE mine (a INT)")
    left_open.cursor().execute("INSERT INTO mine VALUES (1)")
    mariadb_server.drop_database(url)
    with pytest.raises(pymysql.err.OperationalError):
        left_open.ping(reconnect=False)


async def test_mariadb_comes_back_with_its_data_after_a_kill(own_mariadb: MariaDB) -> None:
    url = own_mariadb.create_database()
    await _statement(url, "CREATE TABLE mine (a INT)")
    await _statement(url, "INSERT INTO mine VALUES (7)")
    own_mariadb.kill()
    own_mariadb.start()
    assert await _statement(url, "SELECT a FROM mine") == [(7,)]


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_an_empty_redis(redis_url: str, turn: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.setnx("mine", turn)
        assert client.config_get("maxmemory-policy") == {
            b"maxmemory-policy": b"noeviction"
        } or client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_redis_comes_back_on_the_same_port_after_a_kill(own_redis: Redis) -> None:
    url = own_redis.url
    own_redis.kill()
    own_redis.start()
    assert own_redis.url == url
    own_redis.flush()


def test_everything_that_a_process_started_is_found_and_ended(processes: Processes) -> None:
    parent = processes.command(sys.executable, "-c", PARENT, name="parent")
    parent.wait_for_log("child")
    assert len(parent.survivors()) == 2
    parent.kill()
    assert len(parent.survivors()) == 1
    with pytest.raises(AssertionError, match="left behind"):
        parent.assert_no_survivors(timeout_seconds=0.1)
    parent.assert_no_survivors()


def test_a_process_dies_with_the_one_that_started_it(processes: Processes) -> None:
    outer = processes.command(sys.executable, "-c", GRANDPARENT, name="outer")
    outer.wait_for_log("inner")
    inner = int(outer.log_text().split()[-1])
    outer.kill()
    outer.wait_for_exit_of(inner)


def test_a_process_that_ends_too_early_shows_its_log(processes: Processes, free_port: int) -> None:
    process = processes.command(
        sys.executable, "-c", "print('no settings'); raise SystemExit(3)", name="early"
    )
    with pytest.raises(AssertionError, match=r"ended with 3 (.|\n)*no settings"):
        process.wait_for_port(free_port)


def test_http_is_awaited_until_it_answers(processes: Processes, free_port: int) -> None:
    process = processes.module(
        "http.server", str(free_port), "--bind", "127.0.0.1", "--directory", "protos"
    )
    assert b"paymesh" in process.wait_for_http(f"http://127.0.0.1:{free_port}/")
    assert process.wait_for_http(f"http://127.0.0.1:{free_port}/absent", status=404)
    process.wait_for_port(free_port)
    assert process.terminate() == -15


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_a_missing_component_is_an_error_in_ci_only(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Thing is missing: get one"):
        servers.missing("Thing", hint="get one")


def test_settings_of_the_shell_do_not_reach_tests() -> None:
    assert not [
        name for name in os.environ if name.startswith(("PAYMESH_", "PAYMENT_RPC_", "GATEWAY_"))
    ]
