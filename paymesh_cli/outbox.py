"""`paymesh outbox`: what services have not told each other yet, and sending it once more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import click

from mesh import outbox as messages
from mesh.clock import SystemClock
from mesh.db import Database
from mesh.errors import MeshError
from mesh.outbox import STATES, MessageRow
from paymesh_cli.databases import open_databases
from paymesh_cli.options import installation_option, services_option
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown, table

_TIME = "%Y-%m-%d %H:%M:%S"
_COLOURS = {"NEW": "yellow", "DONE": "green", "DEAD": "bold red"}
T = TypeVar("T")


@click.group()
def outbox() -> None:
    """Lists messages between services and sends them once more."""


@outbox.command("list")
@installation_option
@click.option("--state", type=click.Choice(STATES), help="Only these.  [default: what is not DONE]")
@services_option
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Per service, oldest first.",
)
def list_messages(
    installation: Installation, *, state: str | None, services: tuple[str, ...], limit: int
) -> None:
    """Lists what services have not told each other yet. Times are UTC."""
    wanted = (state,) if state else ("DEAD", "NEW")

    async def read(databases: Mapping[str, Database]) -> dict[str, list[MessageRow]]:
        return {
            service: await databases[service].read(
                messages.list_messages, states=wanted, limit=limit
            )
            for service in services
        }

    rows = table(
        "service",
        "state",
        "event",
        "to",
        "what",
        "about",
        "attempts",
        "next attempt",
        "last error",
        whole=("service", "state", "event", "about", "next attempt"),
    )
    for service, found in _with_databases(installation, read).items():
        for row in found:
            rows.add_row(
                service,
                f"[{_COLOURS[row.state]}]{row.state}[/]",
                shown(row.event_id),
                shown(row.destination),
                shown(row.tag),
                shown(row.aggregate_id),
                str(row.attempts),
                row.due_at.strftime(_TIME) if row.state == "NEW" else "",
                shown(row.last_error),
            )
    console = Terminal()
    if rows.row_count:
        console.show(rows)
    else:
        console.print("nothing")


@outbox.command()
@installation_option
@click.argument("event_id")
def replay(installation: Installation, *, event_id: str) -> None:
    """Sends a message once more, DEAD or DONE. Its receiver knows it by its id, so what it did is
    not done twice; the relay of the service sends.
    """
    now = SystemClock().now()

    async def revive(databases: Mapping[str, Database]) -> str | None:
        for service, db in databases.items():
            if await db.run(messages.replay, event_id=event_id, now=now):
                return service
        return None

    service = _with_databases(installation, revive)
    if service is None:
        raise click.ClickException(
            f"no service has a message {event_id}; what was delivered is purged after a while "
            f"(DELIVERED_RETENTION_DAYS)"
        )
    click.echo(f"{service} sends {event_id} once more")


def _with_databases(
    installation: Installation, work: Callable[[dict[str, Database]], Awaitable[T]]
) -> T:
    async def run() -> T:
        async with open_databases(installation) as databases:
            return await work(databases)

    try:
        return asyncio.run(run())
    except MeshError as problem:
        raise click.ClickException(problem.message) from None
