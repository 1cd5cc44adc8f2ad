"""A webhook of Stripe, from the socket to the commit: payment_rpc's CPU per event that makes a
payment paid, beside the same call answered at once by a servicer that does nothing, and beside the
same event delivered 1000 times. `python -m bench.webhooks KIND` is a server under measurement:

    empty      the pipeline of the mesh, and a servicer that acknowledges
    webhooks   payment_rpc on the database of BENCH_DATABASE_URL
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import time
from typing import Any

import grpc
import uvloop
from google.api import httpbody_pb2
from paymesh.payment.v1 import callback_pb2, callback_pb2_grpc

from bench.machine import cpu_seconds
from bench.payment_apps import payment_app
from bench.processes import Server
from bench.servers import settings
from mesh import logs
from mesh.clock import SystemClock
from mesh.db import open_database
from mesh.ids import UlidIds
from mesh.money import Money
from mesh.process import exempt_from_gc
from mesh.server import MeshServer
from payment_rpc.channels.stripe.api import API_VERSION
from payment_rpc.channels.stripe.channel import open_channel
from payment_rpc.channels.stripe.credentials import parse
from payment_rpc.domain.attempt import Attempt, AttemptState
from payment_rpc.domain.payment import CASHIER, Payment
from payment_rpc.store import attempts, payments
from payment_rpc.tables import metadata

CHANNEL = "stripe_000000000000"
SECRET = "whsec_bench"
WARM, MEASURED, EQUAL = 100, 600, 1000  # below what one channel may send at once
CALLERS = 8
_METHOD = "/paymesh.payment.v1.CallbackService/HandleCallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """µs of payment_rpc's CPU per webhook."""

    new: float
    equal: float


def attempt_id_of(number: int) -> str:
    """The attempt that a webhook is about."""
    return f"ATT{number:026d}"


def signed(number: int) -> tuple[bytes, str]:
    """The event that an attempt is paid, and its signature."""
    stamp = round(time())
    intent = {
        "id": f"pi_{number}",
        "object": "payment_intent",
        "amount": 9999,
        "amount_received": 9999,
        "currency": "usd",
        "status": "succeeded",
        "metadata": {"attempt_id": attempt_id_of(number)},
    }
    event = {
        "id": f"evt_{number}",
        "object": "event",
        "api_version": API_VERSION,
        "created": stamp,
        "type": "payment_intent.succeeded",
        "data": {"object": intent},
    }
    body = json.dumps(event).encode()
    digest = hmac.new(SECRET.encode(), b"%d." % stamp + body, hashlib.sha256).hexdigest()
    return body, f"t={stamp},v1={digest}"


async def measure(server: Server) -> Cost:
    """New events, then one event again and again.

    Raises:
        RuntimeError: one was not acknowledged.
    """
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary(
            _METHOD,
            request_serializer=callback_pb2.HandleCallbackRequest.SerializeToString,
            response_deserializer=callback_pb2.HandleCallbackResponse.FromString,
        )

        async def deliver(number: int) -> None:
            body, signature = signed(number)
            answer = await call(
                callback_pb2.HandleCallbackRequest(
                    channel=CHANNEL,
                    body=httpbody_pb2.HttpBody(content_type="application/json", data=body),
                    headers={"stripe-signature": signature},
                ),
                timeout=5,
            )
            if answer.status_code != 200:
                raise RuntimeError(f"answered {answer.status_code}")

        await _cpu_per_call(server, deliver, range(WARM))
        new = await _cpu_per_call(server, deliver, range(WARM, WARM + MEASURED))
        equal = await _cpu_per_call(server, deliver, [0] * EQUAL)
    return Cost(new=new, equal=equal)


async def _cpu_per_call(
    server: Server, deliver: Callable[[int], Any], numbers: Sequence[int]
) -> float:
    left = iter(numbers)
    before = cpu_seconds(server.pid)

    async def caller() -> None:
        for number in left:
            await deliver(number)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return (cpu_seconds(server.pid) - before) / len(numbers) * 1e6


class _Acknowledges(callback_pb2_grpc.CallbackServiceServicer):
    """Does nothing."""

    async def HandleCallback(self, request: Any, context: Any) -> Any:  # noqa: ARG002  grpc's signature
        return callback_pb2.HandleCallbackResponse(body=httpbody_pb2.HttpBody(), status_code=200)


async def _fill(db: Any, clock: SystemClock) -> None:
    """A payment that waits for its buyer, for each event."""
    now = clock.now()

    async def fill(tx: Any) -> None:
        for number in range(WARM + MEASURED):
            payment = Payment.start(
                payment_id=f"PAY{number:026d}",
                merchant_id="mall",
                order_id=f"ORD{number:026d}",
                user_id="user-1",
                amount=Money(9999, "USD"),
                payment_method=CASHIER,
                channel=CHANNEL,
                card=None,
                expires_at=now + timedelta(minutes=30),
                at=now,
            )
            attempt = Attempt.start(
                attempt_id=attempt_id_of(number),
                payment_id=payment.payment_id,
                merchant_id="mall",
                channel=CHANNEL,
                amount=payment.amount,
                lease=timedelta(seconds=20),
                at=now,
            ).remember(f"pi_{number}", at=now)
            await payments.insert_payment(tx, payment)
            await attempts.insert_attempt(tx, attempt.to(AttemptState.PENDING, at=now))

    await db.run(fill)


async def _webhooks(server: MeshServer, clock: SystemClock) -> None:
    db = open_database(os.environ["BENCH_DATABASE_URL"], metadata)
    async with db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await _fill(db, clock)
    channel = open_channel(
        account=CHANNEL,
        credentials=parse({"secret_key": "sk_test_12345", "webhook_secrets": [SECRET]}),
        is_live=False,
        notify_url="",
        base_url="http://127.0.0.1:9",
        now=clock.now,
    )
    payment_app(db, ids=UlidIds(clock), channels={CHANNEL: channel}).add_to(server)


async def main(kind: str) -> None:
    """Serves one kind until the input ends."""
    logs.configure("bench", "WARNING", json=True)
    clock = SystemClock()
    server = MeshServer(settings(), clock=clock, ids=UlidIds(clock))
    if kind == "empty":
        answers: Any = _Acknowledges()  # type: ignore[abstract]  # only one is called
        server.add(callback_pb2_grpc.add_CallbackServiceServicer_to_server, answers)
    else:
        await _webhooks(server, clock)
    await server.start()
    exempt_from_gc()
    print(server.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
