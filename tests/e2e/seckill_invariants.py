"""What holds once a sale is quiet, whatever happened to it: one checker for all scenarios.

I1 live orders = sold <= total. I2 at most `limit` per buyer, each in a slot of his own. I3 who is
told 1 holds a live order, and the other way round. I4 nobody is at 0. I5 a 1 ends only by a cancel,
a 2 of a ticket never. I6 stock + sold = total. I7 no rebuild was needed because units were missing.
I8 one click has one order. I9 the line is empty, nothing is dead. I10 is the scenarios' own. I11
demand beyond the supply sells everything. I12 the users of Redis are the live orders. I13 is the
scenarios' own. And order_rpc: its orders are the live ones, its shelf lost what was sold and no
more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from seckill_rpc.redis.keys import GROUP
from seckill_rpc.usecases.results import DECIDED_BY_TICKET
from tests.e2e.seckill_processes import DATABASES, GRACE_SECONDS
from tests.e2e.seckill_sale import SHELF, Sale, sampled

REST_SECONDS = 45.0
ROUNDS = 12  # of coming back for what is left
ASKED = 60  # buyers and tickets whose answers are asked for through gRPC
_CHUNK = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a scenario allows.

    Attributes:
        loses_places: Redis was lost on purpose: an admission that was acknowledged may end as a
            refusal, and the same click get another order.
        sells_out: more buyers than units come back until everything is sold.
        gap: the keeper may find units missing or too many.
        falls: a buyer may be told 2 after 1 for a moment: nobody noticed yet that Redis went back
            in time.
        queues_again: a buyer may be told 0 after 1: the database said 1 while Redis did not answer,
            and the result was not published yet.
        refuses: order_rpc refuses some orders.
    """

    loses_places: bool = False
    sells_out: bool = True
    gap: bool = False
    falls: bool = False
    queues_again: bool = False
    refuses: bool = False


