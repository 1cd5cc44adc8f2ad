"""What watches that no method is refused with what its operation does not list: it sees every
method, and it sees what it should.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mesh.call import Call
from mesh.errors import MeshError, RemoteError
from mesh.logs import CallLog
from mesh.trace import Trace
from order_rpc.domain.errors import OrderNotFound, OutOfStock
from tests.support import listed_errors
from tests.support.listed_errors import (
    LISTED,
    METHODS,
    leaving,
    unlisted_in,
    use_cases,
    watched_use_case,
)

GET_ORDER = "/paymesh.order.v1.OrderService/GetOrder"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    listed_errors.unlisted.clear()


def of_payment(reason: str) -> RemoteError:
    return RemoteError(remote_reason=reason, domain="paymesh.payment.v1", grpc_code=9)


def refusal_classes(service: str) -> dict[str, type[MeshError]]:
    """The errors of a service and of the mesh by the names of their classes."""
    importlib.import_module(f"{service}.domain.errors")
    found, new = set[type[MeshError]](), {MeshError}
    while new := {inner for outer in new for inner in outer.__subclasses__()} - found:
        found |= new
    return {
        kind.__name__: kind
        for kind in found
        if kind.__module__.split(".")[0] in (service, "mesh") and not issubclass(kind, RemoteError)
    }


@pytest.mark.parametrize(("kind", "name"), sorted(use_cases(), key=str))
def test_what_a_use_case_says_that_it_raises_is_listed(kind: type, name: str) -> None:
    paths = use_cases()[kind, name]
    package = METHODS[min(paths)].policy.package
    known = refusal_classes(kind.__module__.split(".")[0])
    _, _, raises = (inspect.getdoc(inspect.getattr_static(kind, name)) or "").partition("Raises:")
    for word in re.findall(r"[A-Z]\w+", raises):
        if word in known:
            listed_errors.note(paths, leaving(known[word](), package))
    assert sorted(listed_errors.unlisted) == []


def test_the_use_case_of_every_method_is_watched() -> None:
    assert set().union(*use_cases().values()) == set(METHODS)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OrderNotFound(), None),
        (OutOfStock(), ("paymesh.order.v1", "OUT_OF_STOCK")),
        (of_payment("CARD_DECLINED"), ("paymesh.payment.v1", "CARD_DECLINED")),
    ],
)
async def test_a_refusal_that_is_not_listed_is_seen_and_goes_on_its_way(
    error: MeshError, seen: tuple[str, str] | None, *, is_stream: bool
) -> None:
    async def refuses() -> None:
        raise error

    async def begins() -> AsyncIterator[int]:
        yield 1
        raise error

    watched: Any = watched_use_case(begins if is_stream else refuses, frozenset({GET_ORDER}))
    with pytest.raises(type(error)):
        await (_last(watched()) if is_stream else watched())
    assert listed_errors.unlisted == ({(GET_ORDER, seen)} if seen else set())


async def _last(items: AsyncIterator[int]) -> int:
    return [item async for item in items][-1]


def test_what_one_of_several_methods_lists_is_listed() -> None:
    charge = "/paymesh.payment.v1.PaymentService/Charge"
    reason = ("paymesh.payment.v1", "CARD_DECLINED")
    assert reason in LISTED[charge]
    listed_errors.note(frozenset({GET_ORDER, charge}), reason)
    assert listed_errors.unlisted == set()


@pytest.mark.parametrize(
    ("method", "code", "reason", "seen"),
    [
        (GET_ORDER, 5, "ORDER_NOT_FOUND", False),
        (GET_ORDER, 9, "OUT_OF_STOCK", True),
        (GET_ORDER, 0, "", False),
        (GET_ORDER, 1, "CANCELLED", False),
        ("/paymesh.echo.v1.EchoService/Echo", 9, "ECHO_REFUSED", False),
    ],
)
async def test_the_log_of_a_server_says_what_was_refused(
    method: str, code: int, reason: str, *, seen: bool
) -> None:
    stream = io.StringIO()
    log = CallLog("order_rpc", stream=stream)
    call = Call(trace=Trace.start(None), deadline=0)
    call.refusal = reason
    log.write(method, code, 0, 0.1, call)
    log.flush()
    assert unlisted_in(["something else", *stream.getvalue().splitlines()]) == (
        {(method, reason)} if seen else set()
    )


@pytest.mark.parametrize(
    ("route", "reason", "seen"),
    [
        ("/api/v1/orders/{order_id}", "ORDER_NOT_FOUND", False),
        ("/api/v1/orders/{order_id}", "BODY_TOO_LARGE", True),
        ("/api/v1/orders/{order_id}", "", False),
        ("/healthz", "UNAVAILABLE", False),
    ],
)
def test_the_log_of_the_gateway_says_what_was_refused(
    route: str, reason: str, *, seen: bool
) -> None:
    line = json.dumps(
        {"event": "request", "verb": "GET", "route": route, "refusal": reason},
        separators=(",", ":"),
    )
    assert unlisted_in([line, line[:-9]]) == ({(f"GET {route}", reason)} if seen else set())
