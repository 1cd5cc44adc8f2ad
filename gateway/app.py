"""The ASGI application: finds the door, lets it serve, and puts what every answer has around what
it gives. Every exception ends here: a refusal as its answer, a defect as INTERNAL with a trace id,
a client that hung up as a line in the log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Final

from gateway.answers import OWN, Answer, Headers
from gateway.cors import Cors
from gateway.docs import docs_pages
from gateway.doors import Door, Target, Upstream
from gateway.intake import WHOLE_ANSWER, ClientGone, Receive, Request, Scope, Send
from gateway.limits import RateLimit
from gateway.openapi import build_document
from gateway.pages import Health, Page
from gateway.refusals import MethodNotAllowed, Refusals
from gateway.routes import PathTemplate, Router
from gateway.schema import Schema
from gateway.settings import GatewaySettings
from gateway.static import StaticPage
from gateway.streams import EventAnswer, OpenStreams, StreamDoor, last_event
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
    """The door from outside."""

    def __init__(
        self,
        schema: Schema,
        *,
        settings: GatewaySettings,
        upstreams: Mapping[str, Upstream],
        user_tokens: UserTokens,
        telemetry: Telemetry,
    ) -> None:
        """
        Args:
            upstreams: who serves each process name of the contract, e.g. "payment_rpc".

        Raises:
            KeyError: a method is served by a process that is not in `upstreams`. TemplateInvalid:
                two routes answer one path.
        """
        self.health = Health(
            {
                name: upstream
                for name, upstream in upstreams.items()
                if name not in settings.absent_services
            }
        )
        self.refusals = Refusals(schema.errors)
        self.streams = OpenStreams(settings)
        self._telemetry = telemetry
        self._cors = Cors(settings.cors_origins, bound_headers=schema.bound_headers)
        self._unknown = Page("", _refuse_path)
        self._router: Router[Target] = Router()
        pages: tuple[Page | StaticPage, ...] = (
            Page("/healthz", self.health.alive),
            Page("/readyz", self.health.ready),
            *docs_pages(build_document(schema, development=settings.is_development)),
        )
        for page in pages:
            self._router.add("GET", PathTemplate.parse(page.route), page)
        for method in schema.routed(development=True):
            hidden = method.policy.development_only and not settings.is_development
            limit = (
                RateLimit(method.policy.limit, now=monotonic)
                if method.policy.limit is not None
                else None
            )
            make = (
                partial(StreamDoor, streams=self.streams)
                if method.policy.server_streaming
                else Door
            )
            for rule in method.rules:
                door = make(
                    method,
                    rule,
                    schema=schema,
                    upstream=upstreams[method.policy.served_by],
                    user_tokens=user_tokens,
                    settings=settings,
                    limit=limit,
                )
                # A hidden path is still known, so that it does not become the variable of another
                # one.
                self._router.add(rule.verb, rule.template, self._unknown if hidden else door)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        started = monotonic()
        request = Request(scope)
        target, values = self._find(request)
        status, refusal = _CLIENT_GONE, ""
        self._telemetry.running += 1
        try:
            try:
                answer = await target.serve(request, receive, values)
            except MeshError as error:
                answer = self._refuse(error, request, target)
            except ClientGone:
                return
            except Exception as error:
                log.error(
                    "unexpected",
                    route=target.route,
                    trace_id=request.trace.trace_id,
                    exc_info=error,
                )
                answer = self.refusals.internal(request.trace.trace_id, language=request.language)
            status, refusal = answer.status, answer.reason
            headers = self._headers(request, answer)
            whole = scope.get(WHOLE_ANSWER)
            if isinstance(answer, EventAnswer):
                status, refusal = await self._send_events(
                    send, answer, headers, request=request, target=target
                )
            elif whole is not None:
                await whole(status, headers, answer.body)
            else:
                await _send(send, status, headers, answer.body)
        finally:
            self._telemetry.ended(
                request,
                route=target.route,
                status=status,
                refusal=refusal,
                seconds=monotonic() - started,
            )

    async def _send_events(
        self, send: Send, answer: EventAnswer, headers: Headers, *, request: Request, target: Target
    ) -> tuple[int, str]:
        """Sends events until somebody ends it. Returns status and refusal for the log: the head is
        out, a late refusal is an event.
        """
        refused: Answer | None = None
        self._telemetry.streams += 1
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if request.method != "HEAD":
                async for event in answer.events():
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except ClientGone:
            return _CLIENT_GONE, ""
        except MeshError as error:
            refused = self._refuse(error, request, target)
        except Exception as error:
            log.error(
                "unexpected", route=target.route, trace_id=request.trace.trace_id, exc_info=error
            )
            refused = self.refusals.internal(request.trace.trace_id, language=request.language)
        finally:
            self._telemetry.streams -= 1
            await answer.stream.close()
        await send(
            {
                "type": "http.response.body",
                "body": last_event(refusal=refused, trace_id=request.trace.trace_id),
            }
        )
        return answer.status, "" if refused is None else refused.reason

    def _refuse(self, error: MeshError, request: Request, target: Target) -> Answer:
        return self.refusals.answer(
            error,
            package=target.package,
            trace_id=request.trace.trace_id,
            language=request.language,
            credentials=b"authorization" in request.headers,
            safe_to_retry=request.safe_to_retry,
            money_untouched=request.money_untouched,
        )

    async def overloaded(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  the shape of an ASGI application
        """Answers instead of the application when there are too many connections."""
        request = Request(scope)
        refusal = Unavailable("Too many connections.", retry_after_seconds=_OVERLOAD_SECONDS)
        answer = self.refusals.answer(
            refusal, package=COMMON, trace_id=request.trace.trace_id, language=request.language
        )
        await _send(
            send,
            answer.status,
            [*self._headers(request, answer), (b"connection", b"close")],
            answer.body,
        )

    def _find(self, request: Request) -> tuple[Target, tuple[bytes, ...]]:
        """What stands at the path for the verb, with the raw values of its variables; a page that
        says so when nothing does.
        """
        if request.raw_path == b"*":  # the target of OPTIONS that means the whole server
            return Page("", lambda request: self._cors.options(request, _VERBS)), ()
        match = self._router.match(request.raw_path)
        if match is None:
            return self._unknown, ()
        target = match.leaf.targets.get("GET" if request.method == "HEAD" else request.method)
        if target is not None:
            return target, match.values
        allow = match.leaf.allow()
        if request.method == "OPTIONS":
            return Page("", lambda request: self._cors.options(request, allow)), ()
        return Page("", lambda request: _refuse_verb(request, allow)), ()

    def _headers(self, request: Request, answer: Answer) -> Headers:
        headers = [
            _NO_SNIFFING,
            (b"cache-control", answer.keep),
            (b"x-request-id", request.request_id.encode()),
            (b"traceparent", request.trace.traceparent().encode()),
            *answer.headers,
            *self._cors.headers(request),
        ]
        # a file is the same for everybody; whatever a method says may have words for people in it
        if answer.keep == OWN:
            headers.append(_VARY)
        if answer.content_type:
            headers += (
                (b"content-type", answer.content_type),
                (b"content-length", b"%d" % len(answer.body)),
            )
        return headers


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _refuse_path(_request: Request) -> Answer:
    raise NotFound("No such path.")


def _refuse_verb(request: Request, allow: str) -> Answer:
    refusal = MethodNotAllowed(f"{request.method} is not among {allow}.")
    refusal.allow = allow
    raise refusal
