"""The connections to one endpoint. A server takes a fixed number of calls on a connection, further
ones would wait unseen inside grpc, so more connections are opened when those that are open are
nearly full. Most of the time there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc

from mesh.transport import STREAMS_PER_CONNECTION_MAX

# Answers that leave together are followed by as many new calls before the server has ended the old
# ones, and it refuses
# what is beyond its limit: half of it, and room for the health watch.
CALLS_MAX: Final = STREAMS_PER_CONNECTION_MAX // 2 - 2
CONNECTIONS_MAX: Final = 32


class Connections:
    """Stands where a grpc channel is expected. The first connection decides whether the endpoint is
    ready.
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
        """Waits for the first connection."""
        await self._open[0].channel.wait_for_state_change(last_observed_state)

    def unary_unary(self, path: str) -> Callable[..., Any]:
        """A callable of bytes."""
        return lambda request, **options: self._roomiest().begin(
            path, request, options, is_stream=False
        )

    def unary_stream(self, path: str) -> Callable[..., Any]:
        """A callable of bytes with many answers."""
        return lambda request, **options: self._roomiest().begin(
            path, request, options, is_stream=True
        )

    async def close(self, grace: float | None = None) -> None:
        """Closes all of them."""
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
