"""What a server is busy with, and the bounds of it. Each kind of call has room of its own, so that
none can use up that
of another: calls whose message has not arrived, calls that run, calls that wait for news, answers
that their clients have not taken, streams.

Nothing here is counted for a caller who was refused by its headers.
"""

from __future__ import annotations

import asyncio
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
# calls that wait for news: half of the room of calls stays for those that do not
WAITING_MAX: Final = 1000
ARRIVING_MAX: Final = 2000  # calls whose message has not arrived
# Of one caller, all strangers together being one: a half of a large message is kept for each.
ARRIVING_PER_CALLER_MAX: Final = 64
# From the headers of a call to its message: the two arrive together but for broken networks and
# attackers.
MESSAGE_SECONDS_MAX: Final = 5.0
LEAVING_BYTES_MAX: Final = 8 * 2**20  # answers that their clients have not taken
# such answers of one connection, once all of them together are too large
LEAVING_PER_CONNECTION_MAX: Final = 16
# what grpc keeps for such a call besides its answer, measured
LEAVING_CALL_BYTES: Final = 16 * 1024
LEAVING_SECONDS_MAX: Final = 0.2  # that one more waits for its turn
LEAVING_LOOK_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0  # when it may be worth trying again
OVERLOAD_SECONDS: Final = 5.0  # how long a server that turned a call away counts as overloaded

SHED: Final = MetricCounter(
    "paymesh_server_shed", "Calls that were turned away for want of room.", ["kind"]
)
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
        self._leaving: dict[asyncio.Task[Any], tuple[str, int]] = {}
        self._leaving_of: Counter[str] = Counter()  # by connection
        self._leaving_bytes = 0
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
        """The bytes of a call's only message. When too many wait for theirs, the oldest gives way:
        a message comes within milliseconds of its headers or never. `caller` is "" for a stranger;
        siblings, whose name holds no slash, have room for all.

        Raises:
            InvalidArgument: the caller sent none. asyncio.CancelledError with `call.cut`: it did
                not come in time, or
            others needed the room.
        """
        arriving = self._arriving
        if arriving.count(caller) >= ARRIVING_PER_CALLER_MAX and ("/" in caller or not caller):
            arriving.end_oldest(
                self._shed("arriving", "Too many calls without a message."), of=caller
            )
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

    def may_leave(self, context: Any) -> bool:
        """Whether an answer may be sent: always, unless those that nobody takes are too large and
        the connection has some of them. A client that opens no window for an answer never takes it,
        and nothing in grpc ends its call. A refusal needs no window."""
        return (
            self._leaving_bytes <= LEAVING_BYTES_MAX
            or self._leaving_of[context.peer()] < LEAVING_PER_CONNECTION_MAX
        )

    async def wait_to_leave(self, context: Any) -> None:
        """Waits until an answer may be sent: a client that reads has room in a moment, however busy
        we are.

        Raises:
            Unavailable: it takes nothing.
        """
        until = monotonic() + LEAVING_SECONDS_MAX
        while not self.may_leave(context):
            if monotonic() >= until:
                raise self._shed("leaving", "Too many answers wait to be taken.")
            await asyncio.sleep(LEAVING_LOOK_SECONDS)

    def leaves(self, context: Any, answer: bytes) -> None:
        """The running task, which serves a call, sends its answer from now on and ends when it is
        sent.
        """
        task = asyncio.current_task()
        if task is not None:
            peer, size = context.peer(), LEAVING_CALL_BYTES + len(answer)
            self._leaving[task] = (peer, size)
            self._leaving_of[peer] += 1
            self._leaving_bytes += size
            task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[Any]) -> None:
        peer, size = self._leaving.pop(task)
        self._leaving_bytes -= size
        self._leaving_of[peer] -= 1
        if not self._leaving_of[peer]:
            del self._leaving_of[peer]

    @contextmanager
    def waits(self, caller: str, caller_max: int) -> Iterator[None]:
        """Runs a block that waits for news on behalf of a caller.

        Raises:
            RateLimited: the caller waits as often as it may. Unavailable: too many wait, whoever
                they are.
        """
        if self._waiting[caller] >= caller_max:
            SHED.labels("waiting_caller").inc()
            raise RateLimited(
                "Too many calls of one caller are waiting.", retry_after_seconds=RETRY_SECONDS
            )
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
