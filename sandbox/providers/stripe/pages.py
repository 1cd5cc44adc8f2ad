"""Pages for a person who pays, without script: the page of a client secret, the bank's page, the
hosted page of a Checkout Session.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.providers.control import DeedRefused
from sandbox.providers.stripe import currencies, triggers
from sandbox.providers.stripe.account import Account, Cause
from sandbox.providers.stripe.buyer import Buyer, method_of
from sandbox.providers.stripe.errors import StripeError
from sandbox.providers.stripe.objects import PaymentIntent
from sandbox.providers.stripe.sessions import Sessions

_WALLET = "wallet:"


class Pages:
    """The pages of an account."""

    def __init__(self, account: Account, buyer: Buyer, sessions: Sessions) -> None:
        self._account = account
        self._buyer = buyer
        self._sessions = sessions

    def routes(self) -> list[Route]:
        """All pages."""
        return [
            Route("/_sim/pay/{ref}", self.pay, methods=["GET", "POST"]),
            Route("/_sim/authenticate/{ref}", self.authenticate, methods=["GET", "POST"]),
            Route("/_sim/checkout/{ref}", self.checkout, methods=["GET", "POST"]),
        ]

    async def pay(self, request: Request) -> Response:
        """Stands for a shop's page with Stripe's form in it: confirms with the client secret."""
        ref = request.path_params["ref"]
        pi = self._account.store.payment_intents.get(ref)
        if pi is None:
            return _page("No such payment", "", status=404)
        if request.method == "GET":
            return _page(self._title(pi), _form(pi.status) if _is_open(pi) else _done(pi))
        form = await _form_of(request)
        back = pi.return_url or f"{self._account.simulation.base_url}/_sim/pay/{ref}"
        return self._paid(
            ref, lambda: self._buyer.pay(ref, _method(form.get("card", "")), return_url=back), back
        )

    async def authenticate(self, request: Request) -> Response:
        """The bank's page, or the wallet's."""
        ref = request.path_params["ref"]
        pi = self._account.store.payment_intents.get(ref)
        if pi is None or (pi.status != "requires_action" and request.method == "GET"):
            return _page("Nothing to authenticate", "", status=404)
        if request.method == "GET":
            buttons = (
                '<button name="does" value="complete">Complete authentication</button> '
                '<button name="does" value="fail">Fail authentication</button>'
            )
            return _page(self._title(pi), f'<form method="post">{buttons}</form>')
        form = await _form_of(request)
        succeeds = form.get("does") == "complete"
        back = pi.return_url or f"{self._account.simulation.base_url}/_sim/pay/{ref}"
        return self._paid(ref, lambda: self._buyer.authenticate(ref, succeeds=succeeds), back)

    async def checkout(self, request: Request) -> Response:
        """The hosted page of a Checkout Session."""
        ref = request.path_params["ref"]
        session = self._account.store.sessions.get(ref)
        if session is None:
            return _page("No such session", "", status=404)
        if session.status != "open":
            return _page(f"This checkout is {session.status}", "", status=410)
        if request.method == "GET":
            money = currencies.money(session.amount, session.currency)
            items = "".join(f"<li>{escape(name)}</li>" for name in session.items)
            back = session.cancel_url
            cancel = f'<p><a href="{escape(back)}">Back</a></p>' if back else ""
            body = f"<ul>{items}</ul>{_form('')}{cancel}"
            return _page(f"Pay {money}", body)
        form = await _form_of(request)
        self._account.cause = Cause()
        try:
            pi = self._sessions.pay(ref, _method(form.get("card", "")))
        except (StripeError, DeedRefused) as error:
            return _page(str(error), _form(""), status=402)
        if pi.status == "requires_action":
            url = f"{self._account.simulation.base_url}/_sim/authenticate/{pi.id}"
            return RedirectResponse(url, status_code=303)
        return RedirectResponse(str(pi.return_url), status_code=303)

    def _paid(self, ref: str, act: Callable[[], PaymentIntent], back: str) -> Response:
        """Does a deed and sends the buyer where Stripe sends him."""
        self._account.cause = Cause()
        try:
            pi = act()
        except DeedRefused as error:
            return _page(str(error), "", status=409)
        except StripeError as error:
            pi = self._account.store.payment_intents[ref]
            if not pi.session and back.startswith(self._account.simulation.base_url):
                return _page(str(error), _form(pi.status), status=402)
        if pi.status == "requires_action":
            url = f"{self._account.simulation.base_url}/_sim/authenticate/{ref}"
            return RedirectResponse(url, status_code=303)
        if pi.session:
            if pi.status == "requires_payment_method":
                return RedirectResponse(f"/_sim/checkout/{pi.session}", status_code=303)
            return RedirectResponse(back, status_code=303)
        status = "failed" if pi.status == "requires_payment_method" else "succeeded"
        query = urlencode(
            {
                "payment_intent": pi.id,
                "payment_intent_client_secret": pi.client_secret,
                "redirect_status": status,
            }
        )
        joint = "&" if "?" in back else "?"
        return RedirectResponse(f"{back}{joint}{query}", status_code=303)

    def _title(self, pi: PaymentIntent) -> str:
        return f"Pay {currencies.money(pi.amount, pi.currency)}"


def _is_open(pi: PaymentIntent) -> bool:
    return pi.status in {"requires_payment_method", "requires_confirmation", "requires_action"}


def _done(pi: PaymentIntent) -> str:
    return f"<p>This payment is {escape(pi.status)}.</p>"


def _method(card: str) -> triggers.Method:
    if card.startswith(_WALLET) and card.removeprefix(_WALLET) in triggers.WALLETS:
        return triggers.wallet(card.removeprefix(_WALLET))
    return method_of(card)


def _form(status: str) -> str:
    options = "".join(
        f'<option value="{method.number}">{method.number} {escape(_effect(method))}</option>'
        for method in triggers.METHODS
    )
    wallets = "".join(f'<option value="{_WALLET}{one}">{one}</option>' for one in triggers.WALLETS)
    note = f"<p>Status: {escape(status)}</p>" if status else ""
    return (
        f'{note}<form method="post"><label>Test card <select name="card">{options}{wallets}'
        "</select></label> <button>Pay</button></form>"
    )


def _effect(method: triggers.Method) -> str:
    if method.decline is not None:
        return method.decline.decline_code or method.decline.code
    return method.pm.removeprefix("pm_card_") or "succeeds"


async def _form_of(request: Request) -> dict[str, str]:
    sent = parse_qs((await request.body()).decode("utf-8", "replace"))
    return {name: values[0] for name, values in sent.items()}


def _page(title: str, body: str, *, status: int = 200) -> Response:
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<h1>{escape(title)}</h1>{body}<p><small>Simulated Stripe. No real money.</small></p>",
        status_code=status,
        headers={"cache-control": "no-store", "referrer-policy": "no-referrer"},
    )
