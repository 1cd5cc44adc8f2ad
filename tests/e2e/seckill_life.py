"""The life of a sale under faults: publications and closes that die at every step, windows and
wrong clocks, what comes back after the end, orders that expire, and crowds of whom nearly everybody
goes home without anything."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import grpc.aio
from paymesh.seckill.v1 import seckill_pb2

from mesh.errors import MeshError
from tests.e2e import seckill_armable
from tests.e2e.seckill_faults import restore
from tests.e2e.seckill_invariants import Expected, Invariants
from tests.e2e.seckill_processes import BACKS, FRONT, SeckillProcesses, until
from tests.e2e.seckill_sale import AGAIN_SECONDS, SHELF, Sale, Told, sale_of

A, B = "seckill_a", "seckill_b"
FRONT_2 = f"{FRONT}_2"
CLOCKS_SECONDS = {FRONT: "600", FRONT_2: "-600"}
PIPE = 64  # sold-out calls under way
# a million refused buyers may add no more than the noise of a Redis that runs
REDIS_BYTES_MAX = 256 * 1024
FLAG_SECONDS = 0.1  # the shortest life of a remembered refusal
STORIES: list[Story] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """`tell` gets the stage, a seed and how big: `quick` or `whole`."""

    name: str
    tell: Callable[[SeckillProcesses, int, int], Awaitable[None]]
    quick: int = 1
    whole: int = 1
    runs: int = 1
    is_quick: bool = True


def story(name: str, **choices: Any) -> Callable[..., Any]:
    """Registers a story."""

    def register(tell: Callable[[SeckillProcesses, int, int], Awaitable[None]]) -> Any:
        STORIES.append(Story(name=name, tell=tell, **choices))
        return tell

    return register


async def _all_is_well(sale: Sale, checks: Invariants, *, closes: bool = True) -> None:
    problems = await checks.problems()
    if closes and not problems:
        problems = await checks.problems_after_close()
    assert not problems, "\n".join([*problems, str(dict(sale.codes))])


# --- published and closed, with deaths ------------------------------------------------------------


def _publish_dies(point: str) -> Any:
    async def tell(stage: SeckillProcesses, seed: int, _size: int) -> None:
        async with sale_of(stage, units=20, buyers=60, seed=seed, opens=False) as sale:
            checks = Invariants(sale, Expected(), stage.log_marks())
            await sale.open(publish=False)
            await stage.arm(A, f"seckill.publish.{point}=kill")
            with contextlib.suppress(MeshError):
                await sale.verb("Publish", at=A)
            await stage.died(A)
            sale.fronts = [B]
            # nobody asks again
            await sale.reached(lambda: _is_open(sale), "sale that the other process opens")
            assert _shelf(sale) == SHELF - sale.units, "units left the shelf twice, or not at all"
            await stage.run_again(A)
            sale.fronts = [A, B]
            await sale.crowd()
            await checks.sell_out()
            await _all_is_well(sale, checks)

    return tell


async def _is_open(sale: Sale) -> bool:
    rows = sale.stage.rows(
        "seckill_rpc",
        "SELECT state FROM activity WHERE activity_id = :activity",
        activity=sale.activity_id,
    )
    with sale.stage.stock() as stock:
        meta: Any = stock.hgetall(sale.keys.meta)
    return bool(rows[0].state == "OPEN" and meta.get("state") == "OPEN" and "hold" not in meta)


def _shelf(sale: Sale) -> int:
    [(available,)] = sale.stage.rows(
        "order_rpc", "SELECT available FROM stock WHERE sku_id = :sku", sku=sale.sku_id
    )
    return int(available)


def _close_dies(point: str) -> Any:
    async def tell(stage: SeckillProcesses, seed: int, _size: int) -> None:
        async with sale_of(stage, units=40, buyers=30, seed=seed) as sale:
            checks = Invariants(sale, Expected(sells_out=False), stage.log_marks())
            await sale.crowd()
            await checks.rest()
            await _all_is_well(sale, checks, closes=False)
            await stage.arm(A, f"seckill.close.{point}=kill")
            with contextlib.suppress(MeshError):
                await sale.verb("Close", at=A)
            await stage.died(A)
            sale.fronts = [B]

            async def closed() -> bool:
                return bool(
                    stage.rows(
                        "seckill_rpc",
                        "SELECT 1 FROM activity WHERE activity_id = :activity AND state = 'CLOSED'",
                        activity=sale.activity_id,
                    )
                )

            await sale.reached(closed, "sale that the other process closes")  # nobody asks again
            await stage.run_again(A)
            sale.fronts = [A, B]
            problems = await checks.problems_after_close()
            assert not problems, problems

    return tell


for _point in ("after_row", "after_allocate", "after_clear", "after_open", "after_load"):
    story(f"publish kill -9 {_point}")(_publish_dies(_point))
for _point in ("after_row", "after_drained", "after_closed", "after_drop"):
    story(f"close kill -9 {_point}")(_close_dies(_point))


@story("closed under load and rebuilds; late returns; the next sale of the product", runs=5)
async def _close_under_load(stage: SeckillProcesses, seed: int, _size: int) -> None:
    async with sale_of(stage, units=400, buyers=500, seed=seed) as sale:
        checks = Invariants(sale, Expected(sells_out=False), stage.log_marks())
        crowd = asyncio.create_task(sale.crowd())
        await sale.progress(0.3)
        rebuild = asyncio.create_task(sale.rebuild(A))
        await sale.close()
        with contextlib.suppress(MeshError):
            await rebuild
        await crowd
        problems = await checks.problems_after_close()
        assert not problems, problems
        first, first_units = sale.activity_id, checks.live_orders
        told = await sale.click("too-late", "l")
        assert told is not None, told
        assert (told.status, told.code) == (2, "2005"), told
        # The next sale of the same product begins with clean views, and the first one cannot touch
        # them.
        buyers = [order.user_id for order in first_units[:20]]
        sale.units = 40
        await _next_sale(sale)
        with stage.stock() as stock:
            assert not [user for user in buyers if stock.exists(sale.keys.view(user))], (
                "views of the first sale were left"
            )
        told_next = await asyncio.gather(*(_buy_next(sale, user) for user in buyers))
        assert {each.status for each in told_next if each is not None} == {1}, told_next
        await asyncio.gather(
            *(sale.cancel(order.user_id, order.order_id) for order in first_units[:10])
        )
        await sale.reached(lambda: _all_returned(sale, first, 10), "late returns")
        told_next = await asyncio.gather(*(sale.result(user) for user in buyers))
        assert {each.status for each in told_next if each is not None} == {1}, (
            "a late return of the first sale changed the second"
        )
        await sale.close()
        await sale.reached(checks.nothing_undelivered, "delivery of everything")
        live = stage.rows(
            "seckill_rpc",
            "SELECT COUNT(*) FROM seckill_order WHERE activity_id IN (:one, :two) AND state = "
            "'LIVE'",
            one=first,
            two=sale.activity_id,
        )[0][0]
        assert _shelf(sale) + live == SHELF, (_shelf(sale), live)


async def _buy_next(sale: Sale, user: str) -> Told | None:
    """A process learns of the next sale within a moment; until then the last one is over."""
    deadline = time.monotonic() + 5
    while (
        told := await sale.click(user, "next", wait_ms=3000)
    ) is not None and told.code == "2005":
        assert time.monotonic() < deadline, told
        await asyncio.sleep(AGAIN_SECONDS)
    return told


async def _next_sale(sale: Sale) -> None:
    sale.forget()
    await sale.plan()
    await sale.publish()


async def _all_returned(sale: Sale, activity_id: str, count: int) -> bool:
    returned = sale.stage.rows(
        "seckill_rpc",
        "SELECT COUNT(*) FROM seckill_order WHERE activity_id = :activity AND state = 'RETURNED'",
        activity=activity_id,
    )
    return bool(returned[0][0] >= count)


@story("closed, then failover to a copy of Redis in which it was open", runs=5)
async def _closed_stays_closed(stage: SeckillProcesses, seed: int, _size: int) -> None:
    async with sale_of(stage, units=60, buyers=30, seed=seed) as sale:
        checks = Invariants(sale, Expected(sells_out=False), stage.log_marks())
        await sale.crowd()
        await checks.rest()
        copy = stage.copy_redis()
        problems = await checks.problems_after_close()
        assert not problems, problems
        stage.restart_redis(keep=False, data=copy)
        with stage.stock() as stock:
            assert stock.hget(sale.keys.meta, "state") in {"OPEN", "CLOSED"}
            await until(
                lambda: stock.hget(sale.keys.meta, "state") == "CLOSED", "tombstone in the copy"
            )
        told = await asyncio.gather(*(sale.click(f"late-{number}", "l") for number in range(20)))
        assert {each.code for each in told if each is not None} == {"2005"}, told
        problems = await checks.problems_after_close()
        assert not problems, problems


# --- windows and clocks ---------------------------------------------------------------------------


@story("start and end in a burst, with processes whose clocks are 10 minutes wrong", runs=3)
async def _window(stage: SeckillProcesses, seed: int, _size: int) -> None:
    for name, seconds in CLOCKS_SECONDS.items():
        stage.run(name, wait=False, **{seckill_armable.CLOCK: seconds})
    for name in CLOCKS_SECONDS:
        stage.running[name].wait_for_log('"serving"')
    async with sale_of(stage, units=300, buyers=0, seed=seed, opens=False) as sale:
        checks = Invariants(sale, Expected(sells_out=False), stage.log_marks())
        await sale.open(starts_in=timedelta(seconds=2.5), ends_in=timedelta(seconds=5.5))
        [row] = stage.rows(
            "seckill_rpc",
            "SELECT starts_at, ends_at FROM activity WHERE activity_id = :activity",
            activity=sale.activity_id,
        )
        sale.fronts = list(CLOCKS_SECONDS)
        heard: set[str] = set()
        with stage.stock() as stock:

            def now_ms() -> int:
                seconds, micros = stock.time()
                return int(seconds * 1000 + micros // 1000)

            async def keen(number: int) -> None:
                click = 0
                while (before := now_ms()) < row.ends_at + 500:
                    user = f"b{number}-{click}"
                    told = await sale.click_once(user, "a")
                    if told is None or told.status == 2:
                        heard.add(told.code if told is not None else "")
                        continue
                    sale.users.append(user)
                    click += 1
                    if now_ms() < row.starts_at or before >= row.ends_at:
                        sale.problems.append(
                            f"I10: {user} got in between {before} and {now_ms()}, open "
                            f"{row.starts_at} to {row.ends_at}"
                        )

            await asyncio.gather(*(keen(number) for number in range(16)))
        assert {"2004", "2005"} <= heard, heard
        sale.fronts = list(BACKS)
        sold = min(len(sale.tickets), sale.units)
        assert sold > 0, "nobody got in"
        await _all_is_well(sale, checks)
    await restore(stage)


# --- orders that expire ---------------------------------------------------------------------------


@story("an order expires: the unit is sold again, the same click makes a new order")
async def _expiry(stage: SeckillProcesses, seed: int, _size: int) -> None:
    async with sale_of(stage, units=3, buyers=3, limit=1, seed=seed) as sale:
        checks = Invariants(sale, Expected(), stage.log_marks())

        async def buy(user: str, request: str) -> Told:
            told = await sale.click(user, request, wait_ms=3000)
            assert told is not None
            return told

        orders = {user: (await buy(user, "a")).order_id for user in sale.users}
        assert (await buy("b0", "a")).order_id == orders["b0"], "the same click found another order"
        assert (await buy("late", "a")).status == 2
        await checks.rest()
        for user, again in [("b0", "b0"), ("b1", "late")]:
            order_id = orders[user]
            sale.cancelled.add(order_id)
            stage.change(
                "order_rpc",
                "UPDATE orders SET expires_at = created_at WHERE order_id = :order_id",
                order_id=order_id,
            )
            await sale.reached(partial(_is_back, sale, order_id), "unit that comes back")
            told = await sale.result(user)
            assert told is not None, user
            assert told.status == 2, told
            told = await buy(again, "a")  # for b0 the very click that made the first order
            assert told.status == 1, told
            assert told.order_id not in orders.values(), told
        sale.users.append("late")
        await _all_is_well(sale, checks)


async def _is_back(sale: Sale, order_id: str) -> bool:
    with sale.stage.stock() as stock:
        return stock.hget(sale.keys.meta, "stock") == "1" and bool(
            sale.stage.rows(
                "seckill_rpc",
                "SELECT 1 FROM seckill_order WHERE order_id = :order_id AND state = 'RETURNED'",
                order_id=order_id,
            )
        )


# --- crowds ---------------------------------------------------------------------------------------


@story("3 units, 1000 buyers", quick=1, whole=100)
async def _three_units(stage: SeckillProcesses, seed: int, size: int) -> None:
    buyers = 1000 if size > 1 else 120
    for number in range(size):
        async with sale_of(stage, units=3, buyers=buyers, seed=seed + number) as sale:
            checks = Invariants(sale, Expected(), stage.log_marks())
            await sale.crowd(mode="single")
            await checks.rest()
            await _all_is_well(sale, checks, closes=False)
            assert sale.codes["2002"] == 3, sale.codes
            assert sale.codes["2001"] == buyers - 3, sale.codes
            await sale.close()


@story("limit 2, three clicks each", quick=1, whole=10)
async def _triple(stage: SeckillProcesses, seed: int, size: int) -> None:
    for number in range(size):
        async with sale_of(
            stage, units=60, buyers=40 if size == 1 else 300, limit=2, seed=seed + number
        ) as sale:
            checks = Invariants(sale, Expected(), stage.log_marks())
            await sale.crowd(mode="triple")
            await checks.sell_out()
            await _all_is_well(sale, checks)


@story("the checker finds whatever is wrong")
async def _planted(stage: SeckillProcesses, seed: int, _size: int) -> None:
    async with sale_of(stage, units=6, buyers=12, seed=seed) as sale:
        checks = Invariants(sale, Expected(), stage.log_marks())
        await sale.crowd()
        await checks.sell_out()
        await _all_is_well(sale, checks, closes=False)
        live, keys = checks.live_orders[0], sale.keys
        free = next(
            user
            for user in sale.users
            if user not in {order.user_id for order in checks.live_orders}
        )
        order, activity = {"order": live.order_id}, {"activity": sale.activity_id}
        wrong_rows = [
            (
                "I1",
                "seckill_rpc",
                "UPDATE activity SET sold = sold {} 1 WHERE activity_id = :activity",
                ("-", "+"),
                activity,
            ),
            (
                "I11",
                "seckill_rpc",
                "UPDATE activity SET sold = sold {} 1 WHERE activity_id = :activity",
                ("-", "+"),
                activity,
            ),
            (
                "I2",
                "seckill_rpc",
                "UPDATE seckill_order SET slot = slot {} 1 WHERE order_id = :order",
                ("+", "-"),
                order,
            ),
            (
                "live order",
                "order_rpc",
                "UPDATE orders SET state = '{}' WHERE order_id = :order",
                ("CANCELLED", "PENDING_PAYMENT"),
                order,
            ),
            (
                "the activity was given",
                "order_rpc",
                "UPDATE stock SET available = available {} 1 WHERE sku_id = :sku",
                ("-", "+"),
                {"sku": sale.sku_id},
            ),
        ]
        for finds, service, statement, (wrong, right), values in wrong_rows:
            stage.change(service, statement.format(wrong), **values)
            assert any(found.startswith(finds) for found in checks.problems_on_record()), finds
            stage.change(service, statement.format(right), **values)
        with stage.stock() as stock:
            record, value = f"{live.user_id}#{live.request_id}", f"1{live.order_id}"
            wrong_keys: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
                (
                    "I3",
                    lambda: stock.set(keys.view(live.user_id), "2"),
                    lambda: stock.set(keys.view(live.user_id), "1"),
                ),
                (
                    "I3",
                    lambda: stock.set(keys.view(free), "1"),
                    lambda: stock.set(keys.view(free), "2"),
                ),
                (
                    "I4",
                    lambda: stock.set(keys.view(free), "0"),
                    lambda: stock.set(keys.view(free), "2"),
                ),
                (
                    "I6",
                    lambda: stock.hincrby(keys.meta, "stock", 1),
                    lambda: stock.hincrby(keys.meta, "stock", -1),
                ),
                (
                    "I12",
                    lambda: stock.hdel(keys.users, record),
                    lambda: stock.hset(keys.users, record, value),
                ),
                ("I5", lambda: sale.turned_down.add(live.order_id), sale.turned_down.clear),
                (
                    "I8",
                    lambda: sale.orders_of_click[free, "x"].update({"one", "two"}),
                    lambda: sale.orders_of_click.pop((free, "x")),
                ),
                (
                    "I8",
                    lambda: sale.tickets.update(nobody=(free, "x", "")),
                    lambda: sale.tickets.pop("nobody"),
                ),
                ("I5", lambda: sale.bought.update(nobody=free), lambda: sale.bought.pop("nobody")),
            ]
            for finds, spoil, mend in wrong_keys:
                spoil()
                assert any(found.startswith(finds) for found in checks.problems_on_record()), finds
                mend()
        await _all_is_well(sale, checks)


@story(
    "sold out: Redis stays as big as it is, and is asked a number of times that does not depend "
    "on buyers",
    quick=3000,
    whole=1_000_000,
)
async def _sold_out(stage: SeckillProcesses, seed: int, size: int) -> None:
    async with sale_of(stage, units=5, buyers=20, seed=seed) as sale:
        checks = Invariants(sale, Expected(), stage.log_marks())
        await sale.crowd()
        await checks.rest()
        await asyncio.gather(*(sale.click(f"warm-{number}", "w") for number in range(100)))
        with stage.stock() as stock:
            stock.memory_purge()
            before, keys = int(stock.info("memory")["used_memory"]), stock.dbsize()
            stock.config_resetstat()
            started = time.monotonic()
            codes = await _ask(sale, size)
            seconds = time.monotonic() - started
            calls = int(stock.info("commandstats")["cmdstat_evalsha"]["calls"])
            after = int(stock.info("memory")["used_memory"])
            assert set(codes) == {"2001"}, codes
            assert sum(codes.values()) == size
            assert stock.dbsize() <= keys + 4, "refused buyers left keys"  # leases come and go
            assert after - before < REDIS_BYTES_MAX, (
                f"{size} refused buyers cost Redis {after - before} bytes"
            )
            # Two calls may be under way when a refusal ends; consumers, keepers and relays run no
            # scripts while nothing happens.
            allowed = len(BACKS) * 2 * (seconds / FLAG_SECONDS + 2)
            assert calls <= allowed, (
                f"{calls} scripts in {seconds:.1f} s, {allowed:.0f} are allowed"
            )
        await _all_is_well(sale, checks)


async def _ask(sale: Sale, count: int) -> dict[str, int]:
    """That many clicks of other buyers; the wire itself, because a million of them take long
    enough.
    """
    codes: dict[str, int] = {}
    numbers = iter(range(count))
    request = seckill_pb2.SeckillActionRequest(sku_id=sale.sku_id).SerializeToString()
    async with contextlib.AsyncExitStack() as stack:
        calls: list[Any] = []
        for name in BACKS:
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(sale.stage.addresses[name])
            )
            calls.append(
                channel.unary_unary(
                    "/paymesh.seckill.v1.SeckillService/SeckillAction",
                    response_deserializer=seckill_pb2.SeckillActionResponse.FromString,
                )
            )

        async def ask() -> None:
            for number in numbers:
                answer = await calls[number % len(calls)](
                    request, metadata=sale.bearer(f"late-{number % 20_000}"), timeout=5
                )
                codes[answer.result.code] = codes.get(answer.result.code, 0) + 1

        await asyncio.gather(*(ask() for _ in range(PIPE)))
    return codes
