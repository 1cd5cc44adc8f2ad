"""Refusals of the echo service."""

from __future__ import annotations

from mesh.errors import (
    MeshError,
    MoneyError,
)


class EchoRefused(MeshError):
    """No echo here."""

    reason = "ECHO_REFUSED"


class EchoUnpaid(MoneyError):
    """Unpaid."""

    reason = "ECHO_UNPAID"


class Unheard(MeshError):
    """A reason that no contract has."""

    reason = "UNHEARD_OF"
