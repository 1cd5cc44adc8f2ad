"""`python -m payment_rpc`: the composition root. Settings, database, channels, use cases,
servicers, workers, server; until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

from mesh import logs, schema_versions
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
from mesh.redis_client import open_redis
from mesh.secret_files import read_secrets
from mesh.server import MeshServer, serve
from mesh.token_issuers import CHECKOUT, OwnTokenSigner
from payment_rpc.account_keys import AccountKeys
from payment_rpc.app import PaymentApp, PaymentConfig
from payment_rpc.channels.sandbox.channel import PUBLISHED_MD5_SECRET, SandboxChannel
from payment_rpc.clients import Orders, terms_of
from payment_rpc.domain.statement import ChannelDay
from payment_rpc.settings import PaymentSettings
from payment_rpc.tables import RETRY_CONSTRAINTS, metadata
from payment_rpc.usecases.merchant_terms import EnvironmentTerms


async def run(settings: PaymentSettings) -> None:
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
    await schema_versions.check_current(settings.service, db.engine)
    server = MeshServer(settings, clock=clock, ids=ids)
    discovery = open_discovery(settings)
    order_channel = MeshChannel(
        "order_rpc", settings=settings, discovery=discovery, caller_tokens=server.caller_tokens
    )
    redis = open_redis(settings.redis_url) if settings.redis_url else None
    events = open_events(settings.stream_redis_url) if settings.stream_redis_url else None
    sandbox = _sandbox(settings)
    return_urls = {merchant: tuple(prefixes) for merchant, prefixes in settings.return_urls.items()}
    terms = EnvironmentTerms(return_urls, buyers_may_hold=settings.buyers_may_hold)
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
    app = PaymentApp(
        db=db,
        clock=clock,
        ids=ids,
        orders=Orders(order_channel),
        channels={sandbox.name: sandbox},
        hints=sandbox,
        account_keys=_account_keys(settings),
        account_rules=settings.account_rules(),
        redis=redis,
        events=events,
        config=_config(settings),
        page_tokens=PageTokens.from_settings(settings),
        return_urls=return_urls,
        terms=terms
        if merchant_channel is None
        else MerchantDirectory(merchant_channel, terms_of=terms_of, defaults=terms.known),
        checkout_signer=None
        if settings.caller_key_file is None
        else OwnTokenSigner.of_file(CHECKOUT, settings.caller_key_file, clock=clock, ids=ids),
    )
    app.add_to(server)
    closers = [
        order_channel.close,
        discovery.close,
        sandbox.aclose,
        app.account_channels.aclose,
        db.close,
    ]
    if merchant_channel is not None:
        closers.insert(0, merchant_channel.close)
    closers += [client.aclose for client in (redis, events) if client is not None]
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


def _config(settings: PaymentSettings) -> PaymentConfig:
    return PaymentConfig(
        channel_timeout_seconds=settings.channel_timeout_seconds,
        attempt_lease_seconds=settings.attempt_lease_seconds,
        scan_interval_seconds=settings.scan_interval_seconds,
        scan_batch_size=settings.scan_batch_size,
        scan_threshold_seconds=settings.scan_threshold_seconds,
        close_grace_seconds=settings.close_grace_seconds,
        scan_action_retention_days=settings.scan_action_retention_days,
    )


def _account_keys(settings: PaymentSettings) -> AccountKeys:
    """Without a file there are no accounts: nothing is encrypted and nothing is read."""
    if settings.account_key_file is None:
        return AccountKeys.none()
    return AccountKeys.of_file(settings.account_key_file, random_bytes=secrets.token_bytes)


def _sandbox(settings: PaymentSettings) -> SandboxChannel:
    """The channel to the sandbox. A secret that is not set is random, so no signature fits. The
    published secret of source 001 is accepted in development only.
    """
    api_key, *_ = _secrets(settings.sandbox_api_key_file) or [secrets.token_hex(32)]
    unset = PUBLISHED_MD5_SECRET if settings.is_development else secrets.token_hex(32)
    md5_secret, *other_md5_secrets = _secrets(settings.sandbox_md5_secret_file) or [unset]
    callback_secret, *other_callback_secrets = _secrets(settings.sandbox_callback_secret_file) or [
        api_key
    ]
    if not settings.is_development:
        if PUBLISHED_MD5_SECRET in {md5_secret, *other_md5_secrets}:
            raise ValueError(
                "sandbox_md5_secret_file: holds the published secret of source 001, which "
                "everybody can sign with"
            )
        if settings.sandbox_api_key_file is None:
            logs.get_logger().warning(
                "no_payment_channel", advice="sandbox_api_key_file is not set: only wallets pay"
            )
    return SandboxChannel(
        base_url=settings.sandbox_url,
        api_key=api_key,
        md5_secret=md5_secret,
        callback_secret=callback_secret,
        other_callback_secrets=other_callback_secrets,
        other_md5_secrets=other_md5_secrets,
        statement_day=ChannelDay(
            time_zone=settings.statement_time_zone, cut_off=settings.statement_cut_off
        ),
    )


def _secrets(path: Path | None) -> list[str]:
    return [secret.decode() for secret in read_secrets(path)] if path else []


def main() -> None:
    """Reads the settings and serves."""
    run_process(PaymentSettings, run)


if __name__ == "__main__":
    main()
