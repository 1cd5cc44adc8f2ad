"""Calls to a sibling service: `MeshChannel` stands where generated stubs expect a channel.

Every call has a deadline (the method's, shortened on each hop) and names this process; how often it
is sent, and where, is decided in `attempts`. What comes back is an answer or a `MeshError`, never
an AioRpcError.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from time import monotonic
from typing import Any, Final, Self

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool

from mesh.attempts import CALL_SECONDS_MIN, CANCELLED, Attempts, Outgoing, OutgoingMethod
from mesh.auth import CallerTokens
from mesh.call import CALLER, CURRENT, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT, Call, Caller, Role
from mesh.connector import Connector
from mesh.discovery import Discovery
from mesh.errors import DeadlineExceeded, InvalidArgument, MeshError, RemoteError
from mesh.languages import ACCEPT_LANGUAGE
from mesh.replicas import FAIL_FAST_SECONDS, Replicas
from mesh.settings import MeshSettings
from mesh.trace import Trace

# kept back from our own deadline, so that we can still answer when a sibling uses all of its time
DEADLINE_MARGIN_SECONDS: Final = 0.02

Metadata = Iterable[tuple[str, str | bytes]]


class MeshChannel(grpc.aio.Channel):
    """A channel to all replicas of one service. Must be made inside the running loop; connects at
    once, in the background.
    """

    def __init__(
        self,
        service: str,
        *,
        settings: MeshSettings,
        discovery: Discovery,
        caller_tokens: CallerTokens | None = None,
        pool: DescriptorPool | None = None,
        fail_fast_seconds: float = FAIL_FAST_SECONDS,
        rng: random.Random | None = None,
    ) -> None:
        """
        Args:
            service: name of the process, e.g. "order_rpc".
            caller_tokens: names this process when it has a key.
            pool: where the methods are described; the generated modules by default.
        """
        self._service = service
        self._caller_tokens = (
            caller_tokens if caller_tokens is not None and caller_tokens.can_sign else None
        )
        self._pool = pool or descriptor_pool.Default()
        connector = Connector(service, settings)
        self._methods: dict[str, OutgoingMethod] = {}
        self._replicas = Replicas(
            service,
            discovery.watch(service),
            connector.connect,
            fail_fast_seconds=fail_fast_seconds,
            rng=rng,
        )
        self._attempts = Attempts(
            self._replicas,
            rng or random.Random(),  # noqa: S311 - jitter
        )
        self._renewal = asyncio.create_task(connector.follow_certificates(self._replicas.renew))

    # What generated stubs use

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002  - grpc's signature
    ) -> Any:
        """A callable `(request, *, timeout=None, metadata=None)` that returns an awaitable of the
        answer. Raises PolicyInvalid or KeyError for a method that the contract does not
        describe."""
        bound = self._method(method)
        serialize, deserialize = request_serializer or bytes, response_deserializer or bytes

        async def call(
            request: Any,
            *,
            timeout: float | None = None,
            metadata: Metadata | None = None,
            **_ignored: Any,
        ) -> Any:
            answer, _ = await self._call(
                bound, serialize(request), metadata or (), timeout, want_trailing=False
            )
            return deserialize(answer)

        return call

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,  # noqa: FBT001, FBT002  - grpc's signature
    ) -> Any:
        """A callable that returns an async iterator of the answers. Repeated as any other call
        until the first answer came, and never after it. A caller that stops early closes the
        iterator (`contextlib.aclosing`); that cancels the call."""
        bound = self._method(method)
        serialize, deserialize = request_serializer or bytes, response_deserializer or bytes

        async def call(
            request: Any,
            *,
            timeout: float | None = None,
            metadata: Metadata | None = None,
            **_ignored: Any,
        ) -> AsyncGenerator[Any]:
            async with aclosing(
                self._stream(bound, serialize(request), metadata or (), timeout)
            ) as answers:
                async for answer in answers:
                    yield deserialize(answer)

        return call

    def stream_unary(self, *_args: Any, **_options: Any) -> Any:
        """Not offered: the pipeline serves no streaming requests. Stubs may still be built."""
        return _not_offered

    def stream_stream(self, *_args: Any, **_options: Any) -> Any:
        """Not offered, as stream_unary."""
        return _not_offered

    # What the gateway uses

    async def call(
        self, path: str, request: bytes, *, metadata: Metadata = (), timeout: float | None = None
    ) -> tuple[bytes, Metadata]:
        """Calls a method by its path with bytes.

        Returns:
            The answer's bytes and the trailing metadata.

        Raises:
            RemoteError: the sibling refused. UpstreamUnavailable: nobody answered.
                DeadlineExceeded: not in time.
            PolicyInvalid, KeyError: a method that the contract does not describe.
        """
        return await self._call(self._method(path), request, metadata, timeout, want_trailing=True)

    def stream(
        self, path: str, request: bytes, *, metadata: Metadata = (), timeout: float | None = None
    ) -> AsyncGenerator[bytes]:
        """As `call`, for a method with many answers; see `unary_stream`."""
        return self._stream(self._method(path), request, metadata, timeout)

    @property
    def is_ready(self) -> bool:
        """Whether a replica is connected and says SERVING."""
        return self._replicas.any_ready

    # The rest of grpc.aio.Channel

    async def channel_ready(self) -> None:
        """Waits until a replica is ready.

        Raises:
            UpstreamUnavailable: nobody was reachable for longer than a second.
        """
        await self._replicas.pick(float("inf"))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: ARG002, FBT001, FBT002 - grpc's signature
        """READY or TRANSIENT_FAILURE; connecting is not up to the caller."""
        return (
            grpc.ChannelConnectivity.READY
            if self.is_ready
            else grpc.ChannelConnectivity.TRANSIENT_FAILURE
        )

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Not offered: use `channel_ready`."""
        raise NotImplementedError

    async def close(self, grace: float | None = None) -> None:
        """Closes every connection; running calls get `grace` seconds."""
        self._renewal.cancel()
        await self._replicas.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # Inside

    def _method(self, path: str) -> OutgoingMethod:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = OutgoingMethod(self._service, path, self._pool)
        return method

    def _prepare(
        self, method: OutgoingMethod, request: bytes, metadata: Metadata, timeout: float | None
    ) -> Outgoing:
        call = CURRENT.get()
        deadline = _deadline(method, timeout, call)
        headers = self._headers(call, metadata)
        repeatable = method.repeatable or (
            method.keyed and any(key == IDEMPOTENCY_KEY for key, _ in headers)
        )
        return Outgoing(method, request, headers, deadline, repeatable)

    def _headers(self, call: Call | None, metadata: Metadata) -> list[tuple[str, str | bytes]]:
        headers = list(metadata)
        given = set()
        for key, value in headers:
            given.add(key)
            # grpc would fail with an internal error
            if isinstance(value, str) and not (value.isascii() and value.isprintable()):
                raise InvalidArgument.of(key, "expected printable ASCII characters")
        if TRACEPARENT not in given:
            headers.append(
                (TRACEPARENT, (call.trace if call is not None else Trace.start()).traceparent())
            )
        if call is not None and call.request_id and REQUEST_ID not in given:
            headers.append((REQUEST_ID, call.request_id))
        if call is not None and call.language is not None and ACCEPT_LANGUAGE not in given:
            headers.append((ACCEPT_LANGUAGE, call.language.value))
        if self._caller_tokens is not None:
            person = "" if call is None else _person(call.caller)
            headers.append((CALLER, self._caller_tokens.sign(self._service, on_behalf_of=person)))
        return headers

    async def _call(
        self,
        method: OutgoingMethod,
        request: bytes,
        metadata: Metadata,
        timeout: float | None,
        *,
        want_trailing: bool,
    ) -> tuple[bytes, Metadata]:
        started = monotonic()
        code = CANCELLED
        method.metrics.begun += 1
        try:
            outgoing = self._prepare(method, request, metadata, timeout)
            result = await self._attempts.unary(outgoing, want_trailing=want_trailing)
            code = 0
        except MeshError as error:
            code = _grpc_code(error)
            raise
        else:
            return result
        finally:
            method.metrics.ended(code, monotonic() - started)

    async def _stream(
        self, method: OutgoingMethod, request: bytes, metadata: Metadata, timeout: float | None
    ) -> AsyncGenerator[bytes]:
        started = monotonic()
        code = CANCELLED
        method.metrics.begun += 1
        try:
            outgoing = self._prepare(method, request, metadata, timeout)
            first, rest = await self._attempts.stream(outgoing)
            async with aclosing(rest):
                if first is not None:
                    yield first
                    async for answer in rest:
                        yield answer
            code = 0
        except MeshError as error:
            code = _grpc_code(error)
            raise
        finally:
            method.metrics.ended(code, monotonic() - started)


def _deadline(method: OutgoingMethod, timeout: float | None, call: Call | None) -> float:
    """The moment at which the call has to be over: the method's timeout, the caller's when it is
    shorter, and no later than our own call without the margin.
    """
    now = monotonic()
    deadline = now + (
        method.timeout_seconds if timeout is None else min(timeout, method.timeout_seconds)
    )
    if call is not None:
        deadline = min(deadline, call.deadline - DEADLINE_MARGIN_SECONDS)
    if deadline - now < CALL_SECONDS_MIN:
        raise DeadlineExceeded
    return deadline


def _person(caller: Caller) -> str:
    """For whom we call: tenant and subject of the user who started it, passed on from service to
    service.
    """
    match caller.role:
        case Role.USER | Role.MERCHANT | Role.ADMIN:
            return f"{caller.merchant_id}/{caller.subject}"
        case _:
            return caller.on_behalf_of


def _grpc_code(error: MeshError) -> int:
    match error:
        case RemoteError():
            return error.grpc_code
        case DeadlineExceeded():
            return 4
        case _:
            return 3


def _not_offered(*_args: Any, **_options: Any) -> Any:
    raise NotImplementedError("streaming requests are not offered")
