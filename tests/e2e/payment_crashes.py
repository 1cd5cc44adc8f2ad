"""What happens when payment_rpc dies at each of its points: one story per point, some with
variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.e2e.crashes import Crash, Scenario
from tests.e2e.mesh_processes import DECLINED_CARD, Answer, press_pay, wait_until

Story = Callable[[Crash], None]
PRICE = "100.00"
SCENARIOS: list[Scenario] = []


def dies_at(*points: str, variant: str = "") -> Callable[[Story], Story]:
    """The story is told once for each of these points."""

    def register(story: Story) -> Story:
        SCENARIOS.extend(
            Scenario(point=point, variant=variant, service="payment_rpc", story=story)
            for point in points
        )
        return story

    return register


# --------------------------------------------------------------------------------------------------


def paid_once(crash: Crash, order: Mapping[str, Any], payment: Mapping[str, Any]) -> None:
    """We, the channel and the order say the same about an order that was paid by card."""
    assert payment["state"] == "SUCCESS", payment
    [capture] = crash.captures()
    assert (capture["amount"], capture["trade_no"]) == (
        payment["captured"],
        payment["channel_trade_no"],
    )
    assert capture["amount"] == order["amount"]
    crash.buyer.wait_paid(order["order_id"])


def pays_anew(crash: Crash, order: Mapping[str, Any], lost: Mapping[str, Any]) -> None:
    """A payment that was lost before the channel is final, its key says so for ever, and the order
    is free for another one.
    """
    assert (lost["state"], lost["failure"]["reason"]) == ("FAILED", "LOST_BEFORE_CHANNEL"), lost
    # the channel will never take it
    assert [transaction["status"] for transaction in crash.new_transactions()] == ["CLOSED"]
    again = crash.again(lambda: crash.buyer.charge(order, key=crash.key))
    assert again.status >= 400, again.text
    assert lost["payment_id"] in again.text
    new = crash.buyer.charge(order)
    assert new.status == 200, new.text
    paid_once(crash, order, new.data["payment"])


def final_payment(crash: Crash, order: Mapping[str, Any]) -> dict[str, Any]:
    """The only payment of the order as it ends, without anybody's help."""

    def final() -> dict[str, Any] | None:
        [payment] = crash.payments(order)
        return payment if payment["state"] in ("SUCCESS", "FAILED", "CLOSED") else None

    return wait_until(final, "end of the payment")


def same_key_replays(crash: Crash, call: Callable[[], Answer], payment_id: str) -> None:
    again = crash.again(call)
    assert (again.status, again.data["transaction_id"]) == (200, payment_id), again.text
    assert again.headers["idempotent-replayed"] == "true"


@dies_at("payment.charge.before_tx1")
def nothing_was_written(crash: Crash) -> None:
    order = crash.order()
    crash.strike(lambda: crash.buyer.charge(order, key=crash.key))
    if crash.is_kill:
        assert (crash.payments(order), crash.new_transactions()) == ([], [])
    answer = crash.again(lambda: crash.buyer.charge(order, key=crash.key))
    assert answer.status == 200, answer.text
    paid_once(crash, order, answer.data["payment"])


@dies_at(
    "payment.charge.after_tx1",
    "payment.charge.after_channel",
    "payment.fact.before_commit",
    "payment.fact.after_commit",
    "outbox.relay.after_send",
    "outbox.relay.after_settle",
)
def workers_finish_a_charge(crash: Crash) -> None:
    order = crash.order()
    crash.strike(lambda: crash.buyer.charge(order, key=crash.key))
    payment = final_payment(crash, order)
    if crash.is_kill and crash.point == "payment.charge.after_tx1":
        pays_anew(crash, order, payment)
        return
    paid_once(crash, order, payment)
    same_key_replays(crash, lambda: crash.buyer.charge(order, key=crash.key), payment["payment_id"])


