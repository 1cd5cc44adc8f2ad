"""`paymesh audit`: proves that money, orders and stock agree, within each service, across their
databases and with the channel.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.table import Table

from mesh.cli.databases import open_databases
from mesh.cli.options import installation_option, load_settings
from mesh.cli.terminal import Terminal, shown, shown_progress, table
from mesh.clock import SystemClock
from mesh.db import Database
from mesh.errors import MeshError
from mesh.progress import begins, looked_at
from mesh.proof import ActivityFacts, Allowance, OrderKey, Violation, compare, compare_sale
from mesh.proof_queries import waiting_events
from mesh.supervisor.installation import Installation
from mesh.supervisor.redis_server import redis_config

PAGE = 2000  # orders in memory at once
LINES = 10_000  # lines of orders that one statement looks through for those of flash sales
# two databases are never read at one moment: what is wrong is wrong twice
SECOND_LOOK_SECONDS = 1.0


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
        api_key = (
            (sandbox_key_file or installation.secret_file("sandbox_api")).read_text().strip()
            if url
            else ""
        )
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
    if not found:
        console.print(f"[bold green]everything holds[/]{' at rest' if strict else ''}")
        return
    console.show(_table(found))
    console.print(f"[bold red]{len(found)} things do not hold[/]")
    raise SystemExit(1)


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
    async with AsyncExitStack() as stack:
        databases = await open_databases(stack, installation)
        without_redis = {service for service in databases if not _has_redis(service, installation)}
        allowance = Allowance(
            now=SystemClock().now(),
            strict=strict,
            sales_close_after=_sales_close_after(installation),
        )
        async for violation in audit_databases(
            databases,
            allowance,
            sandbox_url=sandbox_url,
            api_key=api_key,
            redis_url=redis_url,
            without_redis=without_redis,
        ):
            found.append(violation)  # noqa: PERF401  what was found before a fault is kept
        waiting = {
            service: await waiting_events(databases[service]) for service in sorted(without_redis)
        }
        return {service: events for service, events in waiting.items() if events}


def _sales_close_after(installation: Installation) -> timedelta:
    """How long after its end seckill_rpc closes a flash sale by itself.

    Raises:
        click.ClickException: its settings are not usable.
    """
    settings = importlib.import_module("seckill_rpc.settings").SeckillSettings
    try:
        return timedelta(
            seconds=settings(
                service="seckill_rpc", var_dir=installation.var_dir
            ).close_after_end_seconds
        )
    except ValidationError as refusal:
        names = ", ".join(
            "SECKILL_RPC_" + "_".join(map(str, error["loc"])).upper() for error in refusal.errors()
        )
        raise click.ClickException(f"not usable: {names}") from None


def _has_redis(service: str, installation: Installation) -> bool:
    """Whether a service publishes events: by its settings, else as the mesh here runs, or ran
    last.
    """
    running = installation.running()
    of_mesh = running.redis_url != "" if running else redis_config(installation.redis_dir).exists()
    return bool(load_settings(service, var_dir=installation.var_dir).redis_url) or of_mesh


async def audit_databases(
    databases: dict[str, Database],
    allowance: Allowance,
    *,
    sandbox_url: str,
    api_key: str,
    redis_url: str = "",
    without_redis: Collection[str] = (),
) -> AsyncIterator[tuple[str, Violation]]:
    """Everything that does not hold, each with where it was found. Without `sandbox_url` the
    channel is not asked, without `redis_url` Redis is not. Events of the services `without_redis`
    may wait for ever.

    Raises:
        Unavailable: a database, Redis or the channel does not answer.
    """
    for where in (
        *databases,
        "across",
        *(["redis"] if redis_url else ()),
        *(["channel"] if sandbox_url else ()),
    ):
        begins(where)
        async for violation in audit_part(
            where,
            databases,
            allowance,
            sandbox_url=sandbox_url,
            api_key=api_key,
            redis_url=redis_url,
            without_redis=without_redis,
        ):
            yield where, violation


async def audit_part(
    where: str,
    databases: dict[str, Database],
    allowance: Allowance,
    *,
    sandbox_url: str = "",
    api_key: str = "",
    redis_url: str = "",
    without_redis: Collection[str] = (),
) -> AsyncIterator[Violation]:
    """What does not hold at one place: within the service of that name, "across" services, at the
    "channel", in "redis". See `audit_databases`.
    """
    proofs = {service: importlib.import_module(f"{service}.proof") for service in databases}
    if where in databases:
        async for violation in proofs[where].violations(
            databases[where], replace(allowance, events_wait=where in without_redis)
        ):
            yield violation
    if where == "across":
        async for violation in _across(databases, proofs, allowance):
            yield violation
    if "seckill_rpc" in databases and where == "across":
        async for violation in _across_sales(databases, proofs, allowance):
            yield violation
    if "seckill_rpc" in databases and where == "redis":
        async for violation in proofs["seckill_rpc"].stock_violations(
            databases["seckill_rpc"], allowance, redis_url=redis_url
        ):
            yield violation
    if where == "channel":
        async for violation in proofs["payment_rpc"].channel_violations(
            databases["payment_rpc"], allowance, base_url=sandbox_url, api_key=api_key
        ):
            yield violation


async def _across(
    databases: dict[str, Database], proofs: dict[str, Any], allowance: Allowance
) -> AsyncIterator[Violation]:
    """From both sides, because an order may lack its payment and a payment its order: each range of
    keys that ends with a page of orders, and the one after all of them. What is wrong is looked at
    twice."""
    orders, payments = proofs["order_rpc"], proofs["payment_rpc"]
    order_db, payment_db = databases["order_rpc"], databases["payment_rpc"]
    suspects: set[OrderKey] = set()
    after: OrderKey | None = None
    while True:
        page, upto = await orders.orders_page(order_db, after=after, limit=PAGE)
        gates = await payments.gates_between(payment_db, after=after, upto=upto)
        paying = await payments.payments_between(payment_db, allowance, after=after, upto=upto)
        suspects |= {key for key, _ in compare({order.key: order for order in page}, paying, gates)}
        looked_at("orders and their payments", len(page))
        if upto is None:
            break
        after = upto
    doubtful = sorted(suspects)
    if doubtful:
        await asyncio.sleep(0 if allowance.strict else SECOND_LOOK_SECONDS)
    for start in range(0, len(doubtful), PAGE):
        wanted = doubtful[start : start + PAGE]
        found = {order.key: order for order in await orders.orders_of(order_db, wanted)}
        gates = await payments.gates_of_orders(payment_db, wanted)
        paying = await payments.payments_of_orders(payment_db, allowance, wanted)
        for _key, violation in compare(found, paying, gates):
            yield violation


async def _across_sales(
    databases: dict[str, Database], proofs: dict[str, Any], allowance: Allowance
) -> AsyncIterator[Violation]:
    """Activities against the shelf, their orders against those of order_rpc, from both sides. What
    is wrong is looked at twice.
    """
    sales, orders = proofs["seckill_rpc"], proofs["order_rpc"]
    sale_db, order_db = databases["seckill_rpc"], databases["order_rpc"]

    async def look(keys: Iterable[OrderKey]) -> list[tuple[OrderKey, Violation]]:
        wanted = list(keys)
        # first: an order is never before its unit
        theirs = {order.key: order for order in await orders.sale_orders_of(order_db, wanted)}
        ours = {unit.key: unit for unit in await sales.units_of(sale_db, wanted)}
        return list(compare_sale(ours, theirs, wanted))

    suspects: set[OrderKey] = set()
    last = ""
    while units := await sales.units_page(sale_db, after=last, limit=PAGE):
        suspects |= {key for key, _ in await look(unit.key for unit in units)}
        looked_at("orders of flash sales", len(units))
        last = units[-1].order_id
    after: OrderKey | None = None
    while True:
        page, after = await orders.sale_orders_page(order_db, after=after, limit=LINES)
        for start in range(0, len(page), PAGE):
            suspects |= {
                key for key, _ in await look(order.key for order in page[start : start + PAGE])
            }
        looked_at("lines of orders", LINES)
        if after is None:
            break
    activities = [activity async for activity in _wrongly_allocated(databases, proofs)]
    if suspects or activities:
        await asyncio.sleep(0 if allowance.strict else SECOND_LOOK_SECONDS)
        for start in range(0, len(suspects), PAGE):
            for _key, violation in await look(sorted(suspects)[start : start + PAGE]):
                yield violation
        names = {activity.activity_id for activity, _ in activities}
        async for activity, given in _wrongly_allocated(databases, proofs):
            if activity.activity_id in names:
                yield Violation(
                    check="units_allocated",
                    subject=activity.activity_id,
                    detail=f"it is {activity.state} with {activity.total} units, and the shelf "
                    f"gave it {given}",
                )


async def _wrongly_allocated(
    databases: dict[str, Database], proofs: dict[str, Any]
) -> AsyncIterator[tuple[ActivityFacts, int]]:
    """Activities that do not have the units that the shelf gave them."""
    last = ""
    while page := await proofs["seckill_rpc"].activities_page(
        databases["seckill_rpc"], after=last, limit=PAGE
    ):
        given = await proofs["order_rpc"].allocations_of(
            databases["order_rpc"], [(each.merchant_id, each.activity_id) for each in page]
        )
        for activity in page:
            units = given.get((activity.merchant_id, activity.activity_id), 0)
            if units != activity.total and not activity.is_settling:
                yield activity, units
        last = page[-1].activity_id
