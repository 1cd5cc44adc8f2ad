"""`python -m sandbox.providers`: runs the simulated providers until SIGTERM or Ctrl-C, each on a
port of its own.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from mesh import logs
from mesh.clock import SystemClock
from mesh.process import run_process
from sandbox.providers.alipay import PROVIDER as ALIPAY
from sandbox.providers.btcpay import PROVIDER as BTCPAY
from sandbox.providers.paypal import PROVIDER as PAYPAL
from sandbox.providers.server import running_provider
from sandbox.providers.settings import ProviderSettings
from sandbox.providers.simulation import Provider
from sandbox.providers.stripe import PROVIDER as STRIPE
from sandbox.providers.webhooks import Target
from sandbox.providers.wechat import PROVIDER as WECHAT

PROVIDERS: tuple[Provider[Any], ...] = (STRIPE, PAYPAL, ALIPAY, WECHAT, BTCPAY)


async def run(settings: ProviderSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises OSError for a port in use."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        for provider in PROVIDERS:
            running = await stack.enter_async_context(
                running_provider(
                    provider,
                    clock=SystemClock(),
                    host=settings.host,
                    port=settings.port_of(provider.name),
                    public_host=settings.public_host,
                )
            )
            deliveries = running.simulation.deliveries
            if url := settings.webhook_url_of(provider.name):
                known = deliveries.target or Target(url=url)
                deliveries.target = replace(known, url=url)
            logs.get_logger().info("serving", provider=provider.name, address=running.url)
        await stopped.wait()


def main() -> None:
    """Reads the settings, listens, serves."""
    run_process(ProviderSettings, run)


if __name__ == "__main__":
    main()
