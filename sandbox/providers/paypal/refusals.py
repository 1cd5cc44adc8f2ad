"""Errors as PayPal answers them: a name, a message, a debug id and details with an issue each."""

from __future__ import annotations

from typing import Any

_MESSAGES = {
    "INVALID_REQUEST": "Request is not well-formed, syntactically incorrect, or violates schema.",
    "AUTHENTICATION_FAILURE": "Authentication failed due to missing authorization header, or "
    "invalid authentication credentials.",
    "NOT_AUTHORIZED": "Authorization failed due to insufficient permissions.",
    "RESOURCE_NOT_FOUND": "The specified resource does not exist.",
    "METHOD_NOT_SUPPORTED": "The server does not implement the requested HTTP method.",
    "RESOURCE_CONFLICT": "The server has detected a conflict while processing this request.",
    "UNSUPPORTED_MEDIA_TYPE": "The server does not support the request payload's media type.",
    "UNPROCESSABLE_ENTITY": "The requested action could not be performed, semantically incorrect, "
    "or failed business validation.",
    "RATE_LIMIT_REACHED": "Too many requests. Blocked due to rate limiting.",
    "INTERNAL_SERVER_ERROR": "An internal server error has occurred.",
    "SERVICE_UNAVAILABLE": "Service Unavailable.",
}
# Issues that are no 422. PayPal-Mock-Response may ask for them too.
_OTHER_STATUSES = {
    "INVALID_REQUEST": (400, "INVALID_REQUEST"),
    "MALFORMED_REQUEST_JSON": (400, "INVALID_REQUEST"),
    "MISSING_REQUIRED_PARAMETER": (400, "INVALID_REQUEST"),
    "INVALID_PARAMETER_SYNTAX": (400, "INVALID_REQUEST"),
    "INVALID_PARAMETER_VALUE": (400, "INVALID_REQUEST"),
    "INVALID_STRING_LENGTH": (400, "INVALID_REQUEST"),
    "PAYPAL_REQUEST_ID_REQUIRED": (400, "INVALID_REQUEST"),
    "AUTHENTICATION_FAILURE": (401, "AUTHENTICATION_FAILURE"),
    "NOT_AUTHORIZED": (403, "NOT_AUTHORIZED"),
    "PERMISSION_DENIED": (403, "NOT_AUTHORIZED"),
    "INVALID_RESOURCE_ID": (404, "RESOURCE_NOT_FOUND"),
    "RESOURCE_NOT_FOUND": (404, "RESOURCE_NOT_FOUND"),
    "METHOD_NOT_SUPPORTED": (405, "METHOD_NOT_SUPPORTED"),
    "PREVIOUS_REQUEST_IN_PROGRESS": (409, "RESOURCE_CONFLICT"),
    "UNSUPPORTED_MEDIA_TYPE": (415, "UNSUPPORTED_MEDIA_TYPE"),
    "RATE_LIMIT_REACHED": (429, "RATE_LIMIT_REACHED"),
    "INTERNAL_SERVER_ERROR": (500, "INTERNAL_SERVER_ERROR"),
    "INTERNAL_SERVICE_ERROR": (500, "INTERNAL_SERVER_ERROR"),
    "SERVICE_UNAVAILABLE": (503, "SERVICE_UNAVAILABLE"),
}


class Refused(Exception):
    """An answer that is no success.

    Attributes:
        status: of HTTP. issue: the word that says why. links: further links of the answer.
    """

    def __init__(
        self,
        issue: str,
        *,
        field: str = "",
        description: str = "",
        links: tuple[dict[str, str], ...] = (),
    ) -> None:
        super().__init__(issue)
        self.issue = issue
        self.status, self.name = _OTHER_STATUSES.get(issue, (422, "UNPROCESSABLE_ENTITY"))
        self._field = field
        self._description = description
        self._links = links

    def body(self, *, debug_id: str) -> dict[str, Any]:
        """The JSON of the answer."""
        detail = {
            "issue": self.issue,
            "description": self._description or self.issue.replace("_", " ").capitalize() + ".",
        }
        if self._field:
            detail["field"] = self._field
        return {
            "name": self.name,
            "message": _MESSAGES[self.name],
            "debug_id": debug_id,
            "details": [detail],
            "links": [
                *self._links,
                {
                    "href": "https://developer.paypal.com/docs/api/orders/v2/#error-" + self.issue,
                    "rel": "information_link",
                    "method": "GET",
                },
            ],
        }


def invalid(issue: str, field: str, description: str = "") -> Refused:
    """A request that is not well-formed: 400."""
    return Refused(issue, field=field, description=description)


def unprocessable(issue: str, *, field: str = "", description: str = "") -> Refused:
    """A request that is well-formed and cannot be done: 422."""
    return Refused(issue, field=field, description=description)


def not_found() -> Refused:
    """No such object, or one whose life is over: 404."""
    return Refused("INVALID_RESOURCE_ID")
