"""Defines what a service provides to `paymesh audit` and `paymesh explain`.

Each service with a database has a package `<service>.audit` with a `ServiceAudit` named `AUDIT`.
`queries` has the checks for any table, `explain` the report about an order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import MetaData

from mesh.audit.explain import Explanation
from mesh.db import Database

FOUND_MAX = 100  # per check: people read the first ones only
SETTLING = timedelta(minutes=10)  # normal delay of a message
UNDELIVERED = timedelta(days=1)  # tolerated outage of an upstream service
OVERDUE = timedelta(minutes=10)  # tolerated delay of a worker
TenantKey = tuple[str, str]  # merchant_id, and an id that is unique within the merchant


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A violated check: the name of the check, the subject, and one sentence."""

    check: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTolerance:
    """The tolerance for unfinished work. `strict` is for a system at rest: none is allowed.
    `events_wait` is for a service without Redis: its events stay unpublished in the outbox until
    there is one.
    """

    now: datetime
    strict: bool
    events_wait: bool = False

    def before(self, limit: timedelta) -> datetime:
        """The moment before which unfinished due work counts as late."""
        return self.now if self.strict else self.now - limit


async def nothing_else(_db: Database, _name: str) -> Mapping[TenantKey, Explanation]:
    """Default of `explain_others`, for a service that explains orders only."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAudit:
    """The queries of the operator's tool to a service with a database.

    `find_orders` returns the orders that a name may mean. `explain_order` explains one order (None:
    unknown to the service). `explain_others` explains other things with this name. `evidence` names
    the append-only tables.
    """

    metadata: MetaData
    evidence: frozenset[str]
    violations: Callable[[Database, AuditTolerance], AsyncIterator[Violation]]
    find_orders: Callable[[Database, str], Awaitable[Iterable[TenantKey]]]
    explain_order: Callable[[Database, TenantKey], Awaitable[Explanation | None]]
    explain_others: Callable[[Database, str], Awaitable[Mapping[TenantKey, Explanation]]] = (
        nothing_else
    )
