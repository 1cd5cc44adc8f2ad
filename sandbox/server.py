"""Runs the HTTP server of the sandbox, for `__main__` and for tests."""

from __future__ import annotations

import asyncio
import socket
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from mesh.http_server import HttpServer

_BACKLOG = 1024
# longer than any of our clients keeps an idle connection, so no request hits a closing one
_KEEP_ALIVE_SECONDS = 75
_SHUTDOWN_SECONDS = 2  # shutdown does not wait for a slow card's response


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: connections from now on are answered as soon as the server runs.

    Raises:
        OSError: the port is in use.
    """
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
    )
    # Inherited by every connection. asyncio sets it only on sockets that it made itself; without it
    # each answer waits 40 ms for an ACK, because uvicorn writes head and body apart.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def make_server(
    app: ASGIApp, *, http: type[asyncio.Protocol] | Literal["auto"] = "auto"
) -> HttpServer:
    """A server of `app`; run it with `serve(sockets=[listener])`. No access log: cashier addresses
    are credentials.

    Args:
        http: uvicorn's class of a connection, or one derived from it.
    """
    return HttpServer(
        uvicorn.Config(
            app,
            http=http,
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
    )
