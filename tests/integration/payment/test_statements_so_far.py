"""Statements of days that are not complete: fees are booked, nothing is filed, and the import of the
whole day completes it, each line once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import InvalidArgument
from mesh.money import Money
from payment_rpc.channels.capabilities import FeeKnown, StatementKind
from payment_rpc.domain.errors import ChannelNotSupported, ChannelUnavailable
from payment_rpc.domain.payment import Payment
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.tables import ATTEMPT, LEDGER_TRANSACTION, STATEMENT_DIFFERENCE, STATEMENT_IMPORT
from tests.builders.payment import PaymentWorld, payment_world
from tests.builders.payment_steps import DAY_SECONDS, TODAY
from tests.builders.statements import statement

AT = "2026-11-20T20:00:00.000+08:00"


@pytest.fixture
async def shop(
    database_url_factory: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PaymentWorld]:
    """A channel that lists what it has of a day at any time, and keeps fees that only this tells."""
    async with payment_world(database_url_factory(), database_url_factory(), tmp_path) as world:
        world.channel._capabilities = replace(
            world.channel.capabilities, fee_known=FeeKnown.STATEMENT
        )
        charge = world.channel.charge

        async def charge_without_fee(**call: Any) -> Any:
            return replace(await charge(**call), fee=None)

        monkeypatch.setattr(world.channel, "charge", charge_without_fee)
        yield world


def gives(world: PaymentWorld, call: Any) -> None:
    channel: Any = world.channel
    channel.statement = call


def lists(world: PaymentWorld, *lines: str) -> None:
    """What the channel has of every day from now on."""

    content = statement(*lines)
    readable = [line.split(",") for line in lines if "?" not in line]
    if readable:
        amount = sum((Decimal(fields[4]) for fields in readable), start=Decimal(0))
        fee = len(readable) * Decimal("0.60")
        total = f"SUM,CAPTURE,CNY,{len(readable)},{amount},{fee}\nEND".encode()
        content = content.replace(b"END", total)

    async def there(_day: Any, **_how: Any) -> bytes:
        return content

    gives(world, there)


def line(payment: Payment, amount: str = "100.00", attempt: str = "") -> str:
    attempt_id = attempt or payment.channel_trade_no
    return f"CAPTURE,{payment.channel_trade_no},{attempt_id},,{amount},CNY,0.60,{AT}"


async def sold(world: PaymentWorld) -> tuple[Payment, str]:
    """A payment, and its line in the statement."""
    payment = await world.charge(await world.order("100.00"))
    (attempt,) = [
        row["attempt_id"]
        for row in await world.rows(ATTEMPT)
        if row["payment_id"] == payment.payment_id
    ]
    return payment, line(payment, attempt=attempt)


async def imported(world: PaymentWorld, *, so_far: bool = False) -> StatementImport:
    begun = await world.app.statement_imports.import_statement("sandbox", TODAY, so_far=so_far)
    while await world.app.statement_imports.run_once():
        pass
    return await world.app.statement_imports.get_statement_import(begun.import_id)


async def kinds(world: PaymentWorld) -> list[str]:
    return sorted(row["kind"] for row in await world.rows(STATEMENT_DIFFERENCE))


async def fees(world: PaymentWorld) -> int:
    return [row["kind"] for row in await world.rows(LEDGER_TRANSACTION)].count("FEE")


async def test_what_a_day_has_so_far_is_matched_and_the_whole_day_completes_it(
    shop: PaymentWorld,
) -> None:
    first, first_line = await sold(shop)
    second, second_line = await sold(shop)
    lists(shop, first_line)
    early = await imported(shop, so_far=True)
    assert (early.state, early.lines, early.matched, early.is_complete) == ("DONE", 1, 1, False)
    assert (await kinds(shop), await fees(shop)) == ([], 1)
    assert (await shop.payment(first.payment_id)).fee == Money(60, "CNY")

    lists(shop, first_line, second_line)
    again = await imported(shop, so_far=True)
    assert (again.matched, await fees(shop)) == (2, 2)
    assert [row["content"] for row in await shop.rows(STATEMENT_IMPORT)] == ["", ""]

    shop.clock.advance(DAY_SECONDS)
    whole = await imported(shop)  # the same bytes
    assert (whole.state, whole.matched, whole.is_complete) == ("DONE", 2, True)
    assert whole.import_id not in (early.import_id, again.import_id)
    assert (await kinds(shop), await fees(shop)) == ([], 2)
    assert (await shop.payment(second.payment_id)).fee == Money(60, "CNY")
    assert not (await shop.app.ledger_verification.verify_ledger()).violations


async def test_what_does_not_agree_yet_is_filed_when_the_day_is_complete_and_once(
    shop: PaymentWorld,
) -> None:
    payment, right = await sold(shop)
    wrong = right.replace("100.00", "101.00")
    unknown = line(payment, attempt="ATT-OF-NOBODY")
    unreadable = wrong.replace("0.60", "?")
    lists(shop, wrong, unknown, unreadable)
    early = await imported(shop, so_far=True)
    assert (early.processed, early.matched, early.differences) == (3, 0, 0)
    assert [told[:7] for told in early.line_errors] == ["line 3:"]
    assert (await kinds(shop), await fees(shop)) == ([], 0)
    shop.clock.advance(DAY_SECONDS)
    for _ in range(2):
        assert (await imported(shop)).matched == 0
        assert await kinds(shop) == ["AMOUNT_MISMATCH", "MISSING_LOCAL", "UNREADABLE_LINE"]


async def test_a_day_counts_as_complete_when_its_statement_is_and_not_when_it_is_over(
    shop: PaymentWorld,
) -> None:
    shop.channel._capabilities = replace(
        shop.channel.capabilities, statement_ready=timedelta(hours=9)
    )
    await sold(shop)
    lists(shop)
    shop.clock.advance(timedelta(hours=4 + 9, seconds=-1).total_seconds())
    with pytest.raises(InvalidArgument, match=r"complete before 2026-11-21T09:00:00\+08:00"):
        await shop.app.statement_imports.import_statement("sandbox", TODAY)
    assert not (await imported(shop, so_far=True)).is_complete
    assert await kinds(shop) == []
    shop.clock.advance(1)
    # who asks for what there is gets the whole day when there is
    assert (await imported(shop, so_far=True)).is_complete
    assert await kinds(shop) == ["MISSING_CHANNEL"]


async def test_an_import_that_is_under_way_is_the_one_that_is_asked_for(shop: PaymentWorld) -> None:
    imports = shop.app.statement_imports
    lists(shop)
    early = await imports.import_statement("sandbox", TODAY, so_far=True)
    assert await imports.import_statement("sandbox", TODAY, so_far=True) == early
    shop.clock.advance(DAY_SECONDS)
    whole = await imports.import_statement("sandbox", TODAY)
    assert await imports.import_statement("sandbox", TODAY, so_far=True) == whole
    assert whole.import_id != early.import_id
    while await imports.run_once():
        pass
    assert (await imports.import_statement("sandbox", TODAY)).import_id != whole.import_id


async def test_a_channel_that_gives_no_statement_fails_the_import_with_its_reason(
    shop: PaymentWorld,
) -> None:
    async def not_ready(_day: Any, **_how: Any) -> bytes:
        raise ChannelUnavailable("the channel's statement of the day is not ready")

    gives(shop, not_ready)
    failed = await imported(shop, so_far=True)
    assert (failed.state, failed.error, failed.lines) == (
        "FAILED",
        "the channel's statement of the day is not ready",
        0,
    )
    lists(shop)
    assert (await imported(shop, so_far=True)).state == "DONE"


async def test_a_channel_without_statements_is_refused(shop: PaymentWorld) -> None:
    shop.channel._capabilities = replace(shop.channel.capabilities, statement=StatementKind.NONE)
    with pytest.raises(InvalidArgument) as refusal:
        await shop.app.statement_imports.import_statement("sandbox", TODAY, so_far=True)
    assert list(refusal.value.fields) == ["channel"]


async def test_a_process_that_ends_leaves_a_file_that_is_being_fetched_to_the_next(
    shop: PaymentWorld,
) -> None:
    imports = shop.app.statement_imports
    asked, dropped = asyncio.Event(), asyncio.Event()

    async def never(_day: Any, **_how: Any) -> bytes:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        raise AssertionError

    gives(shop, never)
    begun = await imports.import_statement("sandbox", TODAY, so_far=True)
    working = asyncio.ensure_future(imports.run_once())
    await asked.wait()
    imports.stop()
    assert await asyncio.wait_for(working, 10) == 0
    await dropped.wait()
    assert (await imports.get_statement_import(begun.import_id)).state == "FETCHING"
    lists(shop)
    after_restart = shop.make_app().statement_imports
    while await after_restart.run_once():
        pass
    assert (await imports.get_statement_import(begun.import_id)).state == "DONE"


async def test_of_two_processes_that_fetch_one_statement_the_first_counts(
    shop: PaymentWorld,
) -> None:
    _, first_line = await sold(shop)
    other = shop.make_app().statement_imports

    async def overtaken(_day: Any, **_how: Any) -> bytes:
        lists(shop, first_line)
        while await other.run_once():
            pass
        return statement()

    gives(shop, overtaken)
    done = await imported(shop, so_far=True)
    assert (done.state, done.lines, done.processed, done.matched) == ("DONE", 1, 1, 1)


async def test_lines_of_a_file_that_was_not_stored_are_not_compared(shop: PaymentWorld) -> None:
    payment, first_line = await sold(shop)
    unknown = line(payment, attempt="ATT-OF-NOBODY")
    other = shop.make_app().statement_imports

    async def overtaken(_day: Any, **_how: Any) -> bytes:
        lists(shop, unknown, first_line)
        assert await other.run_once()  # fetches it, and dies
        return statement()

    shop.clock.advance(DAY_SECONDS)
    gives(shop, overtaken)
    imports = shop.app.statement_imports
    begun = await imports.import_statement("sandbox", TODAY)
    for _ in range(3):
        await imports.run_once()
    done = await imports.get_statement_import(begun.import_id)
    assert (done.state, done.lines, done.processed) == ("DONE", 2, 2)
    assert await kinds(shop) == ["MISSING_LOCAL"]


@pytest.mark.parametrize("steps_before", [0, 1])
async def test_an_import_whose_channel_cannot_be_opened_any_more_fails_and_blocks_no_other(
    shop: PaymentWorld, monkeypatch: pytest.MonkeyPatch, steps_before: int
) -> None:
    lists(shop)
    imports = shop.app.statement_imports
    stuck = await imports.import_statement("sandbox", TODAY, so_far=True)
    for _ in range(steps_before):
        await imports.run_once()
    get = imports._channels.get

    async def is_gone(name: str) -> Any:
        raise (ChannelNotSupported, ChannelUnavailable)[steps_before]("its key is lost")

    monkeypatch.setattr(imports._channels, "get", is_gone)
    assert await imports.run_once() == 1
    monkeypatch.setattr(imports._channels, "get", get)
    failed = await imports.get_statement_import(stuck.import_id)
    assert (failed.state, failed.error) == ("FAILED", "its key is lost")
    assert (await imported(shop, so_far=True)).state == "DONE"


async def test_a_file_that_another_version_reads_otherwise_fails_its_import(
    shop: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first_line = await sold(shop)
    lists(shop, first_line)
    imports = shop.app.statement_imports
    begun = await imports.import_statement("sandbox", TODAY, so_far=True)
    await imports.run_once()
    monkeypatch.setattr(shop.channel, "parse_statement", lambda _content, _day: iter(()))
    after_upgrade = shop.make_app().statement_imports
    assert await after_upgrade.run_once() == 1
    failed = await imports.get_statement_import(begun.import_id)
    assert (failed.state, failed.processed) == ("FAILED", 0)
    assert failed.error == "this version reads other lines in it: import it again"
    assert await after_upgrade.run_once() == 0


async def test_an_import_that_another_process_finishes_is_no_bad_row(
    shop: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists(shop)
    imports, other = shop.app.statement_imports, shop.make_app().statement_imports
    await imports.import_statement("sandbox", TODAY, so_far=True)
    assert await other.run_once()
    get = imports._channels.get

    async def meanwhile(name: str) -> Any:
        while await other.run_once():
            pass
        return await get(name)

    monkeypatch.setattr(imports._channels, "get", meanwhile)
    bad: list[Any] = []
    monkeypatch.setattr(imports._quarantine, "add", lambda *what: bad.append(what))
    await imports.run_once()
    assert bad == []


async def test_a_process_that_ends_waits_for_no_statement_of_an_adjacent_day(
    shop: PaymentWorld,
) -> None:
    await sold(shop)
    imports = shop.app.statement_imports
    asked = asyncio.Event()

    async def first_only(day: Any, **_how: Any) -> bytes:
        if day.isoformat() != TODAY:
            asked.set()
            await asyncio.Event().wait()
        return statement()

    shop.clock.advance(DAY_SECONDS)
    gives(shop, first_only)
    begun = await imports.import_statement("sandbox", TODAY)
    assert await imports.run_once() == 1
    working = asyncio.ensure_future(imports.run_once())
    await asked.wait()
    imports.stop()
    assert await asyncio.wait_for(working, 10) == 0
    assert (await imports.get_statement_import(begun.import_id)).state == "RUNNING"
    assert await kinds(shop) == []
