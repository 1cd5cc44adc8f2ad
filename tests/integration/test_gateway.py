"""The gateway on a real port before a real server: what a client of the REST API sees."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from paymesh.payment.v1 import payment_pb2
from prometheus_client import CollectorRegistry, generate_latest

from mesh.call import mark_replayed
from mesh.errors import Conflict, MoneyError, NotFound, Outcome
from tests.gateway_world import PAYMENT, World, gateway_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHARGE = "/api/v1/payments/charge"
CARD = {"credit_card_number": "4111111111111111", "credit_card_cvv": "123", "credit_card_expiration_year": 2030, "credit_card_expiration_month": 12}
ORDER_BODY = {"items": [{"sku_id": "A", "quantity": 1}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with gateway_world(tmp_path_factory.mktemp("gateway"), cors_origins=["https://shop.example"]) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    shared.shop.requests.clear()
    shared.shop.does.clear()
    return shared


def refused(answer: httpx.Response, status: int, reason: str, *fields: str) -> dict[str, Any]:
    """The body of a refusal, which has to be one with these facts."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["details"]["reason"]) == (status, reason), answer.text
    assert body["data"] is None
    assert body["code"] != "00000"
    assert len(body["trace_id"]) == 32
    assert [entry["field"] for entry in body["details"].get("fields", [])] == list(fields), answer.text
    assert all(field in body["message"] for field in fields)
    return body


# What works


