"""`python -m sandbox`: runs the simulated payment channel until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket

from mesh import logs
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.process import run_process
from sandbox.server import listen, make_server
from sandbox.service import SandboxConfig, open_sandbox
from sandbox.settings import SandboxSettings

_TOKEN_BYTES = 32  # of a cashier address


async def serve(config: SandboxConfig, listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT."""
    clock = SystemClock()
    async with open_sandbox(
        config,
        clock=clock,
        ids=UlidIds(clock),
        new_token=lambda: secrets.token_urlsafe(_TOKEN_BYTES),
    ) as sandbox:
        server = make_server(sandbox.app)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        background = asyncio.create_task(sandbox.run())
        logs.get_logger().info(
            "serving", address=config.public_base_url, callbacks=config.callback_url
        )
        try:
            await server.serve(sockets=[listener])
        finally:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)


async def run(settings: SandboxSettings) -> None:
    """Listens and serves. Raises ValueError or OSError for a port in use or an invalid file."""
    listener = listen(settings.host, settings.port)
    await serve(settings.config(port=listener.getsockname()[1]), listener)


def main() -> None:
    """Reads the settings, listens, serves."""
    run_process(SandboxSettings, run)


if __name__ == "__main__":
    main()
