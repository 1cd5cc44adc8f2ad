"""SeckillAction with 10 000 distinct users and tokens against a bare grpc.aio echo of the same
messages: while there is plenty of stock, and when everything is sold; what Redis hears of a sale
that is sold out; and how long a buyer waits for the order at half load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
from paymesh.seckill.v1 import seckill_pb2

from bench.machine import cpu_seconds, median
from bench.processes import Server, server
from bench.rpc import close_channels, make_tokens, open_channels
from bench.seckill_sale import Sale, open_rows
from bench.seckill_servers import DATABASE_URL, REDIS_URL
from bench.servers import SECRET_FILE, USERS
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.usecases.admission import gate

METHOD = "/paymesh.seckill.v1.SeckillService/SeckillAction"
CONCURRENCY = 64
ROUND_SECONDS = 0.5  # short, so that what else the machine does falls on all arms alike
PLENTY = 100_000_000  # units
CLICKS_OF_ONE = 100_000  # limit per buyer of the sale that sells: all of these clicks are served
FLAG_SECONDS_MIN = gate.REFUSAL_SECONDS * (1 - gate.JITTER)
# of a process that are under way at once, a setting: when a flag has ended, so many may ask
# together
CALLS_MAX = 2
WAITING = 256
WAIT_MS = 3000
_QUEUED, _SOLD_OUT, _BOUGHT = b"2002", b"2001", b"2000"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to be clicked on: the product, and the code that every answer must have. `numbers`:
    of its clicks, round after round, so that every buyer has a turn."""

    name: str
    server: Server
    sku_id: str
    code: bytes
    numbers: Iterator[int] = field(default_factory=count)


@dataclass(slots=True)
class Rates:
    """What the rounds of an arm measured: calls per second, µs of CPU of the server per call."""

    calls: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ActionReport:
    """Of each arm: calls per second, share of the echo's, µs of server CPU per call, of which more
    than the echo's; medians, those of ratios and differences within a round. Of the rounds that
    were sold out: scripts per second, and all commands, those within scripts too."""

    arms: Mapping[str, tuple[float, float, float, float]]
    scripts_per_second: float
    commands_per_second: float


@dataclass(frozen=True, slots=True)
class WaitReport:
    """Clicks per second at capacity, at half load, and the seconds from a click to its final result
    there, p50 and p99.
    """

    capacity: float
    offered: float
    p50_seconds: float
    p99_seconds: float


async def measure_action(folder: Path, redis_url: str, *, rounds: int) -> ActionReport:
    """Rounds in turn, medians."""
    environment = {
        SECRET_FILE: str(folder / "secret"),
        REDIS_URL: redis_url,
        DATABASE_URL: f"sqlite+aiosqlite:///{folder / 'seckill.db'}",
    }
    tokens = make_tokens(folder / "secret")
    db, redis = await open_rows(environment[DATABASE_URL]), open_admission_redis(redis_url)
    sold = await Sale.open(db, redis, sku_id="sold", total=1)
    await sold.admit(range(USERS, USERS + 1))  # somebody who does not click below
    await sold.drain()
    await Sale.open(db, redis, sku_id="plenty", total=PLENTY, limit=CLICKS_OF_ONE)
    await db.close()
    with ExitStack() as stack:

        def start(kind: str) -> Server:
            return stack.enter_context(server(kind, environment, module="bench.seckill_servers"))

        echo, pipeline, front = start("echo"), start("pipeline"), start("front")
        arms = [
            Arm("echo", echo, "plenty", _QUEUED),
            Arm("pipeline", pipeline, "plenty", _QUEUED),
            Arm("selling", front, "plenty", _QUEUED),
            Arm("sold out", front, "sold", _SOLD_OUT),
        ]
        report = await _in_turn(arms, tokens, sold, rounds)
    await redis.aclose()
    return report


async def _in_turn(
    arms: Sequence[Arm], tokens: Sequence[str], sold: Sale, rounds: int
) -> ActionReport:
    rates = {arm.name: Rates() for arm in arms}
    channels = {arm.server.port: open_channels(arm.server, CONCURRENCY) for arm in arms}
    scripts, commands, seconds = 0, 0, 0.0
    for arm in arms:  # a server remembers tokens for a minute: the bench is over by then
        await _round(arm, channels[arm.server.port], tokens, clicks_min=USERS)
    for _ in range(rounds):
        for arm in arms:
            before, begin = await sold.commands(), perf_counter()
            rate, cost = await _round(arm, channels[arm.server.port], tokens)
            rates[arm.name].calls.append(rate)
            rates[arm.name].costs.append(cost)
            if arm.code is _SOLD_OUT:
                after = await sold.commands()
                seconds += perf_counter() - begin
                scripts += after["evalsha"] - before["evalsha"]
                commands += sum(after.values()) - sum(before.values()) - 1  # our own INFO
    for those in channels.values():
        await close_channels(those)
    return ActionReport(
        {name: _beside(found, rates["echo"]) for name, found in rates.items()},
        scripts / seconds,
        commands / seconds,
    )


