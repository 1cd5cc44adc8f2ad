"""The gateway on a real port before a real server: what a client of the REST API sees."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from paymesh.payment.v1 import payment_pb2
from prometheus_client import CollectorRegistry, generate_latest

from mesh.call import mark_replayed
from mesh.errors import Conflict, MoneyError, Outcome
from tests.builders.gateway import PAYMENT, SCHEMA, World, gateway_world, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICES = ("merchant_rpc", "order_rpc", "payment_rpc", "seckill_rpc")
CHARGE = "/api/v1/payments/charge"
CARD = {
    "credit_card_number": "4111111111111111",
    "credit_card_cvv": "123",
    "credit_card_expiration_year": 2030,
    "credit_card_expiration_month": 12,
}
ORDER_BODY = {"items": [{"sku_id": "A", "quantity": 1}]}


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


# What works


async def test_the_example_of_source_002_is_a_charge_with_every_digit(world: World) -> None:
    body = b"""{"amount": 100.0, "credit_card": {"credit_card_number": "4111111111111111", "credit_card_cvv": 123,
                "credit_card_expiration_year": 2030, "credit_card_expiration_month": 12}, "order_id": "ORD1", "user_id": "alice"}"""
    answer = await world.call(
        "POST", "/payment/charge", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (
        200,
        "00000",
        "success",
    )
    assert answer.json()["data"]["transaction_id"] == "PAY1"
    assert answer.json()["data"]["payment"]["state"] == "SUCCESS"
    assert (world.shop.request.amount, world.shop.request.credit_card.credit_card_cvv) == (
        "100.0",
        "123",
    )


async def test_response_body_keeps_data_flat_and_success_status_counts(world: World) -> None:
    answer = await world.call("POST", "/api/v1/orders", json=ORDER_BODY)
    assert (answer.status_code, answer.json()["data"]["order_id"]) == (201, "ORD1")


async def test_an_unknown_outcome_is_202(world: World) -> None:
    async def paying(_request: Any, _context: Any) -> Any:
        payment = payment_pb2.Payment(payment_id="PAY1", state=payment_pb2.PAYMENT_STATE_PAYING)
        return payment_pb2.ChargeResponse(transaction_id="PAY1", payment=payment)

    world.shop.does["Charge"] = paying
    answer = await world.call(
        "POST", CHARGE, json={"amount": "1.00", "order_id": "ORD1", "credit_card": CARD}
    )
    assert (answer.status_code, answer.json()["data"]["payment"]["state"]) == (202, "PAYING")


async def test_every_address_of_a_method_answers(world: World) -> None:
    for path in (
        "/api/v1/payments/PAY1",
        "/payments/PAY1",
        "/api/v1/payments/order/ORD1",
        "/payments/order/ORD1",
    ):
        assert (await world.call("GET", path)).json()["data"]["payment_id"] == "PAY1"


async def test_a_public_method_needs_no_token_and_unicode_stays_itself(world: World) -> None:
    answer = await world.call("GET", "/api/v1/products/SKU-1?merchantId=mall", token=None)
    assert (answer.json()["data"]["sku_id"], answer.json()["data"]["name"]) == ("SKU-1", "马克杯")
    assert world.shop.request.merchant_id == "mall"


async def test_head_is_get_without_its_body(world: World) -> None:
    got, head = (
        await world.call("GET", "/api/v1/orders/ORD1"),
        await world.call("HEAD", "/api/v1/orders/ORD1"),
    )
    assert (head.status_code, head.content, head.headers["content-length"]) == (
        200,
        b"",
        got.headers["content-length"],
    )


async def test_a_channel_is_answered_with_the_bytes_that_it_expects(world: World) -> None:
    answer = await world.call(
        "POST",
        "/api/v1/callbacks/sandbox",
        token=None,
        content=b"\x00raw",
        headers={
            "content-type": "application/octet-stream",
            "x-channel-timestamp": "17",
            "x-channel-signature": "abc",
        },
    )
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (
        200,
        b"success",
        "text/plain",
    )
    request = world.shop.request
    assert (request.channel, request.timestamp, request.signature, request.body.data) == (
        "sandbox",
        "17",
        "abc",
        b"\x00raw",
    )


async def test_keys_and_traces_travel_and_come_back(world: World) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def replayed(_request: Any, _context: Any) -> Any:
        mark_replayed()
        return payment_pb2.ChargeResponse(transaction_id="PAY1", payment=PAYMENT)

    world.shop.does["Charge"] = replayed
    answer = await world.call(
        "POST",
        CHARGE,
        json={"amount": "1.00", "order_id": "ORD1"},
        headers={
            "Idempotency-Key": "key-1",
            "X-Request-Id": "mine-1",
            "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
        },
    )
    assert answer.headers["idempotent-replayed"] == "true"
    assert (answer.headers["x-request-id"], answer.json()["trace_id"]) == ("mine-1", trace_id)
    assert answer.headers["traceparent"].split("-")[1] == trace_id
    metadata = world.shop.metadata
    assert (
        metadata["idempotency-key"],
        metadata["x-request-id"],
        metadata["traceparent"].split("-")[1],
    ) == ("key-1", "mine-1", trace_id)


async def test_a_replayed_refusal_says_so_too(world: World) -> None:
    async def declined(_request: Any, _context: Any) -> Any:
        mark_replayed()
        raise CardDeclined(payment_id="PAY1")

    world.shop.does["Charge"] = declined
    answer = await world.call(
        "POST",
        CHARGE,
        json={"amount": "1.00", "order_id": "ORD1"},
        headers={"idempotency-key": "key-3"},
    )
    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (402, "true")


async def test_a_first_answer_is_not_called_a_replay(world: World) -> None:
    answer = await world.call(
        "POST",
        CHARGE,
        json={"amount": "1.00", "order_id": "ORD1"},
        headers={"idempotency-key": "key-2"},
    )
    assert "idempotent-replayed" not in answer.headers


async def test_nothing_else_of_the_head_goes_in(world: World) -> None:
    await world.call(
        "POST",
        CHARGE,
        json={"amount": "1.00", "order_id": "ORD1"},
        headers={
            "x-paymesh-caller": "forged",
            "x-paymesh-idempotent-replayed": "true",
            "X-PayMesh-Role": "admin",
            "cookie": "a=b",
            "x-forwarded-for": "1.2.3.4",
            "grpc-timeout": "1n",
            "x-user-id": "bob",
            "accept-language": "de, zh-CN;q=0.5",
        },
    )
    ours = {
        name
        for name in world.shop.metadata
        if name not in {"user-agent", "grpc-accept-encoding", "accept-encoding"}
    }
    assert ours == {"authorization", "traceparent", "accept-language"}
    assert world.shop.metadata["accept-language"] == "zh"


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
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "
        b"%d\r\nauthorization: Bearer %s\r\n\r\n%s"
        % (CHARGE.encode(), len(body), world.token().encode(), body)
    )
    async with asyncio.timeout(10):
        await arrived.wait()
        writer.transport.abort()
        await world.call("GET", "/healthz", token=None)  # the gateway has seen the connection end
        finish.set()
        await finished.wait()


# What servers refuse


class CardDeclined(MoneyError):
    """The card was declined."""

    reason = "CARD_DECLINED"
    default_outcome = Outcome.DECLINED


async def test_a_refusal_about_money_has_its_code_and_its_outcome(world: World) -> None:
    async def decline(_request: Any, _context: Any) -> Any:
        raise CardDeclined("the issuer said no", payment_id="PAY1", channel_code="51")

    world.shop.does["Charge"] = decline
    body = refused(
        await world.call("POST", CHARGE, json={"amount": "1", "order_id": "O"}),
        402,
        "CARD_DECLINED",
    )
    assert (body["code"], body["message"]) == ("C0301", "The card was declined.")
    assert body["details"] == {
        "reason": "CARD_DECLINED",
        "explanation": "the issuer said no",
        "outcome": "DECLINED",
        "safe_to_retry": True,
        "payment_id": "PAY1",
        "metadata": {"channel_code": "51"},
    }


@pytest.mark.parametrize(
    ("status", "reason", "call"),
    [
        (401, "UNAUTHENTICATED", {"json": {"amount": "1", "order_id": "O"}, "token": None}),
        (400, "MALFORMED_BODY", {"content": b"{", "headers": {"content-type": "application/json"}}),
        (400, "MALFORMED_BODY", {"json": {"amount": "1", "order_id": "O", "bribe": 1}}),
        (
            400,
            "INVALID_ARGUMENT",
            {"json": {"amount": "1", "order_id": "O"}, "headers": {"idempotency-key": "a b"}},
        ),
        (
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            {"content": b"<pay/>", "headers": {"content-type": "text/xml"}},
        ),
    ],
)
async def test_what_is_refused_at_the_door_of_a_method_that_moves_money_moved_nothing(
    world: World, status: int, reason: str, call: dict[str, Any]
) -> None:
    answer = await world.call("POST", CHARGE, **call)
    details = answer.json()["details"]
    assert (
        answer.status_code,
        details["reason"],
        details["outcome"],
        details["safe_to_retry"],
    ) == (status, reason, "NOT_ATTEMPTED", True)
    read = refused(await world.call("GET", "/payments/PAY1", token=None), 401, "UNAUTHENTICATED")
    assert "outcome" not in read["details"]


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
        return payment_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(created_at=Timestamp(seconds=10**15))
        )

    world.shop.does["GetPayment"] = timeless
    refused(await world.call("GET", "/payments/PAY1"), 500, "INTERNAL")


async def test_too_many_calls_are_429_for_that_caller_alone(world: World) -> None:
    body = {"payment_id": "PAY1", "callback_status": "SUCCESS", "timestamp": "1" * 13, "nonce": "a"}
    answers = await asyncio.gather(
        *(world.call("POST", "/payments/mock-callback", token=None, json=body) for _ in range(150))
    )
    counts = Counter(answer.status_code for answer in answers)
    assert counts[200] >= 50  # the burst, and 20 for each second that it takes
    assert counts[200] + counts[429] == 150
    late = next(answer for answer in answers if answer.status_code == 429)
    assert refused(late, 429, "RATE_LIMITED")["details"]["retry_after_ms"] > 0
    assert int(late.headers["retry-after"]) >= 1
    assert (await world.call("POST", "/payments/mock-callback", json=body)).status_code == 200


async def test_two_buyers_behind_one_address_have_a_share_each(world: World) -> None:
    body = {"payment_id": "PAY1", "callback_status": "SUCCESS", "timestamp": "1" * 13, "nonce": "a"}

    async def statuses_of(token: str, times: int) -> set[int]:
        return {
            (
                await world.call("POST", "/payments/mock-callback", token=token, json=body)
            ).status_code
            for _ in range(times)
        }

    greedy = world.token("greedy")
    calls = await asyncio.gather(
        *(
            world.call("POST", "/payments/mock-callback", token=greedy, json=body)
            for _ in range(150)
        )
    )
    assert {answer.status_code for answer in calls} == {200, 429}
    assert await statuses_of(world.token("modest"), 3) == {200}
    # the same name in another shop is somebody else
    assert await statuses_of(world.token("greedy", merchant_id="another"), 3) == {200}


async def test_a_header_that_fills_a_field_stands_once(world: World) -> None:
    click: dict[str, Any] = {
        "json": {"sku_id": "A"},
        "headers": [
            ("authorization", f"Bearer {world.token()}"),
            ("idempotency-key", "a"),
            ("Idempotency-Key", "a"),
        ],
    }
    refused(
        await world.client.post("/api/v1/seckill/action", **click),
        400,
        "INVALID_ARGUMENT",
        "idempotency-key",
    )
    for name in ("x-channel-signature", "x-channel-timestamp"):
        answer = await world.client.post(
            "/api/v1/callbacks/sandbox", content=b"x", headers=[(name, "1"), (name, "2")]
        )
        refused(answer, 400, "INVALID_ARGUMENT", name)
    answer = await world.client.get(
        "/api/v1/orders/ORD1",
        headers=[
            ("authorization", f"Bearer {world.token()}"),
            ("x-seckill-ticket", "a"),
            ("x-seckill-ticket", "a"),
        ],
    )
    refused(answer, 400, "INVALID_ARGUMENT", "x-seckill-ticket")
    assert world.shop.requests == []


async def test_doubled_headers_that_only_label_a_request_are_ignored(world: World) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e473{}-00f067aa0ba902b7-01"
    answer = await world.client.get(
        "/healthz",
        headers=[
            ("x-request-id", "a"),
            ("x-request-id", "b"),
            ("traceparent", trace.format(1)),
            ("traceparent", trace.format(2)),
        ],
    )
    assert answer.headers["x-request-id"].startswith("req-")
    assert "4bf92f3577b34da6a3ce929d0e0e473" not in answer.headers["traceparent"]


# Browsers


async def test_a_page_on_the_list_may_call_and_read(world: World) -> None:
    origin = {"origin": "https://shop.example"}
    preflight = await world.client.options(
        CHARGE,
        headers=origin
        | {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type",
        },
    )
    assert (preflight.status_code, preflight.content) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].split(", ")
    bound = {header.header for method in SCHEMA.methods for header in method.policy.http.headers}
    assert {"authorization", "content-type", "idempotency-key", "x-seckill-ticket", *bound} <= {
        *allowed
    }
    assert len(allowed) == len({*allowed})
    answer = await world.call("GET", "/nothing", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in answer.headers


async def test_another_page_may_not(world: World) -> None:
    for method, path in (("OPTIONS", CHARGE), ("GET", "/api/v1/orders")):
        answer = await world.call(
            method,
            path,
            headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
        )
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert set(answer.headers.get_list("vary", split_commas=True)) == {
            "Origin",
            "Accept-Language",
        }


async def test_options_of_a_known_path_says_what_it_takes(world: World) -> None:
    answer = await world.client.options("/api/v1/orders")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    refused(await world.client.options("/nothing"), 404, "NOT_FOUND")


async def test_no_answer_may_be_sniffed_or_kept(world: World) -> None:
    answer = await world.call("GET", "/api/v1/orders/ORD1")
    assert (answer.headers["x-content-type-options"], answer.headers["cache-control"]) == (
        "nosniff",
        "no-store",
    )
    assert "server" not in answer.headers


# Its own pages


async def test_health_and_readiness(world: World) -> None:
    assert (await world.client.get("/healthz")).json()["data"] == {"status": "UP"}
    assert (await world.client.get("/readyz")).json()["data"] == {
        "status": "READY",
        "services": dict.fromkeys(SERVICES, "READY"),
    }
    assert (
        await world.client.get("/readyz?service=order_rpc&service=payment_rpc")
    ).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "service=nobody",
        "service=",
        "nothing=1",
        "service=order_rpc&a=b",
        "service=order_rpc&" * 30,
        "service=%ff",
    ],
)
async def test_readiness_is_asked_of_known_services_alone(world: World, query: str) -> None:
    refused(await world.client.get(f"/readyz?{query}"), 400, "INVALID_ARGUMENT", "service")


async def test_nobody_waits_for_a_service_that_does_not_run_in_this_mesh(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, absent_services=["seckill_rpc", "merchant_rpc"]) as world:
        assert (await world.client.get("/readyz")).json()["data"] == {
            "status": "READY",
            "services": {"order_rpc": "READY", "payment_rpc": "READY"},
        }


async def test_the_root_says_what_this_is_and_where_to_go(world: World) -> None:
    page = await world.client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'href="(/[^"]*)"', page.text)
    assert {"/docs", "/openapi.json", "/api/v1/products", "/readyz"} <= {*links}
    for link in links:
        assert (await world.client.get(link)).status_code == 200
    assert "paymesh token" in page.text
    refused(await world.client.get("/index.html"), 404, "NOT_FOUND")


async def test_the_document_is_compressed_for_whoever_can_read_it(world: World) -> None:
    plain = await world.client.get("/openapi.json", headers={"accept-encoding": "identity"})
    packed = await world.client.get("/openapi.json", headers={"accept-encoding": "br, gzip;q=0.8"})
    for refusal in ("gzip;q=0", "gzip; q=0.0, br", "deflate", "x-gzip-not"):
        assert (
            "content-encoding"
            not in (
                await world.client.get("/openapi.json", headers={"accept-encoding": refusal})
            ).headers
        )
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.json() == packed.json()
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 5
    assert all("Accept-Encoding" in answer.headers["vary"] for answer in (plain, packed))


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/docs/swagger-ui-bundle.js"])
async def test_a_page_that_somebody_has_is_not_sent_again(world: World, path: str) -> None:
    first = await world.client.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "public, max-age=300"
    for condition in (tag, f"W/{tag}", f'"other", {tag}'):
        again = await world.client.get(path, headers={"if-none-match": condition})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await world.client.get(path, headers={"if-none-match": '"other"'})).status_code == 200
    assert (await world.client.get(path, headers={"accept-encoding": "identity"})).headers[
        "etag"
    ] != tag


async def test_large_pages_are_sent_to_one_address_only_so_often(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, trusted_proxies=["127.0.0.1"]) as world:

        async def fetch(address: str) -> int:
            return (
                await world.client.get("/openapi.json", headers={"x-forwarded-for": address})
            ).status_code

        # addresses of one customer
        counts = Counter(
            await asyncio.gather(*(fetch(f"2001:db8::{number:x}") for number in range(300)))
        )
        assert counts[200] >= 60
        assert counts[429] > 0
        assert await fetch("2001:db8:0:1::1") == 200


async def test_the_docs_keep_a_token_and_open_folded(world: World) -> None:
    script = (await world.client.get("/docs/start.js")).text
    for option in ('docExpansion: "none"', "filter: true", "persistAuthorization: true"):
        assert option in script
    description = (await world.client.get("/openapi.json")).json()["components"]["securitySchemes"][
        "bearer"
    ]["description"]
    assert "paymesh token" in description
    assert "identity provider" in description


async def test_an_answer_ends_with_a_newline(world: World) -> None:
    for answer in (
        await world.call("GET", "/payments/PAY1"),
        await world.call("GET", "/nothing"),
        await world.client.get("/readyz"),
        await world.client.get("/openapi.json"),
    ):
        assert answer.content.endswith(b"}\n")
    assert (await world.raw(b"nonsense\r\n\r\n")).endswith(b"}\n")


async def test_the_document_is_served(world: World) -> None:
    answer = await world.client.get("/openapi.json")
    assert (answer.headers["content-type"], answer.json()["openapi"]) == (
        "application/json",
        "3.1.0",
    )
    assert "/payments/generate-signature" in answer.json()["paths"]


async def test_swagger_ui_comes_from_this_machine_and_may_load_nothing_else(world: World) -> None:
    page = await world.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "//" not in page.text.replace("</", "")
    for name, kind in (
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
        ("start.js", "text/javascript"),
        ("favicon-32x32.png", "image/png"),
    ):
        assert f"/docs/{name}" in page.text
        asset = await world.client.get(f"/docs/{name}")
        assert asset.headers["content-type"].startswith(kind)
        assert len(asset.content) > 50
    refused(await world.client.get("/docs/other.js"), 404, "NOT_FOUND")


# What it tells


async def test_a_line_per_request_has_no_secret_in_it(world: World) -> None:
    before = len(world.lines())
    token = world.token()
    await world.call(
        "POST",
        CHARGE,
        token=token,
        json={"amount": "1", "order_id": "ORD-SECRET", "credit_card": CARD},
    )
    await world.call("GET", "/api/v1/orders?page_token=SECRET", token=token)
    lines = world.lines()[before:]
    assert [(line["verb"], line["route"], line["status"], line["subject"]) for line in lines] == [
        ("POST", CHARGE, 200, "alice"),
        ("GET", "/api/v1/orders", 200, "alice"),
    ]
    text = json.dumps(lines)
    for secret in ("4111", "SECRET", token):
        assert secret not in text


async def test_series_have_routes_and_not_paths(world: World) -> None:
    await world.call("GET", "/api/v1/orders/ORD-77")
    await world.call("GET", "/nothing/ORD-77")
    await world.call("PROPFIND", "/nothing")  # the parser knows 40 verbs
    registry = CollectorRegistry()
    registry.register(world.telemetry)
    text = generate_latest(registry).decode()
    assert (
        'paymesh_gateway_requests_total{route="/api/v1/orders/{order_id}",status="200",verb="GET"}'
        in text
    )
    assert 'paymesh_gateway_requests_total{route="",status="404",verb="GET"}' in text
    assert (
        'paymesh_gateway_request_seconds_bucket{le="+Inf",route="/api/v1/orders/{order_id}",verb="GET"}'
        in text
    )
    assert "ORD-77" not in text
    assert "PROPFIND" not in text
    assert "paymesh_gateway_in_flight 0.0" in text


# Whoever is away


async def test_a_server_that_is_away_is_503_without_an_address(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        address = f":{world.server.port}"
        await world.server.stop(0)
        read = await world.call("GET", "/payments/PAY1")
        write = await world.call("POST", CHARGE, json={"amount": "1", "order_id": "O"})
        keyed = await world.call(
            "POST", CHARGE, json={"amount": "1", "order_id": "O"}, headers={"idempotency-key": "k"}
        )
        stranger = await world.call("GET", "/payments/PAY1", token=None)
        ready = await world.client.get("/readyz")
        alive = await world.client.get("/healthz")
    assert "outcome" not in refused(read, 503, "NEIGHBOUR_UNAVAILABLE")["details"]
    assert refused(write, 503, "NEIGHBOUR_UNAVAILABLE")["details"] == {
        "reason": "NEIGHBOUR_UNAVAILABLE",
        "outcome": "UNKNOWN",
        "safe_to_retry": False,
    }
    assert refused(keyed, 503, "NEIGHBOUR_UNAVAILABLE")["details"]["safe_to_retry"] is True
    refused(stranger, 401, "UNAUTHENTICATED")  # nobody has to be there to turn a stranger away
    assert refused(ready, 503, "UNAVAILABLE")["details"]["metadata"] == dict.fromkeys(
        SERVICES, "AWAY"
    )
    assert alive.status_code == 200
    assert all(address not in answer.text for answer in (read, write, keyed))


async def test_production_hides_what_is_for_development(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, environment="production") as world:
        refused(
            await world.call("GET", "/payments/generate-signature?payment_id=P"), 404, "NOT_FOUND"
        )
        assert (
            "/payments/generate-signature"
            not in (await world.client.get("/openapi.json")).json()["paths"]
        )
        assert world.shop.requests == []


async def test_only_a_trusted_proxy_says_who_the_client_is(world: World, tmp_path: Path) -> None:
    await world.client.get("/docs", headers={"x-forwarded-for": "203.0.113.9"})
    assert world.lines()[-1]["client"] == "127.0.0.1"
    async with gateway_world(tmp_path, trusted_proxies=["127.0.0.1"]) as behind:
        await behind.client.get("/docs", headers={"x-forwarded-for": "203.0.113.9"})
        assert behind.lines()[-1]["client"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("accepts", "message", "field"),
    [
        ({}, "Some details of the request are not right.", "is required"),
        ({"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}, "请求参数有误。", "必填"),
        (
            {"accept-language": "zh;q=0.1,en;q=0.2"},
            "Some details of the request are not right.",
            "is required",
        ),
    ],
)
async def test_a_refusal_speaks_the_language_of_the_caller(
    world: World, accepts: dict[str, str], message: str, field: str
) -> None:
    answer = await world.call("POST", CHARGE, json={"amount": "1"}, headers=accepts)
    body = answer.json()
    assert (body["message"], body["details"]["fields"]) == (
        message,
        [{"field": "order_id", "description": field}],
    )
    assert body["details"]["explanation"] == "order_id: is required"
    assert "Accept-Language" in answer.headers.get_list("vary", split_commas=True)


async def test_a_promised_text_is_chinese_unless_english_is_preferred(world: World) -> None:
    class OrderAlreadyPaid(MoneyError):
        """Paid."""

        reason = "ORDER_ALREADY_PAID"

    async def refuse(_request: Any, _context: Any) -> Any:
        raise OrderAlreadyPaid

    world.shop.does["Charge"] = refuse
    heard = [
        (
            await world.call("POST", CHARGE, json={"amount": "1", "order_id": "O"}, headers=accepts)
        ).json()["message"]
        for accepts in ({}, {"accept-language": "zh"}, {"accept-language": "en"})
    ]
    assert heard == [
        "订单已存在，不能重复支付",
        "订单已存在，不能重复支付",
        "The order is already paid.",
    ]
