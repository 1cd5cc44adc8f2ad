"""Orders v2 and Payments v2."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sandbox.providers.paypal.answers import Answers, Json
from sandbox.providers.paypal.authorizations import AuthorizationDesk
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.calls import Calls
from sandbox.providers.paypal.idempotency import ORDERS_KEPT, PAYMENTS_KEPT
from sandbox.providers.paypal.orders import OrderDesk
from sandbox.providers.paypal.refunds import RefundDesk
from sandbox.providers.paypal.refusals import invalid
from sandbox.providers.paypal.wire import (
    CaptureAuthorization,
    CreateOrder,
    FinishOrder,
    Reauthorize,
    RefundCapture,
)

_IN_PROGRESS = "ORDER_COMPLETION_IN_PROGRESS"


class PaymentsApi:
    """The endpoints."""

    def __init__(
        self,
        *,
        calls: Calls,
        books: Books,
        answers: Answers,
        orders: OrderDesk,
        authorizations: AuthorizationDesk,
        refunds: RefundDesk,
    ) -> None:
        self._calls = calls
        self._books = books
        self._answers = answers
        self._orders = orders
        self._authorizations = authorizations
        self._refunds = refunds

    def routes(self) -> list[BaseRoute]:
        """The routes."""
        guarded = self._calls.guarded
        orders, payments = "/v2/checkout/orders", "/v2/payments"
        authorization = f"{payments}/authorizations/{{id}}"
        posts = {
            orders: self.create_order,
            f"{orders}/{{id}}/capture": self.capture_order,
            f"{orders}/{{id}}/authorize": self.authorize_order,
            f"{authorization}/capture": self.capture_authorization,
            f"{authorization}/reauthorize": self.reauthorize,
            f"{authorization}/void": self.void,
            f"{payments}/captures/{{id}}/refund": self.refund,
        }
        gets = {
            f"{orders}/{{id}}": self.get_order,
            authorization: self.get_authorization,
            f"{payments}/captures/{{id}}": self.get_capture,
            f"{payments}/refunds/{{id}}": self.get_refund,
        }
        return [
            *(Route(path, guarded(call), methods=["POST"]) for path, call in posts.items()),
            *(Route(path, guarded(call), methods=["GET"]) for path, call in gets.items()),
        ]

    async def create_order(self, request: Request) -> Response:
        """POST /v2/checkout/orders."""
        body = await self._calls.body(request, CreateOrder)
        if body.payment_source and not request.headers.get("paypal-request-id"):
            raise invalid("PAYPAL_REQUEST_ID_REQUIRED", "PayPal-Request-Id")

        def act() -> tuple[int, Json]:
            order = self._orders.create(body)
            return 201, self._calls.shown(request, self._answers.order(order))

        return await self._calls.once(request, act, kept=ORDERS_KEPT)

    async def get_order(self, request: Request) -> Response:
        """GET /v2/checkout/orders/{id}."""
        order = self._books.order(request.path_params["id"])
        return self._calls.json(self._answers.order(order))

    async def capture_order(self, request: Request) -> Response:
        """POST /v2/checkout/orders/{id}/capture."""
        await self._calls.body(request, FinishOrder)
        order = self._books.orders.get(request.path_params["id"])

        def act() -> tuple[int, Json]:
            done = self._orders.capture(request.path_params["id"])
            return 201, self._calls.shown(request, self._answers.order(done))

        return await self._calls.once(
            request,
            act,
            kept=ORDERS_KEPT,
            busy=_IN_PROGRESS,
            subject=request.path_params["id"],
            amount=order.amount if order else None,
        )

    async def authorize_order(self, request: Request) -> Response:
        """POST /v2/checkout/orders/{id}/authorize."""
        await self._calls.body(request, FinishOrder)

        def act() -> tuple[int, Json]:
            done = self._orders.authorize(request.path_params["id"])
            return 201, self._calls.shown(request, self._answers.order(done))

        return await self._calls.once(
            request, act, kept=ORDERS_KEPT, busy=_IN_PROGRESS, subject=request.path_params["id"]
        )

    async def get_authorization(self, request: Request) -> Response:
        """GET /v2/payments/authorizations/{id}."""
        found = self._books.authorization(request.path_params["id"])
        return self._calls.json(self._answers.authorization(found))

    async def capture_authorization(self, request: Request) -> Response:
        """POST /v2/payments/authorizations/{id}/capture."""
        body = await self._calls.body(request, CaptureAuthorization)
        found = request.path_params["id"]

        def act() -> tuple[int, Json]:
            done = self._authorizations.capture(found, body)
            return 201, self._calls.shown(request, self._answers.capture(done))

        return await self._calls.once(
            request,
            act,
            kept=PAYMENTS_KEPT,
            subject=found,
            amount=self._authorizations.amount_to_capture(found, body),
        )

    async def reauthorize(self, request: Request) -> Response:
        """POST /v2/payments/authorizations/{id}/reauthorize."""
        body = await self._calls.body(request, Reauthorize)

        def act() -> tuple[int, Json]:
            done = self._authorizations.reauthorize(request.path_params["id"], body.amount)
            return 201, self._calls.shown(request, self._answers.authorization(done))

        return await self._calls.once(
            request, act, kept=PAYMENTS_KEPT, subject=request.path_params["id"]
        )

    async def void(self, request: Request) -> Response:
        """POST /v2/payments/authorizations/{id}/void."""

        def act() -> tuple[int, Json | None]:
            done = self._authorizations.void(request.path_params["id"])
            if request.headers.get("prefer", "return=minimal") == "return=minimal":
                return 204, None
            return 200, self._calls.shown(request, self._answers.authorization(done))

        return await self._calls.once(
            request, act, kept=PAYMENTS_KEPT, subject=request.path_params["id"]
        )

    async def get_capture(self, request: Request) -> Response:
        """GET /v2/payments/captures/{id}."""
        found = self._books.capture(request.path_params["id"])
        return self._calls.json(self._answers.capture(found))

    async def refund(self, request: Request) -> Response:
        """POST /v2/payments/captures/{id}/refund."""
        body = await self._calls.body(request, RefundCapture)
        capture_id = request.path_params["id"]

        def act() -> tuple[int, Json]:
            done = self._refunds.refund(capture_id, body)
            return 201, self._calls.shown(request, self._answers.refund(done))

        return await self._calls.once(
            request,
            act,
            kept=PAYMENTS_KEPT,
            subject=capture_id,
            amount=self._refunds.amount(capture_id, body),
        )

    async def get_refund(self, request: Request) -> Response:
        """GET /v2/payments/refunds/{id}."""
        found = self._books.refund(request.path_params["id"])
        return self._calls.json(self._answers.refund(found))
