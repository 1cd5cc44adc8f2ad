"""One activity on a real Redis, and a model of the database in a few lines: what the rows would
say, decided as docs/protocols.md 5 decides.

The scripts are tested against it, in scripted interleavings (tests/builders/seckill_scenarios.py) and in
random ones (test_seckill_model.py). That the real tables decide likewise is tested elsewhere, on
real databases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from mesh.money import Money
from seckill_rpc.domain.activity import Activity, ActivityState, ActivityVerb, AdmissionMode
from seckill_rpc.domain.order import BuyerStatus, Verdict
from seckill_rpc.redis.admission_queue import AdmissionQueue, Entry, FinishedEntry, ReturnedUnit
from seckill_rpc.redis.admit import QUEUED_SECONDS, AdmitCode, AdmitReply, Click, admit
from seckill_rpc.redis.draw import DrawProgress, draw
from seckill_rpc.redis.keys import GROUP, Keys
from seckill_rpc.redis.loader import ActivityLoader, LiveUnit
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.redis.views import Views

HOUR = timedelta(hours=1)


@dataclass(slots=True)
class Row:
    """A row of seckill_order."""

    order_id: str
    user_id: str
    request_id: str
    state: str


@dataclass(slots=True)
class Rows:
    """The row of the activity and its orders."""

    activity: Activity
    orders: dict[str, Row] = field(default_factory=dict)

    def live(self, user_id: str | None = None) -> list[Row]:
        return [
            row
            for row in self.orders.values()
            if row.state == "LIVE" and user_id in {None, row.user_id}
        ]

    def decide(self, entries: Iterable[Entry]) -> tuple[list[FinishedEntry], list[Entry]]:
        """One transaction of the consumer: what it decided, and the entries of another epoch that
        it never saw.
        """
        finished, again = [], []
        for entry in entries:
            known = self.orders.get(entry.order_id)
            if known is None and (
                entry.epoch != self.activity.epoch or self.activity.state is ActivityState.CLOSED
            ):
                again.append(entry)
                continue
            finished.append(self._decided(entry, known))
        return finished, again

    def refuse(self, entries: Iterable[Entry]) -> list[FinishedEntry]:
        """A refusal is a row; whoever commits first decides."""
        for entry in entries:
            self.orders.setdefault(
                entry.order_id, Row(entry.order_id, entry.user_id, entry.request_id, "REFUSED")
            )
        return [self._decided(entry, self.orders[entry.order_id]) for entry in entries]

    def give_back(self, order_id: str) -> ReturnedUnit | None:
        """ReturnStock: what goes into the outbox for Redis."""
        row = self.orders.get(order_id)
        if row is None or row.state != "LIVE":
            return None
        row.state = "RETURNED"
        is_closed = self.activity.state is ActivityState.CLOSED
        self.activity = replace(
            self.activity, sold=self.activity.sold - 1, total=self.activity.total - is_closed
        )
        return ReturnedUnit(
            user_id=row.user_id,
            request_id=row.request_id,
            order_id=order_id,
            epoch=self.activity.epoch,
        )

    def fence(self) -> tuple[Activity, list[LiveUnit]]:
        """The transaction of a rebuild."""
        self.activity = replace(self.activity, epoch=self.activity.epoch + 1)
        return self.activity, [
            LiveUnit(user_id=row.user_id, request_id=row.request_id, order_id=row.order_id)
            for row in self.live()
        ]

    def step(self, verb: ActivityVerb) -> Activity:
        self.activity = self.activity.step(verb, at=self.activity.created_at)
        return self.activity

    def change(self, **changes: object) -> Activity:
        self.activity = replace(self.activity, rev=self.activity.rev + 1, **changes)  # type: ignore[arg-type]
        return self.activity

    def _decided(self, entry: Entry, known: Row | None) -> FinishedEntry:
        if known is not None:
            return FinishedEntry(
                entry=entry, verdict=Verdict.LIVE if known.state == "LIVE" else Verdict.REFUSED
            )
        mine = self.live(entry.user_id)
        same = [row for row in mine if row.request_id == entry.request_id]
        row = self.orders[entry.order_id] = Row(
            entry.order_id, entry.user_id, entry.request_id, "REFUSED"
        )
        if same or len(mine) >= self.activity.limit_per_user:
            other = (same or mine)[0]
            return FinishedEntry(
                entry=entry,
                verdict=Verdict.DUPLICATE,
                other_order_id=other.order_id,
                other_request_id=other.request_id,
            )
        if self.activity.left < 1:
            return FinishedEntry(entry=entry, verdict=Verdict.PHANTOM)
        row.state = "LIVE"
        self.activity = replace(self.activity, sold=self.activity.sold + 1)
        return FinishedEntry(entry=entry, verdict=Verdict.LIVE)


class Rebuild:
    """A rebuild in its steps, so that a test can put something between them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._told: set[str] = set()
        self.row = stage.rows.activity
        self._units: list[LiveUnit] = []

    async def fence(self) -> Rebuild:
        stage = self._stage
        self._told = await stage.loader.viewed_holders(stage.keys)
        await stage.loader.hold(stage.keys)
        self.row, self._units = stage.rows.fence()
        return self

    async def build(self) -> bool:
        stage, epoch = self._stage, self.row.epoch
        return await stage.loader.load_holders(
            stage.keys, epoch=epoch, units=self._units
        ) and await stage.loader.clear_stale_views(
            stage.keys, epoch=epoch, users=self._told - {unit.user_id for unit in self._units}
        )

    async def publish(self) -> bool:
        return await self._stage.loader.publish(
            self._stage.keys, self.row, run_id=await self._stage.loader.run_id()
        )

    async def carry(self, *, count: int = 1000) -> bool:
        cursor: str | None = ""
        while True:
            cursor = await self._stage.loader.carry(
                self._stage.keys, epoch=self.row.epoch, cursor=cursor or "", count=count
            )
            if not cursor:
                return cursor is not None

    async def finish(self) -> bool:
        """What is left after the fence."""
        return await self.build() and await self.publish() and await self.carry()


