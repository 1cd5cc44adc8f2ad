from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata
from paymesh.common.v1 import errors_pb2 as common

from mesh.errors import (
    Conflict,
    DeadlineExceeded,
    IdempotencyKeyInUse,
    IdempotencyKeyMissing,
    IdempotencyKeyReused,
    InvalidArgument,
    MeshError,
    MoneyError,
    NotFound,
    Outcome,
    OutcomeUnknown,
    PageTokenInvalid,
    PermissionDenied,
    RemoteError,
    TokenExpired,
    TokenInvalid,
    Unauthenticated,
    Unavailable,
    UpstreamUnavailable,
)
from mesh.languages import Language
from mesh.wire_errors import (
    COMMON,
    DETAILS_KEY,
    ErrorCatalogue,
    RemoteMoneyError,
    from_rpc_error,
    has_details,
    internal_status,
    never_sent,
    to_status,
)
from tests.support.echo import PACKAGE, echo_file
from tests.support.echo_errors import EchoRefused, EchoUnpaid, Unheard

echo_file()
CATALOGUE = ErrorCatalogue.of_packages({PACKAGE, "paymesh.payment.v1", "paymesh.order.v1"})


def failed(
    code: int, status: status_pb2.Status | bytes | None = None, text: str = "ipv4:10.0.0.1:9"
) -> AioRpcError:
    """A failed call as grpc.aio raises it."""
    trailing = Metadata()
    if status is not None:
        trailing.add(
            DETAILS_KEY, status if isinstance(status, bytes) else status.SerializeToString()
        )
    return AioRpcError(
        next(known for known in grpc.StatusCode if known.value[0] == code),
        Metadata(),
        trailing,
        details=text,
    )


def sent(error: MeshError, package: str = PACKAGE) -> MeshError:
    """The error after its way over the wire."""
    status = to_status(error, package=package, catalogue=CATALOGUE)
    assert status is not None
    return from_rpc_error(failed(status.code, status))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InvalidArgument, 3),
        (NotFound, 5),
        (PermissionDenied, 7),
        (Unauthenticated, 16),
        (TokenExpired, 16),
        (TokenInvalid, 16),
        (IdempotencyKeyMissing, 3),
        (IdempotencyKeyInUse, 10),
        (IdempotencyKeyReused, 3),
        (PageTokenInvalid, 3),
        (Conflict, 10),
        (Unavailable, 14),
        (OutcomeUnknown, 14),
    ],
)
def test_every_common_refusal_keeps_its_reason_and_gets_its_code(
    kind: type[MeshError], code: int
) -> None:
    remote = sent(kind())
    assert isinstance(remote, RemoteError)
    assert (remote.reason, remote.domain, remote.grpc_code, remote.message) == (
        kind.reason,
        COMMON,
        code,
        kind().message,
    )


def test_every_refusal_of_our_own_errors_is_in_the_contract() -> None:
    def below(kind: type[MeshError]) -> list[type[MeshError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in below(sub))]

    ours = [
        kind
        for kind in below(MeshError)
        if kind.__module__ == "mesh.errors" and not issubclass(kind, RemoteError | MoneyError)
    ]
    assert [kind.reason for kind in ours if CATALOGUE.find(COMMON, kind.reason) is None] == []


def test_a_services_own_reason_is_found_before_a_common_one() -> None:
    remote = sent(EchoRefused(sku_id="s", available=3))
    assert isinstance(remote, RemoteError)
    assert (remote.domain, remote.grpc_code, remote.metadata) == (
        PACKAGE,
        9,
        {"sku_id": "s", "available": "3"},
    )


def test_a_reason_of_another_service_is_not_ours_to_send() -> None:
    assert to_status(EchoRefused(), package="paymesh.payment.v1", catalogue=CATALOGUE) is None
    assert to_status(Unheard(), package=PACKAGE, catalogue=CATALOGUE) is None