async def test_the_example_of_source_002_is_a_charge_with_every_digit(world: World) -> None:
    body = b"""{"amount": 100.0, "credit_card": {"credit_card_number": "4111111111111111", "credit_card_cvv": 123,
                "credit_card_expiration_year": 2030, "credit_card_expiration_month": 12}, "order_id": "ORD1", "user_id": "alice"}"""
    answer = await world.call("POST", "/payment/charge", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (200, "00000", "success")
    assert answer.json()["data"]["transaction_id"] == "PAY1"
    assert answer.json()["data"]["payment"]["state"] == "SUCCESS"
    assert (world.shop.request.amount, world.shop.request.credit_card.credit_card_cvv) == ("100.0", "123")


async def test_response_body_keeps_data_flat_and_success_status_counts(world: World) -> None:
    answer = await world.call("POST", "/api/v1/orders", json=ORDER_BODY)
    assert (answer.status_code, answer.json()["data"]["order_id"]) == (201, "ORD1")


async def test_an_unknown_outcome_is_202(world: World) -> None:
    async def paying(_request: Any, _context: Any) -> Any:
        payment = payment_pb2.Payment(payment_id="PAY1", state=payment_pb2.PAYMENT_STATE_PAYING)
        return payment_pb2.ChargeResponse(transaction_id="PAY1", payment=payment)

    world.shop.does["Charge"] = paying
    answer = await world.call("POST", CHARGE, json={"amount": "1.00", "order_id": "ORD1", "credit_card": CARD})
    assert (answer.status_code, answer.json()["data"]["payment"]["state"]) == (202, "PAYING")


async def test_every_address_of_a_method_answers(world: World) -> None:
    for path in ("/api/v1/payments/PAY1", "/payments/PAY1", "/api/v1/payments/order/ORD1", "/payments/order/ORD1"):
        assert (await world.call("GET", path)).json()["data"]["payment_id"] == "PAY1"


async def test_a_public_method_needs_no_token_and_unicode_stays_itself(world: World) -> None:
    answer = await world.call("GET", "/api/v1/products/SKU-1?merchantId=mall", token=None)
    assert (answer.json()["data"]["sku_id"], answer.json()["data"]["name"]) == ("SKU-1", "马克杯")
    assert world.shop.request.merchant_id == "mall"


async def test_head_is_get_without_its_body(world: World) -> None:
    got, head = await world.call("GET", "/api/v1/orders/ORD1"), await world.call("HEAD", "/api/v1/orders/ORD1")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", got.headers["content-length"])


async def test_a_channel_is_answered_with_the_bytes_that_it_expects(world: World) -> None:
    answer = await world.call("POST", "/api/v1/callbacks/sandbox", token=None, content=b"\x00raw", headers={
        "content-type": "application/octet-stream", "x-channel-timestamp": "17", "x-channel-signature": "abc"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"success", "text/plain")
    request = world.shop.request
    assert (request.channel, request.timestamp, request.signature, request.body.data) == ("sandbox", "17", "abc", b"\x00raw")


async def test_keys_and_traces_travel_and_come_back(world: World) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def replayed(_request: Any, _context: Any) -> Any:
        mark_replayed()
        return payment_pb2.ChargeResponse(transaction_id="PAY1", payment=PAYMENT)

    world.shop.does["Charge"] = replayed
    answer = await world.call("POST", CHARGE, json={"amount": "1.00", "order_id": "ORD1"}, headers={
        "Idempotency-Key": "key-1", "X-Request-Id": "mine-1", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    assert answer.headers["idempotent-replayed"] == "true"
    assert (answer.headers["x-request-id"], answer.json()["trace_id"]) == ("mine-1", trace_id)
    assert answer.headers["traceparent"].split("-")[1] == trace_id
    metadata = world.shop.metadata
    assert (metadata["idempotency-key"], metadata["x-request-id"], metadata["traceparent"].split("-")[1]) == ("key-1", "mine-1", trace_id)


async def test_a_first_answer_is_not_called_a_replay(world: World) -> None:
    answer = await world.call("POST", CHARGE, json={"amount": "1.00", "order_id": "ORD1"}, headers={"idempotency-key": "key-2"})
    assert "idempotent-replayed" not in answer.headers


async def test_nothing_else_of_the_head_goes_in(world: World) -> None:
    await world.call("POST", CHARGE, json={"amount": "1.00", "order_id": "ORD1"}, headers={
        "x-paymesh-caller": "forged", "x-paymesh-idempotent-replayed": "true", "X-PayMesh-Role": "admin", "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4", "grpc-timeout": "1n", "x-user-id": "bob", "accept-language": "zh"})
    ours = {name for name in world.shop.metadata if name not in {"user-agent", "grpc-accept-encoding", "accept-encoding"}}
    assert ours == {"authorization", "traceparent"}


async def test_the_deadline_of_the_method_is_the_deadline_of_the_call(world: World) -> None:
    remaining: list[float] = []

    async def look(_request: Any, context: Any) -> Any:
        remaining.append(context.time_remaining())
        return payment_pb2.GetPaymentResponse(payment=PAYMENT)

    world.shop.does["GetPayment"] = look
    await world.call("GET", "/payments/PAY1")
    assert 2 < remaining[0] <= 3.01


async def test_a_client_that_goes_away_does_not_cancel_what_it_started(world: World) -> None:
    arrived, finish, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_request: Any, _context: Any) -> Any:
        arrived.set()
        await finish.wait()
        finished.set()
        return payment_pb2.ChargeResponse(transaction_id="PAY1")

    world.shop.does["Charge"] = slow
    body = json.dumps({"amount": "1.00", "order_id": "ORD1"}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\nauthorization: Bearer %s\r\n\r\n%s" % (
        CHARGE.encode(), len(body), world.token().encode(), body))
    async with asyncio.timeout(10):
        await arrived.wait()
        writer.transport.abort()
        await world.call("GET", "/healthz", token=None)  # the gateway has seen the connection end
        finish.set()
        await finished.wait()


# Who may


@pytest.mark.parametrize(("headers", "reason"), [
    ([], "UNAUTHENTICATED"), (["Basic YTpi"], "TOKEN_INVALID"), (["Bearer"], "TOKEN_INVALID"), (["Bearer nonsense"], "TOKEN_INVALID"),
    (["Bearer a.b.c"], "TOKEN_INVALID"), (["Bearer a", "Bearer b"], "TOKEN_INVALID"),
])
async def test_no_token_is_401_and_says_how(world: World, headers: list[str], reason: str) -> None:
    answer = await world.client.get("/api/v1/orders", headers=[("authorization", value) for value in headers])
    refused(answer, 401, reason)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert world.shop.requests == []


@pytest.mark.parametrize(("changes", "reason"), [
    ({"exp": None}, "TOKEN_INVALID"), ({"aud": "another"}, "TOKEN_INVALID"), ({"aud": None}, "TOKEN_INVALID"), ({"iss": "evil"}, "TOKEN_INVALID"),
    ({"exp": 1}, "TOKEN_INVALID"), ({"sub": ""}, "TOKEN_INVALID"), ({"nbf": 4_000_000_000}, "TOKEN_INVALID"), ({"exp": "soon"}, "TOKEN_INVALID"),
])
async def test_a_token_with_other_claims_is_401(world: World, changes: dict[str, Any], reason: str) -> None:
    token = world.signed(world.claims(**changes))
    refused(await world.call("GET", "/api/v1/orders", token=token), 401, reason)
    assert world.shop.requests == []


async def test_an_expired_token_is_told_apart(world: World) -> None:
    now = int(world.clock.now().timestamp())
    token = world.signed(world.claims(iat=now - 200, nbf=now - 200, exp=now - 100))
    refused(await world.call("GET", "/api/v1/orders", token=token), 401, "TOKEN_EXPIRED")


async def test_a_forged_token_is_401(world: World) -> None:
    for token in (world.signed(world.claims(), key=b"another secret with more than 32 bytes"), world.signed(world.claims(), algorithm="none"),
                  world.signed(world.claims(), typ="JWT"), world.token()[:-2] + "xx"):
        refused(await world.call("GET", "/api/v1/orders", token=token), 401, "TOKEN_INVALID")
    assert world.shop.requests == []


async def test_a_bad_token_is_refused_on_public_paths_too(world: World) -> None:
    refused(await world.call("GET", "/api/v1/products", token="a.b.c"), 401, "TOKEN_INVALID")


async def test_a_role_that_no_rule_admits_is_403(world: World) -> None:
    refused(await world.call("POST", "/api/v1/products", json={"sku_id": "A", "name": "A", "price": "1"}), 403, "PERMISSION_DENIED")
    assert world.shop.requests == []


async def test_a_method_between_services_has_no_path(world: World) -> None:
    for path in ("/paymesh.order.v1.OrderService/UpdateOrderStatus", "/api/v1/orders/ORD1/status"):
        refused(await world.call("POST", path, json={}), 404, "NOT_FOUND")


async def test_somebody_elses_order_is_refused_by_the_server_and_shown_as_such(world: World) -> None:
    async def hidden(_request: Any, _context: Any) -> Any:
        raise NotFound("order not found")

    world.shop.does["GetOrder"] = hidden
    refused(await world.call("GET", "/api/v1/orders/ORD2"), 404, "NOT_FOUND")
    body = refused(await world.call("POST", CHARGE, json={"amount": "1.00", "order_id": "O", "user_id": "bob"}), 403, "PERMISSION_DENIED", "user_id")
    assert body["code"] == "A0203"


async def test_a_merchant_writes_amounts_as_strings(world: World) -> None:
    product = {"sku_id": "A", "name": "A", "price": 9999, "available": 1}
    refused(await world.call("POST", "/api/v1/products", token=world.token(roles=("merchant",)), json=product), 400, "MALFORMED_BODY", "price")
    assert (await world.call("POST", "/api/v1/products", token=world.token(roles=("admin",)), json=product)).status_code == 201
    assert world.shop.request.price == "9999"


# Bad input


def send(content: bytes, **headers: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": "application/json", **headers}}


@pytest.mark.parametrize(("content", "fields"), [
    (b'{"amount": "1", "order_id": "O", "nothing": 1}', ["nothing"]),
    (b'{"amount": "1", "order_id": "O", "credit_card": {"pin": 1}}', ["credit_card.pin"]),
    (b'{"amount": "1", "order_id": "O", "amount": "2"}', ["amount"]),
    (b'{"amount": "1", "order_id": "O", "orderNo": "P"}', ["orderNo"]),
    (b'{"amount": true, "order_id": "O"}', ["amount"]),
    (b'{"amount": 1e3, "order_id": "O"}', ["amount"]),
    (b'{"amount": ["1"], "order_id": "O"}', ["amount"]),
    (b'{"amount": "1", "order_id": "O", "credit_card": "4111"}', ["credit_card"]),
    (b'{"amount": "1", "order_id": "O", "credit_card": {"credit_card_expiration_year": "soon"}}', ["credit_card.credit_card_expiration_year"]),
    (b'{"amount": NaN, "order_id": "O"}', ["body"]),
    (b'{"amount": "1", "order_id": "O"', ["body"]),
    (b'{"amount": "1", "order_id": "O"} {}', ["body"]),
    (b'{"amount": "\xff", "order_id": "O"}', ["body"]),
    (b'{"amount": "\\ud800", "order_id": "O"}', ["body"]),
    (b"[" * 1000 + b"]" * 1000, ["body"]),
    (b'{"credit_card":' * 1000 + b"1" + b"}" * 1000, ["body"]),
    (b"[]", ["body"]), (b"null", ["body"]), (b'"x"', ["body"]), (b"   ", ["body"]),
])
async def test_a_bad_body_is_400_and_names_its_place(world: World, content: bytes, fields: list[str]) -> None:
    refused(await world.call("POST", CHARGE, **send(content)), 400, "MALFORMED_BODY", *fields)
    assert world.shop.requests == []


async def test_an_empty_body_is_400(world: World) -> None:
    refused(await world.call("POST", CHARGE, content=b""), 400, "MALFORMED_BODY", "body")
    refused(await world.call("POST", CHARGE, **send(b"")), 400, "MALFORMED_BODY", "body")
    assert world.shop.requests == []


@pytest.mark.parametrize("amount", ["-1", "1e3", "0.0001", "NaN", "1234567890123456", "1.", ".5", " 1", "1,5", "", "１"])
async def test_an_amount_of_another_form_is_refused_by_the_contracts_rule(world: World, amount: str) -> None:
    refused(await world.call("POST", CHARGE, json={"amount": amount, "order_id": "O"}), 400, "INVALID_ARGUMENT", "amount")
    assert world.shop.requests == []


async def test_a_number_with_too_many_digits_is_not_rounded_into_shape(world: World) -> None:
    refused(await world.call("POST", CHARGE, **send(b'{"amount": 99.990000000000001, "order_id": "O"}')), 400, "INVALID_ARGUMENT", "amount")
    assert world.shop.requests == []


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": ""}, {},
                                     {"content-type": "application/json; charset=gbk"}])
async def test_another_content_type_is_415(world: World, headers: dict[str, str]) -> None:
    refused(await world.call("POST", CHARGE, content=b"{}", headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE", "content-type")
    assert world.shop.requests == []


async def test_a_compressed_body_is_415(world: World) -> None:
    refused(await world.call("POST", CHARGE, **send(b"{}", **{"content-encoding": "gzip"})), 415, "UNSUPPORTED_MEDIA_TYPE", "content-encoding")


async def test_a_body_of_2_mib_is_413_whether_announced_or_chunked(world: World) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b" " * 65536

    big = b'{"amount": "' + b"1" * 2 * 1024 * 1024 + b'"}'
    refused(await world.call("POST", CHARGE, **send(big)), 413, "BODY_TOO_LARGE", "body")
    refused(await world.call("POST", CHARGE, content=chunks(), headers={"content-type": "application/json"}), 413, "BODY_TOO_LARGE", "body")
    assert world.shop.requests == []


async def test_a_method_may_have_a_smaller_body(world: World) -> None:
    refused(await world.call("POST", "/api/v1/callbacks/sandbox", token=None, content=b"x" * 65537), 413, "BODY_TOO_LARGE", "body")
    assert (await world.call("POST", "/api/v1/callbacks/sandbox", token=None, content=b"x" * 65536)).status_code == 200


async def test_a_body_where_none_belongs_is_400(world: World) -> None:
    refused(await world.client.request("GET", "/api/v1/orders", headers=world.bearer(), content=b"{}"), 400, "MALFORMED_BODY", "body")


@pytest.mark.parametrize(("query", "field"), [("nothing=1", "nothing"), ("page_size=many", "page_size"), ("page_size=1&pageSize=2", "pageSize"),
                                              ("state=GONE", "state"), ("page_size=10000", "page_size"), ("page_size=-1", "page_size")])
async def test_a_bad_query_is_400_and_names_its_parameter(world: World, query: str, field: str) -> None:
    refused(await world.call("GET", f"/api/v1/orders?{query}"), 400, "INVALID_ARGUMENT", field)
    assert world.shop.requests == []


@pytest.mark.parametrize("path", ["/api/v1/products/%ff", "/api/v1/products/a%20b", "/api/v1/products/a%2Fb", "/api/v1/products/%2e%2e%2Fx"])
async def test_a_bad_value_in_the_path_is_400(world: World, path: str) -> None:
    refused(await world.call("GET", path), 400, "INVALID_ARGUMENT", "sku_id")
    assert world.shop.requests == []


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "ключ".encode("cp1251").decode("latin-1")])
async def test_a_bad_idempotency_key_is_400(world: World, key: str) -> None:
    headers = [("authorization", f"Bearer {world.token()}"), ("idempotency-key", key)]
    answer = await world.client.post(CHARGE, json={"amount": "1", "order_id": "O"}, headers=httpx.Headers(headers, encoding="latin-1"))
    refused(answer, 400, "INVALID_ARGUMENT", "Idempotency-Key")
    assert world.shop.requests == []


async def test_two_idempotency_keys_are_400(world: World) -> None:
    headers = [("authorization", f"Bearer {world.token()}"), ("idempotency-key", "a"), ("idempotency-key", "b")]
    refused(await world.client.post(CHARGE, json={"amount": "1", "order_id": "O"}, headers=headers), 400, "INVALID_ARGUMENT", "idempotency-key")


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/v1/orders/", "/api//v1/orders", "/api/v1/orders/a/b", "/API/v1/orders",
                                  "/api/v1/../v1/orders"])
