"""`paymesh stats`: what belongs to the figures of orders."""

from __future__ import annotations

import asyncio

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mesh.clock import SystemClock
from mesh.errors import MeshError
from order_rpc.usecases.statistics import Statistics
from paymesh_cli.databases import open_databases
from paymesh_cli.options import installation_option
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown


@click.group()
def stats() -> None:
    """The figures of orders by day."""


@stats.command()
@installation_option
def rebuild(installation: Installation) -> None:
    """Counts every order again and adds what the figures lack, while orders go on. Run one at a
    time.
    """
    console = Terminal()
    try:
        wrong = asyncio.run(_rebuild(installation, console))
    except MeshError as problem:
        console.print(f"[bold red]cannot count[/] {shown(problem)}", soft_wrap=True)
        raise SystemExit(2) from None
    console.print(
        f"{wrong} figures were wrong and are right now" if wrong else "every figure was right"
    )


async def _rebuild(installation: Installation, console: Console) -> int:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    async with open_databases(installation) as databases:
        statistics = Statistics(db=databases["order_rpc"], clock=SystemClock())
        with bar:
            task = bar.add_task("orders", total=None)
            return await statistics.rebuild(
                progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
