"""A simulated Stripe inside a test, and the official client that talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mesh.clock import Clock
from sandbox.providers.server import running_provider
from sandbox.providers.simulation import Simulation
from sandbox.providers.stripe import PROVIDER
from sandbox.providers.stripe.config import StripeConfig
from sandbox.server import listen, make_server

CONFIG = StripeConfig()


@dataclass(slots=True)
class SimulatedStripe:
    """A simulator that serves.

    Attributes:
        http: says to `/_sim/` and to raw paths what the client cannot; has the secret key.
    """

    url: str
    simulation: Simulation[StripeConfig]
    http: httpx.AsyncClient
    client: Any

    def client_with(self, key: str) -> Any:
        """The official client with another key. It repeats nothing by itself."""
        return official_client(self.url, key=key)

    async def fault(self, kind: str, path: str, **more: Any) -> None:
        sent = {"kind": kind, "path": path, **more}
        (await self.http.post("/_sim/faults", json=sent)).raise_for_status()

    async def buyer(self, ref: str, does: str, **more: Any) -> dict[str, Any]:
        answer = await self.http.post("/_sim/buyer", json={"ref": ref, "does": does, **more})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def advance(self, seconds: float) -> None:
        answer = await self.http.post("/_sim/clock", json={"advance_seconds": seconds})
        answer.raise_for_status()

    def moved(self) -> list[tuple[str, str, str]]:
        """What money really moved: kind, our id, amount."""
        movements = self.simulation.money.movements
        return [(one.kind.value, one.own_id, one.money.format()) for one in movements]

    def told(self) -> list[str]:
        """The types of all events."""
        return [one.notice.kind for one in self.simulation.deliveries.deliveries]


def official_client(url: str, *, key: str) -> Any:
    """The official client; it repeats nothing by itself."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": url},
        max_network_retries=0,
        http_client=stripe.HTTPXClient(allow_sync_methods=False, timeout=10),
    )


@asynccontextmanager
async def simulated_stripe(
    clock: Clock, config: StripeConfig = CONFIG
) -> AsyncIterator[SimulatedStripe]:
    """A simulator on a free port."""
    async with (
        running_provider(PROVIDER, clock=clock, config=config) as running,
        httpx.AsyncClient(
            base_url=running.url,
            trust_env=False,
            timeout=10,
            headers={"authorization": f"Bearer {config.secret_key}"},
        ) as http,
    ):
        client = official_client(running.url, key=config.secret_key)
        yield SimulatedStripe(running.url, running.simulation, http, client)


class Endpoint:
    """A webhook endpoint: keeps what comes, answers what it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.taken: list[tuple[bytes, str]] = []  # body, Stripe-Signature

    async def take(self, request: Request) -> Response:
        self.taken.append((await request.body(), request.headers["stripe-signature"]))
        return PlainTextResponse("", status_code=self.status)


@asynccontextmanager
async def webhook_endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint on a free port."""
    it = Endpoint()
    listener = listen("127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{listener.getsockname()[1]}/webhooks"
    server = make_server(Starlette(routes=[Route("/webhooks", it.take, methods=["POST"])]))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield it
    finally:
        server.stop()
        await serving