@dies_at(
    "payment.charge.after_tx1",
    "payment.charge.after_channel",
    "payment.fact.before_commit",
    variant="same key",
)
def the_same_key_finishes_a_charge(crash: Crash) -> None:
    order = crash.order()
    crash.strike(lambda: crash.buyer.charge(order, key=crash.key))
    answer = crash.again(lambda: crash.buyer.charge(order, key=crash.key))
    [payment] = crash.payments(order)
    assert payment["payment_id"] in answer.text
    # a worker was quicker than the buyer: it asked before the lease was renewed
    if answer.status != 200:
        pays_anew(crash, order, payment)
        return
    paid_once(crash, order, answer.data["payment"])
    same_key_replays(crash, lambda: crash.buyer.charge(order, key=crash.key), payment["payment_id"])


@dies_at("payment.charge.after_tx1", variant="slow channel")
def a_call_that_outlasts_the_drain_of_a_server_is_finished(crash: Crash) -> None:
    order = crash.order(slow=True)
    answer = crash.strike(lambda: crash.buyer.charge(order, key=crash.key))
    payment = final_payment(crash, order)
    if crash.is_kill:
        assert payment["failure"]["reason"] == "LOST_BEFORE_CHANNEL"
        return
    assert (answer.status, answer.data["transaction_id"]) == (200, payment["payment_id"]), (
        answer.text
    )
    paid_once(crash, order, payment)
    same_key_replays(crash, lambda: crash.buyer.charge(order, key=crash.key), payment["payment_id"])


@dies_at("payment.charge.after_channel", variant="declined")
def a_decline_is_found_again(crash: Crash) -> None:
    order = crash.order()
    crash.strike(lambda: crash.buyer.charge(order, number=DECLINED_CARD, key=crash.key))
    payment = final_payment(crash, order)
    assert (payment["state"], payment["failure"]["reason"]) == ("FAILED", "CARD_DECLINED")
    assert [transaction["status"] for transaction in crash.new_transactions()] == ["DECLINED"]
    again = crash.again(lambda: crash.buyer.charge(order, number=DECLINED_CARD, key=crash.key))
    assert (again.status, payment["payment_id"] in again.text) == (402, True), again.text


# --------------------------------------------------------------------------------------------------


def open_cashier(crash: Crash, order: Mapping[str, Any], key: str = "") -> Answer:
    return crash.buyer.post(
        "/api/v1/payments",
        {"order_id": order["order_id"]},
        **({"idempotency_key": key} if key else {}),
    )


@dies_at("payment.external.after_register")
def an_order_of_a_merchant_and_its_payment_are_made_once(crash: Crash) -> None:
    body = {"order_id": crash.key, "amount": "9.00", "currency": "USD"}

    def create() -> Answer:
        return crash.clerk.post("/api/v1/payments", body)

    crash.strike(create)
    payment = crash.again(create).data
    assert payment["order_no"] == crash.key
    found = crash.clerk.get("/api/v1/payments", order_no=crash.key).data["payments"]
    assert [each["payment_id"] for each in found] == [payment["payment_id"]]
    orders = crash.clerk.get("/api/v1/orders", order_no=crash.key).data["orders"]
    assert [each["order_id"] for each in orders] == [payment["order_id"]]
    press_pay(payment["next_action"]["value"])
    wait_until(
        lambda: crash.clerk.get(f"/api/v1/orders/{crash.key}").data["state"] == "PAID", "PAID"
    )


@dies_at("payment.cashier.after_tx1")
def a_cashier_that_was_not_opened_is_lost_and_another_opens(crash: Crash) -> None:
    order = crash.order()
    crash.strike(lambda: open_cashier(crash, order, crash.key))
    if crash.is_kill:
        lost = final_payment(crash, order)
        assert lost["failure"]["reason"] == "LOST_BEFORE_CHANNEL"
        again = crash.again(lambda: open_cashier(crash, order, crash.key))
        assert (again.status >= 400, lost["payment_id"] in again.text) == (True, True), again.text
        opened = open_cashier(crash, order)
    else:
        opened = open_cashier(crash, order, crash.key)
        assert [payment["payment_id"] for payment in crash.payments(order)] == [
            opened.data["payment_id"]
        ]
    assert (opened.status, opened.data["next_action"]["kind"]) == (200, "REDIRECT_URL"), opened.text
    press_pay(opened.data["next_action"]["value"])
    crash.buyer.wait_paid(order["order_id"])
    paid_once(
        crash,
        order,
        crash.again(lambda: crash.buyer.get(f"/api/v1/payments/{opened.data['payment_id']}")).data,
    )


