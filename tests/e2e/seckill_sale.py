"""One activity under load: buyers who click through gRPC at every process, twice, and again after
every failure with the same request id, who ask for results, cancel orders and come back for units
that came back. Everything that they are told is written down, for the invariants."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.order.v1 import catalog_pb2, catalog_pb2_grpc, order_pb2, order_pb2_grpc
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc
from paymesh.seckill.v1 import activity_pb2, activity_pb2_grpc, seckill_pb2, seckill_pb2_grpc
from sqlalchemy.exc import DBAPIError

from mesh.client import MeshChannel
from mesh.discovery.static import StaticDiscovery
from mesh.errors import MeshError, RemoteError
from mesh.settings import MeshSettings
from seckill_rpc.redis.keys import Keys
from tests.e2e.seckill_processes import BACKS, POLL_SECONDS, SeckillProcesses, until

HOUR = timedelta(hours=1)
SHELF = 1_000_000  # units of the product outside the sale
# buyers who click at the same moment, at most; fewer where that would sell out before anything can
# fail
CROWD = 32
UNITS_PER_CLICKER = 8
AGAIN_SECONDS = 0.1  # before a click is repeated that got no answer
CALL_SECONDS = 5.0  # as the contract says
# a consumer that took nothing for so long waits for its commit, most likely
DEAF_SECONDS = 0.1
LEAP_SECONDS = 3.0  # after so long, minutes have passed for what lies in the outboxes
# No word about the click: the same request id finds out.
UNKNOWN = frozenset(
    {
        "SECKILL_NOT_READY",
        "SECKILL_BUSY",
        "NEIGHBOUR_UNAVAILABLE",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "OUTCOME_UNKNOWN",
    }
)
_skus = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody was told about a click."""

    status: int
    code: str
    order_id: str
    ticket: str = ""


class Untested(Exception):
    """The fault came too late to do any harm."""


