"""Puts the simulated BTCPay Server together."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from mesh.ids import UlidIds
from sandbox.providers.btcpay.api import GreenfieldApi, guard_of
from sandbox.providers.btcpay.buyer import Buyer
from sandbox.providers.btcpay.config import BTCPayConfig
from sandbox.providers.btcpay.events import EventLog
from sandbox.providers.btcpay.hooks import Hooks
from sandbox.providers.btcpay.invoices import InvoiceDesk
from sandbox.providers.btcpay.pages import claim_page, invoice_page
from sandbox.providers.btcpay.refunds import RefundDesk
from sandbox.providers.btcpay.refusals import Refused
from sandbox.providers.control import simulated_app
from sandbox.providers.faults import Answer, json_answer
from sandbox.providers.simulation import Simulation

_CODES = {401: "unauthenticated", 403: "missing-permission", 404: "not-found", 429: "throttled"}


def create_app(simulation: Simulation[BTCPayConfig]) -> ASGIApp:
    """The application."""
    config, clock, deliveries = simulation.config, simulation.clock, simulation.deliveries
    ids = UlidIds(clock)
    events = EventLog(clock=clock, ids=ids, store_id=config.store_id, send=deliveries.send)
    desk = InvoiceDesk(
        clock=clock,
        ids=ids,
        agenda=simulation.agenda,
        money=simulation.money,
        events=events,
        minor_per_coin=config.minor_per_coin,
        invoices={},
    )
    refunds = RefundDesk(
        clock=clock,
        ids=ids,
        agenda=simulation.agenda,
        money=simulation.money,
        events=events,
        desk=desk,
        pull_payments={},
        payouts={},
    )
    guarded = guard_of(config)
    return simulated_app(
        simulation,
        routes=[
            *GreenfieldApi(config, simulation.base_url, desk, refunds).routes(guarded),
            *Hooks(config, deliveries).routes(guarded),
            *_Pages(desk, refunds).routes(),
        ],
        buyer=Buyer(desk, refunds),
        exception_handlers={Refused: _refused, HTTPException: _http_refused},
        error_answer=error_answer,
    )


def error_answer(status: int) -> Answer:
    """BTCPay Server's answer of a status, for faults."""
    return json_answer(
        status, {"code": _CODES.get(status, "generic-error"), "message": "Simulated"}
    )


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101  # registered for this class alone
    return JSONResponse(error.body, status_code=error.status)


async def _http_refused(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    body = {"code": _CODES.get(status, "generic-error"), "message": str(error)}
    return JSONResponse(body, status_code=status)


class _Pages:
    """What a buyer opens."""

    def __init__(self, desk: InvoiceDesk, refunds: RefundDesk) -> None:
        self._desk = desk
        self._refunds = refunds

    def routes(self) -> list[BaseRoute]:
        """The routes."""
        return [
            Route("/i/{id}", self.invoice, methods=["GET"]),
            Route("/i/{id}", self.pay, methods=["POST"]),
            Route("/pull-payments/{id}", self.pull_payment, methods=["GET"]),
            Route("/pull-payments/{id}", self.claim, methods=["POST"]),
        ]

    async def invoice(self, request: Request) -> Response:
        """The checkout page."""
        return HTMLResponse(invoice_page(self._desk.find(request.path_params["id"])))

    async def pay(self, request: Request) -> Response:
        """The button of the checkout page."""
        invoice_id = request.path_params["id"]
        self._desk.pay_as_asked(invoice_id)
        checkout = self._desk.find(invoice_id).checkout
        automatic = checkout.get("redirectURL") if checkout.get("redirectAutomatically") else None
        return RedirectResponse(automatic or str(request.url.path), status_code=303)

    async def pull_payment(self, request: Request) -> Response:
        """The page of a claim."""
        found = self._refunds.find(request.path_params["id"])
        return HTMLResponse(claim_page(found, self._refunds.payouts_of(found.id)))

    async def claim(self, request: Request) -> Response:
        """The button of that page."""
        self._refunds.claim(request.path_params["id"])
        return RedirectResponse(str(request.url.path), status_code=303)
