"""Starts the gateway: settings, contract, discovery, channels, application, port; and ends it in the opposite order on SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from prometheus_client import REGISTRY
from pydantic import ValidationError

from gateway.app import Gateway
from gateway.schema import Schema, load_schema
from gateway.server import GatewayServer
from gateway.settings import GatewaySettings
from gateway.telemetry import Telemetry
from mesh import logs
from mesh.auth import UserTokens
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.discovery import Discovery
from mesh.discovery.consul import ConsulDiscovery
from mesh.discovery.static import StaticDiscovery
from mesh.metrics import MetricsPort


async def run(settings: GatewaySettings, *, schema: Schema) -> None:
    """Serves until SIGTERM or SIGINT."""
    clock = SystemClock()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        metrics = MetricsPort()
        await metrics.start(settings.host, settings.metrics_port)
        stack.push_async_callback(metrics.stop)
        discovery = _discovery(settings)
        stack.push_async_callback(discovery.close)
        # No caller token: no rule of the contract admits the gateway itself, and what it may pass on is the user's own token.
        channels = {service: MeshChannel(service, settings=settings, discovery=discovery, pool=schema.pool)
                    for service in sorted({method.policy.served_by for method in schema.methods if method.rules})}
        for channel in channels.values():
            stack.push_async_callback(channel.close)
        telemetry = Telemetry(clock=clock, service=settings.service, log_level=settings.log_level)
        stack.callback(telemetry.flush)
        REGISTRY.register(telemetry)
        gateway = Gateway(schema, settings=settings, upstreams=channels, user_tokens=UserTokens.from_settings(settings, clock=clock),
                          telemetry=telemetry)
        server = GatewayServer(gateway, settings)
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


def _discovery(settings: GatewaySettings) -> Discovery:
    match settings.discovery:
        case "static":
            return StaticDiscovery(settings.static_targets)
        case "consul":
            token = settings.consul_token.get_secret_value() if settings.consul_token is not None else None
            return ConsulDiscovery(address=settings.consul_address, token=token, snapshot_folder=settings.var_dir / "discovery")


def main() -> None:
    """The process.

    Raises:
        SystemExit: the settings are wrong.
    """
    try:
        settings = GatewaySettings()
    except ValidationError as problem:
        raise SystemExit(str(problem)) from None
    logs.configure(settings.service, settings.log_level, json=settings.log_json)
    try:
        import uvloop  # noqa: PLC0415  not on every platform
    except ImportError:
        asyncio.run(run(settings, schema=load_schema()))
    else:
        uvloop.run(run(settings, schema=load_schema()))


if __name__ == "__main__":
    main()
