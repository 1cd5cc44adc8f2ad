"""Webhooks: the certificate, the check of a signature, and the events that a shop missed."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sandbox.providers.paypal.answers import Json
from sandbox.providers.paypal.books import Books
from sandbox.providers.paypal.calls import Calls
from sandbox.providers.paypal.config import CERTIFICATES, PayPalConfig
from sandbox.providers.paypal.events import Event, EventLog
from sandbox.providers.paypal.refusals import not_found
from sandbox.providers.paypal.reporting import read_moment, read_number
from sandbox.providers.paypal.signing import ALGORITHM
from sandbox.providers.paypal.wire import Resend, VerifySignature
from sandbox.providers.webhooks import Deliveries, Notice

_PEM = "application/x-pem-file"
_SHOWN_BY_DEFAULT = timedelta(days=30)


def notice_of(event: Event) -> Notice:
    """An event on its way."""
    return Notice(id=event.id, kind=event.type, body=event.body)


class Notifications:
    """The endpoints."""

    def __init__(
        self,
        *,
        calls: Calls,
        books: Books,
        events: EventLog,
        deliveries: Deliveries,
        config: PayPalConfig,
        base_url: str,
    ) -> None:
        self._calls = calls
        self._books = books
        self._events = events
        self._deliveries = deliveries
        self._config = config
        self._base_url = base_url

    def routes(self) -> list[BaseRoute]:
        """The routes."""

        def guarded(path: str, endpoint: str, method: str) -> Route:
            call = self._calls.guarded(getattr(self, endpoint), mocks=False)
            return Route(f"/v1/notifications/{path}", call, methods=[method])

        return [
            Route(CERTIFICATES + "{id}", self.certificate, methods=["GET"]),
            Route("/_sim/authority.pem", self.authority, methods=["GET"]),
            guarded("verify-webhook-signature", "verify", "POST"),
            guarded("webhooks", "list_webhooks", "GET"),
            guarded("webhooks-events", "list_events", "GET"),
            guarded("webhooks-events/{id}", "get_event", "GET"),
            guarded("webhooks-events/{id}/resend", "resend", "POST"),
        ]

    async def certificate(self, request: Request) -> Response:
        """GET /v1/notifications/certs/{id}: no token, as everybody checks signatures."""
        if request.path_params["id"] != self._config.signer.certificate_id:
            raise not_found()
        return Response(self._config.signer.certificate, media_type=_PEM)

    async def authority(self, _request: Request) -> Response:
        """The authority of this simulation, for those who check the chain."""
        return Response(self._config.signer.authority, media_type=_PEM)

    async def verify(self, request: Request) -> Response:
        """POST /v1/notifications/verify-webhook-signature."""
        sent = await self._calls.body(request, VerifySignature)
        target = self._deliveries.target
        webhook_id = target.secret if target else self._config.webhook_id
        verified = (
            sent.auth_algo == ALGORITHM
            and sent.cert_url == self._config.certificate_url
            and sent.webhook_id == webhook_id
            and self._config.signer.verifies(
                sent.transmission_sig,
                transmission_id=sent.transmission_id,
                transmission_time=sent.transmission_time,
                webhook_id=sent.webhook_id,
                body=bytes(sent.webhook_event),
            )
        )
        return self._calls.json({"verification_status": "SUCCESS" if verified else "FAILURE"})

    async def list_webhooks(self, _request: Request) -> Response:
        """GET /v1/notifications/webhooks: the one that there is."""
        target = self._deliveries.target
        found = [
            {"id": target.secret, "url": target.url, "event_types": [{"name": "*"}]}
            for target in ([target] if target and target.url else [])
        ]
        return self._calls.json({"webhooks": found})

    async def list_events(self, request: Request) -> Response:
        """GET /v1/notifications/webhooks-events: newest first, in pages that a link leads to."""
        parameters = dict(request.query_params)
        now = self._books.now()
        begin = read_moment(parameters, "start_time", now - _SHOWN_BY_DEFAULT)
        end = read_moment(parameters, "end_time", now)
        size = read_number(parameters, "page_size", 10, most=300)
        page = read_number(parameters, "page", 1, most=10_000)
        kind = parameters.get("event_type")
        found = [
            event
            for event in reversed(self._events.all.values())
            if begin <= event.created_at <= end and kind in {None, event.type}
        ]
        links: list[Json] = []
        if page * size < len(found):
            query = urlencode({**parameters, "page": page + 1})
            href = f"{self._base_url}/v1/notifications/webhooks-events?{query}"
            links.append({"href": href, "rel": "next", "method": "GET"})
        shown = [event.read() for event in found[(page - 1) * size : page * size]]
        return self._calls.json({"events": shown, "count": len(shown), "links": links})

    async def get_event(self, request: Request) -> Response:
        """GET /v1/notifications/webhooks-events/{id}."""
        return self._calls.json(self._event(request).read())

    async def resend(self, request: Request) -> Response:
        """POST /v1/notifications/webhooks-events/{id}/resend."""
        event = self._event(request)
        await self._calls.body(request, Resend)
        self._deliveries.send(notice_of(event))
        return self._calls.json(event.read(), status=202)

    def _event(self, request: Request) -> Event:
        try:
            return self._events.all[request.path_params["id"]]
        except KeyError:
            raise not_found() from None
