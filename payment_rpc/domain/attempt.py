"""An attempt: one call to one channel, under an id that never changes and is the channel's
idempotency key.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mesh.money import Money
from mesh.state_machine import Described, StateMachine
from payment_rpc.domain.errors import PaymentStateInvalid


class AttemptState(Described):
    """States of an attempt: facts about the channel."""

    SENT = "SENT", "sent, or about to be: a crash leaves it open"
    PENDING = "PENDING", "accepted, the result comes later"
    UNKNOWN = "UNKNOWN", "no readable answer"
    AUTHORIZED = "AUTHORIZED", "money is held for us and not taken yet"
    CAPTURED = "CAPTURED", "money moved"
    DECLINED = "DECLINED", "the channel said no, finally"
    TECH_FAILED = "TECH_FAILED", "the channel failed and says that nothing moved"
    NOT_ATTEMPTED = "NOT_ATTEMPTED", "proven not sent"
    CLOSED = "CLOSED", "closed at the channel"


OPEN = frozenset(
    {AttemptState.SENT, AttemptState.PENDING, AttemptState.UNKNOWN, AttemptState.AUTHORIZED}
)
# results after which money may still come where nothing ends an attempt for good
_WATCHED = frozenset({AttemptState.CAPTURED, AttemptState.CLOSED})
_WATCH_PAUSE_MIN = 5  # in QUERY_PAUSES: news of money come by callbacks too
_RESULTS = {
    AttemptState.CAPTURED: "the channel took the money",
    AttemptState.DECLINED: "the channel said no, finally",
    AttemptState.TECH_FAILED: "the channel failed and nothing moved",
    AttemptState.NOT_ATTEMPTED: "proven that it never left us",
    AttemptState.PENDING: "the channel waits, for the buyer or for its own back office",
    AttemptState.UNKNOWN: "no readable answer",
    AttemptState.AUTHORIZED: "the channel holds the money",
    AttemptState.CLOSED: "closed at the channel, or lost before it with a tombstone there",
}
_NO_NEWER_RESULT = {
    AttemptState.PENDING: "still waiting, with a newer next action",
    AttemptState.UNKNOWN: "asked again, still no readable answer",
}
_OF_HELD_MONEY = {
    AttemptState.CAPTURED: "the channel took the money that it held, or the rest of it is let go",
    AttemptState.DECLINED: "the channel refused it after all",
    AttemptState.TECH_FAILED: "the channel failed and nothing moved",
    AttemptState.CLOSED: "let go, by us or by the channel",
}
ATTEMPT_STATES = StateMachine(
    "Attempt",
    AttemptState,
    (
        *(
            (source, _NO_NEWER_RESULT[source] if source is target else cause, target)
            for source in AttemptState
            if source in OPEN and source is not AttemptState.AUTHORIZED
            for target, cause in _RESULTS.items()
        ),
        *((AttemptState.AUTHORIZED, cause, target) for target, cause in _OF_HELD_MONEY.items()),
        *(
            (source, "the channel took the money after all (a late callback or answer)", target)
            for target in (AttemptState.CAPTURED,)
            for source in AttemptState
            if source not in OPEN and source is not target
        ),
    ),
    introduction="One call to one channel, under one id. SENT, PENDING, UNKNOWN and AUTHORIZED "
    "are open: the channel is asked until they end, and the clock never ends one.",
)

# a manual review: a call that may have moved money is not repeated, its key may be forgotten
KEY_EXPIRED = "KEY_EXPIRED"
LEASE_MAX = timedelta(minutes=10)  # the longest that a deployment may choose

# Pauses between queries of an attempt without a result (docs/protocols.md 1). The last one repeats
# for ever: the clock never fails a payment.
QUERY_PAUSES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 15, 45, 120, 300, 900, 3600, 21600, 86400)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What a deployment chooses of the schedule of queries.

    Attributes:
        threshold: an attempt is not queried before this age; until then its own call or a callback
            brings the answer. An attempt whose payment is being closed is queried at any age.
        close_grace: how long after a deadline a channel that cannot close may still take money in
            time.
    """

    threshold: timedelta = timedelta(0)
    close_grace: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One call to one channel.

    Attributes:
        sends: how often it was sent; after a second send "not sent" proves nothing.
        lease_until: until then a call may still be sending it, and NOT_FOUND of the channel proves
            nothing.
        next_query_at: when to query the channel next; None once the result is final, and after
            `watch_until`.
        watch_until: until then the channel is asked whether money came after the result; None where
            none can come unheard.
        queries: how often it was queried.
        surplus: what its buyer paid beyond `captured`, as far as it is booked; None for nothing.
        captured: what the channel took; while AUTHORIZED, what it took so far of the held money.
            None for nothing.
        captured_at: when money moved last, by the channel's clock: its day at the channel. None
            before, and for captures older than this field.
        channel_ref: the channel's own id of it, "" while it is not known.
        steps: how often we began the step in it that is ours (`begin_step`).
        capture_id: our key of the capture of held money, "" while none is intended.
        capture_amount: how much that capture takes, None while none is intended.
        capture_sends: how often that capture was sent.
        capture_keeps_rest: what that capture does not take stays held.
        capture_began_at: when that capture was sent for the first time, by our clock; None while
            none is intended, and for one of code older than this field.
    """

    attempt_id: str
    payment_id: str
    merchant_id: str
    channel: str
    state: AttemptState
    amount: Money
    captured: Money | None
    channel_trade_no: str
    sends: int
    lease_until: datetime
    next_query_at: datetime | None
    queries: int
    version: int
    created_at: datetime
    updated_at: datetime
    captured_at: datetime | None = None
    channel_ref: str = ""
    steps: int = 0
    capture_id: str = ""
    capture_amount: Money | None = None
    capture_sends: int = 0
    surplus: Money | None = None
    watch_until: datetime | None = None
    capture_keeps_rest: bool = False
    capture_began_at: datetime | None = None

    @classmethod
    def start(
        cls,
        *,
        attempt_id: str,
        payment_id: str,
        merchant_id: str,
        channel: str,
        amount: Money,
        lease: timedelta,
        watch_until: datetime | None = None,
        at: datetime,
    ) -> Attempt:
        """An attempt that is about to be sent."""
        return cls(
            attempt_id=attempt_id,
            payment_id=payment_id,
            merchant_id=merchant_id,
            channel=channel,
            state=AttemptState.SENT,
            amount=amount,
            captured=None,
            channel_trade_no="",
            sends=1,
            lease_until=at + lease,
            next_query_at=at + lease,
            queries=0,
            version=1,
            created_at=at,
            updated_at=at,
            watch_until=watch_until,
        )

    @property
    def progress(self) -> tuple[int, int, datetime, str]:
        """What changes whenever somebody may be moving money in it."""
        return self.sends, self.steps, self.lease_until, self.channel_ref

    def has_call_under_way(self, at: datetime) -> bool:
        """Whether a call that may move money in it may be under way. While it waits and no step of
        ours was begun there is none: the send was answered, its lease says no more.
        """
        is_waiting = self.state is AttemptState.PENDING and self.steps == 0
        return self.lease_until > at and not is_waiting

    def resend(self, *, lease: timedelta, at: datetime) -> Attempt:
        """The attempt, sent again under the same id. The channel processes the first one only."""
        if self.state not in OPEN:
            raise PaymentStateInvalid(
                f"an attempt in state {self.state} is not sent again", payment_id=self.payment_id
            )
        return replace(
            self._changed(at),
            sends=self.sends + 1,
            lease_until=at + lease,
            next_query_at=at + lease,
        )

    def remember(self, ref: str, *, at: datetime) -> Attempt:
        """The channel's own id of it is known."""
        return replace(self._changed(at), channel_ref=ref)

    def begin_step(self, *, lease: timedelta, at: datetime) -> Attempt:
        """The step that is ours is about to be taken. It is queried again when the lease is over,
        should the answer be lost.
        """
        return replace(
            self._changed(at),
            steps=self.steps + 1,
            lease_until=at + lease,
            next_query_at=at + lease,
        )

    @property
    def taken(self) -> Money:
        """What the channel took under it so far."""
        return self.captured or Money.zero(self.amount.currency)

    @property
    def intended(self) -> Money | None:
        """What the channel took in all when the capture that is under way was carried out; None
        without one.
        """
        return None if self.capture_amount is None else self.taken + self.capture_amount

    def begin_capture(
        self,
        amount: Money,
        *,
        capture_id: str,
        lease: timedelta,
        at: datetime,
        keeps_rest: bool = False,
    ) -> Attempt:
        """The held money, or a part of it, is about to be taken, for the first time or once more
        under the same key. It is queried again when the lease is over, and each time later: a
        channel that refuses it is not asked every minute until the hold ends.

        Raises:
            PaymentStateInvalid: less money is held, or another capture is under way.
        """
        is_other = self.capture_amount is not None and (
            (self.capture_id, self.capture_amount, self.capture_keeps_rest)
            != (capture_id, amount, keeps_rest)
        )
        if self.taken + amount > self.amount:
            raise PaymentStateInvalid("less money is held", payment_id=self.payment_id)
        if self.state is not AttemptState.AUTHORIZED or is_other:
            raise PaymentStateInvalid(
                f"an attempt in state {self.state} is not captured", payment_id=self.payment_id
            )
        is_first = self.capture_amount is None
        pause = lease if is_first else max(lease, self._pause(self.state))
        return replace(
            self._changed(at),
            capture_id=capture_id,
            capture_amount=amount,
            capture_sends=self.capture_sends + 1,
            capture_keeps_rest=keeps_rest,
            capture_began_at=at if is_first else self.capture_began_at,
            lease_until=at + lease,
            next_query_at=at + pause,
            queries=0 if is_first else self.queries,  # it was asked about while it was held
        )

    def withdraw_capture(self, *, at: datetime) -> Attempt:
        """The capture provably took nothing: the money may be captured again, or let go."""
        return replace(
            self._changed(at),
            capture_id="",
            capture_amount=None,
            capture_sends=0,
            capture_keeps_rest=False,
            capture_began_at=None,
            lease_until=at,
            next_query_at=at,
        )

    def is_watch_over(self, at: datetime) -> bool:
        """Whether the next answer of the channel is the last that matters."""
        return (
            self.state in _WATCHED
            and self.next_query_at is not None
            and self.watch_until is not None
            and self.watch_until <= at
        )

    def end_watch(self, *, at: datetime) -> Attempt:
        """The channel is asked no more."""
        return replace(self._changed(at), next_query_at=None)

    def take_part(
        self, total: Money, *, trade_no: str, moved_at: datetime, at: datetime
    ) -> Attempt:
        """The capture that is under way was carried out and the rest is still held: `total` is what
        was taken in all.
        """
        return replace(
            self.withdraw_capture(at=at),
            next_query_at=at + self._pause(self.state),
            captured=total,
            channel_trade_no=self.channel_trade_no or trade_no,
            captured_at=moved_at,
        )

    def postpone_query(self, *, at: datetime, last_chance: datetime) -> Attempt:
        """The channel is queried now. The next query follows after the pause of the schedule, or at
        `last_chance` when that comes first: from then on an unpaid payment can be closed. Of one
        that has its result the last chance is the end of its watch.
        """
        due = at + self._pause(self.state)
        if self.state not in OPEN:
            last_chance = self.watch_until or last_chance
        return replace(
            self._changed(at),
            queries=self.queries + 1,
            next_query_at=last_chance if at < last_chance < due else due,
        )

    def query_from(self, *, until: datetime, at: datetime) -> Attempt:
        """The channel is not queried before `until`. This does not count as a query."""
        return replace(self._changed(at), next_query_at=until)

    def query_now(self, *, at: datetime) -> Attempt:
        """The channel is queried in the next round."""
        return replace(self._changed(at), next_query_at=at)

    def to(self, target: AttemptState, *, at: datetime) -> Attempt:
        """A transition. An open attempt stays in the schedule of queries, a final one leaves it
        unless it is watched.

        Raises:
            PaymentStateInvalid: it does not exist.
        """
        if not ATTEMPT_STATES.allows(self.state, target):
            raise PaymentStateInvalid(
                f"an attempt in state {self.state} does not become {target}",
                payment_id=self.payment_id,
            )
        due = at + self._pause(target)
        if target in OPEN:
            return replace(
                self._changed(at), state=target, next_query_at=min(self.next_query_at or due, due)
            )
        is_watched = target in _WATCHED and self.watch_until is not None
        return replace(
            self._changed(at),
            state=target,
            next_query_at=min(due, self.watch_until or due) if is_watched else None,
        )

    def capture(
        self, amount: Money, *, trade_no: str, at: datetime, captured_at: datetime | None = None
    ) -> Attempt:
        """The channel moved money under this attempt."""
        return replace(
            self.to(AttemptState.CAPTURED, at=at),
            captured=amount,
            channel_trade_no=trade_no,
            captured_at=captured_at or at,
        )

    def add_surplus(self, surplus: Money, *, at: datetime) -> Attempt:
        """The buyer paid so much too much, all in all.

        Raises:
            ValueError: no money moved under it, or it was in another currency.
        """
        if self.captured is None or self.captured.currency != surplus.currency:
            raise ValueError("a surplus is beyond a capture")
        return replace(self._changed(at), surplus=surplus)

    def correct_clock(self, *, error: timedelta, at: datetime) -> Attempt:
        """Its times without the error of the clock that wrote them, which was ahead."""
        due = None if self.next_query_at is None else self.next_query_at - error
        return replace(self._changed(at), lease_until=self.lease_until - error, next_query_at=due)

    def _pause(self, state: AttemptState) -> timedelta:
        """Until the next query in a state."""
        number = self.queries if state in OPEN else max(self.queries, _WATCH_PAUSE_MIN)
        return QUERY_PAUSES[min(number, len(QUERY_PAUSES) - 1)]

    def _changed(self, at: datetime) -> Attempt:
        return replace(self, version=self.version + 1, updated_at=at)
