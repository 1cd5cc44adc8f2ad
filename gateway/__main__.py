"""`python -m gateway`: the composition root. Settings, contract, discovery, channels, application,
port; until SIGTERM or Ctrl-C, then the same backwards."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Final

from prometheus_client import REGISTRY

from gateway.api_keys import POLL_SECONDS, ApiKeys
from gateway.app import Gateway
from gateway.merchant_keys import MerchantKeys
from gateway.schema import SchemaInvalid, load_schema
from gateway.server import GatewayServer
from gateway.settings import GatewaySettings
from gateway.telemetry import Telemetry
from mesh.auth import UserTokens
from mesh.caller_tokens import CallerTokens
from mesh.client import MeshChannel
from mesh.clock import Clock, SystemClock
from mesh.discovery import Discovery
from mesh.discovery.factory import open_discovery
from mesh.ids import UlidIds
from mesh.logs import get_logger
from mesh.metrics import MetricsPort
from mesh.process import exempt_from_gc, run_process
from mesh.worker import Worker

KEYS_SERVED_BY: Final = "merchant_rpc"

log = get_logger()


async def run(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        SchemaInvalid: the contract breaks a rule of the gateway. ValueError, OSError: a setting or
            a file is not what it should be.
    """
    clock = SystemClock()
    schema = load_schema()
    user_tokens = UserTokens.from_settings(settings, clock=clock)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        metrics = MetricsPort()
        await metrics.start(settings.metrics_host, settings.metrics_port)
        stack.push_async_callback(metrics.stop)
        discovery = open_discovery(settings)
        stack.push_async_callback(discovery.close)
        # No caller token: what these pass on is the user's own token.
        channels = {
            service: MeshChannel(service, settings=settings, discovery=discovery, pool=schema.pool)
            for service in schema.served_by
        }
        for channel in channels.values():
            stack.push_async_callback(channel.close)
        telemetry = Telemetry(clock=clock, service=settings.service, log_level=settings.log_level)
        REGISTRY.register(telemetry)
        stack.callback(telemetry.flush)
        api_keys = _open_api_keys(settings, discovery=discovery, clock=clock, stack=stack)
        server = GatewayServer(
            Gateway(
                schema,
                settings=settings,
                upstreams=channels,
                user_tokens=user_tokens,
                telemetry=telemetry,
                api_keys=api_keys,
            ),
            settings,
        )
        await server.start()
        stack.push_async_callback(server.stop)
        exempt_from_gc()
        await stop.wait()


def _open_api_keys(
    settings: GatewaySettings, *, discovery: Discovery, clock: Clock, stack: AsyncExitStack
) -> ApiKeys | None:
    """The exchange of API keys, and the worker that follows what is revoked. None where no
    merchant_rpc runs in this mesh, or does not know us.
    """
    if settings.discovery == "static":
        is_there = bool(settings.static_targets.get(KEYS_SERVED_BY))
    else:
        is_there = KEYS_SERVED_BY not in settings.absent_services
    caller_tokens = CallerTokens.from_settings(settings, clock=clock, ids=UlidIds(clock))
    if not is_there or not caller_tokens.can_sign:
        log.info("api_keys_refused", missing="caller_key_file" if is_there else KEYS_SERVED_BY)
        return None
    # Of its own, because only this channel speaks in our name.
    channel = MeshChannel(
        KEYS_SERVED_BY, settings=settings, discovery=discovery, caller_tokens=caller_tokens
    )
    stack.push_async_callback(channel.close)
    api_keys = ApiKeys(MerchantKeys(channel), clock=clock)
    stack.push_async_callback(api_keys.close)
    polling = Worker("poll_revocations", api_keys.poll_once, idle_seconds=POLL_SECONDS)
    stack.push_async_callback(_ended, polling, asyncio.create_task(polling.run()))
    return api_keys


async def _ended(worker: Worker, running: asyncio.Task[None]) -> None:
    worker.stop()
    await running


def main() -> None:
    """Reads the settings and serves."""
    run_process(GatewaySettings, run, refusals=(SchemaInvalid,))


if __name__ == "__main__":
    main()
