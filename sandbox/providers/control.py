"""The routes below /_sim/, the same for every provider: faults, notices, what money moved, the
buyer's deeds, the clock. They need no key: the simulators stay on loopback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

from sandbox.providers.faults import Answer, Fault, FaultyApp, json_answer
from sandbox.providers.simulation import Simulation
from sandbox.providers.webhooks import Mode, Target

BODY_BYTES_MAX = 1024 * 1024
_ADVANCE_SECONDS_MAX = 10 * 365 * 86_400


class DeedRefused(Exception):
    """The buyer cannot do this now; the message says why."""


# the buyer's deed: from what `POST /_sim/buyer` got ({"ref" or "own_id", "does", …}) to what is
# answered; raises DeedRefused
Buyer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def plain_error(status: int) -> Answer:
    """An error answer for providers without a shape of their own."""
    return json_answer(status, {"error": status})


def unsigned(answer: Answer) -> Answer:
    """The answer as it is, for providers that do not sign answers."""
    return answer


def forgotten(_scope: Scope, _body: bytes, _answer: Answer) -> None:
    """For providers that keep no error under an idempotency key."""


def simulated_app(
    simulation: Simulation[Any],
    *,
    routes: Sequence[BaseRoute],
    buyer: Buyer,
    exception_handlers: Mapping[Any, ExceptionHandler] | None = None,
    error_answer: Callable[[int], Answer] = plain_error,
    resign: Callable[[Answer], Answer] = unsigned,
    on_error: Callable[[Scope, bytes, Answer], None] = forgotten,
) -> ASGIApp:
    """The provider's routes with those of /_sim/, misbehaving by the simulation's faults. What is
    due by the clock is done before each request.

    Args:
        error_answer: the provider's answer of this status, for faults.
        resign: signs an answer whose body a fault has changed.
        on_error: learns of each request (its body) that a fault answered with an error.
    """
    app = Starlette(
        max_body_size=BODY_BYTES_MAX,
        routes=[*_Control(simulation, buyer).routes(), *routes],
        exception_handlers=exception_handlers,
    )

    async def up_to_date(scope: Scope, receive: Receive, send: Send) -> None:
        simulation.agenda.run_due()
        await app(scope, receive, send)

    return FaultyApp(
        up_to_date,
        simulation.faults,
        error_answer=error_answer,
        resign=resign,
        on_error=on_error,
    )


class _Control:
    def __init__(self, simulation: Simulation[Any], buyer: Buyer) -> None:
        self._simulation = simulation
        self._buyer = buyer

    def routes(self) -> list[Route]:
        """All routes below /_sim/."""
        return [
            Route("/_sim/health", self.health, methods=["GET"]),
            Route("/_sim/faults", self.add_fault, methods=["POST"]),
            Route("/_sim/faults", self.clear_faults, methods=["DELETE"]),
            Route("/_sim/faults", self.list_faults, methods=["GET"]),
            Route("/_sim/webhooks", self.set_target, methods=["POST"]),
            Route("/_sim/webhooks", self.list_deliveries, methods=["GET"]),
            Route("/_sim/webhooks/mode", self.set_mode, methods=["POST"]),
            Route("/_sim/webhooks/flush", self.flush, methods=["POST"]),
            Route("/_sim/money", self.list_movements, methods=["GET"]),
            Route("/_sim/buyer", self.act, methods=["POST"]),
            Route("/_sim/clock", self.advance, methods=["POST"]),
            Route("/_sim/bills", self.set_bills, methods=["POST"]),
        ]

    async def health(self, _request: Request) -> Response:
        """Says that it serves; no fault changes this answer."""
        return JSONResponse({"status": "ok"})

    async def add_fault(self, request: Request) -> Response:
        """Puts a fault in force."""
        try:
            fault = Fault.parse(await request.json())
        except ValueError as error:
            return _refused(str(error))
        self._simulation.faults.add(fault)
        return JSONResponse({"fault": asdict(fault)}, status_code=201)

    async def clear_faults(self, _request: Request) -> Response:
        """Ends all misbehaviour."""
        self._simulation.faults.clear()
        return Response(status_code=204)

    async def list_faults(self, _request: Request) -> Response:
        """The faults in force, and the length of the answers that they have spoiled."""
        faults = self._simulation.faults
        return JSONResponse(
            {
                "faults": [{**asdict(fault), "left": left} for fault, left in faults],
                "answered": faults.answered,
            }
        )

    async def set_target(self, request: Request) -> Response:
        """Sets where notices go, and the secret when one is given."""
        known = self._simulation.deliveries.target or Target(url="")
        try:
            target = replace(known, **await request.json())
        except (ValueError, TypeError):
            return _refused("expected url, and secret for a provider that signs with one")
        self._simulation.deliveries.target = target
        return JSONResponse({"url": target.url})

    async def set_mode(self, request: Request) -> Response:
        """Sets how deliveries misbehave."""
        try:
            mode = Mode(**await request.json())
        except (ValueError, TypeError):
            return _refused("expected duplicate, reorder, hold")
        self._simulation.deliveries.mode = mode
        return JSONResponse(asdict(mode))

    async def flush(self, _request: Request) -> Response:
        """Sends all notices that wait."""
        return JSONResponse({"tries": await self._simulation.deliveries.flush()})

    async def list_deliveries(self, _request: Request) -> Response:
        """All notices."""
        found = [one.shown() for one in self._simulation.deliveries.deliveries]
        return JSONResponse({"deliveries": found})

    async def list_movements(self, _request: Request) -> Response:
        """What money really moved."""
        found = [one.shown() for one in self._simulation.money.movements]
        return JSONResponse({"movements": found})

    async def act(self, request: Request) -> Response:
        """Does what a buyer does."""
        try:
            sent = await request.json()
        except ValueError:
            return _refused("not JSON")
        if not isinstance(sent, dict) or "does" not in sent or not {"ref", "own_id"} & sent.keys():
            return _refused("expected ref or own_id, and does")
        try:
            return JSONResponse(dict(self._buyer(sent)))
        except DeedRefused as error:
            return _refused(str(error), status=409)

    async def advance(self, request: Request) -> Response:
        """Moves the clock and does what has become due."""
        try:
            seconds = float((await request.json())["advance_seconds"])
        except (ValueError, TypeError, KeyError):
            return _refused("expected advance_seconds")
        if not 0 <= seconds <= _ADVANCE_SECONDS_MAX:
            return _refused("the clock only moves forward, by at most ten years")
        self._simulation.clock.advance(seconds)
        done = self._simulation.agenda.run_due()
        return JSONResponse({"now": self._simulation.clock.now().isoformat(), "done": done})

    async def set_bills(self, request: Request) -> Response:
        """Sets when the bill of a day is given."""
        try:
            is_early = (await request.json())["early"]
        except (ValueError, TypeError, KeyError):
            is_early = None
        if not isinstance(is_early, bool):
            return _refused("expected early")
        self._simulation.bills.is_early = is_early
        return JSONResponse({"early": is_early})


def _refused(message: str, *, status: int = 400) -> Response:
    return JSONResponse({"error": message}, status_code=status)
