"""SeckillAction: the cheapest refusals first, then the gate of the activity. Nothing here decides
who gets a unit: the admission script does, and in the end the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from prometheus_client import REGISTRY
from redis.exceptions import RedisError, ResponseError

from mesh.clock import Clock, Monotonic, Seconds
from mesh.ids import Ids
from mesh.merchant_status import MerchantStatus
from mesh.metrics import EnumCounter
from mesh.rate_limit import RateLimiter
from seckill_rpc.domain.activity import Activity, ActivityState, AdmissionMode
from seckill_rpc.domain.errors import (
    MerchantNotLive,
    MerchantSuspended,
    SeckillBusy,
    SeckillNotReady,
)
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.domain.result import Result, ResultCode
from seckill_rpc.domain.ticket import Ticket, Tickets
from seckill_rpc.redis.admit import AdmitCode, AdmitReply, Click, admit
from seckill_rpc.redis.keys import keys_of
from seckill_rpc.redis.scripts import Scripts
from seckill_rpc.usecases.admission.gate import AdmissionGate, AdmitResult, Jitter
from seckill_rpc.usecases.admission.registry import ActivityRegistry
from seckill_rpc.usecases.admission.response_batcher import ResponseBatcher
from seckill_rpc.usecases.admission.result_cache import ResultCache
from seckill_rpc.usecases.merchant_statuses import MerchantStatuses
from seckill_rpc.usecases.results import ASK_AGAIN_MS, Results

BUSY_SECONDS = 1.0
NOT_READY_SECONDS = 0.3  # a rebuild takes about this long
PAUSED_MS = 2000
# a start may be moved, and clients wait no longer than a number that they can keep
NOT_STARTED_MS_MAX = 60_000

_CLICKS = EnumCounter("paymesh_seckill_clicks", "Answers to clicks of buyers.", "code", AdmitCode)
REGISTRY.register(_CLICKS)


class SeckillAction(NamedTuple):
    """One click. `request_id` "" gets a new one if the click is not refused by the gate."""

    merchant_id: str
    user_id: str
    sku_id: str
    request_id: str
    wait_seconds: Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionSettings:
    """See SeckillSettings; `queue_max` is its line_max."""

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
        cache: ResultCache,
        tickets: Tickets,
        ids: Ids,
        clock: Clock,
        buckets: RateLimiter,
        settings: AdmissionSettings,
        monotonic: Monotonic,
        jitter: Jitter,
        statuses: MerchantStatuses,
        on_trouble: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_trouble` gets the activity when Redis refuses clicks that it should admit."""
        self._statuses = statuses
        self._on_trouble = on_trouble
        self._registry = registry
        self._scripts = scripts
        self._results = results
        self._cache = cache
        self._tickets = tickets
        self._ids = ids
        self._clock = clock
        self._buckets = buckets
        self._settings = settings
        self._monotonic = monotonic
        self._jitter = jitter
        self._responses = ResponseBatcher()
        self._gates: dict[str, AdmissionGate] = {}

    async def seckill_action(self, click: SeckillAction) -> Result:
        """Asks for one unit.

        Raises:
            ActivityNotFound: the product has no activity. SeckillBusy: the queue is full, or too
                many clicks of this buyer; nothing was reserved. MerchantSuspended, MerchantNotLive:
                the merchant takes no new orders; nothing was reserved by this click.
            SeckillNotReady: whether it counted is unknown; the same request id finds out.
            RemoteError: whether the merchant may sell is unknown; nothing was reserved.
        """
        missing_seconds = self._buckets.take(f"{click.merchant_id}/{click.user_id}")
        if missing_seconds:
            raise SeckillBusy("too many clicks", retry_after_seconds=missing_seconds)
        activity = self._registry.find(click.merchant_id, click.sku_id)
        if activity is None:
            activity = await self._registry.current(click.merchant_id, click.sku_id)
        if activity.state is ActivityState.CLOSED:
            return await self._after_the_end(activity, click)
        status = await self._statuses.of(click.merchant_id)
        if status is not MerchantStatus.OPEN:
            return await self._while_closed(activity, click, status)
        gate = self._gate(activity)
        refusal = gate.refusal(click.user_id)
        if refusal is not None:
            _CLICKS.counts[refusal.code] += 1
            await self._responses.wait()
            return _refused(activity, click.request_id, refusal)
        request_id = click.request_id or self._ids.new("CLK")
        admitted = await gate.click(Click(click.user_id, request_id, self._ids.new("ORD")))
        _CLICKS.counts[admitted.reply.code] += 1
        return await self._answer(activity, click, request_id, admitted)

    def open_gate(self, activity: Activity) -> None:
        """From now on `add_participant` is remembered for this activity."""
        self._gate(activity)

    def add_participant(self, activity_id: str, user_id: str) -> None:
        """A buyer is queued or holds an order of an activity, admitted by any process."""
        gate = self._gates.get(activity_id)
        if gate is not None:
            gate.add_participant(user_id)

    def mark_complete(self, activity_id: str) -> None:
        """`add_participant` was called for all participants, and will be for new ones."""
        gate = self._gates.get(activity_id)
        if gate is not None:
            gate.mark_complete()

    def mark_incomplete(self, activity_id: str) -> None:
        """Participants may be missing until `mark_complete` is called again."""
        gate = self._gates.get(activity_id)
        if gate is not None:
            gate.mark_incomplete()

    async def _answer(
        self, activity: Activity, click: SeckillAction, request_id: str, admitted: AdmitResult
    ) -> Result:
        code = admitted.reply.code
        match code:
            case AdmitCode.QUEUED | AdmitCode.REPLAY_QUEUED | AdmitCode.REPLAY_LIVE:
                return await self._admitted(activity, click, request_id, admitted)
            case AdmitCode.LIMIT:
                return (await self._results.present(activity, click.user_id))._replace(
                    code=ResultCode.LIMIT, request_id=request_id
                )
            case AdmitCode.SOLD_OUT | AdmitCode.ENDED | AdmitCode.PAUSED | AdmitCode.NOT_STARTED:
                return _refused(activity, click.request_id, admitted.reply)
            case AdmitCode.NOT_READY:
                self._on_trouble(activity.activity_id)
                raise SeckillNotReady(retry_after_seconds=NOT_READY_SECONDS * (1 + self._jitter()))
            case AdmitCode.BUSY:
                raise SeckillBusy(retry_after_seconds=BUSY_SECONDS * (1 + self._jitter()))
            case _:
                assert_never(code)

    async def _admitted(
        self, activity: Activity, click: SeckillAction, request_id: str, admitted: AdmitResult
    ) -> Result:
        ticket = Ticket(
            activity.activity_id,
            click.merchant_id,
            click.sku_id,
            click.user_id,
            request_id,
            admitted.order_id,
            epoch=admitted.epoch,
            clicked_at_ms=int(self._clock.now().timestamp() * 1000),
        )
        signed = self._tickets.sign(ticket)
        self._cache.forget(activity.activity_id, click.user_id)
        if admitted.reply.code is AdmitCode.REPLAY_LIVE:
            return Result(
                BuyerStatus.HOLDER,
                ResultCode.BOUGHT,
                activity.activity_id,
                click.sku_id,
                admitted.order_id,
                signed,
                request_id,
            )
        if click.wait_seconds > 0:
            result = await self._results.of_click(ticket, wait_seconds=click.wait_seconds)
            return result._replace(ticket=signed, request_id=request_id)
        return Result(
            BuyerStatus.QUEUED,
            ResultCode.QUEUED,
            activity.activity_id,
            click.sku_id,
            admitted.order_id,
            signed,
            request_id,
            retry_after_ms=ASK_AGAIN_MS,
        )

    async def _after_the_end(self, activity: Activity, click: SeckillAction) -> Result:
        """A CLOSED activity is not in Redis any more; an earlier click finds its order in the
        database.
        """
        order = await self._order_of(activity, click)
        if order is not None:
            return order
        return _refused(activity, click.request_id, AdmitReply(code=AdmitCode.ENDED, detail=""))

    async def _while_closed(
        self, activity: Activity, click: SeckillAction, status: MerchantStatus
    ) -> Result:
        """The merchant takes no new orders: nobody is let in, and an earlier click finds its order.

        Raises:
            MerchantSuspended, MerchantNotLive.
        """
        order = await self._order_of(activity, click)
        if order is not None:
            return order
        raise MerchantSuspended if status is MerchantStatus.SUSPENDED else MerchantNotLive

    async def _order_of(self, activity: Activity, click: SeckillAction) -> Result | None:
        """The order that the click with this id got earlier, from the database."""
        if not click.request_id:
            return None
        order = await self._results.of_request(
            activity, user_id=click.user_id, request_id=click.request_id
        )
        return None if order is None else order._replace(request_id=click.request_id)

    def _gate(self, activity: Activity) -> AdmissionGate:
        gate = self._gates.get(activity.activity_id)
        if gate is None:
            gate = self._gates[activity.activity_id] = self._make_gate(activity)
            running = {each.activity_id for each in self._registry.running()}
            for gone in self._gates.keys() - running - {activity.activity_id}:
                del self._gates[gone]
        return gate

    def _make_gate(self, activity: Activity) -> AdmissionGate:
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
                    self._on_trouble(activity.activity_id)
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
        BuyerStatus.NEITHER,
        code,
        activity.activity_id,
        activity.sku_id,
        request_id=request_id,
        starts_in_ms=starts_in_ms,
        retry_after_ms=min(starts_in_ms, NOT_STARTED_MS_MAX)
        or (PAUSED_MS if admission.code is AdmitCode.PAUSED else 0),
    )
