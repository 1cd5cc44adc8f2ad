"""Merchants over REST, from the sign-up to a suspension, on the mesh that `paymesh up` runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.mesh_processes import Answer, Person, press_pay, wait_until
from tests.e2e.up_mesh import Mesh
from tests.support.processes import Processes

PASSWORD = "correct horse battery"
OWNER, OPERATOR = "owner@acme.example", "chief@shop.example"
CALLERS = Callable[[str], Person]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    processes = Processes(tmp_path_factory.mktemp("logs"))
    mesh = Mesh(tmp_path_factory.mktemp("mesh") / "var", processes)
    mesh.start()
    yield mesh
    processes.destroy()
    processes.check_refusals()


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Iterator[CALLERS]:
    running = mesh.installation.running()
    assert running is not None
    people: list[Person] = []

    def make(token: str) -> Person:
        people.append(Person(running.urls["gateway"], token))
        return people[-1]

    yield make
    for person in people:
        person.close()


@pytest.fixture(scope="module")
def owner(mesh: Mesh, caller: CALLERS) -> Person:
    """The owner of `acme`, logged in for its test sibling."""
    anybody = caller("")
    shop = {"email": OWNER, "name": "Acme", "merchant_id": "acme", "default_currency": "USD"}
    assert anybody.post("/api/v1/merchants:sign-up", shop).status == 202
    confirmation = {"token": mailed_token(mesh), "password": PASSWORD}
    confirmed = anybody.post("/api/v1/merchants:confirm", confirmation)
    assert (confirmed.status, confirmed.data["state"]) == (201, "TEST_ONLY"), confirmed.text
    again = anybody.post("/api/v1/merchants:confirm", confirmation)
    assert (again.status, again.code) == (410, "A0367"), "a link works once"
    session = anybody.post("/api/v1/sessions", {"email": OWNER, "password": PASSWORD})
    assert session.status == 201, session.text
    assert (session.data["merchant_id"], session.data["role"]) == ("acme_test", "OWNER")
    return caller(session.data["access_token"])


@pytest.fixture(scope="module")
def operator(mesh: Mesh, caller: CALLERS) -> Person:
    """An administrator who logs in here."""
    said = mesh.paymesh("operator", "add", OPERATOR)
    assert said.returncode == 0, said.stderr
    token = said.stdout.partition("token=")[2].split()[0]
    anybody = caller("")
    accepted = anybody.post("/api/v1/members:accept", {"token": token, "password": PASSWORD})
    assert accepted.status == 201, accepted.text
    session = anybody.post("/api/v1/sessions", {"email": OPERATOR, "password": PASSWORD})
    assert (session.status, session.data["is_operator"]) == (201, True), session.text
    return caller(session.data["access_token"])


@pytest.fixture(scope="module")
def shop(owner: Person, caller: CALLERS) -> Person:
    """The server of the shop, with a secret key."""
    made = owner.post("/api/v1/api-keys", {"kind": "SECRET", "name": "web shop"})
    assert made.status == 201, made.text
    assert made.data["key"].startswith("pmsk_test_")
    return caller(made.data["key"])


def mailed_token(mesh: Mesh) -> str:
    """The token of the link that was mailed to the owner."""

    def look() -> str:
        lines = (mesh.installation.log_dir / "merchant_rpc.log").read_text().splitlines()
        mails = [json.loads(line) for line in lines if '"event":"mail"' in line]
        links = [mail["link"] for mail in mails if mail["address"] == OWNER]
        return str(links[-1].partition("token=")[2]) if links else ""

    return str(wait_until(look, f"mail to {OWNER}"))


def sell(shop: Person, order_no: str, **changes: Any) -> Answer:
    """A payment for an order of the shop's own."""
    body = {"order_no": order_no, "amount": "10.00", "currency": "USD", **changes}
    return shop.post("/api/v1/payments", body)


