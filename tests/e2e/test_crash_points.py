"""kill -9 of payment_rpc after each step of a purchase. Whatever it leaves, somebody finishes: the order ends PAID, or the payment FAILED and the
channel has promised never to take the money; never two captures."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.mesh_processes import DECLINED_CARD, GOOD_CARD, Answer, MeshProcesses, Person, charge_body, wait_until
from tests.processes import Processes

# Short leases and rounds: the tests wait for real time. The lease still covers the channel's timeout.
TIMES = {"PAYMENT_RPC_ATTEMPT_LEASE_SECONDS": "2", "PAYMENT_RPC_CHANNEL_TIMEOUT_SECONDS": "1.5", "PAYMENT_RPC_SCAN_INTERVAL_SECONDS": "0.1"}
FINAL = {"SUCCESS", "FAILED", "CLOSED"}

# What a crash of a card charge leaves for the workers, step by step of PROTOCOLS 1. None: nothing was written, the buyer asks again.
BY_WORKERS = {
    "payment.charge.before_tx1": None,
    "payment.charge.after_tx1": {"FAILED"},
    "payment.charge.after_channel": {"SUCCESS"},
    "payment.fact.before_commit": {"SUCCESS"},
    "payment.fact.after_commit": {"SUCCESS"},
    "outbox.relay.after_send": {"SUCCESS"},
    "outbox.relay.after_settle": {"SUCCESS"},
}


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("logs"))
    yield processes
    processes.destroy()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, module_processes: Processes) -> Iterator[MeshProcesses]:
    mesh = MeshProcesses(tmp_path_factory.mktemp("mesh"), module_processes, env={"PAYMESH_ENVIRONMENT": "test", **TIMES})
    mesh.migrate()
    mesh.start(*(name for name in ("redis", "sandbox", "order_rpc", "gateway") if name in mesh.names))
    mesh.wait_ready("sandbox", "order_rpc")
    yield mesh
    mesh.close()


@pytest.fixture(scope="module")
def alice(mesh: MeshProcesses) -> Person:
    return mesh.person("alice")


@pytest.fixture(scope="module")
def sku_id(mesh: MeshProcesses) -> str:
    return mesh.product()


class Crash:
    """One purchase whose payment_rpc dies at a point, and what became of it."""

    def __init__(self, mesh: MeshProcesses, alice: Person, sku_id: str, *, point: str) -> None:
        self.mesh = mesh
        self.alice = alice
        self.point = point
        self.key = f"key-{point}-{len(mesh.books.transactions())}"
        mesh.start("payment_rpc", env={"PAYMENT_RPC_FAILPOINTS": f"{point}=kill"})
        mesh.wait_ready("payment_rpc", "gateway")
        self.order = alice.order(sku_id)
        self.known = {transaction["attempt_id"] for transaction in mesh.books.transactions()}

    @property
    def order_id(self) -> str:
        return str(self.order["order_id"])

    def charge(self, *, number: str = GOOD_CARD) -> Answer | None:
        """The buyer's call, with the same key each time; None when no answer came."""
        try:
            return self.alice.charge(self.order, number=number, key=self.key)
        except httpx.HTTPError:
            return None

    def die(self) -> None:
        """The process ends at the point, by kill -9."""
        process = self.mesh.running["payment_rpc"]
        assert process.wait() == -signal.SIGKILL, process.log_tail()

    def come_back(self) -> None:
        """A new process, after outbox claims of the dead one are over."""
        self.let_claims_end()
        self.mesh.start("payment_rpc")
        self.mesh.wait_ready("payment_rpc")
        wait_until(lambda: self.payment() is not None or self.answers_not_found(), "answer of the new payment_rpc")

    def let_claims_end(self) -> None:
        """A minute passes for what lies in the outbox: the times are moved instead of waited for."""
        url = self.mesh.plan.database_urls["payment_rpc"]
        with sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///")) as database:
            database.execute("UPDATE outbox SET due_at = due_at - 60000 WHERE state = 'NEW'")
        database.close()

    def answers_not_found(self) -> bool:
        return self.alice.get(f"/api/v1/payments/order/{self.order_id}").status == 404

    def payment(self) -> dict[str, Any] | None:
        answer = self.alice.get(f"/api/v1/payments/order/{self.order_id}")
        return answer.data if answer.status == 200 else None

    def wait_final(self) -> dict[str, Any]:
        """The payment of the order as it ends. Asked for by its id: what an order shows may be seconds old."""
        payment = wait_until(self.payment, f"payment after {self.point}")  # a process that has just come up may refuse a call or two

        def final() -> dict[str, Any] | None:
            answer = self.alice.get(f"/api/v1/payments/{payment['payment_id']}")
            return answer.data if answer.status == 200 and answer.data["state"] in FINAL else None
        return wait_until(final, f"final state after {self.point}")

    def new_transactions(self) -> list[dict[str, Any]]:
        return [transaction for transaction in self.mesh.books.transactions() if transaction["attempt_id"] not in self.known]

    def captures(self) -> list[dict[str, Any]]:
        return [transaction for transaction in self.new_transactions() if transaction["status"] == "CAPTURED"]

    def assert_money_right(self, payment: dict[str, Any]) -> None:
        """What we say and what the channel says agree, and the order agrees with both."""
        assert all(transaction["status"] != "PENDING" for transaction in self.new_transactions())
        if payment["state"] == "SUCCESS":
            assert [capture["amount"] for capture in self.captures()] == [self.order["amount"]] == [payment["captured"]]
            assert payment["channel_trade_no"] == self.captures()[0]["trade_no"]
            self.let_claims_end()
            self.alice.wait_paid(self.order_id)
        else:
            assert self.captures() == []
            assert self.alice.state_of(self.order_id) == "PENDING_PAYMENT"

    def assert_same_key_gives(self, payment: dict[str, Any]) -> None:
        """The repeated call answers the same payment as it ended."""
        answer = self.charge()
        assert answer is not None
        if payment["state"] == "SUCCESS":
            assert (answer.status, answer.data["transaction_id"]) == (200, payment["payment_id"]), answer.text
            assert answer.headers["idempotent-replayed"] == "true"
        else:
            assert answer.status >= 400, answer.text
            assert payment["payment_id"] in answer.text


