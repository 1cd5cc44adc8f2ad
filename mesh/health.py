"""Serves grpc.health.v1. Unlike the servicer of grpcio-health-checking it ends its watches at
shutdown: open watches would make `server.stop(grace)` wait for the whole grace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.call import Call
from mesh.errors import InvalidArgument
from mesh.load import Load
from mesh.trace import Trace

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

WATCHES_PER_CONNECTION_MAX: Final = 4  # a grpc client has one for each service that it watches
WATCHES_MAX: Final = 1000  # 8 KB each
REQUEST_BYTES_MAX: Final = 256  # the name of a service


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The states of "" (the whole process) and of each service."""

    def __init__(self, services: Iterable[str]) -> None:
        self._states = dict.fromkeys(("", *services), NOT_SERVING)
        self._changed = asyncio.Event()
        self._watches: Counter[str] = Counter()  # by connection
        self._closing = False
        self._is_started = False
        self._is_usable = True

    @property
    def is_serving(self) -> bool:
        """Whether the whole process is SERVING."""
        return bool(self._states[""] == SERVING)

    def handlers(self, load: Load) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """The handlers to register. As in the pipeline, a call whose message does not arrive has a
        time limit and counts in `load`.
        """

        async def request_of(context: Any, request_class: Any) -> Any:
            call = Call(trace=Trace.start(), deadline=0)
            try:
                raw = await load.message(context, call, caller="")
                return request_class.FromString(
                    raw[: REQUEST_BYTES_MAX + 1] if len(raw) > REQUEST_BYTES_MAX else raw
                )
            except (DecodeError, InvalidArgument):
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "not a request of this method"
                )
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if call.cut is None or (task is not None and task.uncancel()):
                    raise
                await context.abort(grpc.StatusCode.UNAVAILABLE, call.cut.message)

        async def leaving(response: Any, context: Any) -> bytes:
            answer = bytes(response.SerializeToString())
            if not load.may_leave(context):
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE, "too many answers wait to be taken"
                )
            load.leaves(context, answer)
            return answer

        async def check(_messages: Any, context: Any) -> bytes:
            return await leaving(
                await self.Check(await request_of(context, health_pb2.HealthCheckRequest), context),
                context,
            )

        async def list_(_messages: Any, context: Any) -> bytes:
            return await leaving(
                await self.List(await request_of(context, health_pb2.HealthListRequest), context),
                context,
            )

        async def watch(_messages: Any, context: Any) -> None:
            await self.Watch(await request_of(context, health_pb2.HealthCheckRequest), context)

        return {
            "Check": grpc.stream_unary_rpc_method_handler(check),
            "List": grpc.stream_unary_rpc_method_handler(list_),
            "Watch": grpc.stream_stream_rpc_method_handler(watch),
        }

    def serve(self) -> None:
        """Reports SERVING for everything, as long as the dependencies are usable."""
        self._is_started = True
        self._tell()

    def stop_serving(self) -> None:
        """Reports NOT_SERVING for everything, also to watchers."""
        self._is_started = False
        self._tell()

    def set_usable(self, is_usable: bool) -> None:  # noqa: FBT001  its one argument
        """Sets whether the dependencies are usable; see `mesh.dependencies`."""
        self._is_usable = is_usable
        self._tell()

    def _tell(self) -> None:
        self._set(SERVING if self._is_started and self._is_usable else NOT_SERVING)

    def end_watches(self) -> None:
        """Ends every open watch, and every later one after its first response."""
        self._closing = True
        self._wake()

    def _set(self, state: int) -> None:
        self._states = dict.fromkeys(self._states, state)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:
        """The state of a service; NOT_FOUND when it is not served here."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=state)

    async def List(self, _request: Any, _context: Any) -> Any:
        """The states of all services."""
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=state)
                for name, state in self._states.items()
            }
        )

    async def Watch(self, request: Any, context: Any) -> None:
        """Sends the state of a service now and whenever it changes. Watches are limited per
        connection and per process. Beyond the latter limit the call is UNIMPLEMENTED, after which
        grpc clients continue without a watch."""
        peer = context.peer()
        if self._watches[peer] >= WATCHES_PER_CONNECTION_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches on one connection"
            )
        if self._watches.total() >= WATCHES_MAX:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "too many watches")
        self._watches[peer] += 1
        try:
            await self._send_changes(request.service, context)
        finally:
            self._watches[peer] -= 1
            if not self._watches[peer]:
                del self._watches[peer]

    async def _send_changes(self, service: str, context: Any) -> None:
        last = None
        while True:
            changed = self._changed
            state = self._states.get(service, SERVICE_UNKNOWN)
            if state != last:
                await context.write(
                    health_pb2.HealthCheckResponse(status=state).SerializeToString()
                )
                last = state
            if self._closing:
                return
            await changed.wait()
