"""The transactions of payment_rpc about payments and attempts: start, facts of the channel,
closing, and what the order decided.
"""

from __future__ import annotations

from payment_rpc.domain.attempt import AttemptState as A
from payment_rpc.domain.payment import Disposition
from payment_rpc.domain.payment import PaymentState as S
from payment_rpc.usecases.cancel import CloseResult
from tests.protocol_model.invariants import Broken
from tests.protocol_model.outbox import put_message, snapshot
from tests.protocol_model.refunds import close_if_all_is_back, refund_rest, reserve, stand_alone
from tests.protocol_model.world import (
    MONEY,
    OPEN,
    REFUSALS,
    UNDECIDED,
    WITHOUT_MONEY,
    Attempt,
    Fact,
    Payment,
    World,
)


def answer_of(payment: Payment) -> str:
    """What a call with the payment's key is answered now."""
    if payment.receipt:
        return payment.receipt
    if payment.captured:
        return "PAID"
    return "FAILED" if payment.state in WITHOUT_MONEY else "PAYING"


def finish(world: World, p: int) -> None:
    """What ends every change: the first final answer into the receipt, a message to the order."""
    payment = world.payments[p]
    if world.rules.receipt_final and not payment.receipt and payment.state is not S.CONFLICTED:
        payment.receipt = answer_of(payment)
    put_message(world, p)


def settle(world: World, p: int, end: S) -> None:
    """A payment follows its attempts once all of them are final."""
    payment = world.payments[p]
    if payment.state in UNDECIDED and world.none_open(p):
        world.payment_to(payment, S.CLOSED if payment.state is S.CLOSING else end)
        finish(world, p)


# --- starting -------------------------------------------------------------------------------------


def start(world: World, p: int) -> None:
    """tx1 of a charge: gate, live payments, then the insert."""
    rules = world.rules
    if world.payments[p].state is not None or (rules.gate and world.shop.gate_closed):
        return
    if rules.live_slot and any(payment.slot for payment in world.payments):
        return
    if rules.late_blocks and any(
        payment.state is S.LATE_SUCCESS and payment.disposition is None
        for payment in world.payments
    ):
        return
    if rules.gate_row:
        insert(world, p)
    else:
        world.call("insert", p)  # FOR UPDATE of a row that is absent locks nothing


def insert(world: World, p: int) -> None:
    """The rest of tx1; the unique index still stands when the gate did not."""
    payment = world.payments[p]
    if payment.state is not None or (
        world.rules.live_slot and any(other.slot for other in world.payments)
    ):
        return
    if world.order.state.value == "CANCELLED":
        world.wrong(Broken.CHARGED_CANCELLED)
    if any(
        other.state in MONEY
        and other.disposition not in REFUSALS
        and other.captured > other.refunded + other.reserved
        for other in world.payments
    ):
        world.wrong(Broken.CHARGED_AGAIN)
    if any(other.state in UNDECIDED for other in world.payments):
        world.wrong(Broken.TWO_LIVE)
    payment.slot = True
    world.payment_to(payment, S.PAYING)
    if p == world.scenario.balance:
        world.payment_to(payment, S.SUCCESS)
        payment.captured = world.scenario.amount
        finish(world, p)
    else:
        send(world, world.attempts_of(p)[0])


def send(world: World, a: int) -> None:
    """An attempt is about to be sent: the row first, under a lease, then the call."""
    attempt = world.attempts[a]
    is_first = attempt.state is None
    if is_first:
        world.attempt_to(attempt, A.SENT)
    else:
        attempt.sent_again = True
    attempt.leased = True
    world.call("charge", a, is_first)


def fail_over(world: World, a: int) -> None:
    """The next attempt of a payment."""
    if not (world.rules.gate and world.shop.gate_closed):
        send(world, a)


def send_again(world: World, a: int) -> None:
    """The same key came again and the channel knows nothing: once more, under the same attempt
    id.
    """
    attempt = world.attempts[a]
    if world.payments[attempt.payment].state is not S.PAYING:
        world.wrong(Broken.SENT_AFTER_END)
    other = next(
        (b for b in world.attempts_of(attempt.payment) if world.attempts[b].state is None), a
    )
    send(world, a if world.rules.same_attempt_id else other)


