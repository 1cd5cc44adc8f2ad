"""The flash sale's scripts against a model in Python, in random interleavings of buyers, consumers,
returns, rebuilders and shop keepers who do everything late, twice and in the wrong order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from seckill_rpc.domain.activity import (
    RUNNING,
    Activity,
    ActivityState,
    ActivityVerb,
    AdmissionMode,
)
from seckill_rpc.domain.order import BuyerStatus, Verdict
from seckill_rpc.redis.admission_queue import Entry, FinishedEntry, GiveBack, ReturnedUnit
from seckill_rpc.redis.admit import AdmitCode, Click, admit
from seckill_rpc.redis.connection import open_admission_redis
from seckill_rpc.redis.loader import Meta
from tests.builders.seckill_scripts import Rebuild, Stage
from tests.conftest import PROOF

T = TypeVar("T")
EVERYBODY = ("u", "v", "w", "x")
WHO = st.lists(
    st.tuples(st.sampled_from(EVERYBODY), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=6
)
DEEDS = [
    *["click", "serve"] * 4,
    *["decide", "finish", "give back", "sell again", "rebuild", "carry", "publish", "draw"] * 2,
    "take",
    "take over",
    "readmit",
    "fence",
    "build",
    "pause",
    "shut",
    "tell",
    "close",
    "forget",
]


class Mirror:
    """What Redis should hold, in other words than the scripts': one record per click, everything
    else is counted.
    """

    def __init__(self, row: Activity) -> None:
        self.limit, self.mode = row.limit_per_user, row.mode
        self.epoch = self.rev = self.stock = 0
        self.state, self.is_held, self.is_over, self.has_drawn = "", False, False, False
        self.records: dict[str, tuple[bool, str]] = {}  # <user>#<request> -> (is it live, order)
        self.waiting: list[tuple[str, str, int]] = []  # (record, order, epoch)
        self.entries: dict[str, tuple[str, str]] = {}  # user -> (order, request)

    def of(self, user: str, *, live: bool | None = None) -> int:
        return sum(
            1
            for name, (is_live, _) in self.records.items()
            if name.split("#")[0] == user and live in {None, is_live}
        )

    def users(self) -> dict[str, str]:
        said = {name: f"{int(is_live)}{order}" for name, (is_live, order) in self.records.items()}
        for user in {name.split("#")[0] for name in self.records}:
            said[user] = str(self.of(user))
            said |= {f"{user}+": str(live)} if (live := self.of(user, live=True)) else {}
        return said

    def admit(
        self, user: str, request: str, order: str, min_epoch: int = 0
    ) -> tuple[AdmitCode, str]:
        if self.state == "CLOSED":
            return AdmitCode.ENDED, ""
        if self.is_held or self.epoch < min_epoch:
            return AdmitCode.NOT_READY, ""
        entry = self.entries.get(user, ("", "")) if not min_epoch else ("", "")
        if record := self.records.get(f"{user}#{request}"):
            return (AdmitCode.REPLAY_LIVE if record[0] else AdmitCode.REPLAY_QUEUED), record[1]
        if entry[1] == request:
            return AdmitCode.REPLAY_QUEUED, entry[0]
        is_draw = self.mode is AdmissionMode.DRAW
        undecided = str(
            sum(1 for is_live, _ in self.records.values() if not is_live) + len(self.entries)
        )
        if not min_epoch and self.state == "PAUSED":
            return AdmitCode.PAUSED, undecided
        if not min_epoch and (self.state != "OPEN" or self.is_over or (is_draw and self.has_drawn)):
            return AdmitCode.ENDED, undecided
        if entry[1] or self.of(user) >= self.limit:
            return AdmitCode.LIMIT, str(self.of(user))
        if is_draw and not min_epoch:
            self.entries[user] = (order, request)
            return AdmitCode.QUEUED, order
        if self.stock < 1:
            return AdmitCode.SOLD_OUT, undecided
        self.queue(f"{user}#{request}", order)
        return AdmitCode.QUEUED, order

    def queue(self, record: str, order: str) -> None:
        self.stock -= 1
        self.records[record] = (False, order)
        self.waiting.append((record, order, self.epoch))

    def finish(self, done: FinishedEntry) -> None:
        record, order = f"{done.entry.user_id}#{done.entry.request_id}", done.entry.order_id
        self.drop(done.entry)
        if self.records.get(record) != (False, order):
            return
        match done.verdict:
            case Verdict.LIVE:
                self.records[record] = (True, order)
            case Verdict.DUPLICATE if (
                other := f"{done.entry.user_id}#{done.other_request_id}"
            ) not in self.records or other == record:
                del self.records[record]
                self.records[other] = (True, done.other_order_id)
            case Verdict.PHANTOM:
                del self.records[record]
            case _:
                del self.records[record]
                self.stock += 1

    def drop(self, entry: Entry) -> bool:
        found = (f"{entry.user_id}#{entry.request_id}", entry.order_id, entry.epoch)
        if is_there := found in self.waiting:
            self.waiting.remove(found)
        return is_there

    def give_back(self, unit: ReturnedUnit) -> int:
        record = f"{unit.user_id}#{unit.request_id}"
        if self.epoch < unit.epoch:
            return GiveBack.NOT_YET
        if record in self.records and self.records[record][1] == unit.order_id:
            del self.records[record]
            self.stock += 1
            return GiveBack.DONE
        return GiveBack.NOTHING

    def publish(self, rebuild: Rebuild) -> bool:
        if self.epoch >= rebuild.row.epoch:
            return False
        self.epoch, self.stock, self.is_held = rebuild.row.epoch, rebuild.row.left, True
        self.records = {
            f"{unit.user_id}#{unit.request_id}": (True, unit.order_id) for unit in rebuild._units
        }
        self.take_state(rebuild.row, or_equal=True)
        return True

    def carry(self, epoch: int) -> bool:
        if self.epoch != epoch:
            return False
        for found in [entry for entry in self.waiting if entry[2] < epoch]:
            record, order, _ = found
            if (
                record not in self.records
                and self.of(record.split("#")[0]) < self.limit
                and self.stock > 0
            ):
                self.waiting.remove(found)
                self.queue(record, order)
        self.is_held = False
        return True

    def take_state(self, row: Activity, *, or_equal: bool = False) -> bool:
        if row.rev < self.rev + (not or_equal):
            return False
        self.rev, self.state, self.is_over = row.rev, str(row.state), row.ends_at < row.created_at
        return True

    def drop_all(self, row: Activity) -> bool:
        if self.epoch >= row.epoch:
            return False
        self.__init__(row)  # type: ignore[misc]
        self.epoch, self.rev, self.state = row.epoch, row.rev, "CLOSED"
        return True


class FlashSale(RuleBasedStateMachine):
    """What happens. Everything that has begun is kept, and may go on, or happen again, at any later
    time.
    """

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = open_admission_redis(self.url)
        self.acknowledged: set[str] = set()
        self.taken: list[Entry] = []
        self.finished: list[FinishedEntry] = []
        self.again: list[Entry] = []
        self.units: list[ReturnedUnit] = []
        self.rebuilds: list[Rebuild] = []
        self.rows_seen: list[Activity] = []
        self.excess = 0  # units that Redis believes in and the rows do not

    def run(self, doing: Awaitable[T]) -> T:
        async def do() -> T:
            return await doing

        return self.runner.run(do())

    @initialize(
        total=st.integers(1, 6),
        limit=st.integers(1, 2),
        is_draw=st.sampled_from([False, False, True]),
    )
    def open(self, total: int, limit: int, is_draw: bool) -> None:
        self.run(self.redis.flushall())
        mode = AdmissionMode.DRAW if is_draw else AdmissionMode.FIRST_COME
        self.stage = self.run(
            Stage(self.redis).open(total=total, limit=1 if is_draw else limit, mode=mode)
        )
        self.mirror = Mirror(self.row)
        self.mirror.take_state(self.row)
        self.mirror.epoch, self.mirror.stock = self.row.epoch, total

    @property
    def row(self) -> Activity:
        return self.stage.rows.activity

    @property
    def is_closed(self) -> bool:
        return self.row.state is ActivityState.CLOSED

    def one_of(self, things: list[T], place: int) -> T:
        return things[place % len(things) if place < 4 else -1]  # most often what happened last

    @property
    def is_open(self) -> bool:
        """False before `open`."""
        return hasattr(self, "mirror")

    @rule(deed=st.sampled_from(DEEDS), place=st.integers(0, 9), flag=st.booleans(), who=WHO)
    def go_on(self, deed: str, place: int, flag: bool, who: list[tuple[str, str]]) -> None:
        """One deed; one rule for all, so that all are equally likely whatever came before. A deed
        that has nothing to work on does nothing.
        """
        match deed:
            case "click":
                self.click(who)
            case "take":
                self.take()
            case "take over":
                self.take_over()
            case "serve":
                self.serve(is_kept=flag)
            case "decide" if self.taken:
                self.decide(place, is_kept=flag)
            case "finish" if self.finished:
                self.finish(place, is_kept=flag)
            case "readmit" if self.again:
                self.readmit(place)
            case "give back" if self.stage.rows.live():
                self.give_back(place)
            case "sell again" if self.units:
                self.sell_again(place)
            case "forget":
                self.forget(place)
            case "draw" if self.mirror.mode is AdmissionMode.DRAW:
                self.draw(1 + place % 3)
            case _:
                self.keep_shop(deed, place, flag=flag)

    def keep_shop(self, deed: str, place: int, *, flag: bool) -> None:
        state = self.row.state
        match deed:
            case "rebuild" if state in RUNNING:
                self.rebuild()
            case "fence" if state in RUNNING:
                self.fence()
            case "build" if self.rebuilds:
                self.build(place)
            case "publish" if self.rebuilds:
                self.publish(place)
            case "carry" if self.rebuilds:
                self.carry(place, count=1 + place % 4)
            case "pause" if state is ActivityState.OPEN and place < 5:
                self.step(ActivityVerb.PAUSE, is_told=flag)
            case "pause" | "tell" if state is ActivityState.PAUSED:
                self.step(ActivityVerb.RESUME, is_told=flag)
            case "shut" if state in {ActivityState.OPEN, ActivityState.PAUSED} and place < 1:
                self.step(ActivityVerb.CLOSE, is_told=flag)
            case "tell" if self.rows_seen:
                self.tell_the_state(place)
            case "close" if (
                state is ActivityState.CLOSING
                and self.mirror.epoch == self.row.epoch
                and self.mirror.state == "CLOSING"
            ):
                self.close()

    # --- buyers and consumers

    def click(self, who: list[tuple[str, str]]) -> None:
        clicks = [
            Click(user_id=user, request_id=request, order_id=self.stage.order_id())
            for user, request in who
        ]
        epoch, answers = self.run(admit(self.stage.scripts, self.stage.keys, clicks))
        assert epoch == self.mirror.epoch
        for click, answer in zip(clicks, answers, strict=True):
            assert (answer.code, answer.detail) == self.mirror.admit(
                click.user_id, click.request_id, click.order_id
            )
            if answer.code is AdmitCode.QUEUED:
                self.acknowledged.add(click.order_id)

    def take(self) -> None:
        self.taken += self.run(self.stage.take())

    def serve(self, *, is_kept: bool) -> None:
        """What a consumer does that is not disturbed."""
        self.take()
        if is_kept:
            self.take_over()  # also what was taken just now: delivered twice
        for _ in range(len(self.taken)):
            self.decide(0, is_kept=False)
        for _ in range(len(self.again)):
            self.readmit(0)
        for _ in range(len(self.finished) - 3 * is_kept):
            self.finish(9, is_kept=False)

    def take_over(self) -> None:
        self.taken += self.run(
            self.stage.queue.take_over(
                self.stage.keys, "heir", min_idle_ms=0, cursor="0-0", count=100
            )
        )[1]

    def decide(self, place: int, *, is_kept: bool) -> None:
        entry = self.one_of(self.taken, place)
        if not is_kept:
            self.taken.remove(entry)
        finished, again = self.stage.rows.decide([entry])
        self.finished += finished
        self.again += again

    def finish(self, place: int, *, is_kept: bool) -> None:
        done = self.one_of(self.finished, place)
        if not is_kept:
            self.finished.remove(done)
        is_there = self.run(self.is_pending(done.entry))
        assert self.run(self.stage.queue.finish(self.stage.keys, [done])) == is_there
        if is_there:
            units, forgotten = self.mirror.stock + len(self.mirror.records), len(self.forgotten())
            self.mirror.finish(done)
            self.excess += (
                self.mirror.stock
                + len(self.mirror.records)
                + len(self.forgotten())
                - units
                - forgotten
            )
            view = (
                BuyerStatus.HOLDER
                if self.mirror.of(done.entry.user_id, live=True)
                else (
                    BuyerStatus.QUEUED
                    if self.mirror.of(done.entry.user_id)
                    else BuyerStatus.NEITHER
                )
            )
            assert self.run(self.stage.view(done.entry.user_id)) is view

    def readmit(self, place: int) -> None:
        entry = self.again.pop(place % len(self.again))
        if entry.order_id not in self.stage.rows.orders and not self.is_closed:
            said = self.mirror.admit(
                entry.user_id, entry.request_id, entry.order_id, self.row.epoch
            )
            if said[1] == entry.order_id:
                self.mirror.drop(entry)
            self.finished += self.run(self.stage.readmit([entry]))

    async def is_pending(self, entry: Entry) -> bool:
        return await self.stage.queue.deliveries(self.stage.keys, entry.entry_id) > 0

    # --- units that come back

    def give_back(self, place: int) -> None:
        forgotten = len(self.forgotten())
        unit = self.stage.rows.give_back(self.one_of(self.stage.rows.live(), place).order_id)
        assert unit is not None
        self.excess -= forgotten - len(self.forgotten())
        if not self.is_closed:
            self.units.append(unit)

    def sell_again(self, place: int) -> None:
        unit = self.one_of(self.units, place)
        assert self.run(self.stage.give_back(unit)) == self.mirror.give_back(unit)

    def forget(self, place: int) -> None:
        """A failover to a replica that had not heard of somebody's unit: Redis believes in one unit
        too many from now on.
        """
        known = {name: order for name, (is_live, order) in self.mirror.records.items() if is_live}
        if known and self.mirror.epoch == self.row.epoch and not self.mirror.is_held:
            record = self.one_of(sorted(known), place)
            del self.mirror.records[record]
            self.mirror.stock += 1
            self.excess += known[record] in {row.order_id for row in self.stage.rows.live()}
            self.run(self.lose_record())
            user, _, request = record.partition("#")
            self.click([(user, request)] * (place % 2) + [(user, "b"), ("x", "a"), ("w", "a")])

    async def lose_record(self) -> None:
        await self.redis.delete(self.stage.keys.users)
        users: dict[Any, Any] = dict(self.mirror.users())
        if users:
            await self.redis.hset(self.stage.keys.users, mapping=users)
        await self.redis.hincrby(self.stage.keys.meta, "stock", 1)

    def forgotten(self) -> set[str]:
        """Live orders that Redis does not know."""
        return {row.order_id for row in self.stage.rows.live()} - {
            order for _, order in self.mirror.records.values()
        }

    # --- rebuilders

    def rebuild(self) -> None:
        """What a rebuilder does that is not disturbed."""
        self.fence()
        self.publish(9)
        self.carry(9, count=100)

    def fence(self) -> None:
        self.rebuilds.append(self.run(Rebuild(self.stage).fence()))
        self.mirror.is_held = True

    def build(self, place: int) -> None:
        rebuild = self.one_of(self.rebuilds, place)
        if rebuild._units or rebuild._told:
            assert self.run(rebuild.build()) == (self.mirror.epoch < rebuild.row.epoch)

    def publish(self, place: int) -> None:
        rebuild = self.one_of(self.rebuilds, place)
        if self.mirror.epoch < rebuild.row.epoch:
            self.run(rebuild.build())  # whoever publishes has built before; perhaps more than once
        is_newer = self.mirror.publish(rebuild)
        assert self.run(rebuild.publish()) == is_newer
        self.excess = 0 if is_newer else self.excess

    def carry(self, place: int, *, count: int) -> None:
        rebuild = self.one_of(self.rebuilds, place)
        assert self.run(rebuild.carry(count=count)) == self.mirror.carry(rebuild.row.epoch)

    # --- the shop

    def step(self, verb: ActivityVerb, *, is_told: bool) -> None:
        self.rows_seen.append(self.stage.rows.step(verb))
        if is_told:
            self.tell_the_state(9)

    def tell_the_state(self, place: int) -> None:
        row = self.one_of(self.rows_seen, place)
        assert self.run(
            self.stage.loader.write_state(self.stage.keys, row)
        ) == self.mirror.take_state(row)

    def close(self) -> None:
        """When the line is empty, everything is drawn and no give-back is due."""
        due = [
            unit
            for unit in self.units
            if self.mirror.records.get(f"{unit.user_id}#{unit.request_id}", (0, ""))[1]
            == unit.order_id
        ]
        if (
            not self.mirror.waiting
            and not self.mirror.entries
            and not due
            and not self.mirror.is_held
        ):
            self.stage.rows.step(ActivityVerb.FINISH)
            assert self.run(
                self.stage.loader.write_tombstone(self.stage.keys, self.row)
            ) is self.mirror.drop_all(self.row)

    def draw(self, count: int) -> None:
        if self.run(self.stage.draw(count)) is None:
            assert self.mirror.state != "CLOSING" or self.mirror.is_held
            return
        assert self.mirror.state == "CLOSING"
        assert not self.mirror.is_held
        self.mirror.has_drawn = True
        left = set(self.run(self.redis.hgetall(self.stage.keys.entries)))
        gone = set(self.mirror.entries) - left
        picks = min(count, self.mirror.stock) if self.mirror.stock else count
        assert len(gone) == min(picks, len(self.mirror.entries))
        line = self.run(self.stage.queued())[
            len(self.mirror.waiting) :
        ]  # winners, as Redis drew them
        assert len(line) <= self.mirror.stock
        owners = {order: (user, request) for user, (order, request) in self.mirror.entries.items()}
        could = sum(1 for user in gone if self.mirror.of(user) < self.mirror.limit)
        assert len(line) == min(could, self.mirror.stock)
        for order in line:
            self.mirror.queue("#".join(owners[order]), order)
        for user in gone:
            order, _ = self.mirror.entries.pop(user)
            if order not in line:
                self.acknowledged.discard(order)  # he lost

    # --- what always holds

    @precondition(lambda self: self.is_open)
    @invariant()
    def redis_is_what_the_model_says(self) -> None:
        meta, users, line, entries, views = self.run(self.check_state())
        assert meta is not None
        mirror = self.mirror
        out = sum(1 for is_live, _ in mirror.records.values() if not is_live)
        assert (meta.epoch, meta.rev, meta.state, meta.stock, meta.out, meta.is_held) == (
            mirror.epoch,
            mirror.rev,
            mirror.state,
            mirror.stock,
            out,
            mirror.is_held,
        )
        assert users == mirror.users()
        assert [
            (f"{entry['u']}#{entry['r']}", entry["o"], int(entry["e"])) for _, entry in line
        ] == mirror.waiting
        assert entries == {user: " ".join(entry) for user, entry in mirror.entries.items()}
        if not self.is_closed:
            self.check_views(views)

    async def check_state(
        self,
    ) -> tuple[
        Meta | None,
        dict[str, str],
        list[tuple[str, dict[str, str]]],
        dict[str, str],
        dict[str, str | None],
    ]:
        keys = self.stage.keys
        meta = await self.stage.loader.meta(keys)
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.users)
            pipe.xrange(keys.queue)
            pipe.hgetall(keys.entries)
            for user in EVERYBODY:
                pipe.get(keys.view(user))
            users, line, entries, *views = await pipe.execute()
        return meta, users, line, entries, dict(zip(EVERYBODY, views, strict=True))

    @precondition(
        lambda self: self.is_open and not self.is_closed and self.mirror.epoch == self.row.epoch
    )
    @invariant()
    def the_law_holds(self) -> None:
        assert (
            self.mirror.stock + len(self.mirror.records) + len(self.forgotten())
            == self.row.total + self.excess
        )
        assert self.excess >= 0
        assert self.mirror.stock >= 0
        assert 0 <= self.row.sold <= self.row.total

    def check(self) -> None:
        """The invariants, for who drives it by himself."""
        self.redis_is_what_the_model_says()
        self.no_click_is_lost()
        if not self.is_closed and self.mirror.epoch == self.row.epoch:
            self.the_law_holds()

    def check_views(self, views: dict[str, str | None]) -> None:
        """Nobody is over the limit, and nobody is told nonsense."""
        for user, view in views.items():
            assert self.mirror.of(user) <= self.mirror.limit
            assert len(self.stage.rows.live(user)) <= self.mirror.limit
            if self.mirror.of(user, live=True) and self.stage.rows.live(user):
                assert view == BuyerStatus.HOLDER, "a 1 falls only with the last live order"
            elif view == BuyerStatus.HOLDER:
                due = [unit for unit in self.units if unit.user_id == user]
                assert self.stage.rows.live(user) or due, "nothing holds this 1 up"

    @precondition(lambda self: self.is_open)
    @invariant()
    def no_click_is_lost(self) -> None:
        entered = {order for order, _ in self.mirror.entries.values()}
        assert self.acknowledged <= {order for _, order, _ in self.mirror.waiting} | entered | set(
            self.stage.rows.orders
        )

    def teardown(self) -> None:
        """Everything comes to its end, and Redis says what the rows say."""
        try:
            if self.is_open and not self.is_closed:
                self.run(self.settle())
            self.run(self.redis.aclose())
        finally:
            self.runner.close()

    async def settle(self) -> None:
        stage = self.stage
        await stage.loader.write_state(stage.keys, self.row)
        await stage.rebuild()
        await stage.queue.finish(stage.keys, self.finished)
        while await stage.queue.waiting(stage.keys) != (0, 0):
            _, pending = await stage.queue.take_over(
                stage.keys, "heir", min_idle_ms=0, cursor="0-0", count=100
            )
            await stage.settle(pending + await stage.take())
        for unit in self.units:
            assert await stage.give_back(unit) != GiveBack.NOT_YET
        await stage.check_law()
        users = await stage.users()
        assert {value for name, value in users.items() if "#" in name} == {
            f"1{row.order_id}" for row in stage.rows.live()
        }
        for row in stage.rows.orders.values():
            entered = await stage.redis.hexists(stage.keys.entries, row.user_id)
            if not entered:
                assert await stage.view(row.user_id) is (
                    BuyerStatus.HOLDER if stage.rows.live(row.user_id) else BuyerStatus.NEITHER
                )


def test_random_interleavings_never_break_the_law(
    redis_url: str, rounds: Callable[[int, int], int]
) -> None:
    FlashSale.url = redis_url
    run_state_machine_as_test(
        FlashSale,
        settings=settings(
            max_examples=rounds(8, 1500), stateful_step_count=rounds(30, 60), deadline=None
        ),
    )


@pytest.mark.parametrize("seed", range(500 if PROOF else 4))
def test_long_walks_never_break_the_law(redis_url: str, seed: int) -> None:
    """Hypothesis finds short stories; the deep ones take a long way."""
    chance = random.Random(seed)
    FlashSale.url = redis_url
    sale = FlashSale()
    try:
        sale.open(total=chance.randint(1, 5), limit=chance.randint(1, 2), is_draw=seed % 3 == 2)
        for _ in range(250):
            who = [
                (chance.choice(EVERYBODY), chance.choice("abc"))
                for _ in range(chance.randint(1, 6))
            ]
            sale.go_on(
                deed=chance.choice(DEEDS),
                place=chance.randint(0, 9),
                flag=chance.random() < 0.5,
                who=who,
            )
            sale.check()
    finally:
        sale.teardown()