def test_the_page_takes_the_money_for_an_order_of_the_shop(shop: Person) -> None:
    sold = sell(shop, "PAGE-1", description="Two mugs", customer_email="li@example.com")
    assert sold.status == 200, sold.text
    press_pay(sold.data["checkout_url"])
    shop.wait_paid("PAGE-1")
    again = sell(shop, "PAGE-1")
    assert (again.status, again.code) == (409, "4005002"), again.text
    other = sell(shop, "PAGE-1", amount="20.00")
    assert other.status == 409, other.text
    found = shop.get("/api/v1/payments", customer_email="LI@example.com")
    assert found.status == 200, found.text
    assert [payment["order_no"] for payment in found.data["payments"]] == ["PAGE-1"], found.text


def test_a_checkout_token_pays_its_order_and_nothing_else(shop: Person, caller: CALLERS) -> None:
    mine, other = sell(shop, "TOKEN-1").data, sell(shop, "TOKEN-2").data
    buyer = caller(mine["checkout_token"])
    for refused in (
        buyer.get(f"/api/v1/orders/{other['order_id']}"),
        buyer.get(f"/api/v1/payments/{other['payment_id']}"),
        buyer.charge({"order_id": other["order_id"], "amount": "10.00"}),
        buyer.get("/api/v1/orders"),
        buyer.get("/api/v1/wallet"),
        buyer.post("/api/v1/orders", {"items": [{"sku_id": "E2E-1", "quantity": 1}]}),
        buyer.get("/api/v1/api-keys"),
    ):
        assert refused.status in {403, 404}, refused.text
    paid = buyer.charge({"order_id": mine["order_id"], "amount": "10.00"})
    assert (paid.status, paid.data["payment"]["state"]) == (200, "SUCCESS"), paid.text
    assert buyer.state_of(mine["order_id"]) == "PAID"
    assert shop.get("/api/v1/orders/TOKEN-2").data["state"] == "PENDING_PAYMENT"


def test_a_suspended_shop_sells_nothing_and_gives_money_back(
    shop: Person, operator: Person
) -> None:
    payment = sell(shop, "SUSPEND-1").data
    press_pay(payment["checkout_url"])
    shop.wait_paid("SUSPEND-1")
    nobody = shop.post("/api/v1/merchants/acme/suspend", {"reason": "by itself"})
    assert nobody.status == 403, nobody.text
    assert operator.post("/api/v1/merchants/acme/suspend", {}).status == 400, "without a reason"
    suspended = operator.post("/api/v1/merchants/acme/suspend", {"reason": "looks odd"})
    assert suspended.data["state"] == "SUSPENDED", suspended.text
    wait_until(lambda: sell(shop, "SUSPEND-2").code == "A0364", "a refusal of new payments")
    refund = shop.post("/api/v1/refunds", {"payment_id": payment["payment_id"], "amount": "4.00"})
    assert refund.status in {200, 201, 202}, refund.text
    assert shop.get(f"/api/v1/payments/{payment['payment_id']}").status == 200
    operator.post("/api/v1/merchants/acme/resume", {"reason": "it is fine"})
    wait_until(lambda: sell(shop, "SUSPEND-2").status == 200, "an end of the suspension")


def test_nothing_is_open_while_merchant_rpc_is_away(
    mesh: Mesh, owner: Person, shop: Person, caller: CALLERS
) -> None:
    made = owner.post("/api/v1/api-keys", {"kind": "SECRET", "name": "not used before"})
    assert made.status == 201, made.text
    assert sell(shop, "AWAY-1").status == 200
    running = mesh.installation.running()
    assert running is not None
    pid = running.pids["merchant_rpc"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert sell(shop, "AWAY-2").status == 200, "a warm key lives to the end of its token"
        cold = sell(caller(made.data["key"]), "AWAY-3")
        assert cold.status == 503, cold.text
        assert json.loads(cold.text)["details"]["outcome"] == "NOT_ATTEMPTED"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_audit_finds_nothing_after_all_of_it(mesh: Mesh, shop: Person) -> None:
    assert shop.get("/api/v1/orders").status == 200
    done = mesh.paymesh("audit")
    assert done.returncode == 0, done.stdout + done.stderr
    explained = mesh.paymesh("explain", "acme")
    assert "CreateApiKey" in explained.stdout, explained.stdout + explained.stderr