@pytest.fixture
def crash_at(mesh: MeshProcesses, alice: Person, sku_id: str) -> Iterator[Callable[[str], Crash]]:
    """`crash_at(point)`: a purchase with a payment_rpc that will die there. The next one starts with none running."""
    yield lambda point: Crash(mesh, alice, sku_id, point=point)
    mesh.running["payment_rpc"].destroy()


@pytest.mark.parametrize("point", BY_WORKERS)
def test_the_workers_finish_what_a_crash_left(crash_at: Callable[[str], Crash], point: str) -> None:
    crash = crash_at(point)
    crash.charge()
    crash.die()
    crash.come_back()
    expected = BY_WORKERS[point]
    if expected is None:
        assert crash.payment() is None
        assert crash.new_transactions() == []
        answer = crash.charge()
        assert answer is not None
        assert answer.status == 200, answer.text
    payment = crash.wait_final()
    assert payment["state"] in (expected or {"SUCCESS"})
    crash.assert_money_right(payment)
    if expected is not None:
        crash.assert_same_key_gives(payment)
    if payment["state"] != "SUCCESS":  # the order is free: a new charge pays it, once
        new = crash.alice.post("/api/v1/payments/charge", charge_body(crash.order))
        assert new.status == 200, new.text
        crash.assert_money_right(new.data["payment"])


@pytest.mark.parametrize("point", ["payment.charge.after_tx1", "payment.charge.after_channel", "payment.fact.before_commit"])
def test_the_same_key_finishes_what_a_crash_left(crash_at: Callable[[str], Crash], point: str) -> None:
    crash = crash_at(point)
    crash.charge()
    crash.die()
    crash.come_back()
    seen: set[str] = set()

    def finished() -> bool:
        answer = crash.charge()
        if answer is None or answer.status >= 500:
            return False
        if answer.status >= 400:
            return True
        seen.add(answer.data["transaction_id"])
        return answer.status == 200
    wait_until(finished, f"final answer after {point}")
    payment = crash.wait_final()
    assert seen <= {payment["payment_id"]}
    crash.assert_money_right(payment)
    crash.assert_same_key_gives(payment)


def test_a_relay_that_dies_with_the_news_in_its_hands_is_followed_by_another(crash_at: Callable[[str], Crash]) -> None:
    crash = crash_at("payment.fact.after_commit")
    crash.charge()
    crash.die()
    crash.let_claims_end()
    crash.mesh.start("payment_rpc", env={"PAYMENT_RPC_FAILPOINTS": "outbox.relay.after_claim=kill"})
    crash.die()
    assert crash.alice.state_of(crash.order_id) == "PENDING_PAYMENT"
    crash.come_back()
    payment = crash.wait_final()
    assert payment["state"] == "SUCCESS"
    crash.assert_money_right(payment)


def test_a_decline_that_was_not_written_down_is_found_again(crash_at: Callable[[str], Crash]) -> None:
    crash = crash_at("payment.charge.after_channel")
    crash.charge(number=DECLINED_CARD)
    crash.die()
    crash.come_back()
    payment = crash.wait_final()
    assert (payment["state"], payment["failure"]["reason"]) == ("FAILED", "CARD_DECLINED")
    assert [transaction["status"] for transaction in crash.new_transactions()] == ["DECLINED"]
    answer = crash.charge(number=DECLINED_CARD)
    assert answer is not None
    assert answer.status == 402, answer.text


def test_a_cashier_that_was_not_opened_is_lost_for_good_and_another_opens(crash_at: Callable[[str], Crash]) -> None:
    crash = crash_at("payment.cashier.after_tx1")
    body = {"order_id": crash.order_id}
    assert crash.alice.post("/api/v1/payments", body).status >= 500
    crash.die()
    crash.come_back()
    payment = crash.wait_final()
    assert payment["state"] == "FAILED"
    opened = crash.alice.post("/api/v1/payments", body)
    assert opened.status == 200, opened.text
    assert opened.data["next_action"]["kind"] == "REDIRECT_URL"
    assert [transaction["status"] for transaction in crash.new_transactions()] == ["CLOSED", "PENDING"]
