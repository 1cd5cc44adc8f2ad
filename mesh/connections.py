"""Keeps the connections to one endpoint. A server takes a fixed number of calls per connection, and
grpc queues further ones without telling. So another connection is opened when all open ones are
nearly full. Most of the time there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc

from mesh.transport import STREAMS_PER_CONNECTION_MAX

# After a burst of responses as many new calls arrive before the server has ended the old ones, and
# it refuses calls beyond its limit. So half of the limit, less two for the health watch.
CALLS_MAX: Final = STREAMS_PER_CONNECTION_MAX // 2 - 2
CONNECTIONS_MAX: Final = 32


class Connections:
    """Implements the part of a grpc channel that clients use. The state of the first connection is
    the state of the endpoint.
    """

    def __init__(self, connect: Callable[[], grpc.aio.Channel]) -> None:
        self._connect = connect
        self._open = [_Connection(connect())]

    def __len__(self) -> int:
        return len(self._open)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - grpc's
        """The state of the first connection."""
        return self._open[0].channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state of the first connection changes."""
        await self._open[0].channel.wait_for_state_change(last_observed_state)

    def unary_unary(self, path: str) -> Callable[..., Any]:
        """A unary callable that takes and returns bytes."""
        return lambda request, **options: self._roomiest().begin(
            path, request, options, is_stream=False
        )

    def unary_stream(self, path: str) -> Callable[..., Any]:
        """A callable that takes bytes and returns a stream of bytes."""
        return lambda request, **options: self._roomiest().begin(
            path, request, options, is_stream=True
        )

    async def close(self, grace: float | None = None) -> None:
        """Closes all connections."""
        await asyncio.gather(*(connection.channel.close(grace) for connection in self._open))

    def _roomiest(self) -> _Connection:
        first = self._open[0]
        if first.calls < CALLS_MAX:
            return first
        best = min(self._open, key=lambda connection: connection.calls)
        if best.calls >= CALLS_MAX and len(self._open) < CONNECTIONS_MAX:
            best = _Connection(self._connect())
            self._open.append(best)
        return best


class _Connection:
    __slots__ = ("_callables", "calls", "channel")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls = 0
        self._callables: dict[str, Any] = {}

    def begin(self, path: str, request: bytes, options: dict[str, Any], *, is_stream: bool) -> Any:
        callable_ = self._callables.get(path)
        if callable_ is None:
            make: Any = self.channel.unary_stream if is_stream else self.channel.unary_unary
            callable_ = self._callables[path] = make(path)
        call = callable_(request, **options)
        self.calls += 1
        call.add_done_callback(self._ended)
        return call

    def _ended(self, _call: Any) -> None:
        self.calls -= 1
