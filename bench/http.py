"""The gateway against a bare pass-through: CPU of each per request, before the same upstream
server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from time import perf_counter

from bench.machine import cpu_seconds, median
from bench.processes import Server
from bench.servers import order_of

CONNECTIONS = 32
ROUNDS = 7
ROUND_SECONDS = 1.5


async def measure(
    servers: Sequence[Server], tokens: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Requests per second and µs of CPU per request of each: rounds in turn, medians."""
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    costs: dict[str, list[float]] = {server.name: [] for server in servers}
    requests = [
        (
            f"GET /api/v1/payments/order/{order_of(user)} HTTP/1.1\r\nhost: "
            f"bench\r\nauthorization: Bearer {token}\r\n\r\n"
        ).encode()
        for user, token in enumerate(tokens)
    ]
    for round_number in range(ROUNDS + 1):
        for server in servers:
            rate, cost = await run_round(server, requests)
            if round_number:
                rates[server.name].append(rate)
                costs[server.name].append(cost)
    return {
        server.name: (median(rates[server.name]), median(costs[server.name])) for server in servers
    }


async def run_round(server: Server, requests: Sequence[bytes]) -> tuple[float, float]:
    """Requests per second and µs of CPU per request while clients send these, one after the other,
    for ROUND_SECONDS.

    Raises:
        RuntimeError: one was not answered with 200.
    """
    numbers = count()
    begin, cpu_begin = perf_counter(), cpu_seconds(server.pid)
    end = begin + ROUND_SECONDS
    done = 0

    async def client() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while perf_counter() < end:
            writer.write(requests[next(numbers) % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(
                    head.decode() + (await reader.read(1000)).decode(errors="replace")
                )
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            done += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return done / (perf_counter() - begin), (cpu_seconds(server.pid) - cpu_begin) / done * 1e6