def _beside(found: Rates, limit: Rates) -> tuple[float, float, float, float]:
    ratios = [mine / theirs for mine, theirs in zip(found.calls, limit.calls, strict=True)]
    added = [mine - theirs for mine, theirs in zip(found.costs, limit.costs, strict=True)]
    return median(found.calls), median(ratios), median(found.costs), median(added)


async def _round(
    arm: Arm, channels: Sequence[grpc.aio.Channel], tokens: Sequence[str], *, clicks_min: int = 0
) -> tuple[float, float]:
    calls = [
        channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
        for channel in channels
    ]
    request = seckill_pb2.SeckillActionRequest(sku_id=arm.sku_id).SerializeToString()
    begin, cpu_begin = perf_counter(), cpu_seconds(arm.server.pid)
    end = begin + ROUND_SECONDS
    done = 0

    async def buyer(call: Any) -> None:
        nonlocal done
        while done < clicks_min or perf_counter() < end:
            answer = await call(
                request,
                timeout=5,
                metadata=(("authorization", f"Bearer {tokens[next(arm.numbers) % USERS]}"),),
            )
            if arm.code not in answer:
                raise AssertionError(f"{arm.name}: {answer!r}")
            done += 1

    await asyncio.gather(*(buyer(calls[number % len(calls)]) for number in range(CONCURRENCY)))
    return done / (perf_counter() - begin), (cpu_seconds(arm.server.pid) - cpu_begin) / done * 1e6


async def measure_wait(
    folder: Path, redis_url: str, database_url: str, *, seconds: float
) -> WaitReport:
    """From a click to its final result, with one process that admits and consumes."""
    environment = {
        SECRET_FILE: str(folder / "secret"),
        REDIS_URL: redis_url,
        DATABASE_URL: database_url,
    }
    tokens = make_tokens(folder / "secret")
    db, redis = await open_rows(database_url), open_admission_redis(redis_url)
    await Sale.open(db, redis, sku_id="plenty", total=PLENTY, limit=CLICKS_OF_ONE)
    await db.close()
    await redis.aclose()
    with server("whole", environment, module="bench.seckill_servers") as whole:
        channels = open_channels(whole, WAITING)
        call = _waiting_call(channels, tokens)
        await _closed(call, seconds)  # warms up
        capacity = await _closed(call, seconds)
        times = sorted(await _open(call, capacity / 2, seconds))
        await close_channels(channels)
    return WaitReport(
        capacity, len(times) / seconds, times[len(times) // 2], times[len(times) * 99 // 100]
    )


def _waiting_call(channels: Sequence[grpc.aio.Channel], tokens: Sequence[str]) -> Callable[[], Any]:
    calls = cycle(
        [
            channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)
            for channel in channels
        ]
    )
    request = seckill_pb2.SeckillActionRequest(sku_id="plenty", wait_ms=WAIT_MS).SerializeToString()
    numbers = count()

    async def click() -> None:
        answer = await next(calls)(
            request,
            timeout=10,
            metadata=(("authorization", f"Bearer {tokens[next(numbers) % USERS]}"),),
        )
        if _BOUGHT not in answer:
            raise AssertionError(f"not final: {answer!r}")

    return click


async def _closed(click: Callable[[], Any], seconds: float) -> float:
    begin = perf_counter()
    done = 0

    async def buyer() -> None:
        nonlocal done
        while perf_counter() < begin + seconds:
            await click()
            done += 1

    await asyncio.gather(*(buyer() for _ in range(WAITING)))
    return done / (perf_counter() - begin)


async def _open(click: Callable[[], Any], rate: float, seconds: float) -> list[float]:
    """Clicks come when they come, not when the last one was answered: seconds from the moment in
    which each was due.
    """
    begin = perf_counter()
    times: list[float] = []

    async def one(due: float) -> None:
        await click()
        times.append(perf_counter() - due)

    async with asyncio.TaskGroup() as clicks:
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            if (pause := due - perf_counter()) > 0:
                await asyncio.sleep(pause)
            clicks.create_task(one(due))
    return times
