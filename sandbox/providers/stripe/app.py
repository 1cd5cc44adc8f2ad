"""Serves the simulated Stripe over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from sandbox.providers.control import DeedRefused, simulated_app
from sandbox.providers.simulation import Simulation
from sandbox.providers.stripe.config import StripeConfig


def create_app(simulation: Simulation[StripeConfig]) -> ASGIApp:
    """The HTTP surface of a simulation."""

    def buyer(_sent: Mapping[str, Any]) -> Mapping[str, Any]:
        raise DeedRefused("no such payment")

    return simulated_app(simulation, routes=[], buyer=buyer)
