"""What seckill_rpc says about a ticket that a buyer shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketOrder:
    """The order of a ticket. `is_coming`: it is here, or will be."""

    merchant_id: str
    order_id: str
    user_id: str
    is_coming: bool
