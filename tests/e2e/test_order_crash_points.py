"""kill -9 of order_rpc at each step of an order's life. Whatever it leaves, somebody finishes: after a restart the order is where it should be, and
the audit of the whole mesh finds nothing. `make test` takes the points that leave most to others."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import PROOF
from tests.e2e.mesh_processes import Answer, MeshProcesses, Person, wait_until
from tests.processes import Processes

TIMES = {"PAYMENT_RPC_SCAN_INTERVAL_SECONDS": "0.1", "ORDER_RPC_SCAN_INTERVAL_SECONDS": "0.1"}
# Every point of order_rpc, and where the order ends; `make test` takes those that leave most to others.
CREATE = {"order.create.before_commit": "PENDING_PAYMENT", "order.create.after_commit": "PENDING_PAYMENT"}
CANCEL = {"order.cancel.after_begin": "CANCELLED", "order.cancel.before_commit": "CANCELLED", "outbox.relay.after_send": "CANCELLED",
          "outbox.relay.after_settle": "CANCELLED"}
EXPIRE = {"order.expire.before_commit": "CANCELLED", "order.expire.after_commit": "CANCELLED", "outbox.relay.after_claim": "CANCELLED"}
SHIP = {"order.ship.before_commit": "SHIPPED", "order.ship.after_commit": "SHIPPED"}
REFUND = {"order.refund.before_commit": "REFUNDED", "order.refund.after_commit": "REFUNDED"}
QUICK = {"order.cancel.before_commit", "order.expire.after_commit", "order.refund.after_commit"}


def points(of: dict[str, str]) -> list[str]:
    return [point for point in of if PROOF or point in QUICK]


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("logs"))
    yield processes
    processes.destroy()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, module_processes: Processes) -> Iterator[MeshProcesses]:
    mesh = MeshProcesses(tmp_path_factory.mktemp("mesh"), module_processes, env={"PAYMESH_ENVIRONMENT": "test", **TIMES})
    mesh.migrate()
    mesh.start(*(name for name in ("redis", "sandbox", "payment_rpc", "order_rpc", "gateway") if name in mesh.names))
    mesh.wait_ready("sandbox", "payment_rpc", "order_rpc", "gateway")
    yield mesh
    mesh.close()


@pytest.fixture(scope="module")
def sku_id(mesh: MeshProcesses) -> str:
    return mesh.product()


class Crash:
    """One order whose order_rpc dies at a point, and what becomes of it."""

    def __init__(self, mesh: MeshProcesses, sku_id: str, point: str) -> None:
        self.mesh, self.sku_id, self.point = mesh, sku_id, point
        self.buyer: Person = mesh.person("alice")
        self.shop: Person = mesh.person("clerk", roles=["merchant"])

    def arm(self, **env: str) -> None:
        """A process that will die at the point."""
        process = self.mesh.running["order_rpc"]
        process.terminate()
        self.mesh.start("order_rpc", env={"ORDER_RPC_FAILPOINTS": f"{self.point}=kill", **env})
        self._wait_reachable()

    def order(self, **headers: str) -> Answer | None:
        """The buyer's call; None when no answer came."""
        return self.send(self.buyer, "/api/v1/orders", {"items": [{"sku_id": self.sku_id, "quantity": 2}]}, **headers)

    def send(self, person: Person, path: str, body: dict[str, Any], **headers: str) -> Answer | None:
        try:
            return person.post(path, body, **headers)
        except httpx.HTTPError:
            return None

    def die_and_come_back(self) -> None:
        """The process ends at the point, by kill -9, and a new one takes its place, after outbox claims of the dead one are over."""
        process = self.mesh.running["order_rpc"]
        assert process.wait() == -signal.SIGKILL, process.log_tail()
        url = self.mesh.plan.database_urls["order_rpc"]
        with sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///")) as database:
            database.execute("UPDATE outbox SET due_at = due_at - 60000 WHERE state = 'NEW'")
        database.close()
        self.mesh.start("order_rpc")
        self._wait_reachable()

    def ends(self, order_id: str, state: str) -> None:
        """The order comes to a state, and then everything agrees."""
        wait_until(lambda: self.buyer.state_of(order_id) == state, f"{state} after {self.point}")
        command = [sys.executable, "-m", "mesh.cli", "audit", "--var-dir", str(self.mesh.installation.var_dir),
                   "--sandbox-url", self.mesh.plan.running.urls["sandbox"],
                   "--sandbox-key-file", str(self.mesh.installation.secret_file("sandbox_api"))]
        ended = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    def paid(self) -> dict[str, Any]:
        """An order that is paid before anything is armed."""
        order = self.buyer.order(self.sku_id)
        assert self.buyer.charge(order).status == 200
        self.buyer.wait_paid(order["order_id"])
        return order

    def _wait_reachable(self) -> None:
        self.mesh.wait_ready("order_rpc", "gateway")

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError, KeyError):
                return self.buyer.get(f"/api/v1/products/{self.sku_id}").status == 200
            return False
        wait_until(answers, "gateway that reaches order_rpc")


