"""The fault matrix of the flash sale: what goes wrong while people buy, one `Scenario` each. The
sale of every scenario is checked by the same invariants; what a scenario alone can see it notes in
`sale.problems`. A scenario whose victim does not die fails."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import MeshError
from tests.e2e.seckill_invariants import Expected
from tests.e2e.seckill_processes import POLL_SECONDS, SeckillProcesses, until
from tests.e2e.seckill_sale import Sale

Fault = Callable[[Sale], Awaitable[None]]
A, B = "seckill_a", "seckill_b"
# after its first look it sees nothing for as long as the crowd is there
SLOW_KEEPER = {"SECKILL_RPC_KEEPER_INTERVAL_SECONDS": "10"}
SCENARIOS: list[Scenario] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of the matrix.

    Attributes:
        fault: runs while the crowd clicks.
        mode: of the crowd.
        units, buyers: of a run in proof; a quick run has a fraction.
        cancels: orders that watchers cancel while the sale goes on.
        env: of the two processes, when it differs; they are restarted before and after.
        opens_doors: the crowd waits until the fault lets it begin.
        runs: in proof.
        is_quick: a small one takes a few seconds. share: how much smaller that one is.
    """

    name: str
    fault: Fault
    mode: str = "once"
    units: int = 320
    buyers: int = 700
    limit: int = 1
    cancels: int = 0
    expected: Expected = field(default_factory=Expected)
    env: dict[str, str] = field(default_factory=dict)
    opens_doors: bool = False
    runs: int = 2
    is_quick: bool = True
    share: int = 3


def registering(scenarios: list[Scenario]) -> Callable[..., Callable[[Fault], Fault]]:
    """A decorator `during(name, **choices)` that adds what happens during a sale to `scenarios`."""

    def during(name: str, **choices: Any) -> Callable[[Fault], Fault]:
        def register(fault: Fault) -> Fault:
            scenarios.append(Scenario(name=name, fault=fault, **choices))
            return fault

        return register

    return during


during = registering(SCENARIOS)


LOST = Expected(loses_places=True, queues_again=True)
SILENT = Expected(queues_again=True)


# --- nothing happens ------------------------------------------------------------------------------


@during("baseline")
async def _baseline(_sale: Sale) -> None:
    pass


@during("limit 2, three clicks each, all doubled", limit=2, mode="triple", buyers=360)
async def _limit(_sale: Sale) -> None:
    pass


@during("cancel storm, every unit that comes back is sold again", cancels=100)
@during("cancel storm, limit 2, three clicks each", cancels=100, limit=2, mode="triple", buyers=360)
async def _cancels(_sale: Sale) -> None:
    pass


# --- a process dies -------------------------------------------------------------------------------


def _dies_at(point: str, *, hit: int) -> Fault:
    async def fault(sale: Sale) -> None:
        await sale.stage.arm(A, f"{point}=kill:{hit}")
        await sale.progress(0.1)
        await sale.stage.died(A)
        await sale.stage.run_again(A)

    return fault


for _step in ("after_read", "after_insert", "after_update", "after_commit", "after_finish"):
    during(f"consumer kill -9 {_step}")(_dies_at(f"seckill.consume.{_step}", hit=3))
for _point in ("seckill.return.after_commit", "seckill.give_back.after_script"):
    during(f"kill -9 {_point}", cancels=100)(_dies_at(_point, hit=2))
for _point in ("outbox.relay.after_claim", "outbox.relay.after_send", "outbox.relay.after_settle"):
    during(f"kill -9 {_point}", cancels=100)(_dies_at(_point, hit=2))


@during("both processes kill -9, nobody serves for a second")
async def _both_die(sale: Sale) -> None:
    stage = sale.stage
    await sale.progress(0.1)
    stage.kill(A, B)
    stage.run(A, wait=False)
    await stage.run_again(B)
    await until(lambda: '"serving"' in stage.running[A].log_text(), "start")


@during("order_rpc kill -9 and away while orders wait", cancels=100)
async def _order_rpc_dies(sale: Sale) -> None:
    await sale.progress(0.1)
    sale.stage.kill("order_rpc")
    await sale.progress(0.4)
    await sale.stage.run_again("order_rpc")