# --- facts ----------------------------------------------------------------------------------------


def apply_fact(world: World, a: int, fact: Fact, units: int = 0) -> None:
    """apply_channel_fact: all news of a channel end here. `units` is how much of held money it took
    in all.
    """
    attempt = world.attempts[a]
    if fact in (Fact.CAPTURED, Fact.WRONG):
        _captured(world, a, fact, units)
    elif not attempt.captured and attempt.state in OPEN and not _is_older(attempt, fact):
        _not_captured(world, a, fact)
        if fact is Fact.HELD and units:
            _part_taken(world, a, units)
    if attempt.state not in OPEN:
        attempt.leased = attempt.capturing = False


def _part_taken(world: World, a: int, units: int) -> None:
    """A part of held money was taken and the rest is still held."""
    attempt = world.attempts[a]
    if units <= attempt.units and world.rules.parts_once:
        return
    if not attempt.capturing:
        world.wrong(Broken.TOOK_UNASKED)
        return
    world.payments[attempt.payment].captured += max(1, units - attempt.units)
    attempt.units = units
    attempt.capturing = attempt.leased = attempt.keeps_rest = False
    attempt.captures_sent = 0


def _is_older(attempt: Attempt, fact: Fact) -> bool:
    """Whether a fact says less than what is known: that money is held."""
    waits = (Fact.PENDING, Fact.NOT_FOUND, Fact.NOT_ATTEMPTED)
    return attempt.state is A.AUTHORIZED and fact in waits


def _captured(world: World, a: int, fact: Fact, units: int = 0) -> None:
    attempt, rules = world.attempts[a], world.rules
    p = attempt.payment
    payment = world.payments[p]
    if attempt.captured or (attempt.state not in OPEN and not rules.late_from_failed):
        return
    if payment.state in WITHOUT_MONEY and not rules.late_success:
        return
    world.attempt_to(attempt, A.CAPTURED)
    attempt.captured = True
    if attempt.units:
        _rest_ended(world, a, units)
        return
    has_money = payment.captured > 0 or payment.state in (S.CONFLICTED, S.LATE_REFUNDED)
    if fact is Fact.WRONG and (not has_money or not rules.conflict_keeps_paid):
        payment.attention = True
        world.payment_to(payment, S.CONFLICTED)
    elif not has_money:
        world.payment_to(payment, S.SUCCESS if payment.slot else S.LATE_SUCCESS)
        if units not in (0, _intended(world, attempt)):
            world.wrong(Broken.TOOK_UNASKED)
        payment.captured += units or world.scenario.amount
        attempt.units = units
    elif rules.second_capture and (payment.state is S.SUCCESS or rules.second_in_any_state):
        stand_alone(world, a)
    finish(world, p)


def _intended(world: World, attempt: Attempt) -> int:
    """How much of the hold is taken when the capture that is under way was carried out."""
    if not attempt.capturing:
        return 0
    return attempt.units + 1 if attempt.keeps_rest else world.scenario.amount


def _rest_ended(world: World, a: int, units: int) -> None:
    """A hold of which a part was taken is over: the last capture, or the rest was let go."""
    attempt = world.attempts[a]
    payment = world.payments[attempt.payment]
    if units not in (attempt.units, _intended(world, attempt)):
        world.wrong(Broken.TOOK_UNASKED)
    payment.captured += units - attempt.units
    attempt.units = units
    if not world.rules.rest_ends_paid and payment.state is S.CLOSING:
        world.payment_to(payment, S.CLOSED)
    else:
        world.payment_to(payment, S.SUCCESS if payment.slot else S.LATE_SUCCESS)
    finish(world, attempt.payment)


