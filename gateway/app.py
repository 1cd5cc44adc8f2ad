"""The ASGI application: finds the handler of a request, lets it serve, and adds the headers that
all responses have. Every exception ends here: a refusal as its HTTP error, a defect as INTERNAL
with a trace id, a closed connection as a line in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Any, Final

from gateway.api_keys import ApiKeys
from gateway.builtin_routes import BuiltinRoute, Health
from gateway.cors import Cors
from gateway.docs import docs_routes
from gateway.errors import ErrorRenderer, MethodNotAllowed
from gateway.handlers import Handler, RouteHandler, Upstream
from gateway.limits import RateLimit
from gateway.openapi import build_document
from gateway.request import WHOLE_ANSWER, ClientGone, Receive, Request, Scope, Send
from gateway.responses import NO_STORE, Headers, Response
from gateway.routes import PathTemplate, Router
from gateway.schema import HttpRule, Method, Schema
from gateway.settings import GatewaySettings
from gateway.static import StaticRoute
from gateway.streams import EventResponse, OpenStreams, StreamRouteHandler, last_event
from gateway.telemetry import Telemetry
from mesh.auth import UserTokens
from mesh.errors import MeshError, NotFound, Unavailable
from mesh.logs import get_logger
from mesh.wire_errors import COMMON

_CLIENT_GONE: Final = 499
_OVERLOAD_SECONDS: Final = 1.0
_VERBS: Final = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
_VARY: Final = (b"vary", b"Accept-Language")
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")

log = get_logger()


class Gateway:
    """The gateway as an ASGI application."""

    def __init__(
        self,
        schema: Schema,
        *,
        settings: GatewaySettings,
        upstreams: Mapping[str, Upstream],
        user_tokens: UserTokens,
        telemetry: Telemetry,
        api_keys: ApiKeys | None = None,
    ) -> None:
        """
        Args:
            upstreams: the clients of the services of the contract by name, e.g. "payment_rpc".
            api_keys: None refuses every API key.

        Raises:
            KeyError: a method is served by a service that is not in `upstreams`. TemplateInvalid:
                two routes have one path.
        """
        self.health = Health(
            {
                name: upstream
                for name, upstream in upstreams.items()
                if name not in settings.absent_services
            }
        )
        self.error_renderer = ErrorRenderer(schema.errors)
        self.streams = OpenStreams(settings)
        self._telemetry = telemetry
        self._cors = Cors(settings.cors_origins, bound_headers=schema.bound_headers)
        self._unknown = BuiltinRoute("", _refuse_path)
        self._router: Router[Handler] = Router()
        builtin: tuple[BuiltinRoute | StaticRoute, ...] = (
            BuiltinRoute("/healthz", self.health.alive),
            BuiltinRoute("/readyz", self.health.ready),
            *docs_routes(build_document(schema, development=settings.is_development)),
        )
        for route in builtin:
            self._router.add("GET", PathTemplate.parse(route.route), route)
        for method in schema.routed(development=True):
            make = partial(
                self._route_handler,
                method,
                schema=schema,
                upstream=upstreams[method.policy.served_by],
                user_tokens=user_tokens,
                api_keys=api_keys,
                settings=settings,
                limit=method.policy.limit and RateLimit(method.policy.limit, now=monotonic),
            )
            # A hidden path stays known, so that it does not become the variable of another one.
            is_hidden = method.policy.development_only and not settings.is_development
            for rule in method.rules:
                self._router.add(
                    rule.verb, rule.template, self._unknown if is_hidden else make(rule)
                )

    def _route_handler(self, method: Method, rule: HttpRule, **parts: Any) -> RouteHandler:
        if method.policy.server_streaming:
            return StreamRouteHandler(method, rule, streams=self.streams, **parts)
        return RouteHandler(method, rule, **parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        started = monotonic()
        request = Request(scope)
        handler, values = self._find(request)
        status, refusal = _CLIENT_GONE, ""
        self._telemetry.running += 1
        try:
            try:
                response = await handler.serve(request, receive, values)
            except MeshError as error:
                response = self._error_response(error, request, handler)
            except ClientGone:
                return
            except Exception as error:
                log.error(
                    "unexpected",
                    route=handler.route,
                    trace_id=request.trace.trace_id,
                    exc_info=error,
                )
                response = self.error_renderer.render_internal(
                    request.trace.trace_id, language=request.language
                )
            status, refusal = response.status, response.reason
            headers = self._headers(request, response)
            whole = scope.get(WHOLE_ANSWER)
            if isinstance(response, EventResponse):
                status, refusal = await self._send_events(
                    send, response, headers, request=request, handler=handler
                )
            elif whole is not None:
                await whole(status, headers, response.body)
            else:
                await _send(send, status, headers, response.body)
        finally:
            self._telemetry.ended(
                request,
                route=handler.route,
                status=status,
                refusal=refusal,
                seconds=monotonic() - started,
            )

    async def _send_events(
        self,
        send: Send,
        response: EventResponse,
        headers: Headers,
        *,
        request: Request,
        handler: Handler,
    ) -> tuple[int, str]:
        """Sends events until the stream ends. Returns status and refusal for the log: the head is
        sent already, so that a late refusal is an event.
        """
        failure: Response | None = None
        self._telemetry.streams += 1
        try:
            await send(
                {"type": "http.response.start", "status": response.status, "headers": headers}
            )
            if request.method != "HEAD":
                async for event in response.events():
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except ClientGone:
            return _CLIENT_GONE, ""
        except MeshError as error:
            failure = self._error_response(error, request, handler)
        except Exception as error:
            log.error(
                "unexpected", route=handler.route, trace_id=request.trace.trace_id, exc_info=error
            )
            failure = self.error_renderer.render_internal(
                request.trace.trace_id, language=request.language
            )
        finally:
            self._telemetry.streams -= 1
            await response.stream.close()
        await send(
            {
                "type": "http.response.body",
                "body": last_event(error=failure, trace_id=request.trace.trace_id),
            }
        )
        return response.status, "" if failure is None else failure.reason

    def _error_response(self, error: MeshError, request: Request, handler: Handler) -> Response:
        return self.error_renderer.render(
            error,
            package=handler.package,
            trace_id=request.trace.trace_id,
            language=request.language,
            credentials=b"authorization" in request.headers or b"x-api-key" in request.headers,
            safe_to_retry=request.safe_to_retry,
            money_untouched=request.money_untouched,
        )

    async def overloaded(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  the shape of an ASGI application
        """Responds instead of the application when there are too many connections."""
        request = Request(scope)
        refusal = Unavailable("Too many connections.", retry_after_seconds=_OVERLOAD_SECONDS)
        response = self.error_renderer.render(
            refusal, package=COMMON, trace_id=request.trace.trace_id, language=request.language
        )
        await _send(
            send,
            response.status,
            [*self._headers(request, response), (b"connection", b"close")],
            response.body,
        )

    def _find(self, request: Request) -> tuple[Handler, tuple[bytes, ...]]:
        """The handler of a path and verb with the raw values of its variables; one that refuses
        when there is none.
        """
        if request.raw_path == b"*":  # OPTIONS of the whole server
            return BuiltinRoute("", lambda request: self._cors.options(request, _VERBS)), ()
        match = self._router.match(request.raw_path)
        if match is None:
            return self._unknown, ()
        target = match.leaf.targets.get("GET" if request.method == "HEAD" else request.method)
        if target is not None:
            return target, match.values
        allow = match.leaf.allow()
        if request.method == "OPTIONS":
            return BuiltinRoute("", lambda request: self._cors.options(request, allow)), ()
        return BuiltinRoute("", lambda request: _refuse_verb(request, allow)), ()

    def _headers(self, request: Request, response: Response) -> Headers:
        headers = [
            _NO_SNIFFING,
            (b"cache-control", response.cache_control),
            (b"x-request-id", request.request_id.encode()),
            (b"traceparent", request.trace.traceparent().encode()),
            *response.headers,
            *self._cors.headers(request),
        ]
        # a file is the same for everybody; texts for people in other responses depend on the
        # language
        if response.cache_control == NO_STORE:
            headers.append(_VARY)
        if response.content_type:
            headers += (
                (b"content-type", response.content_type),
                (b"content-length", b"%d" % len(response.body)),
            )
        return headers


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refuse_path(_request: Request) -> Response:
    raise NotFound("No such path.")


def _refuse_verb(request: Request, allow: str) -> Response:
    refusal = MethodNotAllowed(f"{request.method} is not among {allow}.")
    refusal.allow = allow
    raise refusal
