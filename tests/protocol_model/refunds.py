"""The transactions of payment_rpc about refunds, and the channel's side of them."""

from __future__ import annotations

from payment_rpc.domain.payment import PaymentState as S
from payment_rpc.domain.refund import RefundState as R
from tests.protocol_model.outbox import put_message
from tests.protocol_model.world import REFUND_OPEN, REFUSALS, Payment, Refund, World

_SAME_NAME_MAX = 7  # keeps a search finite that makes a refund again and again


def reserve(world: World, name: str, p: int, amount: int) -> None:
    """One conditional UPDATE, and the row with its unique request id."""
    payment, rules = world.payments[p], world.rules
    if name in world.refunds:
        if rules.auto_unique or len(world.refunds) > _SAME_NAME_MAX:
            return
        name += "'"
    left = payment.captured - payment.refunded - payment.reserved
    if amount <= 0 or name in world.refunds or (left < amount and rules.refund_cap):
        return
    payment.reserved += amount
    world.refunds[name] = Refund(p, -1, amount, stands_alone=False)
    put_message(world, p)
    if p == world.scenario.balance:  # back into the wallet, in the same transaction
        refund = world.refunds[name]
        world.refund_to(refund, R.SUBMITTED)
        channel_moves_refund(world, name, R.SUCCESS)
        _left(world, refund, was_reserved=True)


def refund_rest(world: World, p: int) -> None:
    """auto:<payment_id>: what is left of money that the order refused."""
    payment = world.payments[p]
    left = payment.captured - payment.refunded - payment.reserved
    reserve(world, f"auto:p{p}", p, left if world.rules.auto_rest else payment.captured)


def stand_alone(world: World, a: int) -> None:
    """auto:<attempt_id>: a capture that is no part of its payment goes back."""
    p = world.attempts[a].payment
    name, amount = f"auto:a{a}", world.scenario.amount
    if not world.rules.own_cap:
        reserve(world, name, p, amount)
    elif name not in world.refunds:
        world.refunds[name] = Refund(p, a, amount, stands_alone=True)


def close_if_all_is_back(world: World, payment: Payment) -> None:
    """Late money of which nothing is left."""
    if payment.state is S.LATE_SUCCESS and payment.refunded >= payment.captured > 0:
        world.payment_to(payment, S.LATE_REFUNDED)


def submit(world: World, name: str) -> None:
    """A refund is about to be sent, under its id."""
    refund = world.refunds[name]
    if refund.state is R.CREATED:
        world.refund_to(refund, R.SUBMITTED)
    world.call("refund", name)


def answer_refund(world: World, name: str, answer: R) -> None:
    """The channel gets a refund; it keeps the first answer to an id."""
    refund = world.refunds[name]
    if refund.at_channel is None or not world.rules.same_refund_id:
        refund.at_channel = answer
        refund.times_out += answer is R.SUCCESS
    world.call("refund fact", name, refund.at_channel)


def channel_moves_refund(world: World, name: str, to: R) -> None:
    """The channel changes its mind, or decides."""
    refund = world.refunds[name]
    refund.times_out += (to is R.SUCCESS) - (to is R.REVERSED)
    refund.at_channel = to


def apply_refund_fact(world: World, name: str, fact: R) -> None:
    """apply_refund_fact: all news of a refund end here."""
    refund = world.refunds[name]
    match fact:
        case R.PENDING if refund.state in (R.SUBMITTED, R.UNKNOWN):
            world.refund_to(refund, R.PENDING)
        case R.UNKNOWN if refund.state is R.SUBMITTED:
            world.refund_to(refund, R.UNKNOWN)
        case R.SUCCESS if refund.state in REFUND_OPEN:
            _left(world, refund, was_reserved=True)
        case R.SUCCESS if refund.state is R.FAILED:
            _left_after_all(world, refund)
        case R.FAILED if refund.state in REFUND_OPEN:
            _failed(world, refund, is_automatic=_is_automatic(world, name))
        case R.REVERSED if refund.state is R.SUCCESS:
            _bounced(world, refund)
        case R.REVERSED if world.rules.bounce_unheard and refund.state is not R.REVERSED:
            apply_refund_fact(world, name, R.SUCCESS)
            if refund.state is R.SUCCESS:
                _bounced(world, refund)
        case _:
            pass


def _is_automatic(world: World, name: str) -> bool:
    refused = world.payments[world.refunds[name].payment].disposition in REFUSALS
    return name.startswith("auto") or (refused and world.rules.auto_attention)


def _left(world: World, refund: Refund, *, was_reserved: bool) -> None:
    payment = world.payments[refund.payment]
    world.refund_to(refund, R.SUCCESS)
    if not refund.stands_alone:
        payment.reserved -= refund.amount * was_reserved
        payment.refunded += refund.amount
        close_if_all_is_back(world, payment)
        put_message(world, refund.payment)


def _left_after_all(world: World, refund: Refund) -> None:
    """Evidence of money out for a refund that was held for failed."""
    payment = world.payments[refund.payment]
    fits = payment.captured - payment.refunded - payment.reserved >= refund.amount
    # an operator has made its capture the payment's meanwhile
    is_kept = refund.stands_alone and _is_kept(world, refund)
    if not is_kept and (refund.stands_alone or fits):
        _left(world, refund, was_reserved=False)
    elif world.rules.over_refund:
        world.refund_to(refund, R.SUCCESS)
        refund.above_cap = payment.attention = True


def _is_kept(world: World, refund: Refund) -> bool:
    captured = [a for a in world.attempts_of(refund.payment) if world.attempts[a].captured]
    alone = {
        other.attempt
        for other in world.refunds.values()
        if other.stands_alone and other.state is not R.FAILED
    }
    return world.payments[refund.payment].captured > 0 and all(
        a in alone or a == refund.attempt for a in captured
    )


def _failed(world: World, refund: Refund, *, is_automatic: bool) -> None:
    payment = world.payments[refund.payment]
    world.refund_to(refund, R.FAILED)
    if not refund.stands_alone:
        payment.reserved -= refund.amount
        put_message(world, refund.payment)
    payment.attention |= is_automatic


def _bounced(world: World, refund: Refund) -> None:
    payment = world.payments[refund.payment]
    world.refund_to(refund, R.REVERSED)
    payment.attention = True
    if not refund.stands_alone and not refund.above_cap:
        payment.refunded -= refund.amount
        put_message(world, refund.payment)
