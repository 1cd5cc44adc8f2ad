"""API keys: what a call with a key costs the gateway beside one with a JWT, 10 000 keys that it
sees for the first time, and what an exchange costs merchant_rpc.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from paymesh.merchant.v1 import api_key_pb2
from paymesh.payment.v1 import payment_pb2

from bench.key_servers import KEYS, KEYS_FILE
from bench.machine import cpu_seconds, median
from bench.processes import Server, server, wait_for_http
from bench.rpc import close_channels, open_channels
from bench.servers import METHOD, SECRET_FILE, order_of
from mesh.api_key_format import key_sha256
from mesh.auth import UserTokenIssuer
from mesh.call import CALLER
from mesh.caller_tokens import CallerTokens
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from tools.processes import free_port

__all__ = ["KEYS", "Report", "measure"]

WARM = 100  # callers
# of all warm callers, one request each, with a JWT and with a key in turn: what else the machine
# does then meets both
PAIRS = 400
PAIRS_UNCOUNTED = 20
CONNECTIONS = 64
EXCHANGES = 5_000
CALLERS = (1, 8, 64)
_METHOD = "/paymesh.merchant.v1.ApiKeyService/ExchangeApiKeyDigest"

Rate = tuple[float, float]  # per second, µs of CPU
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured.

    Attributes:
        with_token, with_key: of the gateway, warm.
        more: µs that a key costs more than a JWT: the middle one of the pairs.
        more_with_renewals: the mean of the pairs, which has those in which tokens of keys were
            renewed.
        distinct: per second, µs of the gateway and of merchant_rpc per request.
        exchanges: of merchant_rpc by the number of callers at once: per second, µs, and µs of a
            bare gRPC call on this machine, which is the limit.
    """

    with_token: Rate
    with_key: Rate
    more: float
    more_with_renewals: float
    distinct: dict[str, tuple[float, float, float]]
    exchanges: dict[int, tuple[float, float, float]]


