"""Calls to a sibling service: `MeshChannel` stands where generated stubs expect a channel.

Every call has a deadline (the method's, shortened on each hop), names this process, goes to the
least loaded live replica, and is repeated on another one only when the contract says that a
repetition does no harm. What comes back is an answer or a `MeshError`, never an AioRpcError.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from time import monotonic
from typing import Any, Final, Self

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool
from grpc.aio import AioRpcError

from mesh.auth import CallerTokens
from mesh.call import (
    CALLER,
    CURRENT,
    IDEMPOTENCY_KEY,
    REQUEST_ID,
    TRACEPARENT,
    Call,
    Caller,
    Role,
    mark_effects,
)
from mesh.connector import Connector
from mesh.discovery import Discovery
from mesh.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MeshError,
    RemoteError,
    UpstreamUnavailable,
)
from mesh.languages import ACCEPT_LANGUAGE
from mesh.logs import get_logger
from mesh.metrics import CALLED
from mesh.policies import Idempotency, policy_of
from mesh.replicas import FAIL_FAST_SECONDS, Replica, Replicas
from mesh.retries import RetryBudget, is_healthy_answer, is_retryable
from mesh.settings import MeshSettings
from mesh.trace import Trace
from mesh.wire_errors import from_rpc_error, never_sent

# kept back from our own deadline, so that we can still answer when a sibling uses all of its time
DEADLINE_MARGIN_SECONDS: Final = 0.02
CALL_SECONDS_MIN: Final = 0.002  # with less a call would only make work that nobody waits for
ATTEMPTS_MAX = 3
# doubled for the third attempt; only when there is no other replica
BACKOFF_SECONDS = 0.05

_CANCELLED = 1

Metadata = Iterable[tuple[str, str | bytes]]
log = get_logger()


class _NeverSent(UpstreamUnavailable):
    """A connection broke between the choice of a replica and the call: any call may go
    elsewhere.
    """


class _Method:
    __slots__ = ("effects", "keyed", "metrics", "path", "repeatable", "timeout_seconds")

    def __init__(self, target: str, path: str, pool: DescriptorPool) -> None:
        service, _, name = path.strip("/").rpartition("/")
        policy = policy_of(pool.FindServiceByName(service).methods_by_name[name])
        self.path = path
        self.timeout_seconds = policy.timeout_seconds
        self.repeatable = policy.repeatable
        self.effects = policy.side_effects
        # a key makes a call repeatable only where the server looks at it
        self.keyed = policy.idempotency is not Idempotency.NONE
        self.metrics = CALLED.of(target, f"{service}/{name}")


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
        self._methods: dict[str, _Method] = {}
        self._budget = RetryBudget()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._replicas = Replicas(
            service,
            discovery.watch(service),
            connector.connect,
            fail_fast_seconds=fail_fast_seconds,
            rng=rng,
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
        until the first answer came, and never after it. Whoever stops early closes the iterator
        (`contextlib.aclosing`); that cancels the call."""
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

    def _method(self, path: str) -> _Method:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = _Method(self._service, path, self._pool)
        return method

    def _deadline(self, method: _Method, timeout: float | None, call: Call | None) -> float:
        now = monotonic()
        deadline = now + (
            method.timeout_seconds if timeout is None else min(timeout, method.timeout_seconds)
        )
        if call is not None:
            deadline = min(deadline, call.deadline - DEADLINE_MARGIN_SECONDS)
        if deadline - now < CALL_SECONDS_MIN:
            raise DeadlineExceeded
        return deadline

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
        method: _Method,
        request: bytes,
        metadata: Metadata,
        timeout: float | None,
        *,
        want_trailing: bool,
    ) -> tuple[bytes, Metadata]:
        started = monotonic()
        call = CURRENT.get()
        code = _CANCELLED
        method.metrics.begun += 1
        try:
            deadline = self._deadline(method, timeout, call)
            headers = self._headers(call, metadata)
            repeatable = method.repeatable or (
                method.keyed and any(key == IDEMPOTENCY_KEY for key, _ in headers)
            )
            result = await self._attempts(
                method,
                request,
                headers,
                deadline,
                repeatable=repeatable,
                want_trailing=want_trailing,
            )
            code = 0
        except MeshError as error:
            code = _grpc_code(error)
            raise
        else:
            return result
        finally:
            method.metrics.ended(code, monotonic() - started)

    async def _attempts(
        self,
        method: _Method,
        request: bytes,
        headers: list[tuple[str, str | bytes]],
        deadline: float,
        *,
        repeatable: bool,
        want_trailing: bool,
    ) -> tuple[bytes, Metadata]:
        self._budget.called()
        tried: list[Replica] = []
        while True:
            replica = await self._replicas.pick(deadline, tried)
            if replica in tried:  # there is no other
                await self._back_off(len(tried), deadline)
            if method.effects:
                mark_effects()
            try:
                return await self._attempt(
                    replica,
                    method,
                    request,
                    headers,
                    deadline,
                    repeatable=repeatable,
                    want_trailing=want_trailing,
                )
            except RemoteError as error:
                if not self._may_go_on(error, tried, deadline, repeatable=repeatable):
                    raise
                tried.append(replica)
                method.metrics.retried += 1

    def _may_go_on(
        self, error: RemoteError, tried: Collection[Replica], deadline: float, *, repeatable: bool
    ) -> bool:
        """Whether a call that failed may be sent again."""
        if len(tried) >= ATTEMPTS_MAX - 1:
            return False
        unserved = isinstance(error, _NeverSent) or error.is_unserved
        if not unserved and not (repeatable and is_retryable(error) and self._budget.take()):
            return False
        return deadline - monotonic() >= CALL_SECONDS_MIN

    async def _back_off(self, attempts: int, deadline: float) -> None:
        pause = self._rng.uniform(0, BACKOFF_SECONDS * 2 ** (attempts - 1))
        await asyncio.sleep(min(pause, max(0.0, deadline - monotonic())))

    async def _attempt(
        self,
        replica: Replica,
        method: _Method,
        request: bytes,
        headers: list[tuple[str, str | bytes]],
        deadline: float,
        *,
        repeatable: bool,
        want_trailing: bool,
    ) -> tuple[bytes, Metadata]:
        callable_ = replica.calls.get(method.path)
        if callable_ is None:
            callable_ = replica.calls[method.path] = replica.channel.unary_unary(method.path)
        started = monotonic()
        healthy: bool | None = None
        replica.begin(started)
        self._replicas.watch_calls()
        rpc = callable_(request, timeout=deadline - started, metadata=headers)
        if repeatable:
            replica.abandonable.add(rpc)
        try:
            answer = await rpc
            trailing = tuple(await rpc.trailing_metadata()) if want_trailing else ()
            healthy = True
        except AioRpcError as problem:
            error = _NeverSent() if never_sent(problem) else from_rpc_error(problem)
            healthy = is_healthy_answer(error, problem)
            raise error from problem
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # the channel was closed under the call
            raise UpstreamUnavailable(grpc_code=_CANCELLED) from None
        else:
            return answer, trailing
        finally:
            replica.abandonable.discard(rpc)
            ended = monotonic()
            replica.end(ended)
            self._replicas.ended(replica, ended - started, healthy=healthy)

    async def _stream(
        self, method: _Method, request: bytes, metadata: Metadata, timeout: float | None
    ) -> AsyncGenerator[bytes]:
        started = monotonic()
        call = CURRENT.get()
        code = _CANCELLED
        method.metrics.begun += 1
        try:
            deadline = self._deadline(method, timeout, call)
            headers = self._headers(call, metadata)
            repeatable = method.repeatable or (
                method.keyed and any(key == IDEMPOTENCY_KEY for key, _ in headers)
            )
            first, rest = await self._first(
                method, request, headers, deadline, repeatable=repeatable
            )
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

    async def _first(
        self,
        method: _Method,
        request: bytes,
        headers: list[tuple[str, str | bytes]],
        deadline: float,
        *,
        repeatable: bool,
    ) -> tuple[bytes | None, AsyncGenerator[bytes]]:
        """The first answer of a stream, None when it has none, and the rest."""
        self._budget.called()
        tried: list[Replica] = []
        while True:
            replica = await self._replicas.pick(deadline, tried)
            if replica in tried:  # there is no other
                await self._back_off(len(tried), deadline)
            if method.effects:
                mark_effects()
            answers = self._answers(
                replica, method, request, headers, deadline, repeatable=repeatable
            )
            try:
                return await anext(answers, None), answers
            except RemoteError as error:
                if not self._may_go_on(error, tried, deadline, repeatable=repeatable):
                    raise
                tried.append(replica)
                method.metrics.retried += 1

    async def _answers(
        self,
        replica: Replica,
        method: _Method,
        request: bytes,
        headers: list[tuple[str, str | bytes]],
        deadline: float,
        *,
        repeatable: bool,
    ) -> AsyncGenerator[bytes]:
        """One attempt. A replica is busy with it until it has taken it: an open stream without news
        does not mean that the replica hangs.
        """
        started = monotonic()
        busy, healthy = True, None
        callable_: Any = replica.channel.unary_stream(method.path)
        replica.begin(started)
        self._replicas.watch_calls()
        rpc = callable_(request, timeout=deadline - started, metadata=headers)
        if repeatable:
            replica.abandonable.add(rpc)
        try:
            await rpc.initial_metadata()
            replica.abandonable.discard(rpc)
            if not rpc.done():
                busy = False
                self._let_go(replica, started, healthy=True)
            async for answer in rpc:
                yield answer
            healthy = True
        except AioRpcError as problem:
            error = _NeverSent() if never_sent(problem) else from_rpc_error(problem)
            healthy = is_healthy_answer(error, problem)
            raise error from problem
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # the channel was closed under the call
            raise UpstreamUnavailable(grpc_code=_CANCELLED) from None
        finally:
            rpc.cancel()
            replica.abandonable.discard(rpc)
            if busy:
                self._let_go(replica, started, healthy=healthy)

    def _let_go(self, replica: Replica, started: float, *, healthy: bool | None) -> None:
        ended = monotonic()
        replica.end(ended)
        self._replicas.ended(replica, ended - started, healthy=healthy)


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
