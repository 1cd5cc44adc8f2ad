"""What the gateway itself refuses, as reasons of the common contract, and how every refusal becomes
an
HTTP error: status, business code, envelope, headers. A reason that the contract does not know is
rendered by its gRPC code, without its text.
"""

from __future__ import annotations

import math
from typing import ClassVar, Final, Self

import msgspec

from gateway.responses import Headers, Response
from mesh.errors import (
    DeadlineExceeded,
    MeshError,
    MoneyError,
    RemoteError,
    Unauthenticated,
    UpstreamUnavailable,
    default_message,
)
from mesh.languages import Language
from mesh.problem_texts import problem_text
from mesh.wire_errors import COMMON, ErrorCatalogue, ErrorSpec, RemoteMoneyError


class _OfField(MeshError):
    """A refusal of one place of a request."""

    @classmethod
    def of(cls, field: str, problem: str) -> Self:
        """Names the place in the text and in `fields`; the body itself when `field` is ""."""
        place = field or "body"
        return cls(f"{place}: {problem}", fields={place: problem})


class MalformedBody(_OfField):
    """Malformed request body."""

    reason = "MALFORMED_BODY"


class UnsupportedMediaType(_OfField):
    """Content-Type must be application/json in UTF-8."""

    reason = "UNSUPPORTED_MEDIA_TYPE"


class BodyTooLarge(_OfField):
    """The request body is too large."""

    reason = "BODY_TOO_LARGE"


class RequestTimeout(MeshError):
    """The request took too long to arrive."""

    reason = "REQUEST_TIMEOUT"


class HeadersTooLarge(MeshError):
    """The request header fields are too large."""

    reason = "HEADERS_TOO_LARGE"


class ExpectationFailed(MeshError):
    """The only expectation that is met is 100-continue."""

    reason = "EXPECTATION_FAILED"


class HttpVersionUnsupported(MeshError):
    """HTTP/1.1 and HTTP/1.0 are spoken here."""

    reason = "HTTP_VERSION_UNSUPPORTED"


class Unimplemented(MeshError):
    """Not implemented."""

    reason = "UNIMPLEMENTED"


class MethodNotAllowed(MeshError):
    """The path is not answered with this method.

    Attributes:
        allow: value of the header Allow.
    """

    reason = "METHOD_NOT_ALLOWED"
    allow: str = ""


class RateLimited(MeshError):
    """Too many requests."""

    reason = "RATE_LIMITED"


class ApiKeyInvalid(Unauthenticated):
    """The API key is not valid."""

    reason = "API_KEY_INVALID"


class Internal(MeshError):
    """Internal error."""

    reason: ClassVar[str] = "INTERNAL"


# A newer service may name a reason that this process does not know; its gRPC code still says what
# happened.
_BY_GRPC_CODE: Final = {
    1: "CANCELLED",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "CONFLICT",
    7: "PERMISSION_DENIED",
    8: "RATE_LIMITED",
    9: "CONFLICT",
    10: "CONFLICT",
    11: "INVALID_ARGUMENT",
    12: "UNIMPLEMENTED",
    14: "UNAVAILABLE",
    16: "UNAUTHENTICATED",
}
_CHALLENGE: Final = b'Bearer realm="paymesh"'


class ErrorRenderer:
    """Renders refusals as HTTP responses."""

    def __init__(self, catalogue: ErrorCatalogue) -> None:
        """Raises ValueError when the common contract lacks a reason that the gateway needs."""
        self._catalogue = catalogue
        self._internal = self._common("INTERNAL")
        self._by_code = {code: self._common(reason) for code, reason in _BY_GRPC_CODE.items()}

    def render(
        self,
        error: MeshError,
        *,
        package: str,
        trace_id: str,
        language: Language | None = None,
        credentials: bool = False,
        safe_to_retry: bool | None = None,
        money_untouched: bool = False,
    ) -> Response:
        """The response to a refused request.

        Args:
            error: what was refused.
            package: proto package of the method, the home of the reasons that the gateway may raise
                for it.
            trace_id: stands in the envelope.
            language: of the reader; None when the request does not say.
            credentials: whether the request had any; only then a 401 says that they are invalid.
            safe_to_retry: for a method with effects, whether a repetition cannot do them twice;
                None when there are none. Rendered when no answer came, because then the outcome is
                unknown.
            money_untouched: the method moves money, and its call was not sent.
        """
        spec = self._spec(error, package)
        known = spec.reason == error.reason
        details = _details(error, spec, known=known, language=language)
        if safe_to_retry is not None and isinstance(error, UpstreamUnavailable | DeadlineExceeded):
            details |= {"outcome": "UNKNOWN", "safe_to_retry": safe_to_retry}
        elif money_untouched:
            details |= {"outcome": "NOT_ATTEMPTED", "safe_to_retry": True}
        body = {
            "code": spec.business_code,
            "message": spec.texts.text(language),
            "data": None,
            "details": details,
            "trace_id": trace_id,
        }
        return Response(
            spec.http_status,
            msgspec.json.encode(body) + b"\n",
            headers=_headers(error, spec, credentials=credentials),
            reason=spec.reason,
        )

    def render_internal(self, trace_id: str, *, language: Language | None = None) -> Response:
        """The response to a defect: a trace id to look for in the log, and nothing else."""
        return self.render(Internal(), package=COMMON, trace_id=trace_id, language=language)

    def _common(self, reason: str) -> ErrorSpec:
        spec = self._catalogue.find(COMMON, reason)
        if spec is None:
            raise ValueError(f"{COMMON} has no reason {reason}")
        return spec

    def _spec(self, error: MeshError, package: str) -> ErrorSpec:
        if isinstance(error, RemoteError):
            return self._catalogue.find(error.domain, error.reason) or self._by_code.get(
                error.grpc_code, self._internal
            )
        return self._catalogue.find(package, error.reason) or self._internal


def _details(
    error: MeshError, spec: ErrorSpec, *, known: bool, language: Language | None
) -> dict[str, object]:
    details: dict[str, object] = {"reason": spec.reason}
    if not known:
        return details
    explanation = _explanation(error)
    if explanation and spec.reason != "INTERNAL":
        details["explanation"] = explanation
    if error.fields:
        details["fields"] = [
            {"field": field, "description": problem_text(problem, language)}
            for field, problem in error.fields.items()
        ]
    if error.retry_after_seconds is not None:
        details["retry_after_ms"] = round(error.retry_after_seconds * 1000)
    if isinstance(error, MoneyError | RemoteMoneyError):
        details["outcome"] = error.outcome.value if error.outcome else "UNSPECIFIED"
        details["safe_to_retry"] = error.safe_to_retry
        if error.payment_id:
            details["payment_id"] = error.payment_id
    metadata = {name: value for name, value in error.metadata.items() if name != "trace_id"}
    if metadata:
        details["metadata"] = metadata
    return details


def _explanation(error: MeshError) -> str:
    """What exactly was refused, in English and for developers; "" when the reason says it all."""
    return (
        ""
        if isinstance(error, UpstreamUnavailable) or error.message == default_message(type(error))
        else error.message
    )


def _headers(error: MeshError, spec: ErrorSpec, *, credentials: bool) -> Headers:
    headers: Headers = []
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_seconds))))
    if isinstance(error, RemoteError) and error.is_replayed:
        headers.append((b"idempotent-replayed", b"true"))
    if spec.http_status == 401 and (isinstance(error, Unauthenticated | RemoteError)):
        headers.append(
            (b"www-authenticate", _CHALLENGE + (b', error="invalid_token"' if credentials else b""))
        )
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return headers
