"""Serves the channel over HTTP. `/v1/*` requires the API key; `/cashier/*` is for people, see
`cashier_endpoints`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TypeVar, assert_never

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sandbox import wire
from sandbox.cashier_endpoints import CashierPages
from sandbox.channel import SimulatedChannel
from sandbox.domain import InvalidRequest, Refusal, Transaction, Unauthorized
from sandbox.misbehaviour import ResponseFault
from sandbox.refunds import RefundDesk
from sandbox.request_body import read_body
from sandbox.statements import Statements, parse_date

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
Sleep = Callable[[float], Awaitable[None]]
Deliver = Callable[[], Awaitable[int]]

_BODY_BYTES_MAX = 16 * 1024
_PAGE_MAX = 1000


class Api:
    """The endpoints."""

    def __init__(
        self,
        channel: SimulatedChannel,
        refunds: RefundDesk,
        statements: Statements,
        cashier_pages: CashierPages,
        *,
        api_key: str,
        public_base_url: str,
        slow_seconds: float,
        sleep: Sleep,
        deliver: Deliver,
    ) -> None:
        """
        Args:
            deliver: sends the callbacks that are due, for callbacks that precede the response.
        """
        self._channel = channel
        self._refunds = refunds
        self._statements = statements
        self._deliver = deliver
        self._authorization = f"Bearer {api_key}".encode()
        self._public_base_url = public_base_url.rstrip("/")
        self._cashier_pages = cashier_pages
        self._slow_seconds = slow_seconds
        self._sleep = sleep

    def app(self) -> Starlette:
        """The ASGI application."""
        guarded = self._guarded
        return Starlette(
            max_body_size=_BODY_BYTES_MAX,
            exception_handlers={Refusal: _refused, HTTPException: _http_refused},
            routes=[
                Route("/v1/charges", guarded(self.charge), methods=["POST"]),
                Route("/v1/checkouts", guarded(self.checkout), methods=["POST"]),
                Route("/v1/transactions", guarded(self.list_transactions), methods=["GET"]),
                Route("/v1/transactions/{attempt_id}", guarded(self.query), methods=["GET"]),
                Route("/v1/transactions/{attempt_id}/close", guarded(self.close), methods=["POST"]),
                Route(
                    "/v1/transactions/{attempt_id}/signature", guarded(self.sign), methods=["POST"]
                ),
                Route(
                    "/v1/transactions/{attempt_id}/refunds",
                    guarded(self.list_refunds),
                    methods=["GET"],
                ),
                Route("/v1/refunds", guarded(self.refund), methods=["POST"]),
                Route("/v1/days/{date}/captures", guarded(self.captures_of_day), methods=["GET"]),
                Route("/v1/days/{date}/refunds", guarded(self.refunds_of_day), methods=["GET"]),
                Route("/v1/refunds/{refund_id}", guarded(self.query_refund), methods=["GET"]),
                Route("/v1/statements/{date}", guarded(self.statement), methods=["GET"]),
                Route("/v1/statements/{date}/plant", guarded(self.plant), methods=["POST"]),
                *self._cashier_pages.routes(),
                Route("/healthz", self.healthz, methods=["GET"]),
            ],
        )

    async def charge(self, request: Request) -> Response:
        """POST /v1/charges."""
        body = wire.decode(await read_body(request), wire.ChargeRequest)
        result = await self._channel.charge(
            attempt_id=body.attempt_id,
            amount=wire.money(body.amount, body.currency),
            card=body.card.card(),
            expires_at=body.expires_at,
        )
        if result.callback_first:
            await self._deliver()
        return await self._answer_badly(self._json(result.transaction), result.answer)

    async def checkout(self, request: Request) -> Response:
        """POST /v1/checkouts."""
        body = wire.decode(await read_body(request), wire.CheckoutRequest)
        result = await self._channel.checkout(
            attempt_id=body.attempt_id,
            amount=wire.money(body.amount, body.currency),
            subject=body.subject,
            return_url=body.return_url,
            expires_at=body.expires_at,
            merchant_name=body.merchant_name,
            description=body.description,
        )
        return await self._answer_badly(self._json(result.transaction), result.answer)

    async def refund(self, request: Request) -> Response:
        """POST /v1/refunds."""
        body = wire.decode(await read_body(request), wire.RefundRequest)
        refund, answer = await self._refunds.refund(
            refund_id=body.refund_id,
            attempt_id=body.attempt_id,
            amount=wire.money(body.amount, body.currency),
            reason=body.reason,
        )
        return await self._answer_badly(wire.refund_json(refund), answer)

    async def query_refund(self, request: Request) -> Response:
        """GET /v1/refunds/{refund_id}."""
        refund = await self._refunds.query(request.path_params["refund_id"])
        return JSONResponse(wire.refund_json(refund))

    async def list_refunds(self, request: Request) -> Response:
        """GET /v1/transactions/{attempt_id}/refunds, oldest first."""
        refunds = await self._refunds.list_of(request.path_params["attempt_id"])
        return JSONResponse({"refunds": [wire.refund_json(refund) for refund in refunds]})

    async def statement(self, request: Request) -> Response:
        """GET /v1/statements/{date}."""
        body = await self._statements.statement(parse_date(request.path_params["date"]))
        return Response(body, media_type="text/csv; charset=utf-8")

    async def captures_of_day(self, request: Request) -> Response:
        """GET /v1/days/{date}/captures?limit=&after=, by the channel's day of the capture."""
        rows = await self._statements.captures(
            parse_date(request.path_params["date"]), **_page(request)
        )
        return _listed("captures", rows, self._json)

    async def refunds_of_day(self, request: Request) -> Response:
        """GET /v1/days/{date}/refunds?limit=&after=, by the channel's day on which they were asked
        for, as they are now.
        """
        rows = await self._statements.refunds(
            parse_date(request.path_params["date"]), **_page(request)
        )
        return _listed("refunds", rows, wire.refund_json)

    async def plant(self, request: Request) -> Response:
        """POST /v1/statements/{date}/plant."""
        body = wire.decode(await read_body(request), wire.PlantRequest)
        planted = await self._statements.plant(
            parse_date(request.path_params["date"]),
            count=body.count,
            seed=str(body.seed),
            kinds=body.kinds,
        )
        return JSONResponse({"planted": [asdict(difference) for difference in planted]})

    async def query(self, request: Request) -> Response:
        """GET /v1/transactions/{attempt_id}."""
        return self._answer(await self._channel.query(request.path_params["attempt_id"]))

    async def close(self, request: Request) -> Response:
        """POST /v1/transactions/{attempt_id}/close."""
        return self._answer(await self._channel.close(request.path_params["attempt_id"]))

    async def sign(self, request: Request) -> Response:
        """POST /v1/transactions/{attempt_id}/signature."""
        body = wire.decode(await read_body(request), wire.SignatureRequest)
        signature = await self._channel.sign(request.path_params["attempt_id"], body)
        return JSONResponse({"signature": signature})

    async def list_transactions(self, request: Request) -> Response:
        """GET /v1/transactions?limit=&after=."""
        limit = _natural(request, "limit", default=100)
        rows = await self._channel.list_transactions(
            after=_natural(request, "after", default=0), limit=min(limit, _PAGE_MAX)
        )
        return _listed("transactions", rows, self._json)

    async def healthz(self, request: Request) -> Response:  # noqa: ARG002  # the framework's signature
        """GET /healthz: answers when the database file does."""
        await self._channel.list_transactions(after=0, limit=0)
        return JSONResponse({"status": "ok"})

    def _answer(self, transaction: Transaction) -> Response:
        return JSONResponse(self._json(transaction))

    async def _answer_badly(self, content: dict[str, object], answer: ResponseFault) -> Response:
        """Makes a faulty response. The requested change is already committed."""
        match answer:
            case ResponseFault.NORMAL:
                return JSONResponse(content)
            case ResponseFault.SLOW | ResponseFault.LATE:
                await self._sleep(
                    self._slow_seconds if answer is ResponseFault.LATE else self._slow_seconds / 10
                )
                return JSONResponse(content)
            case ResponseFault.LOST:
                return BrokenResponse(content)
            case ResponseFault.GARBAGE:
                return HTMLResponse("<html><body><h1>Welcome to nginx!</h1></body></html>")
            case ResponseFault.ERROR:
                return _error(500, "internal", "something went wrong")
            case _:
                assert_never(answer)

    def _json(self, transaction: Transaction) -> dict[str, object]:
        return wire.transaction_json(transaction, cashier_url=self._cashier_url(transaction))

    def _cashier_url(self, transaction: Transaction) -> str | None:
        return (
            f"{self._public_base_url}/cashier/{transaction.cashier_token}"
            if transaction.cashier_token
            else None
        )

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guard(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, self._authorization):
                raise Unauthorized("the API key is missing or wrong")
            return await endpoint(request)

        return guard


