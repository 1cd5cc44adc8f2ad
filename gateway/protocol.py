"""HTTP/1.1 on a connection, with an end to everything that uvicorn leaves open (measured: neither slow headers nor a 300 KB header are ever cut off).
A connection without a running request always has a timer, a head has a size, and whoever is cut off is told why where it can still hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.answers import Headers
from gateway.intake import WHOLE_ANSWER, Receive, Scope, Send
from gateway.refusals import HeadersTooLarge, MalformedBody, Refusals, RequestTimeout
from mesh.errors import InvalidArgument, MeshError
from mesh.trace import Trace
from mesh.wire_errors import COMMON

PARTING_SECONDS: Final = 2.0  # how long a refused client may take to read why


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a connection may do."""

    head_bytes_max: int
    head_seconds: float   # a head, from the connection or its first byte
    body_seconds: float   # the rest of a body whose request was answered early
    connections_max: int
    overloaded: Callable[[Scope, Receive, Send], Any]  # ASGI application that refuses
    refusals: Refusals


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits. `bounded` makes the class for some rules."""

    rules: ClassVar[Rules]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._application = self.app
        self._timer: asyncio.TimerHandle | None = None
        self._head_open = False  # a head has begun and not ended
        self._head_bytes = 0     # of it, in earlier pieces
        self._piece_bytes = 0    # in the piece that the parser is fed now
        self._parting = False    # a refusal was sent; whatever still comes is thrown away
        self._unsent_bytes = 0
        self._unread_bytes = 0
        self._stall: asyncio.TimerHandle | None = None  # while the client reads too slowly for what we write

    # The transport's side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """A client connected; it has to say something in time."""
        super().connection_made(transport)
        self._arm(self.rules.head_seconds, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client went away."""
        self._disarm()
        self._end_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write. A stream that waits for it must not wait for ever."""
        super().pause_writing()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.timeout_keep_alive, self._stalled)

    def resume_writing(self) -> None:
        """The client has read."""
        self._end_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser and watches how much of a head is still open."""
        if self._parting:
            return
        self._piece_bytes = len(data)
        super().data_received(data)
        if self._parting or self.transport.is_closing():
            return
        if self._head_open:
            self._head_bytes += self._piece_bytes
            if self._head_bytes > self.rules.head_bytes_max:
                self._part(HeadersTooLarge())
                return
        if self._timer is None and self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            self._arm(self.rules.head_seconds, self._head_late)

    def eof_received(self) -> None:
        """The client will say no more; a refused one has read its answer."""
        if self._parting:
            self.transport.close()

    # The parser's side

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_open, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """A head ended: it is measured, and its request starts."""
        self._head_open = False
        if self._timer is not None:
            self._disarm()
        # Most heads come in one piece that is smaller than the limit; only others have to be measured.
        if self._head_bytes + self._piece_bytes > self.rules.head_bytes_max < self._measured_head():
            self._part(HeadersTooLarge())
            raise httptools.HttpParserError  # stops the parser; nothing of this request may start
        self.app = self._application if len(self.connections) <= self.rules.connections_max else self.rules.overloaded
        scope: Scope = self.scope  # type: ignore[assignment]  # uvicorn's type knows no extra keys
        super().on_headers_complete()
        scope[WHOLE_ANSWER] = partial(self._answer_whole, self.cycle)

    def _measured_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if not self._parting:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request was received whole. When its answer went out before, only now the connection is idle."""
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._disarm()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """An answer was sent. The rest of a body that nobody waited for may still come, for a while: closing at once would destroy the answer."""
        super().on_response_complete()
        if self.cycle.more_body and self.cycle.response_complete and not self.transport.is_closing():
            self._arm(self.rules.body_seconds, self.transport.abort)

    async def _answer_whole(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
        """Sends a whole answer in one piece: what `cycle.send` does in two, without looking at headers that we made ourselves."""
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        pieces = [STATUS_LINE[status]]
        for name, value in self.server_state.default_headers:
            pieces += (name, b": ", value, b"\r\n")
        for name, value in headers:
            pieces += (name, b": ", value, b"\r\n")
        pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        if cycle.scope["method"] != "HEAD":
            pieces.append(body)
        self.transport.write(b"".join(pieces))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
            self._arm(self.timeout_keep_alive, self._close_late)
        cycle.on_response()

    # uvicorn's own decisions

    def send_400_response(self, msg: str) -> None:
        """Bytes that are not HTTP."""
        if not self._parting:
            self._part(InvalidArgument(msg) if self._head_open or self.cycle is None else MalformedBody(msg))

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        self.timeout_keep_alive_task = None
        self.transport.close()
        self._close_late()

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever wants WebSockets gets HTTP; a line per attempt would let strangers fill the log."""

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
            self._part(RequestTimeout())
        else:
            self.transport.close()

    def _close_late(self) -> None:
        """The connection is closing. A client that still reads its answer may go on; one that has stopped is cut off."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent != self._unsent_bytes:
            self._unsent_bytes = unsent
            self._arm(self.timeout_keep_alive, self._close_late)
        elif unsent:
            self.transport.abort()

    def _stalled(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread == self._unread_bytes:
            self.transport.abort()
        else:
            self._unread_bytes = unread
            self._stall = self.loop.call_later(self.timeout_keep_alive, self._stalled)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _part(self, refusal: MeshError) -> None:
        """Says why, then closes: at once when the client closes its side, at the latest after PARTING_SECONDS."""
        self._parting = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body:
                self.transport.abort()  # it pipelined: an answer now would stand before or inside the one that it waits for
                return
            cycle.disconnected = True   # the running request waits for a body that will never be whole
            cycle.message_event.set()
        answer = self.rules.refusals.answer(refusal, package=COMMON, trace_id=Trace.start().trace_id)
        self.transport.write(b"".join((
            STATUS_LINE[answer.status], b"content-type: ", answer.content_type, b"\r\ncontent-length: %d" % len(answer.body),
            b"\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n", answer.body)))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._arm(PARTING_SECONDS, self.transport.abort)


def bounded(rules: Rules) -> type[BoundedProtocol]:
    """The protocol class for some rules; uvicorn makes one object of it per connection."""
    return type("BoundedProtocol", (BoundedProtocol,), {"rules": rules})
