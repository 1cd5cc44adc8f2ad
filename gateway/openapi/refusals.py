"""What an operation may be refused with: the reasons that the contract names for its method, and
the common ones that follow from what it has. Tests hold every refusal of every method against this
list (tests/support/listed_errors.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.schema import HttpRule, Method
from mesh.call import Role
from mesh.policies import Idempotency, OwnershipKind
from mesh.wire_errors import COMMON, ErrorSpec

# A token or key is verified and a body refused even where the method needs none; clients that try
# keys are held up.
_ALWAYS: Final = (
    "INVALID_ARGUMENT",
    "TOKEN_EXPIRED",
    "TOKEN_INVALID",
    "API_KEY_INVALID",
    "RATE_LIMITED",
    "MALFORMED_BODY",
    "REQUEST_TIMEOUT",
    "HEADERS_TOO_LARGE",
    "INTERNAL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "NEIGHBOUR_UNAVAILABLE",
)
_PROTECTED: Final = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_BODY: Final = ("UNSUPPORTED_MEDIA_TYPE", "BODY_TOO_LARGE")
_EFFECT: Final = ("CONFLICT", "OUTCOME_UNKNOWN")
_KEY: Final = ("IDEMPOTENCY_KEY_IN_USE", "IDEMPOTENCY_KEY_REUSED")


def refusals_of(
    method: Method, errors: Iterable[ErrorSpec], *, rule: HttpRule | None = None
) -> Iterator[ErrorSpec]:
    """The errors that a method may answer, at one of its HTTP rules or, without one, over gRPC."""
    common = _common(method, rule)
    for spec in errors:
        if method.policy.method in spec.methods or (
            spec.domain == COMMON and spec.reason in common
        ):
            yield spec


def _common(method: Method, rule: HttpRule | None) -> frozenset[str]:
    policy = method.policy
    owner = policy.ownership
    follows: list[tuple[bool, tuple[str, ...]]] = [
        (True, _ALWAYS),
        (Role.PUBLIC not in policy.roles, _PROTECTED),
        # A checkout token calls nothing but its checkout, not even what anybody may call.
        (policy.checkout_order_field is None, ("PERMISSION_DENIED",)),
        # Nobody learns what another tenant has, nor, in production, what development has.
        (
            owner.kind is OwnershipKind.RESOURCE and bool(owner.merchant_field or owner.user_field),
            ("NOT_FOUND",),
        ),
        (policy.development_only, ("NOT_FOUND",)),
        (rule is None, ("BODY_TOO_LARGE",)),
        (rule is not None and bool(rule.body), _BODY),
        (policy.side_effects, _EFFECT),
        (policy.idempotency is not Idempotency.NONE, _KEY),
        (policy.idempotency is Idempotency.REQUIRED, ("IDEMPOTENCY_KEY_MISSING",)),
        ("page_token" in method.input_type.fields_by_name, ("PAGE_TOKEN_INVALID",)),
    ]
    return frozenset(reason for applies, reasons in follows if applies for reason in reasons)
