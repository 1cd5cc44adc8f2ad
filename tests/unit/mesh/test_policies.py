from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pool
from paymesh.order.v1 import catalog_pb2, order_pb2
from paymesh.payment.v1 import callback_pb2, payment_pb2

from mesh.access import Access
from mesh.auth import CallerClaims, UserClaims
from mesh.call import NOBODY, Caller, Role
from mesh.errors import MeshError, NotFound, PermissionDenied, Unauthenticated
from mesh.fingerprints import fingerprint
from mesh.policies import (
    Idempotency,
    Limit,
    OwnershipKind,
    PolicyInvalid,
    load_policies,
)
from tests.support.echo import PACKAGE, SERVICE, EchoRequest, Inner, echo_file, path

POLICIES = load_policies(echo_file().services_by_name["EchoService"])


# Reading


@pytest.mark.parametrize(
    "file",
    [payment_pb2, callback_pb2, order_pb2, catalog_pb2],
    ids=lambda module: module.DESCRIPTOR.name,
)
def test_every_method_of_the_contract_has_a_valid_policy(file: Any) -> None:
    for service in file.DESCRIPTOR.services_by_name.values():
        assert len(load_policies(service)) == len(service.methods) > 0


def test_a_policy_says_what_the_contract_says() -> None:
    policy = load_policies(payment_pb2.DESCRIPTOR.services_by_name["PaymentService"])[
        "/paymesh.payment.v1.PaymentService/Charge"
    ]
    assert (policy.package, policy.served_by, policy.timeout_seconds) == (
        "paymesh.payment.v1",
        "payment_rpc",
        12,
    )
    assert policy.idempotency is Idempotency.OPTIONAL
    assert policy.limit == Limit(per_second=20, burst=100)
    assert policy.ownership.kind is OwnershipKind.REQUEST_FIELD
    assert [(rule.field, rule.value, rule.status) for rule in policy.http.status_by_enum] == [
        ("payment.state", "PAYING", 202)
    ]
    assert (policy.repeatable, policy.side_effects) == (False, True)


def test_a_method_without_side_effects_is_repeatable_and_so_is_an_idempotent_one() -> None:
    assert (POLICIES[path("Own")].repeatable, POLICIES[path("Own")].side_effects) == (True, False)
    assert (POLICIES[path("Command")].repeatable, POLICIES[path("Command")].side_effects) == (
        True,
        True,
    )


def test_headers_are_matched_in_lower_case() -> None:
    assert [
        (binding.header, binding.field) for binding in POLICIES[path("Quick")].http.headers
    ] == [("x-echo-note", "inner.note")]


def test_every_bad_declaration_is_refused_and_named_at_once() -> None:
    service = echo_file().services_by_name["BrokenService"]
    with pytest.raises(PolicyInvalid) as refused:
        load_policies(service)
    for method in service.methods:
        assert method.full_name in str(refused.value), method.name


def test_a_service_that_nobody_serves_is_refused() -> None:
    with pytest.raises(PolicyInvalid, match="served_by"):
        load_policies(echo_file().services_by_name["HomelessService"])


def test_policies_are_read_from_a_pool_of_their_own_too() -> None:
    pool = descriptor_pool.DescriptorPool()
    seen = set()

    def add(file: Any) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            pool.AddSerializedFile(file.serialized_pb)

    add(echo_file())
    policies = load_policies(pool.FindServiceByName(SERVICE))
    assert policies == POLICIES


# Fingerprints


def test_a_fingerprint_has_marked_fields_with_their_paths() -> None:
    request = EchoRequest(
        text="a",
        user_id="u",
        merchant_id="m",
        inner=Inner(note="n", secret="s"),
        inners=[Inner(note="x"), Inner(secret="y")],
        counts={"b": 2, "a": -1},
        flag=True,
        mood=1,
        times=3,
        raw=b"\x00\xff",
    )
    assert fingerprint(request) == {
        "text": "a",
        "inner.note": "n",
        "inners[0].note": "x",
        "counts[a]": "-1",
        "counts[b]": "2",
        "flag": "true",
        "mood": "MOOD_GOOD",
        "raw": "00ff",
    }


def test_a_fingerprint_never_has_a_sensitive_field() -> None:
    card = payment_pb2.CreditCard(
        credit_card_number="4111111111111111",
        credit_card_cvv="123",
        credit_card_expiration_year=2030,
        credit_card_expiration_month=1,
    )
    request = payment_pb2.ChargeRequest(amount="1.00", order_id="o", credit_card=card, user_id="u")
    assert fingerprint(request) == {"amount": "1.00", "order_id": "o"}


def test_an_empty_request_has_an_empty_fingerprint() -> None:
    assert fingerprint(EchoRequest()) == {}


def test_an_enum_value_that_is_newer_than_we_are_is_its_number() -> None:
    assert fingerprint(EchoRequest(mood=9)) == {"mood": "9"}


# Admission


def user(*roles: Role, subject: str = "alice", merchant_id: str = "acme") -> UserClaims:
    callers = {
        role: Caller(role=role, subject=subject, merchant_id=merchant_id, roles=frozenset(roles))
        for role in (*roles, Role.PUBLIC)
    }
    return UserClaims(
        subject=subject,
        merchant_id=merchant_id,
        roles=frozenset(roles),
        expires_at_seconds=0,
        token_id="",
        callers=callers,
    )


