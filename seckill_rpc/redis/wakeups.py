"""Who waits for a result is woken when it is published. Pub/sub tells at most once, so every waiter
looks again by himself about once a second, and
he is registered before he looks for the first time: no result falls between."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from mesh.clock import Seconds
from seckill_rpc.domain.order import View
from seckill_rpc.redis.keys import NOTICES, WAKEUPS, Keys, activity_of
from seckill_rpc.redis.views import Views

WAITERS_MAX = 20_000  # per process: as many looks at Redis a second, at some 40 us each
LOOK_AGAIN_SECONDS = 1.0
# without news for so long, the connection is asked; also how soon `stop` ends the loop
LISTEN_SECONDS = 1.0
RECONNECT_SECONDS = 0.5

log = structlog.get_logger()
_jitter = random.Random()  # noqa: S311  spreads looks at Redis, protects nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewUpdate:
    """What a buyer is told. `order_id`: with HOLDER, when the message named it; "" otherwise."""

    view: View
    order_id: str = ""

    @property
    def is_final(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.view is not View.QUEUED


class Waiters:
    """Everybody in this process who waits for a result."""

    def __init__(
        self,
        views: Views,
        *,
        waiters_max: int = WAITERS_MAX,
        look_again_seconds: Seconds = LOOK_AGAIN_SECONDS,
    ) -> None:
        self._views = views
        self._waiters_max = waiters_max
        self._look_again_seconds = look_again_seconds
        self._waiting: defaultdict[tuple[str, str], set[asyncio.Future[ViewUpdate]]] = defaultdict(
            set
        )
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether as many wait as may wait: one more is only told what is known now."""
        return self._count >= self._waiters_max

    async def wait(self, keys: Keys, user_id: str, timeout: Seconds) -> ViewUpdate | None:
        """Waits up to `timeout` seconds until the buyer is told something final, and returns what
        he is told then, which may still be QUEUED, or None when nothing is known of him. With
        waiters_max others waiting it answers at once. May be cancelled at any time.

        Raises:
            RedisError: Redis did not answer when it was asked for the last time; until then the
                failure is passed over.
        """
        if self.is_full:
            return await self._look(keys, user_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        woken: asyncio.Future[ViewUpdate] = loop.create_future()
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        place = (keys.activity_id, user_id)
        self._waiting[place].add(woken)
        self._count += 1
        try:
            while True:
                try:
                    told = await self._look_or_hear(keys, user_id, woken)
                except RedisError:
                    if loop.time() >= end:
                        raise
                else:
                    if (told is not None and told.is_final) or loop.time() >= end:
                        return told
                if task is not None and task.cancelling() > cancelled_before:
                    # redis-py 8.1 swallows the cancellation of a command that is about to be
                    # answered
                    raise asyncio.CancelledError
                await asyncio.wait(
                    (woken,),
                    timeout=max(
                        0.0,
                        min(
                            end - loop.time(), self._look_again_seconds * _jitter.uniform(0.8, 1.2)
                        ),
                    ),
                )
        finally:
            self._count -= 1
            self._waiting[place].discard(woken)
            if not self._waiting[place]:
                del self._waiting[place]

    def tell(self, activity_id: str, message: str) -> None:
        """Wakes who waits for the lines of a message. QUEUED wakes nobody: it is not final."""
        for line in message.split("\n"):
            user_id, _, rest = line.partition(" ")
            view, _, order_id = rest.partition(" ")
            if (futures := self._waiting.get((activity_id, user_id))) and view in {
                str(View.HOLDER),
                str(View.NEITHER),
            }:
                for future in futures:
                    if not future.done():
                        future.set_result(ViewUpdate(view=View(view), order_id=order_id))

    async def _look_or_hear(
        self, keys: Keys, user_id: str, woken: asyncio.Future[ViewUpdate]
    ) -> ViewUpdate | None:
        found = None
        try:
            if not woken.done():
                found = await self._look(keys, user_id)
        except RedisError:
            if not woken.done():
                raise
        return woken.result() if woken.done() else found

    async def _look(self, keys: Keys, user_id: str) -> ViewUpdate | None:
        view = await self._views.view(keys, user_id)
        return None if view is None else ViewUpdate(view=view)


class Wakeups:
    """The one subscription of this process, on a connection of its own. When it breaks it is made
    again; meanwhile waiters look by themselves.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        hear: Callable[[str, str], None],
        on_disconnect: Callable[[], None] = lambda: None,
        subscribed: Callable[[], None] = lambda: None,
        noticed: Callable[[str], None] = lambda _: None,
        listen_seconds: Seconds = LISTEN_SECONDS,
        reconnect_seconds: Seconds = RECONNECT_SECONDS,
    ) -> None:
        """
        Args:
            hear: gets the activity and the message.
            on_disconnect: told when messages may have been lost from now on.
            subscribed: told when messages come, after a time in which none came.
            noticed: gets the activity of a notice.
        """
        self._redis = redis
        self._hear = hear
        self._on_disconnect = on_disconnect
        self._on_subscribed = subscribed
        self._noticed = noticed
        self._listen_seconds = listen_seconds
        self._reconnect_seconds = reconnect_seconds
        self._is_stopping = False
        self.subscribed = asyncio.Event()

    def stop(self) -> None:
        """Ends the loop within LISTEN_SECONDS."""
        self._is_stopping = True

    async def run(self) -> None:
        """Hands messages on until `stop`."""
        while not self._is_stopping:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("wakeups_away", cause=type(error).__name__)
                self._fall_silent()
                await asyncio.sleep(self._reconnect_seconds * _jitter.uniform(0.5, 1.5))
            finally:
                self._fall_silent()

    def _fall_silent(self) -> None:
        if self.subscribed.is_set():
            self.subscribed.clear()
            self._on_disconnect()

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.psubscribe(WAKEUPS, NOTICES)
            # a ping is on its way: a connection to a Redis that is frozen or gone looks like one
            # without news
            is_asked = False
            while not self._is_stopping:
                message = await subscription.get_message(timeout=self._listen_seconds)
                if message is None:
                    if is_asked:
                        raise RedisTimeout("the subscription does not answer")
                    await subscription.ping()
                    is_asked = True
                    continue
                is_asked = False
                # the last of both
                if message["type"] == "psubscribe" and message["channel"] == NOTICES:
                    self._fall_silent()  # once more: redis-py has connected anew by itself
                    self.subscribed.set()
                    self._on_subscribed()
                elif message["type"] == "pmessage" and message["pattern"] == NOTICES:
                    self._noticed(message["data"])
                elif message["type"] == "pmessage":
                    self._hear(activity_of(message["channel"]), message["data"])


class Notices:
    """Tells all processes, also this one, that something happened to an activity. Nobody waits for
    it; slow rounds of workers find what a lost notice would have told."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def tell(self, activity_id: str) -> None:
        """Tells it soon. Activities of which much is told at once are told once."""
        self._waiting.add(activity_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._waiting:
            activity_id = self._waiting.pop()
            try:
                await self._redis.publish(NOTICES, activity_id)
            except (RedisError, OSError) as error:
                log.info("notice_not_sent", activity_id=activity_id, cause=type(error).__name__)
