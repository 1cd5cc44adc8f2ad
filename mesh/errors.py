"""Defines the errors of the mesh, independent of RPC and HTTP.

An error is an exception with a stable `reason`. Its meaning on the wire (gRPC code, HTTP status,
business code) is declared beside the enum value of the same name in the `errors.proto` of its
service or of `paymesh.common.v1`; `mesh.wire_errors` joins the two.

    MeshError
    ├── InvalidArgument            a field breaks a rule; `fields` names it
    ├── NotFound                   no such thing, or not the caller's
    ├── PermissionDenied           the caller is known and may not do this
    ├── Unauthenticated            no usable token
    │   ├── TokenExpired
    │   └── TokenInvalid
    ├── IdempotencyKeyMissing / IdempotencyKeyInUse / IdempotencyKeyReused
    ├── Conflict                   lost a race more often than we retry; nothing was done
    ├── Unavailable                not now; nothing was done
    ├── RateLimited                too many calls of one caller
    ├── RequestTooLarge            more bytes than a request of the method can have
    ├── OutcomeUnknown             the commit may or may not have happened
    ├── DeadlineExceeded           the answer did not come in time
    ├── RemoteError                a refusal of an upstream service, as it came over the wire
    │   └── UpstreamUnavailable   no upstream service answered: its outcome is unknown
    └── MoneyError                 a refusal about money; says what happened to it
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


class Outcome(StrEnum):
    """What happened to the money when a call about money failed. Names equal
    `paymesh.common.v1.Outcome`. Here and not in payment_rpc, because the pipeline adds it to every
    refusal of a method that the contract marks as moving money, and the gateway shows it.
    """

    NOT_ATTEMPTED = "NOT_ATTEMPTED"  # proven that no channel was asked
    DECLINED = "DECLINED"  # the channel said no, finally
    TECH_FAILED = "TECH_FAILED"  # the channel failed and says that nothing moved
    UNKNOWN = "UNKNOWN"  # money may have moved
    PENDING = "PENDING"  # waiting for the customer or the channel
    CAPTURED = "CAPTURED"  # money moved


class MeshError(Exception):
    """Something was refused. The first line of a subclass's docstring is its default message.

    Attributes:
        reason: stable contract, UPPER_SNAKE_CASE; the name of an enum value in an errors.proto.
        message: for people; never holds a secret.
        fields: request field path -> what is wrong with it.
        retry_after_seconds: when it may be worth trying again, or None.
        metadata: facts for machines; never secrets.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str = "",
        *,
        fields: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
        **metadata: str | int,
    ) -> None:
        self.message = message or default_message(type(self))
        self.fields: dict[str, str] = dict(fields or {})
        self.retry_after_seconds = retry_after_seconds
        self.metadata: dict[str, str] = {name: str(value) for name, value in metadata.items()}
        super().__init__(self.message)


def default_message(refusal: type[MeshError]) -> str:
    """The first paragraph of the docstring of a refusal, on one line."""
    return " ".join((refusal.__doc__ or "").split("\n\n", 1)[0].split())


class InvalidArgument(MeshError):
    """The request breaks a rule."""

    reason = "INVALID_ARGUMENT"

    @classmethod
    def of(cls, field: str, problem: str) -> InvalidArgument:
        """The refusal of one field."""
        return cls(f"{field}: {problem}", fields={field: problem})


class NotFound(MeshError):
    """Not found."""

    reason = "NOT_FOUND"


class Unauthenticated(MeshError):
    """Authentication required."""

    reason = "UNAUTHENTICATED"


class TokenExpired(Unauthenticated):
    """The token has expired."""

    reason = "TOKEN_EXPIRED"


class TokenInvalid(Unauthenticated):
    """The token is invalid."""

    reason = "TOKEN_INVALID"


class PermissionDenied(MeshError):
    """Permission denied."""

    reason = "PERMISSION_DENIED"


