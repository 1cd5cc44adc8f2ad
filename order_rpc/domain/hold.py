"""Money that a channel holds for an order until its shop captures it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mesh.money import Money


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMoney:
    """What is held, and when payment_rpc lets it go unless it is captured before."""

    amount: Money
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The held money of one payment of an order. As long as it lasts the order does not expire."""

    payment_id: str
    money: HeldMoney
    pay_until: datetime  # the buyer's own deadline, which counts again when the hold ends