@dies_at(
    "payment.fact.before_commit",
    "payment.fact.after_commit",
    "outbox.relay.after_claim",
    variant="callback",
)
def a_callback_that_was_cut_comes_again_or_is_not_needed(crash: Crash) -> None:
    order = crash.order()
    opened = open_cashier(crash, order, crash.key)
    crash.strike(lambda: press_pay(opened.data["next_action"]["value"]))
    payment = final_payment(crash, order)
    paid_once(crash, order, payment)
    again = crash.again(lambda: open_cashier(crash, order, crash.key))
    assert (again.status, again.data["payment_id"], again.data["state"]) == (
        200,
        payment["payment_id"],
        "SUCCESS",
    ), again.text


@dies_at("payment.close.after_closing")
def a_payment_that_was_being_closed_is_closed(crash: Crash) -> None:
    order = crash.order()
    payment_id = open_cashier(crash, order).data["payment_id"]
    crash.strike(lambda: crash.buyer.post(f"/api/v1/payments/{payment_id}/cancel", {}))
    assert final_payment(crash, order)["state"] == "CLOSED"
    again = crash.again(lambda: crash.buyer.post(f"/api/v1/payments/{payment_id}/cancel", {}))
    assert (again.status, again.data["payment_id"], again.data["state"]) == (
        200,
        payment_id,
        "CLOSED",
    ), again.text
    assert [transaction["status"] for transaction in crash.new_transactions()] == ["CLOSED"]
    new = crash.buyer.charge(order)  # the order stayed payable
    assert new.status == 200, new.text
    paid_once(crash, order, new.data["payment"])


@dies_at("payment.gate.after_closed", "payment.close.after_closing", variant="order")
def an_order_whose_payments_were_being_closed_is_cancelled(crash: Crash) -> None:
    order = crash.order()
    open_cashier(crash, order)
    crash.strike(lambda: crash.buyer.post(f"/api/v1/orders/{order['order_id']}/cancel", {}))
    cancelled_without_money(crash, order)


@dies_at("payment.gate.after_closed")
def an_order_without_payments_is_cancelled(crash: Crash) -> None:
    order = crash.order()
    crash.strike(lambda: crash.buyer.post(f"/api/v1/orders/{order['order_id']}/cancel", {}))
    cancelled_without_money(crash, order)


def cancelled_without_money(crash: Crash, order: Mapping[str, Any]) -> None:
    wait_until(lambda: crash.buyer.state_of(order["order_id"]) == "CANCELLED", "CANCELLED")
    again = crash.again(lambda: crash.buyer.post(f"/api/v1/orders/{order['order_id']}/cancel", {}))
    assert (again.status, again.data["state"]) == (200, "CANCELLED"), again.text
    assert {payment["state"] for payment in crash.payments(order)} <= {"CLOSED"}
    assert {transaction["status"] for transaction in crash.new_transactions()} <= {"CLOSED"}
    late = crash.buyer.charge(order)
    assert late.status in (409, 422, 400), late.text
    assert crash.captures() == []


# --------------------------------------------------------------------------------------------------


@dies_at("payment.balance.before_commit", "payment.balance.after_commit")
def a_wallet_is_spent_once(crash: Crash) -> None:
    assert crash.buyer.top_up(PRICE, key=f"{crash.key}-before").status == 200
    order = crash.order()
    body = {"order_id": order["order_id"], "amount": order["amount"], "payment_method": "balance"}

    def spend() -> Answer:
        return crash.buyer.post("/api/v1/payments/charge", body, idempotency_key=crash.key)

    crash.strike(spend)
    written = crash.payments(order)
    assert len(written) == (
        0 if crash.is_kill and crash.point == "payment.balance.before_commit" else 1
    )
    answer = crash.again(spend)
    assert answer.status == 200, answer.text
    assert {payment["payment_id"] for payment in written} <= {answer.data["transaction_id"]}
    same_key_replays(crash, spend, answer.data["transaction_id"])
    assert float(crash.buyer.balance()) == 0
    crash.buyer.wait_paid(order["order_id"])


