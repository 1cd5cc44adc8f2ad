"""What the gateway turns away before a server hears of it: tokens, bodies, queries, paths, verbs.
Every refusal names its place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from mesh.errors import NotFound
from tests.builders.gateway import World, gateway_world, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHARGE = "/api/v1/payments/charge"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with gateway_world(
        tmp_path_factory.mktemp("gateway"), cors_origins=["https://shop.example"]
    ) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    shared.shop.requests.clear()
    shared.shop.does.clear()
    return shared


# Who may


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "UNAUTHENTICATED"),
        (["Basic YTpi"], "TOKEN_INVALID"),
        (["Bearer"], "TOKEN_INVALID"),
        (["Bearer nonsense"], "TOKEN_INVALID"),
        (["Bearer a.b.c"], "TOKEN_INVALID"),
        (["Bearer a", "Bearer b"], "TOKEN_INVALID"),
    ],
)
async def test_no_token_is_401_and_says_how(world: World, headers: list[str], reason: str) -> None:
    answer = await world.client.get(
        "/api/v1/orders", headers=[("authorization", value) for value in headers]
    )
    refused(answer, 401, reason)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert world.shop.requests == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": None}, "TOKEN_INVALID"),
        ({"aud": "another"}, "TOKEN_INVALID"),
        ({"aud": None}, "TOKEN_INVALID"),
        ({"iss": "evil"}, "TOKEN_INVALID"),
        ({"exp": 1}, "TOKEN_INVALID"),
        ({"sub": ""}, "TOKEN_INVALID"),
        ({"nbf": 4_000_000_000}, "TOKEN_INVALID"),
        ({"exp": "soon"}, "TOKEN_INVALID"),
    ],
)
async def test_a_token_with_other_claims_is_401(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    token = world.signed(world.claims(**changes))
    refused(await world.call("GET", "/api/v1/orders", token=token), 401, reason)
    assert world.shop.requests == []


async def test_an_expired_token_is_told_apart(world: World) -> None:
    now = int(world.clock.now().timestamp())
    token = world.signed(world.claims(iat=now - 200, nbf=now - 200, exp=now - 100))
    refused(await world.call("GET", "/api/v1/orders", token=token), 401, "TOKEN_EXPIRED")


async def test_a_forged_token_is_401(world: World) -> None:
    for token in (
        world.signed(world.claims(), key=b"another secret with more than 32 bytes"),
        world.signed(world.claims(), algorithm="none"),
        world.signed(world.claims(), typ="JWT"),
        world.token()[:-2] + "xx",
    ):
        refused(await world.call("GET", "/api/v1/orders", token=token), 401, "TOKEN_INVALID")
    assert world.shop.requests == []


async def test_a_bad_token_is_refused_on_public_paths_too(world: World) -> None:
    refused(await world.call("GET", "/api/v1/products", token="a.b.c"), 401, "TOKEN_INVALID")


async def test_a_role_that_no_rule_admits_is_403(world: World) -> None:
    refused(
        await world.call(
            "POST", "/api/v1/products", json={"sku_id": "A", "name": "A", "price": "1"}
        ),
        403,
        "PERMISSION_DENIED",
    )
    assert world.shop.requests == []


async def test_a_method_between_services_has_no_path(world: World) -> None:
    for path in ("/paymesh.order.v1.OrderService/UpdateOrderStatus", "/api/v1/orders/ORD1/status"):
        refused(await world.call("POST", path, json={}), 404, "NOT_FOUND")


async def test_somebody_elses_order_is_refused_by_the_server_and_shown_as_such(
    world: World,
) -> None:
    async def hidden(_request: Any, _context: Any) -> Any:
        raise NotFound("order not found")

    world.shop.does["GetOrder"] = hidden
    refused(await world.call("GET", "/api/v1/orders/ORD2"), 404, "NOT_FOUND")
    body = refused(
        await world.call(
            "POST", CHARGE, json={"amount": "1.00", "order_id": "O", "user_id": "bob"}
        ),
        403,
        "PERMISSION_DENIED",
        "user_id",
    )
    assert body["code"] == "A0203"


async def test_a_merchant_writes_amounts_as_strings(world: World) -> None:
    product = {"sku_id": "A", "name": "A", "price": 9999, "available": 1}
    refused(
        await world.call(
            "POST", "/api/v1/products", token=world.token(roles=("merchant",)), json=product
        ),
        400,
        "MALFORMED_BODY",
        "price",
    )
    assert (
        await world.call(
            "POST", "/api/v1/products", token=world.token(roles=("admin",)), json=product
        )
    ).status_code == 201
    assert world.shop.request.price == "9999"


# Bad input


def send(content: bytes, **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": "application/json", **headers}}


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b'{"amount": "1", "order_id": "O", "nothing": 1}', ["nothing"]),
        (b'{"amount": "1", "order_id": "O", "credit_card": {"pin": 1}}', ["credit_card.pin"]),
        (b'{"amount": "1", "order_id": "O", "amount": "2"}', ["amount"]),
        (b'{"amount": "1", "order_id": "O", "orderNo": "P"}', ["orderNo"]),
        (b'{"amount": true, "order_id": "O"}', ["amount"]),
        (b'{"amount": 1e3, "order_id": "O"}', ["amount"]),
        (b'{"amount": ["1"], "order_id": "O"}', ["amount"]),
        (b'{"amount": "1", "order_id": "O", "credit_card": "4111"}', ["credit_card"]),
        (
            (
                b'{"amount": "1", "order_id": "O", "credit_card": {"credit_card_expiration_year": '
                b'"soon"}}'
            ),
            ["credit_card.credit_card_expiration_year"],
        ),
        (b'{"amount": NaN, "order_id": "O"}', ["body"]),
        (b'{"amount": "1", "order_id": "O"', ["body"]),
        (b'{"amount": "1", "order_id": "O"} {}', ["body"]),
        (b'{"amount": "\xff", "order_id": "O"}', ["body"]),
        (b'{"amount": "\\ud800", "order_id": "O"}', ["body"]),
        (b"[" * 1000 + b"]" * 1000, ["body"]),
        (b'{"credit_card":' * 1000 + b"1" + b"}" * 1000, ["body"]),
        (b"[]", ["body"]),
        (b"null", ["body"]),
        (b'"x"', ["body"]),
        (b"   ", ["body"]),
    ],
)
async def test_a_bad_body_is_400_and_names_its_place(
    world: World, content: bytes, fields: list[str]
) -> None:
    refused(await world.call("POST", CHARGE, **send(content)), 400, "MALFORMED_BODY", *fields)
    assert world.shop.requests == []


async def test_no_body_is_an_empty_message_that_lacks_its_fields(world: World) -> None:
    refused(
        await world.call("POST", CHARGE, content=b""), 400, "INVALID_ARGUMENT", "amount", "order_id"
    )
    refused(
        await world.call("POST", CHARGE, **send(b"")), 400, "INVALID_ARGUMENT", "amount", "order_id"
    )
    assert world.shop.requests == []


@pytest.mark.parametrize(
    "amount", ["-1", "1e3", "0.0001", "NaN", "1234567890123456", "1.", ".5", " 1", "1,5", "", "１"]
)
async def test_an_amount_of_another_form_is_refused_by_the_contracts_rule(
    world: World, amount: str
) -> None:
    refused(
        await world.call("POST", CHARGE, json={"amount": amount, "order_id": "O"}),
        400,
        "INVALID_ARGUMENT",
        "amount",
    )
    assert world.shop.requests == []


async def test_a_number_with_too_many_digits_is_not_rounded_into_shape(world: World) -> None:
    refused(
        await world.call(
            "POST", CHARGE, **send(b'{"amount": 99.990000000000001, "order_id": "O"}')
        ),
        400,
        "INVALID_ARGUMENT",
        "amount",
    )
    assert world.shop.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": ""},
        {},
        {"content-type": "application/json; charset=gbk"},
    ],
)
async def test_another_content_type_is_415(world: World, headers: dict[str, str]) -> None:
    refused(
        await world.call("POST", CHARGE, content=b"{}", headers=headers),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "content-type",
    )
    assert world.shop.requests == []


async def test_a_compressed_body_is_415(world: World) -> None:
    refused(
        await world.call("POST", CHARGE, **send(b"{}", **{"content-encoding": "gzip"})),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "content-encoding",
    )


async def test_a_body_of_2_mib_is_413_whether_announced_or_chunked(world: World) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b" " * 65536

    big = b'{"amount": "' + b"1" * 2 * 1024 * 1024 + b'"}'
    refused(await world.call("POST", CHARGE, **send(big)), 413, "BODY_TOO_LARGE", "body")
    refused(
        await world.call(
            "POST", CHARGE, content=chunks(), headers={"content-type": "application/json"}
        ),
        413,
        "BODY_TOO_LARGE",
        "body",
    )
    assert world.shop.requests == []


async def test_a_method_may_have_a_body_of_its_own_size(world: World) -> None:
    refused(
        await world.call("POST", "/api/v1/callbacks/sandbox", token=None, content=b"x" * 262145),
        413,
        "BODY_TOO_LARGE",
        "body",
    )
    assert (
        await world.call("POST", "/api/v1/callbacks/sandbox", token=None, content=b"x" * 262144)
    ).status_code == 200


async def test_a_body_where_none_belongs_is_400(world: World) -> None:
    refused(
        await world.client.request("GET", "/api/v1/orders", headers=world.bearer(), content=b"{}"),
        400,
        "MALFORMED_BODY",
        "body",
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("nothing=1", "nothing"),
        ("page_size=many", "page_size"),
        ("page_size=1&pageSize=2", "pageSize"),
        ("state=GONE", "state"),
        ("page_size=10000", "page_size"),
        ("page_size=-1", "page_size"),
    ],
)
async def test_a_bad_query_is_400_and_names_its_parameter(
    world: World, query: str, field: str
) -> None:
    refused(await world.call("GET", f"/api/v1/orders?{query}"), 400, "INVALID_ARGUMENT", field)
    assert world.shop.requests == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/products/%ff",
        "/api/v1/products/a%20b",
        "/api/v1/products/a%2Fb",
        "/api/v1/products/%2e%2e%2Fx",
    ],
)
async def test_a_bad_value_in_the_path_is_400(world: World, path: str) -> None:
    refused(await world.call("GET", path), 400, "INVALID_ARGUMENT", "sku_id")
    assert world.shop.requests == []


@pytest.mark.parametrize(
    "key", ["", "a b", "k" * 256, "k" * 300, "ключ".encode("cp1251").decode("latin-1")]
)
async def test_a_bad_idempotency_key_is_400(world: World, key: str) -> None:
    headers = [("authorization", f"Bearer {world.token()}"), ("idempotency-key", key)]
    answer = await world.client.post(
        CHARGE,
        json={"amount": "1", "order_id": "O"},
        headers=httpx.Headers(headers, encoding="latin-1"),
    )
    refused(answer, 400, "INVALID_ARGUMENT", "Idempotency-Key")
    assert world.shop.requests == []


async def test_a_method_that_needs_a_key_is_not_called_without_one(world: World) -> None:
    refused(
        await world.call("POST", "/api/v1/wallet/top-ups", json={"amount": "1"}),
        400,
        "IDEMPOTENCY_KEY_MISSING",
    )


async def test_two_idempotency_keys_are_400(world: World) -> None:
    headers = [
        ("authorization", f"Bearer {world.token()}"),
        ("idempotency-key", "a"),
        ("idempotency-key", "b"),
    ]
    refused(
        await world.client.post(CHARGE, json={"amount": "1", "order_id": "O"}, headers=headers),
        400,
        "INVALID_ARGUMENT",
        "idempotency-key",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/nothing",
        "/api/v1/orders/",
        "/api//v1/orders",
        "/api/v1/orders/a/b",
        "/API/v1/orders",
        "/api/v1/../v1/orders",
    ],
)
async def test_an_unknown_path_is_404(world: World, path: str) -> None:
    answer = await world.raw(
        f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"reason":"NOT_FOUND"' in answer


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/api/v1/orders", "GET, HEAD, OPTIONS, POST"),
        ("GET", CHARGE, "OPTIONS, POST"),
        ("POST", "/api/v1/orders/ORD1", "GET, HEAD, OPTIONS"),
        ("GET", "/payments/mock-callback", "OPTIONS, POST"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("PATCH", "/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_known_path_with_another_verb_is_405_and_says_which(
    world: World, method: str, path: str, allow: str
) -> None:
    answer = await world.call(method, path)
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allow


async def test_no_header_changes_the_verb(world: World) -> None:
    answer = await world.call(
        "POST", "/api/v1/orders/ORD1", headers={"x-http-method-override": "GET"}
    )
    refused(answer, 405, "METHOD_NOT_ALLOWED")
