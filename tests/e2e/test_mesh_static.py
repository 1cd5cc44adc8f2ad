"""One command runs the whole mesh on SQLite with static addresses; a stranger buys something
through every door; Ctrl-C and kill -9 leave nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mesh.clock import SystemClock
from paymesh_cli.supervisor.installation import RunningMesh
from tests.e2e.mesh_processes import Answer, Person, wait_until
from tests.e2e.up_mesh import BIN, Mesh
from tests.support.processes import Processes


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("logs"))
    yield processes
    processes.destroy()
    processes.check_refusals()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, module_processes: Processes) -> Mesh:
    mesh = Mesh(tmp_path_factory.mktemp("mesh") / "var", module_processes)
    mesh.start()
    return mesh


@pytest.fixture(scope="module")
def running(mesh: Mesh) -> RunningMesh:
    found = mesh.installation.running()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def alice(mesh: Mesh, running: RunningMesh) -> Iterator[Person]:
    # source 002 has numbers for users
    person = Person(running.urls["gateway"], mesh.token("--sub", "12345"))
    yield person
    person.close()


@pytest.fixture(scope="module")
def sku_id(mesh: Mesh, running: RunningMesh) -> str:
    merchant = Person(running.urls["gateway"], mesh.token("--sub", "m", "--role", "merchant"))
    answer = merchant.post(
        "/api/v1/products",
        {"sku_id": "E2E-1", "name": "A mug", "price": "100.00", "available": 100},
    )
    assert answer.status == 201, answer.text
    merchant.close()
    return "E2E-1"


def buf(*arguments: str) -> Any:
    done = subprocess.run(
        [str(BIN / "buf"), "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def source_002_charge(order_id: str) -> dict[str, Any]:
    """The body of source 002's example: numbers where it has numbers."""
    return {
        "amount": 100.0,
        "order_id": order_id,
        "user_id": 12345,
        "payment_method": "credit_card",
        "credit_card": {
            "credit_card_number": "4111111111111111",
            "credit_card_cvv": 123,
            "credit_card_expiration_month": 12,
            "credit_card_expiration_year": SystemClock().now().year + 2,
        },
    }


def test_the_demo_buys_by_card_and_at_the_cashier_again_and_again(mesh: Mesh) -> None:
    for _ in range(2):
        demo = mesh.paymesh("demo")
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert demo.stdout.count("/api/v1/orders/ORD") == 2
        assert "PAYMENT_STATE_SUCCESS" in demo.stdout
        assert demo.stdout.endswith("all three orders are PAID\n")


def test_the_charge_of_source_002_answers_a_transaction_and_the_same_body_again_that_it_is_paid(
    alice: Person, sku_id: str
) -> None:
    order = alice.order(sku_id)
    first = alice.post("/payment/charge", source_002_charge(order["order_id"]))
    assert (first.status, first.code) == (200, "00000"), first.text
    assert re.fullmatch(r"PAY[0-9A-Z]{26}", first.data["transaction_id"])
    again = alice.post("/payment/charge", source_002_charge(order["order_id"]))
    assert again.code == "4005002", again.text
    assert again.status >= 400
    assert again.data is None


