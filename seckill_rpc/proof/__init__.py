"""Proof that seckill_rpc is right, for `paymesh audit` and `paymesh explain`, which find these
functions by name. Reads only.
"""

from seckill_rpc.proof.audit import activities_page, units_of, units_page, violations
from seckill_rpc.proof.stock import stock_violations
from seckill_rpc.proof.story import find_order, other_stories, story

__all__ = [
    "activities_page",
    "find_order",
    "other_stories",
    "stock_violations",
    "story",
    "units_of",
    "units_page",
    "violations",
]
