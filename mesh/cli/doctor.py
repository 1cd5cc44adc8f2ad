"""`paymesh doctor`: looks for what keeps the mesh from running well, and says what to do."""

from __future__ import annotations

import asyncio
import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mesh.cli import checks
from mesh.cli.checks import Finding, Level
from mesh.cli.options import installation_option, load_settings
from mesh.clock import SystemClock
from mesh.supervisor.installation import Installation
from mesh.supervisor.plan import DEFAULT_PORTS, SERVERS

FILE_COLUMNS = 180  # a file is as wide as the text
_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red"}


@click.command()
@installation_option
def doctor(installation: Installation) -> None:
    """Looks for what keeps the mesh from running well. Exits 1 when something does."""
    findings = asyncio.run(_examine(installation))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "what", "seen", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        table.add_row(f"[{_COLOURS[finding.level]}]{finding.level}[/]", *map(escape, (finding.what, finding.fact, finding.advice)))
    Console(highlight=False, width=None if sys.stdout.isatty() else FILE_COLUMNS).print(table)
    if any(finding.level is Level.FAILURE for finding in findings):
        raise SystemExit(1)


async def _examine(installation: Installation) -> list[Finding]:
    common = load_settings(var_dir=installation.var_dir)
    services = {service: load_settings(service, var_dir=installation.var_dir) for service in DEFAULT_PORTS}
    running = installation.running()
    now = SystemClock().now()
    findings = [*checks.check_python(), *checks.check_installation(installation), *checks.check_ports(services, running), *checks.check_clock(now)]
    for group in await asyncio.gather(
            checks.check_redis(common.redis_url or (running.redis_url if running else None), now),
            *(checks.check_database(service, services[service].database_url, now) for service in SERVERS),
            checks.check_consul(common, running), checks.check_health(services, running)):
        findings += group
    return findings
