"""What every call of the API has in common: token, mock answers, preference, request id, errors."""

from __future__ import annotations

import json
from asyncio import sleep
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mesh.money import Money
from sandbox.providers.faults import Answer as RawAnswer
from sandbox.providers.faults import json_answer
from sandbox.providers.paypal.answers import Answers, Json
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.idempotency import Answer, RequestMemory
from sandbox.providers.paypal.refusals import Refused, invalid
from sandbox.providers.paypal.tokens import TokenRefused, Tokens
from sandbox.providers.paypal.triggers import slow_seconds
from sandbox.providers.paypal.wire import decode
from sandbox.request_body import read_body

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]

_ISSUES = {
    400: "INVALID_REQUEST",
    401: "AUTHENTICATION_FAILURE",
    403: "NOT_AUTHORIZED",
    404: "RESOURCE_NOT_FOUND",
    405: "METHOD_NOT_SUPPORTED",
    409: "PREVIOUS_REQUEST_IN_PROGRESS",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "UNPROCESSABLE_ENTITY",
    429: "RATE_LIMIT_REACHED",
    503: "SERVICE_UNAVAILABLE",
}
_DEBUG_ID = "f0000000000d1"


def error_answer(status: int) -> RawAnswer:
    """PayPal's answer of a status, for faults."""
    refusal = Refused(_ISSUES.get(status, "INTERNAL_SERVER_ERROR"))
    return json_answer(status, refusal.body(debug_id=_DEBUG_ID))


class Calls:
    """Wraps endpoints."""

    def __init__(
        self, books: Books, answers: Answers, tokens: Tokens, memory: RequestMemory
    ) -> None:
        self._books = books
        self._answers = answers
        self._tokens = tokens
        self._memory = memory

    def guarded(self, endpoint: Endpoint, *, mocks: bool = True) -> Endpoint:
        """An endpoint for callers with a token.

        Args:
            mocks: PayPal-Mock-Response is obeyed.
        """

        async def guard(request: Request) -> Response:
            self._tokens.check(request.headers.get("authorization", ""))
            if mocks:
                _mock(request)
            return await endpoint(request)

        return guard

    async def body(self, request: Request, kind: type[T]) -> T:
        """The body of a call.

        Raises:
            Refused: 400, 415.
        """
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise Refused("UNSUPPORTED_MEDIA_TYPE")
        return decode(await read_body(request), kind)

    def shown(self, request: Request, full: Json) -> Json:
        """An object as the caller prefers it.

        Raises:
            Refused: 400; an unknown preference.
        """
        match request.headers.get("prefer", "return=minimal").replace(" ", ""):
            case "return=minimal":
                return self._answers.minimal(full)
            case "return=representation":
                return full
        raise invalid("INVALID_PARAMETER_VALUE", "Prefer")

    async def once(
        self,
        request: Request,
        act: Callable[[], tuple[int, Json | None]],
        *,
        kept: timedelta,
        busy: str = "PREVIOUS_REQUEST_IN_PROGRESS",
        subject: str = "",
        amount: Money | None = None,
    ) -> Response:
        """Does something once per request id.

        Args:
            act: gives status and body.
            busy: the issue while another call works on `subject`.
            amount: some make the call slow.
        """

        self.shown(request, {})  # an unknown preference is refused before anything is done

        async def alone() -> Answer:
            if subject in self._books.busy:
                raise Refused(busy)
            if amount is None or not slow_seconds(amount):
                return _answered(*act())
            self._books.busy.add(subject)
            try:
                await sleep(slow_seconds(amount))
                return _answered(*act())
            finally:
                self._books.busy.discard(subject)

        answer = await self._memory.once(
            f"{request.method} {request.url.path}",
            request.headers.get("paypal-request-id", ""),
            alone,
            kept=kept,
            busy=busy,
        )
        media_type = "application/json" if answer.body else None
        return self.debuggable(
            Response(answer.body, status_code=answer.status, media_type=media_type)
        )

    def json(self, body: Any, *, status: int = 200) -> Response:
        """A plain answer."""
        return self.debuggable(JSONResponse(body, status_code=status))

    def debuggable(self, response: Response, debug_id: str = "") -> Response:
        """The answer with the id that PayPal's support asks for."""
        response.headers["paypal-debug-id"] = debug_id or self._books.new_id()[-13:].lower()
        return response

    async def refused(self, _request: Request, error: Exception) -> Response:
        """The answer for a Refused."""
        assert isinstance(error, Refused)  # noqa: S101  # registered for this class alone
        debug_id = self._books.new_id()[-13:].lower()
        body = error.body(debug_id=debug_id)
        return self.debuggable(JSONResponse(body, status_code=error.status), debug_id)

    async def token_refused(self, _request: Request, error: Exception) -> Response:
        """The answer for a TokenRefused."""
        assert isinstance(error, TokenRefused)  # noqa: S101
        return self.json(error.body, status=error.status)

    async def http_refused(self, request: Request, error: Exception) -> Response:
        """The answer for an unknown path or method, and for a body that is too large."""
        status = getattr(error, "status_code", 500)
        return await self.refused(request, Refused(_ISSUES.get(status, "INVALID_REQUEST")))


def _answered(status: int, body: Json | None) -> Answer:
    return Answer(status, b"" if body is None else json.dumps(body).encode())


def _mock(request: Request) -> None:
    if "paypal-mock-response" not in request.headers:
        return
    try:
        issue = json.loads(request.headers["paypal-mock-response"])["mock_application_codes"]
    except (ValueError, TypeError, KeyError):
        raise invalid("INVALID_PARAMETER_SYNTAX", "PayPal-Mock-Response") from None
    raise Refused(str(issue))
