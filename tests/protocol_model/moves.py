"""Every step that is possible in a state. A move that repairs needs no person and no new input
(workers, the relay, callbacks, statements, clocks): a state without one is at rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from order_rpc.domain.order import OrderState as O
from payment_rpc.domain.attempt import AttemptState as A
from payment_rpc.domain.payment import PaymentState as S
from payment_rpc.domain.refund import RefundState as R
from tests.protocol_model import kinds, order_rpc, payment_rpc, refunds
from tests.protocol_model.world import (
    MONEY,
    OPEN,
    UNDECIDED,
    AtChannel,
    Attempt,
    Call,
    Fact,
    World,
)

Act = Callable[..., None]
Move = tuple[str, bool, Act, tuple[Any, ...]]  # its name, whether it repairs, what it does, to what

_HEARD = {
    AtChannel.NOTHING: Fact.NOT_FOUND,
    AtChannel.OPEN: Fact.PENDING,
    AtChannel.HELD: Fact.HELD,
    AtChannel.CAPTURED: Fact.CAPTURED,
    AtChannel.WRONG: Fact.WRONG,
    AtChannel.DECLINED: Fact.DECLINED,
    AtChannel.FAILED: Fact.TECH_FAILED,
    AtChannel.CLOSED: Fact.CLOSED,
    AtChannel.TOMBSTONE: Fact.LOST,
}
_REFUND_ANSWERS = (R.SUCCESS, R.FAILED, R.PENDING)
_REST_GONE = (AtChannel.CLOSED, AtChannel.DECLINED, AtChannel.FAILED)
_NO_NEWS = ((AtChannel.OPEN, A.PENDING), (AtChannel.HELD, A.AUTHORIZED))
_CAPTURES = (AtChannel.CAPTURED, AtChannel.WRONG)


def moves(world: World) -> list[Move]:
    """All of them. Calls under way are named by their place, so they are put in order first."""
    out: list[Move] = []
    world.calls.sort()
    has_room = len(world.calls) < world.scenario.calls
    _calls(world, out)
    for p in range(len(world.payments)):
        _payment(world, p, out, has_room)
    for a, attempt in enumerate(world.attempts):
        if world.scenario.kind is not None:
            kinds.add_moves(world, a, out, has_room=has_room)
            continue
        _channel(world, a, out)
        if attempt.state is not None:
            _attempt(world, a, out, has_room)
    _order(world, out, has_room)
    _refunds(world, out, has_room)
    if has_room:
        for message, done in world.outbox:
            if not done or world.scenario.duplicates:
                out.append(("relay delivers", not done, order_rpc.deliver, (message,)))
    return out


# --- calls under way ------------------------------------------------------------------------------


def _calls(world: World, out: list[Move]) -> None:
    before: Call | None = None
    for i, call in enumerate(world.calls):
        if call == before:
            continue
        before = call
        name = call[0]
        is_charge = name == "charge" and world.scenario.kind is None
        if name == "confirm":
            out.extend(kinds.confirm_moves(world, i))
        elif is_charge and world.attempts[call[1]].at_channel is AtChannel.NOTHING:
            answers = (
                world.scenario.answers
                + ("WRONG",) * world.scenario.wrong_amounts
                + ("NOT_SENT",) * world.scenario.not_sent
            )
            out.extend([("charge arrives", True, _charge, (i, answer)) for answer in answers])
        elif is_charge:
            out.append(("charge arrives", True, _charge, (i, "")))
        elif name == "refund":
            refund = world.refunds[call[1]]
            known = refund.at_channel is not None and world.rules.same_refund_id
            out.extend(
                [
                    ("refund arrives", True, _refund, (i, answer))
                    for answer in (_REFUND_ANSWERS[:1] if known else _REFUND_ANSWERS)
                ]
            )
        else:
            out.append((_NAMES[name], True, _finish, (i,)))
            if name == "capture" and world.scenario.parts:
                out.append(("a capture is refused", False, _refuse_capture, (i,)))
            if world.scenario.timeouts and name in ("fact", "refund fact"):
                out.append(("an answer is unreadable", False, _unreadable, (i,)))
        out.append(("a call is lost", False, _lose, (i,)))


def _charge(world: World, i: int, answer: str) -> None:
    _, a, is_first = world.calls.pop(i)
    attempt = world.attempts[a]
    if answer == "NOT_SENT":
        world.call("fact", a, Fact.NOT_ATTEMPTED if is_first else Fact.UNKNOWN)
        return
    if answer == "TECH_FAILED":
        world.call("fact", a, Fact.TECH_FAILED)
        return
    if answer and attempt.at_channel is AtChannel.NOTHING:
        attempt.at_channel = AtChannel(answer)
    world.call("fact", a, *_heard(attempt))


def _heard(attempt: Attempt) -> tuple[Any, ...]:
    """What the channel says of an attempt, with what it took of held money in all."""
    fact = _HEARD[attempt.at_channel]
    return (fact, attempt.units_at_channel) if attempt.units_at_channel else (fact,)


def _query(world: World, a: int) -> None:
    attempt = world.attempts[a]
    if attempt.at_channel is AtChannel.NOTHING and attempt.leased and world.rules.lease:
        world.call("fact", a, Fact.UNKNOWN)  # somebody may still be sending it
    else:
        world.call("fact", a, *_heard(attempt))


def _close(world: World, a: int) -> None:
    attempt = world.attempts[a]
    if attempt.at_channel is AtChannel.NOTHING and world.scenario.tombstones:
        attempt.at_channel = AtChannel.TOMBSTONE
    elif (attempt.at_channel is AtChannel.OPEN and world.scenario.closable) or (
        attempt.at_channel is AtChannel.HELD and world.rules.void_held
    ):
        _at_channel(world, a, AtChannel.CLOSED)
    world.call("fact", a, *_heard(attempt))


def _capture(world: World, a: int, before: int = -1, keeps_rest: bool = False) -> None:
    attempt, amount = world.attempts[a], world.scenario.amount
    if attempt.at_channel is AtChannel.HELD and before < 0:
        attempt.at_channel = AtChannel.CAPTURED
    elif attempt.at_channel is AtChannel.HELD and (
        attempt.units_at_channel == before or not world.rules.same_capture_key
    ):
        attempt.units_at_channel = attempt.units_at_channel + 1 if keeps_rest else amount
        if attempt.units_at_channel == amount:
            attempt.at_channel = AtChannel.CAPTURED
    world.call("fact", a, *_heard(attempt))


def _refuse_capture(world: World, i: int) -> None:
    _, a, before, _ = world.calls.pop(i)
    world.call("withdraw", a, before)


def _refund(world: World, i: int, answer: R) -> None:
    _, name = world.calls.pop(i)
    refunds.answer_refund(world, name, answer)


def _noted(world: World, p: int, version: int, disposition: Any) -> None:
    payment_rpc.carry_out(world, p, version, None if disposition == "NOTED" else disposition)


def _put_message(world: World, *message: Any) -> None:
    world.outbox.append((message, False))  # a call under way carries its snapshot flat


FINISH: dict[str, Act] = {
    "start": payment_rpc.start,
    "insert": payment_rpc.insert,
    "query": _query,
    "close": _close,
    "capture": _capture,
    "withdraw": payment_rpc.withdraw,
    "fact": payment_rpc.apply_fact,
    "close payments": payment_rpc.close_order,
    "close answer": order_rpc.close_answered,
    "disposition": _noted,
    "refund rest": refunds.refund_rest,
    "put message": _put_message,
    "reserve again": order_rpc.reserve_again,
    "refund fact": refunds.apply_refund_fact,
    "charge": kinds.charge,
    **kinds.FINISH,
}
_NAMES = {name: f"{name} arrives" for name in FINISH}


def _finish(world: World, i: int) -> None:
    name, *args = world.calls.pop(i)
    FINISH[name](world, *args)


def _unreadable(world: World, i: int) -> None:
    name, subject, *_ = world.calls.pop(i)
    FINISH[name](world, subject, Fact.UNKNOWN if name == "fact" else R.UNKNOWN)


def _lose(world: World, i: int) -> None:
    del world.calls[i]


# --- payments and attempts ------------------------------------------------------------------------


def _payment(world: World, p: int, out: list[Move], has_room: bool) -> None:
    payment, scenario = world.payments[p], world.scenario
    state = payment.state
    if state is None:
        if has_room and world.order.state is O.PENDING_PAYMENT and ("start", p) not in world.calls:
            out.append(("client pays", False, _begin, ("start", p)))
        return
    if scenario.repeated_keys and payment_rpc.answer_of(payment) not in ("PAYING", payment.told):
        out.append(("client repeats its key", False, payment_rpc.repeat_key, (p,)))
    if state in UNDECIDED:
        _undecided(world, p, out, has_room)
    elif state in MONEY:
        names = (f"merchant{p}", f"again{p}")[: scenario.merchant_refunds]
        out.extend(
            [
                ("merchant refunds", False, payment_rpc.ask_refund, (p, name))
                for name in names
                if name not in world.refunds
            ]
        )
    elif state is S.CONFLICTED and scenario.operator:
        _conflict(world, p, out)


def _undecided(world: World, p: int, out: list[Move], has_room: bool) -> None:
    state = world.payments[p].state
    is_paying = state is S.PAYING
    capturing = any(world.attempts[a].capturing for a in world.attempts_of(p))
    if is_paying or (state is S.AUTHORIZED and not (capturing and world.rules.capture_or_void)):
        out.append(
            ("deadline or CancelPayment", world.rules.deadline_close, payment_rpc.let_go, (p,))
        )
    if state is S.AUTHORIZED and has_room:
        out.extend(_captures(world, p))
    if not world.none_open(p):
        return
    if is_paying and has_room:
        out.extend(
            [
                ("fail over", False, payment_rpc.fail_over, (a,))
                for a in world.attempts_of(p)
                if world.attempts[a].state is None
            ]
        )
    out.append(
        (
            "no attempt is left",
            True,
            payment_rpc.settle,
            (p, S.CLOSED if state is S.CLOSING else S.FAILED),
        )
    )


def _captures(world: World, p: int) -> Iterator[Move]:
    """The shop captures held money; a worker sends a capture whose answer was lost once more."""
    for a in world.attempts_of(p):
        attempt, parts = world.attempts[a], world.scenario.parts
        if attempt.state is not A.AUTHORIZED or ("capture", a) in world.calls:
            continue
        if not attempt.capturing:
            yield "shop captures", False, payment_rpc.capture, (a, False) if parts else (a,)
            if parts and attempt.units + 1 < world.scenario.amount:
                yield "shop captures a part", False, payment_rpc.capture, (a, True)
        elif not attempt.leased and world.rules.capture_again:
            same = (a, attempt.keeps_rest) if parts else (a,)
            yield "worker captures again", True, payment_rpc.capture, same


def _conflict(world: World, p: int, out: list[Move]) -> None:
    out.append(("operator gives a conflict back", False, payment_rpc.give_conflict_back, (p,)))
    for a in world.attempts_of(p):
        refund = world.refunds.get(f"auto:a{a}")
        is_here = refund is None or refund.state is R.FAILED
        if (
            world.attempts[a].captured
            and world.attempts[a].at_channel is AtChannel.CAPTURED
            and is_here
        ):
            out.append(("operator keeps a capture", False, payment_rpc.keep_conflict, (p, a)))


def _attempt(world: World, a: int, out: list[Move], has_room: bool) -> None:
    attempt, scenario = world.attempts[a], world.scenario
    known, is_open = attempt.at_channel, attempt.state in OPEN
    if attempt.leased and not (
        scenario.punctual and any(call[:2] == ("charge", a) for call in world.calls)
    ):
        out.append(("lease ends", True, _end_lease, (a,)))
    is_news = known in _CAPTURES or (
        is_open
        and ((known, attempt.state) not in _NO_NEWS or attempt.units != attempt.units_at_channel)
    )
    if (
        is_news
        and not attempt.captured
        and known is not AtChannel.NOTHING
        and (world.rules.statement or is_open)
    ):
        out.append(("channel calls back", True, payment_rpc.apply_fact, (a, *_heard(attempt))))
    if not is_open:
        return
    state = world.payments[attempt.payment].state
    if has_room:
        if ("query", a) not in world.calls:
            out.append(
                (
                    "worker queries",
                    known is AtChannel.NOTHING and not attempt.leased,
                    _begin,
                    ("query", a),
                )
            )
        waits = known is AtChannel.NOTHING and not scenario.tombstones and attempt.leased
        if (
            state is S.CLOSING
            and not waits
            and (scenario.closable or known is not AtChannel.OPEN)
            and ("close", a) not in world.calls
        ):
            out.append(("worker closes at the channel", True, _begin, ("close", a)))
        if (
            scenario.resends
            and not attempt.leased
            and attempt.state is not A.PENDING
            and (state is S.PAYING or not world.rules.resend_guard)
        ):
            out.append(("client's retry sends again", False, payment_rpc.send_again, (a,)))
        outlasted = (
            state is S.CLOSING
            and not scenario.closable
            and not attempt.leased
            and known in (AtChannel.NOTHING, AtChannel.OPEN)
        )
        if outlasted and ("fact", a, Fact.CLOSED) not in world.calls:
            out.append(("deadline and grace are over", True, _outlast, (a,)))
    if (
        not world.rules.no_failover_on_unknown
        and a + 1 in world.attempts_of(attempt.payment)
        and world.attempts[a + 1].state is None
    ):
        out.append(("fail over from UNKNOWN", False, payment_rpc.send, (a + 1,)))


def _channel(world: World, a: int, out: list[Move]) -> None:
    known, scenario = world.attempts[a].at_channel, world.scenario
    if known is AtChannel.OPEN:
        results: tuple[AtChannel, ...] = (AtChannel.CAPTURED, AtChannel.DECLINED, AtChannel.FAILED)[
            : 3 if scenario.fails_later else 2
        ]
        if scenario.holds:
            results = (AtChannel.HELD,)
        out.extend([("channel decides", False, _at_channel, (a, result)) for result in results])
        if scenario.closable:
            out.append(("channel lets it expire", True, _at_channel, (a, AtChannel.CLOSED)))
    elif known is AtChannel.HELD:
        results = (
            AtChannel.CLOSED,
            *(AtChannel.DECLINED, AtChannel.FAILED)[: 2 * scenario.fails_later],
            *(AtChannel.WRONG,)[: scenario.wrong_amounts and not scenario.parts],
        )
        out.extend([("the hold ends", False, _at_channel, (a, result)) for result in results])
    elif scenario.late_captures and known in (
        AtChannel.CLOSED,
        AtChannel.DECLINED,
        AtChannel.FAILED,
    ):
        results = _CAPTURES if scenario.wrong_amounts else _CAPTURES[:1]
        out.extend(
            [("channel captures late", False, _at_channel, (a, result)) for result in results]
        )


def _begin(world: World, name: str, *args: int) -> None:
    world.call(name, *args)


def _outlast(world: World, a: int) -> None:
    world.call("fact", a, Fact.CLOSED)  # what could not be closed at the channel is closed here


def _end_lease(world: World, a: int) -> None:
    world.attempts[a].leased = False


def _at_channel(world: World, a: int, known: AtChannel) -> None:
    attempt = world.attempts[a]
    # what was taken of a hold stays taken when the rest of it ends
    attempt.at_channel = (
        AtChannel.CAPTURED if attempt.units_at_channel and known in _REST_GONE else known
    )


# --- order, shelf, refunds ------------------------------------------------------------------------


def _order(world: World, out: list[Move], has_room: bool) -> None:
    order, scenario, shop, rules = world.order, world.scenario, world.shop, world.rules
    if order.state is O.PENDING_PAYMENT and rules.cancelling_first:
        if order.held < 0:  # neither the clock nor the buyer cancels what is held for the shop
            out.append(("cancel or expiry", True, _order_to, (O.CANCELLING,)))
        if scenario.holds:
            out.append(("shop cancels", False, order_rpc.shop_cancels, ()))
    asks = order.state is (O.CANCELLING if rules.cancelling_first else O.PENDING_PAYMENT)
    if (
        asks
        and has_room
        and not any(call[0] in ("close payments", "close answer") for call in world.calls)
    ):
        out.append(("order asks ClosePayment", True, _begin, ("close payments",)))
    if scenario.ships:
        if order.state is O.PAID and not (rules.ship_guard and order_rpc.refund_is_open(world)):
            out.append(("ship", False, order_rpc.ship, ()))
        elif order.state is O.SHIPPED:
            out.append(("complete", False, _order_to, (O.COMPLETED,)))
    if scenario.other_buyers and shop.available and shop.taken < 2:
        out.append(("another buyer takes a unit", False, _shelf, (1,)))
    if shop.taken:
        out.append(("another buyer returns a unit", False, _shelf, (-1,)))


def _order_to(world: World, state: O) -> None:
    world.order_to(state)


def _shelf(world: World, quantity: int) -> None:
    world.shop.available -= quantity
    world.shop.taken += quantity


def _refunds(world: World, out: list[Move], has_room: bool) -> None:
    for name, refund in world.refunds.items():
        state, known = refund.state, refund.at_channel
        if (
            has_room
            and state in (R.CREATED, R.SUBMITTED, R.UNKNOWN)
            and ("refund", name) not in world.calls
        ):
            out.append(("worker submits a refund", True, refunds.submit, (name,)))
        if known is R.PENDING:
            out.extend(
                [
                    ("channel decides a refund", True, refunds.channel_moves_refund, (name, result))
                    for result in (R.SUCCESS, R.FAILED)
                ]
            )
        elif known is R.SUCCESS and world.scenario.bounces:
            out.append(
                ("a refund bounces", False, refunds.channel_moves_refund, (name, R.REVERSED))
            )
        elif known is R.FAILED and world.scenario.flips and state is R.FAILED:
            out.append(
                (
                    "a refused refund leaves after all",
                    False,
                    refunds.channel_moves_refund,
                    (name, R.SUCCESS),
                )
            )
        if known is not None and known is not state:
            out.append(
                ("channel tells of a refund", True, refunds.apply_refund_fact, (name, known))
            )
