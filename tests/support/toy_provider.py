"""A simulated provider with two routes, to test what all simulated providers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mesh.clock import Clock
from mesh.money import Money
from sandbox.providers.control import DeedRefused, simulated_app
from sandbox.providers.faults import Answer
from sandbox.providers.ledger import MoneyKind
from sandbox.providers.simulation import Provider, Simulation
from sandbox.providers.webhooks import DeliveryRule, Notice, Outgoing, Target


def rule(secret: str, clock: Clock) -> DeliveryRule:
    """Signs with the secret itself, repeats twice after ten seconds, and never after a 4xx."""

    def render(notice: Notice, target: Target, tries: int) -> Outgoing:
        headers = {"x-secret": target.secret, "x-try": str(tries), "x-id": notice.id}
        return Outgoing(headers=headers, body=notice.body)

    def pause_seconds(tries: int, status: int | None) -> float | None:
        return 10.0 if tries <= 2 and (status is None or status >= 500) else None

    return DeliveryRule(
        render=render,
        is_accepted=lambda status, body: status == 200 and body == b"success",
        pause_seconds=pause_seconds,
        target=Target(url="", secret=secret),
    )


def create_app(simulation: Simulation[str]) -> ASGIApp:
    """POST /pay records a capture and sends a notice; POST /later does it a minute later."""
    count = 0

    def captured() -> None:
        nonlocal count
        count += 1
        ref = f"C{count}"
        simulation.money.record(
            MoneyKind.CAPTURE, ref=ref, own_id=f"ATT{count}", money=Money(1234, "USD")
        )
        simulation.deliveries.send(Notice(id=f"E{count}", kind="captured", body=ref.encode()))

    async def pay(request: Request) -> Response:
        await request.body()
        captured()
        return JSONResponse({"payment": {"status": "DONE", "count": count}})

    async def later(_request: Request) -> Response:
        simulation.agenda.after(60, captured)
        return JSONResponse({"status": "LATER"})

    def buyer(deed: Mapping[str, Any]) -> Mapping[str, Any]:
        if deed["does"] != "pay":
            raise DeedRefused("this buyer only pays")
        captured()
        return {"status": "DONE"}

    def resign(answer: Answer) -> Answer:
        kept = tuple(pair for pair in answer.headers if pair[0] != b"x-signed")
        return Answer(
            status=answer.status, headers=(*kept, (b"x-signed", b"anew")), body=answer.body
        )

    return simulated_app(
        simulation,
        routes=[
            Route("/pay", pay, methods=["POST"]),
            Route("/later", later, methods=["POST"]),
        ],
        buyer=buyer,
        resign=resign,
    )


TOY = Provider(name="toy", config=lambda: "s3cret", rule=rule, create_app=create_app)
