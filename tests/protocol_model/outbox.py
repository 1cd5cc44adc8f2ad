"""What payment_rpc sends the order: snapshots, written with the change that they tell of."""

from __future__ import annotations

from tests.protocol_model.world import Snapshot, World


def snapshot(world: World, p: int) -> Snapshot:
    """A payment as order_rpc hears of it. The refund of a second capture is not in it."""
    payment = world.payments[p]
    if payment.state is None:
        raise ValueError("a payment that is not there has no snapshot")
    return p, payment.version, payment.state, payment.captured, payment.refunded, payment.reserved


def put_message(world: World, p: int) -> None:
    """The outbox row of a change, in the transaction of the change."""
    world.payments[p].version += 1
    if world.rules.outbox_tx:
        world.outbox.append((snapshot(world, p), False))
    else:
        world.call("put message", *snapshot(world, p))