class BrokenResponse(JSONResponse):
    """A response that breaks off in the middle, together with its connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # the framework's signature
        """Sends half of the body. The server notices that the rest is missing and closes."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send(
            {
                "type": "http.response.body",
                "body": bytes(self.body[: len(self.body) // 2]),
                "more_body": True,
            }
        )


def _page(request: Request) -> dict[str, int]:
    return {
        "after": _natural(request, "after", default=0),
        "limit": min(_natural(request, "limit", default=100), _PAGE_MAX),
    }


def _listed(
    name: str, rows: list[tuple[int, T]], shown: Callable[[T], dict[str, object]]
) -> Response:
    return JSONResponse(
        {name: [shown(item) for _, item in rows], "next_after": rows[-1][0] if rows else None}
    )


def _natural(request: Request, name: str, *, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidRequest(f"{name}: expected a whole number")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001  # the framework's signature
    if not isinstance(error, Refusal):
        raise error
    return _error(error.http_status, error.code, str(error))


async def _http_refused(request: Request, error: Exception) -> Response:  # noqa: ARG001  # the framework's signature
    if not isinstance(error, HTTPException):
        raise error
    return _error(error.status_code, "http", error.detail, headers=dict(error.headers or {}))


def _error(
    status_code: int, code: str, message: str, *, headers: dict[str, str] | None = None
) -> Response:
    return JSONResponse(
        {"error": {"code": code, "message": message}}, status_code=status_code, headers=headers
    )
