"""`python -m seckill_rpc`: the composition root. Settings, database, Redis, use cases, servicers,
workers, server; until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from random import Random

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh import schema_versions
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.database_clock import clock_worker
from mesh.db import Database, open_database
from mesh.dependencies import Dependencies
from mesh.discovery.factory import open_discovery, open_registrar
from mesh.errors import Unavailable
from mesh.events import open_events
from mesh.ids import UlidIds
from mesh.paging import PageTokens
from mesh.process import run_process
from mesh.purge import purge_worker
from mesh.secret_files import read_secrets
from mesh.server import MeshServer, Runs, serve
from seckill_rpc.app import RETRY_CONSTRAINTS, SeckillApp
from seckill_rpc.clients import Allocations, statuses
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.redis.connection import RedisCheck, UnsafeRedis, open_admission_redis, require_safe
from seckill_rpc.settings import SeckillSettings
from seckill_rpc.tables import metadata

REDIS_ATTEMPTS = 20  # a Redis that starts beside us is there within seconds
REDIS_PAUSE_SECONDS = 0.5


async def run(settings: SeckillSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        MeshError: the database or Redis is away, or the schema is not the one of this code.
        UnsafeRedis: Redis may lose data.
        ValueError, OSError: a setting or a file is not what it should be.
    """
    if not settings.redis_url:
        raise ValueError("redis_url is not set: flash sales need a Redis; set PAYMESH_REDIS_URL")
    if settings.ticket_secret_file is None:
        raise ValueError("ticket_secret_file is not set")
    clock = SystemClock()
    ids = UlidIds(clock)
    tickets = Tickets(*read_secrets(settings.ticket_secret_file))
    db = open_database(
        settings.database_url,
        metadata,
        pool_size=settings.database_pool_size,
        retry_constraints=RETRY_CONSTRAINTS,
    )
    await schema_versions.check_current("seckill_rpc", db.engine)
    redis = open_admission_redis(settings.redis_url, command_seconds=settings.redis_timeout_seconds)
    await check_redis(
        redis, is_durable=not settings.is_development, is_vouched_for=settings.redis_vouched
    )
    events = open_events(settings.stream_redis_url or settings.redis_url)
    server = MeshServer(settings, clock=clock, ids=ids)
    discovery = open_discovery(settings)
    order_channel = MeshChannel(
        "order_rpc", settings=settings, discovery=discovery, caller_tokens=server.caller_tokens
    )
    merchant_channel = (
        MeshChannel(
            "merchant_rpc",
            settings=settings,
            discovery=discovery,
            caller_tokens=server.caller_tokens,
        )
        if settings.merchant_directory
        else None
    )
    app = SeckillApp(
        db=db,
        redis=redis,
        clock=clock,
        monotonic=time.monotonic,
        jitter=Random().random,  # noqa: S311  spreads, protects nothing
        ids=ids,
        page_tokens=PageTokens.from_settings(settings),
        tickets=tickets,
        allocations=Allocations(order_channel),
        statuses=None if merchant_channel is None else statuses(merchant_channel),
        settings=settings,
        events=events,
    )
    await app.registry.refresh()
    app.add_to(server)
    closers = [order_channel.close, discovery.close, db.close, redis.aclose, events.aclose]
    if merchant_channel is not None:
        closers.insert(0, merchant_channel.close)
    await serve(
        settings,
        server,
        open_registrar(settings),
        workers=[*app.workers, *_process_workers(settings, server, db, redis)],
        closers=closers,
    )


def _process_workers(
    settings: SeckillSettings, server: MeshServer, db: Database, redis: Redis
) -> list[Runs]:
    """What every process does besides its service."""
    clock = SystemClock()
    checks = {"database": db.check, "redis": RedisCheck(redis).ask}
    return [
        clock_worker(db, clock=clock, watch=server.clock_watch),
        purge_worker(
            db=db, clock=clock, retention=timedelta(days=settings.delivered_retention_days)
        ),
        Dependencies(checks, server.set_usable),
    ]


async def check_redis(redis: Redis, *, is_durable: bool, is_vouched_for: bool = False) -> None:
    """Waits a moment for Redis and refuses one that may lose data.

    Raises:
        UnsafeRedis: it evicts keys, is a cluster, or (`is_durable`) has no append-only file.
            Unavailable: it does not answer.
    """
    for attempt in range(REDIS_ATTEMPTS):
        try:
            return await require_safe(redis, durable=is_durable, vouched=is_vouched_for)
        except (RedisError, OSError) as problem:
            if attempt == REDIS_ATTEMPTS - 1:
                raise Unavailable(f"redis does not answer: {problem}") from problem
        await asyncio.sleep(REDIS_PAUSE_SECONDS)
    return None


def main() -> None:
    """Reads the settings and serves."""
    run_process(SeckillSettings, run, refusals=(UnsafeRedis,))


if __name__ == "__main__":
    main()