def test_fields_and_the_time_to_wait_travel() -> None:
    remote = sent(
        InvalidArgument(
            "bad",
            fields={"items[1].quantity": "must be at least 1", "amount": "is missing"},
            retry_after_seconds=1.5,
        )
    )
    assert remote.fields == {"items[1].quantity": "must be at least 1", "amount": "is missing"}
    assert remote.retry_after_seconds == 1.5


@pytest.mark.parametrize("outcome", Outcome)
def test_an_error_about_money_says_what_happened_to_it(outcome: Outcome) -> None:
    remote = sent(
        EchoUnpaid(outcome=outcome, safe_to_retry=False, payment_id="PAY1", retry_after_seconds=2)
    )
    assert isinstance(remote, RemoteMoneyError)
    assert (remote.reason, remote.outcome, remote.safe_to_retry, remote.payment_id) == (
        "ECHO_UNPAID",
        outcome,
        False,
        "PAY1",
    )
    again = sent(remote, package="paymesh.order.v1")
    assert isinstance(again, RemoteMoneyError)
    assert (again.outcome, again.payment_id, again.domain, again.retry_after_seconds) == (
        outcome,
        "PAY1",
        PACKAGE,
        2,
    )


def test_an_outcome_that_is_newer_than_we_are_is_none() -> None:
    status = status_pb2.Status(code=9, message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="ECHO_UNPAID", domain=PACKAGE))
    status.details.add().Pack(common.MoneyOutcome(outcome=99, safe_to_retry=True))  # type: ignore[arg-type]
    remote = from_rpc_error(failed(9, status))
    assert isinstance(remote, RemoteMoneyError)
    assert remote.outcome is None


def test_a_siblings_refusal_passes_through_as_it_is() -> None:
    remote = sent(
        RemoteError(
            "sold out",
            remote_reason="OUT_OF_STOCK",
            domain="paymesh.order.v1",
            grpc_code=9,
            sku_id="s",
        ),
        package=PACKAGE,
    )
    assert isinstance(remote, RemoteError)
    assert (remote.reason, remote.domain, remote.grpc_code, remote.metadata, remote.message) == (
        "OUT_OF_STOCK",
        "paymesh.order.v1",
        9,
        {"sku_id": "s"},
        "sold out",
    )


def test_an_absent_sibling_is_unavailable_to_our_caller_whatever_the_transport_said() -> None:
    remote = sent(UpstreamUnavailable(grpc_code=1))
    assert isinstance(remote, RemoteError)
    assert (remote.reason, remote.grpc_code) == ("NEIGHBOUR_UNAVAILABLE", 14)


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument(
            "x" * 100_000,
            fields={f"items[{index}].{'name' * 50}": "中" * 500 for index in range(1000)},
        ),
        EchoRefused(**dict[str, Any]((f"fact{index}", "中" * 500) for index in range(1000))),
        EchoUnpaid(
            "中" * 5000,
            fields={str(index): "y" * 1000 for index in range(100)},
            payment_id="PAY1",
            retry_after_seconds=1,
        ),
    ],
    ids=["fields", "metadata", "money"],
)
def test_details_never_outgrow_the_headers(error: MeshError) -> None:
    status = to_status(error, package=PACKAGE, catalogue=CATALOGUE)
    assert status is not None
    assert len(base64.b64encode(status.SerializeToString())) + len(quote(status.message)) < 8000
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == error.reason


