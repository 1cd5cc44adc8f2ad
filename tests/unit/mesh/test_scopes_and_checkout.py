"""Tokens that may do less than their role: keys and members by their scopes, checkout tokens by
their order.
"""

from __future__ import annotations

from typing import Any

import pytest

from mesh.access import Access
from mesh.auth import CallerClaims, UserClaims
from mesh.call import Caller, Role
from mesh.errors import NotFound, PermissionDenied
from mesh.policies import load_policies
from tests.support.echo import EchoRequest, echo_file, path

POLICIES = load_policies(echo_file().services_by_name["EchoService"])
ORDER = "ORD01ARZ3NDEKTSV4RRFFQ69G5FAV"
SIBLING = CallerClaims(
    service="order_rpc",
    on_behalf_of="",
    expires_at_seconds=0,
    caller=Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc"),
)


def user(*roles: Role, subject: str = "key:AK1", **claims: Any) -> UserClaims:
    return UserClaims(
        subject=subject,
        merchant_id="acme",
        roles=frozenset(roles),
        expires_at_seconds=0,
        token_id="",
        order_id=claims.get("order_id", ""),
        callers={
            role: Caller(
                role=role,
                subject=subject,
                merchant_id="acme",
                roles=frozenset(roles),
                **claims,
            )
            for role in (*roles, Role.PUBLIC)
        },
    )


def merchant(*scopes: str) -> UserClaims:
    return user(Role.MERCHANT, scopes=frozenset(scopes))


def buyer(order_id: str = ORDER) -> UserClaims:
    return user(Role.USER, subject=f"ext:{order_id}", order_id=order_id)


def access(method: str) -> Access:
    return Access(POLICIES[path(method)])


# Scopes


@pytest.mark.parametrize(
    ("method", "scopes"),
    [
        ("Own", ["orders:read"]),
        ("Own", ["orders:read", "payments:write"]),
        ("Find", ["orders:write", "payments:read"]),
        ("Pay", []),  # any_scope
    ],
)
def test_a_merchant_with_every_scope_of_a_method_is_admitted(
    method: str, scopes: list[str]
) -> None:
    assert access(method).admit(merchant(*scopes), None).role is Role.MERCHANT


@pytest.mark.parametrize(
    ("method", "scopes", "missing"),
    [
        ("Own", [], "orders:read"),
        ("Own", ["payments:read", "orders:Read", "orders", "*"], "orders:read"),
        ("Find", ["orders:write"], "payments:read"),
        ("Find", ["orders:read", "payments:read"], "orders:write"),
        ("Find", [], "orders:write payments:read"),
    ],
)
def test_a_merchant_without_a_scope_is_refused_and_told_which_one(
    method: str, scopes: list[str], missing: str
) -> None:
    for sibling in (None, SIBLING):  # a service that carries a token adds nothing to it
        with pytest.raises(PermissionDenied) as refused:
            access(method).admit(merchant(*scopes), sibling)
        assert refused.value.message == f"The token lacks the scope {missing}."
        assert refused.value.metadata == {"missing_scope": missing}


def test_a_merchant_whose_token_says_nothing_of_scopes_is_not_limited() -> None:
    assert access("Find").admit(user(Role.MERCHANT), None).role is Role.MERCHANT


def test_scopes_limit_merchants_alone() -> None:
    nothing: frozenset[str] = frozenset()
    assert access("Own").admit(user(Role.USER, scopes=nothing), None).role is Role.USER
    both = user(Role.MERCHANT, Role.ADMIN, scopes=nothing)
    assert access("Own").admit(both, None).role is Role.ADMIN
    assert access("Browse").admit(merchant(), None).role is Role.PUBLIC


def test_a_merchant_without_a_scope_does_not_become_a_buyer() -> None:
    with pytest.raises(PermissionDenied):
        access("Own").admit(user(Role.USER, Role.MERCHANT, scopes=frozenset()), None)


def test_a_publishable_key_does_what_anybody_may() -> None:
    key = user(scopes=frozenset())
    caller = access("Browse").admit(key, None)
    assert (caller.role, caller.subject) == (Role.PUBLIC, "key:AK1")
    for method in ("Own", "Find", "Pay", "Write"):
        with pytest.raises(PermissionDenied):
            access(method).admit(key, None)


# Checkout


@pytest.mark.parametrize("method", ["Find", "Pay", "Look"])
def test_a_checkout_token_is_a_buyer_where_the_method_has_checkout(method: str) -> None:
    assert access(method).admit(buyer(), None).role is Role.USER


@pytest.mark.parametrize("method", ["Own", "Write", "Browse", "Command", "Enter", "Listen"])
def test_a_checkout_token_calls_no_other_method_whoever_carries_it(method: str) -> None:
    for sibling in (None, SIBLING):
        with pytest.raises(PermissionDenied, match="checkout token"):
            access(method).admit(buyer(), sibling)


def bound(method: str, sent: str) -> str:
    checked = access(method)
    request = EchoRequest(order_id=sent)
    checked.own(request, checked.admit(buyer(), None))
    return str(request.order_id)


@pytest.mark.parametrize("method", ["Find", "Pay"])
def test_a_checkout_token_fills_in_its_order(method: str) -> None:
    assert bound(method, "") == ORDER
    assert bound(method, ORDER) == ORDER


def test_a_checkout_token_reaches_no_other_order() -> None:
    for other in ("ORD01ARZ3NDEKTSV4RRFFQ69G5FAW", ORDER.lower(), "2026-1", f"{ORDER} "):
        with pytest.raises(PermissionDenied) as refused:
            bound("Pay", other)
        assert list(refused.value.fields) == ["order_id"]
        with pytest.raises(NotFound):  # as a row of somebody else
            bound("Find", other)


def test_where_the_row_decides_the_request_stays_as_it_is() -> None:
    assert bound("Look", "2026-1") == "2026-1"


def test_callers_without_a_checkout_token_name_any_order() -> None:
    for claims in (user(Role.USER, subject="alice"), merchant("orders:write", "payments:read")):
        for method in ("Find", "Pay"):
            checked, request = access(method), EchoRequest(order_id="2026-1")
            checked.own(request, checked.admit(claims, None))
            assert request.order_id == "2026-1"
