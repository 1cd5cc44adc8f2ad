"""What a server is busy with, and the bounds of it. Each kind of call has room of its own, so that none can use up that
of another: calls whose message has not arrived, calls that run, calls that wait for news, streams.

Nothing here is counted for a caller who was refused by its headers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from grpc.aio import EOF
from prometheus_client import Counter as MetricCounter
from prometheus_client import Gauge

from mesh.call import Call
from mesh.deadlines import DeadlineQueue
from mesh.errors import InvalidArgument, RateLimited, Unavailable

RUNNING_MAX: Final = 2000  # calls; sheds load before memory does
WAITING_MAX: Final = 1000  # calls that wait for news: half of the room of calls stays for those that do not
ARRIVING_MAX: Final = 2000  # calls whose message has not arrived
# Of one caller, all strangers together being one: a half of a large message is kept for each.
ARRIVING_PER_CALLER_MAX: Final = 64
# From the headers of a call to its message: the two arrive together but for broken networks and attackers.
MESSAGE_SECONDS_MAX: Final = 5.0
RETRY_SECONDS: Final = 1.0  # when it may be worth trying again
OVERLOAD_SECONDS: Final = 5.0  # how long a server that turned a call away counts as overloaded

SHED: Final = MetricCounter("paymesh_server_shed", "Calls that were turned away for want of room.", ["kind"])
WAITING: Final = Gauge("paymesh_server_waiting_calls", "Calls that wait for news.")


class Load:
    """The load of one server."""

    def __init__(
        self,
        *,
        running_max: int = RUNNING_MAX,
        waiting_max: int = WAITING_MAX,
        message_seconds_max: float = MESSAGE_SECONDS_MAX,
    ) -> None:
        self._running_max = running_max
        self._waiting_max = waiting_max
        self._message_seconds_max = message_seconds_max
        self._arriving = DeadlineQueue()
        self._waiting: Counter[str] = Counter()
        self._shed_at: float | None = None
        self.running = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for news."""
        return self._waiting.total()

    @property
    def arriving(self) -> int:
        """Calls whose message has not arrived."""
        return len(self._arriving)

    @property
    def is_overloaded(self) -> bool:
        """Whether a call was turned away for want of room a moment ago."""
        return self._shed_at is not None and monotonic() - self._shed_at < OVERLOAD_SECONDS

    async def message(self, context: Any, call: Call, *, caller: str) -> bytes:
        """The bytes of a call's only message. When too many wait for theirs, the oldest gives way: a message comes
        within milliseconds of its headers or never. `caller` is "" for a stranger; siblings, whose name holds no slash,
        have room for all.

        Raises:
            InvalidArgument: the caller sent none. asyncio.CancelledError with `call.cut`: it did not come in time, or
            others needed the room.
        """
        arriving = self._arriving
        if arriving.count(caller) >= ARRIVING_PER_CALLER_MAX and ("/" in caller or not caller):
            arriving.end_oldest(self._shed("arriving", "Too many calls without a message."), of=caller)
        elif len(arriving) >= ARRIVING_MAX:
            arriving.end_oldest(self._shed("arriving", "Too many calls without a message."))
        arriving.begin(call, monotonic() + self._message_seconds_max, of=caller)
        try:
            raw = await context.read()
        finally:
            arriving.end(call)
        if raw is EOF:
            raise InvalidArgument("The call has no message.")
        message: bytes = raw
        return message

    def begin(self, call: Call) -> None:
        """A call runs from now on, until `end`.

        Raises:
            Unavailable: too many do. Nothing was done; another replica may take it.
        """
        if self.running >= self._running_max:
            raise self._shed("running", "Too many calls are running.")
        self.running += 1
        call.is_running = True

    def end(self, call: Call) -> None:
        """A call has ended, or never ran."""
        if call.is_running:
            call.is_running = False
            self.running -= 1

    @contextmanager
    def waits(self, caller: str, caller_max: int) -> Iterator[None]:
        """Runs a block that waits for news on behalf of a caller.

        Raises:
            RateLimited: the caller waits as often as it may. Unavailable: too many wait, whoever they are.
        """
        if self._waiting[caller] >= caller_max:
            SHED.labels("waiting_caller").inc()
            raise RateLimited("Too many calls of one caller are waiting.", retry_after_seconds=RETRY_SECONDS)
        if self.waiting >= self._waiting_max:
            raise self._shed("waiting", "Too many calls are waiting.")
        self._waiting[caller] += 1
        WAITING.inc()
        try:
            yield
        finally:
            WAITING.dec()
            self._waiting[caller] -= 1
            if not self._waiting[caller]:
                del self._waiting[caller]

    def _shed(self, kind: str, message: str) -> Unavailable:
        self._shed_at = monotonic()
        SHED.labels(kind).inc()
        return Unavailable(message, retry_after_seconds=RETRY_SECONDS)
