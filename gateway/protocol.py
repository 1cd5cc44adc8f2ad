"""HTTP/1.1 on a connection, with an end to everything that uvicorn leaves open (measured: neither
slow headers nor a 300 KB header are ever cut off). A connection without a running request always
has a timer. Head, trailers, chunk framing and waiting requests have a size. An offer to speak
another protocol is declined, and its request is served as if it had made none. Whoever is cut off
is told why where it can still hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway.connection_limits import (
    DISCARDED_BYTES_MAX,
    FRAMING_BYTES_MAX,
    HEADERS_MAX,
    LARGE_BYTES,
    PARTING_SECONDS,
    PIPELINED_MAX,
    ConnectionLimits,
)
from gateway.errors import HeadersTooLarge, MalformedBody, RequestTimeout
from gateway.request import WHOLE_ANSWER, Scope
from gateway.request_head import body_framing, check_head, has_body, refusal_of_parser, split_target
from gateway.responses import Headers
from mesh.errors import InvalidArgument, MeshError
from mesh.trace import Trace
from mesh.wire_errors import COMMON


class _Refused(Exception):
    """Stops the parser in one of its callbacks: nothing that follows is looked at."""


class _Cycle(RequestResponseCycle):
    """uvicorn's request and answer, for clients of HTTP/1.0 too: an answer of unknown length ends
    with the connection and has no chunks.
    """

    async def send(self, message: Any) -> None:
        """As in uvicorn."""
        if self.scope["http_version"] == "1.0":
            if message["type"] == "http.response.body":
                self.expected_content_length = len(message.get("body", b""))
            elif all(name != b"content-length" for name, _ in message.get("headers", ())):
                self.chunked_encoding = False
        await super().send(message)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits. `with_limits` makes the class for some limits."""

    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application = self.app
        self._timer: asyncio.TimerHandle | None = None
        self._head_open = False  # a head has begun and not ended
        self._head_bytes = 0  # of it, in earlier pieces
        self._piece_bytes = 0  # in the piece that the parser is fed now
        self._body_open = False  # a head has ended and its body has not
        self._body_bytes = 0  # of its content
        self._framed_bytes = 0  # of it altogether, in whole pieces
        self._silent_bytes = 0  # of it since its last content
        self._body_ends_at = 0.0  # time of the loop
        self._fields = 0  # headers or trailers so far
        self._trailer_bytes = 0
        self._declining = False  # the parser stops at this head, because it offers another protocol
        self._replaying = False  # the parser is fed a head that was served already
        self._full = False  # too many requests wait: no further one is read on this connection
        self._refusal: MeshError | None = None  # waits for the answers of earlier requests
        self._parting = False  # a refusal was sent; whatever still comes is thrown away
        self._unsent_bytes = 0
        self._unread_bytes = 0
        # while the client reads too slowly for what we write
        self._stall: asyncio.TimerHandle | None = None

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client connected; it has to say something in time."""
        super().connection_made(transport)
        self._arm(self.limits.head_seconds, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away."""
        self._disarm()
        self._end_stall()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write. A stream that waits for it must not wait
        for ever.
        """
        super().pause_writing()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.limits.stalled_seconds, self._stalled)

    def resume_writing(self) -> None:
        """The client has read."""
        self._end_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser and watches how much of a head or of a body's framing is still open."""
        if self._parting or self._full or self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._piece_bytes = len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._broken(error)
        if self._parting or self._full or self._refusal is not None or self.transport.is_closing():
            return
        if self._head_open:
            self._head_bytes += self._piece_bytes
            if self._head_bytes > self.limits.head_bytes_max:
                self._refuse(HeadersTooLarge())
                return
        elif self._body_open:
            self._count_framing()
        if (
            self._timer is None
            and self.timeout_keep_alive_task is None
            and (self.cycle is None or self.cycle.response_complete)
        ):
            self._arm(self.limits.head_seconds, self._head_late)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._decline()
            else:
                return

    def _decline(self) -> None:
        """Goes on with the body of a request that offered another protocol (RFC 9110 7.8: the offer
        is ignored). The parser has taken the body for that other protocol; a new parser is told how
        long the body is."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it
        self._declining, self._replaying = False, True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % body_framing(self.headers))
        finally:
            self._replaying = False

    def _broken(self, error: Exception) -> None:
        """The parser stopped: in one of our callbacks, or because of bytes that are not HTTP."""
        if self._full:
            self.flow.pause_reading()
            return
        cause = error.__context__
        if isinstance(cause, MeshError):
            self._refuse(cause)
            return
        message = "Invalid HTTP request received."
        body = self._body_open and self.cycle is not None
        self._refuse(
            refusal_of_parser(str(error))
            or (MalformedBody(message) if body else InvalidArgument(message))
        )

    def _count_framing(self) -> None:
        self._framed_bytes += self._piece_bytes
        self._silent_bytes += self._piece_bytes
        if (
            self._silent_bytes > FRAMING_BYTES_MAX
            or self._framed_bytes > FRAMING_BYTES_MAX + 2 * self._body_bytes
        ):
            self._refuse(HeadersTooLarge("The chunks or trailers of the body are too large."))
        elif self.cycle.response_complete and self._framed_bytes > DISCARDED_BYTES_MAX:
            self.transport.abort()

    def eof_received(self) -> None:
        """The client will say no more; a refused one has read its answer."""
        if self._parting:
            self.transport.close()

    # The parser's side

    def on_message_begin(self) -> None:
        """A head begins."""
        if self._replaying:
            return
        if len(self.pipeline) >= PIPELINED_MAX:
            self._full = True
            # its answer, the last one, says that the connection closes: the client asks again on
            # another
            self.cycle.keep_alive = False
            raise _Refused
        super().on_message_begin()
        self._head_open, self._head_bytes, self._fields = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        if not self._replaying:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: those are counted and dropped (RFC 9110 6.5.1: they are never
        merged into the headers).
        """
        if self._replaying:
            return
        self._fields += 1
        if not self._head_open:
            self._trailer_bytes += len(name) + len(value) + 4
            if self._fields > HEADERS_MAX or self._trailer_bytes > self.limits.head_bytes_max:
                raise HeadersTooLarge("The trailers are too large.")
            return
        if self._fields > HEADERS_MAX:
            raise HeadersTooLarge(f"There are more than {HEADERS_MAX} header fields.")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A head ended: it is measured and checked, and its request starts or waits for its
        turn.
        """
        if self._replaying:
            return
        self._head_open = False
        if self._timer is not None:
            self._disarm()
        # Most heads come in one piece that is smaller than the limit; only others have to be
        # measured.
        if (
            self._head_bytes + self._piece_bytes
            > self.limits.head_bytes_max
            < self._measured_head()
        ):
            raise HeadersTooLarge
        version, method = self.parser.get_http_version(), self.parser.get_method().decode("ascii")
        check_head(version, method, self.headers)
        path, query = split_target(method, self.url)
        expects = (
            version != "1.0"
            and has_body(self.headers)
            and any(name == b"expect" for name, _ in self.headers)
        )
        self._declining = self.parser.should_upgrade()
        self._begin_body()
        self._start(
            {
                "http_version": version,
                "method": method,
                "path": path.decode("ascii"),
                "raw_path": path,
                "query_string": query,
            },
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            expects=expects,
        )

    def _begin_body(self) -> None:
        self._body_open = True
        self._body_bytes = self._fields = self._trailer_bytes = 0
        # the piece with the head in it does not count
        self._framed_bytes = self._silent_bytes = -self._piece_bytes
        self._body_ends_at = self.loop.time() + self.limits.body_seconds

    def _start(self, head: dict[str, Any], *, keep_alive: bool, expects: bool) -> None:
        scope: Scope = self.scope  # type: ignore[assignment]  # uvicorn's type knows no extra keys
        scope.update(head)
        application: Any = (
            self._application
            if len(self.connections) <= self.limits.connections_max
            else self.limits.overloaded
        )
        before = self.cycle
        self.cycle = _Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        scope[WHOLE_ANSWER] = partial(self._answer_whole, self.cycle)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, application)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, application))

    def _measured_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._body_bytes += len(body)
        self._silent_bytes = -self._piece_bytes  # the piece that holds it is added at its end
        if not self._parting:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request was received whole. When its answer went out before, only now the connection is
        idle.
        """
        if self._declining:
            return  # only the parser thinks so: the body comes
        self._body_open = False
        if self._parting:
            return
        # a trailer may say so too, and the parser then takes no further request
        if not self.parser.should_keep_alive():
            self.cycle.keep_alive = False
        super().on_message_complete()
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()
        elif self.cycle.response_complete and not self.transport.is_closing():
            self._disarm()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """An answer was sent. The rest of a body that nobody waited for may still come, for a
        while: closing at once would destroy the answer.
        """
        waiting = bool(self.pipeline)
        super().on_response_complete()
        if self.transport.is_closing() or waiting:
            return
        if self._refusal is not None:
            self._reject_and_close(self._refusal)
        elif self.cycle.more_body and self.cycle.response_complete:
            self._arm(
                max(PARTING_SECONDS, self._body_ends_at - self.loop.time()), self.transport.abort
            )

    async def _answer_whole(
        self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes
    ) -> None:
        """Sends a whole answer in one piece: what `cycle.send` does in two, without looking at
        headers that we made ourselves.
        """
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        if status == 429 and self.pipeline:
            # a client that sends faster than allowed gets no queue of refusals
            cycle.keep_alive = False
        pieces = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            pieces += (name, b": ", value, b"\r\n")
        for name, value in headers:
            pieces += (name, b": ", value, b"\r\n")
        pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        large = len(body) >= LARGE_BYTES
        if cycle.scope["method"] != "HEAD" and not large:
            pieces.append(body)
        self.transport.write(b"".join(pieces))
        if cycle.scope["method"] != "HEAD" and large:
            self.transport.write(body)  # the same bytes for everybody who waits for them
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
            self._arm(self.limits.stalled_seconds, self._close_late)
        cycle.on_response()

    # uvicorn's own decisions

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        self.timeout_keep_alive_task = None
        self.transport.close()
        self._close_late()

    # Timers

    def _arm(self, seconds: float, late: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_late(self) -> None:
        self._timer = None
        if self._head_open:
            self._reject_and_close(RequestTimeout())
        else:
            self.transport.close()

    def _close_late(self) -> None:
        """The connection is closing. A client that still reads its answer may go on; one that has
        stopped is cut off.
        """
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self._arm(self.limits.stalled_seconds, self._close_late)
        elif unsent:
            self.transport.abort()

    def _stalled(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == self._unread_bytes:
            self.transport.abort()
        else:
            self._unread_bytes = unread
            self._stall = self.loop.call_later(self.limits.stalled_seconds, self._stalled)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    # Refusals of the connection itself

    def _refuse(self, refusal: MeshError) -> None:
        """Says why and closes, after the answers of the requests before this one."""
        cycle = self.cycle
        waits = cycle is not None and not cycle.response_complete
        if self._body_open and self.pipeline:
            # the request with the broken body is the last that waits; this is its answer
            self.pipeline.popleft()
        elif self._body_open or not waits:
            self._reject_and_close(refusal)
            return
        self._refusal = refusal
        self.flow.pause_reading()

    def _reject_and_close(self, refusal: MeshError) -> None:
        """Says why, then closes: at once when the client closes its side, at the latest after
        PARTING_SECONDS.
        """
        self._parting = True
        self._unset_keepalive_if_required()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                # an answer now would stand inside the one that is being sent
                self.transport.abort()
                return
            # the running request waits for a body that will never be whole
            cycle.disconnected = True
            cycle.message_event.set()
        answer = self.limits.error_renderer.render(
            refusal, package=COMMON, trace_id=Trace.start().trace_id
        )
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[answer.status],
                    b"content-type: ",
                    answer.content_type,
                    b"\r\ncontent-length: %d" % len(answer.body),
                    b"\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
                    answer.body,
                )
            )
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._arm(PARTING_SECONDS, self.transport.abort)


def with_limits(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """The protocol class for some limits; uvicorn makes one object of it per connection."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})
