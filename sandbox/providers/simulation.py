"""What every simulated provider is built from: a clock that can be moved, deeds that come later,
faults, the money log and the deliveries of notices.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from starlette.types import ASGIApp

from mesh.clock import Clock
from mesh.ids import Ids, UlidIds
from sandbox.providers.faults import Faults
from sandbox.providers.ledger import MoneyLog
from sandbox.providers.webhooks import Deliveries, DeliveryRule

C = TypeVar("C")
Deed = Callable[[], object]  # what it returns is not looked at


class MovableClock:
    """Another clock plus an offset, which only grows."""

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._offset = timedelta(0)

    @property
    def outside(self) -> Clock:
        """The clock of those who talk to the provider: it dates signatures, which expire."""
        return self._base

    def now(self) -> datetime:
        """The present moment of the simulation, aware, in UTC."""
        return self._base.now() + self._offset

    def advance(self, seconds: float) -> None:
        """Moves forward.

        Raises:
            ValueError: a negative number.
        """
        if seconds < 0:
            raise ValueError("the clock only moves forward")
        self._offset += timedelta(seconds=seconds)


class Agenda:
    """Deeds that are due at a moment of the clock: expiries, refunds that end later."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._number = itertools.count()
        self._due: list[tuple[datetime, int, Deed]] = []

    def after(self, seconds: float, deed: Deed) -> None:
        """Does `deed` so many seconds from now."""
        self.at(self._clock.now() + timedelta(seconds=seconds), deed)

    def at(self, moment: datetime, deed: Deed) -> None:
        """Does `deed` at a moment. A deed looks at the state itself and does nothing when it comes
        too late.
        """
        heapq.heappush(self._due, (moment, next(self._number), deed))

    def run_due(self) -> int:
        """Does what is due, oldest first, and what that makes due; returns how many deeds."""
        done = 0
        while self._due and self._due[0][0] <= self._clock.now():
            _, _, deed = heapq.heappop(self._due)
            deed()
            done += 1
        return done


@dataclass(slots=True)
class BillRule:
    """When a provider gives the bill of a day.

    Attributes:
        is_early: also while the day lasts, as far as it goes. No provider in China does that; it
            lets a developer see a bill without waiting for tomorrow.
    """

    is_early: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation(Generic[C]):
    """What a provider's application works with.

    Attributes:
        config: the provider's keys, secrets and addresses, a dataclass of its own.
        base_url: where this provider is reached, without a slash at the end.
        ids: makes identifiers, secrets of the simulation too.
    """

    config: C
    base_url: str
    clock: MovableClock
    agenda: Agenda
    money: MoneyLog
    deliveries: Deliveries
    ids: Ids
    faults: Faults = field(default_factory=Faults)
    bills: BillRule = field(default_factory=BillRule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider(Generic[C]):
    """How one provider is built; its package exports one as `PROVIDER`.

    Attributes:
        config: keys of development, which documentation may print.
        rule: how notices are signed and repeated.
        create_app: the provider's HTTP surface, made with `control.simulated_app`.
    """

    name: str
    config: Callable[[], C]
    rule: Callable[[C, MovableClock], DeliveryRule]
    create_app: Callable[[Simulation[C]], ASGIApp]

    def simulation(self, clock: Clock, *, base_url: str, config: C | None = None) -> Simulation[C]:
        """A fresh, empty simulation.

        Args:
            config: instead of the keys of development.
        """
        movable = MovableClock(clock)
        chosen = self.config() if config is None else config
        return Simulation(
            config=chosen,
            base_url=base_url,
            clock=movable,
            agenda=Agenda(movable),
            money=MoneyLog(movable),
            deliveries=Deliveries(self.rule(chosen, movable), clock=movable),
            ids=UlidIds(movable),
        )