@during("zombie consumer: stopped over a rebuild and cancels, then goes on", cancels=100)
async def _zombie(sale: Sale) -> None:
    zombie = sale.stage.running[A]
    await sale.progress(0.1)
    zombie.signal(signal.SIGSTOP)
    try:
        # longer than an entry may be idle before somebody takes it over
        end = time.monotonic() + 2.5
        sale.fronts = [B]
        await sale.rebuild(B)
        await until(lambda: time.monotonic() > end, "end of the sleep")
    finally:
        zombie.signal(signal.SIGCONT)
        sale.fronts = [A, B]


# --- the database goes away -----------------------------------------------------------------------


@during("MariaDB kill -9 and restart")
@during("cancel storm + MariaDB kill -9", cancels=100)
async def _mariadb(sale: Sale) -> None:
    await sale.progress(0.1)
    sale.stage.mariadb.kill()
    await sale.progress(0.2)
    sale.stage.mariadb.start()


# --- Redis forgets --------------------------------------------------------------------------------


@during("Redis kill -9, AOF everysec", expected=SILENT, runs=5)
@during("cancel storm + Redis kill -9, AOF everysec", expected=SILENT, cancels=100, runs=5)
async def _redis(sale: Sale) -> None:
    await sale.progress(0.1)
    async with sale.line_grows():
        sale.stage.restart_redis(keep=True)


@during("Redis kill -9, nothing kept", expected=LOST, runs=5)
async def _redis_lost(sale: Sale) -> None:
    await sale.progress(0.1)
    sale.loses = True
    async with sale.line_grows():
        sale.stage.restart_redis(keep=False)


@during("FLUSHALL", expected=LOST, runs=5)
@during("cancel storm + FLUSHALL", cancels=100, expected=LOST, runs=5)
@during(
    "FLUSHALL in a sale of 5000 units to 12 000 buyers",
    units=5000,
    buyers=12_000,
    expected=LOST,
    share=24,
)
async def _flush(sale: Sale) -> None:
    await sale.progress(0.1)
    sale.loses = True
    async with sale.line_grows():
        sale.stage.redis.flush()


async def _stale(sale: Sale) -> None:
    await sale.lets_come(0.5)
    await sale.progress(0.03)
    async with sale.line_grows():
        copy = sale.stage.copy_redis()
    await sale.lets_come(1.0)
    await sale.progress(0.12)
    sale.loses = True
    async with sale.line_grows():
        sale.stage.restart_redis(keep=False, data=copy)


@during("failover to a stale copy", expected=LOST, runs=5)
@during(
    "limit 2 + cancel storm + failover to a stale copy",
    expected=LOST,
    limit=2,
    mode="triple",
    buyers=360,
    cancels=100,
    runs=5,
)
async def _failover(sale: Sale) -> None:
    await _stale(sale)


@during(
    "failover to a stale copy that nobody notices",
    env=SLOW_KEEPER,
    units=200,
    buyers=440,
    runs=5,
    is_quick=False,
    expected=Expected(loses_places=True, falls=True),
)
async def _failover_unnoticed(sale: Sale) -> None:
    await _stale(sale)
    await sale.progress(1.0)
    with sale.stage.stock() as stock:
        if stock.hget(sale.keys.meta, "run") == stock.info("server")["run_id"]:
            sale.problems.append("the keeper noticed it while people clicked: nothing was tested")


# --- rebuilds -------------------------------------------------------------------------------------


@during("live rebuild twice", runs=5)
@during("cancel storm + live rebuild twice", cancels=100, runs=5)
async def _rebuild_twice(sale: Sale) -> None:
    for share, may_come in ((0.03, 0.5), (0.12, 1.0)):
        await sale.lets_come(may_come)
        await sale.progress(share)
        async with sale.line_grows():  # somebody has to be carried into the new epoch
            rebuild = asyncio.create_task(sale.rebuild())
            await _is_held(sale)
        if not await rebuild:
            sale.problems.append("no rebuild")