class Invariants:
    """Checks one sale."""

    def __init__(self, sale: Sale, expected: Expected, marks: dict[Path, int]) -> None:
        self._sale = sale
        self._stage = sale.stage
        self._expected = expected
        self._marks = marks
        # acknowledged admissions that no consumer has heard of: their tickets are refused
        self.lost = 0
        self._live: list[Any] = []
        self._all: dict[str, Any] = {}

    @property
    def live_orders(self) -> list[Any]:
        """Rows of live orders, when they were read last, by id."""
        return sorted(self._live, key=lambda order: str(order.order_id))

    async def rest(self) -> None:
        """Waits until nothing is under way any more.

        Raises:
            AssertionError: with what still is.
        """
        unfinished: list[str] = []

        async def at_rest() -> bool:
            unfinished[:] = self.unfinished()
            return not unfinished

        try:
            await self._sale.reached(at_rest, "rest", seconds=REST_SECONDS)
        except AssertionError:
            raise AssertionError("\n".join(["not at rest:", *unfinished])) from None

    async def sell_out(self) -> None:
        """Buyers come back until everything is sold: what came back must be sold again (I11)."""
        sale = self._sale
        for number in range(ROUNDS):
            await self.rest()
            self._read()
            left = self._activity().total - len(self._live)
            if not left:
                return
            held = Counter(row.user_id for row in self._live)
            free = [user for user in sale.users if held[user] < sale.limit]
            coming = sampled(free, 2 * left + 4, sale.chance)
            for start in range(0, len(coming), 64):
                await asyncio.gather(
                    *(sale.click(user, f"again-{number}") for user in coming[start : start + 64])
                )

    async def problems(self) -> list[str]:
        """Everything that does not hold at rest."""
        await self.rest()
        return [
            *self._sale.problems,
            *self.problems_on_record(),
            *await self._results(),
            *self._logs(),
        ]

    def problems_on_record(self) -> list[str]:
        """What does not hold between the rows, Redis and what buyers heard, as it stands now."""
        self._read()
        return [*self._rows(), *self._redis(), *self._orders(), *self._heard()]

    async def problems_after_close(self) -> list[str]:
        """The same for an activity that was closed: it has left nothing in Redis, and the shelf has
        what was not sold.
        """
        sale = self._sale
        await sale.close()
        await sale.reached(self.nothing_undelivered, "delivery of everything", seconds=REST_SECONDS)
        self._read()
        row, problems = self._activity(), []
        [(available,)] = self._stage.rows(
            "order_rpc", "SELECT available FROM stock WHERE sku_id = :sku", sku=sale.sku_id
        )
        [(given,)] = self._stage.rows(
            "order_rpc",
            "SELECT allocated - returned FROM allocation WHERE activity_id = :activity",
            activity=sale.activity_id,
        )
        live = len(self._live)
        for what, left, right in [
            ("shelf and live orders", available + live, SHELF),
            ("allocation and live orders", given, live),
            ("total and sold of a closed activity", row.total, row.sold),
            ("sold and live orders", row.sold, live),
        ]:
            if left != right:
                problems.append(f"{what}: {left} is not {right}")
        with self._stage.stock() as stock:
            meta: Any = stock.hgetall(sale.keys.meta)
            left_behind = [
                key
                for key in (sale.keys.users, sale.keys.queue, sale.keys.entries)
                if stock.exists(key)
            ]
        if meta.get("state") != "CLOSED" or left_behind:
            problems.append(f"Redis of a closed activity: {meta} {left_behind}")
        return problems

    def unfinished(self) -> list[str]:
        """What is still under way."""
        sale, found = self._sale, []
        try:
            for service in DATABASES:
                rows = self._stage.rows(
                    service,
                    "SELECT destination, tag, state, attempts, last_error, COUNT(*) FROM outbox "
                    "WHERE state <> 'DONE' GROUP BY destination, tag, state, attempts, last_error",
                )
                found += [f"{service}: outbox {tuple(row)}" for row in rows]
            found += [
                f"payment {row.payment_id} is {row.state}"
                for row in self._stage.rows(
                    "payment_rpc",
                    "SELECT payment_id, state FROM payment WHERE state NOT IN ('SUCCESS', "
                    "'FAILED', 'CLOSED', 'LATE_REFUNDED')",
                )
            ]
            found += [
                f"order {row.order_id} is {row.state}"
                for row in self._stage.rows(
                    "order_rpc", "SELECT order_id, state FROM orders WHERE state = 'CANCELLING'"
                )
            ]
            with self._stage.stock() as stock:
                length, meta = stock.xlen(sale.keys.queue), stock.hgetall(sale.keys.meta)
                is_being_rebuilt = bool(stock.exists(sale.keys.rebuilder))
                is_noticed = meta.get("run") == stock.info("server")["run_id"]
            row = self._activity()
        except (RedisError, DBAPIError) as problem:
            return [f"no answer: {problem}"]
        as_published = (
            meta.get("epoch"),
            meta.get("state"),
            meta.get("out"),
            "hold" in meta,
            int(meta.get("stock", -1)) + row.sold,
            is_being_rebuilt,
            is_noticed,
        )
        if length or as_published != (
            str(row.epoch),
            row.state,
            "0",
            False,
            row.total,
            False,
            True,
        ):
            found.append(
                f"redis: {length} in the line, {meta}, rebuilt {is_being_rebuilt}, of this run "
                f"{is_noticed}; "
                f"the row: epoch {row.epoch} {row.state} {row.sold}/{row.total}"
            )
        return found

    async def nothing_undelivered(self) -> bool:
        """Whether all outboxes are empty."""
        return not any(
            self._stage.rows(service, "SELECT 1 FROM outbox WHERE state <> 'DONE' LIMIT 1")
            for service in DATABASES
        )

    def _activity(self) -> Any:
        [row] = self._stage.rows(
            "seckill_rpc",
            "SELECT * FROM activity WHERE activity_id = :activity",
            activity=self._sale.activity_id,
        )
        return row

    def _read(self) -> None:
        rows = self._stage.rows(
            "seckill_rpc",
            "SELECT * FROM seckill_order WHERE activity_id = :activity",
            activity=self._sale.activity_id,
        )
        self._all = {row.order_id: row for row in rows}
        self._live = [row for row in rows if row.state == "LIVE"]

    def _state(self, order_id: str) -> str:
        row = self._all.get(order_id)
        return "nowhere" if row is None else str(row.state)

    def _rows(self) -> list[str]:
        row, problems = self._activity(), []
        if len(self._live) != row.sold or row.sold > row.total:
            problems.append(f"I1: {len(self._live)} live orders, sold {row.sold} of {row.total}")
        if row.total != self._sale.units:
            problems.append(f"I1: total {row.total} of {self._sale.units}")
        slots: defaultdict[str, list[int]] = defaultdict(list)
        for order in self._live:
            slots[order.user_id].append(order.slot)
        limit = self._sale.limit
        problems += [
            f"I2: {user} has slots {found}"
            for user, found in slots.items()
            if len(set(found)) != len(found) or not set(found) <= set(range(1, limit + 1))
        ]
        if self._expected.sells_out and row.sold != row.total:
            problems.append(f"I11: sold {row.sold} of {row.total}")
        dead = self._stage.rows(
            "seckill_rpc",
            "SELECT order_id, reason FROM dead_entry WHERE activity_id = :activity",
            activity=self._sale.activity_id,
        )
        problems += [f"I9: dead {order_id}: {reason}" for order_id, reason in dead]
        return problems

    def _redis(self) -> list[str]:
        sale, row = self._sale, self._activity()
        with self._stage.stock() as stock:
            meta: Any = stock.hgetall(sale.keys.meta)
            users: Any = stock.hgetall(sale.keys.users)
            length = stock.xlen(sale.keys.queue)
            views: dict[str, Any] = {}
            pending: Any = stock.xpending(sale.keys.queue, GROUP)
            for start in range(0, len(sale.users), _CHUNK):
                some = sale.users[start : start + _CHUNK]
                views |= dict(
                    zip(some, stock.mget([sale.keys.view(user) for user in some]), strict=True)
                )
        held = Counter(order.user_id for order in self._live)
        wanted = {
            f"{order.user_id}#{order.request_id}": f"1{order.order_id}" for order in self._live
        }
        wanted |= {user: str(count) for user, count in held.items()} | {
            f"{user}+": str(count) for user, count in held.items()
        }
        problems = []
        if (int(meta.get("stock", -1)) + row.sold, meta.get("out")) != (row.total, "0"):
            problems.append(f"I6: {meta} and sold {row.sold} of {row.total}")
        if length or pending["pending"]:
            problems.append(f"I9: {length} in the line, {pending['pending']} pending")
        if users != wanted:
            wrong = sorted(users.items() ^ wanted.items())
            problems.append(
                f"I12: {len(wrong)} differences between Redis and the live orders, e.g. {wrong[:4]}"
            )
        problems += [
            f"I3: {user} holds {held[user]} and his view is {view}"
            for user, view in views.items()
            if (view == "1") != (held[user] > 0)
        ][:4]
        return (
            problems + [f"I4: {user} stays at 0" for user, view in views.items() if view == "0"][:4]
        )

    def _orders(self) -> list[str]:
        written = {
            row.order_id: row.state
            for row in self._stage.rows(
                "order_rpc",
                "SELECT o.order_id, o.state FROM orders o JOIN order_item i ON i.merchant_id = "
                "o.merchant_id AND i.order_id = o.order_id "
                "WHERE i.activity_id = :activity",
                activity=self._sale.activity_id,
            )
        }
        live = {order.order_id for order in self._live}
        problems = [
            f"live order {order_id} is {written.get(order_id)} in order_rpc"
            for order_id in sorted(live)
            if written.get(order_id) not in {"PENDING_PAYMENT", "PAID"}
        ]
        problems += [
            f"order {order_id} is {state}, its unit is {self._state(order_id)}"
            for order_id, state in written.items()
            if state != "CANCELLED" and order_id not in live
        ]
        if any(not order.order_ready for order in self._live):
            problems.append("a live order was never marked as written")
        [(given,)] = self._stage.rows(
            "order_rpc",
            "SELECT allocated - returned FROM allocation WHERE activity_id = :activity",
            activity=self._sale.activity_id,
        )
        [(available,)] = self._stage.rows(
            "order_rpc", "SELECT available FROM stock WHERE sku_id = :sku", sku=self._sale.sku_id
        )
        if (given, available) != (self._sale.units, SHELF - self._sale.units):
            problems.append(f"the activity was given {given}, the shelf has {available}")
        return problems[:6]

    def _heard(self) -> list[str]:
        sale = self._sale
        may_be = {"LIVE", "REFUSED"} if self._expected.refuses else {"LIVE"}
        problems = [
            f"I5: {user} was told that he holds {order_id}, which is {self._state(order_id)}"
            for order_id, user in sale.bought.items()
            if order_id not in sale.cancelled and self._state(order_id) not in may_be
        ]
        problems += [
            f"I5: {order_id} was refused to its ticket and is {self._state(order_id)}"
            for order_id in sale.turned_down
            if self._state(order_id) == "LIVE"
        ]
        if not (self._expected.falls or self._expected.refuses):
            problems += [
                f"I5: {fallen}"
                for fallen in (
                    *sale.fallen,
                    *([] if self._expected.queues_again else sale.queued_again),
                )
            ]
        if not self._expected.loses_places:
            problems += [
                f"I8: click {click} has orders {sorted(found)}"
                for click, found in sale.orders_of_click.items()
                if len(found - sale.cancelled) > 1
            ]
            problems += [
                f"I8: {order_id} was acknowledged and has no row"
                for order_id in sale.tickets
                if not order_id.startswith("refused-") and order_id not in self._all
            ]
        return problems[:8]

    async def _results(self) -> list[str]:
        """What buyers and tickets are told at the end: never 0."""
        sale, held = self._sale, {order.user_id for order in self._live}
        users = sampled(sale.users, ASKED, sale.chance)
        lost = [order_id for order_id in sale.tickets if order_id not in self._all]
        self.lost = len(lost) + sum(row.batch_id == DECIDED_BY_TICKET for row in self._all.values())
        tickets = lost + sampled(sale.tickets, ASKED, sale.chance)
        told_users = await self._final_of([(user, "") for user in users])
        told_tickets = await self._final_of(
            [(sale.tickets[order_id][0], sale.tickets[order_id][2]) for order_id in tickets]
        )
        self._read()  # a ticket whose click was lost has been decided by now
        problems = [
            f"I3: {user} is told {told} and {'holds' if user in held else 'does not hold'} an order"
            for user, told in zip(users, told_users, strict=True)
            if told is None or told.status != (1 if user in held else 2)
        ]
        problems += [
            f"I4: the ticket of {order_id} is told {told}, the row is {self._state(order_id)}"
            for order_id, told in zip(tickets, told_tickets, strict=True)
            if not order_id.startswith("refused-")
            and (
                told is None
                or told.status != {"LIVE": 1, "nowhere": -1}.get(self._state(order_id), 2)
            )
        ]
        return problems[:8]

    async def _final_of(self, whom: list[tuple[str, str]]) -> list[Any]:
        found = []
        for start in range(0, len(whom), 64):
            found += await asyncio.gather(
                *(self._final(user, ticket) for user, ticket in whom[start : start + 64])
            )
        return found

    async def _final(self, user: str, ticket: str) -> Any:
        found: list[Any] = []

        async def is_final() -> bool:
            told = await self._sale.result(user, ticket=ticket)
            found[:] = [told]
            return told is not None and told.status != 0

        with contextlib.suppress(AssertionError):
            await self._sale.reached(is_final, "final answer", seconds=2 * GRACE_SECONDS + 3)
        return found[0]

    def _logs(self) -> list[str]:
        if self._expected.gap:
            return []
        return [
            f"I7: {line}"
            for line in self._stage.logged(self._marks)
            if line.get("activity_id") == self._sale.activity_id
            and line.get("trigger") == "CONSERVATION"
        ][:2]