def service(name: str) -> CallerClaims:
    return CallerClaims(
        service=name,
        on_behalf_of="",
        expires_at_seconds=0,
        caller=Caller(role=Role.SERVICE, subject=name, service=name),
    )


def admitted(
    method: str, caller: UserClaims | None, sibling: CallerClaims | None = None
) -> Role | type[MeshError]:
    try:
        return Access(POLICIES[path(method)]).admit(caller, sibling).role
    except MeshError as refusal:
        return type(refusal)


EVERY = user(Role.USER, Role.MERCHANT, Role.ADMIN)


@pytest.mark.parametrize(
    ("method", "caller", "sibling", "outcome"),
    [
        # the widest role that the method admits
        ("Own", EVERY, None, Role.ADMIN),
        ("Own", user(Role.USER, Role.MERCHANT), None, Role.MERCHANT),
        ("Own", user(Role.USER), None, Role.USER),
        ("Write", EVERY, None, Role.USER),
        ("Write", user(Role.ADMIN), None, PermissionDenied),
        ("Write", user(), None, PermissionDenied),
        ("Write", None, None, Unauthenticated),
        # public methods
        ("Browse", None, None, Role.PUBLIC),
        ("Browse", EVERY, None, Role.PUBLIC),
        ("Browse", None, service("stranger"), Role.PUBLIC),
        # services
        ("Command", None, service("order_rpc"), Role.SERVICE),
        ("Command", None, service("payment_rpc"), PermissionDenied),
        ("Command", EVERY, None, PermissionDenied),
        ("Command", None, None, Unauthenticated),
        ("Own", None, service("order_rpc"), Role.SERVICE),
        ("Own", None, service("gateway"), PermissionDenied),
        ("Write", None, service("order_rpc"), PermissionDenied),
        # a person's token decides before the service that carries it
        ("Own", user(Role.USER), service("order_rpc"), Role.USER),
        ("Own", user(), service("gateway"), PermissionDenied),
        ("Command", user(Role.USER), service("order_rpc"), Role.SERVICE),
        ("Command", user(Role.ADMIN), service("gateway"), PermissionDenied),
    ],
)
def test_a_caller_gets_the_one_role_that_the_method_admits(
    method: str,
    caller: UserClaims | None,
    sibling: CallerClaims | None,
    outcome: Role | type[MeshError],
) -> None:
    assert admitted(method, caller, sibling) == outcome


# Ownership

ALICE = Caller(role=Role.USER, subject="alice", merchant_id="acme")
SHOP = Caller(role=Role.MERCHANT, subject="bob", merchant_id="acme")
ADMIN = Caller(role=Role.ADMIN, subject="root", merchant_id="acme")
ORDERS = Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc")
VISITOR = Caller(role=Role.PUBLIC, subject="alice", merchant_id="acme")


@pytest.mark.parametrize(
    ("method", "caller", "sent", "outcome"),
    [
        # the request names the owner
        ("Own", ALICE, ("", ""), ("alice", "acme")),
        ("Own", ALICE, ("alice", "acme"), ("alice", "acme")),
        ("Own", ALICE, ("bob", ""), "user_id"),
        ("Own", ALICE, ("", "mall"), "merchant_id"),
        ("Own", ALICE, ("Alice", "acme"), "user_id"),
        ("Own", SHOP, ("", ""), ("", "acme")),
        ("Own", SHOP, ("carol", ""), ("carol", "acme")),
        ("Own", SHOP, ("", "mall"), "merchant_id"),
        ("Own", ADMIN, ("", ""), ("", "mall")),
        ("Own", ADMIN, ("carol", "other"), ("carol", "other")),
        ("Own", ORDERS, ("", ""), ("", "mall")),
        ("Own", ORDERS, ("carol", "other"), ("carol", "other")),
        # the row has the owner: no tenant can be probed
        ("Find", ALICE, ("", ""), ("", "acme")),
        ("Find", ALICE, ("x", "acme"), ("x", "acme")),
        ("Find", ALICE, ("", "mall"), NotFound),
        ("Find", SHOP, ("", "mall"), NotFound),
        ("Find", SHOP, ("", ""), ("", "acme")),
        ("Find", ADMIN, ("", ""), ("", "mall")),
        ("Find", ADMIN, ("", "other"), ("", "other")),
        ("Find", ORDERS, ("", "other"), ("", "other")),
        # nobody's
        ("Browse", NOBODY, ("", ""), ("", "mall")),
        ("Browse", NOBODY, ("", "acme"), ("", "acme")),
        ("Browse", VISITOR, ("", ""), ("", "acme")),
        ("Command", ORDERS, ("", ""), ("", "mall")),
        ("Write", ALICE, ("bob", "other"), ("bob", "other")),
    ],
)
def test_a_request_reaches_only_what_is_the_callers(
    method: str,
    caller: Caller,
    sent: tuple[str, str],
    outcome: tuple[str, str] | str | type[MeshError],
) -> None:
    request = EchoRequest(user_id=sent[0], merchant_id=sent[1])
    access = Access(POLICIES[path(method)])
    if isinstance(outcome, tuple):
        access.own(request, caller)
        assert (request.user_id, request.merchant_id) == outcome
        return
    with pytest.raises(PermissionDenied if isinstance(outcome, str) else outcome) as refused:
        access.own(request, caller)
    assert list(refused.value.fields) == ([outcome] if isinstance(outcome, str) else [])


def test_the_echo_contract_is_loaded_once() -> None:
    assert echo_file().package == PACKAGE