def _not_captured(world: World, a: int, fact: Fact) -> None:
    attempt = world.attempts[a]
    p = attempt.payment
    match fact:
        case Fact.HELD:
            world.attempt_to(attempt, A.AUTHORIZED)
            if world.payments[p].state is S.PAYING:
                world.payment_to(world.payments[p], S.AUTHORIZED)
                put_message(world, p)
        case Fact.PENDING:
            world.attempt_to(attempt, A.PENDING)
        case Fact.UNKNOWN:
            _doubt(world, a)
        case Fact.NOT_FOUND:
            _doubt(world, a)
            if not attempt.leased or not world.rules.lease:  # it may have been sent again meanwhile
                _lose(world, a)
        case Fact.DECLINED:
            world.attempt_to(attempt, A.DECLINED)
            settle(world, p, S.FAILED)
        case Fact.TECH_FAILED | Fact.NOT_ATTEMPTED:
            # ours did not leave, another one may have
            if fact is Fact.NOT_ATTEMPTED and attempt.sent_again:
                _doubt(world, a)
                return
            world.attempt_to(attempt, A(fact.value))
            if world.payments[p].state is S.CLOSING:
                settle(world, p, S.CLOSED)
        case Fact.CLOSED:
            world.attempt_to(attempt, A.CLOSED)
            settle(world, p, S.CLOSED)
        case _:  # LOST
            world.attempt_to(attempt, A.CLOSED)
            settle(world, p, S.FAILED)


def _doubt(world: World, a: int) -> None:
    if world.attempts[a].state is A.SENT:
        world.attempt_to(world.attempts[a], A.UNKNOWN)


def _lose(world: World, a: int) -> None:
    """Nobody is sending it any more and the channel does not know it."""
    if world.rules.tombstone and world.scenario.tombstones:
        world.call("close", a)
    else:
        world.attempt_to(world.attempts[a], A.CLOSED)
        settle(world, world.attempts[a].payment, S.FAILED)


def repeat_key(world: World, p: int) -> None:
    """The client asks again with its key."""
    payment = world.payments[p]
    answer = answer_of(payment)
    if payment.told and payment.told != answer:
        world.wrong(Broken.OTHER_ANSWER)
    if answer != "PAYING":
        payment.told = payment.told or answer


# --- held money -----------------------------------------------------------------------------------


def capture(world: World, a: int, *keeps_rest: bool) -> None:
    """CapturePayment, or the worker once more: the intention first, under a lease, then the call.
    Its key says how much was taken before it. Without `parts` it takes everything.
    """
    attempt = world.attempts[a]
    if attempt.state is A.AUTHORIZED and world.payments[attempt.payment].state is S.AUTHORIZED:
        attempt.capturing = attempt.leased = True
        if keeps_rest:
            attempt.keeps_rest = keeps_rest[0]
            attempt.captures_sent = min(2, attempt.captures_sent + 1)
        world.call("capture", a, *((attempt.units, *keeps_rest) if keeps_rest else ()))


def withdraw(world: World, a: int, units: int) -> None:
    """The answer to a capture says that it took nothing."""
    attempt, rules = world.attempts[a], world.rules
    is_this = attempt.state is A.AUTHORIZED and attempt.capturing and attempt.units == units
    if is_this and (attempt.captures_sent == 1 or not rules.withdraw_once):
        attempt.capturing = attempt.leased = attempt.keeps_rest = False
        attempt.captures_sent = 0


def let_go(world: World, p: int) -> None:
    """The deadline, CancelPayment or VoidPayment: PAYING or AUTHORIZED to CLOSING."""
    if any(world.attempts[a].capturing for a in world.attempts_of(p)):
        world.wrong(Broken.LET_GO_WHILE_CAPTURED)
    world.payment_to(world.payments[p], S.CLOSING)


# --- closing --------------------------------------------------------------------------------------


