"""Redis as we use it: a cache and a place to publish, never the truth. Every command has a deadline and is sent once."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

COMMAND_SECONDS_MAX = 0.3   # a cache that is slower than this is no cache
CONNECTIONS_MAX = 32


def open_redis(url: str) -> Redis:
    """Opens a client lazily. The defaults of redis-py send a command up to eleven times over a minute: one lost reply turned one DECR into four."""
    pool = BlockingConnectionPool.from_url(
        url, max_connections=CONNECTIONS_MAX, timeout=COMMAND_SECONDS_MAX, socket_timeout=COMMAND_SECONDS_MAX,
        socket_connect_timeout=COMMAND_SECONDS_MAX, retry=Retry(NoBackoff(), 0), retry_on_timeout=False,
    )
    return Redis.from_pool(pool)
