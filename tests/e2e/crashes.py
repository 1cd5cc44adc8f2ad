"""Deaths of a service in the middle of its work, and what became of it: one `Scenario` per crash
point, each run by kill -9 and by SIGTERM.

Kept true by every run: the process died at the point and in the way that was asked for; within
REST_SECONDS of its return nothing is unfinished in any database, and the strict audit of the whole
mesh finds nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any

import httpx
from sqlalchemy import Connection, Engine, create_engine, text

import merchant_rpc.tables
import order_rpc.tables
import payment_rpc.tables
from mesh.audit import AuditTolerance
from mesh.clock import SystemClock
from mesh.db import Database
from mesh.secret_files import read_secret
from paymesh_cli.audit.parts import audit_databases
from tests.e2e.mesh_processes import Answer, MeshProcesses, Person, wait_until
from tests.support.databases import open_patiently

SERVICES = ("payment_rpc", "order_rpc", "merchant_rpc")
# Real times, scaled down: the lease of a payment attempt is 20 s otherwise, workers look every
# second. The lease still covers the channel's timeout.
TIMES = {
    "PAYMENT_RPC_ATTEMPT_LEASE_SECONDS": "1.5",
    "PAYMENT_RPC_CHANNEL_TIMEOUT_SECONDS": "1.4",
    "PAYMENT_RPC_SCAN_INTERVAL_SECONDS": "0.1",
    "ORDER_RPC_SCAN_INTERVAL_SECONDS": "0.1",
    "SANDBOX_SLOW_SECONDS": "6",
    # quick, not safe
    "MERCHANT_RPC_PASSWORD_MEMORY_MIB": "1",
    "MERCHANT_RPC_PASSWORD_ROUNDS": "1",
}
# the sandbox answers after a tenth of its slow_seconds: longer than a server that stops drains
SLOW_PRICE = "77.14"
# from the return of the process: the scaled limit of every state that is not final
REST_SECONDS = 20.0
DEATH_SECONDS = 20.0
CLAIM_MILLISECONDS = 60_000  # longer than a relay's claim

# Rows that somebody still has to do something about. An order that waits for its buyer is not one
# of them.
UNFINISHED = {
    "payment_rpc": {
        "payment": "SELECT payment_id, state FROM payment WHERE state NOT IN ('SUCCESS', "
        "'FAILED', 'CLOSED', 'LATE_REFUNDED')",
        "attempt": "SELECT attempt_id, state FROM attempt WHERE state NOT IN ('CAPTURED', "
        "'DECLINED', 'TECH_FAILED', 'NOT_ATTEMPTED', 'CLOSED')",
        "refund": "SELECT refund_id, state FROM refund WHERE state NOT IN ('SUCCESS', 'FAILED', "
        "'REVERSED', 'CANCELED')",
        "receipt": "SELECT resource_id, method FROM receipt WHERE state <> 'DONE'",
        "outbox": "SELECT tag, state, last_error FROM outbox WHERE state <> 'DONE'",
    },
    "order_rpc": {
        "order": "SELECT order_id, state FROM orders "
        "WHERE state NOT IN ('PENDING_PAYMENT', 'PAID', 'SHIPPED', 'COMPLETED', 'CANCELLED', "
        "'REFUNDED')",
        "refund": "SELECT request_id, state FROM refund_request WHERE state NOT IN ('SUCCEEDED', "
        "'FAILED', 'REJECTED', 'BOUNCED')",
        "receipt": "SELECT resource_id, method FROM receipt WHERE state <> 'DONE'",
        "outbox": "SELECT tag, state, last_error FROM outbox WHERE state <> 'DONE'",
    },
    "merchant_rpc": {"outbox": "SELECT tag, state, last_error FROM outbox WHERE state <> 'DONE'"},
}
_TABLES: dict[str, ModuleType] = {
    "payment_rpc": payment_rpc.tables,
    "order_rpc": order_rpc.tables,
    "merchant_rpc": merchant_rpc.tables,
}
# What a gateway answers well as soon as it reaches the service.
REACHED_BY = {
    "payment_rpc": "/api/v1/wallet",
    "order_rpc": "/api/v1/products/{sku_id}",
    "merchant_rpc": "/api/v1/merchants",
}


class Mode(StrEnum):
    """How a process ends at a point."""

    KILL = "kill"  # kill -9
    TERM = "term"  # SIGTERM: it may finish what it does, and ends by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens when `service` dies at `point` while `story` is told; `variant` tells stories of
    one point apart.
    """

    point: str
    variant: str
    service: str
    story: Callable[[Crash], None]

    @property
    def name(self) -> str:
        return f"{self.point}-{self.variant}" if self.variant else self.point


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One line of the table at the end: a scenario that held, and how long after its return nothing
    was unfinished any more.
    """

    scenario: Scenario
    mode: Mode
    dialect: str
    rest_seconds: float


RUNS: list[Run] = []


class CrashMesh:
    """The mesh, of which one service after the other dies, and the databases of these."""

    def __init__(self, mesh: MeshProcesses, dialect: str) -> None:
        self.processes = mesh
        self.dialect = dialect
        self.books = mesh.books
        self._engines: dict[str, Engine] = {
            service: create_engine(_blocking(mesh.plan.database_urls[service]))
            for service in SERVICES
        }
        self._people = 0
        self.shops = 0
        self.sku_id = self.slow_sku_id = ""

    def start(self) -> None:
        self.processes.start()
        self.processes.wait_ready()
        self.sku_id = self.processes.product(available=1_000_000)
        self.slow_sku_id = self.processes.product(price=SLOW_PRICE)
        self.clerk = self.processes.person("clerk", roles=["merchant"])
        self.operator = self.processes.person("root", roles=["admin"])

    def close(self) -> None:
        for engine in self._engines.values():
            engine.dispose()
        self.processes.close()

    def somebody(self) -> Person:
        """A buyer whom nobody has seen before."""
        self._people += 1
        return self.processes.person(f"buyer-{self._people}")

    def execute(self, service: str, statement: str, **values: Any) -> None:
        """One statement behind the back of a service: time passes for a row."""
        with self._engines[service].begin() as connection:
            connection.execute(text(statement), values)

    def let_claims_end(self) -> None:
        """A minute passes for what lies in the outboxes: the times are moved instead of waited
        for.
        """
        for service in SERVICES:
            self.execute(
                service,
                "UPDATE outbox SET due_at = due_at - :pause WHERE state = 'NEW'",
                pause=CLAIM_MILLISECONDS,
            )

    def unfinished(self) -> list[str]:
        """Every row that is not final, except orders that wait for their buyer."""
        found = []
        for service, engine in self._engines.items():
            with engine.connect() as connection:
                found += [
                    f"{service}: {kind} {' '.join(map(str, row))}"
                    for kind, row in _rows(connection, UNFINISHED[service])
                ]
        return found

    def violations(self) -> list[str]:
        """What `paymesh audit --strict` finds."""
        return asyncio.run(self._violations())

    async def _violations(self) -> list[str]:
        installation, plan = self.processes.installation, self.processes.plan
        async with AsyncExitStack() as stack:
            databases = {
                service: await stack.enter_async_context(
                    _opened(service, plan.database_urls[service])
                )
                for service in SERVICES
            }
            tolerance = AuditTolerance(now=SystemClock().now(), strict=True)
            return [
                f"{where}: {found.check} {found.subject}: {found.detail}"
                async for where, found in audit_databases(
                    databases,
                    tolerance,
                    sandbox_url=plan.running.urls["sandbox"],
                    api_key=read_secret(installation.secret_file("sandbox_api")).decode(),
                )
            ]


class Crash:
    """One scenario under way: a buyer, an order's key, and a service that will die."""

    def __init__(self, mesh: CrashMesh, scenario: Scenario, mode: Mode) -> None:
        self.mesh = mesh
        self.mode = mode
        self.books = mesh.books
        self.clerk = mesh.clerk
        self.buyer = mesh.somebody()
        self.key = f"{scenario.name}-{mode}".replace(" ", "-")
        self._scenario = scenario
        self._back_at: float | None = None
        self._known = len(self.books.transactions())

    @property
    def point(self) -> str:
        return self._scenario.point

    @property
    def is_kill(self) -> bool:
        return self.mode is Mode.KILL

    def run(self) -> Run:
        """Tells the story, and waits until all is at rest.

        Raises:
            AssertionError: the process did not die at the point, or something is wrong after it.
        """
        self._scenario.story(self)
        assert self._back_at is not None, "nothing was struck"
        rest_seconds = self._rest()
        return Run(
            scenario=self._scenario,
            mode=self.mode,
            dialect=self.mesh.dialect,
            rest_seconds=rest_seconds,
        )

    def order(self, *, slow: bool = False) -> dict[str, Any]:
        """An order of 100.00, or of an amount about which the channel takes its time."""
        return self.buyer.order(self.mesh.slow_sku_id if slow else self.mesh.sku_id)

    def strike(self, call: Callable[[], Any], *, death_seconds: float = DEATH_SECONDS) -> Any:
        """Makes a call during which the process dies at the point, and lets it come back. Returns
        what the caller heard, None for nothing.

        A process that is asked to stop ends its calls first: their callers hear a result.
        """
        wait_until(lambda: not self._deliveries_under_way(), "quiet outboxes")
        mesh, service = self.mesh.processes, self._scenario.service
        mesh.arm(service, f"{self._scenario.point}={self.mode}")
        answer = attempt(call) if self.is_kill else call()
        process = mesh.running[service]
        code = process.wait(death_seconds)
        assert code == (-signal.SIGKILL if self.is_kill else 0), (
            f"{service} ended with {code}\n{process.log_tail()}"
        )
        if not self.is_kill and isinstance(answer, Answer):
            assert answer.status < 500, (
                f"{service} was asked to stop and broke a call: {answer.text}"
            )
        self.mesh.let_claims_end()
        mesh.start(service)
        mesh.wait_ready(service)
        wait_until(self._is_reachable, f"gateway that reaches {service}")
        self._back_at = time.monotonic()
        return answer

    def again(self, call: Callable[[], Answer | None]) -> Answer:
        """The same call, with the same key, until it has a final answer."""

        def answered() -> Answer | None:
            answer = attempt(call)
            return (
                answer
                if answer is not None and answer.status < 500 and answer.status != 202
                else None
            )

        return wait_until(answered, "final answer to the same call")

    def payments(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All payments of an order."""
        answer = self.again(lambda: self.buyer.get("/api/v1/payments", order_id=order["order_id"]))
        assert answer.status == 200, answer.text
        return list(answer.data["payments"])

    def new_transactions(self) -> list[dict[str, Any]]:
        """What the channel was asked for in this scenario."""
        return self.books.transactions()[self._known :]

    def captures(self) -> list[dict[str, Any]]:
        return [
            transaction
            for transaction in self.new_transactions()
            if transaction["status"] == "CAPTURED"
        ]

    def _rest(self) -> float:
        problems: list[str] = []

        def at_rest() -> bool:
            problems[:] = self.mesh.unfinished() or self.mesh.violations()
            return not problems

        try:
            wait_until(at_rest, "rest", timeout_seconds=REST_SECONDS)
        except AssertionError:
            raise AssertionError(
                "\n".join([f"not at rest after {REST_SECONDS} s:", *problems])
            ) from None
        return time.monotonic() - (self._back_at or 0)

    def _deliveries_under_way(self) -> list[str]:
        return [found for found in self.mesh.unfinished() if ": outbox " in found]

    def _is_reachable(self) -> bool:
        service = self._scenario.service
        caller = self.mesh.operator if service == "merchant_rpc" else self.buyer
        path = REACHED_BY[service].format(sku_id=self.mesh.sku_id)
        answer = attempt(lambda: caller.get(path))
        return answer is not None and answer.status == 200


def attempt(call: Callable[[], Any]) -> Any:
    """What a call says, None when its connection breaks."""
    with contextlib.suppress(httpx.HTTPError):
        return call()
    return None


def table(runs: list[Run]) -> list[str]:
    """Points x modes x runs, one line per scenario: the seconds until everything was at rest
    again.
    """
    columns = sorted(
        {(run.dialect, run.mode) for run in runs},
        key=lambda column: (column[0] != "sqlite", column[1]),
    )
    scenarios = list(dict.fromkeys(run.scenario.name for run in runs))
    width = max(map(len, scenarios), default=0)
    lines = [
        "  ".join(
            [
                f"{'at rest after, in seconds':{width}}",
                *(f"{dialect} {mode}".rjust(12) for dialect, mode in columns),
                "runs".rjust(4),
            ]
        )
    ]
    for name in scenarios:
        own = [run for run in runs if run.scenario.name == name]
        cells = []
        for dialect, mode in columns:
            seconds = [
                run.rest_seconds for run in own if (run.dialect, run.mode) == (dialect, mode)
            ]
            cells.append((f"{max(seconds):.1f}" if seconds else "").rjust(12))
        lines.append("  ".join([f"{name:{width}}", *cells, str(len(own)).rjust(4)]))
    points = len({run.scenario.point for run in runs})
    return [*lines, f"{len(runs)} runs of {len(scenarios)} scenarios at {points} points"]


def _blocking(url: str) -> str:
    return url.replace("sqlite+aiosqlite", "sqlite").replace("mysql+aiomysql", "mysql+pymysql")


def _rows(connection: Connection, queries: Mapping[str, str]) -> list[tuple[str, Any]]:
    return [
        (kind, row) for kind, query in queries.items() for row in connection.execute(text(query))
    ]


@contextlib.asynccontextmanager
async def _opened(service: str, url: str) -> AsyncIterator[Database]:
    db = open_patiently(url, _TABLES[service].metadata, pool_size=2)
    try:
        yield db
    finally:
        await db.close()
