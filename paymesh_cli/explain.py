"""`paymesh explain`: what happened to an order, from all databases, in the order in which it
happened. For support, with the buyer on the phone. Every id that we print leads to it; flash sales
and products are explained too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import click
from rich.table import Table

from mesh.audit import TenantKey
from mesh.audit.explain import Actor, Explanation, PendingStep, TimelineEntry
from mesh.db import Database
from mesh.errors import MeshError
from paymesh_cli.databases import open_databases
from paymesh_cli.options import installation_option
from paymesh_cli.services import AUDITS
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown

_TIME = "%Y-%m-%d %H:%M:%S"
_COLOURS = {
    Actor.ORDER: "cyan",
    Actor.DECISION: "cyan",
    Actor.PAYMENT: "blue",
    Actor.CHANNEL: "magenta",
    Actor.LEDGER: "green",
    Actor.REFUND: "yellow",
    Actor.MESSAGE: "dim",
    Actor.PERSON: "bold red",
}


@click.command()
@installation_option
@click.argument("name", metavar="ID")
@click.option("--merchant", help="Tenant, where several have an order of this id.")
def explain(installation: Installation, *, name: str, merchant: str | None) -> None:
    """Tells what happened to an order and what happens next. Times are UTC.

    ID may be of an order, a payment, an attempt, a refund, a refund request, a callback, an event
    or a message, a number of the channel, a trace id; of a flash sale; or a SKU.
    """
    try:
        found = asyncio.run(_read(installation, name, merchant))
    except MeshError as problem:
        raise click.ClickException(problem.message) from None
    if not found:
        raise click.ClickException(f"nobody knows {name}")
    if len(found) > 1:
        raise click.UsageError(_choose(name, sorted(found)))
    show(Terminal(), next(iter(found.values())))


def _choose(name: str, keys: list[TenantKey]) -> str:
    if len({key[0] for key in keys}) == len(keys):
        return (
            f"several tenants have an order {name}: name one with --merchant: "
            f"{', '.join(key[0] for key in keys)}"
        )
    return f"{name} is about several: {', '.join(key[1] for key in keys)}"


async def _read(
    installation: Installation, name: str, merchant: str | None
) -> dict[TenantKey, Explanation]:
    async with open_databases(installation) as databases:
        return await read_explanations(databases, name, merchant=merchant)


async def read_explanations(
    databases: dict[str, Database], name: str, *, merchant: str | None = None
) -> dict[TenantKey, Explanation]:
    """The explanation of every order that a name may mean, by tenant and order; of a flash sale or
    a product by tenant and its own id.

    Raises:
        Unavailable: a database does not answer.
    """
    # ids are; MariaDB does not compare what its columns cannot hold
    if not name or not name.isascii():
        return {}
    keys: set[TenantKey] = set()
    for service, db in databases.items():
        keys |= set(await AUDITS[service].find_orders(db, name))
    found = {}
    for key in keys:
        if merchant in (None, key[0]):
            parts = [await _part(service, db, key) for service, db in databases.items()]
            found[key] = merge([part for part in parts if part is not None])
    return found or await _explain_others(databases, name, merchant)


async def _part(service: str, db: Database, key: TenantKey) -> Explanation | None:
    """What one service knows; that it cannot be read, where a row is spoilt: the others still tell
    what they know.
    """
    try:
        return await AUDITS[service].explain_order(db, key)
    except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
        headline = (
            f"{service} has a row about it that cannot be read ({problem}); paymesh audit names it."
        )
        return Explanation(headlines=(headline,), timeline=(), pending=())


async def _explain_others(
    databases: dict[str, Database], name: str, merchant: str | None
) -> dict[TenantKey, Explanation]:
    """Of what is no order."""
    return {
        key: explanation
        for service, db in databases.items()
        for key, explanation in (await AUDITS[service].explain_others(db, name)).items()
        if merchant in (None, key[0])
    }


def merge(parts: list[Explanation]) -> Explanation:
    """One explanation of several, in the order in which things happened; the order before its
    payments.
    """
    entries = (entry for part in parts for entry in part.timeline)
    return Explanation(
        headlines=tuple(headline for part in reversed(parts) for headline in part.headlines),
        timeline=tuple(sorted(entries, key=lambda entry: (entry.at, entry.actor))),
        pending=tuple(sorted((step for part in parts for step in part.pending), key=_when)),
    )


def show(console: Terminal, explanation: Explanation) -> None:
    """Prints an explanation."""
    for headline in explanation.headlines:
        console.print(f"[bold]{shown(headline)}[/]", soft_wrap=True)
    console.print("\nWhat happened")
    timeline = explanation.timeline
    console.show(
        _table((entry.at.strftime(_TIME), _by(entry), shown(entry.text)) for entry in timeline)
    )
    console.print("\nWhat happens next")
    if explanation.pending:
        console.show(_table((_due(step), "", shown(step.text)) for step in explanation.pending))
    else:
        console.print("Nothing: all of it is final.")


def _by(entry: TimelineEntry) -> str:
    actor = Actor.ORDER if entry.actor is Actor.DECISION else entry.actor
    return f"[{_COLOURS[entry.actor]}]{actor.name.lower()}[/]"


def _due(step: PendingStep) -> str:
    return step.at.strftime(_TIME) if step.at else "[bold red]by hand[/]"


def _when(step: PendingStep) -> tuple[bool, float]:
    return step.at is not None, step.at.timestamp() if step.at else 0.0


def _table(rows: Iterable[tuple[str, str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid
