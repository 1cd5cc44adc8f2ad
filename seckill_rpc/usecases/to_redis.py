"""What must reach Redis: units that came back and are to be sold again."""

from __future__ import annotations

from datetime import datetime

from mesh.ids import Ids
from mesh.outbox import Message
from seckill_rpc.domain.activity import Activity
from seckill_rpc.domain.order import UnitOrder

REDIS = "redis"
GIVE_BACK = "GiveBack"


def give_back_message(order: UnitOrder, activity: Activity, *, ids: Ids, at: datetime) -> Message:
    """Sells the unit of an order again. `activity`: the row, read under its lock in the transaction that took the unit back."""
    raise NotImplementedError
