"""Every method of every service against every kind of caller, generated from the contract: admitted
or refused exactly as its rules say.

What is expected is read from the options of the descriptors here, not from mesh.access. A new
method is in the matrix by being in the contract.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import MethodDescriptor
from paymesh.options.v1 import options_pb2

from merchant_rpc.domain.member import MemberRole
from mesh.scopes import SCOPES
from mesh.server import MeshServer
from mesh.settings import MeshSettings
from tests.builders.all_services import (
    MERCHANT,
    MERCHANT_RPC,
    NOT_FOUND,
    ORDER,
    OTHER_MERCHANT,
    OTHER_ORDER,
    PERMISSION_DENIED,
    ROLES,
    SERVICES,
    UNAUTHENTICATED,
    Kind,
    Servers,
    Tokens,
    code_of,
    contract,
    policy,
    running,
    served_by,
)
from tests.builders.merchant_rows import NAME_A_ROW, REQUESTS, SHOPS
from tests.support.echo import Echo, add_echo, echo_file, plain_channel
from tests.support.fakes import FakeClock


def expected(method: MethodDescriptor, kind: Kind) -> int:
    """0 for admitted, else the code of the refusal."""
    declared = policy(method)
    rules = declared.rules
    if kind.is_broken:
        return UNAUTHENTICATED
    if kind.order_id and not declared.HasField("checkout"):
        return PERMISSION_DENIED
    if is_short_of_a_scope(method, kind):
        return PERMISSION_DENIED
    admits = any(
        rule.role == options_pb2.ROLE_PUBLIC
        or ROLES.get(rule.role) in kind.roles
        or (rule.role == options_pb2.ROLE_SERVICE and kind.service in rule.callers)
        for rule in rules
    )
    if admits:
        return 0
    return PERMISSION_DENIED if kind.is_known else UNAUTHENTICATED


def is_short_of_a_scope(method: MethodDescriptor, kind: Kind) -> bool:
    """The token of a merchant lacks a scope of the method."""
    rules = policy(method).rules
    if kind.scopes is None or "merchant" not in kind.roles:
        return False
    return any(rule.role == options_pb2.ROLE_MERCHANT for rule in rules) and any(
        not {scope, scope.replace(":read", ":write")} & kind.scopes
        for scope in policy(method).scopes
    )


def everywhere() -> list[MethodDescriptor]:
    return [*contract(), *contract(MERCHANT_RPC)]


@pytest.fixture
async def servers(tmp_path: Path, redis_url: str) -> AsyncIterator[Servers]:
    async with running(tmp_path, redis_url) as servers:
        yield servers


async def test_every_method_admits_whom_its_rules_name_and_nobody_else(servers: Servers) -> None:
    wrong = []
    for method in everywhere():
        target = served_by(method.containing_service)
        kinds = [
            *servers.tokens.kinds(target),
            *servers.tokens.limited_kinds(target, policy(method).scopes),
        ]
        codes = await asyncio.gather(*(servers.call(method, kind) for kind in kinds))
        for kind, code in zip(kinds, codes, strict=True):
            wanted = expected(method, kind)
            is_right = (
                code == wanted if wanted else code not in (UNAUTHENTICATED, PERMISSION_DENIED)
            )
            if not is_right:
                wrong.append(
                    f"{method.full_name} for {kind.name}: {code} instead of {wanted or 'admitted'}"
                )
    assert wrong == []


def fields_of(method: MethodDescriptor, path: str, value: str) -> dict[str, Any]:
    """A request with one field alone."""
    assert "." not in path, method.full_name
    return {path: value}


def refusal_of_strangers(method: MethodDescriptor) -> int:
    """The refusal of a request for somebody else: where it looks up a row, there is none."""
    is_row = policy(method).ownership.kind == options_pb2.OWNERSHIP_KIND_RESOURCE
    return NOT_FOUND if is_row else PERMISSION_DENIED


async def test_a_key_reaches_its_merchant_and_no_other(servers: Servers) -> None:
    wrong, judged = [], 0
    for method in everywhere():
        declared = policy(method)
        path = declared.ownership.merchant_field
        if (
            not path
            or declared.ownership.kind == options_pb2.OWNERSHIP_KIND_NONE
            or all(rule.role != options_pb2.ROLE_MERCHANT for rule in declared.rules)
        ):
            continue
        judged += 1
        for merchant, kind in itertools.product(
            (MERCHANT, OTHER_MERCHANT),
            (
                keyed(servers.tokens.key(*SCOPES)),
                keyed(servers.tokens.key(*SCOPES, subject="member:")),
            ),
        ):
            code = await servers.call(method, kind, **fields_of(method, path, merchant))
            is_right = (
                code == refusal_of_strangers(method)
                if merchant == OTHER_MERCHANT
                else code not in (UNAUTHENTICATED, PERMISSION_DENIED)
            )
            if not is_right:
                wrong.append(f"{method.full_name} for {merchant}: {code}")
    assert wrong == []
    assert judged >= 30


async def test_a_checkout_token_reaches_its_order_and_no_other(servers: Servers) -> None:
    wrong, judged = [], []
    for method in everywhere():
        if not policy(method).HasField("checkout"):
            continue
        path = policy(method).checkout.order_field
        if not path:
            continue
        judged.append(method.name)
        kind = keyed(servers.tokens.checkout())
        code = await servers.call(method, kind, **fields_of(method, path, OTHER_ORDER))
        if code != refusal_of_strangers(method):
            wrong.append(f"{method.full_name} of another order: {code}")
        code = await servers.call(method, kind, **fields_of(method, path, ORDER))
        if code in (UNAUTHENTICATED, PERMISSION_DENIED):
            wrong.append(f"{method.full_name} of its order: {code}")
    assert wrong == []
    assert {"Charge", "CreatePayment", "GetPaymentByOrderId", "PayOrder", "GetOrder"} <= set(judged)


def of_merchants() -> list[MethodDescriptor]:
    """Every method of merchant_rpc that is about one merchant and admits its people and keys."""
    return [
        method
        for method in contract(MERCHANT_RPC)
        if policy(method).ownership.merchant_field
        and any(rule.role == options_pb2.ROLE_MERCHANT for rule in policy(method).rules)
    ]


def owner_of(servers: Servers, merchant_id: str) -> Kind:
    """The owner of a merchant, logged in for it or for its test sibling."""
    return servers.tokens.key(
        *MemberRole.OWNER.scopes,
        name=f"the owner, for {merchant_id},",
        subject=f"member:{servers.rows.shops[merchant_id].owner}",
        merchant_id=merchant_id,
        session_id="SES1",
    )


def secret_key_of(servers: Servers, merchant_id: str) -> Kind:
    return servers.tokens.key(*SCOPES, name=f"a key of {merchant_id}", merchant_id=merchant_id)


async def test_people_and_keys_reach_rows_of_their_merchant_and_mode_and_of_no_other(
    servers: Servers,
) -> None:
    wrong = []
    assert {method.name for method in of_merchants()} == set(REQUESTS)
    before = {each: await servers.rows.owned(each) for each in SHOPS}
    for method, mine, theirs in itertools.product(of_merchants(), SHOPS, SHOPS):
        if mine == theirs:
            continue
        fields = REQUESTS[method.name](servers.rows.shops[theirs])
        for kind in (owner_of(servers, mine), secret_key_of(servers, mine)):
            named = await servers.call(method, kind, merchant_id=theirs, **fields)
            if named != refusal_of_strangers(method):
                wrong.append(f"{method.name} of {theirs} for {kind.name}: {named}")
    assert wrong == []
    assert {each: await servers.rows.owned(each) for each in SHOPS} == before


@pytest.mark.parametrize("name", NAME_A_ROW)
async def test_a_row_of_another_merchant_or_mode_is_not_found_under_ones_own_name(
    servers: Servers, name: str
) -> None:
    [method] = [method for method in of_merchants() if method.name == name]
    wrong = []
    before = {each: await servers.rows.owned(each) for each in SHOPS}
    for mine, theirs in itertools.product(SHOPS, SHOPS):
        shop, other = servers.rows.shops[mine], servers.rows.shops[theirs]
        fields = REQUESTS[name](other)
        if fields == REQUESTS[name](shop):
            continue  # the same row: siblings have the same people
        code = await servers.call(method, owner_of(servers, mine), merchant_id=mine, **fields)
        if code != NOT_FOUND:
            wrong.append(f"{name} of {theirs} for the owner of {mine}: {code}")
    assert wrong == []
    assert {each: await servers.rows.owned(each) for each in SHOPS} == before


@pytest.mark.parametrize("merchant_id", SHOPS)
async def test_an_owner_may_do_all_of_it_at_his_merchant(
    servers: Servers, merchant_id: str
) -> None:
    shop = servers.rows.shops[merchant_id]
    codes = {
        name: await servers.call(method, owner_of(servers, merchant_id), **REQUESTS[name](shop))
        for name in REQUESTS
        for method in of_merchants()
        if method.name == name
    }
    # of a test sibling nothing is asked by its own name but what it has itself
    assert codes == dict.fromkeys(REQUESTS, 0)


def keyed(kind: Kind) -> Kind:
    """With an idempotency key, so that methods that need one read the request."""
    return replace(kind, metadata=[*kind.metadata, ("idempotency-key", "once")])


async def test_streams_are_judged_as_every_other_method(tmp_path: Path) -> None:
    tokens = Tokens(FakeClock())
    server = MeshServer(
        MeshSettings(
            service="echo_rpc", environment="test", port=0, var_dir=tmp_path, drain_seconds=0
        ),
        clock=tokens.clock,
        ids=tokens.ids,
        user_tokens=tokens.users,
        caller_tokens=tokens.of("echo_rpc", key=Ed25519PrivateKey.generate()),
    )
    server.add(add_echo, Echo())
    await server.start()
    methods = [
        method
        for method in echo_file().services_by_name["EchoService"].methods
        if method.server_streaming
    ]
    kinds = [*tokens.kinds("echo_rpc"), *tokens.limited_kinds("echo_rpc", [])]
    async with plain_channel(server.port) as channel:
        found = {
            (method.name, kind.name): await code_of(channel, method, kind)
            for method in methods
            for kind in kinds
        }
    await server.stop(0)
    assert found == {
        (method.name, kind.name): expected(method, kind) for method in methods for kind in kinds
    }
    assert set(found.values()) == {0, UNAUTHENTICATED, PERMISSION_DENIED}


async def test_every_method_of_the_contract_is_served_by_its_server(servers: Servers) -> None:
    declared = {
        service: {
            method.containing_service.full_name
            for method in everywhere()
            if served_by(method.containing_service) == service
        }
        for service in (*SERVICES, MERCHANT_RPC)
    }
    assert {
        service: set(server.services) for service, server in servers.running.items()
    } == declared
    admin = Kind("admin", [servers.tokens.bearer("admin", "user", "merchant")])
    unimplemented = [
        method.full_name for method in everywhere() if await servers.call(method, admin) == 12
    ]
    assert unimplemented == []


def test_the_matrix_has_methods_of_every_kind_in_it() -> None:
    """A matrix over nothing proves nothing."""
    methods = everywhere()
    assert len(methods) >= 95
    roles = {rule.role for method in methods for rule in policy(method).rules}
    assert roles == {
        options_pb2.ROLE_PUBLIC,
        options_pb2.ROLE_USER,
        options_pb2.ROLE_MERCHANT,
        options_pb2.ROLE_ADMIN,
        options_pb2.ROLE_SERVICE,
    }
    assert any(
        {rule.role for rule in policy(method).rules} == {options_pb2.ROLE_SERVICE}
        for method in methods
    )
    tokens = Tokens(FakeClock())
    kinds = tokens.kinds("payment_rpc")
    outcomes = {expected(method, kind) for method in methods for kind in kinds}
    assert outcomes == {0, UNAUTHENTICATED, PERMISSION_DENIED}
    for method in methods:  # a key is refused for want of a scope and for nothing else
        limited = tokens.limited_kinds("payment_rpc", policy(method).scopes)
        if policy(method).scopes:
            assert {is_short_of_a_scope(method, kind) for kind in limited} == {True, False}


async def test_methods_for_development_are_gone_in_production_whoever_asks(
    tmp_path: Path, redis_url: str
) -> None:
    async with running(tmp_path, redis_url, environment="production") as servers:
        methods = [method for method in contract() if policy(method).development_only]
        assert [method.name for method in methods] == ["GenerateSignature"]
        for method in methods:
            for kind in servers.tokens.kinds(served_by(method.containing_service)):
                assert await servers.call(method, kind) == NOT_FOUND, kind.name
