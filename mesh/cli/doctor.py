"""`paymesh doctor`: looks for what keeps the mesh from running well, and says what to do."""

from __future__ import annotations

import asyncio

import click

from mesh.cli import checks
from mesh.cli.checks import Finding, Level
from mesh.cli.options import installation_option, load_settings
from mesh.cli.terminal import Terminal, shown, table
from mesh.clock import SystemClock
from mesh.supervisor.installation import Installation
from mesh.supervisor.plan import DEFAULT_PORTS, SERVERS

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red"}


@click.command()
@installation_option
def doctor(installation: Installation) -> None:
    """Looks for what keeps the mesh from running well. Exits 1 when something does."""
    findings = asyncio.run(_examine(installation))
    rows = table("", "what", "seen", "what to do")
    for finding in findings:
        rows.add_row(f"[{_COLOURS[finding.level]}]{finding.level}[/]", *map(shown, (finding.what, finding.fact, finding.advice)))
    Terminal().show(rows)
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