def test_the_unexpected_tells_a_trace_id_and_nothing_else() -> None:
    remote = from_rpc_error(failed(13, internal_status("abc")))
    assert isinstance(remote, RemoteError)
    assert (remote.reason, remote.message, remote.metadata, remote.fields) == (
        "INTERNAL",
        "internal error",
        {"trace_id": "abc"},
        {},
    )


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (14, UpstreamUnavailable, "NEIGHBOUR_UNAVAILABLE"),
        (8, UpstreamUnavailable, "NEIGHBOUR_UNAVAILABLE"),
        (1, UpstreamUnavailable, "NEIGHBOUR_UNAVAILABLE"),
        (4, DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (2, RemoteError, "INTERNAL"),
        (13, RemoteError, "INTERNAL"),
        (15, RemoteError, "INTERNAL"),
        (12, RemoteError, "UNIMPLEMENTED"),
        (16, RemoteError, "UNAUTHENTICATED"),
        (5, RemoteError, "NOT_FOUND"),
    ],
)
@pytest.mark.parametrize(
    "details",
    [None, b"\xff\xff\xff", status_pb2.Status(code=14, message="no info")],
    ids=["none", "broken", "no info"],
)
def test_what_comes_without_details_is_told_by_its_code_and_never_by_its_text(
    code: int, kind: type[MeshError], reason: str, details: Any
) -> None:
    error = from_rpc_error(failed(code, details))
    assert type(error) is kind
    assert error.reason == reason
    assert "10.0.0.1" not in error.message


def test_a_siblings_own_deadline_is_a_deadline_to_us() -> None:
    assert isinstance(sent(DeadlineExceeded()), DeadlineExceeded)


def test_an_answer_of_a_server_is_told_from_one_of_the_transport() -> None:
    assert has_details(failed(14, internal_status("x")))
    assert not has_details(failed(14))


def test_only_the_transport_can_say_that_a_call_never_left() -> None:
    words = "connections to all backends failing; last error: x"
    assert never_sent(failed(14, text=words))
    assert not never_sent(failed(14, internal_status("x"), text=words))
    assert not never_sent(failed(14, text="Socket closed"))


def test_the_catalogue_knows_business_codes() -> None:
    spec = CATALOGUE.find("paymesh.order.v1", "OUT_OF_STOCK")
    assert spec is not None
    assert (spec.http_status, spec.business_code, spec.grpc_code) == (409, "2001", 9)
    assert CATALOGUE.find("paymesh.order.v1", "INVALID_ARGUMENT") == CATALOGUE.find(
        COMMON, "INVALID_ARGUMENT"
    )
    assert {spec.domain for spec in CATALOGUE} == {
        COMMON,
        PACKAGE,
        "paymesh.payment.v1",
        "paymesh.order.v1",
    }


@pytest.mark.parametrize(
    ("language", "text", "field"),
    [(Language.ZH, "未支付。", "须大于零"), (Language.EN, "Unpaid.", "must be greater than zero")],
)
def test_a_caller_who_names_a_language_gets_words_for_people_beside_those_for_developers(
    language: Language, text: str, field: str
) -> None:
    error = EchoUnpaid("the issuer said 51", fields={"amount": "must be greater than zero"})
    status = to_status(error, package=PACKAGE, catalogue=CATALOGUE, language=language)
    assert status is not None
    words, bad = error_details_pb2.LocalizedMessage(), error_details_pb2.BadRequest()
    assert any(detail.Unpack(words) for detail in status.details)
    assert any(detail.Unpack(bad) for detail in status.details)
    assert (status.message, words.locale, words.message) == ("the issuer said 51", language, text)
    [violation] = bad.field_violations
    assert (violation.description, violation.localized_message.message) == (
        "must be greater than zero",
        field,
    )


def test_a_caller_who_names_no_language_gets_no_second_text() -> None:
    status = to_status(EchoUnpaid(), package=PACKAGE, catalogue=CATALOGUE)
    assert status is not None
    assert not any(
        detail.Is(error_details_pb2.LocalizedMessage.DESCRIPTOR) for detail in status.details
    )


def test_even_a_defect_is_told_in_the_language_of_the_caller() -> None:
    status = internal_status("abc", texts=CATALOGUE.texts(COMMON, "INTERNAL"), language=Language.ZH)
    words = error_details_pb2.LocalizedMessage()
    assert any(detail.Unpack(words) for detail in status.details)
    assert words.message == "系统内部错误。"
