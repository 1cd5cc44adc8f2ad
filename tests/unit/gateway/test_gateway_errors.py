"""Refusals as HTTP responses: status and business code from the contract, details that apply,
headers, and nothing that should stay inside.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import (
    BodyTooLarge,
    ErrorRenderer,
    HeadersTooLarge,
    MalformedBody,
    MethodNotAllowed,
    RateLimited,
    RequestTimeout,
    UnsupportedMediaType,
)
from gateway.responses import Response
from gateway.schema import load_schema
from mesh.errors import (
    DeadlineExceeded,
    IdempotencyKeyMissing,
    InvalidArgument,
    MeshError,
    NotFound,
    Outcome,
    PermissionDenied,
    RemoteError,
    TokenExpired,
    TokenInvalid,
    Unauthenticated,
    Unavailable,
    UpstreamUnavailable,
)
from mesh.wire_errors import RemoteMoneyError

RENDERER = ErrorRenderer(load_schema().errors)
TRACE = "0" * 31 + "7"


def answer(
    error: MeshError, *, package: str = "paymesh.payment.v1", **options: Any
) -> tuple[Response, dict[str, Any]]:
    made = RENDERER.render(error, package=package, trace_id=TRACE, **options)
    return made, json.loads(made.body)


def remote(
    reason: str, *, domain: str = "paymesh.payment.v1", code: int = 9, **options: Any
) -> RemoteError:
    return RemoteError(
        "said by the sibling", remote_reason=reason, domain=domain, grpc_code=code, **options
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedBody.of("amount", "must be a string"), 400, "A0102"),
        (InvalidArgument.of("page_size", "must be an integer"), 400, "A0100"),
        (Unauthenticated(), 401, "A0200"),
        (TokenExpired(), 401, "A0201"),
        (TokenInvalid(), 401, "A0202"),
        (PermissionDenied(), 403, "A0203"),
        (NotFound(), 404, "A0301"),
        (MethodNotAllowed(), 405, "A0103"),
        (RequestTimeout(), 408, "A0106"),
        (BodyTooLarge(), 413, "A0105"),
        (UnsupportedMediaType(), 415, "A0104"),
        (RateLimited(), 429, "A0501"),
        (HeadersTooLarge(), 431, "A0107"),
        (IdempotencyKeyMissing(), 400, "A0400"),
        (Unavailable(), 503, "B0002"),
        (UpstreamUnavailable(), 503, "C0100"),
        (DeadlineExceeded(), 504, "B0003"),
        (remote("ORDER_ALREADY_PAID"), 409, "4005002"),
        (remote("CARD_DECLINED"), 402, "C0301"),
        (remote("CARD_INVALID", code=3), 400, "4004001"),
        (remote("OUT_OF_STOCK", domain="paymesh.order.v1"), 409, "2001"),
        (remote("INVALID_ARGUMENT", domain="paymesh.common.v1", code=3), 400, "A0100"),
    ],
)
def test_status_and_code_are_those_of_the_contract(
    error: MeshError, status: int, code: str
) -> None:
    made, body = answer(error)
    assert (made.status, body["code"], body["data"], body["trace_id"]) == (
        status,
        code,
        None,
        TRACE,
    )
    assert body["details"]["reason"] == error.reason
    assert body["message"]


def test_one_reason_of_two_services_has_one_code_and_the_words_of_its_own_service() -> None:
    of_payment, of_order = (
        answer(remote("REFUND_NOT_FOUND", domain=f"paymesh.{name}.v1", code=5))[1]
        for name in ("payment", "order")
    )
    assert of_payment["code"] == of_order["code"] == "A0325"
    assert of_payment["message"] != of_order["message"]


@pytest.mark.parametrize(
    ("grpc_code", "status", "reason"),
    [
        (3, 400, "INVALID_ARGUMENT"),
        (5, 404, "NOT_FOUND"),
        (6, 409, "CONFLICT"),
        (9, 409, "CONFLICT"),
        (14, 503, "UNAVAILABLE"),
        (2, 500, "INTERNAL"),
        (13, 500, "INTERNAL"),
        (99, 500, "INTERNAL"),
    ],
)
def test_a_reason_that_we_do_not_know_is_answered_by_its_grpc_code_without_its_text(
    grpc_code: int, status: int, reason: str
) -> None:
    made, body = answer(remote("BRAND_NEW", code=grpc_code, fields={"a": "b"}, secret="x"))
    assert (made.status, body["details"]) == (status, {"reason": reason})
    assert "sibling" not in body["message"]


def test_details_have_what_applies_and_nothing_else() -> None:
    error = RemoteMoneyError(
        "declined",
        remote_reason="CARD_DECLINED",
        domain="paymesh.payment.v1",
        grpc_code=9,
        fields={"credit_card": "declined"},
        retry_after_seconds=1.5,
        code="51",
        trace_id="ours",
    )
    error.outcome, error.safe_to_retry, error.payment_id = Outcome.DECLINED, True, "PAY1"
    made, body = answer(error)
    assert body["details"] == {
        "reason": "CARD_DECLINED",
        "explanation": "declined",
        "fields": [{"field": "credit_card", "description": "declined"}],
        "retry_after_ms": 1500,
        "outcome": "DECLINED",
        "safe_to_retry": True,
        "payment_id": "PAY1",
        "metadata": {"code": "51"},
    }
    assert (b"retry-after", b"2") in made.headers


def test_retry_after_is_at_least_a_second() -> None:
    assert (b"retry-after", b"1") in answer(RateLimited(retry_after_seconds=0.01))[0].headers


@pytest.mark.parametrize(
    ("error", "credentials", "challenge"),
    [
        (Unauthenticated(), False, b'Bearer realm="paymesh"'),
        (TokenExpired(), True, b'Bearer realm="paymesh", error="invalid_token"'),
        (
            remote("TOKEN_INVALID", domain="paymesh.common.v1", code=16),
            True,
            b'Bearer realm="paymesh", error="invalid_token"',
        ),
    ],
)
def test_a_401_says_how_to_authenticate(
    error: MeshError, credentials: bool, challenge: bytes
) -> None:
    assert (b"www-authenticate", challenge) in answer(error, credentials=credentials)[0].headers


def test_a_405_says_what_is_allowed() -> None:
    refusal = MethodNotAllowed()
    refusal.allow = "GET, HEAD, OPTIONS"
    assert (b"allow", b"GET, HEAD, OPTIONS") in answer(refusal)[0].headers


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnavailable("ipv4:10.0.0.7:9907 refused"),
        RemoteError("", remote_reason="INTERNAL", domain="paymesh.common.v1", grpc_code=13),
    ],
)
def test_the_text_of_the_transport_never_leaves(error: MeshError) -> None:
    _, body = answer(error)
    assert "10.0.0.7" not in json.dumps(body)
    assert "sibling" not in body["message"]


@pytest.mark.parametrize("error", [UpstreamUnavailable(), DeadlineExceeded()])
@pytest.mark.parametrize("safe", [True, False])
def test_without_an_answer_the_outcome_of_an_effect_is_unknown(
    error: MeshError, safe: bool
) -> None:
    details = answer(error, safe_to_retry=safe)[1]["details"]
    assert (details["outcome"], details["safe_to_retry"]) == ("UNKNOWN", safe)


def test_a_read_without_an_answer_has_no_outcome() -> None:
    assert "outcome" not in answer(UpstreamUnavailable())[1]["details"]


def test_a_defect_says_nothing_but_its_trace_id() -> None:
    made = RENDERER.render_internal(TRACE)
    assert (made.status, json.loads(made.body)) == (
        500,
        {
            "code": "B0001",
            "message": "Something went wrong on our side.",
            "data": None,
            "details": {"reason": "INTERNAL"},
            "trace_id": TRACE,
        },
    )