async def test_an_unknown_path_is_404(world: World, path: str) -> None:
    answer = await world.raw(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"reason":"NOT_FOUND"' in answer


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("DELETE", "/api/v1/orders", "GET, HEAD, OPTIONS, POST"), ("GET", CHARGE, "OPTIONS, POST"), ("POST", "/api/v1/orders/ORD1", "GET, HEAD, OPTIONS"),
    ("GET", "/payments/mock-callback", "OPTIONS, POST"), ("POST", "/healthz", "GET, HEAD, OPTIONS"), ("PATCH", "/openapi.json", "GET, HEAD, OPTIONS"),
])
async def test_a_known_path_with_another_verb_is_405_and_says_which(world: World, method: str, path: str, allow: str) -> None:
    answer = await world.call(method, path)
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allow


async def test_no_header_changes_the_verb(world: World) -> None:
    answer = await world.call("POST", "/api/v1/orders/ORD1", headers={"x-http-method-override": "GET"})
    refused(answer, 405, "METHOD_NOT_ALLOWED")


# What servers refuse


class CardDeclined(MoneyError):
    """The card was declined."""

    reason = "CARD_DECLINED"
    default_outcome = Outcome.DECLINED


async def test_a_refusal_about_money_has_its_code_and_its_outcome(world: World) -> None:
    async def decline(_request: Any, _context: Any) -> Any:
        raise CardDeclined("the issuer said no", payment_id="PAY1", channel_code="51")

    world.shop.does["Charge"] = decline
    body = refused(await world.call("POST", CHARGE, json={"amount": "1", "order_id": "O"}), 402, "CARD_DECLINED")
    assert (body["code"], body["message"]) == ("C0301", "the issuer said no")
    assert body["details"] == {"reason": "CARD_DECLINED", "outcome": "DECLINED", "safe_to_retry": True, "payment_id": "PAY1",
                               "metadata": {"channel_code": "51"}}


