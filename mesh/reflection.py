"""Serves grpc.reflection as v1 and as v1alpha. The messages are the same on the wire, only the name
of the service differs. Open in development, for admins otherwise. Beyond STREAMS_MAX streams the
oldest is ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from mesh.auth import Role, UserTokens
from mesh.call import AUTHORIZATION
from mesh.errors import MeshError, PermissionDenied, TokenInvalid, Unauthenticated
from mesh.trace import Trace
from mesh.wire_errors import DETAILS_KEY, STATUS_CODES, ErrorCatalogue, internal_status, to_status

STREAMS_MAX: Final = 32
IDLE_SECONDS_MAX: Final = 60.0  # between two requests
REQUEST_BYTES_MAX: Final = 4096

_ALPHA: Final = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
_V1: Final = _ALPHA.replace("v1alpha", "v1")


def _describe_v1() -> None:
    """Adds grpc/reflection/v1/reflection.proto to the descriptor pool, for clients that ask for it.
    It is that of v1alpha in another package."""
    pool = descriptor_pool.Default()
    with suppress(KeyError):
        pool.FindServiceByName(_V1)
        return
    proto = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(proto)
    _rename(proto)
    pool.AddSerializedFile(proto.SerializeToString())


def _rename(message: Any) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                _rename(part)
        elif field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(message, field.name, value.replace("v1alpha", "v1"))


_describe_v1()


class Reflection:
    """The reflection service of a server."""

    def __init__(
        self,
        services: Sequence[str],
        user_tokens: UserTokens,
        catalogue: ErrorCatalogue,
        *,
        is_open: bool,
    ) -> None:
        self._servicer = ReflectionServicer((*services, _V1, _ALPHA))
        self._user_tokens = user_tokens
        self._catalogue = catalogue
        self._is_open = is_open
        self._streams: dict[asyncio.Task[Any], None] = {}

    def handlers(self) -> Mapping[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]]:
        """The handlers to register, by service."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self._serve
        )
        return {name: {"ServerReflectionInfo": handler} for name in (_V1, _ALPHA)}

    async def _serve(self, _messages: Any, context: Any) -> None:
        try:
            if not self._is_open:
                self._check(context)
        except MeshError as refusal:
            status = to_status(refusal, package="", catalogue=self._catalogue) or internal_status(
                Trace.start().trace_id
            )
            await context.abort(
                STATUS_CODES[status.code],
                status.message,
                ((DETAILS_KEY, status.SerializeToString()),),
            )
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type: grpc.aio runs every handler in one
        if len(self._streams) >= STREAMS_MAX:
            oldest = next(iter(self._streams))
            del self._streams[oldest]
            oldest.cancel()
        self._streams[task] = None
        try:
            async for response in self._servicer.ServerReflectionInfo(_questions(context), context):
                await context.write(response.SerializeToString())
        except asyncio.CancelledError:
            if task in self._streams:
                raise
            task.uncancel()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "too many streams of reflection")
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no question for a minute")
        finally:
            self._streams.pop(task, None)

    def _check(self, context: Any) -> None:
        tokens = [value for key, value in context.invocation_metadata() if key == AUTHORIZATION]
        if not tokens:
            raise Unauthenticated
        if len(tokens) > 1 or tokens[0][:7].lower() != "bearer ":
            raise TokenInvalid
        if Role.ADMIN not in self._user_tokens.verify(tokens[0][7:]).roles:
            raise PermissionDenied


async def _questions(context: Any) -> AsyncIterator[Any]:
    while True:
        async with asyncio.timeout(IDLE_SECONDS_MAX):
            raw = await context.read()
        if raw is grpc.aio.EOF:
            return
        if len(raw) > REQUEST_BYTES_MAX:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a question is too long")
        yield reflection_pb2.ServerReflectionRequest.FromString(raw)
