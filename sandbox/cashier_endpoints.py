"""Serves the cashier page and its buttons over HTTP, in the language of the buyer.

The page has no script, so the language chosen by link travels in the addresses: `?lang=zh`.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mesh.clock import Clock
from mesh.languages import ACCEPT_LANGUAGE, Language
from sandbox import cashier
from sandbox.cashier_texts import Texts, texts_for
from sandbox.channel import SimulatedChannel
from sandbox.domain import PayMethod, TransactionNotFound
from sandbox.request_body import read_body

_FIELDS_MAX = 16  # of a form that is read


class CashierPages:
    """The pages for people. No key: the address is the credential."""

    def __init__(self, channel: SimulatedChannel, *, clock: Clock, shop_name: str) -> None:
        """
        Args:
            shop_name: shown when the checkout named no merchant.
        """
        self._channel = channel
        self._clock = clock
        self._shop_name = shop_name

    def routes(self) -> list[Route]:
        """The addresses below /cashier/."""
        return [
            Route("/cashier/{token}", self.show, methods=["GET"]),
            Route("/cashier/{token}/pay", self.press_pay, methods=["POST"]),
            Route("/cashier/{token}/fail", self.press_fail, methods=["POST"]),
            # somebody reloads or types the address of a button
            Route("/cashier/{token}/pay", self.go_back, methods=["GET"]),
            Route("/cashier/{token}/fail", self.go_back, methods=["GET"]),
        ]

    async def show(self, request: Request) -> Response:
        """GET /cashier/{token}."""
        try:
            transaction = await self._channel.find_cashier(request.path_params["token"])
        except TransactionNotFound:
            return self._not_found(request)
        return cashier.page(
            transaction,
            now=self._clock.now(),
            shop_name=self._shop_name,
            texts=_texts(request),
            language_query=_language_query(request),
        )

    async def press_pay(self, request: Request) -> Response:
        """POST /cashier/{token}/pay, with the chosen `method`; the first one without it."""
        method = _method(await read_body(request))
        return await self.go_back(request) if method is None else await self._press(request, method)

    async def press_fail(self, request: Request) -> Response:
        """POST /cashier/{token}/fail."""
        return await self._press(request, None)

    async def go_back(self, request: Request) -> Response:
        """To the page, where nothing is pressed."""
        return _to_page(request)

    async def _press(self, request: Request, method: PayMethod | None) -> Response:
        try:
            await self._channel.press(request.path_params["token"], method)
        except TransactionNotFound:
            return self._not_found(request)
        return _to_page(request)  # so that reloading it does not press again

    def _not_found(self, request: Request) -> Response:
        return cashier.not_found(shop_name=self._shop_name, texts=_texts(request))


def _to_page(request: Request) -> Response:
    return RedirectResponse(
        f"/cashier/{request.path_params['token']}{_language_query(request)}",
        status_code=303,
        headers=cashier.HEADERS,
    )


def _texts(request: Request) -> Texts:
    return texts_for(request.headers.get(ACCEPT_LANGUAGE, ""), chosen=_chosen_language(request))


def _chosen_language(request: Request) -> Language | None:
    try:
        return Language(request.query_params.get("lang", ""))
    except ValueError:
        return None


def _language_query(request: Request) -> str:
    chosen = _chosen_language(request)
    return "" if chosen is None else f"?lang={chosen}"


def _method(form: bytes) -> PayMethod | None:
    """The method that a form names, the first one when it names none; None when there is no such
    method or the form cannot be read.
    """
    try:
        named = parse_qs(form.decode(), max_num_fields=_FIELDS_MAX).get("method")
        return next(iter(PayMethod)) if named is None else PayMethod(named[-1])
    except ValueError:
        return None
