"""Handles one HTTP rule of one method. Everything that its annotations say is bound at start: who
may call, how often, what is read, what is sent on and what comes back. There is no code for any
single method: a new RPC with annotations gets a handler of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from time import monotonic
from typing import Final, Protocol

from gateway.api_keys import ApiKeys, api_key_of
from gateway.binding import Binder
from gateway.errors import ApiKeyInvalid
from gateway.limits import RateLimit, bucket_of, readable_address
from gateway.request import Receive, Request, read_body
from gateway.responses import Response, ResponseBuilder
from gateway.schema import HttpRule, Method, Schema
from gateway.settings import GatewaySettings
from mesh.access import Access
from mesh.auth import UserTokens
from mesh.call import (
    AUTHORIZATION,
    CLIENT_ADDRESS,
    CURRENT,
    IDEMPOTENCY_KEY,
    REPLAYED,
    Call,
    Caller,
    Role,
)
from mesh.client import DEADLINE_MARGIN_SECONDS
from mesh.errors import IdempotencyKeyMissing, InvalidArgument
from mesh.policies import Idempotency

Metadata = Iterable[tuple[str, str | bytes]]

_KEY: Final = re.compile(rb"[\x21-\x7e]{1,255}")  # as in the pipeline of every server


class Upstream(Protocol):
    """The service behind a method; `mesh.client.MeshChannel` is one."""

    async def call(
        self, path: str, request: bytes, *, metadata: Metadata = ...
    ) -> tuple[bytes, Metadata]:
        """The answer's bytes and its trailing metadata. Raises MeshError."""
        ...

    def stream(
        self, path: str, request: bytes, *, metadata: Metadata = ...
    ) -> AsyncGenerator[bytes]:
        """The answers' bytes of a method that has many. Raises MeshError; closing it cancels the
        call.
        """
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a replica takes calls now."""
        ...


class Handler(Protocol):
    """Serves a route."""

    @property
    def route(self) -> str:
        """The template, for metrics and the log."""
        ...

    @property
    def package(self) -> str:
        """Proto package whose error reasons apply."""
        ...

    async def serve(
        self, request: Request, receive: Receive, values: tuple[bytes, ...]
    ) -> Response:
        """The response to a request. Raises MeshError."""
        ...


class RouteHandler:
    """Serves one HTTP rule."""

    def __init__(
        self,
        method: Method,
        rule: HttpRule,
        *,
        schema: Schema,
        upstream: Upstream,
        user_tokens: UserTokens,
        settings: GatewaySettings,
        limit: RateLimit | None,
        api_keys: ApiKeys | None = None,
    ) -> None:
        """`limit` is passed in, because all handlers of a method share it. Without `api_keys`, each
        API key is refused.
        """
        policy = method.policy
        self.route = rule.template.text
        self.package = policy.package
        self._path = policy.path
        # the channel keeps DEADLINE_MARGIN_SECONDS back
        self._timeout_seconds = policy.timeout_seconds + DEADLINE_MARGIN_SECONDS
        self._call: Callable[..., Awaitable[tuple[bytes, Metadata]]] = upstream.call
        self._user_tokens = user_tokens
        self._api_keys = api_keys
        self._access = Access(policy)
        self._limit = limit
        self._idempotency = policy.idempotency
        self._side_effects = policy.side_effects
        self._repeatable = policy.repeatable
        self._moves_money = policy.moves_money
        self._wants_address = policy.wants_client_address
        self._binder = Binder(method, rule, schema.decoders)
        admits_merchants = Role.MERCHANT in policy.roles
        self._strict_binder, self._minor_binder = (
            Binder(method, rule, decoders) if admits_merchants else self._binder
            for decoders in (schema.strict_decoders, schema.minor_decoders)
        )
        self._responses = ResponseBuilder(method, rule, schema.encoders)
        self._body_bytes_max = min(method.body_bytes_max, settings.body_bytes_max)
        self._body_seconds_max = settings.request_body_seconds

    async def serve(
        self, request: Request, receive: Receive, values: tuple[bytes, ...]
    ) -> Response:
        """Authenticates, limits, translates, calls, translates back."""
        call, message, metadata = await self._accept(request, receive, values)
        token = CURRENT.set(call)
        try:
            answer, trailing = await self._call(self._path, message, metadata=metadata)
        finally:
            CURRENT.reset(token)
        response = self._responses.success(answer, request.trace.trace_id)
        for name, _ in trailing:
            if name == REPLAYED:
                response.headers.append((b"idempotent-replayed", b"true"))
        return response

    async def _accept(
        self, request: Request, receive: Receive, values: tuple[bytes, ...]
    ) -> tuple[Call, bytes, list[tuple[str, str | bytes]]]:
        """Turns a request into a call with its message and metadata. Raises MeshError."""
        metadata: list[tuple[str, str | bytes]] = []
        request.money_untouched = self._moves_money
        caller = await self._admit(request, metadata)
        key = self._idempotency_key(request, metadata)
        body, content_type = await self._read(request, receive)
        binder = self._binder
        if caller.role is Role.MERCHANT:
            binder = self._minor_binder if caller.minor_amounts else self._strict_binder
        message = binder.bind(
            values=values,
            query=request.query,
            headers=request.singles(binder.header_names),
            all_headers=request.all_headers() if binder.wants_all_headers else {},
            body=body,
            content_type=content_type,
        )
        if self._side_effects:
            request.safe_to_retry = self._repeatable or bool(key)
        request.money_untouched = False
        if self._wants_address:
            address = readable_address(request.client)
            if address:
                metadata.append((CLIENT_ADDRESS, address))
        call = Call(
            trace=request.trace,
            deadline=monotonic() + self._timeout_seconds,
            caller=caller,
            idempotency_key=key,
            request_id=request.given_id,
            language=request.language,
        )
        return call, message, metadata

    async def _admit(self, request: Request, metadata: list[tuple[str, str | bytes]]) -> Caller:
        """Authenticates the caller, checks its role and takes from its rate limit. The server
        checks the first two again; here they are refused before a body is read.
        """
        bearer = request.bearer()
        api_key = api_key_of(request, bearer)
        if api_key is not None:
            if self._api_keys is None:
                raise ApiKeyInvalid
            bearer = await self._api_keys.token(api_key, request.client)
        if bearer is not None:
            metadata.append((AUTHORIZATION, f"Bearer {bearer}"))
        caller = request.caller = self._access.admit(
            None if bearer is None else self._user_tokens.verify(bearer), None
        )
        if self._limit is not None:
            self._limit.take(bucket_of(caller, request.client))
        return caller

    def _idempotency_key(self, request: Request, metadata: list[tuple[str, str | bytes]]) -> str:
        if self._idempotency is Idempotency.NONE:
            return ""
        key = request.single(b"idempotency-key")
        if key is None:
            if self._idempotency is Idempotency.REQUIRED:
                raise IdempotencyKeyMissing
            return ""
        if _KEY.fullmatch(key) is None:
            raise InvalidArgument.of(
                "Idempotency-Key", "expected 1 to 255 printable ASCII characters without spaces"
            )
        text = key.decode("ascii")
        metadata.append((IDEMPOTENCY_KEY, text))
        return text

    async def _read(self, request: Request, receive: Receive) -> tuple[bytes, bytes]:
        binder = self._binder
        if not binder.has_body:
            request.no_body()
            return b"", b""
        if binder.is_raw:
            request.uncompressed()
        elif request.has_body:
            request.json_type()
        body = (
            await read_body(
                request, receive, bytes_max=self._body_bytes_max, seconds_max=self._body_seconds_max
            )
            if request.has_body
            else b""
        )
        return body, request.headers.get(b"content-type", b"") if binder.is_raw else b""