@dies_at("payment.top_up.after_tx1")
def a_top_up_that_was_not_sent_is_lost_and_another_one_counts(crash: Crash) -> None:
    crash.strike(lambda: crash.buyer.top_up(PRICE, key=crash.key))
    again = crash.again(lambda: crash.buyer.top_up(PRICE, key=crash.key))
    if again.status != 200:  # the worker was quicker than the buyer: lost for good
        assert crash.captures() == []
        assert crash.buyer.top_up(PRICE, key=f"{crash.key}-again").status == 200
    assert [capture["amount"] for capture in crash.captures()] == [PRICE]
    assert crash.buyer.balance() == PRICE


@dies_at(
    "payment.charge.after_channel",
    "payment.fact.before_commit",
    "payment.fact.after_commit",
    variant="top-up",
)
def a_top_up_counts_once(crash: Crash) -> None:
    crash.strike(lambda: crash.buyer.top_up(PRICE, key=crash.key))
    again = crash.again(lambda: crash.buyer.top_up(PRICE, key=crash.key))
    assert (again.status, again.data["payment"]["state"]) == (200, "SUCCESS"), again.text
    assert [capture["amount"] for capture in crash.captures()] == [PRICE]
    assert crash.buyer.balance() == PRICE


# --------------------------------------------------------------------------------------------------

REFUND_POINTS = (
    "payment.refund.after_tx1",
    "payment.refund.after_channel",
    "payment.refund_fact.before_commit",
    "payment.refund_fact.after_commit",
)
PART = "30.00"
REFUSED = "77.43"  # the sandbox refuses this refund


def paid(crash: Crash) -> tuple[dict[str, Any], dict[str, Any]]:
    """An order that was paid by card before anything is armed, and its payment."""
    order = crash.order()

    def charged() -> Answer | None:
        """Nothing while payment_rpc has not found the order_rpc again that the story before has
        killed: then nothing was attempted.
        """
        said = crash.buyer.charge(order)
        return None if said.status == 503 else said

    answer = wait_until(charged, "charge of an order")
    assert answer.status == 200, answer.text
    crash.buyer.wait_paid(order["order_id"])
    return order, answer.data["payment"]


def refund(crash: Crash, payment: Mapping[str, Any], amount: str) -> Answer:
    return crash.clerk.post(
        f"/api/v1/payments/{payment['payment_id']}/refunds",
        {"amount": amount},
        idempotency_key=crash.key,
    )


