"""One step of an activity in one transaction: the row and the event about it. A repeated request
finds the step done and gets the same answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from sqlalchemy.ext.asyncio import AsyncConnection

from mesh import outbox
from mesh.call import Caller, current_trace_id
from mesh.clock import Clock
from mesh.db import ConstraintViolated, Database
from mesh.errors import MeshError
from mesh.ids import Ids
from mesh.outbox import Message
from seckill_rpc.domain.activity import Activity, ActivityState, ActivityVerb
from seckill_rpc.domain.errors import ActivityAlreadyOpen
from seckill_rpc.store import activities
from seckill_rpc.usecases.events import TAGS, activity_changed

ONE_PER_PRODUCT = "uq_activity_open_slot"

# before, after -> messages for the outbox
ExtraMessages = Callable[[Activity, Activity], Collection[Message]]
# raises if the locked row may not make the step yet
Precondition = Callable[[AsyncConnection, Activity], Awaitable[None]]


class ActivityTransitions:
    """Makes steps. `on_change` is called with every activity that this process changed."""

    def __init__(
        self, *, db: Database, clock: Clock, ids: Ids, on_change: Callable[[Activity], None]
    ) -> None:
        self._db = db
        self._clock = clock
        self._ids = ids
        self._on_change = on_change

    async def step(
        self,
        activity_id: str,
        verb: ActivityVerb,
        *,
        merchant_id: str = "",
        visible_to: Caller | None = None,
        accepted_states: Collection[ActivityState] = (),
        problem: str = "",
        precondition: Precondition | None = None,
        extra_messages: ExtraMessages | None = None,
    ) -> Activity:
        """The activity after a step.

        Args:
            visible_to: None for our own workers.
            accepted_states: an activity in one of these is returned unchanged.
            problem: text for people, stored with the new state.
            precondition: raises if the locked row may not make the step yet.
            extra_messages: what else the outbox has to deliver.

        Raises:
            ActivityNotFound: there is none that the caller may see. ActivityStateInvalid: its state
                allows no such step.
            ActivityAlreadyOpen: its product has another one.
        """
        try:
            after = await self._db.run(
                self._step,
                activity_id,
                verb,
                merchant_id=merchant_id,
                visible_to=visible_to,
                accepted_states=accepted_states,
                problem=problem,
                precondition=precondition,
                extra_messages=extra_messages,
            )
        except ConstraintViolated as violation:
            if violation.name != ONE_PER_PRODUCT:
                raise
            raise await self._already_open(activity_id) from violation
        self._on_change(after)
        return after

    async def record_problem(self, activity: Activity, problem: str) -> Activity:
        """Records why a transition has not completed; nothing if that is recorded already or the
        state has changed.
        """
        if activity.problem == problem:
            return activity
        return await self._db.run(self._record_problem, activity, problem)

    async def _step(
        self,
        tx: AsyncConnection,
        activity_id: str,
        verb: ActivityVerb,
        *,
        merchant_id: str,
        visible_to: Caller | None,
        accepted_states: Collection[ActivityState],
        problem: str,
        precondition: Precondition | None,
        extra_messages: ExtraMessages | None,
    ) -> Activity:
        before = await activities.lock(
            tx, activity_id=activity_id, merchant_id=merchant_id, visible_to=visible_to
        )
        if before.state in accepted_states:
            return before
        if precondition is not None:
            await precondition(tx, before)
        now = self._clock.now()
        after = before.step(verb, at=now)
        if problem:
            after = after.with_problem(problem, at=now)
        await activities.save(tx, after, read_version=before.version)
        messages = list(extra_messages(before, after)) if extra_messages is not None else []
        if after.state in TAGS:
            messages.append(
                activity_changed(after, event_id=self._ids.new("EVT"), trace_id=current_trace_id())
            )
        if messages:
            await outbox.put(tx, *messages)
        return after

    async def _record_problem(
        self, tx: AsyncConnection, activity: Activity, problem: str
    ) -> Activity:
        before = await activities.lock(tx, activity_id=activity.activity_id)
        if before.state is not activity.state or before.problem == problem:
            return before
        after = before.with_problem(problem, at=self._clock.now())
        await activities.save(tx, after, read_version=before.version)
        return after

    async def _already_open(self, activity_id: str) -> MeshError:
        ours = await self._db.read(activities.get, activity_id=activity_id)
        other = await self._db.read(
            activities.open_of, merchant_id=ours.merchant_id, sku_id=ours.sku_id
        )
        return ActivityAlreadyOpen(
            f"{ours.sku_id} has an activity that is not closed",
            activity_id=other.activity_id if other else "",
        )
