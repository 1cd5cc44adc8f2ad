"""Connections that nobody uses."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis as Client


def idle(client: Client) -> list[Any]:
    """The connections of a client's pool."""
    pool: Any = client.connection_pool
    return [*pool._available_connections, *pool._in_use_connections]
