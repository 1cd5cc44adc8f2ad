"""A wallet: what a buyer has with us in one currency. It never goes below zero, and every change of
it is an entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mesh.money import Money

# the column holds nine times as much: room for top-ups that are under way at once
BALANCE_MINOR_MAX = 10**18


class EntryKind(StrEnum):
    """Why a wallet changed."""

    TOP_UP = "TOP_UP"  # paid in through a channel
    SPENT = "SPENT"  # an order was paid with it
    REFUNDED = "REFUNDED"  # such a payment went back


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """A balance. `version` counts its changes; `updated_at` is None when there was none."""

    merchant_id: str
    user_id: str
    balance: Money
    version: int
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WalletEntry:
    """One change. `amount` is negative for money that left; `seq` is the wallet's version after it;
    `refund_id` is "" without one.
    """

    entry_id: str
    merchant_id: str
    user_id: str
    seq: int
    kind: EntryKind
    amount: Money
    balance_after: Money
    payment_id: str
    refund_id: str
    created_at: datetime
