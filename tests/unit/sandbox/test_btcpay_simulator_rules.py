"""The simulated BTCPay Server: invoices and how they are paid, claims, webhooks, refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandbox.providers.btcpay import triggers
from sandbox.providers.btcpay.config import BTCPayConfig, delivery_rule, pause_seconds
from sandbox.providers.btcpay.signing import signature, written
from sandbox.providers.webhooks import Notice, Target
from tests.support.fakes import FakeClock
from tests.support.simulated_btcpay import STORE, BTCPayShop, btcpay_shop, invoice_body

MINUTE = 60
DAY = 86_400
VECTOR = {
    "deliveryId": "DEL0001",
    "webhookId": "WH0001",
    "originalDeliveryId": "DEL0001",
    "isRedelivery": False,
    "type": "InvoiceSettled",
    "timestamp": 1795176000,
    "storeId": "STORE1",
    "invoiceId": "INV0001",
    "metadata": {"orderId": "ATT0001"},
    "manuallyMarked": False,
    "overPaid": False,
}
VECTOR_SECRET = "paymesh-btcpay-test-secret"
VECTOR_SIGNATURE = "sha256=c033596436e4cea02e0d6898a0b99e5af4fb588c99bad7fa4a29126bfe408736"


@pytest.fixture
async def shop() -> AsyncIterator[BTCPayShop]:
    async with btcpay_shop(FakeClock()) as it:
        yield it


# --- signing ----------------------------------------------------------------------------------------


def test_the_vector_is_signed_as_it_stands() -> None:
    body = written(VECTOR)
    assert len(body) == 312
    assert signature(VECTOR_SECRET, body) == VECTOR_SIGNATURE


def test_what_is_not_the_vector_has_another_signature() -> None:
    compact = json.dumps(VECTOR, separators=(",", ":")).encode()
    assert signature(VECTOR_SECRET, compact) != VECTOR_SIGNATURE
    assert signature("another secret", written(VECTOR)) != VECTOR_SIGNATURE
    assert signature(VECTOR_SECRET, written(VECTOR | {"overPaid": True})) != VECTOR_SIGNATURE


def test_the_rule_renders_the_vector_and_a_repetition_with_another_id() -> None:
    rule = delivery_rule(BTCPayConfig(), FakeClock())
    event = dict(list(VECTOR.items())[4:])
    notice = Notice(id="DEL0001", kind="InvoiceSettled", body=json.dumps(event).encode())
    target = Target(url="http://shop.test", secret=VECTOR_SECRET)
    first = rule.render(notice, target, 1)
    assert first.headers["btcpay-sig"] == VECTOR_SIGNATURE
    second = json.loads(rule.render(notice, target, 2).body)
    assert second["isRedelivery"] is True
    assert second["originalDeliveryId"] == "DEL0001" != second["deliveryId"]


@pytest.mark.parametrize("status", [None, 500, 503, 408, 429])
def test_a_failed_delivery_is_repeated_eight_times(status: int | None) -> None:
    pauses = [pause_seconds(tries, status) for tries in range(1, 10)]
    assert pauses == [10, 60, 600, 600, 600, 600, 600, 600, None]


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_delivery_that_was_refused_is_never_repeated(status: int) -> None:
    assert pause_seconds(1, status) is None


# --- how an invoice is paid -------------------------------------------------------------------------


async def test_an_invoice_is_paid_on_its_page(shop: BTCPayShop) -> None:
    made = await shop.create()
    assert (made["status"], made["additionalStatus"], made["type"]) == ("New", "None", "Standard")
    assert made["expirationTime"] - made["createdTime"] == 15 * MINUTE
    assert made["monitoringExpiration"] - made["expirationTime"] == DAY
    page = await shop.client.get(made["checkoutLink"])
    assert "bitcoin:" in page.text
    assert (await shop.client.post(made["checkoutLink"])).status_code == 303
    assert await shop.state(made["id"]) == "Processing/None"
    assert shop.moved() == []
    await shop.advance(MINUTE)
    assert await shop.state(made["id"]) == "Settled/None"
    assert shop.moved() == [("capture", "99.99")]
    assert shop.events() == [
        "InvoiceCreated",
        "InvoiceReceivedPayment",
        "InvoiceProcessing",
        "InvoicePaymentSettled",
        "InvoiceSettled",
    ]


@pytest.mark.parametrize(
    ("digits", "states", "moved"),
    [
        # right after paying, after a minute, after the expiry and two minutes, after monitoring
        (11, "New/PaidPartial New/PaidPartial Expired/PaidPartial Expired/PaidPartial", ["5.06"]),
        (12, "Processing/PaidOver Settled/PaidOver Settled/PaidOver Settled/PaidOver", ["11.13"]),
        (13, "Processing/None Processing/None Processing/None Invalid/None", []),
        (14, "New/None New/None Settled/PaidLate Settled/PaidLate", ["10.14"]),
        (15, "New/None New/None Expired/PaidPartial Expired/PaidPartial", ["5.08"]),
        (16, "New/None New/None Settled/PaidLate Settled/PaidLate", ["11.18"]),
        (17, "New/None New/None Expired/None Expired/None", ["10.17"]),
        (18, "New/None New/None Expired/PaidLate Invalid/PaidLate", []),
        (21, "Settled/Marked Settled/Marked Settled/Marked Settled/Marked", []),
        (22, "Invalid/Marked Invalid/Marked Invalid/Marked Invalid/Marked", []),
        (23, "Settled/Marked Settled/Marked Settled/Marked Settled/Marked", []),
        (24, "New/PaidPartial Processing/None Settled/None Settled/None", ["5.12", "5.12"]),
    ],
)
async def test_an_invoice_is_paid_as_its_amount_asks_for(
    shop: BTCPayShop, digits: int, states: str, moved: list[str]
) -> None:
    made = await shop.create(amount=f"10.{digits}")
    await shop.deed(made["id"], "pay")
    found = [await shop.state(made["id"])]
    for seconds in (MINUTE, 16 * MINUTE + 1, DAY + MINUTE):
        await shop.advance(seconds)
        found.append(await shop.state(made["id"]))
    assert found == states.split()
    assert [amount for _kind, amount in shop.moved()] == moved


async def test_a_clock_that_jumps_over_the_whole_life_changes_no_order(shop: BTCPayShop) -> None:
    made = await shop.create(amount="10.14")
    await shop.deed(made["id"], "pay")
    await shop.advance(3 * DAY)
    assert await shop.state(made["id"]) == "Settled/PaidLate"


async def test_a_late_payment_sends_no_event_of_settling(shop: BTCPayShop) -> None:
    made = await shop.create()
    await shop.deed(made["id"], "pay_late")
    assert await shop.state(made["id"]) == "Expired/PaidLate"
    await shop.advance(MINUTE)
    assert await shop.state(made["id"]) == "Settled/PaidLate"
    assert shop.events() == [
        "InvoiceCreated",
        "InvoiceExpired",
        "InvoiceReceivedPayment",
        "InvoicePaidAfterExpiration",
        "InvoicePaymentSettled",
    ]


async def test_an_invoice_that_is_partly_paid_tells_so_when_it_expires(shop: BTCPayShop) -> None:
    made = await shop.create()
    await shop.deed(made["id"], "pay_partial")
    await shop.deed(made["id"], "expire")
    assert shop.events()[-2:] == ["InvoiceExpired", "InvoiceExpiredPaidPartial"]
    expired = json.loads(shop.simulation.deliveries.deliveries[-2].notice.body)
    assert expired["partiallyPaid"] is True


async def test_a_fast_invoice_is_settled_without_a_confirmation(shop: BTCPayShop) -> None:
    made = await shop.create(invoice_body(speedPolicy="HighSpeed"))
    await shop.deed(made["id"], "pay_full")
    assert await shop.state(made["id"]) == "Settled/None"


@pytest.mark.parametrize(
    ("tolerance", "state"),
    [(0, "New/PaidPartial"), (49, "New/PaidPartial"), (50, "Processing/None")],
)
async def test_a_tolerance_settles_less_than_the_amount(
    shop: BTCPayShop, tolerance: int, state: str
) -> None:
    made = await shop.create(invoice_body(paymentTolerance=tolerance))
    await shop.deed(made["id"], "pay_partial")
    assert await shop.state(made["id"]) == state


async def test_an_invoice_for_any_amount_is_settled_by_any_payment(shop: BTCPayShop) -> None:
    made = await shop.create(invoice_body(None))
    assert (made["type"], made["amount"]) == ("TopUp", "0")
    await shop.deed(made["id"], "pay")
    await shop.advance(MINUTE)
    assert await shop.state(made["id"]) == "Settled/None"
    assert shop.moved() == [("capture", "50.00")]


async def test_the_payments_of_an_invoice_are_listed(shop: BTCPayShop) -> None:
    made = await shop.create(amount="10.00")
    path = f"/api/v1/invoices/{made['id']}/payment-methods"
    [before] = (await shop.client.get(path)).json()
    assert (before["amount"], before["due"], before["rate"]) == (
        "0.00020000",
        "0.00020000",
        "50000.00",
    )
    assert before["paymentLink"].endswith("?amount=0.00020000")
    await shop.deed(made["id"], "pay_partial")
    [after] = (await shop.client.get(path)).json()
    assert (after["totalPaid"], after["due"]) == ("0.00010000", "0.00010000")
    assert [one["status"] for one in after["payments"]] == ["Processing"]
    assert (await shop.invoice(made["id"]))["paidAmount"] == "5.00"
    await shop.deed(made["id"], "pay_full")
    [over] = (await shop.client.get(path)).json()
    assert over["due"] == "-0.00010000"


# --- what the shop asks for -------------------------------------------------------------------------


async def test_nothing_is_unique_and_invoices_are_found_by_order_id(shop: BTCPayShop) -> None:
    first, second = await shop.create(), await shop.create()
    await shop.create(own_id="ATT0002")
    found = (await shop.client.get(f"{STORE}/invoices", params={"orderId": "ATT0001"})).json()
    assert [one["id"] for one in found] == [second["id"], first["id"]]
    page = await shop.client.get(f"{STORE}/invoices", params={"skip": 1, "take": 1})
    assert [one["id"] for one in page.json()] == [second["id"]]
    none = await shop.client.get(f"{STORE}/invoices", params={"status": "Settled"})
    assert none.json() == []
    later = await shop.client.get(f"{STORE}/invoices", params={"startDate": 1795176001})
    assert later.json() == []


async def test_an_archived_invoice_is_hidden_and_can_still_be_paid(shop: BTCPayShop) -> None:
    made = await shop.create()
    path = f"/api/v1/invoices/{made['id']}"
    assert (await shop.client.delete(path)).status_code == 200
    assert (await shop.client.get(f"{STORE}/invoices")).json() == []
    shown = await shop.client.get(f"{STORE}/invoices", params={"includeArchived": "true"})
    assert len(shown.json()) == 1
    await shop.deed(made["id"], "pay_full")
    await shop.advance(MINUTE)
    assert shop.moved() == [("capture", "99.99")]
    assert (await shop.client.post(f"{path}/unarchive")).json()["archived"] is False


async def test_a_human_marks_an_invoice_and_no_coin_moves(shop: BTCPayShop) -> None:
    made = await shop.create()
    path = f"/api/v1/invoices/{made['id']}/status"
    marked = (await shop.client.post(path, json={"status": "Settled"})).json()
    assert (marked["status"], marked["additionalStatus"]) == ("Settled", "Marked")
    assert marked["availableStatusesForManualMarking"] == ["Invalid"]
    again = await shop.client.post(path, json={"status": "Settled"})
    assert (again.status_code, again.json()[0]["path"]) == (422, "status")
    assert shop.moved() == []
    event = json.loads(shop.simulation.deliveries.deliveries[-1].notice.body)
    assert (event["type"], event["manuallyMarked"]) == ("InvoiceSettled", True)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"currency": "XXX"}, "currency"),
        ({"currency": 840}, "currency"),
        ({"amount": 9.99}, "amount"),
        ({"amount": "9.999"}, "amount"),
        ({"amount": "-1"}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"amount": None, "type": "Standard"}, "amount"),
        ({"checkout": {"speedPolicy": "Warp"}}, "checkout.speedPolicy"),
        ({"checkout": {"paymentTolerance": 101}}, "checkout.paymentTolerance"),
        ({"checkout": {"expirationMinutes": 0}}, "checkout.expirationMinutes"),
        ({"metadata": "ATT0001"}, "metadata"),
        ({"surprise": 1}, ""),
    ],
)
async def test_a_body_that_is_no_invoice_is_refused(
    shop: BTCPayShop, change: dict[str, Any], path: str
) -> None:
    answer = await shop.client.post(f"{STORE}/invoices", json=invoice_body() | change)
    assert (answer.status_code, answer.json()[0]["path"]) == (422, path)


async def test_text_that_is_no_json_is_refused(shop: BTCPayShop) -> None:
    assert (await shop.client.post(f"{STORE}/invoices", content=b"{")).status_code == 422


async def test_a_server_whose_node_lags_makes_no_invoice(shop: BTCPayShop) -> None:
    answer = await shop.client.post(f"{STORE}/invoices", json=invoice_body("10.31"))
    assert (answer.status_code, answer.json()["code"]) == (503, "payment-method-unavailable")
    assert (await shop.client.get(f"{STORE}/invoices")).json() == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/invoices/NONE", "invoice-not-found"),
        ("/api/v1/stores/OTHER/invoices", "store-not-found"),
        ("/api/v1/pull-payments/NONE", "pullpayment-not-found"),
        ("/api/v1/nothing", "not-found"),
    ],
)
async def test_what_is_not_there_is_404(shop: BTCPayShop, path: str, code: str) -> None:
    answer = await shop.client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, code)


async def test_a_key_opens_what_it_has_rights_for(shop: BTCPayShop) -> None:
    info = "/api/v1/server/info"
    assert (await shop.client.get(info)).json()["fullySynched"] is True
    assert (await shop.client.get(STORE)).json()["id"] == "STORE1"
    for header in ("", "token wrong", f"Bearer {shop.simulation.config.api_key}"):
        answer = await shop.client.get(info, headers={"authorization": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    looks = {"authorization": f"token {shop.simulation.config.view_key}"}
    assert (await shop.client.get(f"{STORE}/invoices", headers=looks)).status_code == 200
    answer = await shop.client.post(f"{STORE}/invoices", headers=looks, json=invoice_body())
    assert (answer.status_code, answer.json()["code"]) == (403, "missing-permission")


# --- claims -----------------------------------------------------------------------------------------


async def test_a_refund_is_paid_when_the_buyer_has_claimed_it(shop: BTCPayShop) -> None:
    invoice_id = await shop.paid()
    claim = (
        await shop.refund(
            invoice_id,
            refundVariant="Custom",
            customAmount="10.00",
            customCurrency="USD",
            name="RF1",
            payoutMethods=["BTC-CHAIN"],
        )
    ).json()
    assert (claim["name"], claim["amount"], claim["currency"]) == ("RF1", "10.00", "USD")
    payouts = f"/api/v1/pull-payments/{claim['id']}/payouts"
    assert (await shop.client.get(payouts)).json() == []
    assert "10.00" in (await shop.client.get(claim["viewLink"])).text
    assert (await shop.client.post(claim["viewLink"])).status_code == 303
    states = []
    for _ in range(3):
        [payout] = (await shop.client.get(payouts)).json()
        states.append(payout["state"])
        await shop.advance(MINUTE)
    assert states == ["AwaitingPayment", "InProgress", "Completed"]
    assert shop.moved() == [("capture", "99.99"), ("refund", "10.00")]
    assert len((await shop.client.get(f"{STORE}/payouts")).json()) == 1
    assert shop.events()[-4:] == [
        "PayoutCreated",
        "PayoutApproved",
        "PayoutUpdated",
        "PayoutUpdated",
    ]


@pytest.mark.parametrize(
    ("digits", "state"), [(41, "AwaitingApproval"), (42, "Cancelled"), (43, "InProgress")]
)
async def test_a_payout_becomes_what_its_amount_asks_for(
    shop: BTCPayShop, digits: int, state: str
) -> None:
    invoice_id = await shop.paid()
    custom = {"customAmount": f"10.{digits}", "customCurrency": "USD"}
    claim = (await shop.refund(invoice_id, refundVariant="Custom", **custom)).json()
    await shop.deed(claim["id"], "claim")
    await shop.advance(10 * MINUTE)
    path = f"/api/v1/pull-payments/{claim['id']}/payouts"
    [payout] = (await shop.client.get(path, params={"includeCancelled": "true"})).json()
    assert payout["state"] == state
    shown = (await shop.client.get(path)).json()
    assert len(shown) == (0 if state == "Cancelled" else 1)
    assert shop.moved() == [("capture", "99.99")]


async def test_asking_twice_makes_two_claims(shop: BTCPayShop) -> None:
    invoice_id = await shop.paid()
    first = (await shop.refund(invoice_id, refundVariant="Fiat", name="RF1")).json()
    second = (await shop.refund(invoice_id, refundVariant="Fiat", name="RF1")).json()
    assert first["id"] != second["id"]
    found = (await shop.client.get(f"{STORE}/pull-payments")).json()
    assert [one["name"] for one in found] == ["RF1", "RF1"]


@pytest.mark.parametrize(
    ("variant", "amount", "currency"),
    [
        ("Fiat", "100.00", "USD"),
        ("RateThen", "0.00200000", "BTC"),
        ("CurrentRate", "0.00200000", "BTC"),
        ("OverpaidAmount", "0.00020000", "BTC"),
    ],
)
async def test_a_claim_is_written_as_its_variant_asks_for(
    shop: BTCPayShop, variant: str, amount: str, currency: str
) -> None:
    made = await shop.create(amount="100.00")
    await shop.deed(made["id"], "pay_over")
    claim = (await shop.refund(made["id"], refundVariant=variant)).json()
    assert (claim["amount"], claim["currency"]) == (amount, currency)


async def test_a_percentage_is_kept(shop: BTCPayShop) -> None:
    invoice_id = await shop.paid("100.00")
    claim = (await shop.refund(invoice_id, refundVariant="Fiat", subtractPercentage=5)).json()
    assert claim["amount"] == "95.00"
    claim = (await shop.refund(invoice_id, refundVariant="Fiat", subtractPercentage="2.1")).json()
    assert claim["amount"] == "97.90"


async def test_a_claim_is_looked_at_without_a_key(shop: BTCPayShop) -> None:
    claim = (await shop.refund(await shop.paid(), refundVariant="Fiat")).json()
    path = f"/api/v1/pull-payments/{claim['id']}"
    for address in (path, f"{path}/payouts"):
        answer = await shop.client.get(address, headers={"authorization": ""})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("sent", "path"),
    [
        ({"refundVariant": "Everything"}, "refundVariant"),
        ({"refundVariant": "OverpaidAmount"}, "refundVariant"),
        ({"refundVariant": "Custom"}, "customAmount"),
        ({"refundVariant": "Custom", "customAmount": "1"}, "customAmount"),
        (
            {"refundVariant": "Custom", "customAmount": "0", "customCurrency": "USD"},
            "customAmount",
        ),
        (
            {"refundVariant": "Custom", "customAmount": "1", "customCurrency": "XXX"},
            "customCurrency",
        ),
        ({"refundVariant": "Fiat", "subtractPercentage": "x"}, "subtractPercentage"),
        ({"refundVariant": "Fiat", "subtractPercentage": 100}, "subtractPercentage"),
        ({}, ""),
    ],
)
async def test_a_refund_that_is_none_is_refused(
    shop: BTCPayShop, sent: dict[str, Any], path: str
) -> None:
    answer = await shop.refund(await shop.paid(), **sent)
    assert (answer.status_code, answer.json()[0]["path"]) == (422, path)


async def test_an_unpaid_invoice_is_not_refunded(shop: BTCPayShop) -> None:
    answer = await shop.refund((await shop.create())["id"], refundVariant="Fiat")
    assert (answer.status_code, answer.json()["code"]) == (400, "non-refundable")


async def test_a_claim_is_claimed_once(shop: BTCPayShop) -> None:
    claim = (await shop.refund(await shop.paid(), refundVariant="Fiat")).json()
    assert (await shop.deed(claim["id"], "claim")).status_code == 200
    assert (await shop.deed(claim["id"], "claim")).status_code == 409


# --- webhooks and the table -------------------------------------------------------------------------


async def test_a_webhook_is_registered_and_a_delivery_is_sent_again(shop: BTCPayShop) -> None:
    hooks = f"{STORE}/webhooks"
    sent = {"url": "http://shop.test/hook", "secret": "mine"}
    made = (await shop.client.post(hooks, json=sent)).json()
    assert (made["secret"], made["url"]) == ("mine", "http://shop.test/hook")
    [listed] = (await shop.client.get(hooks)).json()
    assert "secret" not in listed
    await shop.create()
    path = f"{hooks}/{made['id']}/deliveries"
    [delivery] = (await shop.client.get(path)).json()
    again = await shop.client.post(f"{path}/{delivery['id']}/redeliver")
    assert again.json() == delivery["id"]
    first, second = shop.simulation.deliveries.deliveries
    rule = delivery_rule(shop.simulation.config, FakeClock())
    target = Target(url="", secret="mine")
    bodies = [json.loads(rule.render(one.notice, target, 1).body) for one in (first, second)]
    assert [body["isRedelivery"] for body in bodies] == [False, True]
    assert len({body["originalDeliveryId"] for body in bodies}) == 1
    assert len({body["deliveryId"] for body in bodies}) == 2
    assert (await shop.client.post(f"{path}/NONE/redeliver")).status_code == 404
    assert (await shop.client.delete(f"{hooks}/{made['id']}")).status_code == 200
    assert (await shop.client.get(f"{hooks}/{made['id']}")).status_code == 404


@pytest.mark.parametrize("deed", ["dance", "pay"])
async def test_a_deed_that_is_none_is_refused(shop: BTCPayShop, deed: str) -> None:
    assert (await shop.deed("NONE", deed)).status_code == 409


async def test_a_deed_finds_the_newest_invoice_of_an_order(shop: BTCPayShop) -> None:
    await shop.create()
    made = await shop.create()
    sent = {"own_id": "ATT0001", "does": "pay"}
    answer = await shop.client.post("/_sim/buyer", json=sent)
    assert answer.json() == {"ref": made["id"], "status": "Processing"}


def test_every_trigger_stands_in_the_table() -> None:
    known = {*triggers.COURSES, *triggers.PAYOUTS, triggers.UNAVAILABLE}
    lines = (triggers.__doc__ or "").splitlines()
    assert {int(line[2:4]) for line in lines if line[2:4].isdigit()} == known
