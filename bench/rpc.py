"""The RPC layer: GetPaymentByOrderId with 10 000 distinct tokens against a bare grpc.aio echo of
the same messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
from paymesh.payment.v1 import payment_pb2

from bench.machine import cpu_seconds, median
from bench.processes import Server
from bench.servers import METHOD, USERS, order_of
from mesh.auth import UserTokenIssuer
from mesh.clock import SystemClock
from mesh.ids import UlidIds

CONCURRENCY = 64
# Half of what a server takes: answers that leave together are followed by as many new calls, before
# it has ended the old ones.
CALLERS_PER_CONNECTION = 48
ROUNDS = 7
ROUND_SECONDS = 1.5


def make_tokens(secret_file: Path) -> list[str]:
    """A token for each of 10 000 buyers."""
    clock = SystemClock()
    issuer = UserTokenIssuer(secret_file.read_bytes().strip(), clock=clock, ids=UlidIds(clock))
    return [issuer.issue(f"user-{user}") for user in range(USERS)]


async def measure(
    servers: Sequence[Server], tokens: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Calls per second and µs of server CPU per call of each server: rounds in turn, medians."""
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    costs: dict[str, list[float]] = {server.name: [] for server in servers}
    channels = [open_channels(server, CONCURRENCY) for server in servers]
    for round_number in range(ROUNDS + 1):
        for server, those in zip(servers, channels, strict=True):
            rate, cost = await _round(server, those, tokens)
            if round_number:  # the first one warms up
                rates[server.name].append(rate)
                costs[server.name].append(cost)
    for those in channels:
        await close_channels(those)
    return {
        server.name: (median(rates[server.name]), median(costs[server.name])) for server in servers
    }


def open_channels(server: Server, callers: int) -> list[grpc.aio.Channel]:
    """As many connections as so many callers at once need."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options)
        for _ in range(0, callers, CALLERS_PER_CONNECTION)
    ]


async def close_channels(channels: Sequence[grpc.aio.Channel]) -> None:
    """Closes all of them."""
    await asyncio.gather(*(channel.close() for channel in channels))


async def _round(
    server: Server, channels: Sequence[grpc.aio.Channel], tokens: Sequence[str]
) -> tuple[float, float]:
    calls = [
        channel.unary_unary(
            METHOD,
            request_serializer=bytes,
            response_deserializer=payment_pb2.GetPaymentByOrderIdResponse.FromString,
        )
        for channel in channels
    ]
    requests = [
        payment_pb2.GetPaymentByOrderIdRequest(order_id=order_of(user)).SerializeToString()
        for user in range(USERS)
    ]
    numbers = count()
    begin, cpu_begin = perf_counter(), cpu_seconds(server.pid)
    end = begin + ROUND_SECONDS
    done = 0

    async def caller(call: Any) -> None:
        nonlocal done
        while perf_counter() < end:
            user = next(numbers) % USERS
            await call(
                requests[user], timeout=5, metadata=(("authorization", f"Bearer {tokens[user]}"),)
            )
            done += 1

    await asyncio.gather(*(caller(calls[number % len(calls)]) for number in range(CONCURRENCY)))
    return done / (perf_counter() - begin), (cpu_seconds(server.pid) - cpu_begin) / done * 1e6