def refunds_of(crash: Crash, payment: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(
        crash.again(
            lambda: crash.clerk.get("/api/v1/refunds", payment_id=payment["payment_id"])
        ).data["refunds"]
    )


def ended(crash: Crash, payment: Mapping[str, Any]) -> dict[str, Any]:
    """The only refund of a payment as it ends, without anybody's help."""

    def final() -> dict[str, Any] | None:
        [found] = refunds_of(crash, payment)
        return found if found["state"] in ("SUCCESS", "FAILED") else None

    return wait_until(final, "end of the refund")


@dies_at(*REFUND_POINTS)
def workers_finish_a_refund(crash: Crash) -> None:
    order, payment = paid(crash)
    crash.strike(lambda: refund(crash, payment, PART))
    done = ended(crash, payment)
    assert (done["state"], done["amount"]) == ("SUCCESS", PART), done
    again = crash.again(lambda: refund(crash, payment, PART))
    assert (again.status, again.data["refund_id"]) == (201, done["refund_id"]), again.text
    given_back_once(crash, order, payment, PART)


@dies_at("payment.refund.after_tx1", "payment.refund.after_channel", variant="same key")
def the_same_key_finds_a_refund(crash: Crash) -> None:
    order, payment = paid(crash)
    crash.strike(lambda: refund(crash, payment, PART))
    again = crash.again(lambda: refund(crash, payment, PART))
    assert (again.status, again.data["refund_id"]) == (201, ended(crash, payment)["refund_id"]), (
        again.text
    )
    given_back_once(crash, order, payment, PART)


@dies_at("payment.refund.after_channel", "payment.refund_fact.before_commit", variant="refused")
def a_refusal_is_found_again_and_frees_the_money(crash: Crash) -> None:
    _, payment = paid(crash)
    crash.strike(lambda: refund(crash, payment, REFUSED))
    done = ended(crash, payment)
    assert done["state"] == "FAILED"
    again = crash.again(lambda: refund(crash, payment, REFUSED))
    assert (again.status >= 400, done["refund_id"] in again.text) == (True, True), again.text
    # nothing is reserved any more
    whole = crash.clerk.post(f"/api/v1/payments/{payment['payment_id']}/refunds", {})
    assert (whole.status, whole.data["amount"], whole.data["state"]) == (201, PRICE, "SUCCESS"), (
        whole.text
    )


@dies_at("payment.refund.after_tx1", "payment.refund_fact.after_commit", variant="order")
def a_refund_that_an_order_asked_for_is_made_once(crash: Crash) -> None:
    order, payment = paid(crash)
    path = f"/api/v1/orders/{order['order_id']}/refund"
    crash.strike(lambda: crash.buyer.post(path, {"reason": "too late"}, idempotency_key=crash.key))
    wait_until(lambda: crash.buyer.state_of(order["order_id"]) == "REFUNDED", "REFUNDED")
    again = crash.again(
        lambda: crash.buyer.post(path, {"reason": "too late"}, idempotency_key=crash.key)
    )
    assert again.status in (200, 201), again.text
    assert [
        request["state"]
        for request in crash.buyer.get(f"/api/v1/orders/{order['order_id']}/refunds").data[
            "refunds"
        ]
    ] == ["SUCCEEDED"]
    given_back_once(crash, order, payment, PRICE)


@dies_at("payment.refund_fact.before_commit", variant="wallet")
def a_wallet_gets_its_money_back_once(crash: Crash) -> None:
    assert crash.buyer.top_up(PRICE, key=f"{crash.key}-before").status == 200
    order = crash.order()
    body = {"order_id": order["order_id"], "amount": order["amount"], "payment_method": "balance"}
    payment = crash.buyer.post("/api/v1/payments/charge", body).data["payment"]
    crash.buyer.wait_paid(order["order_id"])
    crash.strike(lambda: refund(crash, payment, PART))
    assert crash.buyer.balance() == ("0.00" if crash.is_kill else PART)
    again = crash.again(lambda: refund(crash, payment, PART))
    assert (again.status, again.data["refund_id"]) == (201, ended(crash, payment)["refund_id"]), (
        again.text
    )
    assert (
        crash.again(lambda: refund(crash, payment, PART)).data["refund_id"]
        == again.data["refund_id"]
    )
    assert crash.buyer.balance() == PART


def given_back_once(
    crash: Crash, order: Mapping[str, Any], payment: Mapping[str, Any], amount: str
) -> None:
    """We, the channel and the order say the same about the money that went back."""
    [done] = refunds_of(crash, payment)
    [capture] = crash.captures()
    assert [
        (found["refund_id"], found["status"], found["amount"])
        for found in crash.books.refunds(capture["attempt_id"])
    ] == [(done["refund_id"], "SUCCESS", amount)]
    [after] = crash.payments(order)
    assert (after["state"], after["captured"], after["refunded"]) == ("SUCCESS", PRICE, amount)
    wait_until(
        lambda: (
            crash.clerk.get(f"/api/v1/payments/{payment['payment_id']}").data["refunded"] == amount
        ),
        "cache that knows of the refund",
    )
    wait_until(
        lambda: (
            crash.buyer.get(f"/api/v1/orders/{order['order_id']}").data["refunded_amount"] == amount
        ),
        "order that knows of the refund",
    )