async def test_a_retry_hint_becomes_a_header(world: World) -> None:
    async def busy(_request: Any, _context: Any) -> Any:
        raise Conflict(retry_after_seconds=1.2)

    world.shop.does["GetPayment"] = busy
    answer = await world.call("GET", "/payments/PAY1")
    assert refused(answer, 409, "CONFLICT")["details"]["retry_after_ms"] == 1200
    assert answer.headers["retry-after"] == "2"


async def test_a_defect_of_a_server_is_500_with_a_trace_id_and_nothing_else(world: World) -> None:
    async def explode(_request: Any, _context: Any) -> Any:
        raise RuntimeError("mysql://root:hunter2@db/")

    world.shop.does["GetPayment"] = explode
    answer = await world.call("GET", "/payments/PAY1")
    body = refused(answer, 500, "INTERNAL")
    assert (body["code"], body["details"]) == ("B0001", {"reason": "INTERNAL"})
    assert "hunter2" not in answer.text


async def test_an_answer_that_json_cannot_hold_is_500(world: World) -> None:
    async def timeless(_request: Any, _context: Any) -> Any:
        return payment_pb2.GetPaymentResponse(payment=payment_pb2.Payment(created_at={"seconds": 10**15}))

    world.shop.does["GetPayment"] = timeless
    refused(await world.call("GET", "/payments/PAY1"), 500, "INTERNAL")


