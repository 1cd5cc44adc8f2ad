"""Paying at a cashier page: one page per order, closed before anything else takes its place, and
whatever the buyer did there is found out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh import failpoints
from mesh.call import calling
from mesh.errors import IdempotencyKeyReused, MoneyError, Outcome
from mesh.failpoints import FailpointRaised
from mesh.idempotency import RECEIPT
from order_rpc.domain.order import OrderState
from payment_rpc.domain.errors import (
    AmountMismatch,
    CardDeclined,
    ChannelNotSupported,
    ChannelUnavailable,
    OrderAlreadyPaid,
    PaymentClosed,
    PaymentInProgress,
    ReturnUrlNotAllowed,
)
from payment_rpc.domain.payment import Disposition, Payment, PaymentState
from payment_rpc.settings import PaymentSettings
from payment_rpc.tables import ATTEMPT, PAYMENT
from tests.builders.order import PAYMENT_WINDOW, buyer
from tests.builders.payment import LEASE_SECONDS, PaymentWorld

S = PaymentState
Factory = Callable[[], str]


async def test_a_buyer_is_sent_to_a_page_and_pays_there(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order, return_url="https://shop.test/done")
    assert opened.next_action is not None
    assert (
        opened.state,
        opened.outcome,
        opened.next_action.kind,
        opened.payment_method,
        opened.card,
    ) == (S.PAYING, Outcome.PENDING, "REDIRECT_URL", "cashier", None)
    assert opened.next_action.value.startswith(world.sandbox.base_url)
    assert opened.expires_at == order.expires_at
    page = await world.press(opened)
    assert "https://shop.test/done" in page
    assert await world.callbacks() == 1
    paid = await world.payment(opened.payment_id)
    assert (paid.state, paid.captured, paid.next_action) == (S.SUCCESS, order.amount, None)
    world.clock.advance(6)
    await world.app.order_relay.run_once()
    assert await world.order_state(order) is OrderState.PAID
    assert (await world.payment(opened.payment_id)).disposition is Disposition.APPLIED
    assert await world.ledger_problems() == []


async def test_asked_again_it_is_the_same_page(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    repeated: list[dict[str, Any]] = [
        {},
        {"key": "k1"},
        {"channel": "MOCK"},
        {"channel": "sandbox"},
        {"amount": "100.00"},
    ]
    for again in repeated:
        assert await world.cashier(order, **again) == opened
    assert len(await world.rows(PAYMENT)) == len(await world.at_sandbox()) == 1


async def test_twenty_clicks_at_once_open_one_page(world: PaymentWorld) -> None:
    order = await world.order()
    pages = await asyncio.gather(
        *(world.cashier(order, key=f"k{number % 3}" if number % 2 else "") for number in range(20))
    )
    assert {page.payment_id for page in pages} == {pages[0].payment_id}
    assert {page.next_action for page in pages} == {pages[0].next_action}
    assert pages[0].next_action is not None
    assert len(await world.at_sandbox()) == 1


async def test_a_key_that_found_a_page_open_keeps_its_payment_for_ever(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order, key="k1")
    assert await world.cashier(order, key="k2") == opened
    await world.press(opened, "fail")
    await world.callbacks()
    for key in ("k1", "k2"):
        with (
            calling(caller=buyer(), timeout_seconds=10) as call,
            pytest.raises(CardDeclined) as refused,
        ):
            await world.cashier(order, key=key)
        assert refused.value.payment_id == opened.payment_id
        assert call.trailing
    with pytest.raises(IdempotencyKeyReused):
        await world.cashier(await world.order(), key="k2")
    assert {row["state"] for row in await world.rows(RECEIPT)} == {"DONE"}
    # a failed payment does not block the next
    assert (await world.cashier(order, key="k3")).payment_id != opened.payment_id


async def test_a_page_that_nobody_pays_is_failed_by_the_buyers_refusal(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    await world.press(opened, "fail")
    world.clock.advance(5)
    assert await world.app.polling.run_once() == 1  # also without the callback
    failed = await world.payment(opened.payment_id)
    assert (failed.state, failed.outcome, failed.holds_slot, failed.next_action) == (
        S.FAILED,
        Outcome.DECLINED,
        False,
        None,
    )
    assert (await world.charge(order)).state is S.SUCCESS


async def test_a_page_that_waits_is_asked_for_more_and_more_rarely(world: PaymentWorld) -> None:
    await world.cashier(await world.order())
    asked = []
    for second in range(300):
        world.clock.advance(1)
        if await world.app.polling.run_once():
            asked.append(second + 1)
    assert asked == [5, 10, 25, 70, 190]  # pauses of 5, 5, 15, 45, 120 seconds
    assert [row["state"] for row in await world.rows(PAYMENT)] == ["PAYING"]


async def test_a_card_closes_the_page_first(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order, key="k1")
    paid = await world.charge(order)
    assert (paid.state, (await world.payment(opened.payment_id)).state) == (S.SUCCESS, S.CLOSED)
    page = await world.press(opened)  # the buyer still has the page open
    assert "cancelled" in page.lower()
    assert await world.captured_at_sandbox() == [
        row["attempt_id"]
        for row in await world.rows(ATTEMPT)
        if row["payment_id"] == paid.payment_id
    ]
    with pytest.raises(PaymentClosed) as refused:
        await world.cashier(order, key="k1")
    assert (refused.value.payment_id, refused.value.outcome) == (
        opened.payment_id,
        Outcome.NOT_ATTEMPTED,
    )
    assert await world.order_state(order) is OrderState.PAID


async def test_a_card_that_finds_the_page_paid_takes_nothing(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    await world.press(opened)  # paid, and nobody told us yet
    with pytest.raises(OrderAlreadyPaid) as refused:
        await world.charge(order)
    assert refused.value.payment_id == opened.payment_id
    assert world.channel.charges == 1  # the page
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID


async def test_a_card_waits_while_the_channel_does_not_say_that_the_page_is_closed(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    world.channel.unreachable = True
    with pytest.raises(PaymentInProgress) as refused:
        await world.charge(order)
    assert (refused.value.payment_id, refused.value.retry_after_seconds) == (opened.payment_id, 2.0)
    closing = await world.payment(opened.payment_id)
    assert (closing.state, closing.holds_slot) == (S.CLOSING, True)
    world.channel.unreachable = False
    assert (await world.charge(order)).state is S.SUCCESS
    assert (await world.payment(opened.payment_id)).state is S.CLOSED


async def test_a_card_and_the_button_at_once_take_the_money_once(
    world: PaymentWorld, rounds: Callable[[int, int], int]
) -> None:
    for _ in range(rounds(4, 60)):
        order = await world.order()
        opened = await world.cashier(order)
        card, _ = await asyncio.gather(
            world.charge(order), world.press(opened), return_exceptions=True
        )
        assert isinstance(card, Payment | OrderAlreadyPaid), card
        await world.finish(rounds=2)
        states = sorted(
            row["state"] for row in await world.rows(PAYMENT) if row["order_id"] == order.order_id
        )
        assert states == (["CLOSED", "SUCCESS"] if isinstance(card, Payment) else ["SUCCESS"])
        assert await world.order_state(order) is OrderState.PAID
    assert len(await world.captured_at_sandbox()) == rounds(4, 60)
    assert await world.ledger_problems() == []


async def test_a_cashier_waits_for_a_card_that_is_under_way(world: PaymentWorld) -> None:
    order = await world.order()
    world.channel.lose_answers = True
    doubted = await world.charge(order)
    world.channel.lose_answers = False
    with pytest.raises(PaymentInProgress) as refused:
        await world.cashier(order)
    assert refused.value.payment_id == doubted.payment_id
    await world.finish()
    with pytest.raises(OrderAlreadyPaid):
        await world.cashier(order)


async def test_a_crash_while_closing_is_finished_by_the_worker(world: PaymentWorld) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    failpoints.arm("payment.close.after_closing=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.charge(order)
    assert (await world.payment(opened.payment_id)).state is S.CLOSING
    assert await world.app.polling.run_once() == 1  # due at once
    assert (await world.payment(opened.payment_id)).state is S.CLOSED
    assert (await world.charge(order)).state is S.SUCCESS


@pytest.mark.parametrize("paid", [False, True])
async def test_at_its_deadline_a_page_is_closed_unless_it_was_paid(
    world: PaymentWorld, *, paid: bool
) -> None:
    order = await world.order()
    opened = await world.cashier(order)
    if paid:
        await world.press(opened)
    world.clock.advance(PAYMENT_WINDOW.total_seconds() - 1)
    assert await world.app.expiry.run_once() == 0
    world.clock.advance(1)
    assert await world.app.expiry.run_once() == 1
    closing = await world.payment(opened.payment_id)
    assert (closing.state, closing.holds_slot) == (S.CLOSING, True)
    assert await world.app.expiry.run_once() == 0
    assert await world.app.polling.run_once() == 1
    end = await world.payment(opened.payment_id)
    assert (end.state, end.holds_slot) == ((S.SUCCESS, True) if paid else (S.CLOSED, False))
    assert '/pay"' not in await world.press(opened)  # no button any more
    assert len(await world.captured_at_sandbox()) == int(paid)


async def test_workers_at_once_expire_every_payment_once(world: PaymentWorld) -> None:
    for _ in range(5):
        await world.cashier(await world.order())
    world.clock.advance(PAYMENT_WINDOW.total_seconds())
    assert sum(await asyncio.gather(*(world.app.expiry.run_once() for _ in range(4)))) == 5
    assert {row["version"] for row in await world.rows(PAYMENT)} == {3}


@pytest.mark.parametrize("who", ["same key", "no key", "worker"])
async def test_a_crash_before_the_page_is_opened_is_made_good(
    world: PaymentWorld, who: str
) -> None:
    order = await world.order()
    failpoints.arm("payment.cashier.after_tx1=raise", environment="test")
    with pytest.raises(FailpointRaised):
        await world.cashier(order, key="k1")
    world.clock.advance(LEASE_SECONDS)
    if who == "worker":
        await world.app.polling.run_once()
        with pytest.raises(MoneyError) as refused:
            await world.cashier(order, key="k1")
        assert refused.value.safe_to_retry
        opened = await world.cashier(order, key="k2")
    else:
        opened = await world.cashier(order, key="k1" if who == "same key" else "")
        assert [row["sends"] for row in await world.rows(ATTEMPT)] == [2]
    assert opened.next_action is not None
    await world.press(opened)
    await world.callbacks()
    await world.finish()
    assert await world.order_state(order) is OrderState.PAID
    assert len(await world.captured_at_sandbox()) == 1


async def test_a_page_whose_address_was_lost_is_found_again(world: PaymentWorld) -> None:
    order = await world.order()
    world.channel.lose_answers = True
    doubted = await world.cashier(order, key="k1")
    assert (doubted.state, doubted.outcome, doubted.next_action) == (
        S.PAYING,
        Outcome.UNKNOWN,
        None,
    )
    world.channel.lose_answers = False
    world.clock.advance(LEASE_SECONDS)
    opened = await world.cashier(order, key="k1")
    assert opened.next_action is not None
    assert len(await world.at_sandbox()) == 1


async def test_a_cashier_that_cannot_be_reached_leaves_the_order_free(world: PaymentWorld) -> None:
    order = await world.order()
    world.channel.unreachable = True
    with pytest.raises(ChannelUnavailable):
        await world.cashier(order)
    world.channel.unreachable = False
    assert (await world.cashier(order)).next_action is not None


# Where a buyer may be sent


async def test_only_urls_of_the_merchants_list_are_taken(world: PaymentWorld) -> None:
    order = await world.order()
    for wrong in (
        "https://evil.test/",
        "https://shop.test.evil.test/",
        "https://shop.test",
        "http://shop.test/",
        "javascript:alert(1)",
        "https://shop.test/a b",
        "https://shop.test/\r\nX: y",
        "https://shop.test/ü",
        "//shop.test/",
        " https://shop.test/",
    ):
        with pytest.raises(ReturnUrlNotAllowed) as refused:
            await world.cashier(order, return_url=wrong)
        assert list(refused.value.fields) == ["return_url"]
    stranger = await world.order(caller=buyer("u1", "tea_house"))
    with pytest.raises(ReturnUrlNotAllowed):  # the list of another merchant is not his
        await world.cashier(stranger, return_url="https://shop.test/")
    assert await world.rows(PAYMENT) == []
    assert (
        await world.cashier(order, return_url="https://shop.test/done?x=1")
    ).next_action is not None


@pytest.mark.parametrize(
    ("prefix", "is_good"),
    [
        ("https://shop.test/", True),
        ("https://shop.test:8443/back", True),
        ("https://shop.test", False),
        ("shop.test/", False),
        ("https:///", False),
        ("ftp://shop.test/", False),
        ("", False),
    ],
)
def test_a_prefix_names_a_whole_host(tmp_path: Path, prefix: str, *, is_good: bool) -> None:
    settings: dict[str, Any] = {
        "database_url": "sqlite+aiosqlite:///x",
        "sandbox_api_key_file": tmp_path / "key",
        "return_urls": {"mall": [prefix]},
    }
    if is_good:
        assert PaymentSettings(**settings).return_urls == {"mall": [prefix]}
    else:
        with pytest.raises(ValueError, match="return_urls"):
            PaymentSettings(**settings)


@pytest.mark.parametrize(("lease_seconds", "is_good"), [(6.5, True), (6, False), (1, False)])
def test_a_lease_covers_the_call_that_it_is_for(
    tmp_path: Path, lease_seconds: float, *, is_good: bool
) -> None:
    settings: dict[str, Any] = {
        "database_url": "sqlite+aiosqlite:///x",
        "sandbox_api_key_file": tmp_path / "key",
        "channel_timeout_seconds": 6,
        "attempt_lease_seconds": lease_seconds,
    }
    if is_good:
        PaymentSettings(**settings)
    else:
        with pytest.raises(ValueError, match="attempt_lease_seconds"):
            PaymentSettings(**settings)


async def test_an_unknown_channel_and_a_wrong_amount_are_refused_by_the_name_of_the_field(
    world: PaymentWorld,
) -> None:
    order = await world.order()
    with pytest.raises(ChannelNotSupported) as refused:
        await world.cashier(order, channel="paypal")
    assert list(refused.value.fields) == ["channel"]
    with pytest.raises(AmountMismatch) as mismatch:
        await world.cashier(order, amount="99")
    assert list(mismatch.value.fields) == ["amount"]
    assert await world.rows(PAYMENT) == []
