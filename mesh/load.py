"""Counts the work in flight in a server and sheds calls beyond its limits. Each kind has a limit of
its own, so that none can starve another: calls whose message has not arrived, running calls, calls
that wait for a change, responses that their clients have not read, streams.

Calls that were refused by their headers are not counted.
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
# calls that wait for a change; the other half of RUNNING_MAX stays for calls that do not wait
WAITING_MAX: Final = 1000
ARRIVING_MAX: Final = 2000  # calls whose message has not arrived
# Per caller; all anonymous callers count as one. Half of a large message is buffered for each call.
ARRIVING_PER_CALLER_MAX: Final = 64
# From the headers of a call to its message. The two arrive together, except on broken networks and
# from attackers.
MESSAGE_SECONDS_MAX: Final = 5.0
LEAVING_BYTES_MAX: Final = 8 * 2**20  # responses that their clients have not read
# unread responses per connection, once LEAVING_BYTES_MAX is exceeded
LEAVING_PER_CONNECTION_MAX: Final = 16
# what grpc keeps for such a call besides its response, measured
LEAVING_CALL_BYTES: Final = 16 * 1024
LEAVING_SECONDS_MAX: Final = 0.2  # how long a response waits until it may be sent
LEAVING_LOOK_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 1.0  # sent to shed callers as the retry delay
OVERLOAD_SECONDS: Final = 5.0  # how long a server counts as overloaded after it shed a call

SHED: Final = MetricCounter(
    "paymesh_server_shed", "Calls that were turned away for want of room.", ["kind"]
)
WAITING: Final = Gauge("paymesh_server_waiting_calls", "Calls that wait for news.")


class Load:
    """Counters and limits of the work in flight in one server."""

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
        """Calls that wait for a change."""
        return self._waiting.total()

    @property
    def arriving(self) -> int:
        """Calls whose message has not arrived."""
        return len(self._arriving)

    @property
    def is_overloaded(self) -> bool:
        """Whether a call was shed within the last OVERLOAD_SECONDS."""
        return self._shed_at is not None and monotonic() - self._shed_at < OVERLOAD_SECONDS

    async def message(self, context: Any, call: Call, *, caller: str) -> bytes:
        """Reads the only message of a call. When too many calls wait for theirs, the oldest is
        refused: a message comes within milliseconds of its headers or never. `caller` is "" for
        anonymous callers. Siblings (no slash in the name) are bound only by the total.

        Raises:
            InvalidArgument: the caller sent none.
            asyncio.CancelledError: with `call.cut`; it did not come in time, or the call was shed.
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
        """Counts a call as running, until `end`.

        Raises:
            Unavailable: too many calls run. Nothing was done; another replica may take the call.
        """
        if self.running >= self._running_max:
            raise self._shed("running", "Too many calls are running.")
        self.running += 1
        call.is_running = True

    def end(self, call: Call) -> None:
        """Counts a call as ended; does nothing for one that never ran."""
        if call.is_running:
            call.is_running = False
            self.running -= 1

    def may_leave(self, context: Any) -> bool:
        """Whether a response may be sent: always, unless unread responses exceed the byte limit and
        the connection holds its share of them. A client that opens no flow-control window never
        reads the response, and grpc never ends its call. A refusal needs no window."""
        return (
            self._leaving_bytes <= LEAVING_BYTES_MAX
            or self._leaving_of[context.peer()] < LEAVING_PER_CONNECTION_MAX
        )

    async def wait_to_leave(self, context: Any) -> None:
        """Waits until a response may be sent. A client that reads frees its share in a moment, even
        when this server is busy.

        Raises:
            Unavailable: the client reads nothing.
        """
        until = monotonic() + LEAVING_SECONDS_MAX
        while not self.may_leave(context):
            if monotonic() >= until:
                raise self._shed("leaving", "Too many answers wait to be taken.")
            await asyncio.sleep(LEAVING_LOOK_SECONDS)

    def leaves(self, context: Any, answer: bytes) -> None:
        """Counts the response of the current task as unread until the task ends, which is when the
        response is sent.
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
        """Runs a block that waits for a change on behalf of a caller.

        Raises:
            RateLimited: the caller has `caller_max` waiting calls.
            Unavailable: too many calls of all callers wait.
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
