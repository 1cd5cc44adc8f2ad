"""The service of tests/protos/ticker.proto, whose methods answer many times: a servicer that does
what a test says, a gateway before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import httpx
import paymesh.validate_rules  # noqa: F401 - puts what ticker.proto imports into the pool
from google.api import annotations_pb2  # noqa: F401 - as above
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from paymesh.options.v1 import options_pb2  # noqa: F401 - as above

from gateway.schema import Schema, load_schema
from tests.builders.gateway import World, gateway_world
from tests.support.echo import compiled

SERVICE = "paymesh.ticking.v1.TickerService"
_OF_SERVICES = (
    "paymesh.merchant.",
    "paymesh.order.",
    "paymesh.payment.",
    "paymesh.seckill.",
    "paymesh.events.",
)


@cache
def ticker_file() -> Any:
    """The file in the default pool, as a generated module would put it there."""
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(compiled("ticker.proto").SerializeToString())
    return pool.FindFileByName("ticker.proto")


def message(name: str) -> Any:
    return message_factory.GetMessageClass(ticker_file().message_types_by_name[name])


Tick = message("Tick")


def descriptor_set() -> bytes:
    """A contract with this service alone."""
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files("paymesh").joinpath("descriptors.binpb").read_bytes()
    ).file
    return descriptor_pb2.FileDescriptorSet(
        file=[
            *(file for file in files if not file.package.startswith(_OF_SERVICES)),
            compiled("ticker.proto"),
        ]
    ).SerializeToString()


@cache
def ticker_schema() -> Schema:
    return load_schema(descriptor_set())


async def _silence(_request: Any, _context: Any) -> AsyncIterator[Any]:
    for _ in ():
        yield _


class Ticker:
    """Streams what is set in `does`."""

    def __init__(self) -> None:
        self.does: Callable[[Any, Any], AsyncIterator[Any]] = _silence
        self.requests: list[Any] = []
        self.metadata: dict[str, str] = {}
        self.ended = asyncio.Event()  # a stream was left, for whatever reason

    async def serve(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        try:
            async for tick in self.does(request, context):
                yield tick
        finally:
            self.ended.set()

    def add_to_server(self, _servicer: object, server: Any) -> None:
        """What protoc generates as add_TickerServiceServicer_to_server."""

        async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
            async for tick in self.serve(request, context):
                yield tick

        handlers = {
            method.name: grpc.unary_stream_rpc_method_handler(
                serve,
                request_deserializer=message(method.input_type.name).FromString,
                response_serializer=Tick.SerializeToString,
            )
            for method in ticker_file().services_by_name["TickerService"].methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class Gate:
    """A stream of texts that a test lets through one by one: what is put in is sent; an exception
    is raised; None ends it.
    """

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    def put(self, *items: str | Exception | None) -> None:
        for item in items:
            self._waiting.put_nowait(item)

    async def ticks(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        """For `Ticker.does`."""
        while (item := await self._waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield Tick(text=item, user_id=getattr(request, "user_id", ""))


@dataclass(frozen=True)
class Event:
    """One event, or a comment."""

    name: str = ""
    id: str = ""
    data: str = ""
    comment: str = ""


async def events(answer: httpx.Response) -> AsyncIterator[Event]:
    """What an EventSource reads. Fails on what it would not understand."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line:
            yield Event(**fields)
            fields = {}
            continue
        name, _, value = line.partition(": ")
        name = {"": "comment", "event": "name"}.get(name, name)
        assert name not in fields
        fields[name] = value
    assert fields == {}


@asynccontextmanager
async def ticker_world(folder: Path, ticker: Ticker, **settings: Any) -> AsyncIterator[World]:
    """A running gateway before a ticker."""
    async with gateway_world(
        folder,
        schema=ticker_schema(),
        serve=lambda server: server.add(ticker.add_to_server, ticker),
        **settings,
    ) as world:
        yield world
