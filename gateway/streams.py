"""Methods with many answers, as Server-Sent Events: each answer is an event with the envelope of
any other response, comments break silence, and the last event says how the stream ended. The head
waits for the first answer or the first heartbeat, so that an early error is an ordinary HTTP error.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import RateLimited
from gateway.handlers import RouteHandler, Upstream
from gateway.limits import bucket_of
from gateway.request import ClientGone, Receive, Request
from gateway.responses import Headers, Response, envelope
from gateway.settings import GatewaySettings
from mesh.call import CURRENT
from mesh.errors import Unavailable

# the latter: nginx would collect events
_HEADERS: Final[Headers] = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
_PING: Final = b": ping\n\n"
_BUSY_SECONDS: Final = 1.0  # when it may be worth trying again


class OpenStreams:
    """The open streams of this process. Their number is limited, for each caller and altogether;
    none is opened while the process stops.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._open: set[EventStream] = set()
        self._callers: Counter[str] = Counter()
        self._ended = False

    def open(
        self, request: Request, responses: AsyncGenerator[bytes], receive: Receive
    ) -> EventStream:
        """A stream of its own; it has to be closed.

        Raises:
            RateLimited: the caller has as many as it may have. Unavailable: too many are open, or
                the process stops.
        """
        if self._ended:
            raise _stopping()
        if len(self._open) >= self._settings.streams_max:
            raise Unavailable("Too many streams are open.", retry_after_seconds=_BUSY_SECONDS)
        name = bucket_of(request.caller, request.client)
        most = (
            self._settings.streams_per_user_max
            if request.caller.limited_as
            else self._settings.streams_per_address_max
        )
        if self._callers[name] >= most:
            raise RateLimited(
                "Too many streams of one caller are open.", retry_after_seconds=_BUSY_SECONDS
            )
        self._callers[name] += 1

        def closed() -> None:
            self._open.discard(stream)
            self._callers[name] -= 1
            if not self._callers[name]:
                del self._callers[name]

        stream = EventStream(
            responses,
            receive=receive,
            heartbeat_seconds=self._settings.stream_heartbeat_seconds,
            closed=closed,
        )
        self._open.add(stream)
        return stream

    def end(self) -> None:
        """Ends every stream with `Unavailable`; its client finds another process. None begins from
        now on.
        """
        self._ended = True
        for stream in self._open:
            stream.end(_stopping())


def _stopping() -> Unavailable:
    return Unavailable("The gateway is stopping.", retry_after_seconds=_BUSY_SECONDS)


class EventStream:
    """The answers of one call. The next one is asked for when the last one was taken, so that a
    slow client slows down its server and not our memory. Must be made inside the context of its
    call."""

    def __init__(
        self,
        responses: AsyncGenerator[bytes],
        *,
        receive: Receive,
        heartbeat_seconds: float,
        closed: Callable[[], None],
    ) -> None:
        self._responses = responses
        self._heartbeat_seconds = heartbeat_seconds
        self._closed = closed
        self._over: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._next = asyncio.create_task(self._read())
        self._watch = asyncio.create_task(self._wait_for_disconnect(receive))

    async def begin(self) -> None:
        """Waits for the first answer, or until there was silence for long enough.

        Raises:
            MeshError: the call was refused. ClientGone: the client closed the connection.
        """
        await self._wait()
        if self._next.done():
            self._next.result()

    async def responses(self) -> AsyncIterator[bytes | None]:
        """The answers after `begin`; None for a while of silence. Raises as `begin` does, at any
        time.
        """
        while True:
            if self._next.done():
                response = self._next.result()
                if response is None:
                    return
                yield response
                self._next = asyncio.create_task(self._read())
            else:
                yield None
            await self._wait()

    def end(self, reason: Exception) -> None:
        """Ends it with a reason, from outside."""
        if not self._over.done():
            self._over.set_result(reason)

    async def close(self) -> None:
        """Cancels the call if it still runs, and frees its slot."""
        self._closed()
        self._watch.cancel()
        self._next.cancel()
        await asyncio.gather(self._watch, self._next, return_exceptions=True)
        await self._responses.aclose()

    async def _read(self) -> bytes | None:
        return await anext(self._responses, None)

    async def _wait(self) -> None:
        waiting: set[asyncio.Future[Any]] = {self._next, self._over}
        await asyncio.wait(
            waiting, timeout=self._heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if self._over.done():
            raise self._over.result()

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGone())


@dataclass(frozen=True, slots=True, kw_only=True)
class EventResponse(Response):
    """The head of a response whose body is the events of a stream. Its sender closes the stream."""

    stream: EventStream
    translate: Callable[[bytes], bytes]  # response message to envelope

    async def events(self) -> AsyncIterator[bytes]:
        """The events of the answers. Raises as `EventStream.responses`, and what
        `ResponseBuilder.success` raises.
        """
        number = 0
        async for response in self.stream.responses():
            if response is None:
                yield _PING
            else:
                number += 1
                # an event is one line
                yield b"id: %d\ndata: %s\n\n" % (number, self.translate(response).rstrip())


def last_event(*, error: Response | None, trace_id: str) -> bytes:
    """The last event of a stream: `error` with the envelope of an error, else `end`."""
    if error is not None:
        return b"event: error\ndata: %s\n\n" % error.body.rstrip()
    return b"event: end\ndata: %s\n\n" % envelope(None, trace_id).rstrip()


class StreamRouteHandler(RouteHandler):
    """Serves one HTTP rule of a method with many answers."""

    def __init__(
        self, *parts: Any, upstream: Upstream, streams: OpenStreams, **others: Any
    ) -> None:
        """As RouteHandler; `streams` are those of the process."""
        super().__init__(*parts, upstream=upstream, **others)
        self._stream = upstream.stream
        self._streams = streams

    async def serve(
        self, request: Request, receive: Receive, values: tuple[bytes, ...]
    ) -> Response:
        """Authenticates, limits, translates, calls, and waits for the first answer or heartbeat."""
        call, message, metadata = await self._accept(request, receive, values)
        token = CURRENT.set(call)
        try:
            stream = self._streams.open(
                request, self._stream(self._path, message, metadata=metadata), receive
            )
        finally:
            CURRENT.reset(token)
        try:
            await stream.begin()
        except BaseException:
            await stream.close()
            raise
        trace_id = request.trace.trace_id
        return EventResponse(
            status=200,
            body=b"",
            content_type=b"",
            headers=[*_HEADERS],
            stream=stream,
            translate=lambda response: self._responses.success(response, trace_id).body,
        )
