"""Tickets of flash sales, as far as orders know them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketOrder:
    """The order that a ticket of seckill_rpc stands for. `is_coming`: it is here, or will be."""

    merchant_id: str
    order_id: str
    user_id: str
    is_coming: bool
