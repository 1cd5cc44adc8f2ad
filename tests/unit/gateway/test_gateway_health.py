"""/readyz without a mesh: what it says of each service, and when a load balancer should send
nothing here.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.builtin_routes import Health
from gateway.request import Request
from mesh.errors import InvalidArgument, Unavailable


class Service:
    """An upstream that is there or not."""

    def __init__(self, *, is_ready: bool) -> None:
        self.is_ready = is_ready

    async def call(self, path: str, request: bytes, *, metadata: Any = ()) -> tuple[bytes, Any]:
        raise NotImplementedError

    def stream(self, path: str, request: bytes, *, metadata: Any = ()) -> Any:
        raise NotImplementedError


def health(**ready: bool) -> Health:
    return Health({service: Service(is_ready=is_ready) for service, is_ready in ready.items()})


def ask(of: Health, query: bytes = b"") -> dict[str, Any]:
    request = Request(
        {
            "type": "http",
            "method": "GET",
            "raw_path": b"/readyz",
            "query_string": query,
            "client": ("10.1.2.3", 5),
            "headers": [],
        }
    )
    answer = of.ready(request)
    assert answer.status == 200
    data: dict[str, Any] = msgspec.json.decode(answer.body)["data"]
    return data


def refused(of: Health, query: bytes = b"") -> dict[str, str]:
    with pytest.raises(Unavailable) as refusal:
        ask(of, query)
    return refusal.value.metadata


def test_a_gateway_is_ready_while_some_service_is() -> None:
    assert ask(health(a=True, b=True)) == {
        "status": "READY",
        "services": {"a": "READY", "b": "READY"},
    }
    assert ask(health(a=True, b=False)) == {
        "status": "DEGRADED",
        "services": {"a": "READY", "b": "AWAY"},
    }
    assert refused(health(a=False, b=False)) == {"a": "AWAY", "b": "AWAY"}


def test_an_operator_asks_for_the_services_that_he_means() -> None:
    some = health(a=True, b=False, c=True)
    assert ask(some, b"service=a&service=c")["status"] == "DEGRADED"
    for query in (b"service=b", b"service=a&service=b"):
        assert refused(some, query) == {"a": "READY", "b": "AWAY", "c": "READY"}
    for query in (
        b"service=d",
        b"service",
        b"a=b",
        b"service=a&x=y",
        b"service=a&" * 30,
        b"service=\xff",
    ):
        with pytest.raises(InvalidArgument, match="a, b, c"):
            ask(some, query)


def test_a_gateway_that_stops_is_ready_for_nothing() -> None:
    stopping = health(a=True)
    stopping.stopping = True
    assert refused(stopping) == refused(stopping, b"service=a") == {"a": "STOPPING"}


def test_readiness_comes_back_by_itself() -> None:
    service = Service(is_ready=False)
    of = Health({"a": service})
    assert refused(of) == {"a": "AWAY"}
    service.is_ready = True
    assert ask(of)["status"] == "READY"