def close_order(world: World) -> None:
    """ClosePayment: the gate, live payments to CLOSING, one answer by precedence."""
    rules, payments = world.rules, world.payments
    world.shop.gate_closed = rules.gate
    for p, payment in enumerate(payments):
        is_taken = any(world.attempts[a].capturing for a in world.attempts_of(p))
        is_let_go = payment.state is S.AUTHORIZED and world.order.lets_go and not is_taken
        if payment.state is S.PAYING or is_let_go:
            world.payment_to(payment, S.CLOSING)
    paid = [
        p
        for p, payment in enumerate(payments)
        if payment.state is S.SUCCESS
        or (payment.state is S.LATE_SUCCESS and payment.disposition is None)
    ]
    held = [
        p
        for p, payment in enumerate(payments)
        if payment.state is S.AUTHORIZED and not world.order.lets_go
    ]
    conflict = any(payment.state is S.CONFLICTED for payment in payments)
    if conflict and not rules.precedence:
        result = CloseResult.CONFLICTED
    elif paid:
        result = CloseResult.ALREADY_PAID
    elif held:
        result = CloseResult.HELD
    elif rules.closing_waits and any(
        payment.state in (S.AUTHORIZED, S.CLOSING) for payment in payments
    ):
        result = CloseResult.CLOSING
    else:
        result = CloseResult.CONFLICTED if conflict else CloseResult.CLOSED
    if paid and result is not CloseResult.ALREADY_PAID:
        world.wrong(Broken.CLOSED_THOUGH_PAID)
    with_payment = result in (CloseResult.ALREADY_PAID, CloseResult.HELD)
    of = (paid or held)[0] if with_payment else -1
    world.call("close answer", result, *(snapshot(world, of) if with_payment else ()))


# --- what the order decided -----------------------------------------------------------------------


def carry_out(world: World, p: int, version: int, disposition: Disposition | None) -> None:
    """The transaction that marks a message done, with what the order answered (None: NOTED)."""
    payment, rules = world.payments[p], world.rules
    is_first = payment.disposition is None and payment.state in MONEY
    if disposition in REFUSALS:
        if is_first or not rules.settled_once:
            _refuse(world, p)
        payment.disposition = payment.disposition or disposition
    elif disposition is not None and is_first:
        if not _take_slot(world, p):
            return  # rolled back: the message stays due
        payment.disposition = disposition
    world.outbox = [
        (sent, done or (sent[0], sent[1]) == (p, version)) for sent, done in world.outbox
    ]
    if not world.scenario.duplicates:
        # forgotten, to keep a search small
        world.outbox = [(sent, done) for sent, done in world.outbox if not done]


def _refuse(world: World, p: int) -> None:
    payment, rules = world.payments[p], world.rules
    if rules.auto_refund:
        if rules.refund_with_refusal:
            refund_rest(world, p)
        else:
            world.call("refund rest", p)
    if payment.state is S.SUCCESS and rules.refused_leaves_slot:
        world.payment_to(payment, S.LATE_SUCCESS)
    close_if_all_is_back(world, payment)


def _take_slot(world: World, p: int) -> bool:
    payment, rules = world.payments[p], world.rules
    if payment.state is S.SUCCESS:
        return True
    for holder in [other for other in world.payments if other.slot]:
        if not rules.slot_handover and rules.live_slot:
            return False
        holder.slot = False
        if holder.state in (S.PAYING, S.AUTHORIZED):
            world.payment_to(holder, S.CLOSING)
        elif holder.state is S.SUCCESS:
            world.payment_to(holder, S.LATE_SUCCESS)
            close_if_all_is_back(world, holder)
            put_message(world, world.payments.index(holder))
    payment.slot = True
    world.payment_to(payment, S.SUCCESS)
    return True


# --- a person -------------------------------------------------------------------------------------


def give_conflict_back(world: World, p: int) -> None:
    """An operator resolves a conflict as FAILED: every parked capture goes back under its own
    id.
    """
    world.payment_to(world.payments[p], S.FAILED)
    _resolve(world, p)


def keep_conflict(world: World, p: int, a: int) -> None:
    """An operator found that what was owed came in: it is late money, for the order to take."""
    payment = world.payments[p]
    world.payment_to(payment, S.LATE_SUCCESS)
    payment.captured = world.scenario.amount
    _resolve(world, p, kept=a)


def _resolve(world: World, p: int, kept: int = -1) -> None:
    world.payments[p].attention = False
    for a in world.attempts_of(p):
        if a != kept and world.attempts[a].captured and f"auto:a{a}" not in world.refunds:
            stand_alone(world, a)
    finish(world, p)


def ask_refund(world: World, p: int, name: str) -> None:
    """CreateRefund of one unit by the merchant."""
    if world.payments[p].state in MONEY:
        reserve(world, name, p, 1)
