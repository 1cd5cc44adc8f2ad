"""What each provider takes, by its own table of capabilities: amounts, the life of an attempt, how
long a key holds, and which refunds go back when.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from mesh.errors import InvalidArgument, MeshError
from mesh.money import Money
from payment_rpc.channels.capabilities import ON_THE_WAY, Capabilities, Close
from payment_rpc.channels.refund_limits import require_refundable, wait_until
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.errors import RefundLimitReached, RefundNotAllowed
from payment_rpc.domain.payment import PaymentState
from payment_rpc.domain.refund import Refund, RefundState
from tests.builders.channel_table import opened
from tests.builders.payment import PRICE, a_payment, an_attempt
from tests.support.fakes import EPOCH

S = RefundState
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
INSTANT = timedelta(milliseconds=1)
CAPTURED = an_attempt(AttemptState.CAPTURED, captured_at=EPOCH)


@asynccontextmanager
async def able(provider: str) -> AsyncIterator[Capabilities]:
    channel = opened(provider)
    yield channel.capabilities
    await channel.aclose()


@pytest.mark.parametrize(
    ("provider", "amount", "problem"),
    [
        ("stripe", Money(49, "USD"), "no less than 0.50 USD"),
        ("stripe", Money(50, "USD"), ""),
        ("stripe", Money(10**12, "USD"), "no more than 9999999999.99 USD"),
        ("stripe", Money(1001, "KWD"), "multiples of 0.010 KWD"),
        ("stripe", Money(100, "IRR"), "does not take IRR"),
        ("paypal", Money(1, "USD"), ""),
        ("paypal", Money(100, "INR"), "does not take INR"),
        ("alipay", Money(1, "CNY"), ""),
        ("alipay", Money(10_000_000_001, "CNY"), "no more than 100000000.00 CNY"),
        ("alipay", Money(100, "USD"), "does not take USD"),
        ("wechat", Money(1, "CNY"), ""),
        ("wechat", Money(100, "HKD"), "does not take HKD"),
        ("btcpay", Money(1, "EUR"), ""),
    ],
)
async def test_an_amount_that_a_provider_does_not_take_is_named_with_its_limit(
    provider: str, amount: Money, problem: str
) -> None:
    async with able(provider) as capabilities:
        said = capabilities.problem_with(amount)
    assert problem in said if problem else said == ""


@pytest.mark.parametrize(
    ("provider", "shortest", "longest"),
    [
        ("stripe", None, None),
        ("paypal", MINUTE, 6 * HOUR),
        ("alipay", MINUTE, 15 * DAY),
        ("wechat", MINUTE, 7 * DAY),
        ("btcpay", MINUTE, DAY),
    ],
)
async def test_an_attempt_lives_as_long_as_its_provider_allows(
    provider: str, shortest: timedelta | None, longest: timedelta | None
) -> None:
    async with able(provider) as capabilities:

        def end(life: timedelta) -> datetime | None:
            return capabilities.end_of_attempt(EPOCH + life, at=EPOCH)

        assert end(HOUR) == EPOCH + HOUR
        assert end(400 * DAY) == EPOCH + (longest or 400 * DAY)
        if shortest is not None:
            assert end(shortest + ON_THE_WAY) == EPOCH + shortest + ON_THE_WAY
            assert end(shortest + ON_THE_WAY - INSTANT) is None
        else:
            assert end(SECOND) == EPOCH + SECOND


@pytest.mark.parametrize(
    ("provider", "window"),
    [
        ("stripe", 23 * HOUR),
        ("paypal", 6 * HOUR),
        ("alipay", None),
        ("wechat", None),
        ("btcpay", None),
    ],
)
async def test_a_call_is_repeated_as_long_as_its_key_is_known(
    provider: str, window: timedelta | None
) -> None:
    async with able(provider) as capabilities:
        if window is None:
            assert capabilities.may_repeat(since=EPOCH, at=EPOCH + 1000 * DAY)
        else:
            assert capabilities.may_repeat(since=EPOCH, at=EPOCH + window - INSTANT)
            assert not capabilities.may_repeat(since=EPOCH, at=EPOCH + window)


def a_refund(
    number: int, state: RefundState, at: datetime = EPOCH, attempt: str = "ATT1"
) -> Refund:
    """A refund of 0.01 whose channel was called at `at`."""
    started = Refund.start(
        a_payment(PaymentState.SUCCESS),
        refund_id=f"RF{number}",
        attempt_id=attempt,
        channel="sandbox",
        amount=Money(1, "CNY"),
        reason="",
        at=at,
    )
    return replace(started, state=state)


def refuses(
    capabilities: Capabilities, *, at: datetime = EPOCH, refunds: tuple[Refund, ...] = ()
) -> MeshError | None:
    try:
        require_refundable(capabilities, CAPTURED, Money(1, "CNY"), refunds=refunds, at=at)
    except MeshError as refusal:
        return refusal
    return None


@pytest.mark.parametrize(
    ("provider", "window", "most"),
    [
        ("stripe", None, None),
        ("paypal", 180 * DAY, None),
        ("alipay", 365 * DAY, None),
        ("wechat", 365 * DAY, 50),
        ("btcpay", None, None),
    ],
)
async def test_refunds_stay_within_the_window_and_the_number_of_their_provider(
    provider: str, window: timedelta | None, most: int | None
) -> None:
    async with able(provider) as capabilities:
        last = EPOCH + (window or 5000 * DAY)
        assert refuses(capabilities, at=last) is None
        if window is not None:
            late = refuses(capabilities, at=last + INSTANT)
            assert isinstance(late, RefundNotAllowed)
            assert f"for {window.days} days" in late.message
            assert late.metadata["refundable_until"] in late.message
        many = tuple(a_refund(number, S.SUCCESS) for number in range((most or 200) - 1))
        assert refuses(capabilities, refunds=many) is None
        one_more = refuses(capabilities, refunds=(*many, a_refund(999, S.CREATED)))
        if most is None:
            assert one_more is None
        else:
            assert isinstance(one_more, RefundLimitReached)
            assert one_more.metadata["limit"] == str(most)
            for uncounted in (
                a_refund(999, S.FAILED),
                a_refund(999, S.CANCELED),
                a_refund(999, S.SUCCESS, attempt="ATT2"),
            ):
                assert refuses(capabilities, refunds=(*many, uncounted)) is None


def test_when_an_old_capture_was_is_for_the_channel_to_say() -> None:
    limited = Capabilities(
        instruments=frozenset(), currencies=None, close=Close.KNOWN, refund_window=DAY
    )
    old = replace(CAPTURED, captured_at=None)
    require_refundable(limited, old, PRICE, refunds=(), at=EPOCH + 1000 * DAY)


def test_a_part_is_refused_where_only_the_whole_goes_back() -> None:
    whole = Capabilities(
        instruments=frozenset(), currencies=None, close=Close.KNOWN, partial_refunds=False
    )
    require_refundable(whole, CAPTURED, PRICE, refunds=(), at=EPOCH)
    refusal = refuses(whole)
    assert isinstance(refusal, InvalidArgument)
    assert "100.00 CNY" in refusal.fields["amount"]


@pytest.mark.parametrize(
    ("provider", "spacing"),
    [
        ("stripe", timedelta(0)),
        ("paypal", timedelta(0)),
        ("alipay", 3 * SECOND),
        ("wechat", MINUTE),
        ("btcpay", timedelta(0)),
    ],
)
async def test_a_refund_waits_as_long_as_its_provider_wants_after_the_one_before(
    provider: str, spacing: timedelta
) -> None:
    mine = a_refund(1, S.CREATED)
    lease_end = EPOCH + 20 * SECOND
    pending = replace(a_refund(2, S.PENDING), lease_until=lease_end)
    async with able(provider) as capabilities:

        def waits(*others: Refund, at: datetime = EPOCH) -> datetime | None:
            return wait_until(capabilities, mine, refunds=(mine, *others), at=at)

        assert waits() is None
        assert waits(a_refund(2, S.CREATED), a_refund(3, S.CANCELED)) is None
        assert waits(a_refund(2, S.SUCCESS, attempt="ATT2")) is None
        if not spacing:
            assert waits(a_refund(2, S.SUCCESS), pending) is None
            return
        assert waits(a_refund(2, S.SUCCESS)) == EPOCH + spacing
        assert waits(a_refund(2, S.SUCCESS), at=EPOCH + spacing) is None
        # what has no answer may still be on its way
        assert waits(a_refund(3, S.SUCCESS), pending) == lease_end + spacing
