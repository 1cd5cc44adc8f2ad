"""The one chain around every served call: errors > trace and metrics > deadline > authentication >
access > limit > message > validation > handler.

Each handler is wrapped once, at start, with everything that belongs to its method. No exception
passes it: a refusal becomes a status with details, the unexpected INTERNAL with a trace id, a stray
cancellation ABORTED (grpc.aio would leave the client waiting for ever).

To grpc every method takes a stream: such a handler begins with the headers of a call, where a
handler of one message would not be asked before the message has come. So a stranger is refused by
the headers alone, and a message that never comes has a time limit.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from mesh.access import Access
from mesh.auth import Caller, CallerClaims, CallerTokens, UserClaims, UserTokens
from mesh.call import (
    AUTHORIZATION,
    CALLER,
    CLIENT_ADDRESS,
    CURRENT,
    IDEMPOTENCY_KEY,
    REQUEST_ID,
    TRACEPARENT,
    Call,
    current_idempotency_key,
    mark_replayed,
)
from mesh.deadlines import DeadlineQueue
from mesh.errors import DeadlineExceeded, MeshError, NotFound, TokenInvalid
from mesh.languages import ACCEPT_LANGUAGE, preferred
from mesh.limits import CallerLimit, Network, client_address
from mesh.load import Load
from mesh.logs import CallLog, get_logger
from mesh.metrics import SERVED
from mesh.policies import Idempotency, MethodPolicy
from mesh.refusals import Refusals
from mesh.requests import RequestReader
from mesh.streams import ServedStreams
from mesh.trace import Trace
from mesh.validation import warm_up
from mesh.wire_errors import DETAILS_KEY, STATUS_CODES, ErrorCatalogue

__all__ = ["Pipeline", "current_idempotency_key", "mark_replayed"]

_READ_ONCE = frozenset(
    {AUTHORIZATION, CALLER, IDEMPOTENCY_KEY, TRACEPARENT, REQUEST_ID, ACCEPT_LANGUAGE}
)
_LABEL = re.compile(r"[\x20-\x7e]{1,128}")
# grpc-timeout is rounded up, by 100 ms above 10 s: a client with the method's own timeout needs no
# second timer
_ROUNDING_SECONDS = 0.2
_NO_TRACE = Trace("0" * 32, sampled=False)
VALIDATED_BYTES_MAX = 256  # of a request that is remembered with its caller's token
VALIDATED_REQUESTS_MAX = 4  # requests remembered with a token
VALIDATED_ENTRY_BYTES = 1536  # message, key and slots of one, measured and rounded up

log = get_logger()


class Unimplemented(MeshError):
    """The method is not implemented."""

    reason = "UNIMPLEMENTED"


class Pipeline:
    """Wraps handlers. One per server."""

    def __init__(
        self,
        *,
        user_tokens: UserTokens,
        caller_tokens: CallerTokens,
        catalogue: ErrorCatalogue,
        is_development: bool,
        call_log: CallLog,
        streams: ServedStreams,
        load: Load,
        relays: Sequence[Network] = (),
    ) -> None:
        """`relays` are the networks of our own gateways, see `CallerLimit` and `client_address`."""
        self.user_tokens = user_tokens
        self.caller_tokens = caller_tokens
        self.catalogue = catalogue
        self.is_development = is_development
        self.call_log = call_log
        self.streams = streams
        self.load = load
        self.relays = relays

    def wrap(
        self,
        policy: MethodPolicy,
        handler: grpc.RpcMethodHandler[Any, Any],
        request_class: type[Message],
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler that grpc.aio gets. Raises ValueError for a method that takes a stream."""
        if handler.request_streaming:
            raise ValueError(f"{policy.path}: streaming requests are not served")
        warm_up(request_class())
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _Method(self, policy, handler, handler.unary_stream, request_class).serve_stream
            )
        return grpc.stream_unary_rpc_method_handler(
            _Method(self, policy, handler, handler.unary_unary, request_class).serve_unary
        )


