"""`paymesh doctor`: says what is safe, what is unsafe and what is not there, and what to do about
it.
"""

from __future__ import annotations

import asyncio
import os

import click

from mesh.clock import SystemClock
from mesh.settings import MeshSettings
from payment_rpc.settings import PaymentSettings
from paymesh_cli import checks, safety
from paymesh_cli.account_key_files import check_account_keys
from paymesh_cli.channel_clocks import check_channel_clocks
from paymesh_cli.findings import Finding, Level
from paymesh_cli.options import installation_option
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.supervisor.plan import DEFAULT_PORTS, SERVERS
from paymesh_cli.terminal import Terminal, shown, table

_COLOURS = {
    Level.OK: "green",
    Level.WARNING: "yellow",
    Level.UNSAFE: "bold red",
    Level.FAILURE: "bold red",
}


@click.command()
@installation_option
def doctor(installation: Installation) -> None:
    """Says what is safe, what is unsafe and what is not there. Exits 1 when something is unsafe or
    not there.
    """
    findings = asyncio.run(_examine(installation))
    rows = table("", "what", "seen", "what to do", whole=("",))
    for finding in findings:
        rows.add_row(
            f"[{_COLOURS[finding.level]}]{finding.level}[/]",
            *map(shown, (finding.what, finding.fact, finding.advice)),
        )
    Terminal().show(rows)
    bad = sum(finding.level in {Level.UNSAFE, Level.FAILURE} for finding in findings)
    if bad:
        click.echo(f"{bad} of {len(findings)} points are unsafe or not there")
        raise SystemExit(1)


async def _examine(installation: Installation) -> list[Finding]:
    """One check after the other: on a busy machine, checks that run side by side wait for each
    other and call that a failure.
    """
    settings, findings = safety.read_all(installation.var_dir)
    findings += safety.check_variables(os.environ)
    findings += safety.check_production(settings)
    findings += safety.check_limits(settings)
    findings += safety.check_certificates(settings, SystemClock().now())
    services: dict[str, MeshSettings] = {
        service: settings[service] for service in DEFAULT_PORTS if service in settings
    }
    common = next(iter(settings.values()), None)
    running = installation.running()
    now = SystemClock().now()
    findings += [
        *checks.check_python(),
        *checks.check_installation(installation),
        *checks.check_ports(services, running),
        *checks.check_clock(now),
    ]
    redis = next(
        (one.redis_url for one in (settings.get("seckill_rpc"), common) if one and one.redis_url),
        None,
    )
    findings += await checks.check_redis(
        redis or (running.redis_url if running else None), SystemClock().now()
    )
    for service in SERVERS:
        if service in settings:
            findings += await checks.check_database(
                service, settings[service].database_url, SystemClock().now()
            )
    of_payments = settings.get("payment_rpc")
    if isinstance(of_payments, PaymentSettings):
        findings += await check_account_keys(of_payments, installation)
        findings += await check_channel_clocks(of_payments, installation)
    if common:
        findings += await checks.check_consul(common, running)
    findings += await checks.check_health(services, running)
    return findings
