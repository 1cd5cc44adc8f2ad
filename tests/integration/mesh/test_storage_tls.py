"""TLS to the database and to Redis, by settings: verified or refused, on the loop of production and
on asyncio's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis.exceptions import ConnectionError as ConnectionBroken
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.clock import SystemClock
from mesh.db import open_database, open_engine
from mesh.errors import Unavailable
from mesh.redis_client import open_redis
from mesh.settings import MeshSettings
from paymesh_cli.certificates import CertificateAuthority, CertificateFiles
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.pipelined_connection import PipelinedConnection
from tests.support.accounts import metadata
from tests.support.echo import eventually
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.idle import idle
from tools.processes import free_port
from tools.servers import MariaDB, Redis, find_program, missing, server_folder

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


def certificates(folder: Path) -> CertificateFiles:
    authority = CertificateAuthority(folder, clock=SystemClock())
    authority.ensure()
    return authority.issue("server")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    """Of an authority that is not ours."""
    return certificates(tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module")
def secure_mariadb(ours: CertificateFiles) -> Iterator[MariaDB]:
    server = MariaDB(
        server_folder(),
        options=[f"--ssl-ca={ours.ca}", f"--ssl-cert={ours.cert}", f"--ssl-key={ours.key}"],
    )
    try:
        server.start()
        server._execute("ALTER USER paymesh@'%' REQUIRE SSL")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def secure_redis(ours: CertificateFiles) -> Iterator[tuple[Redis, int]]:
    """A server with a port for TLS, which asks for a certificate of ours."""
    program = find_program("redis-server", "valkey-server")  # the one inside a wheel speaks no TLS
    if program is None:
        missing("Redis with TLS", hint="apt-get install redis-server")
    port = free_port()
    server = Redis(
        server_folder(),
        program,
        options=[
            "--tls-port",
            str(port),
            "--tls-cert-file",
            str(ours.cert),
            "--tls-key-file",
            str(ours.key),
            "--tls-ca-cert-file",
            str(ours.ca),
            "--tls-auth-clients",
            "yes",
        ],
    )
    try:
        yield server.start(), port
    finally:
        server.stop()


@pytest.fixture
async def proxy(secure_mariadb: MariaDB) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(secure_mariadb.port) as proxy:
        proxy.breaks_by_reset = True
        yield proxy


async def cipher(tx: AsyncConnection) -> str:
    return str((await tx.execute(text("SHOW STATUS LIKE 'Ssl_cipher'"))).one()[1])


def database_url(server: MariaDB, **settings: Any) -> str:
    """The URL as a process with these settings gets it."""
    return MeshSettings(database_url=server.create_database(), **settings).database_url


async def test_a_database_that_demands_tls_is_reached_by_the_file_of_its_authority(
    secure_mariadb: MariaDB, ours: CertificateFiles
) -> None:
    for files in (
        {"database_tls_ca_file": ours.ca},
        {
            "database_tls_ca_file": ours.ca,
            "database_tls_cert_file": ours.cert,
            "database_tls_key_file": ours.key,
        },
    ):
        url = database_url(secure_mariadb, **files)
        db, engine = open_database(url, metadata), open_engine(url)
        try:
            assert await db.run(cipher)
            assert await db.read(cipher)
            async with engine.connect() as connection:
                assert await cipher(connection)
        finally:
            await db.close()
            await engine.dispose()
            await eventually(
                lambda: not connections_of(secure_mariadb)
            )  # the end of TLS takes a turn


def connections_of(server: MariaDB) -> int:
    """Connections of our user. A loop that is closed before they ended fails."""
    with server._cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'paymesh'")
        return int(cursor.fetchone()[0])


async def test_a_connection_in_the_clear_or_to_a_stranger_is_refused(
    secure_mariadb: MariaDB, others: CertificateFiles
) -> None:
    url = secure_mariadb.create_database()
    for options in ("", f"&ssl_ca={others.ca}", "&ssl=true"):
        db = open_database(url + options, metadata)
        try:
            with pytest.raises(Unavailable):
                await db.run(cipher)
        finally:
            await db.close()


async def test_the_name_in_the_certificate_counts(
    secure_mariadb: MariaDB, proxy: FaultProxy, ours: CertificateFiles
) -> None:
    url = secure_mariadb.create_database()
    # an address that the certificate does not name
    elsewhere = await asyncio.start_server(proxy.serve, "127.0.0.2", 0)
    url = url.replace(
        f"127.0.0.1:{secure_mariadb.port}", f"127.0.0.2:{elsewhere.sockets[0].getsockname()[1]}"
    )
    trusting = open_database(f"{url}&ssl_ca={ours.ca}&ssl_check_hostname=false", metadata)
    checking = open_database(f"{url}&ssl_ca={ours.ca}", metadata)
    try:
        assert await trusting.run(cipher)
        with pytest.raises(Unavailable):
            await checking.run(cipher)
    finally:
        await trusting.close()
        await checking.close()
        elsewhere.close()


async def test_a_server_that_offers_no_tls_gets_no_password(
    mariadb_url_factory: Callable[[], str], ours: CertificateFiles
) -> None:
    url = mariadb_url_factory()
    db = open_database(f"{url}&ssl_ca={ours.ca}", metadata)
    try:
        with pytest.raises(Unavailable):
            await db.run(cipher)
    finally:
        await db.close()


@pytest.mark.parametrize(
    "query",
    ["ssl_ca=/nowhere.pem", "ssl_cert=/a", "ssl=maybe", "ssl=true&ssl_check_hostname=perhaps"],
)
async def test_options_without_sense_are_refused_in_plain_words(query: str) -> None:
    with pytest.raises(ValueError, match="database_url: "):
        open_database(f"mysql+aiomysql://u:secret@127.0.0.1/x?{query}", metadata)


async def test_secure_connections_that_broke_are_replaced(
    secure_mariadb: MariaDB, proxy: FaultProxy, ours: CertificateFiles
) -> None:
    url = secure_mariadb.create_database().replace(str(secure_mariadb.port), str(proxy.port))
    db = open_database(f"{url}&ssl_ca={ours.ca}", metadata)
    try:
        for _ in range(3):
            assert await db.run(cipher)
            assert await db.read(cipher)
            proxy.cut()
            assert await db.run(cipher)
            assert await db.read(cipher)
        proxy.refuse()
        with pytest.raises(Unavailable):
            await db.run(cipher)
        proxy.refuse(refuses=False)
        assert await db.run(cipher)
    finally:
        await db.close()


@pytest.mark.parametrize("moment", [1, 2])
async def test_a_handshake_that_is_cut_is_unavailable_and_then_all_is_well(
    secure_mariadb: MariaDB, ours: CertificateFiles, moment: int
) -> None:
    async with fault_proxy(secure_mariadb.port) as proxy:
        proxy.breaks_by_reset = True
        url = secure_mariadb.create_database().replace(str(secure_mariadb.port), str(proxy.port))
        db = open_database(f"{url}&ssl_ca={ours.ca}", metadata)
        # of TLS: a handshake record, the first one with the credentials
        hello = b"\x16\x03" if moment == 1 else b"\x17\x03\x03"
        try:
            proxy.lose(hello, times=100)
            with pytest.raises(Unavailable):
                await db.run(cipher)
            proxy._faults.clear()
            assert await db.run(cipher)
        finally:
            await db.close()


async def test_a_redis_with_tls_is_reached_by_the_files_of_the_settings(
    secure_redis: tuple[Redis, int], ours: CertificateFiles, others: CertificateFiles
) -> None:
    _, port = secure_redis
    files: dict[str, Any] = {
        "redis_tls_ca_file": ours.ca,
        "redis_tls_cert_file": ours.cert,
        "redis_tls_key_file": ours.key,
    }
    url = MeshSettings(redis_url=f"rediss://127.0.0.1:{port}/0", **files).redis_url
    assert url is not None
    async with fault_proxy(port) as proxy:
        proxy.breaks_by_reset = True
        through = url.replace(str(port), str(proxy.port))
        async with (
            open_redis(through, command_seconds=5) as cache,
            open_admission_redis(through, command_seconds=5) as stock,
        ):
            pipelined = PipelinedConnection(stock, command_seconds=5)
            for _ in range(3):
                assert await cache.ping()
                assert await stock.ping()
                assert await pipelined.execute("ECHO", "here") == "here"
                proxy.cut()
                await eventually(
                    lambda: (
                        not any(
                            connection.is_usable
                            for client in (cache, stock)
                            for connection in idle(client)
                        )
                    )
                )
    # without a certificate of ours; with one, trusting another authority
    for trusted, is_known in ((ours, False), (others, True)):
        refused: dict[str, Any] = {
            "redis_tls_ca_file": trusted.ca,
            **(
                {"redis_tls_cert_file": ours.cert, "redis_tls_key_file": ours.key}
                if is_known
                else {}
            ),
        }
        url = MeshSettings(redis_url=f"rediss://127.0.0.1:{port}/0", **refused).redis_url
        assert url is not None
        async with open_redis(url, command_seconds=5) as stranger:
            with pytest.raises(ConnectionBroken):
                await stranger.ping()


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_url": "redis://127.0.0.1/0", "redis_tls_ca_file": "CA"},
        {"redis_tls_ca_file": "CA"},
        {"database_url": "sqlite+aiosqlite:///x.db", "database_tls_ca_file": "CA"},
        {"database_url": "mysql+aiomysql://h/x", "database_tls_ca_file": "/nowhere.pem"},
    ],
    ids=repr,
)
async def test_a_file_that_would_not_be_used_is_refused(
    settings: dict[str, str], ours: CertificateFiles
) -> None:
    found: dict[str, Any] = {
        name: value.replace("CA", str(ours.ca)) for name, value in settings.items()
    }
    with pytest.raises(ValidationError, match="tls_ca_file"):
        MeshSettings(**found)
