"""Stripe's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox.providers.faults import Answer, json_answer


class StripeError(Exception):
    """An error answer.

    Attributes:
        executed: False when the endpoint never started: such an answer is kept under no idempotency
            key.
        fields: further members of `error`, such as `payment_intent`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        executed: bool = True,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.executed = executed
        self.fields = {
            "type": kind,
            "message": message,
            "code": code,
            "param": param,
            **(fields or {}),
        }

    def body(self) -> dict[str, Any]:
        """The answer's JSON; absent members are left out, as Stripe does."""
        return {"error": {name: value for name, value in self.fields.items() if value is not None}}


def invalid(message: str, *, param: str, code: str | None = None) -> StripeError:
    """A parameter that is refused before anything is done."""
    return StripeError(400, message, code=code, param=param, executed=False)


def missing(kind: str, found: str, *, param: str = "id") -> StripeError:
    """There is no such object."""
    message = f"No such {kind}: '{found}'"
    status = 404 if param == "id" else 400
    return StripeError(status, message, code="resource_missing", param=param)


_OF_FAULTS = {
    401: ("Invalid API Key provided: sk_test_****", "invalid_request_error", None),
    403: (
        "The provided key does not have the required permissions.",
        "invalid_request_error",
        None,
    ),
    409: (
        "There is currently another in-progress request using this Idempotency-Key.",
        "invalid_request_error",
        "idempotency_key_in_use",
    ),
    429: (
        "Request rate limit exceeded. You can learn more about rate limits in the documentation.",
        "invalid_request_error",
        "rate_limit",
    ),
}


def answer_of_status(status: int) -> Answer:
    """Stripe's answer of a status, for faults."""
    message, kind, code = _OF_FAULTS.get(status, ("An unknown error occurred", "api_error", None))
    answer = json_answer(status, StripeError(status, message, kind=kind, code=code).body())
    if status != 429:
        return answer
    headers = (*answer.headers, (b"stripe-rate-limited-reason", b"global-rate"))
    return Answer(status=status, headers=headers, body=answer.body)