def test_the_same_idempotency_key_answers_the_same_transaction(alice: Person, sku_id: str) -> None:
    body = source_002_charge(alice.order(sku_id)["order_id"])
    first, second = (alice.post("/payment/charge", body, idempotency_key="e2e-1") for _ in range(2))
    assert first.status == second.status == 200, first.text + second.text
    assert first.data["transaction_id"] == second.data["transaction_id"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"


def test_the_curl_lines_of_source_001_pay_an_order(
    alice: Person, sku_id: str, running: RunningMesh
) -> None:
    order = alice.order(sku_id)
    created = alice.post("/payments", {"orderNo": order["order_id"], "amount": 100.00})
    assert created.status == 200, created.text
    payment_id = created.data["payment_id"]
    # neither line carries a token
    with httpx.Client(base_url=running.urls["gateway"], trust_env=False) as anybody:
        facts = {
            "payNo": payment_id,
            "callbackStatus": "SUCCESS",
            "timestamp": str(round(SystemClock().now().timestamp() * 1000)),
            "nonce": "abc123",
        }
        signed = Answer.of(anybody.get("/payments/generate-signature", params=facts))
        assert signed.status == 200, signed.text
        callback = Answer.of(
            anybody.post(
                "/payments/mock-callback",
                json={**facts, "channelTradeNo": "MOCK_123", "signature": signed.data["signature"]},
            )
        )
        assert callback.status == 200, callback.text
        forged = Answer.of(
            anybody.post(
                "/payments/mock-callback",
                json={**facts, "channelTradeNo": "MOCK_123", "signature": "0" * 32},
            )
        )
        assert (forged.status, forged.data) == (401, None), forged.text
    assert (callback.data["result"], callback.data["current_status"]) == ("PROCESSED", "SUCCESS")
    alice.wait_paid(order["order_id"])


def test_a_flash_sale_is_bought_over_rest_from_the_click_to_paid(
    mesh: Mesh, running: RunningMesh, alice: Person, sku_id: str
) -> None:
    shop = Person(running.urls["gateway"], mesh.token("--sub", "m", "--role", "merchant"))
    planned = shop.post(
        "/api/v1/seckill/activities",
        {"sku_id": sku_id, "price": "9.90", "total": 1, "ends_at": "2099-01-01T00:00:00Z"},
    )
    assert planned.status == 201, planned.text
    assert (
        shop.post(f"/api/v1/seckill/activities/{planned.data['activity_id']}/publish", {}).data[
            "state"
        ]
        == "OPEN"
    )

    won = alice.post(
        "/api/v1/seckill/action", {"sku_id": sku_id, "wait_ms": 3000}, idempotency_key="click-1"
    )
    assert (won.status, won.data["status"], won.data["code"], won.data["request_id"]) == (
        200,
        1,
        "2000",
        "click-1",
    ), won.text
    result = alice.get("/api/v1/seckill/result", sku_id=sku_id)
    assert (result.data["status"], result.data["order_id"]) == (1, won.data["order_id"]), (
        result.text
    )
    with httpx.stream(
        "GET",
        f"{running.urls['gateway']}/api/v1/seckill/result/watch",
        params={"ticket": won.data["ticket"]},
        timeout=10,
        trust_env=False,
    ) as stream:
        events = "".join(stream.iter_text())
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert won.data["order_id"] in events
    assert "event: end" in events

    order = wait_until(
        lambda: alice.get(f"/api/v1/orders/{won.data['order_id']}").data, "order at order_rpc"
    )
    assert (order["state"], order["amount"]) == ("PENDING_PAYMENT", "9.90")
    assert alice.charge(order).status == 200
    alice.wait_paid(order["order_id"])

    bob = Person(running.urls["gateway"], mesh.token("--sub", "bob"))
    lost = bob.post("/api/v1/seckill/action", {"sku_id": sku_id})
    assert (lost.status, lost.data["status"], lost.data["code"]) == (200, 2, "2001"), lost.text
    closed = wait_until(
        lambda: (
            shop.post(f"/api/v1/seckill/activities/{planned.data['activity_id']}/close", {}).data[
                "state"
            ]
            == "CLOSED"
        ),
        "close",
    )
    assert closed
    again = alice.post("/api/v1/seckill/action", {"sku_id": sku_id}, idempotency_key="click-1")
    assert (again.data["status"], again.data["order_id"]) == (1, order["order_id"]), again.text
    shop.close()
    bob.close()


def test_the_shown_flash_sale_sells_exactly_what_there_is(mesh: Mesh) -> None:
    demo = mesh.paymesh("demo-seckill", "--buyers", "500", "--units", "20")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "everything holds" in demo.stdout


def test_buf_curl_lists_the_services_of_every_server_by_reflection(running: RunningMesh) -> None:
    expected = {
        "payment_rpc": {"paymesh.payment.v1.PaymentService", "paymesh.payment.v1.CallbackService"},
        "order_rpc": {"paymesh.order.v1.OrderService", "paymesh.order.v1.CatalogService"},
    }
    for service, names in expected.items():
        listed = buf("--list-services", f"http://{running.grpc[service][0]}").split()
        assert names | {"grpc.health.v1.Health"} <= set(listed)


def test_buf_curl_asks_for_a_payment_with_a_bearer_token_and_health_answers_serving(
    alice: Person, sku_id: str, running: RunningMesh
) -> None:
    order = alice.order(sku_id)
    assert alice.charge(order).status == 200
    address = f"http://{running.grpc['payment_rpc'][0]}"
    answer = json.loads(
        buf(
            "-H",
            f"authorization: Bearer {alice.token}",
            "-d",
            json.dumps({"order_id": order["order_id"]}),
            f"{address}/paymesh.payment.v1.PaymentService/GetPaymentByOrderId",
        )
    )
    assert answer["payment"]["orderId"] == order["order_id"]
    assert answer["payment"]["state"] == "PAYMENT_STATE_SUCCESS"
    for addresses in running.grpc.values():
        assert json.loads(
            buf("-d", "{}", f"http://{addresses[0]}/grpc.health.v1.Health/Check")
        ) == {"status": "SERVING"}


def test_what_a_stranger_needs_is_served_without_a_token(running: RunningMesh, sku_id: str) -> None:
    with httpx.Client(base_url=running.urls["gateway"], trust_env=False) as anybody:
        assert anybody.get("/healthz").status_code == anybody.get("/readyz").status_code == 200
        # no merchant: our own shop
        assert Answer.of(anybody.get(f"/api/v1/products/{sku_id}")).data["merchant_id"] == "mall"
        for address in running.metrics.values():
            assert "paymesh" in anybody.get(f"http://{address}/metrics").text


def test_the_api_is_documented_without_internet(running: RunningMesh) -> None:
    with httpx.Client(base_url=running.urls["gateway"], trust_env=False) as anybody:
        assert anybody.get("/openapi.json").json()["openapi"].startswith("3.1")
        page = anybody.get("/docs", follow_redirects=True)
        assert page.status_code == 200
        assert "swagger" in page.text.lower()
        for loaded in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert anybody.get(loaded).status_code == 200, loaded


def test_the_doctor_finds_nothing_wrong_with_the_running_mesh(mesh: Mesh) -> None:
    done = mesh.paymesh("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failure" not in done.stdout


def test_a_second_up_on_the_same_directory_is_refused(mesh: Mesh) -> None:
    done = mesh.paymesh("up")
    assert done.returncode == 1
    assert "running here already" in done.stderr


def test_a_killed_service_comes_back_and_ctrl_c_leaves_no_process(
    mesh: Mesh, running: RunningMesh, alice: Person, sku_id: str
) -> None:
    order_rpc = running.pids["order_rpc"]
    os.kill(order_rpc, signal.SIGKILL)
    mesh.up.wait_for_log("order_rpc died")
    wait_until(
        lambda: (
            alice.post("/api/v1/orders", {"items": [{"sku_id": sku_id, "quantity": 1}]}).status
            == 201
        ),
        "answer of the new order_rpc",
    )
    now = mesh.installation.running()
    assert now is not None
    assert now.pids["order_rpc"] != order_rpc

    assert mesh.up.interrupt() == 0
    mesh.up.assert_no_survivors(timeout_seconds=0.5)
    assert mesh.installation.running() is None
    assert "did not stop" not in mesh.up.log_text()


def test_kill_9_of_the_supervisor_leaves_no_process(mesh: Mesh) -> None:
    running = mesh.start()
    assert len(running.pids) >= 4
    mesh.up.signal(signal.SIGKILL)
    mesh.up.wait()
    mesh.up.assert_no_survivors()
    assert mesh.installation.running() is None
