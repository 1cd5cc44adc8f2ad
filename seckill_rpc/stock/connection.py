"""The Redis of flash sales: no eviction, or entries of the line vanish in silence; an append-only file, or a restart forgets who was admitted. Every
command is sent twice at most, and never again after a timeout: that means unknown, and the same request id finds out while the buyer waits."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionBroken

COMMAND_SECONDS_MAX = 2.0   # a rebuild's chunk of 1000 rows takes milliseconds; a Redis that needs longer is away
BLOCK_MS_MAX = 1000         # of XREADGROUP: less than the deadline of a command
RETRIES = 1                 # the pooled connection may be a dead one after a restart of Redis; every script may run twice
CONNECTIONS_MAX = 32
_PLAIN: Final = frozenset({str, int})


class UnsafeRedis(Exception):
    """This Redis may lose what it was told; the message says which setting."""


class PlainConnection(Connection):
    """Packs a command of plain texts and whole numbers in one go: a batch of clicks has hundreds of them, and redis-py makes bytes of each alone."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """As the base does; a name of two words, or anything but ASCII, is left to it."""
        if {*map(type, args)} <= _PLAIN and " " not in args[0]:
            texts = [*map(str, args)]
            packed = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
            if packed.isascii():  # otherwise the lengths are not those in bytes
                return [f"*{len(texts)}\r\n{packed}".encode()]
        return super().pack_command(*args)


def open_stock(url: str, *, command_seconds: float = COMMAND_SECONDS_MAX) -> Redis:
    """Opens a client lazily, as `Scripts` and the rest of this package need it: answers are text."""
    pool = BlockingConnectionPool.from_url(
        url, connection_class=PlainConnection, max_connections=CONNECTIONS_MAX,
        timeout=command_seconds, socket_timeout=command_seconds, socket_connect_timeout=command_seconds,
        retry=Retry(NoBackoff(), RETRIES, supported_errors=(ConnectionBroken,)), decode_responses=True, encoding_errors="replace",
    )
    return Redis.from_pool(pool)


async def require_safe(redis: Redis, *, durable: bool) -> None:
    """Refuses a Redis that evicts keys, or (`durable`) one without an append-only file.

    Raises:
        UnsafeRedis: it does.
        RedisError: it did not answer.
    """
    policy = (await redis.config_get("maxmemory-policy")).get("maxmemory-policy")
    if policy != "noeviction":
        raise UnsafeRedis(f"redis has maxmemory-policy {policy}: an evicted key makes a sale wrong; CONFIG SET maxmemory-policy noeviction")
    if durable and (await redis.config_get("appendonly")).get("appendonly") != "yes":
        raise UnsafeRedis("redis has appendonly no: a restart would forget who was admitted; CONFIG SET appendonly yes")
