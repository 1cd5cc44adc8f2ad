"""Runs one simulated provider on a socket, for `__main__` and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.clock import Clock
from sandbox.providers.faults import CuttableConnection
from sandbox.providers.simulation import Provider, Simulation
from sandbox.server import listen, make_server

C = TypeVar("C")
_TICK_SECONDS = 0.1  # how late a deed may be that becomes due while nobody asks


@dataclass(frozen=True, slots=True)
class RunningProvider(Generic[C]):
    """A provider that serves."""

    url: str
    simulation: Simulation[C]


@asynccontextmanager
async def running_provider(
    provider: Provider[C],
    *,
    clock: Clock,
    host: str = "127.0.0.1",
    port: int = 0,
    public_host: str = "",
    config: C | None = None,
) -> AsyncIterator[RunningProvider[C]]:
    """A provider that serves until the block ends; port 0 is any free one.

    Args:
        public_host: of the URLs that it hands out; "": `host`.

    Raises:
        OSError: the port is in use.
    """
    listener = listen(host, port)
    shown = public_host or (f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{listener.getsockname()[1]}"
    simulation = provider.simulation(clock, base_url=url, config=config)
    server = make_server(provider.create_app(simulation), http=CuttableConnection)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    background = [
        asyncio.create_task(simulation.deliveries.run()),
        asyncio.create_task(_keep_up(simulation)),
    ]
    try:
        yield RunningProvider(url, simulation)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        server.stop()
        await serving


async def _keep_up(simulation: Simulation[C]) -> None:
    """Does what becomes due while nobody asks."""
    while True:
        simulation.agenda.run_due()
        await asyncio.sleep(_TICK_SECONDS)
