"""Paths: literals before variables, verbs after colons, decoding after matching, clashes found at
start.
"""

from __future__ import annotations

import pytest

from gateway.routes import PathTemplate, Router, TemplateInvalid, decode_value


def router(*routes: tuple[str, str]) -> Router[str]:
    made: Router[str] = Router()
    for method, path in routes:
        made.add(method, PathTemplate.parse(path), f"{method} {path}")
    return made


ROUTES = router(
    ("GET", "/api/v1/orders"),
    ("POST", "/api/v1/orders"),
    ("GET", "/api/v1/orders/{order_id}"),
    ("POST", "/api/v1/orders/{order_id}:cancel"),
    ("POST", "/api/v1/orders:search"),
    ("GET", "/payments/{payment_id}"),
    ("POST", "/payments/mock-callback"),
    ("GET", "/payments/order/{order_id}"),
    ("PUT", "/a/{x.y}/b/{z}"),
    ("GET", "/a/special/c"),
)


@pytest.mark.parametrize(
    ("path", "target", "values"),
    [
        ("/api/v1/orders", "GET /api/v1/orders", ()),
        ("/api/v1/orders/ORD1", "GET /api/v1/orders/{order_id}", (b"ORD1",)),
        ("/api/v1/orders/a%2Fb", "GET /api/v1/orders/{order_id}", (b"a%2Fb",)),
        ("/api/v1/orders/a:b", "GET /api/v1/orders/{order_id}", (b"a:b",)),
        ("/api/v1/orders/a:", "GET /api/v1/orders/{order_id}", (b"a:",)),
        ("/payments/order/X", "GET /payments/order/{order_id}", (b"X",)),
        ("/payments/order", "GET /payments/{payment_id}", (b"order",)),
        ("/a/special/c", "GET /a/special/c", ()),
    ],
)
def test_a_get_finds_its_route(path: str, target: str, values: tuple[bytes, ...]) -> None:
    match = ROUTES.match(path.encode())
    assert match is not None
    assert (match.leaf.targets["GET"], match.values) == (target, values)


@pytest.mark.parametrize(
    ("method", "path", "target", "values"),
    [
        ("POST", "/api/v1/orders/ORD1:cancel", "POST /api/v1/orders/{order_id}:cancel", (b"ORD1",)),
        ("POST", "/api/v1/orders/a:b:cancel", "POST /api/v1/orders/{order_id}:cancel", (b"a:b",)),
        ("POST", "/api/v1/orders:search", "POST /api/v1/orders:search", ()),
        ("PUT", "/a/special/b/2", "PUT /a/{x.y}/b/{z}", (b"special", b"2")),
    ],
)
def test_other_verbs_find_theirs(
    method: str, path: str, target: str, values: tuple[bytes, ...]
) -> None:
    match = ROUTES.match(path.encode())
    assert match is not None
    assert (match.leaf.targets[method], match.values) == (target, values)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "api/v1/orders",
        "/api/v1/orders/",
        "/api//v1/orders",
        "//api/v1/orders",
        "/api/v1/orders/a/b",
        "/API/v1/orders",
        "/api/v1/orders:",
        "/api/v1/orders:delete",
        "/payments/",
        "/a/1/b",
        "/a//b/2",
        "/api/v1/%6Frders",
        "*",
        "/a/special",
        "/api/v1/orders/:cancel/x",
    ],
)
def test_everything_else_is_unknown(path: str) -> None:
    assert ROUTES.match(path.encode()) is None


def test_a_literal_path_is_never_another_paths_variable() -> None:
    match = ROUTES.match(b"/payments/mock-callback")
    assert match is not None
    assert (dict(match.leaf.targets), match.leaf.allow()) == (
        {"POST": "POST /payments/mock-callback"},
        "OPTIONS, POST",
    )


def test_allow_has_head_beside_get() -> None:
    match = ROUTES.match(b"/api/v1/orders")
    assert match is not None
    assert match.leaf.allow() == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    ("first", "second"), [("/a/{x}", "/a/{y}"), ("/a", "/a"), ("/a/{x}:v", "/a/{y}:v")]
)
def test_two_routes_for_the_same_requests_are_refused(first: str, second: str) -> None:
    with pytest.raises(TemplateInvalid, match="another route"):
        router(("GET", first), ("GET", second))


@pytest.mark.parametrize(
    "template",
    [
        "a",
        "/a/",
        "//a",
        "/a/*",
        "/a/**",
        "/a/{x=*}",
        "/a/{x",
        "/a/{}",
        "/a/{X}",
        "/a/x{y}",
        "/a/{x}:",
        "/a b",
        "/a/{x}:{y}",
    ],
)
def test_a_template_that_is_not_understood_is_refused(template: str) -> None:
    with pytest.raises(TemplateInvalid):
        PathTemplate.parse(template)


def test_a_value_is_decoded_after_its_segment_was_found() -> None:
    assert decode_value(b"a%2Fb%20%E8%AE%A2") == "a/b 订"
    assert decode_value(b"a+b") == "a+b"


@pytest.mark.parametrize("raw", [b"%FF", b"%C3", b"\xff"])
def test_a_value_that_is_not_utf_8_is_refused(raw: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_value(raw)
