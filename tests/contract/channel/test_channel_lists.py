"""What a channel lists of a day: every capture and every refund, also what we do not know, in
pages, by the channel's own days.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from mesh.money import Money
from payment_rpc.channels import CapturesPage, RefundsPage
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.sandbox import answers
from payment_rpc.channels.sandbox import api as sandbox_api
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.errors import ChannelUnavailable
from payment_rpc.domain.facts import ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    API_KEY,
    CALLBACK_SECRET,
    PRICE,
    RunningSandbox,
    charge,
    refund,
)

SECONDS = 5.0


async def captures(channel: SandboxChannel, day: date) -> list[str]:
    """Attempts that were captured on a day, whatever the pages are."""
    found, after = [], ""
    while True:
        page = await channel.captures_of_day(day, after=after, timeout_seconds=SECONDS)
        assert page.unreadable == ()
        assert all(
            fact.status is ChannelStatus.CAPTURED and fact.amount == PRICE and fact.trade_no
            for fact in page.captures
        )
        found += [fact.attempt_id for fact in page.captures]
        if not page.next_after:
            return found
        after = page.next_after


async def test_captures_are_listed_by_day_and_nothing_else_is(
    channel: SandboxChannel, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_api, "_PAGE", 2)
    for number in range(5):
        await charge(channel, f"ATT{number}")
    await charge(channel, "ATTdeclined", number="4000000000000002")
    today = clock.now().date()
    clock.advance(timedelta(days=1).total_seconds())
    await charge(channel, "ATTnext")
    assert await captures(channel, today) == [f"ATT{number}" for number in range(5)]
    assert await captures(channel, today + timedelta(days=1)) == ["ATTnext"], (
        "a day that is not over is listed too"
    )
    assert await captures(channel, today - timedelta(days=1)) == []


async def test_refunds_are_listed_by_the_day_they_were_asked_for_as_they_are_now(
    channel: SandboxChannel, clock: FakeClock
) -> None:
    await charge(channel, "ATT1")
    for refund_id, amount in (("RF1", Money(100, "CNY")), ("RF2", Money(PRICE.minor * 9, "CNY"))):
        await refund(channel, refund_id, amount=amount, reason="", timeout_seconds=SECONDS)
    page = await channel.refunds_of_day(clock.now().date(), after="", timeout_seconds=SECONDS)
    assert [
        (listed.fact.refund_id, listed.attempt_id, listed.amount.minor, listed.fact.status)
        for listed in page.refunds
    ] == [
        ("RF1", "ATT1", 100, RefundChannelStatus.SUCCESS),
        ("RF2", "ATT1", PRICE.minor * 9, RefundChannelStatus.FAILED),
    ]
    rest = await channel.refunds_of_day(
        clock.now().date(), after=page.next_after, timeout_seconds=SECONDS
    )
    assert (rest.refunds, rest.next_after) == ((), "")


async def test_a_channel_that_does_not_list_says_so(
    running: RunningSandbox, free_port: int
) -> None:
    for adapter in (
        SandboxChannel(base_url=running.base_url, api_key="wrong", callback_secret=CALLBACK_SECRET),
        SandboxChannel(
            base_url=f"http://127.0.0.1:{free_port}",
            api_key=API_KEY,
            callback_secret=CALLBACK_SECRET,
        ),
    ):
        for list_of_day in (adapter.captures_of_day, adapter.refunds_of_day):
            with pytest.raises(ChannelUnavailable):
                await list_of_day(date(2026, 11, 20), after="", timeout_seconds=SECONDS)
        await adapter.aclose()


GOOD = b'{"attempt_id":"ATT1","trade_no":"T1","status":"CAPTURED","amount":"1.00","currency":"CNY","finished_at":"2026-11-20T12:00:00Z"}'
BACK = b'{"refund_id":"RF1","attempt_id":"ATT1","refund_no":"R1","status":"SUCCESS","amount":"1.00","currency":"CNY"}'


@pytest.mark.parametrize(
    "bad",
    [
        b"5",
        b"null",
        b"[]",
        b"{}",
        GOOD.replace(b"CAPTURED", b"DECLINED"),
        GOOD.replace(b"1.00", b"NaN"),
        GOOD.replace(b"2026", b"0000"),
        GOOD.replace(b'"ATT1"', b'"A T"'),
    ],
)
def test_an_entry_that_nobody_understands_hides_no_other(bad: bytes) -> None:
    page: CapturesPage = answers.read_captures(
        b'{"captures":[' + bad + b"," + GOOD + b'],"next_after":7}'
    )
    assert [fact.attempt_id for fact in page.captures] == ["ATT1"]
    assert len(page.unreadable) == 1
    assert page.next_after == "7"


@pytest.mark.parametrize(
    "bad",
    [
        b"5",
        b"{}",
        BACK.replace(b"SUCCESS", b"GONE"),
        BACK.replace(b"1.00", b"-1"),
        BACK.replace(b'"RF1"', b'""'),
    ],
)
def test_a_refund_that_nobody_understands_hides_no_other(bad: bytes) -> None:
    page: RefundsPage = answers.read_refunds(
        b'{"refunds":[' + bad + b"," + BACK + b'],"next_after":null}'
    )
    assert [listed.fact.refund_id for listed in page.refunds] == ["RF1"]
    assert len(page.unreadable) == 1
    assert page.next_after == ""


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"captures":{}}', b"\xff"])
def test_what_is_no_page_is_no_answer(content: bytes) -> None:
    for read in (answers.read_captures, answers.read_refunds):
        with pytest.raises(Unclear):
            read(content)


def test_times_of_a_page_are_the_channels() -> None:
    page = answers.read_captures(b'{"captures":[' + GOOD + b'],"next_after":null}')
    assert page.captures[0].occurred_at == datetime(2026, 11, 20, 12, tzinfo=UTC)
