"""The Greenfield API."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.providers.btcpay.answers import (
    Json,
    invoice_json,
    payment_method_json,
    payout_json,
    pull_payment_json,
    seconds,
)
from sandbox.providers.btcpay.config import BTCPayConfig
from sandbox.providers.btcpay.invoices import InvoiceDesk, markable
from sandbox.providers.btcpay.objects import Invoice, Payout, PayoutState, Status
from sandbox.providers.btcpay.refunds import RefundDesk
from sandbox.providers.btcpay.refusals import invalid, not_found, refused
from sandbox.providers.btcpay.wire import CreateInvoice, MarkInvoice, RefundInvoice, decode
from sandbox.request_body import read_body

Endpoint = Callable[[Request], Awaitable[Response]]

_API = "/api/v1"
_STORE = f"{_API}/stores/{{store}}"
_PAGE_MAX = 10_000


class Right:
    """Names of rights."""

    VIEW = "btcpay.store.canviewinvoices"
    CREATE = "btcpay.store.cancreateinvoice"
    MODIFY = "btcpay.store.canmodifyinvoices"
    WEBHOOKS = "btcpay.store.webhooks.canmodifywebhooks"
    REFUND = "btcpay.store.cancreatenonapprovedpullpayments"
    NONE = ""  # any key


class Guard(Protocol):
    """Wraps an endpoint for keys with a right."""

    def __call__(self, endpoint: Endpoint, right: str) -> Endpoint: ...


def guard_of(config: BTCPayConfig) -> Guard:
    """The guard of a store: an unknown key is 401, a missing right 403, an unknown store 404."""

    def guarded(endpoint: Endpoint, right: str) -> Endpoint:
        async def guard(request: Request) -> Response:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            known = key.encode() if scheme.lower() == "token" else b""
            if not hmac.compare_digest(known, config.api_key.encode()):
                if not hmac.compare_digest(known, config.view_key.encode()):
                    raise refused(401, "unauthenticated", "Authentication is required")
                if right not in {Right.NONE, Right.VIEW}:
                    raise refused(
                        403, "missing-permission", f"Insufficient API Permissions: {right}"
                    )
            if request.path_params.get("store", config.store_id) != config.store_id:
                raise not_found("store")
            return await endpoint(request)

        return guard

    return guarded


class GreenfieldApi:
    """The endpoints of invoices, pull payments and payouts."""

    def __init__(
        self, config: BTCPayConfig, base_url: str, desk: InvoiceDesk, refunds: RefundDesk
    ) -> None:
        self._config = config
        self._base_url = base_url
        self._desk = desk
        self._refunds = refunds

    def routes(self, guarded: Guard) -> list[BaseRoute]:
        """The routes. Invoices are found with and without their store in the path, as older and
        newer versions have it.
        """
        one = (f"{_API}/invoices/{{id}}", f"{_STORE}/invoices/{{id}}")
        table: list[tuple[str, str, Endpoint, str]] = [
            ("GET", f"{_API}/server/info", self.server_info, Right.NONE),
            ("GET", _STORE, self.store, Right.VIEW),
            ("POST", f"{_STORE}/invoices", self.create, Right.CREATE),
            ("GET", f"{_STORE}/invoices", self.list_invoices, Right.VIEW),
            ("GET", f"{_STORE}/payouts", self.list_payouts, Right.VIEW),
            ("GET", f"{_STORE}/pull-payments", self.list_pull_payments, Right.VIEW),
        ]
        for path in one:
            table += [
                ("GET", path, self.get, Right.VIEW),
                ("DELETE", path, self.archive, Right.MODIFY),
                ("POST", f"{path}/unarchive", self.unarchive, Right.MODIFY),
                ("POST", f"{path}/status", self.mark, Right.MODIFY),
                ("GET", f"{path}/payment-methods", self.payment_methods, Right.VIEW),
                ("POST", f"{path}/refund", self.refund, Right.REFUND),
            ]
        claim = f"{_API}/pull-payments/{{id}}"  # whoever has the link may look
        return [
            Route(claim, self.get_pull_payment, methods=["GET"]),
            Route(f"{claim}/payouts", self.payouts_of, methods=["GET"]),
            *(
                Route(path, guarded(endpoint, right), methods=[method])
                for method, path, endpoint, right in table
            ),
        ]

    async def server_info(self, _request: Request) -> Response:
        """GET /api/v1/server/info."""
        return JSONResponse(
            {
                "version": "2.4.1",
                "onion": None,
                "supportedPaymentMethods": ["BTC-CHAIN"],
                "fullySynched": True,
                "syncStatus": [],
            }
        )

    async def store(self, _request: Request) -> Response:
        """GET /api/v1/stores/{s}."""
        return JSONResponse(
            {
                "id": self._config.store_id,
                "name": "paymesh mall",
                "defaultCurrency": "USD",
                "speedPolicy": "MediumSpeed",
                "invoiceExpiration": 900,
                "monitoringExpiration": 86_400,
                "paymentTolerance": 0,
            }
        )

    async def create(self, request: Request) -> Response:
        """POST /api/v1/stores/{s}/invoices."""
        body = decode(await read_body(request), CreateInvoice)
        return self._invoice(self._desk.create(body))

    async def get(self, request: Request) -> Response:
        """GET …/invoices/{id}."""
        return self._invoice(self._desk.find(request.path_params["id"]))

    async def list_invoices(self, request: Request) -> Response:
        """GET /api/v1/stores/{s}/invoices: newest first."""
        query = request.query_params
        orders, statuses = set(query.getlist("orderId")), set(query.getlist("status"))
        if statuses - set(Status):
            raise invalid("status", "unknown status")
        begin, end = _number(query, "startDate", 0), _number(query, "endDate", 2**53)
        skip, take = _number(query, "skip", 0), _number(query, "take", _PAGE_MAX)
        archived = query.get("includeArchived", "false").lower() == "true"
        found = [
            one
            for one in reversed(list(self._desk.invoices.values()))
            if (not orders or one.order_id in orders)
            and (not statuses or one.status in statuses)
            and begin <= seconds(one.created_at) <= end
            and (archived or not one.is_archived)
        ]
        return JSONResponse([self._shown(one) for one in found[skip : skip + take]])

    async def payment_methods(self, request: Request) -> Response:
        """GET …/invoices/{id}/payment-methods."""
        invoice = self._desk.find(request.path_params["id"])
        rate = self._desk.rate(invoice.currency)
        return JSONResponse([payment_method_json(invoice, rate=rate)])

    async def mark(self, request: Request) -> Response:
        """POST …/invoices/{id}/status."""
        body = decode(await read_body(request), MarkInvoice)
        return self._invoice(self._desk.mark(request.path_params["id"], Status(body.status)))

    async def archive(self, request: Request) -> Response:
        """DELETE …/invoices/{id}."""
        self._desk.archive(request.path_params["id"], is_archived=True)
        return Response()

    async def unarchive(self, request: Request) -> Response:
        """POST …/invoices/{id}/unarchive."""
        return self._invoice(self._desk.archive(request.path_params["id"], is_archived=False))

    async def refund(self, request: Request) -> Response:
        """POST …/invoices/{id}/refund."""
        body = decode(await read_body(request), RefundInvoice)
        found = self._refunds.refund(request.path_params["id"], body)
        return JSONResponse(self._pull_payment(found.id))

    async def get_pull_payment(self, request: Request) -> Response:
        """GET /api/v1/pull-payments/{id}."""
        return JSONResponse(self._pull_payment(request.path_params["id"]))

    async def list_pull_payments(self, _request: Request) -> Response:
        """GET /api/v1/stores/{s}/pull-payments."""
        return JSONResponse([self._pull_payment(one) for one in self._refunds.pull_payments])

    async def payouts_of(self, request: Request) -> Response:
        """GET /api/v1/pull-payments/{id}/payouts."""
        found = self._refunds.find(request.path_params["id"])
        return self._payouts(request, self._refunds.payouts_of(found.id))

    async def list_payouts(self, request: Request) -> Response:
        """GET /api/v1/stores/{s}/payouts."""
        return self._payouts(request, list(self._refunds.payouts.values()))

    def _payouts(self, request: Request, found: list[Payout]) -> Response:
        """Payouts; cancelled ones only for those who ask for them."""
        whole = request.query_params.get("includeCancelled", "false").lower() == "true"
        return JSONResponse(
            [
                payout_json(
                    one,
                    self._refunds.find(one.pull_payment_id),
                    satoshi_per_minor=self._desk.satoshi_per_minor,
                )
                for one in found
                if whole or one.state is not PayoutState.CANCELLED
            ]
        )

    def _invoice(self, invoice: Invoice) -> Response:
        return JSONResponse(self._shown(invoice))

    def _shown(self, invoice: Invoice) -> Json:
        return invoice_json(
            invoice,
            paid=self._desk.worth(invoice.paid_satoshi, invoice.currency),
            base_url=self._base_url,
            store_id=self._config.store_id,
            markable=[str(status) for status in markable(invoice)],
        )

    def _pull_payment(self, pull_payment_id: str) -> Json:
        return pull_payment_json(
            self._refunds.find(pull_payment_id),
            base_url=self._base_url,
            satoshi_per_minor=self._desk.satoshi_per_minor,
        )


def _number(query: Any, name: str, default: int) -> int:
    text = str(query.get(name, default))
    if not (text.isascii() and text.isdigit() and len(text) < 18):
        raise invalid(name, "expected a whole number")
    return int(text)
