"""More of the fault matrix: a database that stays away, answers that are lost, a Redis that is
full, slow or confused, buyers who hang up, change their mind or pay at the same moment, and shops
that pause."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from redis.exceptions import RedisError

from mesh.errors import MeshError
from tests.e2e.seckill_faults import LOST, SILENT, Scenario, registering
from tests.e2e.seckill_invariants import Expected
from tests.e2e.seckill_processes import POLL_SECONDS, until
from tests.e2e.seckill_sale import CALL_SECONDS, Sale
from tests.support.fault_proxy import Loss, fault_proxy

A, B, FRONT = "seckill_a", "seckill_b", "seckill_front"
LINE_MAX = 60
SCENARIOS: list[Scenario] = []
during = registering(SCENARIOS)


@during("MariaDB away until the line is full: BUSY, then it drains", opens_doors=True)
async def _backlog(sale: Sale) -> None:
    stage = sale.stage
    await stage.run_again(FRONT, SECKILL_RPC_LINE_MAX=str(LINE_MAX))
    sale.fronts = [FRONT]
    await sale.lets_come(1.0)
    stage.mariadb.kill()
    try:
        await until(lambda: sale.codes["SECKILL_BUSY"] > 0, "BUSY")
        with stage.stock() as stock:
            if (length := stock.xlen(sale.keys.queue)) > LINE_MAX:
                sale.problems.append(f"{length} in a line of {LINE_MAX}")
    finally:
        stage.mariadb.start()
    await sale.progress(1.0)
    sale.fronts = [A, B]


@during("buyers hang up in the middle of a click")
async def _hang_up(sale: Sale) -> None:
    async def impatient(user: str) -> None:
        call = asyncio.create_task(sale.click_once(user, "hung-up"))
        await asyncio.sleep(sale.chance.uniform(0, 0.02))
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await sale.click(user, "hung-up")

    for start in range(0, len(sale.users), 32):
        await asyncio.gather(*(impatient(user) for user in sale.users[start : start + 32]))


@during("Redis answers are lost, at once and in silence", expected=SILENT, opens_doors=True)
async def _lost_answers(sale: Sale) -> None:
    async with fault_proxy(sale.stage.redis.port) as proxy:
        await sale.stage.run_again(FRONT, SECKILL_RPC_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
        sale.fronts = [FRONT]
        await sale.lets_come(1.0)
        for loss, times in [
            (Loss.ANSWER, 1),
            (Loss.ANSWER, 2),
            (Loss.ANSWER_SILENTLY, 1),
            (Loss.REQUEST, 2),
            (Loss.ANSWER, 1),
        ]:
            proxy.lose(b"EVALSHA", loss, times=times)
            await until(
                lambda: proxy.has_struck or sale.clicks_done == sale.clicks_planned,
                "answer that is lost",
                seconds=60,
            )
        if not proxy.has_struck:
            sale.problems.append("no answer was lost")
        proxy.cut()
        await sale.progress(1.0)
        sale.fronts = [A, B]
        # everybody finds the order of his click
        await asyncio.gather(*(sale.click(*click) for click in list(sale.orders_of_click)[:60]))


@during("SCRIPT FLUSH, ten times")
async def _script_flush(sale: Sale) -> None:
    with sale.stage.stock() as stock:
        for number in range(10):
            await sale.progress(0.08 * number)
            stock.script_flush()


@during("Redis has no memory left for a while", cancels=40)
async def _no_memory(sale: Sale) -> None:
    await sale.progress(0.15)
    with sale.stage.stock() as stock:
        stock.config_set("maxmemory", "1")
        try:
            await until(
                lambda: sale.codes["SECKILL_BUSY"] + sale.codes["SECKILL_NOT_READY"] > 20,
                "refusals for want of memory",
            )
        finally:
            stock.config_set("maxmemory", "0")


@during("a key of another type stands where the users were", expected=SILENT)
async def _wrong_type(sale: Sale) -> None:
    await sale.progress(0.15)
    users, safe = sale.keys.users, f"{sale.keys.users}:safe"
    with sale.stage.stock() as stock:
        with stock.pipeline(transaction=True) as swap:
            swap.rename(users, safe).set(users, "nonsense").execute()
        try:
            await until(lambda: sale.codes["SECKILL_NOT_READY"] > 10, "refusals")
        finally:
            stock.rename(safe, users)


@during("Redis stopped for 5 s", expected=SILENT)
async def _frozen_redis(sale: Sale) -> None:
    await sale.progress(0.15)
    frozen = sale.stage.redis.process
    frozen.signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        told = await sale.click_once("patient", "p")
        if told is not None or time.monotonic() - start > CALL_SECONDS + 0.5:
            sale.problems.append(
                f"a click during the stop was told {told} after {time.monotonic() - start:.1f} s"
            )
        await until(lambda: time.monotonic() - start > 5, "end of the stop")
    finally:
        frozen.signal(signal.SIGCONT)


@during("cancelled before the result was published", expected=Expected(loses_places=False))
async def _cancelled_early(sale: Sale) -> None:
    """A consumer dies between its commit and the result; the buyers cancel before somebody takes
    over.
    """
    stage = sale.stage
    await stage.arm(A, "seckill.consume.after_commit=kill:2")
    await stage.died(A)
    with stage.stock() as stock:
        live = stage.rows(
            "seckill_rpc",
            "SELECT order_id, user_id, request_id FROM seckill_order WHERE activity_id = "
            ":activity AND state = 'LIVE'",
            activity=sale.activity_id,
        )
        records = stock.hmget(sale.keys.users, [f"{row.user_id}#{row.request_id}" for row in live])
        unpublished = [
            row for row, record in zip(live, records, strict=True) if record == f"0{row.order_id}"
        ][:20]
    if not unpublished:
        sale.problems.append("every result was published")
    await asyncio.gather(*(sale.cancel(row.user_id, row.order_id) for row in unpublished))
    await stage.run_again(A)


@during("buyers pay and cancel at the same moment")
async def _pay_or_cancel(sale: Sale) -> None:
    await sale.progress(0.5)
    await until(lambda: len(sale.bought) >= 8, "buyers who know that they bought")
    racers = list(sale.bought.items())[:24]

    async def written(order_id: str) -> bool:
        return bool(
            sale.stage.rows(
                "order_rpc", "SELECT 1 FROM orders WHERE order_id = :order_id", order_id=order_id
            )
        )

    async def race(order_id: str, user: str) -> None:
        await sale.reached(lambda: written(order_id), f"order {order_id}")
        await asyncio.gather(sale.pay(user, order_id), sale.cancel(user, order_id))

    await asyncio.gather(*(race(order_id, user) for order_id, user in racers))
    states = sale.stage.rows(
        "order_rpc",
        "SELECT state, COUNT(*) AS orders FROM orders WHERE order_id IN :orders GROUP BY state",
        orders=tuple(order_id for order_id, _ in racers),
    )
    sale.notes += [f"{row.orders} {row.state}" for row in states]


@during("order_rpc refuses orders for a while", expected=Expected(refuses=True))
async def _refusals(sale: Sale) -> None:
    stage = sale.stage
    await sale.progress(0.1)
    stage.change(
        "order_rpc", "UPDATE product SET currency = 'USD' WHERE sku_id = :sku", sku=sale.sku_id
    )
    try:
        await until(
            lambda: stage.rows(
                "seckill_rpc",
                "SELECT 1 FROM seckill_order WHERE activity_id = :activity AND state = 'REFUSED' "
                "LIMIT 1",
                activity=sale.activity_id,
            ),
            "refusal by order_rpc",
        )
    finally:
        stage.change(
            "order_rpc", "UPDATE product SET currency = 'CNY' WHERE sku_id = :sku", sku=sale.sku_id
        )


@during(
    "tickets are decided without any grace while rebuilds go on",
    expected=LOST,
    runs=5,
    env={"SECKILL_RPC_RESULT_GRACE_SECONDS": "0.001"},
    is_quick=False,
)
async def _hasty(sale: Sale) -> None:
    is_done = asyncio.Event()

    async def ask() -> None:
        while not is_done.is_set():
            for order_id in list(sale.tickets)[-8:]:
                user, _, ticket = sale.tickets[order_id]
                told = await sale.result(user, ticket=ticket)
                if told is not None and told.status == 2:
                    sale.turned_down.add(order_id)
            await asyncio.sleep(POLL_SECONDS / 4)

    asking = asyncio.create_task(ask())
    for share in (0.1, 0.3, 0.5):
        await sale.progress(share)
        await sale.rebuild()
    is_done.set()
    await asking


@during("a poisonous entry, and MariaDB away for 4 s", is_quick=False)
async def _poison(sale: Sale) -> None:
    stage = sale.stage
    await sale.progress(0.2)
    stage.mariadb.kill()
    start = time.monotonic()
    with stage.stock() as stock:
        stock.xadd(
            sale.keys.queue,
            {
                "o": "ORDBAD",
                "u": "u\u00e9",
                "r": "a",
                "e": str(stock.hget(sale.keys.meta, "epoch")),
            },
        )
    await until(lambda: time.monotonic() - start > 4, "end of the outage")
    stage.mariadb.start()

    def dead() -> list[str]:
        return [
            row.order_id
            for row in stage.rows(
                "seckill_rpc",
                "SELECT order_id FROM dead_entry WHERE activity_id = :activity",
                activity=sale.activity_id,
            )
        ]

    await until(dead, "dead letter", seconds=60)
    if dead() != ["ORDBAD"]:
        sale.problems.append(f"dead: {dead()}")
    with stage.stock() as stock:
        await until(
            lambda: stock.get(sale.keys.view("u\u00e9")) == "2", "2 for the poisonous buyer"
        )
    stage.change(
        "seckill_rpc",
        "DELETE FROM dead_entry WHERE activity_id = :activity",
        activity=sale.activity_id,
    )


def _pause(*, keep: bool) -> None:
    @during(
        f"paused while Redis restarts with {'everything' if keep else 'nothing'}",
        runs=5,
        expected=Expected(loses_places=not keep, queues_again=True),
    )
    async def _(sale: Sale) -> None:
        await sale.progress(0.2)
        await sale.stubborn(lambda: sale.verb("Pause"))
        await _nobody_gets_in(sale, "before")
        sale.stage.restart_redis(keep=keep)
        with sale.stage.stock() as stock:

            def is_back() -> bool:
                with contextlib.suppress(RedisError):
                    meta = stock.hgetall(sale.keys.meta)
                    return "epoch" in meta and "hold" not in meta
                return False

            await until(is_back, "Redis that knows the sale again")
            for _ in range(5):
                await _nobody_gets_in(sale, "after")
            if (state := stock.hget(sale.keys.meta, "state")) != "PAUSED":
                sale.problems.append(f"Redis reopened it: {state}")
            await until(
                lambda: not stock.xlen(sale.keys.queue), "line that is served during the pause"
            )
        await sale.stubborn(lambda: sale.verb("Resume"))


@during("paused while two rebuilders go round", runs=5)
async def _pause_race(sale: Sale) -> None:
    is_done = asyncio.Event()

    async def go_round(at: str) -> None:
        while not is_done.is_set():
            with contextlib.suppress(MeshError):
                await sale.rebuild(at)

    await sale.progress(0.1)
    rebuilders = [asyncio.create_task(go_round(at)) for at in (A, B)]
    await asyncio.sleep(sale.chance.uniform(0, 0.1))
    await sale.stubborn(lambda: sale.verb("Pause"))
    for _ in range(5):
        await _nobody_gets_in(sale, "during rebuilds")
    is_done.set()
    await asyncio.gather(*rebuilders)
    await _nobody_gets_in(sale, "after rebuilds")
    await sale.stubborn(lambda: sale.verb("Resume"))


async def _nobody_gets_in(sale: Sale, when: str) -> None:
    told = await asyncio.gather(*(sale.click_once(f"late-{number}", "p") for number in range(8)))
    got_in = [each for each in told if each is not None and each.status != 2]
    if got_in:
        sale.problems.append(f"admitted {when} the pause: {got_in}")


_pause(keep=True)
_pause(keep=False)
