"""Puts the simulated PayPal together."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from mesh.ids import UlidIds
from sandbox.providers.control import simulated_app
from sandbox.providers.paypal.answers import Answers
from sandbox.providers.paypal.api import PaymentsApi
from sandbox.providers.paypal.authorizations import AuthorizationDesk
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.buyer import Buyer
from sandbox.providers.paypal.calls import Calls, error_answer
from sandbox.providers.paypal.captures import CaptureDesk
from sandbox.providers.paypal.config import CERTIFICATES, PayPalConfig
from sandbox.providers.paypal.events import EventLog
from sandbox.providers.paypal.idempotency import RequestMemory
from sandbox.providers.paypal.notifications import Notifications, notice_of
from sandbox.providers.paypal.orders import OrderDesk
from sandbox.providers.paypal.pages import approval_page, done_page, with_parameters
from sandbox.providers.paypal.refunds import RefundDesk
from sandbox.providers.paypal.refusals import Refused
from sandbox.providers.paypal.reporting import Reporting
from sandbox.providers.paypal.tokens import TokenRefused, Tokens
from sandbox.providers.simulation import Simulation
from sandbox.request_body import read_body


def create_app(simulation: Simulation[PayPalConfig]) -> ASGIApp:
    """The application."""
    clock, agenda, money = simulation.clock, simulation.agenda, simulation.money
    config, base_url, deliveries = simulation.config, simulation.base_url, simulation.deliveries
    config.certificate_url = f"{base_url}{CERTIFICATES}{config.signer.certificate_id}"
    ids = UlidIds(clock)
    books = Books(clock, ids)
    answers = Answers(books, base_url)
    events = EventLog(books, answers, base_url, lambda event: deliveries.send(notice_of(event)))
    captures = CaptureDesk(books, events, money, agenda)
    authorizations = AuthorizationDesk(books, events, captures, money, agenda)
    refunds = RefundDesk(books, events, money, agenda)
    orders = OrderDesk(
        books=books,
        events=events,
        answers=answers,
        captures=captures,
        authorizations=authorizations,
        agenda=agenda,
    )
    tokens = Tokens(config, clock, ids)
    calls = Calls(books, answers, tokens, RequestMemory(clock))
    front = _Front(calls, books, tokens, orders, config)
    return simulated_app(
        simulation,
        routes=[
            *front.routes(),
            *PaymentsApi(
                calls=calls,
                books=books,
                answers=answers,
                orders=orders,
                authorizations=authorizations,
                refunds=refunds,
            ).routes(),
            *Notifications(
                calls=calls,
                books=books,
                events=events,
                deliveries=deliveries,
                config=config,
                base_url=base_url,
            ).routes(),
        ],
        buyer=Buyer(books, orders, authorizations, captures, refunds),
        exception_handlers={
            Refused: calls.refused,
            TokenRefused: calls.token_refused,
            HTTPException: calls.http_refused,
        },
        error_answer=error_answer,
    )


class _Front:
    """Tokens, transaction search, and the page for the buyer."""

    def __init__(
        self,
        calls: Calls,
        books: Books,
        tokens: Tokens,
        orders: OrderDesk,
        config: PayPalConfig,
    ) -> None:
        self._calls = calls
        self._books = books
        self._tokens = tokens
        self._orders = orders
        self._reporting = Reporting(books, delay=config.reporting_delay, account=config.account)

    def routes(self) -> list[BaseRoute]:
        """The routes."""
        search = self._calls.guarded(self.search, mocks=False)
        return [
            Route("/v1/oauth2/token", self.token, methods=["POST"]),
            Route("/v1/reporting/transactions", search, methods=["GET"]),
            Route("/checkoutnow", self.show, methods=["GET"]),
            Route("/checkoutnow", self.act, methods=["POST"]),
        ]

    async def token(self, request: Request) -> Response:
        """POST /v1/oauth2/token."""
        authorization = request.headers.get("authorization", "")
        return self._calls.json(self._tokens.issue(authorization, await read_body(request)))

    async def search(self, request: Request) -> Response:
        """GET /v1/reporting/transactions."""
        return self._calls.json(self._reporting.search(dict(request.query_params)))

    async def show(self, request: Request) -> Response:
        """GET /checkoutnow?token=…"""
        try:
            order = self._books.order(request.query_params.get("token", ""))
        except Refused:
            return HTMLResponse(done_page("This payment is no longer there."), status_code=404)
        return HTMLResponse(approval_page(order))

    async def act(self, request: Request) -> Response:
        """POST /checkoutnow?token=…: the buyer has chosen."""
        order_id = request.query_params.get("token", "")
        approves = b"does=approve" in await read_body(request)
        try:
            order = self._books.order(order_id)
            order = self._orders.approve(order_id) if approves else order
        except Refused:
            return HTMLResponse(done_page("Nothing is left to approve."), status_code=409)
        url = order.return_url if approves else order.cancel_url
        if not url:
            return HTMLResponse(done_page("Thank you. You may close this page."))
        sent = {"token": order.id, **({"PayerID": order.payer_id} if approves else {})}
        return RedirectResponse(with_parameters(url, **sent), status_code=303)