class Stage:
    """The activity, everything that touches it, and the law that binds it."""

    def __init__(
        self, redis: Redis, scripts: Scripts | None = None, *, activity_id: str = "ACT1"
    ) -> None:
        self.redis: Any = redis  # opened with decode_responses, which its types do not know
        self.scripts = scripts or Scripts(redis)
        self.keys = Keys(activity_id=activity_id, merchant_id="mall", sku_id="1001")
        self.queue = AdmissionQueue(redis, self.scripts)
        self.loader = ActivityLoader(self.scripts)
        self.views = Views(redis)
        self._orders = 0

    async def open(
        self,
        *,
        total: int = 10,
        limit: int = 1,
        mode: AdmissionMode = AdmissionMode.FIRST_COME,
        starts_in: timedelta = -HOUR,
        ends_in: timedelta = HOUR,
    ) -> Stage:
        """Publishes it; the window is relative to Redis' clock."""
        now = await self.now()
        self.rows = Rows(
            Activity.plan(
                activity_id=self.keys.activity_id,
                merchant_id="mall",
                sku_id="1001",
                price=Money(100, "CNY"),
                mode=mode,
                limit_per_user=limit,
                offered=total,
                starts_at=now + starts_in,
                ends_at=now + ends_in,
                at=now - 2 * HOUR,
            )
        )
        self.rows.step(ActivityVerb.PUBLISH)
        await self.loader.clear_views(self.keys)
        self.rows.step(ActivityVerb.OPEN)
        await self.rebuild()
        return self

    async def now(self) -> datetime:
        return datetime.fromtimestamp(await self.loader.now_ms() / 1000, UTC)

    async def rebuild(self) -> bool:
        return await (await Rebuild(self).fence()).finish()

    def order_id(self) -> str:
        self._orders += 1
        return f"ORD{self._orders}"

    async def buy(
        self,
        user: str,
        request: str = "a",
        order: str | None = None,
        *,
        min_epoch: int = 0,
        line_max: int = 1000,
    ) -> AdmitReply:
        click = Click(user_id=user, request_id=request, order_id=order or self.order_id())
        _, [admission] = await admit(
            self.scripts, self.keys, [click], min_epoch=min_epoch, line_max=line_max
        )
        return admission

    async def code(self, user: str, request: str = "a", **how: Any) -> AdmitCode:
        return (await self.buy(user, request, **how)).code

    async def take(self, consumer: str = "one") -> list[Entry]:
        return await self.queue.read(self.keys, consumer, count=500, block_ms=0)

    async def consume(self) -> list[Entry]:
        """Everything in the line, pending or not, until it is decided and published; what was in
        it.
        """
        entries = await self.take()
        await self.settle(entries)
        return entries

    async def settle(self, entries: Sequence[Entry]) -> int:
        finished, again = self.rows.decide(entries)
        return await self.queue.finish(self.keys, finished + await self.readmit(again))

    async def readmit(self, entries: Sequence[Entry]) -> list[FinishedEntry]:
        """Entries of an older epoch: into this one, or a refusal (also when the click has got
        another order meanwhile); those that are not ready stay pending."""
        refused = []
        for entry in entries:
            admission = AdmitReply(code=AdmitCode.ENDED, detail="")
            if self.rows.activity.state is not ActivityState.CLOSED:
                admission = await self.buy(
                    entry.user_id,
                    entry.request_id,
                    entry.order_id,
                    min_epoch=self.rows.activity.epoch,
                )
            if admission.detail == entry.order_id:
                await self.queue.drop(self.keys, [entry.entry_id])
            elif admission.code is not AdmitCode.NOT_READY:
                refused.append(entry)
        return self.rows.refuse(refused)

    async def sell(self, user: str, request: str = "a") -> str:
        """A buyer who holds a live order."""
        admission = await self.buy(user, request)
        assert admission.code is AdmitCode.QUEUED, admission
        await self.consume()
        return admission.detail

    async def give_back(self, unit: ReturnedUnit) -> int:
        [answer] = await self.queue.give_back(self.keys, [unit])
        return answer

    async def change(self, **changes: object) -> bool:
        """The row first, then Redis."""
        return await self.loader.write_state(self.keys, self.rows.change(**changes))

    async def close(self) -> Activity:
        """CLOSING, the line, CLOSED."""
        if self.rows.activity.state is not ActivityState.CLOSING:
            await self.loader.write_state(self.keys, self.rows.step(ActivityVerb.CLOSE))
        await self.consume()
        self.rows.step(ActivityVerb.FINISH)
        await self.loader.write_tombstone(self.keys, self.rows.activity)
        return self.rows.activity

    async def end_window(self) -> None:
        """It is over by Redis' clock."""
        now = await self.now()
        await self.change(starts_at=now - 2 * HOUR, ends_at=now - timedelta(seconds=1))

    async def draw(self, count: int = 200) -> DrawProgress | None:
        return await draw(self.scripts, self.keys, queued_seconds=QUEUED_SECONDS, count=count)

    async def draw_all(self, count: int = 200) -> None:
        while (drawn := await self.draw(count)) is not None and drawn.left:
            pass

    async def view(self, user: str) -> BuyerStatus | None:
        return await self.views.view(self.keys, user)

    async def users(self) -> dict[str, str]:
        return await self.redis.hgetall(self.keys.users)

    async def queued(self) -> list[str]:
        """Order ids in the line, in order."""
        return [fields["o"] for _, fields in await self.redis.xrange(self.keys.queue)]

    async def snapshot(self) -> dict[str, object]:
        """Everything in Redis, to see that nothing was written: what is there, and its bytes."""
        said: dict[str, object] = {}
        for key in sorted(await self.redis.keys("*")):
            kind = await self.redis.type(key)
            match kind:
                case "hash":
                    said[key] = await self.redis.hgetall(key)
                case "stream":
                    said[key] = await self.redis.xrange(key)
                case _:
                    said[key] = await self.redis.get(key)
            said[f"{key} bytes"] = await self.redis.memory_usage(key)
        return said

    async def check_law(self) -> None:
        """What holds at every instant between two scripts, while Redis and the rows are of one
        epoch and no give-back is due.
        """
        meta = await self.loader.meta(self.keys)
        assert meta is not None
        row, users = self.rows.activity, await self.users()
        records = {name: value for name, value in users.items() if "#" in name}
        live = {name: value for name, value in users.items() if name.endswith("+")}
        held = {
            name: int(value)
            for name, value in users.items()
            if "#" not in name and not name.endswith("+")
        }
        assert meta.stock + meta.out + row.sold == row.total, (meta, row)
        assert sum(int(value) for value in live.values()) == sum(
            1 for value in records.values() if value[0] == "1"
        ), users
        assert sum(held.values()) == len(records), users
        assert meta.out == sum(1 for value in records.values() if value[0] == "0"), users
        assert all(count <= row.limit_per_user for count in held.values()), users
        assert meta.stock >= 0, meta

    async def check_rest(self) -> None:
        """What holds when the line is empty: Redis says what the rows say, of every buyer."""
        await self.check_law()
        assert await self.queue.waiting(self.keys) == (0, 0)
        rows = self.rows.live()
        records = {f"{row.user_id}#{row.request_id}": f"1{row.order_id}" for row in rows}
        assert {
            name: value for name, value in (await self.users()).items() if "#" in name
        } == records
        holders = {row.user_id for row in rows}
        for user in {row.user_id for row in self.rows.orders.values()}:
            assert await self.view(user) in (
                {BuyerStatus.HOLDER} if user in holders else {BuyerStatus.NEITHER}
            ), user


async def plant(redis: Redis, keys: Keys) -> None:
    """The group of an empty line, as after a test has removed it."""
    await redis.delete(keys.queue)
    await redis.xgroup_create(keys.queue, GROUP, "0", mkstream=True)
