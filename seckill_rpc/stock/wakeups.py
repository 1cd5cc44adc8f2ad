"""Who waits for a result is woken when it is published. Pub/sub tells at most once, so every waiter looks again by himself about once a second, and
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

from seckill_rpc.domain.order import View
from seckill_rpc.stock.keys import WAKEUPS, Keys, activity_of
from seckill_rpc.stock.views import Views

WAITERS_MAX = 20_000         # per process: some 2 kB each, and as many looks a second when pub/sub is dead
LOOK_AGAIN_SECONDS = 1.0
LISTEN_SECONDS = 1.0         # how soon `stop` ends the loop
RECONNECT_SECONDS = 0.5

log = structlog.get_logger()
_jitter = random.Random()  # noqa: S311  spreads looks at Redis, protects nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a buyer is told. `order_id`: with HOLDER, when the message named it; "" otherwise."""

    view: View
    order_id: str = ""

    @property
    def is_final(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.view is not View.QUEUED


class Waiters:
    """Everybody in this process who waits for a result."""

    def __init__(self, views: Views, *, waiters_max: int = WAITERS_MAX, look_again_seconds: float = LOOK_AGAIN_SECONDS) -> None:
        self._views = views
        self._waiters_max = waiters_max
        self._look_again_seconds = look_again_seconds
        self._waiting: defaultdict[tuple[str, str], set[asyncio.Future[Told]]] = defaultdict(set)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    async def wait(self, keys: Keys, user_id: str, timeout: float) -> Told | None:
        """Waits up to `timeout` seconds until the buyer is told something final, and returns what he is told then, which may still be QUEUED, or None
        when nothing is known of him. With waiters_max others waiting it answers at once. May be cancelled at any time.

        Raises:
            RedisError: Redis did not answer when it was asked for the last time; until then the failure is passed over.
        """
        if self._count >= self._waiters_max:
            return await self._look(keys, user_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        woken: asyncio.Future[Told] = loop.create_future()
        place = (keys.activity_id, user_id)
        self._waiting[place].add(woken)
        self._count += 1
        try:
            while True:
                told = await self._look_or_hear(keys, user_id, woken, is_last=loop.time() >= end)
                if (told is not None and told.is_final) or loop.time() >= end:
                    return told
                await asyncio.wait((woken,), timeout=min(end - loop.time(), self._look_again_seconds * _jitter.uniform(0.8, 1.2)))
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
            if (futures := self._waiting.get((activity_id, user_id))) and view in {str(View.HOLDER), str(View.NEITHER)}:
                for future in futures:
                    if not future.done():
                        future.set_result(Told(view=View(view), order_id=order_id))

    async def _look_or_hear(self, keys: Keys, user_id: str, woken: asyncio.Future[Told], *, is_last: bool) -> Told | None:
        if woken.done():
            return woken.result()
        try:
            found = await self._look(keys, user_id)
        except RedisError:
            if is_last and not woken.done():
                raise
            found = None
        return woken.result() if woken.done() else found

    async def _look(self, keys: Keys, user_id: str) -> Told | None:
        view = await self._views.view(keys, user_id)
        return None if view is None else Told(view=view)


class Wakeups:
    """The one subscription of this process, on a connection of its own. When it breaks it is made again; meanwhile waiters look by themselves."""

    def __init__(self, redis: Redis, *, hear: Callable[[str, str], None], deafened: Callable[[], None] = lambda: None) -> None:
        """`hear` gets the activity and the message, `deafened` is told when the subscription broke."""
        self._redis = redis
        self._hear = hear
        self._deafened = deafened
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
                await asyncio.sleep(RECONNECT_SECONDS * _jitter.uniform(0.5, 1.5))
            finally:
                self.subscribed.clear()
                self._deafened()

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.psubscribe(WAKEUPS)
            while not self._is_stopping:
                message = await subscription.get_message(timeout=LISTEN_SECONDS)
                if message is None:
                    continue
                if message["type"] == "psubscribe":
                    self.subscribed.set()
                elif message["type"] == "pmessage":
                    self._hear(activity_of(message["channel"]), message["data"])
