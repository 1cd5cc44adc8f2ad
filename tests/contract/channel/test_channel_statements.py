"""The channel's day as a file: complete, stable, in its own time zone, and spoiled on demand with
the list of how.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from mesh.money import Money
from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.errors import ChannelUnavailable
from sandbox.fault_injector import KINDS
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    API_KEY,
    PATIENCE,
    RunningSandbox,
    adapter_to,
    charge,
    refund,
    running_sandbox,
)
from tools.processes import free_port

TODAY = date(2026, 11, 20)  # EPOCH is 20:00 in Shanghai
DAY_SECONDS = 86_400


async def rows(channel: SandboxChannel, day: date = TODAY) -> list[dict[str, str]]:
    """The lines of a statement, after its trailer was checked against them."""
    body = (await channel.statement(day, timeout_seconds=PATIENCE)).decode()
    table = list(csv.reader(io.StringIO(body)))
    assert table[0] == [
        "line_no",
        "type",
        "trade_no",
        "attempt_id",
        "refund_id",
        "amount",
        "currency",
        "fee",
        "occurred_at",
    ]
    lines = [dict(zip(table[0], row, strict=True)) for row in table[1:] if row[0].isdigit()]
    assert [line["line_no"] for line in lines] == [
        str(number) for number in range(1, len(lines) + 1)
    ]
    sums: Counter[tuple[str, str, str]] = Counter()
    for line in lines:
        if line["amount"] != "n/a":
            for column in ("amount", "fee"):
                sums[line["type"], line["currency"], column] += Money.parse(
                    line[column], line["currency"], allow_zero=True
                ).minor
    told = {
        (row[1], row[2], column): Money.parse(text, row[2], allow_zero=True).minor
        for row in table
        if row[0] == "SUM"
        for column, text in zip(("amount", "fee"), row[4:], strict=True)
    }
    assert told == dict(sums)
    assert table[-1] == ["END", str(len(lines))]
    return lines


async def plant(running: RunningSandbox, day: date = TODAY, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        trust_env=False, headers={"authorization": f"Bearer {API_KEY}"}
    ) as client:
        return await client.post(
            f"{running.base_url}/v1/statements/{day}/plant", json={"count": 20, "seed": 7, **body}
        )


async def a_busy_day(channel: SandboxChannel, *, captures: int = 40, refunds: int = 10) -> None:
    for number in range(captures):
        await charge(channel, f"ATT{number}", amount=Money(10000 + number * 10, "CNY"))
    for number in range(refunds):
        await refund(channel, f"RF{number}", f"ATT{number}", amount=Money(5000, "CNY"))


async def test_a_day_has_every_movement_with_its_fee_in_order(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    paid = await charge(channel, "ATT1", amount=Money(10000, "CNY"))
    await charge(channel, "ATT2", number="4000000000000002")
    clock.advance(60)
    back = await refund(channel, "RF1", "ATT1", amount=Money(2500, "CNY"))
    await refund(channel, "RF2", "ATT1", amount=Money(99999, "CNY"))  # refused
    clock.advance(60)
    bounced = await refund(channel, "RF3", "ATT1", amount=Money(7500 - 2, "CNY"))
    clock.advance(DAY_SECONDS)
    assert await rows(channel) == [
        {
            "line_no": "1",
            "type": "CAPTURE",
            "trade_no": paid.trade_no,
            "attempt_id": "ATT1",
            "refund_id": "",
            "amount": "100.00",
            "currency": "CNY",
            "fee": "0.60",
            "occurred_at": "2026-11-20T20:00:00.000+08:00",
        },
        {
            "line_no": "2",
            "type": "REFUND",
            "trade_no": back.channel_refund_no,
            "attempt_id": "ATT1",
            "refund_id": "RF1",
            "amount": "25.00",
            "currency": "CNY",
            "fee": "0.15",
            "occurred_at": "2026-11-20T20:01:00.000+08:00",
        },
        {
            "line_no": "3",
            "type": "REFUND",
            "trade_no": bounced.channel_refund_no,
            "attempt_id": "ATT1",
            "refund_id": "RF3",
            "amount": "74.98",
            "currency": "CNY",
            "fee": "0.44",
            "occurred_at": "2026-11-20T20:02:00.000+08:00",
        },
    ]


async def test_a_refund_that_bounced_has_a_line_on_each_of_its_days(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    await charge(channel, amount=Money(7742, "CNY"))
    await refund(channel, amount=Money(7742, "CNY"))
    clock.advance(60)
    await running.sandbox.run_once()
    clock.advance(5 * 3600)
    await running.sandbox.run_once()
    clock.advance(DAY_SECONDS)
    assert [(line["type"], line["refund_id"]) for line in await rows(channel)] == [
        ("CAPTURE", ""),
        ("REFUND", "RF1"),
    ]
    assert [
        (line["type"], line["amount"], line["fee"])
        for line in await rows(channel, TODAY + timedelta(days=1))
    ] == [("REFUND_REVERSED", "77.42", "0.00")]


@pytest.mark.parametrize(
    ("settings", "seconds_to_the_end"),
    [
        ({}, 4 * 3600),
        ({"statement_time_zone": "UTC"}, 12 * 3600),
        ({"statement_time_zone": "Asia/Shanghai", "statement_cut_off": "22:30"}, 2.5 * 3600),
    ],
)
async def test_a_day_ends_at_the_cut_off_of_the_channels_time_zone(
    tmp_path: Path, clock: FakeClock, settings: dict[str, Any], seconds_to_the_end: float
) -> None:
    if "statement_cut_off" in settings:
        settings = {
            **settings,
            "statement_cut_off": time.fromisoformat(settings["statement_cut_off"]),
        }
        day = TODAY - timedelta(days=1)  # begins on the 19th at 22:30
    else:
        day = TODAY
    async with running_sandbox(tmp_path, clock=clock, **settings) as running:
        channel = running.channel()
        clock.advance(seconds_to_the_end - 0.001)
        await charge(channel, "ATT1")
        with pytest.raises(ChannelUnavailable, match="not over"):
            await channel.statement(day, timeout_seconds=PATIENCE)
        clock.advance(0.001)
        await charge(channel, "ATT2")
        clock.advance(DAY_SECONDS)
        assert [line["attempt_id"] for line in await rows(channel, day)] == ["ATT1"]
        assert [line["attempt_id"] for line in await rows(channel, day + timedelta(days=1))] == [
            "ATT2"
        ]
        await channel.aclose()


async def test_an_empty_day_is_a_file_with_nothing_in_it(
    channel: SandboxChannel, clock: FakeClock
) -> None:
    clock.advance(DAY_SECONDS)
    assert await rows(channel) == []


async def test_no_usable_answer_is_unavailable(running: RunningSandbox) -> None:
    for channel in (
        adapter_to(f"http://127.0.0.1:{free_port()}"),
        running.channel(api_key="k" * 32),
    ):
        with pytest.raises(ChannelUnavailable):
            await channel.statement(TODAY, timeout_seconds=PATIENCE)
        await channel.aclose()


@pytest.mark.parametrize(
    "day", ["20261120", "2026-W47-5", "2026-11-31", "0001-01-01", "9999-12-31", "today"]
)
async def test_a_day_has_one_form(running: RunningSandbox, day: str) -> None:
    async with httpx.AsyncClient(
        trust_env=False, headers={"authorization": f"Bearer {API_KEY}"}
    ) as client:
        answer = await client.get(f"{running.base_url}/v1/statements/{day}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_long_day_arrives_whole(channel: SandboxChannel, clock: FakeClock) -> None:
    for number in range(600):
        await charge(channel, f"ATT{number:04d}{'x' * 50}")
    clock.advance(DAY_SECONDS)
    assert len(await channel.statement(TODAY, timeout_seconds=PATIENCE)) > 65_536
    assert len(await rows(channel)) == 600


# Spoiled


async def test_what_is_planted_is_told_and_nothing_else_differs(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    await a_busy_day(channel)
    clock.advance(DAY_SECONDS)
    honest = await rows(channel)
    planted = (await plant(running)).json()["planted"]
    assert (len(planted), len({difference["kind"] for difference in planted}) >= 12) == (20, True)
    spoiled = await rows(channel)

    def content(line: dict[str, str]) -> tuple[str, ...]:
        return tuple(value for column, value in line.items() if column != "line_no")

    missing = Counter(map(content, honest)) - Counter(map(content, spoiled))
    extra = Counter(map(content, spoiled)) - Counter(map(content, honest))
    assert missing == Counter(
        content(difference["was"])
        for difference in planted
        if difference["was"] and difference["kind"] != "duplicate_line"
    )
    assert extra == Counter(
        content(difference["shows"]) for difference in planted if difference["shows"]
    )
    for difference in planted:
        if difference["line_no"] is not None:
            assert content(spoiled[difference["line_no"] - 1]) == content(difference["shows"])


async def test_the_same_seed_spoils_the_same_and_the_file_stays_so(tmp_path: Path) -> None:
    told, files = [], []
    for folder in ("one", "two"):
        clock = FakeClock()
        async with running_sandbox(tmp_path / folder, clock=clock) as running:
            channel = running.channel()
            await a_busy_day(channel)
            clock.advance(DAY_SECONDS)
            told.append((await plant(running)).json())
            files += [await channel.statement(TODAY, timeout_seconds=PATIENCE) for _ in range(2)]
            await channel.aclose()
    assert told[0] == told[1]
    assert len(set(files)) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_can_be_planted_alone(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock, kind: str
) -> None:
    await a_busy_day(channel, captures=3, refunds=3)
    clock.advance(DAY_SECONDS)
    honest = await rows(channel)
    planted = (await plant(running, count=2, kinds=[kind])).json()["planted"]
    assert [(difference["kind"], difference["finds"]) for difference in planted] == [
        (kind, KINDS[kind].expected_finding)
    ] * 2
    assert await rows(channel) != honest


async def test_a_line_that_was_shifted_is_on_the_next_day(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    await charge(channel)
    clock.advance(2 * DAY_SECONDS)
    [line] = await rows(channel)
    await plant(running, count=1, kinds=["next_day"])
    assert await rows(channel) == []
    [shifted] = await rows(channel, TODAY + timedelta(days=1))
    assert shifted == {**line, "occurred_at": "2026-11-21T00:00:01.000+08:00"}


async def test_what_cannot_be_planted_is_refused_and_spoils_nothing(
    tmp_path: Path, channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    await charge(channel)
    assert (await plant(running, count=1)).json()["error"]["code"] == "not_ready"
    clock.advance(DAY_SECONDS)
    honest = await rows(channel)
    for body in (
        {"count": 2},
        {"count": 1, "kinds": ["nonsense"]},
        {"count": 1, "kinds": ["missing_refund"]},
        {"count": 0},
    ):
        answer = await plant(running, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert await rows(channel) == honest
    assert (await plant(running, count=1)).status_code == 200
    assert (await plant(running, count=1)).json()["error"]["code"] == "conflict"
    async with running_sandbox(
        tmp_path / "strict", clock=clock, allow_misbehaviour=False
    ) as strict:
        assert (await plant(strict, day=date(2026, 11, 1))).json()["error"]["code"] == "disabled"
