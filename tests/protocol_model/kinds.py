"""Channels that are no sandbox: which of their steps move money, what they know of an attempt, and
how it is closed there (docs/protocols.md 1, Closing). A scenario with a `kind` has the steps of this
module instead of those that the sandbox takes.

The channel's own id of an attempt is `named`: remembered by us. A question carries what was known
when it began, and its answer what held when the channel was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from payment_rpc.channels.capabilities import Close
from payment_rpc.domain.attempt import AttemptState as A
from payment_rpc.domain.payment import PaymentState as S
from tests.protocol_model import payment_rpc
from tests.protocol_model.world import OPEN, AtChannel, Attempt, Fact, World

Act = Callable[..., None]
Move = tuple[str, bool, Act, tuple[Any, ...]]

STEPS_MAX = 2  # that are counted; more are like two
_HAS_OWN_ID = (Close.KNOWN, Close.PROMISE, Close.NEVER)
_LOSES = (Close.KNOWN, Close.PROMISE)  # what never arrived there
_WAITS = (AtChannel.CREATED, AtChannel.OPEN, AtChannel.APPROVED)
_HEARD = {
    AtChannel.NOTHING: Fact.NOT_FOUND,
    AtChannel.CREATED: Fact.PENDING,
    AtChannel.OPEN: Fact.PENDING,
    AtChannel.APPROVED: Fact.PENDING,
    AtChannel.CAPTURED: Fact.CAPTURED,
    AtChannel.DECLINED: Fact.DECLINED,
    AtChannel.CLOSED: Fact.CLOSED,
}


# --- sending --------------------------------------------------------------------------------------


def charge(world: World, a: int, _is_first: bool) -> None:
    """The first call. It makes something at the channel that nobody can pay yet, or a page of which
    the channel knows nothing.
    """
    attempt = world.attempts[a]
    if world.scenario.kind is Close.DEADLINE:
        attempt.handed = True
        world.call("fact", a, Fact.PENDING)
        return
    if attempt.at_channel is AtChannel.NOTHING:
        attempt.at_channel = AtChannel.CREATED
    world.call("remember", a)


def remember(world: World, a: int) -> None:
    """The transaction between the two calls; when it refuses, there is no second call."""
    attempt = world.attempts[a]
    may_be_sent = (
        world.payments[attempt.payment].state is S.PAYING
        and attempt.state in OPEN
        and attempt.leased
    )
    if may_be_sent or not world.rules.remember_guard:
        attempt.named = True
        world.call("confirm", a)


def _confirm(world: World, i: int, answer: AtChannel) -> None:
    """The second call: money moves, or the buyer gets what he pays with."""
    _, a = world.calls.pop(i)
    attempt = world.attempts[a]
    if attempt.at_channel is AtChannel.CREATED:
        _at_channel(world, a, answer)
    world.call("fact", a, _HEARD[attempt.at_channel])


# --- questions ------------------------------------------------------------------------------------


def ask(world: World, a: int, named: bool, closes: bool) -> None:
    """A question, or a call that closes; both find an attempt by the id that they carry."""
    attempt, kind = world.attempts[a], world.scenario.kind
    known = attempt.at_channel if named or kind not in _HAS_OWN_ID else AtChannel.NOTHING
    if closes and known in _WAITS and kind is not Close.PROMISE:
        attempt.at_channel = known = AtChannel.CLOSED
    if known is AtChannel.APPROVED:
        world.call("our turn", a)
    elif known is AtChannel.NOTHING:
        world.call("not found", a, attempt.leased, named)
    else:
        world.call("fact", a, _HEARD[known])


def not_found(world: World, a: int, was_leased: bool, named: bool) -> None:
    """The transaction after NOT_FOUND: the attempt is lost when that proves it."""
    attempt, rules = world.attempts[a], world.rules
    if attempt.state not in OPEN:
        return
    if attempt.state is A.SENT:
        world.attempt_to(attempt, A.UNKNOWN)
    is_proven = (
        not (was_leased or attempt.leased or named or attempt.named)
        if rules.not_found_judged
        else not attempt.leased
    )
    may_be_lost = world.scenario.kind in _LOSES and attempt.state is not A.PENDING
    if is_proven and (may_be_lost or not rules.not_found_by_kind):
        world.attempt_to(attempt, A.CLOSED)
        payment_rpc.settle(world, attempt.payment, S.FAILED)


def our_turn(world: World, a: int) -> None:
    """The buyer approved. The intention is committed, then the step is taken."""
    attempt, rules = world.attempts[a], world.rules
    state = world.payments[attempt.payment].state
    may_step = state is S.PAYING or (state is S.CLOSING and attempt.steps > 0)
    may_step = may_step and attempt.state in OPEN and not attempt.leased
    if not may_step and rules.step_guard:
        payment_rpc.apply_fact(world, a, Fact.PENDING)
        return
    if rules.step_intention:
        attempt.steps = min(attempt.steps + 1, STEPS_MAX)
        attempt.leased = True
    world.call("advance", a)


def advance(world: World, a: int) -> None:
    """The step that is ours: the channel takes the money, once under one key."""
    attempt = world.attempts[a]
    if attempt.at_channel is AtChannel.APPROVED or (
        attempt.at_channel is AtChannel.CAPTURED and not world.rules.same_step_key
    ):
        _at_channel(world, a, AtChannel.CAPTURED)
    world.call("fact", a, _HEARD[attempt.at_channel])


def promised(world: World, a: int, steps: int) -> None:
    """Closing by our word: the transaction that closes an attempt in which no step was begun."""
    attempt = world.attempts[a]
    if not world.rules.promise_waits or (steps == attempt.steps == 0 and not attempt.leased):
        payment_rpc.apply_fact(world, a, Fact.CLOSED)


def call_back(world: World, a: int) -> None:
    """The channel tells of an attempt under both ids of it."""
    attempt = world.attempts[a]
    attempt.named = True
    payment_rpc.apply_fact(world, a, _HEARD[attempt.at_channel])


FINISH: dict[str, Act] = {
    "remember": remember,
    "ask": ask,
    "not found": not_found,
    "our turn": our_turn,
    "advance": advance,
    "promised": promised,
}


# --- every step that is possible ------------------------------------------------------------------


def add_moves(world: World, a: int, out: list[Move], *, has_room: bool) -> None:
    """Those of an attempt, and of the channel about it."""
    _channel(world, a, out)
    if world.attempts[a].state is not None:
        _attempt(world, a, out, has_room=has_room)


def _attempt(world: World, a: int, out: list[Move], *, has_room: bool) -> None:
    """What workers, callbacks and clocks can do."""
    attempt = world.attempts[a]
    if attempt.leased:
        out.append(("lease ends", True, _end_lease, (a,)))
    known, is_open = attempt.at_channel, attempt.state in OPEN
    is_news = known is AtChannel.CAPTURED or (is_open and known not in (*_WAITS, AtChannel.NOTHING))
    is_news = is_news and not attempt.captured
    if is_news and not world.scenario.unheard:
        out.append(("channel calls back", True, call_back, (a,)))
    if not has_room:
        return
    if not is_open:
        _watch(world, a, out, is_news=is_news)
        return
    if not any(call[:2] == ("ask", a) for call in world.calls):
        is_unknown = not attempt.named and attempt.state is not A.PENDING
        repairs = (is_news and world.scenario.unheard) or (
            not attempt.leased
            and (known is AtChannel.APPROVED or (is_unknown and world.scenario.kind in _LOSES))
        )
        out.append(("worker queries", repairs, _begin, ("ask", a, attempt.named, False)))
    if world.payments[attempt.payment].state is S.CLOSING:
        _closing(world, a, attempt, out)
    elif (
        world.scenario.resends
        and not (attempt.leased or attempt.named)
        and attempt.state is not A.PENDING
    ):
        out.append(("client's retry sends again", False, payment_rpc.send_again, (a,)))


def _watch(world: World, a: int, out: list[Move], *, is_news: bool) -> None:
    """What may be paid for ever is asked about after its result, as long as the channel sees it.
    Only a question that learns something is a step.
    """
    is_watched = world.scenario.kind is Close.NEVER and world.rules.watched
    if is_news and is_watched and not _is_called(world, "ask", a):
        named = world.attempts[a].named
        out.append(("worker watches", True, _begin, ("ask", a, named, False)))


def _closing(world: World, a: int, attempt: Attempt, out: list[Move]) -> None:
    kind, known = world.scenario.kind, attempt.at_channel
    if kind is Close.PROMISE:
        may_close = attempt.steps == 0 and not attempt.leased
        if (may_close or not world.rules.promise_waits) and not _is_called(world, "promised", a):
            out.append(("worker closes by promise", True, _begin, ("promised", a, attempt.steps)))
        return
    if kind in (Close.KNOWN, Close.DEADLINE) and not _is_called(world, "ask", a):
        can_close = known in _WAITS and (attempt.named or kind is Close.DEADLINE)
        out.append(
            ("worker closes at the channel", can_close, _begin, ("ask", a, attempt.named, True))
        )
    if kind is Close.NEVER or (kind is Close.DEADLINE and known is AtChannel.NOTHING):
        waits = known in (AtChannel.NOTHING, *_WAITS)
        if waits and not attempt.leased and ("fact", a, Fact.CLOSED) not in world.calls:
            out.append(("deadline and grace are over", True, _outlast, (a,)))


def _channel(world: World, a: int, out: list[Move]) -> None:
    """What the buyer and the channel do by themselves."""
    attempt, kind = world.attempts[a], world.scenario.kind
    known = attempt.at_channel
    if attempt.handed and known is AtChannel.NOTHING:
        out.append(("buyer opens the page", False, _at_channel, (a, AtChannel.OPEN)))
    if known is AtChannel.OPEN:
        paid = AtChannel.APPROVED if kind is Close.PROMISE else AtChannel.CAPTURED
        out.append(("buyer pays", False, _at_channel, (a, paid)))
    if known is AtChannel.CLOSED and world.scenario.late_captures:
        out.append(("channel captures late", False, _at_channel, (a, AtChannel.CAPTURED)))


def confirm_moves(world: World, i: int) -> list[Move]:
    """What the second call may lead to."""
    answers: tuple[AtChannel, ...] = (AtChannel.OPEN,)
    if world.scenario.kind is Close.KNOWN:
        answers = AtChannel.CAPTURED, AtChannel.DECLINED, AtChannel.OPEN
    return [("confirm arrives", True, _confirm, (i, answer)) for answer in answers]


def _is_called(world: World, name: str, a: int) -> bool:
    return any(call[:2] == (name, a) for call in world.calls)


def _begin(world: World, *call: Any) -> None:
    world.call(*call)


def _end_lease(world: World, a: int) -> None:
    world.attempts[a].leased = False


def _at_channel(world: World, a: int, known: AtChannel) -> None:
    attempt = world.attempts[a]
    attempt.at_channel = known
    if known is AtChannel.CAPTURED:
        attempt.taken += 1


def _outlast(world: World, a: int) -> None:
    """At its deadline a page ends. What may be paid for ever is closed here alone."""
    if world.scenario.kind is Close.DEADLINE:
        world.attempts[a].at_channel = AtChannel.CLOSED
    world.call("fact", a, Fact.CLOSED)
