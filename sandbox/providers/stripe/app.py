"""Serves the simulated Stripe over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sandbox.providers.control import simulated_app
from sandbox.providers.simulation import Simulation
from sandbox.providers.stripe.account import Account
from sandbox.providers.stripe.attempts import Attempts
from sandbox.providers.stripe.buyer import Buyer
from sandbox.providers.stripe.config import StripeConfig
from sandbox.providers.stripe.disputes import Disputes
from sandbox.providers.stripe.endpoint import Endpoints, Operation
from sandbox.providers.stripe.errors import StripeError, answer_of_status
from sandbox.providers.stripe.forms import EXPAND, read
from sandbox.providers.stripe.lists import Lists
from sandbox.providers.stripe.pages import Pages
from sandbox.providers.stripe.payments import Payments
from sandbox.providers.stripe.refunds import Refunds
from sandbox.providers.stripe.sessions import Sessions
from sandbox.providers.stripe.views import Json


def create_app(simulation: Simulation[StripeConfig]) -> ASGIApp:
    """The HTTP surface of a simulation."""
    account = Account(simulation)
    disputes = Disputes(account)
    attempts = Attempts(account, disputes)
    payments = Payments(account, attempts)
    sessions = Sessions(account, payments, attempts)
    refunds = Refunds(account)
    buyer = Buyer(
        account,
        payments=payments,
        attempts=attempts,
        sessions=sessions,
        refunds=refunds,
        disputes=disputes,
    )
    endpoints = Endpoints(account)
    operations = {
        **_payment_operations(account, payments),
        **_refund_operations(account, refunds),
        **_session_operations(account, sessions),
        **_read_operations(account),
    }
    return simulated_app(
        simulation,
        routes=[
            *(
                Route(f"/v1/{path}", endpoints.serve(operation), methods=[method])
                for (method, path), operation in operations.items()
            ),
            *Pages(account, buyer, sessions).routes(),
        ],
        buyer=buyer.act,
        exception_handlers={404: _unknown_path, 405: _unknown_path},
        error_answer=answer_of_status,
        on_error=endpoints.broken,
    )


Operations = Mapping[tuple[str, str], Operation]


def _payment_operations(account: Account, payments: Payments) -> Operations:
    view, table = account.views.payment_intent, account.store.payment_intents

    def retrieve(ids: Mapping[str, str], sent: dict[str, Any]) -> Json:
        read({**EXPAND, "client_secret": lambda _name, value: value}, sent)
        return view(table.need(ids["id"]))

    return {
        ("POST", "payment_intents"): lambda _ids, sent: view(payments.create(sent)),
        ("GET", "payment_intents/{id}"): retrieve,
        ("POST", "payment_intents/{id}/confirm"): lambda ids, sent: view(
            payments.confirm(ids["id"], sent)
        ),
        ("POST", "payment_intents/{id}/cancel"): lambda ids, sent: view(
            payments.cancel(ids["id"], sent)
        ),
        ("POST", "payment_intents/{id}/capture"): lambda ids, sent: view(
            payments.capture(ids["id"], sent)
        ),
    }


def _refund_operations(account: Account, refunds: Refunds) -> Operations:
    view = account.views.refund
    return {
        ("POST", "refunds"): lambda _ids, sent: view(refunds.create(sent)),
        ("GET", "refunds/{id}"): _retrieve(account.store.refunds, view),
        ("POST", "refunds/{id}/cancel"): lambda ids, sent: view(refunds.cancel(ids["id"], sent)),
    }


def _session_operations(account: Account, sessions: Sessions) -> Operations:
    view = account.views.session
    return {
        ("POST", "checkout/sessions"): lambda _ids, sent: view(sessions.create(sent)),
        ("GET", "checkout/sessions/{id}"): _retrieve(account.store.sessions, view),
        ("POST", "checkout/sessions/{id}/expire"): lambda ids, sent: view(
            sessions.expire(ids["id"], sent)
        ),
    }


def _read_operations(account: Account) -> Operations:
    views, store, lists = account.views, account.store, Lists(account)
    return {
        ("GET", "payment_intents"): lambda _ids, sent: lists.payment_intents(sent),
        ("GET", "refunds"): lambda _ids, sent: lists.refunds(sent),
        ("GET", "checkout/sessions"): lambda _ids, sent: lists.sessions(sent),
        ("GET", "balance_transactions"): lambda _ids, sent: lists.balance_transactions(sent),
        ("GET", "balance_transactions/{id}"): _retrieve(store.balance, views.balance_transaction),
        ("GET", "events"): lambda _ids, sent: lists.events(sent),
        ("GET", "events/{id}"): _retrieve(store.events, account.event),
        ("GET", "charges/{id}"): _retrieve(store.charges, views.charge),
        ("GET", "disputes"): lambda _ids, sent: lists.disputes(sent),
        ("GET", "disputes/{id}"): _retrieve(store.disputes, views.dispute),
        ("GET", "balance"): lambda _ids, _sent: _balance(account),
        ("GET", "account"): lambda _ids, _sent: _account(account),
    }


def _retrieve(table: Any, view: Any) -> Operation:
    def operation(ids: Mapping[str, str], sent: dict[str, Any]) -> Json:
        read(EXPAND, sent)
        shown: Json = view(table.need(ids["id"]))
        return shown

    return operation


def _balance(account: Account) -> Json:
    total = sum(row.amount - row.fee for row in account.store.balance.values())
    currency = account.config.settlement_currency
    available = {"amount": total, "currency": currency, "source_types": {"card": total}}
    pending = {"amount": 0, "currency": currency, "source_types": {"card": 0}}
    return {
        "object": "balance",
        "available": [available],
        "pending": [pending],
        "livemode": False,
    }


def _account(account: Account) -> Json:
    config = account.config
    return {
        "id": config.account,
        "object": "account",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": config.country,
        "default_currency": config.settlement_currency,
        "details_submitted": True,
        "email": "owner@example.com",
        "payouts_enabled": True,
        "type": "standard",
    }


async def _unknown_path(request: Request, _error: Exception) -> Response:
    error = StripeError(404, f"Unrecognized request URL ({request.method}: {request.url.path}).")
    return JSONResponse(error.body(), 404)
