"""The servers under measurement, each a process of its own: `python -m bench.servers KIND` prints
its port and serves until its input ends.

    echo       bare grpc.aio: GetPaymentByOrderId answered with a fixed payment, nothing around it
    pipeline the same answer behind the whole pipeline of the mesh: token, access, validation,
        metrics, logs
    payment    the real servicer: rows in SQLite, no cache
    cached     the real servicer with Redis at BENCH_REDIS_URL
    passthrough uvicorn and grpc.aio, bytes in, bytes out: what any HTTP server in front of gRPC costs
        at least
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import uvicorn
import uvloop
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

from bench.payment_apps import payment_app
from mesh import logs
from mesh.call import Caller, Role
from mesh.clock import SystemClock
from mesh.db import open_database
from mesh.ids import UlidIds
from mesh.money import Money
from mesh.process import exempt_from_gc
from mesh.redis_client import open_redis
from mesh.server import MeshServer
from payment_rpc.app import PaymentApp
from payment_rpc.domain.payment import CREDIT_CARD, Payment
from payment_rpc.servicer.messages import payment_message
from payment_rpc.settings import PaymentSettings
from payment_rpc.store import payment_pages, payments
from payment_rpc.store.payment_pages import PaymentPage
from payment_rpc.tables import metadata

METHOD = "/paymesh.payment.v1.PaymentService/GetPaymentByOrderId"
USERS = 10_000
SECRET_FILE = "BENCH_SECRET_FILE"


def order_of(user: int) -> str:
    """The order of a user of the bench."""
    return f"ORD{user:026d}"


def payment_of(user: int) -> Payment:
    """The payment that a user of the bench has."""
    now = datetime(2026, 11, 20, tzinfo=UTC)
    return Payment.start(
        payment_id=f"PAY{user:026d}",
        merchant_id="mall",
        order_id=order_of(user),
        user_id=f"user-{user}",
        amount=Money(9999, "CNY"),
        payment_method=CREDIT_CARD,
        channel="sandbox",
        card=None,
        expires_at=now + timedelta(minutes=30),
        at=now,
    )


class Fixed(payment_pb2_grpc.PaymentServiceServicer):
    """Answers at once."""

    def __init__(self) -> None:
        self._payment = payment_message(payment_of(1))

    async def GetPaymentByOrderId(self, request: Any, context: Any) -> Any:  # noqa: ARG002  grpc's signature
        return payment_pb2.GetPaymentByOrderIdResponse(payment=self._payment)


def _fixed() -> Fixed:
    return Fixed()  # type: ignore[abstract]  # only one is called


async def echo() -> int:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    payment_pb2_grpc.add_PaymentServiceServicer_to_server(_fixed(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEEP.append(server)
    return port


async def pipeline() -> int:
    return await _mesh_server(
        lambda server: server.add(payment_pb2_grpc.add_PaymentServiceServicer_to_server, _fixed())
    )


async def payment() -> int:
    return await _mesh_server((await _payment_rpc(None)).add_to)


async def cached() -> int:
    redis = open_redis(os.environ["BENCH_REDIS_URL"])
    return await _mesh_server((await _payment_rpc(redis)).add_to)


async def passthrough() -> int:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{os.environ['BENCH_UPSTREAM_PORT']}")
    call = channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
    request = payment_pb2.GetPaymentByOrderIdRequest(order_id=order_of(1)).SerializeToString()

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001  ASGI's signature
        authorization = next(
            (value for name, value in scope["headers"] if name == b"authorization"), b""
        ).decode()
        answer = await call(request, timeout=5, metadata=(("authorization", authorization),))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/octet-stream"),
                    (b"content-length", str(len(answer)).encode()),
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="error", lifespan="off", access_log=False
        )
    )
    _KEEP.extend([channel, asyncio.create_task(server.serve())])
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])


_KEEP: list[Any] = []
_KINDS = {kind.__name__: kind for kind in (echo, pipeline, payment, cached, passthrough)}


def settings() -> PaymentSettings:
    """Those of a server under measurement."""
    secret = Path(os.environ[SECRET_FILE])
    return PaymentSettings(
        port=0,
        user_token_secret_file=secret,
        page_token_secret_file=secret,
        sandbox_api_key_file=secret,
        log_level="WARNING",
        environment="test",
    )


async def _mesh_server(add_to: Callable[[MeshServer], None]) -> int:
    logs.configure("bench", "WARNING", json=True)
    clock = SystemClock()
    server = MeshServer(settings(), clock=clock, ids=UlidIds(clock))
    add_to(server)
    await server.start()
    _KEEP.append(server)
    return server.port


async def _payment_rpc(redis: Any) -> PaymentApp:
    db = open_database(
        f"sqlite+aiosqlite:///{Path(os.environ[SECRET_FILE]).parent / 'payments.db'}", metadata
    )
    async with db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)

    async def fill(tx: Any, first: int) -> None:
        for user in range(first, min(first + 1000, USERS)):
            await payments.insert_payment(tx, payment_of(user))

    if not (await db.read(_is_filled)):
        for first in range(0, USERS, 1000):
            await db.run(fill, first)
    return payment_app(db, ids=UlidIds(SystemClock()), channels={}, redis=redis)


async def _is_filled(tx: Any) -> bool:
    admin = Caller(role=Role.ADMIN)
    page = PaymentPage(merchant_id="mall", order_id=order_of(USERS - 1), limit=1)
    last = await payment_pages.list_payments(tx, page, visible_to=admin)
    return bool(last)


async def main(kind: str) -> None:
    """Serves one kind until the input ends."""
    port = await _KINDS[kind]()
    exempt_from_gc()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
