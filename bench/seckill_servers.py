"""The flash sale's servers under measurement, each a process of its own: `python -m
bench.seckill_servers KIND` prints its port and serves until its input ends.

    echo      bare grpc.aio: SeckillAction answered with a fixed result, nothing around it
    pipeline the same answer behind the whole pipeline of the mesh: token, access, validation,
        metrics, logs
    front     seckill_rpc as it is, which only admits
    whole     seckill_rpc as it is, with one consumer
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import grpc
import uvloop
from paymesh.seckill.v1 import seckill_pb2, seckill_pb2_grpc

from bench.servers import SECRET_FILE
from mesh import logs
from mesh.clock import SystemClock
from mesh.db import open_database
from mesh.ids import UlidIds
from mesh.paging import PageTokens
from mesh.process import exempt_from_gc
from mesh.secret_files import read_secret
from mesh.server import MeshServer
from seckill_rpc.app import RETRY_CONSTRAINTS, SeckillApp
from seckill_rpc.domain.ticket import Tickets
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.settings import SeckillSettings
from seckill_rpc.tables import metadata

DATABASE_URL = "BENCH_DATABASE_URL"
REDIS_URL = "BENCH_REDIS_URL"
CATCH_UP_SECONDS = 30


class Fixed(seckill_pb2_grpc.SeckillServiceServicer):
    """Answers at once."""

    def __init__(self) -> None:
        self._result = seckill_pb2.Result(
            status=0,
            code="2002",
            message="排队中: you are in the line",
            order_id="ORD" + "0" * 26,
            sku_id="sold",
            activity_id="ACT" + "0" * 26,
            ticket="t" * 240,
            request_id="CLK" + "0" * 26,
            retry_after_ms=500,
        )

    async def SeckillAction(self, request: Any, context: Any) -> Any:  # noqa: ARG002  grpc's signature
        return seckill_pb2.SeckillActionResponse(result=self._result)


def _fixed() -> Fixed:
    return Fixed()  # type: ignore[abstract]  # only one is called


async def echo() -> int:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    seckill_pb2_grpc.add_SeckillServiceServicer_to_server(_fixed(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEEP.append(server)
    return port


async def pipeline() -> int:
    clock = SystemClock()
    server = MeshServer(_settings(0), clock=clock, ids=UlidIds(clock))
    server.add(seckill_pb2_grpc.add_SeckillServiceServicer_to_server, _fixed())
    await server.start()
    _KEEP.append(server)
    return server.port


async def front() -> int:
    return await _seckill_rpc(_settings(0))


async def whole() -> int:
    return await _seckill_rpc(_settings(1))


_KEEP: list[Any] = []
_KINDS = {kind.__name__: kind for kind in (echo, pipeline, front, whole)}


class _NoOrderRpc:
    """order_rpc takes every order and is not measured here."""

    async def create_orders(self, _activity: Any, orders: Any) -> dict[str, str]:
        return {order_id: "" for order_id, _ in orders}


def _settings(consumers: int) -> SeckillSettings:
    secret = Path(os.environ[SECRET_FILE])
    return SeckillSettings(
        port=0,
        user_token_secret_file=secret,
        page_token_secret_file=secret,
        ticket_secret_file=secret,
        log_level="WARNING",
        environment="test",
        consumers=consumers,
        line_max=10_000_000,
    )


async def _seckill_rpc(settings: SeckillSettings) -> int:
    clock = SystemClock()
    ids = UlidIds(clock)
    assert settings.ticket_secret_file is not None
    db = open_database(
        os.environ[DATABASE_URL],
        metadata,
        pool_size=settings.database_pool_size,
        retry_constraints=RETRY_CONSTRAINTS,
    )
    app = SeckillApp(
        db=db,
        redis=open_admission_redis(os.environ[REDIS_URL]),
        clock=clock,
        monotonic=time.monotonic,
        jitter=Random().random,
        ids=ids,
        page_tokens=PageTokens.from_settings(settings),
        tickets=Tickets(read_secret(settings.ticket_secret_file)),
        allocations=_NoOrderRpc(),  # type: ignore[arg-type]  # only one is called
        settings=settings,
    )
    server = MeshServer(settings, clock=clock, ids=ids)
    app.add_to(server)
    await app.registry.refresh()
    _KEEP.extend([server, *(asyncio.create_task(worker.run()) for worker in app.workers)])
    async with asyncio.timeout(CATCH_UP_SECONDS):
        await app.wakeups.subscribed.wait()
    await app.catch_up()
    await server.start()
    return server.port


async def main(kind: str) -> None:
    """Serves one kind until the input ends."""
    logs.configure("bench", "WARNING", json=True)
    port = await _KINDS[kind]()
    exempt_from_gc()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