async def test_too_many_calls_are_429_for_that_caller_alone(world: World) -> None:
    body = {"payment_id": "PAY1", "callback_status": "SUCCESS", "timestamp": "1" * 13, "nonce": "a"}
    answers = await asyncio.gather(*(world.call("POST", "/payments/mock-callback", token=None, json=body) for _ in range(150)))
    counts = Counter(answer.status_code for answer in answers)
    assert counts[200] >= 50  # the burst, and 20 for each second that it takes
    assert counts[200] + counts[429] == 150
    late = next(answer for answer in answers if answer.status_code == 429)
    assert refused(late, 429, "RATE_LIMITED")["details"]["retry_after_ms"] > 0
    assert int(late.headers["retry-after"]) >= 1
    assert (await world.call("POST", "/payments/mock-callback", json=body)).status_code == 200


# Browsers


async def test_a_page_on_the_list_may_call_and_read(world: World) -> None:
    origin = {"origin": "https://shop.example"}
    preflight = await world.client.options(CHARGE, headers=origin | {"access-control-request-method": "POST",
                                                                    "access-control-request-headers": "authorization, content-type"})
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = await world.call("GET", "/nothing", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in answer.headers


async def test_another_page_may_not(world: World) -> None:
    for method, path in (("OPTIONS", CHARGE), ("GET", "/api/v1/orders")):
        answer = await world.call(method, path, headers={"origin": "https://evil.example", "access-control-request-method": "POST"})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert answer.headers["vary"] == "Origin"


async def test_options_of_a_known_path_says_what_it_takes(world: World) -> None:
    answer = await world.client.options("/api/v1/orders")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    refused(await world.client.options("/nothing"), 404, "NOT_FOUND")


async def test_no_answer_may_be_sniffed_or_kept(world: World) -> None:
    answer = await world.call("GET", "/api/v1/orders/ORD1")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == ("nosniff", "no-store")
    assert "server" not in answer.headers


# Its own pages


async def test_health_and_readiness(world: World) -> None:
    assert (await world.client.get("/healthz")).json()["data"] == {"status": "UP"}
    assert (await world.client.get("/readyz")).json()["data"] == {"status": "READY", "services": ["order_rpc", "payment_rpc"]}


async def test_the_document_is_served(world: World) -> None:
    answer = await world.client.get("/openapi.json")
    assert (answer.headers["content-type"], answer.json()["openapi"]) == ("application/json", "3.1.0")
    assert "/payments/generate-signature" in answer.json()["paths"]


@pytest.mark.skipif(find_spec("swagger_ui") is None, reason="swagger-ui-py is not installed")
async def test_swagger_ui_comes_from_this_machine_and_may_load_nothing_else(world: World) -> None:
    page = await world.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "//" not in page.text.replace("</", "")
    for name, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css"), ("start.js", "text/javascript"),
                       ("favicon-32x32.png", "image/png")):
        assert f"/docs/{name}" in page.text
        asset = await world.client.get(f"/docs/{name}")
        assert asset.headers["content-type"].startswith(kind)
        assert len(asset.content) > 50
    refused(await world.client.get("/docs/other.js"), 404, "NOT_FOUND")


