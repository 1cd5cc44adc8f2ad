"""`paymesh audit`: proves that money, orders and stock agree, within each service, across their
databases and with the channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path

import click
from pydantic import ValidationError
from rich.table import Table

from mesh.audit import AuditTolerance, Violation
from mesh.audit.queries import waiting_events
from mesh.clock import SystemClock
from mesh.errors import MeshError
from paymesh_cli.audit.parts import audit_databases
from paymesh_cli.databases import open_databases
from paymesh_cli.options import installation_option, load_settings
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.supervisor.redis_server import redis_config
from paymesh_cli.terminal import Terminal, shown, shown_progress, table
from seckill_rpc.settings import SeckillSettings


@click.command()
@installation_option
@click.option(
    "--strict",
    is_flag=True,
    help="For a system at rest: nothing may be unfinished, no message undelivered.",
)
@click.option(
    "--sandbox-url",
    envvar="PAYMENT_RPC_SANDBOX_URL",
    show_envvar=True,
    help="Where the sandbox answers.  [default: that of the mesh that runs on --var-dir; without "
    "one the channel is not compared]",
)
@click.option(
    "--sandbox-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="PAYMENT_RPC_SANDBOX_API_KEY_FILE",
    show_envvar=True,
    help="Our key there.  [default: that of the installation]",
)
def audit(
    installation: Installation,
    *,
    strict: bool,
    sandbox_url: str | None,
    sandbox_key_file: Path | None,
) -> None:
    """Proves that money, orders and stock agree. Exits 1 when something does not hold, 2 when it
    cannot tell.

    Reads the databases, Redis where there is one, and asks the channel by HTTP for its captures and
    refunds of every day. What was found before the channel turned out to be away is printed all the
    same.
    """
    console = Terminal()
    running = installation.running()
    url = sandbox_url or (running.urls.get("sandbox") if running else None)
    found: list[tuple[str, Violation]] = []
    try:
        key_file = sandbox_key_file or installation.secret_file("sandbox_api")
        api_key = key_file.read_text().strip() if url else ""
        redis_url = load_settings("seckill_rpc", var_dir=installation.var_dir).redis_url or (
            running.redis_url if running else ""
        )
        with shown_progress(console):
            waiting = asyncio.run(
                _audit(
                    installation,
                    found,
                    strict=strict,
                    sandbox_url=url or "",
                    api_key=api_key,
                    redis_url=redis_url,
                )
            )
    except (MeshError, OSError) as problem:
        if found:
            console.show(_table(found))
        console.print(f"[bold red]cannot tell[/] {shown(problem)}", soft_wrap=True)
        raise SystemExit(2) from None
    _print_unseen(console, url=url, redis_url=redis_url, waiting=waiting)
    if not found:
        console.print(f"[bold green]everything holds[/]{' at rest' if strict else ''}")
        return
    console.show(_table(found))
    console.print(f"[bold red]{len(found)} things do not hold[/]")
    raise SystemExit(1)


def _print_unseen(
    console: Terminal, *, url: str | None, redis_url: str, waiting: Mapping[str, int]
) -> None:
    """Names what was not looked at."""
    if url is None:
        console.print(
            "[yellow]the channel was not compared: no mesh is running here; name it with "
            "--sandbox-url[/]"
        )
    if not redis_url:
        console.print(
            "[yellow]Redis was not compared: no mesh is running here; name it with "
            "PAYMESH_REDIS_URL[/]"
        )
    for service, events in waiting.items():
        console.print(
            f"[yellow]{events} events of {service} wait in its outbox: without Redis nobody "
            f"publishes them; if it has one, name it with "
            "PAYMESH_REDIS_URL[/]",
            soft_wrap=True,
        )


def _table(found: Iterable[tuple[str, Violation]]) -> Table:
    rows = table("where", "check", "about", "what", whole=("where", "check", "about"))
    for where, violation in found:
        rows.add_row(
            where, f"[red]{violation.check}[/]", shown(violation.subject), shown(violation.detail)
        )
    return rows


async def _audit(
    installation: Installation,
    found: list[tuple[str, Violation]],
    *,
    strict: bool,
    sandbox_url: str,
    api_key: str,
    redis_url: str,
) -> dict[str, int]:
    """Puts what does not hold into `found`; returns how many events wait at each service without
    Redis.

    Raises:
        Unavailable: a database, Redis or the channel does not answer; `found` has what was found
            before.
    """
    async with open_databases(installation) as databases:
        without_redis = {service for service in databases if not _has_redis(service, installation)}
        tolerance = AuditTolerance(now=SystemClock().now(), strict=strict)
        async for violation in audit_databases(
            databases,
            tolerance,
            sandbox_url=sandbox_url,
            api_key=api_key,
            redis_url=redis_url,
            without_redis=without_redis,
            close_after=_close_after(installation),
        ):
            found.append(violation)  # noqa: PERF401  what was found before a fault is kept
        waiting = {
            service: await waiting_events(databases[service]) for service in sorted(without_redis)
        }
        return {service: events for service, events in waiting.items() if events}


def _close_after(installation: Installation) -> timedelta:
    """How long after its end seckill_rpc closes a flash sale by itself.

    Raises:
        click.ClickException: its settings are not usable.
    """
    try:
        settings = SeckillSettings(service="seckill_rpc", var_dir=installation.var_dir)
    except ValidationError as refusal:
        names = ", ".join(
            "SECKILL_RPC_" + "_".join(map(str, error["loc"])).upper() for error in refusal.errors()
        )
        raise click.ClickException(f"not usable: {names}") from None
    return timedelta(seconds=settings.close_after_end_seconds)


def _has_redis(service: str, installation: Installation) -> bool:
    """Whether a service publishes events: by its settings, else as the mesh here runs, or ran
    last.
    """
    running = installation.running()
    of_mesh = running.redis_url != "" if running else redis_config(installation.redis_dir).exists()
    return bool(load_settings(service, var_dir=installation.var_dir).redis_url) or of_mesh
