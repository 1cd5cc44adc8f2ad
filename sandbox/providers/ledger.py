"""Keeps what money really moved: the oracle of tests. Faults never alter it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mesh.clock import Clock
from mesh.money import Money
from mesh.times import rfc3339


class MoneyKind(StrEnum):
    """What happened to money."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"  # an authorization, or its rest, was given back
    REFUND = "refund"
    REFUND_REVERSED = "refund_reversed"  # a refund that had left came back
    DISPUTE = "dispute"
    DISPUTE_REVERSED = "dispute_reversed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One movement.

    Attributes:
        ref: the provider's id of what moved.
        own_id: the shop's id as the provider got it; "" when it got none.
    """

    kind: MoneyKind
    ref: str
    own_id: str
    money: Money
    at: datetime

    def shown(self) -> dict[str, Any]:
        """The movement as JSON; `amount_minor` has the digits of ISO 4217."""
        return {
            "kind": self.kind.value,
            "ref": self.ref,
            "own_id": self.own_id,
            "amount": self.money.format(),
            "amount_minor": self.money.minor,
            "currency": self.money.currency,
            "at": rfc3339(self.at),
        }


class MoneyLog:
    """All movements, in order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._movements: list[Movement] = []

    def record(self, kind: MoneyKind, *, ref: str, own_id: str, money: Money) -> None:
        """Appends a movement that happens now."""
        self._movements.append(
            Movement(kind=kind, ref=ref, own_id=own_id, money=money, at=self._clock.now())
        )

    @property
    def movements(self) -> tuple[Movement, ...]:
        """All movements, oldest first."""
        return tuple(self._movements)
