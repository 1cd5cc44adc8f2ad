"""`python -m gateway`: the composition root. Settings, contract, discovery, channels, application,
port; until SIGTERM or Ctrl-C, then the same backwards."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from prometheus_client import REGISTRY

from gateway.app import Gateway
from gateway.schema import SchemaInvalid, load_schema
from gateway.server import GatewayServer
from gateway.settings import GatewaySettings
from gateway.telemetry import Telemetry
from mesh.auth import UserTokens
from mesh.client import MeshChannel
from mesh.clock import SystemClock
from mesh.discovery.factory import open_discovery
from mesh.metrics import MetricsPort
from mesh.process import run_process


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
        # No caller token: no rule of the contract admits the gateway itself, and what it passes on
        # is the user's own token.
        channels = {
            service: MeshChannel(service, settings=settings, discovery=discovery, pool=schema.pool)
            for service in schema.served_by
        }
        for channel in channels.values():
            stack.push_async_callback(channel.close)
        telemetry = Telemetry(clock=clock, service=settings.service, log_level=settings.log_level)
        REGISTRY.register(telemetry)
        stack.callback(telemetry.flush)
        server = GatewayServer(
            Gateway(
                schema,
                settings=settings,
                upstreams=channels,
                user_tokens=user_tokens,
                telemetry=telemetry,
            ),
            settings,
        )
        await server.start()
        stack.push_async_callback(server.stop)
        await stop.wait()


def main() -> None:
    """Reads the settings and serves."""
    run_process(GatewaySettings, run, refusals=(SchemaInvalid,))


if __name__ == "__main__":
    main()
