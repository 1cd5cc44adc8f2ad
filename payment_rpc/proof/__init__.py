"""Proof that payment_rpc is right, for `paymesh audit` and `paymesh explain`, which find these
functions by name. Reads only.
"""

from payment_rpc.proof.audit import violations
from payment_rpc.proof.channel import channel_violations
from payment_rpc.proof.facts import (
    gates_between,
    gates_of_orders,
    payments_between,
    payments_of_orders,
)
from payment_rpc.proof.story import find_order, story

__all__ = [
    "channel_violations",
    "find_order",
    "gates_between",
    "gates_of_orders",
    "payments_between",
    "payments_of_orders",
    "story",
    "violations",
]
