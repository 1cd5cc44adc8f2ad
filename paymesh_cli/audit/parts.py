"""The parts of an audit: within each service, between the services, in Redis, at the channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import timedelta

from mesh.audit import AuditTolerance, Violation
from mesh.db import Database
from mesh.progress import begins
from payment_rpc.audit.channel import channel_violations
from paymesh_cli.audit.between import orders_and_payments, orders_and_units
from paymesh_cli.services import AUDITS
from seckill_rpc.audit.checks import violations as sale_violations
from seckill_rpc.audit.stock import stock_violations


async def audit_databases(
    databases: dict[str, Database],
    tolerance: AuditTolerance,
    *,
    sandbox_url: str,
    api_key: str,
    redis_url: str = "",
    without_redis: Collection[str] = (),
    close_after: timedelta = timedelta(0),
) -> AsyncIterator[tuple[str, Violation]]:
    """Everything that does not hold, each with where it was found. Without `sandbox_url` the
    channel is not asked, without `redis_url` Redis is not. Events of the services `without_redis`
    may wait for ever; a flash sale is closed `close_after` its end.

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
            tolerance,
            sandbox_url=sandbox_url,
            api_key=api_key,
            redis_url=redis_url,
            without_redis=without_redis,
            close_after=close_after,
        ):
            yield where, violation


async def audit_part(
    where: str,
    databases: dict[str, Database],
    tolerance: AuditTolerance,
    *,
    sandbox_url: str = "",
    api_key: str = "",
    redis_url: str = "",
    without_redis: Collection[str] = (),
    close_after: timedelta = timedelta(0),
) -> AsyncIterator[Violation]:
    """What does not hold at one place: within the service of that name, "across" services, at the
    "channel", in "redis". See `audit_databases`.
    """
    if where in databases:
        own = replace(tolerance, events_wait=where in without_redis)
        violations = (
            sale_violations(databases[where], own, close_after=close_after)
            if where == "seckill_rpc"
            else AUDITS[where].violations(databases[where], own)
        )
        async for violation in violations:
            yield violation
    if where == "across":
        async for violation in orders_and_payments(
            databases["order_rpc"], databases["payment_rpc"], tolerance
        ):
            yield violation
    if "seckill_rpc" in databases and where == "across":
        async for violation in orders_and_units(
            databases["order_rpc"], databases["seckill_rpc"], tolerance
        ):
            yield violation
    if "seckill_rpc" in databases and where == "redis":
        async for violation in stock_violations(
            databases["seckill_rpc"], tolerance, redis_url=redis_url
        ):
            yield violation
    if where == "channel":
        async for violation in channel_violations(
            databases["payment_rpc"], tolerance, base_url=sandbox_url, api_key=api_key
        ):
            yield violation
