"""Events for whoever wants them, on Redis Streams. Delivered when Redis has the entry; consumers
keep the event_id with their effect.
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

# roughly, and 100 MB at some 0.8 KB each; consumers that fall further behind have lost what is
# older
STREAM_LENGTH_MAX = 100_000
SEND_SECONDS_MAX = 1.0


def open_events(url: str) -> Redis:
    """A client for streams alone, opened lazily: what a cache gives up on is no reason to send an
    event twice.

    Raises:
        ValueError: no URL of a Redis.
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
            Unavailable: Redis did not confirm it; it may stand there all the same, consumers know
                the event_id.
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
