"""grpc.health.v1 of a server. Unlike the servicer of grpcio-health-checking it ends its watches at shutdown: open watches would keep
`server.stop(grace)` waiting for the whole grace."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """States of "" (the whole process) and of each service."""

    def __init__(self, services: Iterable[str]) -> None:
        self._states = dict.fromkeys(("", *services), NOT_SERVING)
        self._changed = asyncio.Event()
        self._closing = False
        self._is_started = False
        self._is_usable = True

    @property
    def is_serving(self) -> bool:
        """Whether the whole process is SERVING."""
        return bool(self._states[""] == SERVING)

    def serve(self) -> None:
        """Everything is SERVING, as long as what the process needs can be used."""
        self._is_started = True
        self._tell()

    def stop_serving(self) -> None:
        """Everything is NOT_SERVING; watchers hear of it."""
        self._is_started = False
        self._tell()

    def set_usable(self, is_usable: bool) -> None:  # noqa: FBT001  its one argument
        """Whether what the process needs can be used; see `mesh.dependencies`."""
        self._is_usable = is_usable
        self._tell()

    def _tell(self) -> None:
        self._set(SERVING if self._is_started and self._is_usable else NOT_SERVING)

    def end_watches(self) -> None:
        """Lets every open watch end, and every later one after its first answer."""
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

    async def Watch(self, request: Any, context: Any) -> None:
        """The state of a service now and whenever it changes."""
        last = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, SERVICE_UNKNOWN)
            if state != last:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                last = state
            if self._closing:
                return
            await changed.wait()
