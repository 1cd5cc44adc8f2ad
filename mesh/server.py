"""Runs a server of the mesh: one port, one event loop, every method behind the pipeline, and the
health and reflection services.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from mesh.auth import CallerTokens, UserTokens
from mesh.clock import Clock
from mesh.clock_skew import ClockWatch
from mesh.discovery import Endpoint, Registrar
from mesh.errors import MeshError
from mesh.extra_callers import admit
from mesh.health import Health
from mesh.ids import Ids
from mesh.load import Load
from mesh.logs import CallLog, get_logger
from mesh.metrics import MetricsPort
from mesh.pipeline import Pipeline
from mesh.policies import MethodPolicy, PolicyInvalid, load_policies
from mesh.process import exempt_from_gc
from mesh.reflection import Reflection
from mesh.settings import MeshSettings
from mesh.streams import ServedStreams
from mesh.transport import server_credentials, server_options
from mesh.wire_errors import ErrorCatalogue

# for each step after the grace of running calls: ending them, workers, connections
STOP_SECONDS = 1.0
STOP_TELL_SECONDS = 0.5  # a step that takes longer is logged

log = get_logger()

# a string, because the type is generic in the stubs only
_Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# grpc logs a traceback when a response cannot be sent because the client has just disconnected.
logging.getLogger("grpc._cython.cygrpc").addFilter(
    lambda record: not record.getMessage().startswith("ExecuteBatchError raised in core")
)


class Capture:
    """Stands in for a server while generated code registers a servicer."""

    def __init__(self) -> None:
        self.generic: dict[str, grpc.ServiceRpcHandler] = {}
        self.registered: dict[str, _Handlers] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.generic[handler.service_name() or ""] = handler

    def add_registered_method_handlers(self, service_name: str, method_handlers: _Handlers) -> None:
        self.registered[service_name] = method_handlers

    def services(self) -> Iterable[str]:
        return {**self.generic, **self.registered}

    def handler(self, policy: MethodPolicy) -> grpc.RpcMethodHandler[Any, Any] | None:
        registered = self.registered.get(policy.service)
        if registered is not None:
            return registered.get(policy.method)
        return self.generic[policy.service].service(_CallDetails(policy.path))


class _CallDetails(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class MeshServer:
    """A server: `add` servicers, `start`, `stop`. Must be made inside the running loop."""

    def __init__(
        self,
        settings: MeshSettings,
        *,
        clock: Clock,
        ids: Ids,
        user_tokens: UserTokens | None = None,
        caller_tokens: CallerTokens | None = None,
    ) -> None:
        """Tokens come from the settings unless they are given.

        Raises:
            ValueError: a key file is invalid.
        """
        self._settings = settings
        self.clock_watch = ClockWatch()
        self._user_tokens = user_tokens or UserTokens.from_settings(
            settings, clock=clock, watch=self.clock_watch
        )
        self._caller_tokens = caller_tokens or CallerTokens.from_settings(
            settings, clock=clock, ids=ids, watch=self.clock_watch
        )
        self._capture = Capture()
        self._server: grpc.aio.Server | None = None
        self._health = Health(())
        self._streams = ServedStreams(settings.streams_max)
        self._metrics = MetricsPort(is_serving=lambda: self._health.is_serving)
        self.load = Load()
        self._call_log = CallLog(settings.service, level=settings.log_level)
        self.port = 0
        self.policies: dict[str, MethodPolicy] = {}

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Adds a servicer by the generated function that registers it, e.g.
        `add(add_PaymentServiceServicer_to_server, servicer)`.
        """
        add_to_server(servicer, self._capture)

    @property
    def metrics_port(self) -> int:
        """The port of /metrics; 0 before `start`."""
        return self._metrics.port

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the proto services."""
        return tuple(sorted(self._capture.services()))

    @property
    def caller_tokens(self) -> CallerTokens:
        """The caller tokens of this process, for its `MeshChannel`s."""
        return self._caller_tokens

    async def start(self) -> None:
        """Opens the ports and serves. After an error nothing is served.

        Raises:
            PolicyInvalid: names all methods without a valid policy.
            PlaintextRefused: no TLS beyond loopback.
            OSError: a port is taken, or a file cannot be read.
        """
        try:
            await self._start()
        except BaseException:
            await self._close(None)
            raise

    async def _start(self) -> None:
        descriptors = [descriptor_pool.Default().FindServiceByName(name) for name in self.services]
        self.policies = admit(_load_all(descriptors), self._settings.extra_callers)
        credentials = server_credentials(self._settings)
        self._health = Health(self.services)
        largest = max((policy.max_request_bytes for policy in self.policies.values()), default=0)
        # No maximum_concurrent_rpcs: it would count calls whose message never arrives. `Load`
        # limits each kind of call instead.
        self._server = server = grpc.aio.server(options=server_options(max_request_bytes=largest))
        catalogue = ErrorCatalogue.of_packages(
            {policy.package for policy in self.policies.values()}
        )
        pipeline = Pipeline(
            user_tokens=self._user_tokens,
            caller_tokens=self._caller_tokens,
            catalogue=catalogue,
            is_development=self._settings.is_development,
            call_log=self._call_log,
            streams=self._streams,
            load=self.load,
            relays=self._settings.relay_networks,
        )
        for descriptor in descriptors:
            self._wrap(descriptor, pipeline, server)
        reflection = Reflection(
            (*self.services, _HEALTH),
            self._user_tokens,
            catalogue,
            is_open=self._settings.is_development,
        )
        for service, handlers in {
            _HEALTH: self._health.handlers(self.load),
            **reflection.handlers(),
        }.items():
            _register(server, service, handlers)
        await self._metrics.start(self._settings.metrics_host, self._settings.metrics_port)
        # last: grpc may release the port of a server that never started much later
        self.port = self._open_port(server, credentials)
        await server.start()
        self._health.serve()
        log.info(
            "serving",
            host=self._settings.host,
            port=self.port,
            metrics_port=self.metrics_port,
            services=list(self.services),
        )

    def set_usable(self, is_usable: bool) -> None:  # noqa: FBT001  its one argument
        """Reports NOT_SERVING while a dependency is unusable; called by `mesh.dependencies`."""
        self._health.set_usable(is_usable)

    async def stop(
        self, grace_seconds: float | None = None, *, registrar: Registrar | None = None
    ) -> None:
        """Reports NOT_SERVING, deregisters, waits until callers know, ends streams, lets running
        calls end, closes. Idempotent.
        """
        if self._server is None:
            return
        self._health.stop_serving()
        if registrar is not None:
            await registrar.deregister()
        await asyncio.sleep(self._settings.drain_seconds)
        self._health.end_watches()
        self._streams.end()
        await self._close(self._settings.grace_seconds if grace_seconds is None else grace_seconds)
        log.info("stopped", port=self.port)

    async def _close(self, grace_seconds: float | None) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_seconds)
        self._call_log.flush()
        await self._metrics.stop()

    def _wrap(
        self, descriptor: ServiceDescriptor, pipeline: Pipeline, server: grpc.aio.Server
    ) -> None:
        wrapped = {}
        for method in descriptor.methods:
            policy = self.policies[f"/{descriptor.full_name}/{method.name}"]
            handler = self._capture.handler(policy)
            if handler is None:
                raise PolicyInvalid(f"{method.full_name}: the servicer has no handler for it")
            wrapped[method.name] = pipeline.wrap(
                policy, handler, message_factory.GetMessageClass(method.input_type)
            )
        _register(server, descriptor.full_name, wrapped)

    def _open_port(
        self, server: grpc.aio.Server, credentials: grpc.ServerCredentials | None
    ) -> int:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            return (
                server.add_insecure_port(address)
                if credentials is None
                else server.add_secure_port(address, credentials)
            )
        except RuntimeError as problem:  # grpc raises it for a port that is taken
            raise OSError(f"port: cannot listen on {address}") from problem


def _register(server: grpc.aio.Server, service: str, handlers: _Handlers) -> None:
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, dict(handlers)),)
    )
    server.add_registered_method_handlers(service, dict(handlers))


def _load_all(descriptors: Iterable[ServiceDescriptor]) -> dict[str, MethodPolicy]:
    policies: dict[str, MethodPolicy] = {}
    problems = []
    for descriptor in descriptors:
        try:
            policies.update(load_policies(descriptor))
        except PolicyInvalid as problem:
            problems.append(str(problem))
    if problems:
        raise PolicyInvalid("; ".join(problems))
    return policies


class Runs(Protocol):
    """Background work; `mesh.worker.Worker` is one."""

    async def run(self) -> None:
        """Works until `stop`."""
        ...

    def stop(self) -> None:
        """Ends `run` after the present item."""
        ...


async def serve(
    settings: MeshSettings,
    server: MeshServer,
    registrar: Registrar,
    *,
    workers: Sequence[Runs] = (),
    version: str = "",
    closers: Sequence[Callable[[], Any]] = (),
) -> None:
    """The main loop of a process: starts, registers, serves until SIGTERM or SIGINT (or a worker
    fails), then stops in reverse order.

    Args:
        workers: run beside the server; stopped after the last call has ended.
        closers: async functions, awaited in order at the end: channels, then databases.

    Raises:
        Exception: the error of a worker, or an error of `MeshServer.start`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    tasks: list[asyncio.Task[None]] = []
    try:
        await server.start()
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        await _announce(settings, server, registrar, version)
        exempt_from_gc()
        await stop.wait()
    finally:
        until = loop.time() + settings.drain_seconds + settings.grace_seconds
        await _within(server.stop(registrar=registrar), "calls", until=until + STOP_SECONDS)
        for worker in workers:
            worker.stop()
        await _within(
            asyncio.gather(*tasks, return_exceptions=True),
            "workers",
            until=max(until, loop.time() + STOP_SECONDS),
        )
        results = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        until = loop.time() + STOP_SECONDS
        for close in closers:
            await _within(close(), getattr(close, "__qualname__", "closing"), until=until)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _within(work: Awaitable[Any], what: str, *, until: float) -> None:
    """Waits for a step of the shutdown, and logs when it takes long. A step that is not done at
    `until` (by the clock of the loop) is cancelled. A process that does not end would be killed,
    and all steps tolerate a kill."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    if not (await asyncio.wait((task,), timeout=STOP_TELL_SECONDS))[0]:
        log.info("stop_waits", what=what, seconds_left=round(until - loop.time(), 1))
        if not (await asyncio.wait((task,), timeout=max(0.0, until - loop.time())))[0]:
            log.warning("stop_gave_up", what=what)
            task.cancel()
            await asyncio.wait((task,), timeout=STOP_TELL_SECONDS)
            return
    task.result()


async def _announce(
    settings: MeshSettings, server: MeshServer, registrar: Registrar, version: str
) -> None:
    meta = {"version": version, "metrics_port": str(server.metrics_port)}
    try:
        await registrar.register(
            service=settings.service,
            endpoint=Endpoint(settings.advertised_host, server.port),
            grpc_services=server.services,
            meta=meta,
            tls=settings.tls_cert_file is not None,
        )
    # Consul is not needed to serve calls; registration is tried again in the background
    except MeshError as problem:
        log.warning("not_registered", problem=problem.message)