class Sale:
    """One activity, its buyers, and what they heard."""

    def __init__(
        self, stage: SeckillProcesses, *, units: int, buyers: int, limit: int, seed: int
    ) -> None:
        self.stage = stage
        self.units = units
        self.limit = limit
        self.chance = random.Random(seed)
        self.fronts: list[str] = list(BACKS)
        self.sku_id = f"SKU-{next(_skus)}-{time.monotonic_ns() % 1_000_000}"
        self.activity_id = ""
        self.users = [f"b{number}" for number in range(buyers)]
        self._tokens: dict[str, str] = {}
        self._channels: dict[str, MeshChannel] = {}
        self._discovery = StaticDiscovery(
            {name: [address] for name, address in stage.addresses.items()}
        )
        # What was heard.
        # order -> buyer, request, ticket: every admission that was acknowledged
        self.tickets: dict[str, tuple[str, str, str]] = {}
        self.orders_of_click: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        # order -> buyer who was told 1
        self.bought: dict[str, str] = {}
        self.cancelled: set[str] = set()  # somebody asked for it
        self.codes: Counter[str] = Counter()
        # told 1, then 2, without a cancel
        self.fallen: list[str] = []
        self.queued_again: list[str] = []  # told 1, then 0
        # their own tickets were told 2
        self.turned_down: set[str] = set()
        self.problems: list[str] = []  # what a scenario itself saw
        self.notes: list[str] = []  # for the table at the end
        # the fault takes places away that were promised
        self.loses = False
        self._moved = asyncio.Condition()
        self.clicks_begun = 0
        self.clicks_done = 0
        self.clicks_planned = 1
        self._share = 1.0  # of the crowd that may come
        self.is_over = False

    @property
    def keys(self) -> Keys:
        return Keys(activity_id=self.activity_id, merchant_id="mall", sku_id=self.sku_id)

    # --- the shop ---------------------------------------------------------------------------------

    async def open(
        self, *, starts_in: timedelta = -HOUR, ends_in: timedelta = HOUR, publish: bool = True
    ) -> None:
        """A product on the shelf and an activity of it, published unless told otherwise."""
        await self.stubborn(
            lambda: self.catalog().CreateProduct(
                catalog_pb2.CreateProductRequest(
                    sku_id=self.sku_id, name="A mug", price="10.00", available=SHELF
                ),
                metadata=self.bearer("clerk", "merchant"),
            )
        )
        await self.plan(starts_in=starts_in, ends_in=ends_in)
        if publish:
            await self.publish()

    async def plan(self, *, starts_in: timedelta = -HOUR, ends_in: timedelta = HOUR) -> None:
        """A draft for the product."""
        now = datetime.now(UTC)
        made = await self.stubborn(
            lambda: self.shop().CreateActivity(
                activity_pb2.CreateActivityRequest(
                    sku_id=self.sku_id,
                    price="5.00",
                    total=self.units,
                    limit_per_user=self.limit,
                    starts_at=_stamp(now + starts_in),
                    ends_at=_stamp(now + ends_in),
                ),
                metadata=[
                    *self.bearer("clerk", "merchant"),
                    ("idempotency-key", f"{self.sku_id}-{now.timestamp()}"),
                ],
            )
        )
        self.activity_id = made.activity.activity_id

    async def publish(self) -> None:
        """Until it is OPEN."""

        async def open_() -> bool:
            with contextlib.suppress(MeshError):
                return bool((await self.verb("Publish")).state == activity_pb2.ACTIVITY_STATE_OPEN)
            return False

        await self.reached(open_, "opening")

    async def verb(self, verb: str, *, at: str = "") -> Any:
        """Publish, Pause, Resume, Close or Get, as the shop does it; the activity then."""
        request = getattr(activity_pb2, f"{verb}ActivityRequest")(activity_id=self.activity_id)
        call = getattr(self.shop(at), f"{verb}Activity")
        return (await call(request, metadata=self.bearer("clerk", "merchant"))).activity

    async def close(self) -> None:
        """Until it is CLOSED."""

        async def closed() -> bool:
            with contextlib.suppress(MeshError):
                return bool((await self.verb("Close")).state == activity_pb2.ACTIVITY_STATE_CLOSED)
            return False

        await self.reached(closed, "close")

    async def rebuild(self, at: str = "") -> int:
        """A rebuild while people click; the new epoch, 0 when it was not this one's to do."""
        epoch = 0
        async for progress in self.shop(at).RebuildActivity(
            activity_pb2.RebuildActivityRequest(activity_id=self.activity_id),
            metadata=self.bearer("root", "admin"),
        ):
            epoch = progress.epoch
        return epoch

    def forget(self) -> None:
        """What was heard belongs to an activity that is closed."""
        for heard in (
            self.tickets,
            self.orders_of_click,
            self.bought,
            self.cancelled,
            self.turned_down,
            self.fallen,
            self.codes,
        ):
            heard.clear()

    # --- buyers -----------------------------------------------------------------------------------

    async def click(
        self, user: str, request: str, *, at: str = "", wait_ms: int = 0
    ) -> Told | None:
        """One click, repeated until there is an answer or the sale is over."""
        while not self.is_over:
            told = await self.click_once(user, request, at=at, wait_ms=wait_ms)
            if told is not None:
                return told
            await asyncio.sleep(AGAIN_SECONDS * self.chance.uniform(0.5, 1.5))
        return None

    async def click_once(
        self, user: str, request: str, *, at: str = "", wait_ms: int = 0
    ) -> Told | None:
        """One attempt; None when it got no word about the click."""
        try:
            answer = await self.front(at).SeckillAction(
                seckill_pb2.SeckillActionRequest(
                    sku_id=self.sku_id, request_id=request, wait_ms=wait_ms
                ),
                metadata=self.bearer(user),
                timeout=CALL_SECONDS,
            )
        except MeshError as error:
            self.codes[error.reason] += 1
            if error.reason not in UNKNOWN:
                raise AssertionError(
                    f"the click {request!r} of {user} was refused: {error.reason} {error.message}"
                ) from error
            return None
        told = _told(answer.result)
        self.codes[told.code] += 1
        if told.ticket:  # not the 2003, which tells of another click
            self.tickets[told.order_id or f"refused-{user}-{request}"] = (
                user,
                request,
                told.ticket,
            )
            if told.order_id:
                self.orders_of_click[user, request].add(told.order_id)
        if told.status == 1 and told.order_id:
            self.bought[told.order_id] = user
        return told

    async def result(
        self, user: str, *, ticket: str = "", at: str = "", wait_ms: int = 0
    ) -> Told | None:
        """What a buyer is told; None without an answer."""
        try:
            answer = await self.front(at).SeckillResult(
                seckill_pb2.SeckillResultRequest(
                    sku_id=self.sku_id, ticket=ticket, wait_ms=wait_ms
                ),
                metadata=self.bearer(user),
                timeout=CALL_SECONDS + 2,
            )
        except MeshError as error:
            self.codes[f"result {error.reason}"] += 1
            return None
        told = _told(answer.result)
        if told.status == 1 and told.order_id:
            self.bought[told.order_id] = user
        return told

    async def cancel(self, user: str, order_id: str) -> None:
        """Cancels an order in order_rpc, as soon as it is there."""
        self.cancelled.add(order_id)
        while not self.is_over:
            try:
                await self._stub(order_pb2_grpc.OrderServiceStub, "order_rpc").CancelOrder(
                    order_pb2.CancelOrderRequest(order_id=order_id, reason="changed my mind"),
                    metadata=self.bearer(user),
                    timeout=8,
                )
            except MeshError as error:
                # paid, or cancelled before
                if (
                    isinstance(error, RemoteError)
                    and error.is_definite
                    and error.reason != "ORDER_NOT_FOUND"
                ):
                    return
            else:
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def pay(self, user: str, order_id: str) -> str:
        """Charges a good card; the state of the payment or the reason of a refusal."""
        card = payment_pb2.CreditCard(
            credit_card_number="4242424242424242",
            credit_card_cvv="123",
            credit_card_expiration_month=12,
            credit_card_expiration_year=datetime.now(UTC).year + 2,
        )
        try:
            answer = await self._stub(payment_pb2_grpc.PaymentServiceStub, "payment_rpc").Charge(
                payment_pb2.ChargeRequest(amount="5.00", order_id=order_id, credit_card=card),
                timeout=12,
                metadata=[*self.bearer(user), ("idempotency-key", order_id)],
            )
        except MeshError as error:
            return str(error.reason)
        return str(answer.payment.state)

    async def crowd(self, *, mode: str = "once") -> None:
        """Everybody comes: "once" with 30 % double clicks and some second clicks, "single" without,
        "triple" three clicks each, "random" anybody.
        """
        plan = self._plan(mode)
        self.clicks_planned = len(plan)
        waiting = iter(plan)

        async def somebody() -> None:
            for user, requests in waiting:
                async with self._moved:
                    await self._moved.wait_for(
                        lambda: self.clicks_begun < self._share * self.clicks_planned
                    )
                    self.clicks_begun += 1
                await asyncio.gather(*(self.click(user, request) for request in requests))
                async with self._moved:
                    self.clicks_done += 1
                    self._moved.notify_all()

        await asyncio.gather(
            *(somebody() for _ in range(max(4, min(CROWD, self.units // UNITS_PER_CLICKER))))
        )

    async def lets_come(self, share: float) -> None:
        """From now on this share of the crowd may come; the rest waits, so that a fault finds it
        later.
        """
        async with self._moved:
            self._share = share
            self._moved.notify_all()

    async def progress(self, share: float) -> None:
        """Waits until this share of the crowd has been there."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.clicks_done >= share * self.clicks_planned)

    @asynccontextmanager
    async def watchers(self, count: int = 4, *, cancels: int = 0) -> AsyncIterator[None]:
        """Buyers who look at what became of their clicks, again and again; up to `cancels` of them
        cancel. Meanwhile minutes pass for what lies in the outboxes."""
        is_done = asyncio.Event()
        cancelling: set[asyncio.Task[None]] = set()

        async def watch() -> None:
            while not is_done.is_set():
                known = list(self.tickets)
                if (
                    known
                    and (held := await self._look(known[self.chance.randrange(len(known))]))
                    and len(cancelling) < cancels
                ):
                    cancelling.add(asyncio.create_task(self.cancel(*held)))
                await asyncio.sleep(POLL_SECONDS / 4)

        async def pass_time() -> None:
            while not is_done.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(is_done.wait(), LEAP_SECONDS)
                with contextlib.suppress(DBAPIError):
                    self.stage.let_claims_end()

        tasks = [asyncio.create_task(watch()) for _ in range(count)]
        passing = asyncio.create_task(pass_time())
        try:
            yield
            await asyncio.gather(*cancelling)
        finally:
            is_done.set()
            await asyncio.gather(*tasks, passing)

    @asynccontextmanager
    async def line_grows(self, entries: int = 6) -> AsyncIterator[None]:
        """So many buyers stand in the line of whom no consumer has heard, and no consumer is about
        to hear of them: somebody holds the row that consumers need for their commits, until the end
        of the block, and all of them wait for it.

        Raises:
            Untested: everybody has clicked and was heard.
        """
        with self.stage.locked(
            "seckill_rpc",
            "SELECT 1 FROM activity WHERE activity_id = :activity FOR UPDATE",
            activity=self.activity_id,
        ):
            with self.stage.stock() as stock, stock.pipeline(transaction=True) as at_once:
                last_heard, heard_at = "", time.monotonic()

                def grew() -> bool:
                    nonlocal last_heard, heard_at
                    length, [group] = (
                        at_once.xlen(self.keys.queue).xinfo_groups(self.keys.queue).execute()
                    )
                    if group["last-delivered-id"] != last_heard:
                        last_heard, heard_at = group["last-delivered-id"], time.monotonic()
                    stand = length - group["pending"]
                    if stand < entries and self.clicks_done >= self.clicks_planned:
                        raise Untested(f"everybody has been there, {stand} stand in the line")
                    return stand >= entries and time.monotonic() - heard_at >= DEAF_SECONDS

                await until(grew, "line", seconds=10)
            yield

    async def reached(
        self, condition: Callable[[], Awaitable[Any]], what: str, *, seconds: float = 40.0
    ) -> Any:
        """Asks until the answer is true; minutes pass for what lies in the outboxes while it
        waits.
        """
        deadline, next_leap = time.monotonic() + seconds, time.monotonic() + LEAP_SECONDS
        while not (answer := await condition()):
            assert time.monotonic() < deadline, f"no {what} within {seconds} s"
            if time.monotonic() > next_leap:
                self.stage.let_claims_end()
                next_leap = time.monotonic() + LEAP_SECONDS
            await asyncio.sleep(0.1)
        return answer

    async def stubborn(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A call that is made until it is answered."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return await call()
            except MeshError as error:
                if (
                    isinstance(error, RemoteError) and error.is_definite
                ) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    # --- wires ------------------------------------------------------------------------------------

    def front(self, at: str = "") -> Any:
        return self._stub(
            seckill_pb2_grpc.SeckillServiceStub, at or self.chance.choice(self.fronts)
        )

    def shop(self, at: str = "") -> Any:
        return self._stub(
            activity_pb2_grpc.ActivityServiceStub, at or self.chance.choice(self.fronts)
        )

    def catalog(self) -> Any:
        return self._stub(catalog_pb2_grpc.CatalogServiceStub, "order_rpc")

    def bearer(self, subject: str, role: str = "user") -> list[tuple[str, str]]:
        token = self._tokens.get(subject)
        if token is None:
            token = self._tokens[subject] = self.stage.users.issue(subject, roles=[role])
        return [("authorization", f"Bearer {token}")]

    async def hang_up(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        await self._discovery.close()

    def _stub(self, kind: Any, name: str) -> Any:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = MeshChannel(
                name,
                settings=MeshSettings(service="mesh", environment="test"),
                discovery=self._discovery,
            )
        return kind(channel)

    def _plan(self, mode: str) -> list[tuple[str, list[str]]]:
        chance = self.chance
        match mode:
            case "once":
                plan = [
                    (
                        user,
                        [
                            "a",
                            *(["a"] if chance.random() < 0.3 else []),
                            *(["b"] if chance.random() < 0.1 else []),
                        ],
                    )
                    for user in self.users
                ]
            case "single":
                plan = [(user, ["a"]) for user in self.users]
            case "triple":
                plan = [(user, ["a", "b", chance.choice("abc")]) for user in self.users]
            case _:
                plan = [
                    (chance.choice(self.users), [chance.choice("abc")])
                    for _ in range(2 * len(self.users))
                ]
        chance.shuffle(plan)
        return plan

    async def _look(self, order_id: str) -> tuple[str, str] | None:
        """A buyer looks once; who and which order, when it is his and he has not cancelled it."""
        user, _, ticket = self.tickets[order_id]
        was_bought = order_id in self.bought and order_id not in self.cancelled
        asked_by_ticket = self.chance.random() < 0.5
        told = await self.result(user, ticket=ticket if asked_by_ticket else "")
        if told is None:
            return None
        if asked_by_ticket and told.status == 2:
            self.turned_down.add(order_id)
        is_his = order_id in self.bought and order_id not in self.cancelled
        if was_bought and is_his and told.status != 1 and self.limit == 1:
            (self.fallen if told.status == 2 else self.queued_again).append(
                f"{user} held {order_id} and was told {told.status} {told.code}"
            )
        return (user, order_id) if is_his else None


def _told(result: Any) -> Told:
    return Told(result.status, result.code, result.order_id, result.ticket)


def _stamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


@asynccontextmanager
async def sale_of(
    stage: SeckillProcesses,
    *,
    units: int,
    buyers: int,
    limit: int = 1,
    seed: int = 1,
    opens: bool = True,
) -> AsyncIterator[Sale]:
    """An activity that is open; its buyers go home at the end."""
    sale = Sale(stage, units=units, buyers=buyers, limit=limit, seed=seed)
    try:
        if opens:
            await sale.open()
        yield sale
    finally:
        sale.is_over = True
        await sale.hang_up()


def sampled(things: Iterable[str], count: int, chance: random.Random) -> list[str]:
    """Some of them, or all."""
    found = sorted(things)
    return found if len(found) <= count else chance.sample(found, count)