class _Method:
    """One method with everything bound."""

    __slots__ = (
        "_access",
        "_behaviour",
        "_call_log",
        "_caller_tokens",
        "_cut",
        "_is_hidden",
        "_limit",
        "_load",
        "_metrics",
        "_names",
        "_path",
        "_refusals",
        "_relays",
        "_requests",
        "_running",
        "_serialize",
        "_streams",
        "_timeout_seconds",
        "_user_tokens",
        "_waiting",
        "_wants_address",
    )

    def __init__(
        self,
        pipeline: Pipeline,
        policy: MethodPolicy,
        handler: grpc.RpcMethodHandler[Any, Any],
        behaviour: Any,
        request_class: type[Message],
    ) -> None:
        self._path = policy.path
        self._user_tokens = pipeline.user_tokens
        self._caller_tokens = pipeline.caller_tokens
        self._call_log = pipeline.call_log
        self._streams = pipeline.streams
        self._access = Access(policy)
        self._refusals = Refusals(policy, pipeline.catalogue)
        self._requests = RequestReader(
            policy, self._access, handler.request_deserializer or bytes, request_class
        )
        self._names = _READ_ONCE | self._requests.bound_headers
        self._wants_address = policy.wants_client_address
        self._relays = pipeline.relays
        if self._wants_address:
            self._names |= {CLIENT_ADDRESS}
        self._timeout_seconds = policy.timeout_seconds
        # We do not end a call with an idempotency key at its deadline: its idempotency record keeps
        # the answer, and a server that has it should send it.
        self._cut = policy.idempotency is Idempotency.NONE
        self._running = DeadlineQueue()
        self._load = pipeline.load
        self._limit = (
            CallerLimit(policy.limit, relays=pipeline.relays) if policy.limit is not None else None
        )
        self._waiting = policy.waiting
        self._is_hidden = policy.development_only and not pipeline.is_development
        self._metrics = SERVED.of(policy.service, policy.method)
        self._serialize: Callable[[Any], bytes] = handler.response_serializer or bytes
        expected = (
            inspect.isasyncgenfunction if policy.server_streaming else inspect.iscoroutinefunction
        )
        # The base classes that protoc generates have plain functions.
        missing: Any = _unimplemented_stream if policy.server_streaming else _unimplemented
        self._behaviour: Any = behaviour if expected(behaviour) else missing

    async def serve_unary(self, _messages: Any, context: Any) -> bytes:
        """One request, one answer."""
        started = monotonic()
        call = Call(trace=_NO_TRACE, deadline=started + self._timeout_seconds)
        self._metrics.begun += 1
        code = 0
        try:
            request = await self._admit(context, call, is_stream=False)
            if self._waiting is None or not self._may_wait(request):
                response = await self._behaviour(request, context)
            else:
                with self._load.waits(
                    self._waits_for(request, call.caller), self._waiting.per_caller
                ):
                    response = await self._behaviour(request, context)
            answer = self._serialize(response)
            if call.trailing:
                context.set_trailing_metadata(call.trailing)
            if not self._load.may_leave(context):
                await self._load.wait_to_leave(context)
            self._load.leaves(context, answer)
        except BaseException as error:
            code, status = self._refusals.status_of(error, context, call)
            if status is not None:
                await _abort(context, status, call)
            raise
        else:
            return answer
        finally:
            self._ended(call, code, started)

    async def serve_stream(self, _messages: Any, context: Any) -> None:
        """One request, many answers."""
        started = monotonic()
        call = Call(trace=_NO_TRACE, deadline=started + self._timeout_seconds)
        self._metrics.begun += 1
        code = 0
        try:
            request = await self._admit(context, call, is_stream=True)
            await self._send_all(request, context, call)
            if call.trailing:
                context.set_trailing_metadata(call.trailing)
        except BaseException as error:
            code, status = self._refusals.status_of(error, context, call)
            if status is not None:
                await _abort(context, status, call)
            raise
        finally:
            self._ended(call, code, started)

    async def _send_all(self, request: Any, context: Any, call: Call) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type: grpc.aio runs every handler in one
        waiting = self._waiting
        name, most = (
            ("", 0)
            if waiting is None
            else (self._waits_for(request, call.caller), waiting.per_caller)
        )
        with self._streams.one(task, caller=name, caller_max=most):
            # Tells the client that somebody took its call, however long the first answer takes.
            await context.send_initial_metadata(())
            async with aclosing(self._behaviour(request, context)) as responses:
                async for response in responses:
                    await context.write(self._serialize(response))

    def _may_wait(self, request: Any) -> bool:
        waiting = self._waiting
        return waiting is not None and (
            not waiting.wait_field or getattr(request, waiting.wait_field) > 0
        )

    def _waits_for(self, request: Any, caller: Caller) -> str:
        """For whom a call waits."""
        name = caller.limited_as
        if name or self._waiting is None or not self._waiting.caller_field:
            return name or f"{caller.merchant_id}/"  # strangers share one place
        return str(getattr(request, self._waiting.caller_field))

    async def _admit(self, context: Any, call: Call, *, is_stream: bool) -> Any:
        """The request of a caller who may make it. Nobody is waited for, and nothing is kept,
        before the headers have been judged.
        """
        CURRENT.set(call)  # every call runs in a task of its own, nothing to reset
        values = self._read(context, call)
        remaining: float | None = context.time_remaining()
        if remaining is None or remaining > self._timeout_seconds + _ROUNDING_SECONDS:
            if self._cut:
                self._running.begin(call, call.deadline)
        elif remaining <= 0:
            raise DeadlineExceeded
        # grpc.aio cancels the handler at the client's deadline
        elif remaining < self._timeout_seconds:
            call.deadline += remaining - self._timeout_seconds
        if self._is_hidden:
            raise NotFound
        authorization, caller_token = values.get(AUTHORIZATION), values.get(CALLER)
        user = None if authorization is None else self._user_tokens.verify(_bearer(authorization))
        service = None if caller_token is None else self._caller_tokens.verify(caller_token)
        call.caller = self._access.admit(user, service)
        if self._limit is not None:
            self._limit.take(call.caller, context)
        if self._requests.takes_key:
            call.idempotency_key = self._requests.idempotency_key(values.get(IDEMPOTENCY_KEY))
        raw = await self._load.message(context, call, caller=_name(user, service))
        if not is_stream:  # streams have room of their own
            self._load.begin(call)
        if (
            self._requests.takes_key
            or user is None
            or len(raw) > VALIDATED_BYTES_MAX
            or not self._requests.bound_headers.isdisjoint(values)
        ):
            return self._requests.read(raw, values, call.caller)
        # The message is shared by all who send the same bytes with the same token, so handlers must
        # not write into it.
        key = (self, raw, "" if service is None else service.service)
        request = user.validated_requests.get(key)
        if request is None:
            request = self._requests.read(raw, {}, call.caller)
            if len(user.validated_requests) >= VALIDATED_REQUESTS_MAX:
                user.validated_requests.clear()
            user.validated_requests[key] = request
            user.charge(len(raw) + VALIDATED_ENTRY_BYTES)
        return request

    def _read(self, context: Any, call: Call) -> dict[str, str]:
        values: dict[str, str] = {}
        names = self._names
        # asked for once: grpc makes the whole of it anew each time
        for key, value in context.invocation_metadata():
            if key in names:
                # What comes twice is broken, whichever is right: somebody on the way may have read
                # the other one.
                values[key] = "" if key in values else value
        call.trace = Trace.start(values.get(TRACEPARENT))
        if REQUEST_ID in values and _LABEL.fullmatch(values[REQUEST_ID]):
            call.request_id = values[REQUEST_ID]
        if ACCEPT_LANGUAGE in values:
            call.language = preferred(values[ACCEPT_LANGUAGE])
        if self._wants_address:
            call.client_address = client_address(
                context.peer(), values.get(CLIENT_ADDRESS), self._relays
            )
        return values

    def _ended(self, call: Call, code: int, started: float) -> None:
        ended = monotonic()
        seconds = ended - started
        if self._cut:
            self._running.end(call)
        self._load.end(call)
        self._metrics.ended(code, seconds)
        self._call_log.write(self._path, code, ended, seconds, call)


def _name(user: UserClaims | None, service: CallerClaims | None) -> str:
    """Who takes room before it is known what for; "" for a stranger."""
    if user is not None:
        return f"{user.merchant_id}/{user.subject}"
    return "" if service is None else service.service


def _bearer(authorization: str) -> str:
    if authorization[:7].lower() != "bearer ":
        raise TokenInvalid("The token is invalid (scheme).")
    return authorization[7:]


async def _abort(context: Any, status: status_pb2.Status, call: Call) -> None:
    """Sends a refusal, with what the call has to say besides; always raises."""
    await context.abort(
        STATUS_CODES[status.code],
        status.message,
        ((DETAILS_KEY, status.SerializeToString()), *call.trailing),
    )


async def _unimplemented(_request: Any, _context: Any) -> Any:
    raise Unimplemented


async def _unimplemented_stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
    raise Unimplemented
    yield