def measure() -> Report:
    """Starts the servers, measures, and ends them."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        environment = _installation(folder)
        merchants = stack.enter_context(
            server("merchants", environment, module="bench.key_servers")
        )
        shop = stack.enter_context(server("pipeline", environment))
        gateway = stack.enter_context(_gateway(shop, merchants, environment))
        echo = stack.enter_context(server("echo", environment))
        keys = (folder / "keys").read_text().split("\n")
        return uvloop.run(_measure(folder, gateway, merchants, echo, keys))


async def _measure(
    folder: Path, gateway: Server, merchants: Server, echo: Server, keys: Sequence[str]
) -> Report:
    distinct = {}
    requests = [
        _request(key, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n, key in enumerate(keys)
    ]
    for name in ("first time", "again"):
        distinct[name] = await _each_once(gateway, merchants, requests)
    addresses = [f"10.0.0.{number}" for number in range(WARM)]
    kinds = {
        "token": [*map(_request, _tokens(folder, WARM), addresses)],
        "key": [*map(_request, keys[:WARM], addresses)],
    }
    costs = await _in_turn(gateway, kinds)
    differences = [
        with_key - with_token
        for (_, with_key), (_, with_token) in zip(costs["key"], costs["token"], strict=True)
    ]
    return Report(
        with_token=_median(costs["token"]),
        with_key=_median(costs["key"]),
        more=median(differences),
        more_with_renewals=fmean(differences),
        distinct=distinct,
        exchanges={
            callers: (
                *await _exchange(folder, merchants, keys, callers),
                (await _bare(echo, callers))[1],
            )
            for callers in CALLERS
        },
    )


async def _in_turn(gateway: Server, kinds: dict[str, list[bytes]]) -> dict[str, list[Rate]]:
    """The cost of each kind in each pair; every other pair begins with the other kind."""
    connections = [
        await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(CONNECTIONS)
    ]
    costs: dict[str, list[Rate]] = {kind: [] for kind in kinds}
    for number in range(PAIRS_UNCOUNTED + PAIRS):
        for kind in sorted(kinds, reverse=number % 2 == 0):
            measured = await _once(gateway, connections, kinds[kind])
            if number >= PAIRS_UNCOUNTED:
                costs[kind].append(measured)
    for _, writer in connections:
        writer.close()
    return costs


async def _once(
    gateway: Server, connections: Sequence[Connection], requests: Sequence[bytes]
) -> Rate:
    remaining = iter(requests)
    begin, cpu_begin = perf_counter(), cpu_seconds(gateway.pid)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request in remaining:
            # merchant_rpc may be late on a busy machine
            while await _status(reader, writer, request) == 503:
                pass

    await asyncio.gather(*(client(*connection) for connection in connections))
    spent = cpu_seconds(gateway.pid) - cpu_begin
    return len(requests) / (perf_counter() - begin), spent / len(requests) * 1e6


def _median(measured: Sequence[Rate]) -> Rate:
    return median([rate for rate, _ in measured]), median([cost for _, cost in measured])


def _request(credential: str, address: str) -> bytes:
    return (
        f"GET /api/v1/payments/order/{order_of(1)} HTTP/1.1\r\nhost: bench\r\n"
        f"x-forwarded-for: {address}\r\nauthorization: Bearer {credential}\r\n\r\n"
    ).encode()


async def _each_once(
    gateway: Server, merchants: Server, requests: Sequence[bytes]
) -> tuple[float, float, float]:
    numbers = count()
    begin = perf_counter()
    before = cpu_seconds(gateway.pid), cpu_seconds(merchants.pid)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        while (number := next(numbers)) < len(requests):
            # on a busy machine some exchange takes longer than a request waits for it
            while await _status(reader, writer, requests[number]) == 503:
                pass
        writer.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    done = len(requests)
    return (
        done / (perf_counter() - begin),
        (cpu_seconds(gateway.pid) - before[0]) / done * 1e6,
        (cpu_seconds(merchants.pid) - before[1]) / done * 1e6,
    )


async def _status(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> int:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    status = int(head.split(b" ", 2)[1])
    if status not in {200, 503}:
        raise RuntimeError((head + body).decode())
    return status


async def _exchange(folder: Path, merchants: Server, keys: Sequence[str], callers: int) -> Rate:
    clock = SystemClock()
    own = Ed25519PrivateKey.from_private_bytes((folder / "gateway.raw").read_bytes())
    signer = CallerTokens("gateway", clock=clock, ids=UlidIds(clock), private_key=own)
    requests = [
        api_key_pb2.ExchangeApiKeyDigestRequest(
            key_sha256=key_sha256(key), prefix="pmsk_test_", client_address="203.0.113.7"
        ).SerializeToString()
        for key in keys
    ]
    metadata = ((CALLER, signer.sign("merchant_rpc")),)
    return await _rate(merchants, _METHOD, requests, callers, metadata)


async def _bare(echo: Server, callers: int) -> Rate:
    request = payment_pb2.GetPaymentByOrderIdRequest(order_id=order_of(1)).SerializeToString()
    return await _rate(echo, METHOD, [request] * EXCHANGES, callers, ())


async def _rate(
    server: Server,
    method: str,
    requests: Sequence[bytes],
    callers: int,
    metadata: tuple[tuple[str, str], ...],
) -> Rate:
    numbers = count()
    channels = open_channels(server, callers)
    calls: list[Any] = [channel.unary_unary(method) for channel in channels]

    async def caller(index: int) -> None:
        call = calls[index % len(calls)]
        while (number := next(numbers)) < EXCHANGES:
            await call(requests[number], metadata=metadata, timeout=10)

    begin, cpu_begin = perf_counter(), cpu_seconds(server.pid)
    await asyncio.gather(*map(caller, range(callers)))
    spent = cpu_seconds(server.pid) - cpu_begin
    await close_channels(channels)
    return EXCHANGES / (perf_counter() - begin), spent / EXCHANGES * 1e6


def _tokens(folder: Path, number: int) -> list[str]:
    clock = SystemClock()
    issuer = UserTokenIssuer(
        (folder / "secret").read_bytes().strip(), clock=clock, ids=UlidIds(clock)
    )
    return [
        issuer.issue(f"clerk-{each}", roles=("merchant",), merchant_id="mall")
        for each in range(number)
    ]


def _installation(folder: Path) -> dict[str, str]:
    """Keys and variables of the processes."""
    (folder / "secret").write_text(secrets.token_hex(32))
    (folder / "public").mkdir()
    for service in ("gateway", "merchant_rpc"):
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(service.encode()).digest())
        (folder / f"{service}.raw").write_bytes(key.private_bytes_raw())
        (folder / f"{service}.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        (folder / "public" / f"{service}.pub.pem").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
    return {
        SECRET_FILE: str(folder / "secret"),
        KEYS_FILE: str(folder / "keys"),
        "PAYMESH_VAR_DIR": str(folder),
        "PAYMESH_CALLER_KEYS_DIR": str(folder / "public"),
        "PAYMESH_USER_TOKEN_SECRET_FILE": str(folder / "secret"),
        "MERCHANT_RPC_CALLER_KEY_FILE": str(folder / "merchant_rpc.pem"),
        "GATEWAY_CALLER_KEY_FILE": str(folder / "gateway.pem"),
    }


@contextmanager
def _gateway(shop: Server, merchants: Server, environment: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    targets = {
        "payment_rpc": [f"127.0.0.1:{shop.port}"],
        "merchant_rpc": [f"127.0.0.1:{merchants.port}"],
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway"],
        env={
            **os.environ,
            **environment,
            "GATEWAY_PORT": str(port),
            "GATEWAY_TRUSTED_PROXIES": json.dumps(["127.0.0.1"]),
            "PAYMESH_STATIC_TARGETS": json.dumps(targets),
            "PAYMESH_LOG_LEVEL": "WARNING",
        },
    )
    try:
        wait_for_http(f"http://127.0.0.1:{port}/healthz")
        yield Server(name="gateway", port=port, pid=process.pid)
    finally:
        process.kill()
        process.wait()
