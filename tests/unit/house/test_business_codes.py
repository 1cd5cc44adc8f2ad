"""Business codes: one reason has one, and one stands for one reason, whichever service answers it
(docs/decisions/0010).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable

import pytest

from mesh.wire_errors import COMMON, ErrorCatalogue
from seckill_rpc.domain.result import ResultCode
from tools.processes import ROOT

PACKAGES = sorted(
    f"paymesh.{path.parent.parent.name}.v1"
    for path in (ROOT / "protos" / "paymesh").glob("*/v1/errors.proto")
)
SPECS = list(ErrorCatalogue.of_packages(PACKAGES))
# What the source systems document (a reason of ours for each of theirs that we have).
OF_THE_SOURCES = {
    "A0100": "INVALID_ARGUMENT",
    "A0102": "MALFORMED_BODY",
    "A0200": "UNAUTHENTICATED",
    "A0201": "TOKEN_EXPIRED",
    "A0202": "TOKEN_INVALID",
    "A0203": "PERMISSION_DENIED",
    "A0301": "NOT_FOUND",
    "A0400": "IDEMPOTENCY_KEY_MISSING",
    "A0401": "IDEMPOTENCY_KEY_IN_USE",
    "A0501": "RATE_LIMITED",
    "B0001": "INTERNAL",
    "B0003": "DEADLINE_EXCEEDED",
    "B0103": "CONFLICT",
    "2001": "OUT_OF_STOCK",
    "4004001": "CARD_INVALID",
    "4004004": "PAYMENT_NOT_FOUND",
    "4004005": "REFUND_NOT_ALLOWED",
    "4004007": "ORDER_NOT_FOUND",
    "4004008": "AMOUNT_MISMATCH",
    "4005001": "TRANSACTION_ID_FAILED",
    "4005002": "ORDER_ALREADY_PAID",
}


def ambiguous(pairs: Iterable[tuple[str, Hashable]]) -> dict[str, set[Hashable]]:
    """Keys with more than one value."""
    values: defaultdict[str, set[Hashable]] = defaultdict(set)
    for key, value in pairs:
        values[key].add(value)
    return {key: found for key, found in values.items() if len(found) > 1}


def test_every_package_with_reasons_is_looked_at() -> None:
    assert (
        {spec.domain for spec in SPECS}
        == set(PACKAGES)
        >= {COMMON, "paymesh.order.v1", "paymesh.payment.v1", "paymesh.seckill.v1"}
    )


def test_a_business_code_stands_for_one_reason() -> None:
    assert ambiguous((spec.business_code, spec.reason) for spec in SPECS) == {}


def test_a_reason_has_one_business_code_and_one_status_whoever_answers_it() -> None:
    assert (
        ambiguous(
            (spec.reason, (spec.business_code, spec.http_status, spec.grpc_code)) for spec in SPECS
        )
        == {}
    )


@pytest.mark.parametrize(("code", "reason"), OF_THE_SOURCES.items())
def test_a_code_of_the_sources_stands_for_what_they_say(code: str, reason: str) -> None:
    assert {spec.reason for spec in SPECS if spec.business_code == code} == {reason}


def test_codes_have_the_form_of_their_source_and_failures_of_a_cache_are_never_sent() -> None:
    codes = {spec.business_code for spec in SPECS}
    # Numbers belong to the sources: a reason that none of them has takes a code of the A/B/C
    # scheme.
    assert {code for code in codes if re.fullmatch(r"[ABC]0\d{3}", code) is None} == {
        code for code in OF_THE_SOURCES if code[0] in "24"
    }
    assert not codes & {"4005003", "4005004"}


def test_a_result_of_a_flash_sale_shares_no_code_with_a_refusal_but_for_want_of_stock() -> None:
    assert {spec.business_code for spec in SPECS} & {code.value for code in ResultCode} == {"2001"}
