"""What happens when order_rpc dies at each of its points: one story per point, some with
variants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.e2e.crashes import Crash, Scenario
from tests.e2e.mesh_processes import Answer, wait_until
from tests.e2e.payment_crashes import PRICE, given_back_once, paid, paid_once, same_key_replays

Story = Callable[[Crash], None]
SCENARIOS: list[Scenario] = []


def dies_at(*points: str, variant: str = "") -> Callable[[Story], Story]:
    """The story is told once for each of these points."""

    def register(story: Story) -> Story:
        SCENARIOS.extend(
            Scenario(point=point, variant=variant, service="order_rpc", story=story)
            for point in points
        )
        return story

    return register


def ends(crash: Crash, order_id: str, state: str) -> None:
    wait_until(lambda: crash.buyer.state_of(order_id) == state, state)


@dies_at("order.create.before_commit", "order.create.after_commit")
def an_order_is_made_once(crash: Crash) -> None:
    body = {"items": [{"sku_id": crash.mesh.sku_id, "quantity": 2}]}

    def create() -> Answer:
        return crash.buyer.post("/api/v1/orders", body, idempotency_key=crash.key)

    crash.strike(create)
    order_id = crash.again(create).data["order_id"]
    assert [order["order_id"] for order in crash.buyer.get("/api/v1/orders").data["orders"]] == [
        order_id
    ]
    assert crash.buyer.state_of(order_id) == "PENDING_PAYMENT"
    assert crash.buyer.post(f"/api/v1/orders/{order_id}/cancel", {}).status in (200, 202)
    ends(crash, order_id, "CANCELLED")


@dies_at("order.external.before_commit", "order.external.after_commit")
def an_order_of_a_merchant_is_made_once(crash: Crash) -> None:
    item = {"sku_id": "A-BIKE", "product_name": "A bike", "quantity": 1, "unit_price": "9.00"}
    body = {"order_no": crash.key, "currency": "USD", "items": [item]}

    def create() -> Answer:
        return crash.clerk.post("/api/v1/orders", body)

    crash.strike(create)
    order = crash.again(create).data
    found = crash.clerk.get("/api/v1/orders", order_no=crash.key).data["orders"]
    assert [each["order_id"] for each in found] == [order["order_id"]]
    assert crash.clerk.post(f"/api/v1/orders/{crash.key}/cancel", {}).status in (200, 202)


@dies_at("order.cancel.after_begin", "order.cancel.before_commit")
@dies_at("outbox.relay.after_send", "outbox.relay.after_settle", variant="cancel")
def a_cancel_is_finished(crash: Crash) -> None:
    order_id = crash.order()["order_id"]

    def cancel() -> Answer:
        return crash.buyer.post(f"/api/v1/orders/{order_id}/cancel", {"reason": "changed my mind"})

    crash.strike(cancel)
    ends(crash, order_id, "CANCELLED")
    again = crash.again(cancel)
    assert (again.status, again.data["state"]) == (200, "CANCELLED"), again.text
    entries = crash.buyer.get(f"/api/v1/orders/{order_id}/timeline").data["entries"]
    assert [entry["event"] for entry in entries] == ["CREATE", "BEGIN_CANCEL", "CANCEL"]


@dies_at("order.expire.before_commit", "order.expire.after_commit")
@dies_at("outbox.relay.after_claim", variant="expire")
def an_expiry_is_finished(crash: Crash) -> None:
    order_id = crash.order()["order_id"]

    def time_passes() -> None:
        crash.mesh.execute(
            "order_rpc",
            "UPDATE orders SET expires_at = created_at WHERE order_id = :order_id",
            order_id=order_id,
        )

    crash.strike(time_passes)
    ends(crash, order_id, "CANCELLED")
    entries = crash.buyer.get(f"/api/v1/orders/{order_id}/timeline").data["entries"]
    assert [entry["event"] for entry in entries] == ["CREATE", "BEGIN_CANCEL", "CANCEL"]


@dies_at("order.ship.before_commit", "order.ship.after_commit")
def a_parcel_goes_once(crash: Crash) -> None:
    order, _ = paid(crash)
    path, parcel = (
        f"/api/v1/orders/{order['order_id']}/ship",
        {"carrier": "SF Express", "tracking_number": "SF-1"},
    )
    crash.strike(lambda: crash.clerk.post(path, parcel))
    assert crash.again(lambda: crash.clerk.post(path, parcel)).status == 200
    entries = crash.buyer.get(f"/api/v1/orders/{order['order_id']}/timeline").data["entries"]
    assert [entry["event"] for entry in entries] == ["CREATE", "PAY", "SHIP"]
    ends(crash, order["order_id"], "SHIPPED")


@dies_at("order.refund.before_commit", "order.refund.after_commit")
def a_refund_is_made_once(crash: Crash) -> None:
    order, payment = paid(crash)
    path = f"/api/v1/orders/{order['order_id']}/refund"

    def ask() -> Answer:
        return crash.buyer.post(path, {"reason": "too late"}, idempotency_key=crash.key)

    crash.strike(ask)
    first = crash.again(ask)
    assert first.status in (200, 201), first.text
    assert crash.again(ask).data["request_id"] == first.data["request_id"]
    ends(crash, order["order_id"], "REFUNDED")
    requests: list[dict[str, Any]] = crash.buyer.get(
        f"/api/v1/orders/{order['order_id']}/refunds"
    ).data["refunds"]
    assert [(request["request_id"], request["state"]) for request in requests] == [
        (first.data["request_id"], "SUCCEEDED")
    ]
    given_back_once(crash, order, payment, PRICE)


@dies_at("order.update_status.before_commit", "order.update_status.after_commit")
def an_order_hears_of_its_money_once(crash: Crash) -> None:
    order = crash.order()
    answer = crash.strike(lambda: crash.buyer.charge(order, key=crash.key))
    assert answer.status == 200, answer.text  # the money is there, whatever became of the order
    payment = answer.data["payment"]
    paid_once(crash, order, payment)
    same_key_replays(crash, lambda: crash.buyer.charge(order, key=crash.key), payment["payment_id"])
    entries = crash.buyer.get(f"/api/v1/orders/{order['order_id']}/timeline").data["entries"]
    assert [entry["event"] for entry in entries] == ["CREATE", "PAY"]
