"""`python -m order_rpc`: the composition root. Settings, database, use cases, servicers, workers,
server; until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

from datetime import timedelta

from mesh import schema_versions
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.database_clock import clock_worker
from mesh.db import open_database
from mesh.dependencies import Dependencies
from mesh.discovery.factory import open_discovery, open_registrar
from mesh.events import open_events
from mesh.ids import UlidIds
from mesh.merchant_directory import MerchantDirectory
from mesh.paging import PageTokens
from mesh.process import run_process
from mesh.purge import purge_worker
from mesh.server import MeshServer, serve
from order_rpc.app import RETRY_CONSTRAINTS, OrderApp, OrderConfig
from order_rpc.clients import Payments, Seckill, terms_of
from order_rpc.settings import OrderSettings
from order_rpc.tables import metadata
from order_rpc.usecases.merchant_terms import EnvironmentTerms


async def run(settings: OrderSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        MeshError: the database is away, or its schema is not the one of this code.
        ValueError, OSError: a setting or a file is not what it should be.
    """
    clock = SystemClock()
    ids = UlidIds(clock)
    db = open_database(
        settings.database_url,
        metadata,
        pool_size=settings.database_pool_size,
        retry_constraints=RETRY_CONSTRAINTS,
    )
    await schema_versions.check_current("order_rpc", db.engine)
    events = open_events(settings.stream_redis_url) if settings.stream_redis_url else None
    server = MeshServer(settings, clock=clock, ids=ids)
    discovery = open_discovery(settings)
    payment_channel = MeshChannel(
        "payment_rpc", settings=settings, discovery=discovery, caller_tokens=server.caller_tokens
    )
    seckill_channel = MeshChannel(
        "seckill_rpc", settings=settings, discovery=discovery, caller_tokens=server.caller_tokens
    )
    config = OrderConfig(
        payment_window=timedelta(minutes=settings.payment_window_minutes),
        scan_interval_seconds=settings.scan_interval_seconds,
        expiry_batch_size=settings.expiry_batch_size,
        hot_sku_group_size=settings.hot_sku_group_size,
        policies=settings.policies(),
    )
    merchant_channel = (
        MeshChannel(
            "merchant_rpc",
            settings=settings,
            discovery=discovery,
            caller_tokens=server.caller_tokens,
        )
        if settings.merchant_directory
        else None
    )
    terms = EnvironmentTerms(payment_window=config.payment_window, policies=config.policies)
    app = OrderApp(
        db=db,
        clock=clock,
        ids=ids,
        page_tokens=PageTokens.from_settings(settings),
        redis=events,
        payments=Payments(payment_channel),
        seckill=Seckill(seckill_channel),
        config=config,
        terms=terms
        if merchant_channel is None
        else MerchantDirectory(merchant_channel, terms_of=terms_of, defaults=terms.known),
    )
    app.add_to(server)
    closers = [payment_channel.close, seckill_channel.close, discovery.close, db.close]
    if merchant_channel is not None:
        closers.insert(0, merchant_channel.close)
    if events is not None:
        closers.append(events.aclose)
    purging = purge_worker(
        db=db, clock=clock, retention=timedelta(days=settings.delivered_retention_days)
    )
    dependencies = Dependencies({"database": db.check}, server.set_usable)
    await serve(
        settings,
        server,
        open_registrar(settings),
        closers=closers,
        workers=[
            *app.workers,
            clock_worker(db, clock=clock, watch=server.clock_watch),
            purging,
            dependencies,
        ],
    )


def main() -> None:
    """Reads the settings and serves."""
    run_process(OrderSettings, run)


if __name__ == "__main__":
    main()
