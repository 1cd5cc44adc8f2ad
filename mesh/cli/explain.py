"""`paymesh explain`: one story of an order from all databases, in the order in which it happened,
for whoever has the buyer on the phone. Every id that we print leads to it; flash sales and products
have stories of their own.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack
from typing import Any

import click
from rich.table import Table

from mesh.cli.databases import open_databases
from mesh.cli.options import installation_option
from mesh.cli.terminal import Terminal, shown
from mesh.db import Database
from mesh.errors import MeshError
from mesh.proof import OrderKey
from mesh.story import Line, Next, Story, Who
from mesh.supervisor.installation import Installation

_TIME = "%Y-%m-%d %H:%M:%S"
_COLOURS = {
    Who.ORDER: "cyan",
    Who.DECISION: "cyan",
    Who.PAYMENT: "blue",
    Who.CHANNEL: "magenta",
    Who.LEDGER: "green",
    Who.REFUND: "yellow",
    Who.MESSAGE: "dim",
    Who.PERSON: "bold red",
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
        stories = asyncio.run(_read(installation, name, merchant))
    except MeshError as problem:
        raise click.ClickException(problem.message) from None
    if not stories:
        raise click.ClickException(f"nobody knows {name}")
    if len(stories) > 1:
        raise click.UsageError(_choose(name, sorted(stories)))
    tell(Terminal(), next(iter(stories.values())))


def _choose(name: str, keys: list[OrderKey]) -> str:
    if len({key[0] for key in keys}) == len(keys):
        return (
            f"several tenants have an order {name}: name one with --merchant: "
            f"{', '.join(key[0] for key in keys)}"
        )
    return f"{name} is about several: {', '.join(key[1] for key in keys)}"


async def _read(
    installation: Installation, name: str, merchant: str | None
) -> dict[OrderKey, Story]:
    async with AsyncExitStack() as stack:
        return await read_stories(
            await open_databases(stack, installation), name, merchant=merchant
        )


async def read_stories(
    databases: dict[str, Database], name: str, *, merchant: str | None = None
) -> dict[OrderKey, Story]:
    """The stories of every order that a name may mean, by tenant and order; of a flash sale or a
    product by tenant and its own id.

    Raises:
        Unavailable: a database does not answer.
    """
    # ids are; MariaDB does not compare what its columns cannot hold
    if not name or not name.isascii():
        return {}
    proofs = {service: importlib.import_module(f"{service}.proof") for service in databases}
    keys: set[OrderKey] = set()
    for service, db in databases.items():
        keys |= set(await proofs[service].find_order(db, name))
    stories = {}
    for key in keys:
        if merchant in (None, key[0]):
            parts = [
                await _part(proofs[service], service, db, key) for service, db in databases.items()
            ]
            stories[key] = merge([part for part in parts if part is not None])
    return stories or await _other_stories(databases, proofs, name, merchant)


async def _part(proof: Any, service: str, db: Database, key: OrderKey) -> Story | None:
    """What one service knows; that it cannot be read, where a row is spoilt: the others still tell
    theirs.
    """
    try:
        story: Story | None = await proof.story(db, key)
    except (ArithmeticError, LookupError, TypeError, ValueError) as problem:
        return Story(
            headlines=(
                (
                    f"{service} has a row about it that cannot be read ({problem}); paymesh audit "
                    f"names it."
                ),
            ),
            lines=(),
            nexts=(),
        )
    return story


async def _other_stories(
    databases: dict[str, Database], proofs: dict[str, Any], name: str, merchant: str | None
) -> dict[OrderKey, Story]:
    """Of what is no order."""
    stories: dict[OrderKey, Story] = {}
    for service, db in databases.items():
        if hasattr(proofs[service], "other_stories"):
            stories |= {
                key: story
                for key, story in (await proofs[service].other_stories(db, name)).items()
                if merchant in (None, key[0])
            }
    return stories


def merge(parts: list[Story]) -> Story:
    """One story of several, in the order in which things happened; the order before its
    payments.
    """
    return Story(
        headlines=tuple(headline for part in reversed(parts) for headline in part.headlines),
        lines=tuple(
            sorted(
                (line for part in parts for line in part.lines),
                key=lambda line: (line.at, line.who),
            )
        ),
        nexts=tuple(sorted((then for part in parts for then in part.nexts), key=_when)),
    )


def tell(console: Terminal, story: Story) -> None:
    """Prints a story."""
    for headline in story.headlines:
        console.print(f"[bold]{shown(headline)}[/]", soft_wrap=True)
    console.print("\nWhat happened")
    console.show(
        _table([(line.at.strftime(_TIME), _by(line), shown(line.text)) for line in story.lines])
    )
    console.print("\nWhat happens next")
    if story.nexts:
        console.show(
            _table(
                [
                    (
                        then.at.strftime(_TIME) if then.at else "[bold red]by hand[/]",
                        "",
                        shown(then.text),
                    )
                    for then in story.nexts
                ]
            )
        )
    else:
        console.print("Nothing: all of it is final.")


def _by(line: Line) -> str:
    return (
        f"[{_COLOURS[line.who]}]{'order' if line.who is Who.DECISION else line.who.name.lower()}[/]"
    )


def _when(then: Next) -> tuple[bool, float]:
    return then.at is not None, then.at.timestamp() if then.at else 0.0


def _table(rows: list[tuple[str, str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid
