"""Wakes buyers that wait for a result when it is published.

Pub/sub delivers at most once, so each waiter also looks by itself about once a second. It is
registered before its first look, so no result falls in between.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from mesh.clock import Seconds
from mesh.logs import get_logger
from seckill_rpc.domain.order import BuyerStatus
from seckill_rpc.redis.keys import NOTICES, WAKEUPS, Keys, activity_of
from seckill_rpc.redis.views import Views

WAITERS_MAX = 20_000  # per process: as many looks at Redis a second, at some 40 us each
LOOK_AGAIN_SECONDS = 1.0
# after so long without a message the connection is pinged; also how soon `stop` ends the loop
LISTEN_SECONDS = 1.0
RECONNECT_SECONDS = 0.5

log = get_logger()
_jitter = random.Random()  # noqa: S311  spreads looks at Redis, protects nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewUpdate:
    """What a buyer is told. `order_id`: with HOLDER, if the message named it; "" otherwise."""

    view: BuyerStatus
    order_id: str = ""

    @property
    def is_final(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.view is not BuyerStatus.QUEUED


class Waiters:
    """The calls of this process that wait for a result."""

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
        """Whether waiters_max calls wait: one more only gets what is known now."""
        return self._count >= self._waiters_max

    async def wait(self, keys: Keys, user_id: str, timeout: Seconds) -> ViewUpdate | None:
        """Waits up to `timeout` seconds for a final result of a buyer.

        Returns the view then, which may still be QUEUED; None when the buyer is unknown. Answers at
        once when `is_full`. May be cancelled at any time.

        Raises:
            RedisError: the last look got no answer; earlier failures are passed over.
        """
        if self.is_full:
            return await self._look(keys, user_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        woken: asyncio.Future[ViewUpdate] = loop.create_future()
        task = asyncio.current_task()
        cancelled_before = task.cancelling() if task is not None else 0
        waiter = (keys.activity_id, user_id)
        self._waiting[waiter].add(woken)
        self._count += 1
        try:
            while True:
                try:
                    update = await self._look_unless_woken(keys, user_id, woken)
                except RedisError:
                    if loop.time() >= end:
                        raise
                else:
                    if (update is not None and update.is_final) or loop.time() >= end:
                        return update
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
            self._waiting[waiter].discard(woken)
            if not self._waiting[waiter]:
                del self._waiting[waiter]

    def wake(self, activity_id: str, message: str) -> None:
        """Wakes the waiters named in a message. QUEUED wakes none: it is not final."""
        for line in message.split("\n"):
            user_id, _, rest = line.partition(" ")
            view, _, order_id = rest.partition(" ")
            if (futures := self._waiting.get((activity_id, user_id))) and view in {
                str(BuyerStatus.HOLDER),
                str(BuyerStatus.NEITHER),
            }:
                for future in futures:
                    if not future.done():
                        future.set_result(ViewUpdate(view=BuyerStatus(view), order_id=order_id))

    async def _look_unless_woken(
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
        on_message: Callable[[str, str], None],
        on_disconnect: Callable[[], None] = lambda: None,
        on_subscribed: Callable[[], None] = lambda: None,
        on_notice: Callable[[str], None] = lambda _: None,
        listen_seconds: Seconds = LISTEN_SECONDS,
        reconnect_seconds: Seconds = RECONNECT_SECONDS,
    ) -> None:
        """Args:
        on_message: gets the activity and the message.
        on_disconnect: called when messages may be lost from now on.
        on_subscribed: called when messages arrive again.
        on_notice: gets the activity of a notice.
        """
        self._redis = redis
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_subscribed = on_subscribed
        self._on_notice = on_notice
        self._listen_seconds = listen_seconds
        self._reconnect_seconds = reconnect_seconds
        self._is_stopping = False
        self.subscribed = asyncio.Event()

    def stop(self) -> None:
        """Ends the loop within LISTEN_SECONDS."""
        self._is_stopping = True

    async def run(self) -> None:
        """Passes messages on until `stop`."""
        while not self._is_stopping:
            try:
                await self._listen()
            except (RedisError, OSError) as error:
                log.warning("wakeups_away", cause=type(error).__name__)
                self._disconnected()
                await asyncio.sleep(self._reconnect_seconds * _jitter.uniform(0.5, 1.5))
            finally:
                self._disconnected()

    def _disconnected(self) -> None:
        if self.subscribed.is_set():
            self.subscribed.clear()
            self._on_disconnect()

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.psubscribe(WAKEUPS, NOTICES)
            # a ping is under way: a frozen or lost Redis looks like one without messages
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
                # the second of the two
                if message["type"] == "psubscribe" and message["channel"] == NOTICES:
                    self._disconnected()  # again: redis-py has reconnected by itself
                    self.subscribed.set()
                    self._on_subscribed()
                elif message["type"] == "pmessage" and message["pattern"] == NOTICES:
                    self._on_notice(message["data"])
                elif message["type"] == "pmessage":
                    self._on_message(activity_of(message["channel"]), message["data"])


class Notices:
    """Notifies all processes, including this one, that an activity changed. Delivery is not
    guaranteed: slow rounds of the workers find what a lost notice would have said.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def send_soon(self, activity_id: str) -> None:
        """Sends a notice soon. Notices of one activity at the same time are sent once."""
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