class IdempotencyKeyMissing(MeshError):
    """The header Idempotency-Key is missing."""

    reason = "IDEMPOTENCY_KEY_MISSING"


class IdempotencyKeyInUse(MeshError):
    """A call with this idempotency key is in progress."""

    reason = "IDEMPOTENCY_KEY_IN_USE"


class IdempotencyKeyReused(MeshError):
    """The idempotency key was used with another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class RequestCanceled(MeshError):
    """The call was taken back by its idempotency key before it came."""

    reason = "REQUEST_CANCELED"


class PageTokenInvalid(MeshError):
    """The page_token was not made by us, or for another list or filter."""

    reason = "PAGE_TOKEN_INVALID"


class Conflict(MeshError):
    """Concurrent changes, nothing was done, try again."""

    reason = "CONFLICT"


class Unavailable(MeshError):
    """The service is unavailable, nothing was done."""

    reason = "UNAVAILABLE"


class RateLimited(MeshError):
    """Too many requests."""

    reason = "RATE_LIMITED"


class RequestTooLarge(MeshError):
    """The request is too large."""

    reason = "BODY_TOO_LARGE"


class OutcomeUnknown(MeshError):
    """The outcome is unknown: ask again with the same key."""

    reason = "OUTCOME_UNKNOWN"


class DeadlineExceeded(MeshError):
    """The deadline passed before an answer."""

    reason = "DEADLINE_EXCEEDED"


class RemoteError(MeshError):
    """A sibling service refused.

    Attributes:
        domain: proto package of the reason, e.g. "paymesh.order.v1".
        grpc_code: number of the gRPC status.
        is_replayed: it is the answer of an earlier call with the same idempotency key.
        is_unserved: the sibling refused before it looked at the call, so any call may go to another
            replica.
    """

    is_replayed = False
    is_unserved = False

    def __init__(
        self,
        message: str = "",
        *,
        remote_reason: str,
        domain: str,
        grpc_code: int,
        fields: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
        **metadata: str | int,
    ) -> None:
        super().__init__(
            message, fields=fields, retry_after_seconds=retry_after_seconds, **metadata
        )
        self.reason = remote_reason  # type: ignore[misc]  # the one class whose reason is a fact of the instance
        self.domain = domain
        self.grpc_code = grpc_code

    @property
    def is_definite(self) -> bool:
        """True when the refusal proves that the call had no effect and a repetition will be refused
        too (gRPC INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE).
        Everything else is worth asking again: also UNIMPLEMENTED, which is what a sibling of the
        version before says until it is upgraded."""
        return self.grpc_code in {3, 5, 6, 9, 11}


class UpstreamUnavailable(RemoteError):
    """A sibling service did not answer: what it did is unknown."""

    def __init__(self, message: str = "", *, grpc_code: int = 14) -> None:
        super().__init__(
            message,
            remote_reason="NEIGHBOUR_UNAVAILABLE",
            domain="paymesh.common.v1",
            grpc_code=grpc_code,
        )


class MoneyError(MeshError):
    """A refusal about money.

    Attributes:
        outcome: what happened to the money.
        safe_to_retry: True when the same request may be sent again without any risk of paying
            twice.
        payment_id: the payment that it is about, or "".
    """

    default_outcome: ClassVar[Outcome] = Outcome.NOT_ATTEMPTED
    default_safe_to_retry: ClassVar[bool] = True

    def __init__(
        self,
        message: str = "",
        *,
        outcome: Outcome | None = None,
        safe_to_retry: bool | None = None,
        payment_id: str = "",
        fields: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
        **metadata: str | int,
    ) -> None:
        super().__init__(
            message, fields=fields, retry_after_seconds=retry_after_seconds, **metadata
        )
        self.outcome = outcome or self.default_outcome
        self.safe_to_retry = self.default_safe_to_retry if safe_to_retry is None else safe_to_retry
        self.payment_id = payment_id
