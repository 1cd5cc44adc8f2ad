"""An order of an activity as seckill_rpc keeps it: one unit for one buyer. A refusal is a row too,
so every delivery of a click and every ticket gets the same answer for ever (docs/protocols.md
5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mesh.state_machine import Described, StateMachine


class UnitState(Described):
    """What became of an admitted click."""

    LIVE = "LIVE", "the buyer holds a unit"
    RETURNED = "RETURNED", "the unit went back: not paid in time, or cancelled"
    REFUSED = "REFUSED", "there was no unit, or order_rpc refused the order for good"


# A row is written LIVE or REFUSED and changes once at most.
UNIT_STATES = StateMachine(
    "Order of an activity",
    UnitState,
    (
        (
            UnitState.LIVE,
            "not paid in time, or cancelled: the unit is sold again",
            UnitState.RETURNED,
        ),
        (
            UnitState.LIVE,
            "order_rpc can never write the order: the unit is sold again",
            UnitState.REFUSED,
        ),
    ),
    introduction="What became of a click that was admitted: a row, written once. A refusal is a "
    "row too, so that every answer about it is one.",
)


class Verdict(StrEnum):
    """What the finish script is told about an entry of the admission queue; the values are its
    letters.
    """

    LIVE = "L"  # the row is LIVE
    REFUSED = "R"  # the row is REFUSED or RETURNED: the unit goes back to the stock
    # refused because the database is sold out: the unit never existed, nothing goes back
    PHANTOM = "P"
    # refused because the buyer holds a LIVE order that Redis has forgotten: the unit stays taken,
    # for that order
    DUPLICATE = "D"


class BuyerStatus(StrEnum):
    """What a buyer is told about a product: the value of `seckill:result:{userId}:{skuId}` in Redis
    and of `status` on the wire.
    """

    QUEUED = "0"  # a click of the buyer is in the admission queue
    HOLDER = "1"  # the buyer holds a live order
    NEITHER = "2"  # neither


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOrder:
    """One row. `slot` is 1..limit while LIVE, else None."""

    order_id: str
    activity_id: str
    user_id: str
    request_id: str
    slot: int | None
    state: UnitState
    batch_id: int
    epoch: int
    order_ready: bool
    created_at: datetime
    updated_at: datetime