# What it tells


async def test_a_line_per_request_has_no_secret_in_it(world: World) -> None:
    before = len(world.lines())
    token = world.token()
    await world.call("POST", CHARGE, token=token, json={"amount": "1", "order_id": "ORD-SECRET", "credit_card": CARD})
    await world.call("GET", "/api/v1/orders?page_token=SECRET", token=token)
    lines = world.lines()[before:]
    assert [(line["verb"], line["route"], line["status"], line["subject"]) for line in lines] == [
        ("POST", CHARGE, 200, "alice"), ("GET", "/api/v1/orders", 200, "alice")]
    text = json.dumps(lines)
    for secret in ("4111", "SECRET", token):
        assert secret not in text


async def test_series_have_routes_and_not_paths(world: World) -> None:
    await world.call("GET", "/api/v1/orders/ORD-77")
    await world.call("GET", "/nothing/ORD-77")
    await world.raw(b"BREW / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    registry = CollectorRegistry()
    registry.register(world.telemetry)
    text = generate_latest(registry).decode()
    assert 'paymesh_gateway_requests_total{route="/api/v1/orders/{order_id}",status="200",verb="GET"}' in text
    assert 'paymesh_gateway_requests_total{route="",status="404",verb="GET"}' in text
    assert 'paymesh_gateway_request_seconds_bucket{le="+Inf",route="/api/v1/orders/{order_id}",verb="GET"}' in text
    assert "ORD-77" not in text
    assert "BREW" not in text
    assert "paymesh_gateway_in_flight 0.0" in text


# Whoever is away


async def test_a_server_that_is_away_is_503_without_an_address(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        address = f":{world.server.port}"
        await world.server.stop(0)
        read = await world.call("GET", "/payments/PAY1")
        write = await world.call("POST", CHARGE, json={"amount": "1", "order_id": "O"})
        keyed = await world.call("POST", CHARGE, json={"amount": "1", "order_id": "O"}, headers={"idempotency-key": "k"})
        ready = await world.client.get("/readyz")
        alive = await world.client.get("/healthz")
    assert "outcome" not in refused(read, 503, "NEIGHBOUR_UNAVAILABLE")["details"]
    assert refused(write, 503, "NEIGHBOUR_UNAVAILABLE")["details"] == {
        "reason": "NEIGHBOUR_UNAVAILABLE", "outcome": "UNKNOWN", "safe_to_retry": False}
    assert refused(keyed, 503, "NEIGHBOUR_UNAVAILABLE")["details"]["safe_to_retry"] is True
    assert refused(ready, 503, "UNAVAILABLE")["details"]["metadata"] == {"services": "order_rpc,payment_rpc"}
    assert alive.status_code == 200
    assert all(address not in answer.text for answer in (read, write, keyed))


async def test_production_hides_what_is_for_development(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, environment="production") as world:
        refused(await world.call("GET", "/payments/generate-signature?payment_id=P"), 404, "NOT_FOUND")
        assert "/payments/generate-signature" not in (await world.client.get("/openapi.json")).json()["paths"]
        assert world.shop.requests == []
