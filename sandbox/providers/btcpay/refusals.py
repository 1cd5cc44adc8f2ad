"""Errors as BTCPay Server answers them: `{code, message}`, or a list of `{path, message}`."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body


def refused(status: int, code: str, message: str) -> Refused:
    """An error with a code."""
    return Refused(status, {"code": code, "message": message})


def invalid(path: str, message: str) -> Refused:
    """A field that does not hold: 422."""
    return Refused(422, [{"path": path, "message": message}])


def not_found(what: str) -> Refused:
    """No such thing, e.g. "invoice": 404."""
    return refused(404, f"{what}-not-found", f"The {what} was not found")
