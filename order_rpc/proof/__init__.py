"""Proof that order_rpc is right, for `paymesh audit` and `paymesh explain`, which find these
functions by name. Reads only.
"""

from order_rpc.proof.audit import violations
from order_rpc.proof.facts import orders_of, orders_page
from order_rpc.proof.sales import allocations_of, sale_orders_of, sale_orders_page
from order_rpc.proof.story import find_order, other_stories, story

__all__ = [
    "allocations_of",
    "find_order",
    "orders_of",
    "orders_page",
    "other_stories",
    "sale_orders_of",
    "sale_orders_page",
    "story",
    "violations",
]
