"""What a service tells `paymesh audit` and `paymesh explain` about itself.

Each service with a database has a package `<service>.audit` with a `ServiceAudit` named `AUDIT`.
`queries` has the checks that hold for any table, `explain` what a person is told of an order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import MetaData

from mesh.audit.explain import Explanation
from mesh.db import Database

FOUND_MAX = 100  # per check: a person looks at the first, not at the thousandth
SETTLING = timedelta(minutes=10)  # a message may take this long without anything being wrong
UNDELIVERED = timedelta(days=1)  # as long as an upstream may be away
OVERDUE = timedelta(minutes=10)  # as late as a worker may be
TenantKey = tuple[str, str]  # merchant_id, and an id that is unique within the merchant


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that does not hold: the name of the check, what it is about, one sentence."""

    check: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTolerance:
    """How much may be unfinished. `strict` is for a system at rest: nothing may. `events_wait` is
    for a service without Redis: nobody publishes its events, they stay in the outbox until there is
    one."""

    now: datetime
    strict: bool
    events_wait: bool = False

    def before(self, limit: timedelta) -> datetime:
        """What was due before this moment is late."""
        return self.now if self.strict else self.now - limit


async def nothing_else(_db: Database, _name: str) -> Mapping[TenantKey, Explanation]:
    """For a service that explains orders only."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAudit:
    """What the operator's tool asks a service with a database.

    `find_orders` returns the orders that a name may mean, `explain_order` what the service knows
    about one (None: nothing), `explain_others` what it knows under this name that is no order.
    `evidence` names the tables that are only ever added to.
    """

    metadata: MetaData
    evidence: frozenset[str]
    violations: Callable[[Database, AuditTolerance], AsyncIterator[Violation]]
    find_orders: Callable[[Database, str], Awaitable[Iterable[TenantKey]]]
    explain_order: Callable[[Database, TenantKey], Awaitable[Explanation | None]]
    explain_others: Callable[[Database, str], Awaitable[Mapping[TenantKey, Explanation]]] = (
        nothing_else
    )
