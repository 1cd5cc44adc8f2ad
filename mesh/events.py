"""Publishes events on Redis Streams. An event counts as delivered when Redis has the entry.
Consumers store the event_id with its effect, because an event may come twice.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh.errors import Unavailable
from mesh.outbox import Message
from mesh.redis_client import open_redis
from mesh.relay import Settlement

# approximate; 100 MB at some 0.8 KB each. Consumers that fall further behind lose older events
STREAM_LENGTH_MAX = 100_000
SEND_SECONDS_MAX = 1.0


def open_events(url: str) -> Redis:
    """Opens a client for streams only, lazily. Its limits are not those of a cache, whose short
    timeouts would send events twice.

    Raises:
        ValueError: not a Redis URL.
    """
    return open_redis(url, command_seconds=SEND_SECONDS_MAX)


class StreamDestination:
    """Publishes messages to the stream that their destination names: `stream:<TOPIC>`."""

    def __init__(self, redis: Redis, topic: str) -> None:
        self._redis = redis
        self._topic = topic

    @property
    def name(self) -> str:
        """Value of `destination` in the outbox."""
        return destination(self._topic)

    async def send(self, message: Message) -> Settlement | None:
        """Adds one entry.

        Raises:
            Unavailable: Redis did not confirm the entry. It may exist all the same; consumers
                deduplicate by event_id.
        """
        fields: dict[Any, Any] = {
            "event_id": message.event_id,
            "tag": message.tag,
            "payload": json.dumps(message.payload, ensure_ascii=False),
            "trace_id": message.trace_id,
        }
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await self._redis.xadd(
                    self._topic, fields, maxlen=STREAM_LENGTH_MAX, approximate=True
                )
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable("redis did not take the event") from error
        return None


def destination(topic: str) -> str:
    """Outbox destination of a topic."""
    return f"stream:{topic}"
