"""SeckillAction: cheapest refusals first, then the door of the activity. Nothing here decides who
gets a unit; that is the script's, and in the end the database's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from prometheus_client import REGISTRY
from redis.exceptions import RedisError, ResponseError

from mesh.clock import Clock, Monotonic, Seconds
from mesh.ids import Ids
from mesh.metrics import EnumCounter
from mesh.token_buckets import TokenBuckets
from seckill_rpc.domain.activity import Activity, ActivityState, AdmissionMode
from seckill_rpc.domain.errors import SeckillBusy, SeckillNotReady
from seckill_rpc.domain.result import Result, ResultCode, Status
from seckill_rpc.domain.ticket import Ticket, Tickets
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click, admit
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.usecases.admission.gate import AdmissionGate, AdmitResult, Jitter
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.admission.response_batcher import ResponseBatcher
from seckill_rpc.usecases.admission.result_cache import ResultCache
from seckill_rpc.usecases.results import ASK_AGAIN_MS, Results

BUSY_SECONDS = 1.0
NOT_READY_SECONDS = 0.3  # a rebuild takes about this long
PAUSED_MS = 2000
# a start may be moved, and clients wait no longer than a number that they can keep
NOT_STARTED_MS_MAX = 60_000

_CLICKS = EnumCounter("paymesh_seckill_clicks", "Answers to clicks of buyers.", "code", AdmitCode)
REGISTRY.register(_CLICKS)


class SeckillAction(NamedTuple):
    """One click. `request_id` "" gets a fresh one when it is let in."""

    merchant_id: str
    user_id: str
    sku_id: str
    request_id: str
    wait_seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionSettings:
    """See SeckillSettings."""

    queue_max: int
    draw_max: int
    queued_seconds: int
    batch_max: int
    calls_max: int


class Admission:
    """Takes clicks."""

    def __init__(
        self,
        *,
        registry: ActivityRegistry,
        scripts: Scripts,
        results: Results,
        known: ResultCache,
        tickets: Tickets,
        ids: Ids,
        clock: Clock,
        buckets: TokenBuckets,
        settings: AdmissionSettings,
        monotonic: Monotonic,
        jitter: Jitter,
        troubled: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`troubled`: hears of an activity that Redis does not admit anybody to although it
        should.
        """
        self._troubled = troubled
        self._registry = registry
        self._scripts = scripts
        self._results = results
        self._known = known
        self._tickets = tickets
        self._ids = ids
        self._clock = clock
        self._buckets = buckets
        self._settings = settings
        self._monotonic = monotonic
        self._jitter = jitter
        self._responses = ResponseBatcher()
        self._doors: dict[str, AdmissionGate] = {}

    async def seckill_action(self, click: SeckillAction) -> Result:
        """Asks for one unit.

        Raises:
            ActivityNotFound: the product has no activity. SeckillBusy: too many in the line, or too
                many clicks of this buyer; nothing was taken.
            SeckillNotReady: whether it counted is unknown; the same request id finds out.
        """
        missing_seconds = self._buckets.take(f"{click.merchant_id}/{click.user_id}")
        if missing_seconds:
            raise SeckillBusy("too many clicks", retry_after_seconds=missing_seconds)
        activity = self._registry.find(click.merchant_id, click.sku_id)
        if activity is None:
            activity = await self._registry.current(click.merchant_id, click.sku_id)
        if activity.state is ActivityState.CLOSED:
            return await self._after_the_end(activity, click)
        door = self._door(activity)
        refusal = door.refusal(click.user_id)
        if refusal is not None:
            _CLICKS.counts[refusal.code] += 1
            await self._responses.wait()
            return _refused(activity, click.request_id, refusal)
        request_id = click.request_id or self._ids.new("CLK")
        opened = await door.click(Click(click.user_id, request_id, self._ids.new("ORD")))
        _CLICKS.counts[opened.admission.code] += 1
        return await self._answer(activity, click, request_id, opened)

    def open_gate(self, activity: Activity) -> None:
        """From now on `add_participant` is remembered for this activity."""
        self._door(activity)

    def add_participant(self, activity_id: str, user_id: str) -> None:
        """A buyer stands in the line of an activity, or holds an order of it, wherever he was
        admitted.
        """
        door = self._doors.get(activity_id)
        if door is not None:
            door.add_participant(user_id)

    def mark_complete(self, activity_id: str) -> None:
        """`add_participant` was said of everybody, and will be."""
        door = self._doors.get(activity_id)
        if door is not None:
            door.mark_complete()

    def mark_incomplete(self, activity_id: str) -> None:
        """Until `mark_complete` is said again."""
        door = self._doors.get(activity_id)
        if door is not None:
            door.mark_incomplete()

    async def _answer(
        self, activity: Activity, click: SeckillAction, request_id: str, opened: AdmitResult
    ) -> Result:
        code = opened.admission.code
        match code:
            case AdmitCode.QUEUED | AdmitCode.REPLAY_QUEUED | AdmitCode.REPLAY_LIVE:
                return await self._admitted(activity, click, request_id, opened)
            case AdmitCode.LIMIT:
                return (await self._results.present(activity, click.user_id))._replace(
                    code=ResultCode.LIMIT, request_id=request_id
                )
            case AdmitCode.SOLD_OUT | AdmitCode.ENDED | AdmitCode.PAUSED | AdmitCode.NOT_STARTED:
                return _refused(activity, click.request_id, opened.admission)
            case AdmitCode.NOT_READY:
                self._troubled(activity.activity_id)
                raise SeckillNotReady(retry_after_seconds=NOT_READY_SECONDS * (1 + self._jitter()))
            case AdmitCode.BUSY:
                raise SeckillBusy(retry_after_seconds=BUSY_SECONDS * (1 + self._jitter()))
            case _:
                assert_never(code)

    async def _admitted(
        self, activity: Activity, click: SeckillAction, request_id: str, opened: AdmitResult
    ) -> Result:
        ticket = Ticket(
            activity.activity_id,
            click.merchant_id,
            click.sku_id,
            click.user_id,
            request_id,
            opened.order_id,
            epoch=opened.epoch,
            clicked_at_ms=int(self._clock.now().timestamp() * 1000),
        )
        signed = self._tickets.sign(ticket)
        self._known.forget(activity.activity_id, click.user_id)
        if opened.admission.code is AdmitCode.REPLAY_LIVE:
            return Result(
                Status.HOLDER,
                ResultCode.BOUGHT,
                activity.activity_id,
                click.sku_id,
                opened.order_id,
                signed,
                request_id,
            )
        if click.wait_seconds > 0:
            result = await self._results.of_click(ticket, wait_seconds=click.wait_seconds)
            return result._replace(ticket=signed, request_id=request_id)
        return Result(
            Status.QUEUED,
            ResultCode.QUEUED,
            activity.activity_id,
            click.sku_id,
            opened.order_id,
            signed,
            request_id,
            retry_after_ms=ASK_AGAIN_MS,
        )

    async def _after_the_end(self, activity: Activity, click: SeckillAction) -> Result:
        """A CLOSED activity has nothing in Redis any more; a click of before finds its order in the
        database.
        """
        if click.request_id:
            order = await self._results.of_request(
                activity, user_id=click.user_id, request_id=click.request_id
            )
            if order is not None:
                return order._replace(request_id=click.request_id)
        return _refused(activity, click.request_id, AdmitReply(code=AdmitCode.ENDED, detail=""))

    def _door(self, activity: Activity) -> AdmissionGate:
        door = self._doors.get(activity.activity_id)
        if door is None:
            door = self._doors[activity.activity_id] = self._make_door(activity)
            running = {each.activity_id for each in self._registry.running()}
            for gone in self._doors.keys() - running - {activity.activity_id}:
                del self._doors[gone]
        return door

    def _make_door(self, activity: Activity) -> AdmissionGate:
        keys = keys_of(activity)
        line_max = (
            self._settings.draw_max
            if activity.mode is AdmissionMode.DRAW
            else self._settings.queue_max
        )

        async def ask(clicks: Sequence[Click]) -> tuple[int, Sequence[AdmitReply]]:
            try:
                return await admit(
                    self._scripts,
                    keys,
                    clicks,
                    line_max=line_max,
                    queued_seconds=self._settings.queued_seconds,
                )
            except RedisError as error:
                if isinstance(error, ResponseError):
                    self._troubled(activity.activity_id)
                raise SeckillNotReady(retry_after_seconds=1.0) from error

        return AdmissionGate(
            ask,
            batch_max=self._settings.batch_max,
            calls_max=self._settings.calls_max,
            monotonic=self._monotonic,
            jitter=self._jitter,
        )


_REFUSALS = {
    AdmitCode.SOLD_OUT: ResultCode.SOLD_OUT,
    AdmitCode.ENDED: ResultCode.ENDED,
    AdmitCode.PAUSED: ResultCode.PAUSED,
    AdmitCode.NOT_STARTED: ResultCode.NOT_STARTED,
}


def _refused(activity: Activity, request_id: str, admission: AdmitReply) -> Result:
    code = _REFUSALS[admission.code]
    starts_in_ms = int(admission.detail) if admission.code is AdmitCode.NOT_STARTED else 0
    return Result(
        Status.NEITHER,
        code,
        activity.activity_id,
        activity.sku_id,
        request_id=request_id,
        starts_in_ms=starts_in_ms,
        retry_after_ms=min(starts_in_ms, NOT_STARTED_MS_MAX)
        or (PAUSED_MS if admission.code is AdmitCode.PAUSED else 0),
    )
