"""An activity: units of one product, at a price of its own, for a limited time.

The database row is the truth about it. Every change raises `rev`, so Redis, which publishes what
the row says, never goes back to an older state (docs/protocols.md 5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mesh.errors import InvalidArgument
from mesh.money import Money
from mesh.state_machine import Described, StateMachine
from seckill_rpc.domain.errors import ActivityStateInvalid


class ActivityState(Described):
    """Where an activity stands."""

    DRAFT = "DRAFT", "planned; it has no units yet"
    PUBLISHING = "PUBLISHING", "its units are being taken from the catalog stock"
    OPEN = "OPEN", "it sells within its window"
    PAUSED = "PAUSED", "it admits nobody for now"
    CLOSING = "CLOSING", "it admits nobody any more; the queue is being served"
    CLOSED = "CLOSED", "it is over; unsold units are back in the catalog stock"


class ActivityVerb(Described):
    """What can happen to an activity."""

    PUBLISH = "PUBLISH", "by the shop"
    OPEN = "OPEN", "its units have left the catalog stock and Redis is clean"
    REFUSE = (
        "REFUSE",
        "order_rpc has no such product or too few units: nothing left the catalog stock",
    )
    PAUSE = "PAUSE", "by the shop"
    RESUME = "RESUME", "by the shop"
    CLOSE = "CLOSE", "by the shop, or its end has come"
    FINISH = "FINISH", "the queue is empty"
    ABANDON = "ABANDON", "by the shop, before it had units"


class AdmissionMode(StrEnum):
    """Who gets the units."""

    FIRST_COME = "FIRST_COME"  # who comes first
    DRAW = "DRAW"  # everybody who enters has the same chance; drawn at the end


ACTIVITY_STATES = StateMachine(
    "Activity of a flash sale",
    ActivityState,
    (
        (ActivityState.DRAFT, ActivityVerb.PUBLISH, ActivityState.PUBLISHING),
        (ActivityState.DRAFT, ActivityVerb.ABANDON, ActivityState.CLOSED),
        (ActivityState.PUBLISHING, ActivityVerb.OPEN, ActivityState.OPEN),
        (ActivityState.PUBLISHING, ActivityVerb.REFUSE, ActivityState.DRAFT),
        (ActivityState.OPEN, ActivityVerb.PAUSE, ActivityState.PAUSED),
        (ActivityState.OPEN, ActivityVerb.CLOSE, ActivityState.CLOSING),
        (ActivityState.PAUSED, ActivityVerb.RESUME, ActivityState.OPEN),
        (ActivityState.PAUSED, ActivityVerb.CLOSE, ActivityState.CLOSING),
        (ActivityState.CLOSING, ActivityVerb.FINISH, ActivityState.CLOSED),
    ),
    introduction="Units of one product at a price of its own, for a while. What Redis says of it "
    "follows; the row is the truth.",
)
# Redis has to know of it, and it may hold live orders.
RUNNING = frozenset({ActivityState.OPEN, ActivityState.PAUSED, ActivityState.CLOSING})
PROBLEM_LENGTH_MAX = 200


def next_state(state: ActivityState, verb: ActivityVerb) -> ActivityState:
    """The state after a step.

    Raises:
        ActivityStateInvalid: the table has no such step.
    """
    target = ACTIVITY_STATES.after(state, verb)
    if target is None:
        raise ActivityStateInvalid(
            f"{verb} is not possible in state {state}", state=state, verb=verb
        )
    return target


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """One row.

    Attributes:
        epoch: counts the rebuilds; an order is only sold in the epoch that the row has (the fence).
            0 before it was opened.
        rev: counts every change of state, window or limit.
        offered: units that it was planned with; never changes.
        total: units that it has now: 0 before it is OPEN, `offered` then; what comes back after
            CLOSED lowers it.
        sold: units with a live order, at most `total`.
        drawn: whether the draw is done; never for FIRST_COME.
        problem: why it is not further while it is PUBLISHING or CLOSING, or why it is a DRAFT
            again; "" otherwise.
    """

    activity_id: str
    merchant_id: str
    sku_id: str
    price: Money
    mode: AdmissionMode
    limit_per_user: int
    starts_at: datetime
    ends_at: datetime
    state: ActivityState
    rev: int
    epoch: int
    offered: int
    total: int
    sold: int
    drawn: bool
    problem: str
    version: int
    created_at: datetime
    updated_at: datetime

    def closes_at(self, after_end: timedelta) -> datetime:
        """When it is closed automatically, `after_end` after its end. For a sale without an end
        (year 9999): the last representable moment.
        """
        try:
            return self.ends_at + after_end
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)

    @classmethod
    def plan(
        cls,
        *,
        activity_id: str,
        merchant_id: str,
        sku_id: str,
        price: Money,
        mode: AdmissionMode,
        limit_per_user: int,
        offered: int,
        starts_at: datetime,
        ends_at: datetime,
        at: datetime,
    ) -> Activity:
        """A new draft.

        Raises:
            InvalidArgument: it would end before it starts or before now; a draw gives a buyer one
                unit at most.
        """
        if ends_at <= starts_at:
            raise InvalidArgument.of("ends_at", "must be after starts_at")
        if ends_at <= at:
            raise InvalidArgument.of("ends_at", "must not be over")
        if mode is AdmissionMode.DRAW and limit_per_user != 1:
            raise InvalidArgument.of("limit_per_user", "is 1 in a draw")
        return cls(
            activity_id=activity_id,
            merchant_id=merchant_id,
            sku_id=sku_id,
            price=price,
            mode=mode,
            limit_per_user=limit_per_user,
            starts_at=starts_at,
            ends_at=ends_at,
            state=ActivityState.DRAFT,
            rev=1,
            epoch=0,
            offered=offered,
            total=0,
            sold=0,
            drawn=False,
            problem="",
            version=1,
            created_at=at,
            updated_at=at,
        )

    @property
    def left(self) -> int:
        """Units without a live order."""
        return self.total - self.sold

    def step(self, verb: ActivityVerb, *, at: datetime) -> Activity:
        """The activity after a step of its state. OPEN gives it its units and its first epoch.
        FINISH removes the unsold units and raises the epoch, so that nothing older is ever sold
        again.

        Raises:
            ActivityStateInvalid: the table has no such step.
        """
        after = replace(
            self,
            state=next_state(self.state, verb),
            rev=self.rev + 1,
            problem="",
            version=self.version + 1,
            updated_at=at,
        )
        if verb is ActivityVerb.OPEN:
            return replace(after, total=self.offered, epoch=self.epoch + 1)
        if verb is ActivityVerb.FINISH:
            return replace(after, total=self.sold, epoch=self.epoch + 1)
        return after

    def with_problem(self, problem: str, *, at: datetime) -> Activity:
        """Records why the transition has not completed. It is text for people, so `rev` stays."""
        return replace(
            self, problem=problem[:PROBLEM_LENGTH_MAX], version=self.version + 1, updated_at=at
        )

    def draw_done(self, *, at: datetime) -> Activity:
        """Every entry of the draw has its answer, or is in the admission queue."""
        return replace(self, drawn=True, version=self.version + 1, updated_at=at)

    def fence(self, *, published_epoch: int, at: datetime) -> Activity:
        """Raises the epoch, for a rebuild: nothing of an older epoch is sold any more.
        `published_epoch` is that of Redis; it is ahead of the row only when the database was
        restored from a backup.
        """
        return replace(
            self,
            epoch=max(self.epoch, published_epoch) + 1,
            version=self.version + 1,
            updated_at=at,
        )
