"""A process that does to an `EchoService` what strangers do, and keeps it up until it is killed:
`python -m tests.support.echo_flood PORT KIND`.

It prints a line when everything is on its way, and again each time it has repeated it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2

from tests.support.echo import EchoRequest, path

CONNECTIONS = 20
CALLS = 220  # on each of them: more than a server lets begin at once
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Unwilling:
    """A connection that opens no window for answers (RFC 9113, 6.9.2): whatever it is answered
    stays with the server.
    """

    @staticmethod
    async def calls(port: int, method: str, message: bytes) -> asyncio.StreamWriter:
        """Makes as many calls as a server lets begin on one connection, and waits for the headers
        of the answers.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        no_window = b"\x00\x04\x00\x00\x00\x00"
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, no_window))
        await reader.read(100)
        writer.write(frame(SETTINGS, ACKNOWLEDGED, 0, b""))
        for stream in range(1, 2 * UNWILLING_CALLS, 2):
            writer.write(frame(HEADERS, END_OF_HEADERS, stream, header_block(method)))
            writer.write(
                frame(DATA, END_OF_STREAM, stream, b"\x00" + len(message).to_bytes(4) + message)
            )
        await writer.drain()
        await reader.readexactly(UNWILLING_CALLS * len(frame(HEADERS, 0, 0, b"")))
        return writer


DATA, HEADERS, SETTINGS = 0, 1, 4
END_OF_STREAM, ACKNOWLEDGED, END_OF_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def header_block(method: str) -> bytes:
    """The headers of a call, without compression (RFC 7541, 6.2.2)."""
    fields = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    return b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields
    )


def channel(port: int) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(
        f"127.0.0.1:{port}",
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
    )


def headers_only(method: str, *, streams: bool = False) -> Callable[[Any], list[Any]]:
    """Calls that begin, and never send their message."""

    def begin(connection: Any) -> list[Any]:
        make = connection.stream_stream if streams else connection.stream_unary
        return [make(method)() for _ in range(CALLS)]

    return begin


def watches(connection: Any) -> list[Any]:
    """Health watches."""
    make = connection.unary_stream(HEALTH_WATCH)
    return [make(health_pb2.HealthCheckRequest().SerializeToString()) for _ in range(CALLS)]


def of(method: str, raw: bytes, *, calls: int = CALLS) -> Callable[[Any], list[Any]]:
    """The same request again and again."""

    def begin(connection: Any) -> list[Any]:
        make = connection.unary_unary(method)
        return [make(raw) for _ in range(calls)]

    return begin


KINDS: dict[str, Callable[[Any], list[Any]]] = {
    "headers of a public method": headers_only(path("Browse")),
    "headers of a method for users": headers_only(path("Own")),
    "headers of a stream": headers_only(path("Follow"), streams=True),
    "headers of a method that is not there": headers_only(path("Nothing")),
    "headers of a health check": headers_only("/grpc.health.v1.Health/Check"),
    "headers of a health watch": headers_only(HEALTH_WATCH, streams=True),
    "reflection that asks nothing": headers_only(REFLECTION, streams=True),
    "health watches": watches,
    "long polls of one caller": of(
        path("Poll"), EchoRequest(text="me", wait_ms=3000).SerializeToString()
    ),
    "a list of 340 000 empty items": of(path("Browse"), b"\x2a\x00" * 340_000, calls=1),
    "a list that is just not too large": of(path("Browse"), b"\x2a\x00" * 2000, calls=20),
    "a list one item too long": of(path("Browse"), b"\x2a\x00" * 4),
    "a map of many pairs": of(
        path("Browse"), EchoRequest(counts={str(n): n for n in range(300)}).SerializeToString()
    ),
    "a long text": of(path("Browse"), EchoRequest(text="a" * 4000).SerializeToString()),
    "a megabyte of text": of(
        path("Browse"), EchoRequest(text="a" * 1_000_000).SerializeToString(), calls=4
    ),
    "a megabyte of bytes": of(
        path("Browse"), EchoRequest(raw=b"a" * 1_000_000).SerializeToString(), calls=4
    ),
    "a megabyte of unknown fields": of(path("Browse"), b"\xf8\x3f\x01" * 330_000, calls=4),
    "messages inside messages": of(path("Browse"), b"\x22\x80\x01" * 1000, calls=20),
}


# What each connection asks for without ever taking the answer: method and message.
NEVER_TAKEN: dict[str, tuple[str, bytes]] = {
    "health checks whose answers nobody takes": ("/grpc.health.v1.Health/Check", b""),
    "health lists whose answers nobody takes": ("/grpc.health.v1.Health/List", b""),
    "answers that nobody takes": (path("Browse"), EchoRequest(text="a" * 30).SerializeToString()),
}
UNWILLING_CONNECTIONS, UNWILLING_CALLS = 40, 100


async def take_nothing(port: int, kind: str) -> None:
    """Asks, and keeps the connections without opening a window for the answers."""
    connections = [
        await Unwilling.calls(port, *NEVER_TAKEN[kind]) for _ in range(UNWILLING_CONNECTIONS)
    ]
    while True:
        sys.stdout.write(f"{len(connections) * UNWILLING_CALLS}\n")
        sys.stdout.flush()
        await asyncio.sleep(1.0)


async def main(port: int, kind: str) -> None:
    """Floods."""
    if kind in NEVER_TAKEN:
        await take_nothing(port, kind)
    begin = KINDS[kind]
    connections = [channel(port) for _ in range(CONNECTIONS)]
    while True:
        calls = [call for connection in connections for call in begin(connection)]
        sys.stdout.write(f"{len(calls)}\n")
        sys.stdout.flush()
        waiting = [asyncio.ensure_future(call.code()) for call in calls]
        await asyncio.wait(waiting, timeout=1.0)
        for call in calls:
            call.cancel()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
