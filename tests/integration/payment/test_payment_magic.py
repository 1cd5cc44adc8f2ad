"""Every magic amount of the sandbox ends as docs/sandbox.md says, with balanced books that agree
with the channel to the cent.

The tables of that page are the expectations here, so the page cannot lie.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.call import Caller, Role
from mesh.money import Money, RequestedAmount
from payment_rpc.domain.errors import RefundFailed
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.domain.refund import RefundState
from payment_rpc.tables import ATTEMPT, LEDGER_POSTING, PAYMENT, REFUND
from payment_rpc.usecases.refund_start import CreateRefund
from sandbox.misbehaviour import PAYMENTS, REFUNDS
from tests.builders.payment import VISA, PaymentWorld, payment_world
from tests.support.sandbox_server import API_KEY

# What a channel answers does not depend on the database.
pytestmark = pytest.mark.one_database

PAGE = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text()
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|\n").split("|")]
    for line in PAGE.splitlines()
    if re.match(r"\| 77\d\d \|", line)
]
PAYMENT_ROWS = [
    (int(digits), name, taken, cancelled)
    for digits, name, taken, cancelled, _ in (row for row in ROWS if len(row) == 5)
]
REFUND_ROWS = [
    (int(digits), name, end) for digits, name, end, _ in (row for row in ROWS if len(row) == 4)
]
CLERK = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")
ATTENTION = {
    "captures_less": ["AMOUNT_CONFLICT"],
    "captures_more": ["AMOUNT_CONFLICT"],
    "wrong_currency": ["AMOUNT_CONFLICT"],
    "second_capture": ["SECOND_CAPTURE"],
}


@pytest.fixture
async def world(
    database_url_factory: Callable[[], str], tmp_path: Path
) -> AsyncIterator[PaymentWorld]:
    async with payment_world(
        database_url_factory(),
        database_url_factory(),
        tmp_path,
        channel_timeout_seconds=0.4,
        fee_basis_points=60,
    ) as world:
        yield world


def test_the_page_has_every_magic_amount() -> None:
    assert [(digits, name) for digits, name, *_ in PAYMENT_ROWS] == [
        (digits, name) for digits, (name, _) in PAYMENTS.items()
    ]
    assert [(digits, name) for digits, name, _ in REFUND_ROWS] == [
        (digits, name) for digits, (name, _) in REFUNDS.items()
    ]


async def until_quiet(world: PaymentWorld, *, minutes: int = 90) -> None:
    """Time passes and everybody works until nobody has anything to do."""
    for _ in range(minutes // 5):
        world.clock.advance(300)
        for _ in range(20):
            done = [
                await step()
                for step in (
                    world.app.expiry.run_once,
                    world.sandbox.sandbox.run_once,
                    world.app.polling.run_once,
                    world.app.refunds.run_once,
                    world.app.order_relay.run_once,
                )
            ]
            if not any(done):
                break
        else:
            raise AssertionError(f"no end of work: {done}")


async def at_channel(world: PaymentWorld) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """What the channel holds: captured − refunded per attempt, and what it owes us (fees kept), per
    currency.
    """
    held: dict[str, Counter[str]] = {}
    owed: Counter[str] = Counter()
    async with httpx.AsyncClient(
        trust_env=False,
        base_url=world.sandbox.base_url,
        headers={"authorization": f"Bearer {API_KEY}"},
    ) as client:
        for transaction in await world.at_sandbox():
            if transaction["status"] != "CAPTURED":
                continue
            currency = transaction["currency"]
            of_attempt = held.setdefault(transaction["attempt_id"], Counter())
            of_attempt[currency] += minor(transaction["amount"], currency)
            owed[currency] += minor(transaction["amount"], currency) - minor(
                transaction["fee"], currency
            )
            for refund in (
                await client.get(f"/v1/transactions/{transaction['attempt_id']}/refunds")
            ).json()["refunds"]:
                if refund["status"] == "SUCCESS":
                    of_attempt[currency] -= minor(refund["amount"], currency)
                    owed[currency] -= minor(refund["amount"], currency)
                owed[currency] += minor(refund["fee_returned"] or "0", currency)
    return held, owed


async def in_our_books(world: PaymentWorld) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """The same by our rows, and by the ledger."""
    held: dict[str, Counter[str]] = {}
    for row in await world.rows(ATTEMPT):
        if row["captured_minor"] is not None:
            held.setdefault(row["attempt_id"], Counter())[row["captured_currency"]] += row[
                "captured_minor"
            ]
    for row in await world.rows(REFUND):
        if row["state"] == "SUCCESS":
            held[row["attempt_id"]][row["currency"]] -= row["amount_minor"]
    owed: Counter[str] = Counter()
    for row in await world.rows(LEDGER_POSTING):
        if row["account"].startswith("channel_receivable:"):
            owed[row["currency"]] += (
                row["amount_minor"] if row["side"] == "D" else -row["amount_minor"]
            )
    return held, owed


def minor(text: str, currency: str) -> int:
    return Money.parse(text, currency, allow_zero=True).minor


async def assert_at_rest(world: PaymentWorld) -> None:
    """Nothing is open, the books are whole, and the channel holds what we think it does."""
    assert [
        row
        for row in await world.rows(ATTEMPT) + await world.rows(REFUND)
        if row["next_query_at"] is not None
    ] == []
    assert {row["state"] for row in await world.rows(PAYMENT)}.isdisjoint(
        {"INIT", "PAYING", "CLOSING", "LATE_SUCCESS"}
    )
    assert await world.ledger_problems() == []
    assert await in_our_books(world) == await at_channel(world)


async def pay(world: PaymentWorld, digits: int, *, number: str = VISA) -> Payment:
    return await world.charge(
        await world.order(Money(10_000 + digits, "CNY").format()), number=number
    )


async def pay_whatever_is_answered(world: PaymentWorld, digits: int) -> str:
    # a decline is an answer too; the row says what became of it
    with contextlib.suppress(Exception):
        await pay(world, digits)
    [row] = await world.rows(PAYMENT)
    return str(row["payment_id"])


async def give_back(world: PaymentWorld, payment: Payment, amount: str = "") -> None:
    with contextlib.suppress(RefundFailed):
        command = CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount(amount),
            reason="",
            request_id="",
            key="",
        )
        await world.app.refunds.create_refund(command, CLERK)


@pytest.mark.drawn(6)
@pytest.mark.parametrize(
    ("digits", "name", "end"),
    [(digits, name, taken) for digits, name, taken, _ in PAYMENT_ROWS],
    ids=[row[1] for row in PAYMENT_ROWS],
)
async def test_a_payment_whose_order_takes_it_ends_as_the_page_says(
    world: PaymentWorld, digits: int, name: str, end: str
) -> None:
    payment_id = await pay_whatever_is_answered(world, digits)
    await until_quiet(world)
    assert (await world.payment(payment_id)).state == end
    await assert_at_rest(world)
    assert [kind for kind, _ in await world.attention()] == ATTENTION.get(name, [])


@pytest.mark.drawn(6)
@pytest.mark.parametrize(
    ("digits", "name", "end"),
    [(digits, name, cancelled) for digits, name, _, cancelled in PAYMENT_ROWS],
    ids=[row[1] for row in PAYMENT_ROWS],
)
async def test_a_payment_whose_order_was_cancelled_ends_as_the_page_says(
    world: PaymentWorld, digits: int, name: str, end: str
) -> None:
    world.orders.answer = Disposition.REFUSED_CANCELLED
    payment_id = await pay_whatever_is_answered(world, digits)
    await until_quiet(world)
    payment = await world.payment(payment_id)
    assert payment.state == end
    assert payment.refunded == payment.captured
    await assert_at_rest(world)
    if end == "LATE_REFUNDED":
        _, owed = await at_channel(world)
        assert not any(owed.values())  # the fee came back with all of the money


@pytest.mark.drawn(6)
@pytest.mark.parametrize(
    ("digits", "end"),
    [(digits, end) for digits, _, end in REFUND_ROWS],
    ids=[row[1] for row in REFUND_ROWS],
)
@pytest.mark.parametrize("is_partial", [False, True])
async def test_a_refund_ends_as_the_page_says(
    world: PaymentWorld, digits: int, end: str, is_partial: bool
) -> None:
    payment = await pay(world, 5_000 if is_partial else digits)
    await give_back(world, payment, Money(digits, "CNY").format() if is_partial else "")
    await until_quiet(world, minutes=150)
    [refund] = await world.rows(REFUND)
    assert refund["state"] == end
    now = await world.payment(payment.payment_id)
    assert (now.state, now.refund_reserved.minor) == (PaymentState.SUCCESS, 0)
    assert now.refunded.minor == (refund["amount_minor"] if end == "SUCCESS" else 0)
    await assert_at_rest(world)
    assert [kind for kind, _ in await world.attention()] == (
        ["REFUND_REVERSED"] if end == "REVERSED" else []
    )


@pytest.mark.parametrize(
    ("number", "end"),
    [("4000000000007726", RefundState.SUCCESS), ("4000000000005126", RefundState.REVERSED)],
)
async def test_cards_choose_how_their_refunds_go(
    world: PaymentWorld, number: str, end: RefundState
) -> None:
    payment = await pay(world, 0, number=number)
    await give_back(world, payment)
    await until_quiet(world, minutes=150)
    assert [row["state"] for row in await world.rows(REFUND)] == [end]
    await assert_at_rest(world)


async def test_money_that_bounced_can_be_given_back_again(world: PaymentWorld) -> None:
    payment = await pay(world, 7742)
    await give_back(world, payment)
    await until_quiet(world, minutes=150)
    await give_back(world, payment, "100.00")
    await give_back(world, payment, "7.00")
    await until_quiet(world)
    assert [row["state"] for row in await world.rows(REFUND)] == ["REVERSED", "SUCCESS", "SUCCESS"]
    assert (await world.payment(payment.payment_id)).refunded.format() == "107.00"
    await assert_at_rest(world)


# A buyer at the cashier


async def at_cashier(world: PaymentWorld, digits: int) -> Payment:
    return await world.cashier(await world.order(Money(10_000 + digits, "CNY").format()))


@pytest.mark.drawn(4)
@pytest.mark.parametrize(
    ("digits", "end"),
    [
        (7703, "SUCCESS"),
        (7704, "SUCCESS"),
        (7706, "SUCCESS"),
        (7707, "CONFLICTED"),
        (7709, "CONFLICTED"),
        (7710, "SUCCESS"),
        (7711, "SUCCESS"),
        (7712, "SUCCESS"),
        (7719, "SUCCESS"),
    ],
)
async def test_what_happens_after_pay_was_pressed(
    world: PaymentWorld, digits: int, end: str
) -> None:
    payment = await at_cashier(world, digits)
    await world.press(payment)
    await until_quiet(world)
    assert (await world.payment(payment.payment_id)).state == end
    await assert_at_rest(world)


@pytest.mark.parametrize(
    ("digits", "end"),
    [(7706, "LATE_REFUNDED"), (7710, "CLOSED"), (7711, "LATE_REFUNDED"), (7712, "CLOSED")],
)
async def test_what_happens_when_nobody_presses(world: PaymentWorld, digits: int, end: str) -> None:
    world.orders.answer = Disposition.REFUSED_CANCELLED
    payment = await at_cashier(world, digits)
    await until_quiet(world)
    assert (await world.payment(payment.payment_id)).state == end
    await assert_at_rest(world)


async def test_a_page_that_cannot_be_closed_is_closed_here_after_the_grace_and_paid_late_all_the_same(
    world: PaymentWorld,
) -> None:
    world.orders.answer = Disposition.REFUSED_CANCELLED
    payment = await at_cashier(world, 7710)
    closing = await world.app.cancellation.close_one(payment.payment_id)
    assert closing.state is PaymentState.CLOSING
    await until_quiet(world, minutes=30)
    # the buyer may still pay in time
    assert (await world.payment(payment.payment_id)).state is PaymentState.CLOSING
    await until_quiet(world, minutes=40)
    assert (await world.payment(payment.payment_id)).state is PaymentState.CLOSED
    await assert_at_rest(world)
    await world.press(payment)
    await until_quiet(world)
    assert (await world.payment(payment.payment_id)).state is PaymentState.LATE_REFUNDED
    await assert_at_rest(world)


async def test_a_cancelled_payment_that_was_closed_and_paid_after_it_goes_back(
    world: PaymentWorld,
) -> None:
    world.orders.answer = Disposition.REFUSED_CANCELLED
    payment = await at_cashier(world, 7706)
    assert (await world.app.cancellation.close_one(payment.payment_id)).state is PaymentState.CLOSED
    await until_quiet(world)
    assert (await world.payment(payment.payment_id)).state is PaymentState.LATE_REFUNDED
    await assert_at_rest(world)


async def test_a_second_capture_that_is_told_many_times_goes_back_once(world: PaymentWorld) -> None:
    payment = await pay(world, 7712)
    await until_quiet(world, minutes=5)
    [second] = [row for row in await world.at_sandbox() if row["duplicate_of"]]
    fact: Any = await world.channel.query(second["attempt_id"], timeout_seconds=5)
    for _ in range(3):
        assert not (await world.app.channel_results.apply(fact)).changed
    await until_quiet(world)
    assert [
        (row["attempt_id"], row["state"], row["stands_alone"]) for row in await world.rows(REFUND)
    ] == [(second["attempt_id"], "SUCCESS", True)]
    assert (await world.payment(payment.payment_id)).refunded.minor == 0
    await assert_at_rest(world)