@pytest.mark.skipif(not PROOF, reason="tests/integration/test_order_process.py kills it there too")
@pytest.mark.parametrize("point", points(CREATE) or CREATE)
def test_an_order_that_was_being_made_is_made_once(mesh: MeshProcesses, sku_id: str, point: str) -> None:
    crash = Crash(mesh, sku_id, point)
    crash.arm()
    crash.order(idempotency_key=f"key-{point}")
    crash.die_and_come_back()
    again = crash.order(idempotency_key=f"key-{point}")
    assert again is not None
    order_id = again.data["order_id"]
    assert crash.buyer.get("/api/v1/orders", state="PENDING_PAYMENT").data["orders"][0]["order_id"] == order_id
    assert len(crash.buyer.get("/api/v1/orders", state="PENDING_PAYMENT").data["orders"]) == 1
    crash.ends(order_id, CREATE[point])
    assert crash.buyer.post(f"/api/v1/orders/{order_id}/cancel", {}).status in (200, 202)
    crash.ends(order_id, "CANCELLED")


@pytest.mark.parametrize("point", points(CANCEL))
def test_a_cancel_that_was_cut_is_finished(mesh: MeshProcesses, sku_id: str, point: str) -> None:
    crash = Crash(mesh, sku_id, point)
    crash.arm()
    order = crash.buyer.order(sku_id)
    crash.send(crash.buyer, f"/api/v1/orders/{order['order_id']}/cancel", {"reason": "changed my mind"})
    crash.die_and_come_back()
    crash.ends(order["order_id"], CANCEL[point])


@pytest.mark.parametrize("point", points(EXPIRE))
def test_an_expiry_that_was_cut_is_finished(mesh: MeshProcesses, sku_id: str, point: str) -> None:
    crash = Crash(mesh, sku_id, point)
    # Rounds that find nothing pass the point too: the order is made by the process before, and expires in the one that dies.
    mesh.running["order_rpc"].terminate()
    mesh.start("order_rpc", env={"ORDER_RPC_PAYMENT_WINDOW_MINUTES": "0.02", "ORDER_RPC_SCAN_INTERVAL_SECONDS": "600"})
    crash._wait_reachable()
    order = crash.buyer.order(sku_id)
    mesh.running["order_rpc"].terminate()
    mesh.start("order_rpc", env={"ORDER_RPC_FAILPOINTS": f"{point}=kill"})
    crash.die_and_come_back()
    crash.ends(order["order_id"], EXPIRE[point])


@pytest.mark.skipif(not PROOF, reason="one transaction; tests/integration/test_order_shipping.py cuts it")
@pytest.mark.parametrize("point", points(SHIP) or SHIP)
def test_a_parcel_that_was_being_handed_over_goes_once(mesh: MeshProcesses, sku_id: str, point: str) -> None:
    crash = Crash(mesh, sku_id, point)
    order_id = crash.paid()["order_id"]
    crash.arm()
    parcel = {"carrier": "SF Express", "tracking_number": "SF-1"}
    crash.send(crash.shop, f"/api/v1/orders/{order_id}/ship", parcel)
    crash.die_and_come_back()
    assert crash.shop.post(f"/api/v1/orders/{order_id}/ship", parcel).status == 200
    entries = crash.buyer.get(f"/api/v1/orders/{order_id}/timeline").data["entries"]
    assert [entry["event"] for entry in entries] == ["CREATE", "PAY", "SHIP"]
    crash.ends(order_id, SHIP[point])


@pytest.mark.parametrize("point", points(REFUND))
def test_a_refund_that_was_cut_is_made_once(mesh: MeshProcesses, sku_id: str, point: str) -> None:
    crash = Crash(mesh, sku_id, point)
    order_id = crash.paid()["order_id"]
    crash.arm()
    crash.send(crash.buyer, f"/api/v1/orders/{order_id}/refund", {"reason": "too late"}, idempotency_key=f"key-{point}")
    crash.die_and_come_back()
    again = crash.buyer.post(f"/api/v1/orders/{order_id}/refund", {"reason": "too late"}, idempotency_key=f"key-{point}")
    assert again.status in (201, 202), again.text
    crash.ends(order_id, REFUND[point])
    assert [refund["state"] for refund in crash.buyer.get(f"/api/v1/orders/{order_id}/refunds").data["refunds"]] == ["SUCCEEDED"]
