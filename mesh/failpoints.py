"""Named points where a test can make a process die, wait or fail, to prove that whatever a crash
leaves is finished by somebody.

Armed by the setting `failpoints`, e.g. `payment.charge.after_tx1=kill` or
`payment.charge.before_tx2=kill:2;outbox.relay.after_send=raise` (the number is the hit at which it
strikes). Refused unless environment is `test`; without it a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

# Every point of the code, in the order in which a purchase passes them.
POINTS = (
    "order.create.before_commit",
    "order.create.after_commit",
    "order.cancel.after_begin",
    "order.cancel.before_commit",
    "order.expire.before_commit",
    "order.expire.after_commit",
    "order.ship.before_commit",
    "order.ship.after_commit",
    "order.refund.before_commit",
    "order.refund.after_commit",
    "payment.charge.before_tx1",
    "payment.charge.after_tx1",
    "payment.charge.after_channel",
    "payment.fact.before_commit",
    "payment.fact.after_commit",
    "payment.cashier.after_tx1",
    "payment.balance.before_commit",
    "payment.balance.after_commit",
    "payment.top_up.after_tx1",
    "payment.close.after_closing",
    "payment.refund.after_tx1",
    "payment.refund.after_channel",
    "payment.refund_fact.before_commit",
    "payment.refund_fact.after_commit",
    "payment.gate.after_closed",
    "outbox.relay.after_claim",
    "outbox.relay.after_send",
    "outbox.relay.after_settle",
    "order.update_status.before_commit",
    "order.update_status.after_commit",
    "seckill.consume.after_read",
    "seckill.consume.after_insert",
    "seckill.consume.after_update",
    "seckill.consume.after_commit",
    "seckill.consume.after_readmit",
    "seckill.consume.after_finish",
    "seckill.return.after_commit",
    "seckill.give_back.after_script",
    "seckill.publish.after_row",
    "seckill.publish.after_allocate",
    "seckill.publish.after_clear",
    "seckill.publish.after_open",
    "seckill.publish.after_load",
    "seckill.rebuild.after_hold",
    "seckill.rebuild.after_fence",
    "seckill.rebuild.after_parts",
    "seckill.rebuild.after_publish",
    "seckill.rebuild.after_carry",
    "seckill.close.after_row",
    "seckill.close.after_drained",
    "seckill.close.after_closed",
    "seckill.close.after_drop",
)


class FailpointRaised(Exception):
    """An armed point struck with `raise`."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _raise() -> None:
    raise FailpointRaised


_ACTIONS: dict[str, Callable[[], None]] = {"kill": _kill, "term": _terminate, "raise": _raise}
_armed: dict[str, tuple[Callable[[], None], list[int]]] = {}


def arm(specification: str, *, environment: str) -> None:
    """Arms points for this process; "" disarms all.

    Raises:
        ValueError: unknown point or action, or an environment other than "test".
    """
    _armed.clear()
    for part in filter(None, (part.strip() for part in specification.split(";"))):
        if environment != "test":
            raise ValueError("failpoints are only for environment=test")
        point, _, action = part.partition("=")
        name, _, hit = action.partition(":")
        if point not in POINTS or name not in _ACTIONS:
            raise ValueError(f"unknown failpoint {part!r}")
        _armed[point] = (_ACTIONS[name], [int(hit or "1")])


def failpoint(point: str) -> None:
    """Strikes when this point is armed and this is the hit it waits for."""
    if point not in _armed:
        return
    action, remaining = _armed[point]
    remaining[0] -= 1
    if remaining[0] == 0:
        action()
