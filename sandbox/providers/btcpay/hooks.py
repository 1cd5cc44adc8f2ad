"""The webhook of the store: registered through the API, with its deliveries to look at."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.providers.btcpay.answers import Json, seconds
from sandbox.providers.btcpay.api import Guard, Right
from sandbox.providers.btcpay.config import BTCPayConfig
from sandbox.providers.btcpay.refusals import not_found
from sandbox.providers.btcpay.wire import CreateWebhook, decode
from sandbox.providers.webhooks import Deliveries, Delivery, Notice, Target
from sandbox.request_body import read_body

_HOOKS = "/api/v1/stores/{store}/webhooks"


class Hooks:
    """The endpoints. A store has one webhook here; registering replaces it."""

    def __init__(self, config: BTCPayConfig, deliveries: Deliveries) -> None:
        self._config = config
        self._deliveries = deliveries

    def routes(self, guarded: Guard) -> list[BaseRoute]:
        """The routes."""
        one = f"{_HOOKS}/{{hook}}"
        right = Right.WEBHOOKS
        return [
            Route(_HOOKS, guarded(self.create, right), methods=["POST"]),
            Route(_HOOKS, guarded(self.list_hooks, right), methods=["GET"]),
            Route(one, guarded(self.get, right), methods=["GET"]),
            Route(one, guarded(self.remove, right), methods=["DELETE"]),
            Route(f"{one}/deliveries", guarded(self.list_deliveries, right), methods=["GET"]),
            Route(
                f"{one}/deliveries/{{delivery}}/redeliver",
                guarded(self.redeliver, right),
                methods=["POST"],
            ),
        ]

    async def create(self, request: Request) -> Response:
        """POST …/webhooks: the secret is answered here alone."""
        body = decode(await read_body(request), CreateWebhook)
        secret = body.secret or self._config.webhook_secret
        self._deliveries.target = Target(url=body.url, secret=secret)
        return JSONResponse({**self._shown(body.url), "secret": secret})

    async def list_hooks(self, _request: Request) -> Response:
        """GET …/webhooks."""
        target = self._deliveries.target
        return JSONResponse([self._shown(target.url)] if target and target.url else [])

    async def get(self, request: Request) -> Response:
        """GET …/webhooks/{id}."""
        return JSONResponse(self._shown(self._known(request).url))

    async def remove(self, request: Request) -> Response:
        """DELETE …/webhooks/{id}."""
        self._deliveries.target = replace(self._known(request), url="")
        return Response()

    async def list_deliveries(self, request: Request) -> Response:
        """GET …/webhooks/{id}/deliveries: newest first."""
        self._known(request)
        return JSONResponse([self._delivery(one) for one in reversed(self._deliveries.deliveries)])

    async def redeliver(self, request: Request) -> Response:
        """POST …/deliveries/{d}/redeliver."""
        self._known(request)
        wanted = request.path_params["delivery"]
        for one in self._deliveries.deliveries:
            if one.notice.id == wanted:
                event = {**json.loads(one.notice.body), "again": True}
                body = msgspec.json.encode(event)
                self._deliveries.send(Notice(id=wanted, kind=one.notice.kind, body=body))
                return JSONResponse(wanted)
        raise not_found("webhookdelivery")

    def _known(self, request: Request) -> Target:
        target = self._deliveries.target
        known = target is not None and bool(target.url)
        if target is None or not known or request.path_params["hook"] != self._config.webhook_id:
            raise not_found("webhook")
        return target

    def _shown(self, url: str) -> Json:
        return {
            "id": self._config.webhook_id,
            "enabled": True,
            "automaticRedelivery": True,
            "url": url,
            "authorizedEvents": {"everything": True, "specificEvents": []},
        }

    def _delivery(self, one: Delivery) -> Json:
        status = one.statuses[-1] if one.statuses else None
        return {
            "id": one.notice.id,
            "timestamp": json.loads(one.notice.body)["timestamp"],
            "httpCode": status,
            "errorMessage": None if one.accepted else one.answer or None,
            "status": "HttpSuccess" if one.accepted else "HttpError" if status else "Failed",
            "nextTry": None if one.due_at is None else seconds(one.due_at),
        }