@during("two rebuilders at once, twice", runs=5)
async def _two_rebuilders(sale: Sale) -> None:
    for share, may_come in ((0.03, 0.5), (0.12, 1.0)):
        await sale.lets_come(may_come)
        await sale.progress(share)
        async with sale.line_grows():
            rebuilds = asyncio.gather(
                sale.rebuild(A), sale.rebuild(B), sale.rebuild(A), return_exceptions=True
            )
            await _is_held(sale)
        await rebuilds


async def _is_held(sale: Sale) -> None:
    with sale.stage.stock() as stock:
        await until(lambda: stock.hexists(sale.keys.meta, "hold"), "hold")


def _rebuilder_dies(point: str) -> Fault:
    async def fault(sale: Sale) -> None:
        await sale.progress(0.1)
        await sale.stage.arm(A, f"seckill.rebuild.{point}=kill")

        async def rebuild() -> None:
            with contextlib.suppress(MeshError):
                await sale.rebuild(A)

        async with sale.line_grows():
            dying = asyncio.create_task(rebuild())
            await _is_held(sale)
        await dying
        await sale.stage.died(A)
        await sale.stage.run_again(A)

    return fault


for _step in ("after_hold", "after_fence", "after_parts", "after_publish", "after_carry"):
    during(f"rebuilder kill -9 {_step}", runs=5)(_rebuilder_dies(_step))


@during(
    "consumer kill -9 after_readmit",
    expected=Expected(loses_places=True, gap=True),
    opens_doors=True,
    runs=5,
    units=100,
)
async def _readmit(sale: Sale) -> None:
    """More buyers stand in the line than there are units; a rebuild carries as many as there are;
    the others are admitted again, or refused.
    """
    stage = sale.stage
    sale.fronts = ["seckill_front"]
    await stage.run_again("seckill_front")
    stage.kill(A, B)
    await sale.lets_come(1.0)
    with stage.stock() as stock:
        stock.hincrby(sale.keys.meta, "stock", 40)
        await until(
            lambda: stock.xlen(sale.keys.queue) > sale.units, "line that is longer than the stock"
        )
        # the keeper may have died in the middle of one
        await sale.reached(lambda: sale.rebuild("seckill_front"), "rebuild")
    process = stage.run(A, wait=False, SECKILL_RPC_FAILPOINTS="seckill.consume.after_readmit=kill")
    await until(lambda: process.returncode is not None, "death after_readmit")
    if process.returncode != -9:
        sale.problems.append(f"ended with {process.returncode}")
    stage.run(A, wait=False)
    await stage.run_again(B)
    sale.fronts = [A, B]


# --- units are counted wrongly --------------------------------------------------------------------


@during("units vanish from Redis by hand", expected=Expected(gap=True))
async def _units_vanish(sale: Sale) -> None:
    await sale.progress(0.1)
    marks = sale.stage.log_marks()
    with sale.stage.stock() as stock:
        stock.hincrby(sale.keys.meta, "stock", -sale.units // 5)

    def is_seen() -> bool:
        return any(
            line.get("trigger") == "CONSERVATION" and line.get("activity_id") == sale.activity_id
            for line in sale.stage.logged(marks)
        )

    await until(is_seen, "keeper that finds the gap", seconds=20)


@during("an entry is delivered to two consumers at once")
async def _two_deliveries(sale: Sale) -> None:
    """Whatever is pending with one consumer looks abandoned to the other, again and again."""
    stolen = 0
    with sale.stage.stock() as stock:
        while sale.clicks_done < sale.clicks_planned * 0.9:
            pending = stock.xpending_range(sale.keys.queue, "orders", "-", "+", 100)
            if pending:
                stolen += len(
                    stock.xclaim(
                        sale.keys.queue,
                        "orders",
                        "thief",
                        0,
                        [each["message_id"] for each in pending],
                        idle=60_000,
                        justid=True,
                    )
                )
            await asyncio.sleep(POLL_SECONDS / 10)
    if not stolen:
        sale.problems.append("nothing was delivered twice")


async def restore(stage: SeckillProcesses) -> None:
    """Everything runs again as it does by default."""
    stage.end("seckill_front")
    stage.end("seckill_front_2")
    await stage.ensure()
