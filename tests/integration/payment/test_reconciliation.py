"""Statements of the real sandbox against the books, on real databases: what was planted is found,
and nothing else.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import httpx
import pytest
from paymesh.payment.v1 import reconciliation_pb2 as pb
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.call import Caller, Role
from mesh.errors import InvalidArgument
from mesh.money import RequestedAmount
from mesh.paging import PageTokens
from payment_rpc.app import PaymentApp
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.difference import Difference
from payment_rpc.domain.errors import (
    ChannelNotSupported,
    DifferenceStateInvalid,
    ReconciliationNotFound,
)
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.refund import RefundState
from payment_rpc.servicer.reconciliation import ReconciliationServicer
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.tables import LEDGER_TRANSACTION, REFUND, STATEMENT_DIFFERENCE, STATEMENT_IMPORT
from payment_rpc.usecases.differences import ResolveDifference
from payment_rpc.usecases.refund_start import CreateRefund
from payment_rpc.usecases.statement_imports import StatementImports
from tests.builders.order import ADMIN
from tests.builders.payment import PaymentWorld, UnreliableChannel
from tests.builders.payment_steps import DAY_SECONDS, TODAY
from tests.support.sandbox_server import API_KEY, CALLBACK_SECRET

CLERK = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="mall")


async def paid(world: PaymentWorld, price: str = "100.00") -> Payment:
    return await world.charge(await world.order(price))


async def refund(world: PaymentWorld, payment: Payment, amount: str = "10.00") -> None:
    await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount(amount),
            reason="",
            request_id="",
            key="",
        ),
        CLERK,
    )


async def plant(
    world: PaymentWorld, count: int, *kinds: str, day: str = TODAY
) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(
        trust_env=False, headers={"authorization": f"Bearer {API_KEY}"}
    ) as client:
        answer = await client.post(
            f"{world.sandbox.base_url}/v1/statements/{day}/plant",
            json={"count": count, "seed": "s", "kinds": list(kinds)},
        )
        assert answer.status_code == 200, answer.text
        planted: list[dict[str, Any]] = answer.json()["planted"]
        return planted


async def compare(
    world: PaymentWorld, day: str = TODAY, *, app: PaymentApp | None = None
) -> StatementImport:
    imports = (app or world.app).statement_imports
    begun = await imports.import_statement("sandbox", day)
    while await imports.run_once():
        pass
    return await imports.get_statement_import(begun.import_id)


async def differences(
    world: PaymentWorld, import_id: str = "", state: str = ""
) -> list[Difference]:
    return list(
        await world.app.differences.list_differences(
            import_id=import_id, state=state, after="", limit=1000
        )
    )


async def resolve(
    world: PaymentWorld,
    difference: Difference,
    action: str = "",
    *,
    execute: bool = True,
    reason: str = "looked at it",
) -> Any:
    return await world.app.differences.resolve_difference(
        ResolveDifference(
            difference_id=difference.difference_id, action=action, reason=reason, execute=execute
        ),
        ADMIN,
    )


async def count(world: PaymentWorld, table: Any) -> int:
    async def read(tx: AsyncConnection) -> int:
        return int((await tx.execute(select(func.count()).select_from(table))).scalar_one())

    return await world.db.read(read)


def kinds_of(found: list[Difference]) -> list[str]:
    return [difference.finding.kind.value for difference in found]


@pytest.mark.one_database
@pytest.mark.timeout(300)
async def test_twenty_planted_differences_in_two_hundred_lines_are_found_and_none_besides(
    world: PaymentWorld,
) -> None:
    payments = [await paid(world) for _ in range(160)]
    for payment in payments[:40]:
        await refund(world, payment)
    world.clock.advance(2 * DAY_SECONDS)
    planted = await plant(world, 20)
    assert len({plant["kind"] for plant in planted}) >= 10
    done = await compare(world)
    assert (done.state, done.processed) == ("DONE", done.lines)
    found = await differences(world)
    assert Counter(kinds_of(found)) == Counter(plant["finds"] for plant in planted)
    lines = {plant["line_no"]: plant["finds"] for plant in planted if plant["line_no"] is not None}
    assert {
        found.finding.line_no: found.finding.kind for found in found if found.finding.line_no
    } == lines
    assert all(
        difference.finding.reason and difference.finding.default_action for difference in found
    )
    await compare(world, "2026-11-21")  # has the shifted line: it was explained already
    assert len(await differences(world)) == 20
    booked, before = await count(world, LEDGER_TRANSACTION), await world.rows(STATEMENT_DIFFERENCE)
    again = await compare(world)
    assert (again.matched, again.differences) == (done.matched, 0)
    assert await world.rows(STATEMENT_DIFFERENCE) == before
    assert await count(world, LEDGER_TRANSACTION) == booked


async def test_a_day_on_which_all_agree_has_no_differences(world: PaymentWorld) -> None:
    payment = await paid(world)
    await refund(world, payment, "25.00")
    world.clock.advance(DAY_SECONDS)
    done = await compare(world)
    assert (done.state, done.lines, done.processed, done.differences) == ("DONE", 2, 2, 0)


async def test_a_second_capture_whose_callback_was_lost_is_found_and_goes_back_by_itself(
    world: PaymentWorld,
) -> None:
    payment = await paid(world, "77.12")
    world.clock.advance(DAY_SECONDS)
    # the second capture happens; its callback is never sent
    await world.sandbox.sandbox._scheduler.run_once()
    for day in (TODAY, "2026-11-21"):
        world.clock.advance(DAY_SECONDS)
        await compare(world, day)
    (missing,) = await differences(world)
    assert (missing.finding.kind, missing.finding.default_action) == (
        "MISSING_LOCAL",
        "QUERY_CHANNEL",
    )
    preview = await resolve(world, missing, execute=False, reason="")
    assert (preview.difference.state, preview.postings) == ("OPEN", ())
    assert not await world.rows(REFUND)
    resolution = await resolve(world, missing)
    assert (resolution.difference.state, resolution.difference.actor) == ("RESOLVED", ADMIN.subject)
    await world.app.refunds.run_once()
    (back,) = await world.rows(REFUND)
    assert (back["state"], back["payment_id"], back["amount_minor"]) == (
        RefundState.SUCCESS,
        payment.payment_id,
        7712,
    )
    assert not (await world.app.ledger_verification.verify_ledger()).violations
    with pytest.raises(DifferenceStateInvalid):
        await resolve(world, missing)


async def test_money_that_only_the_statement_knows_stays_open_and_calls_a_person(
    world: PaymentWorld,
) -> None:
    await paid(world)
    world.clock.advance(DAY_SECONDS)
    await plant(world, 1, "extra_line")
    await compare(world)
    (missing,) = await differences(world)
    booked = await count(world, LEDGER_TRANSACTION)
    resolution = await resolve(world, missing)
    assert resolution.difference.state == "OPEN"
    assert "does not know" in resolution.effect
    assert ("DIFFERENCE_UNSETTLED", missing.difference_id) in await world.attention()
    assert await count(world, LEDGER_TRANSACTION) == booked


@pytest.mark.parametrize(
    ("kind", "accounts"),
    [
        ("amount_under", {"loss": 100, "channel_receivable:sandbox": -100}),
        ("amount_over", {"channel_receivable:sandbox": 100, "recon_clearing:sandbox": -100}),
        ("missing_line", {"loss": 10000, "channel_receivable:sandbox": -10000}),
        ("wrong_fee", {"channel_fee_expense:sandbox": 100, "channel_receivable:sandbox": -100}),
    ],
)
async def test_a_write_off_books_exactly_what_its_preview_said_and_the_books_stay_proven(
    world: PaymentWorld, kind: str, accounts: dict[str, int]
) -> None:
    await paid(world)
    world.clock.advance(DAY_SECONDS)
    await plant(world, 1, kind)
    await compare(world)
    (difference,) = await differences(world)
    preview = await resolve(world, difference, "WRITE_OFF", execute=False, reason="")
    assert {
        posting.account: posting.amount.minor * (1 if posting.side == "D" else -1)
        for posting in preview.postings
    } == accounts
    booked = await count(world, LEDGER_TRANSACTION)
    with pytest.raises(InvalidArgument, match="reason"):
        await resolve(world, difference, "WRITE_OFF", reason=" ")
    assert (await resolve(world, difference, "WRITE_OFF")).postings == preview.postings
    with pytest.raises(DifferenceStateInvalid):
        await resolve(world, difference, "WRITE_OFF")
    assert await count(world, LEDGER_TRANSACTION) == booked + 1
    assert not (await world.app.ledger_verification.verify_ledger()).violations


async def test_an_action_that_does_not_fit_is_refused(world: PaymentWorld) -> None:
    await paid(world)
    world.clock.advance(DAY_SECONDS)
    await plant(world, 1, "wrong_currency")
    await compare(world)
    (difference,) = await differences(world)
    for action in ("WRITE_OFF", "PANIC"):
        with pytest.raises(DifferenceStateInvalid, match="action"):
            await resolve(world, difference, action)
    with pytest.raises(ReconciliationNotFound):
        await world.app.differences.resolve_difference(
            ResolveDifference(difference_id="DIF0", action="", reason="r", execute=False), ADMIN
        )


async def test_a_line_that_is_late_turns_missing_money_into_a_shift_when_its_statement_comes(
    world: PaymentWorld,
) -> None:
    await paid(world)
    world.clock.advance(DAY_SECONDS)
    await plant(world, 1, "next_day")
    await compare(world)
    # the next day is not over: nobody can know
    assert kinds_of(await differences(world)) == ["MISSING_CHANNEL"]
    world.clock.advance(DAY_SECONDS)
    await compare(world, "2026-11-21")
    assert kinds_of(await differences(world)) == ["CUTOFF_SHIFT"]


async def test_an_import_that_was_cut_by_a_crash_goes_on_where_it_was(world: PaymentWorld) -> None:
    for _ in range(5):
        await paid(world)
    world.clock.advance(DAY_SECONDS)
    await plant(world, 3, "amount_over", "duplicate_line", "missing_line")

    def another() -> StatementImports:
        return StatementImports(
            db=world.db,
            clock=world.clock,
            ids=world.ids,
            channels=Channels({"sandbox": world.channel}),
            wake_worker=lambda: None,
            chunk=2,
        )

    begun = await another().import_statement("sandbox", TODAY)
    progress = []
    while await another().run_once():  # each one after a restart
        progress.append(
            (await world.app.statement_imports.get_statement_import(begun.import_id)).processed
        )
    assert progress == [0, 2, 4, 5]
    assert sorted(kinds_of(await differences(world, begun.import_id))) == [
        "AMOUNT_MISMATCH",
        "DUPLICATE_LINE",
        "MISSING_CHANNEL",
    ]
    assert (await world.app.statement_imports.get_statement_import(begun.import_id)).state == "DONE"


async def test_lines_that_cannot_be_read_are_told_by_number_and_the_others_are_compared(
    world: PaymentWorld,
) -> None:
    await paid(world)
    await paid(world)
    world.clock.advance(DAY_SECONDS)
    (planted,) = await plant(world, 1, "unreadable_line")
    done = await compare(world)
    assert (done.state, done.processed, kinds_of(await differences(world))) == (
        "DONE",
        3,
        ["UNREADABLE_LINE"],
    )
    (told,) = done.line_errors
    assert told.startswith(f"line {planted['line_no']}: amount: ")


class CuttingChannel(UnreliableChannel):
    """Loses the end of statements."""

    async def statement(self, date: Any, **how: Any) -> bytes:
        return (await super().statement(date, **how)).rpartition(b"END")[0]


async def test_a_statement_that_was_cut_off_fails_and_a_whole_one_is_imported_afterwards(
    world: PaymentWorld,
) -> None:
    await paid(world)
    world.clock.advance(DAY_SECONDS)
    cutting = CuttingChannel(
        base_url=world.sandbox.base_url, api_key=API_KEY, callback_secret=CALLBACK_SECRET
    )
    try:
        failed = await compare(world, app=world.make_app(channels={"sandbox": cutting}))
    finally:
        await cutting.aclose()
    assert (failed.state, failed.error, failed.differences) == (
        "FAILED",
        "cut off: the last line is not END",
        0,
    )
    assert (await compare(world)).state == "DONE"


class LosingChannel(UnreliableChannel):
    """Loses the last line of statements and counts anew; only its totals remember."""

    async def statement(self, date: Any, **how: Any) -> bytes:
        rows = (await super().statement(date, **how)).decode().splitlines()
        lines = [row for row in rows[1:] if row[0].isdigit()]
        return "\n".join(
            [
                rows[0],
                *lines[:-1],
                *(row for row in rows if row.startswith("SUM")),
                f"END,{len(lines) - 1}",
            ]
        ).encode()


async def test_a_total_that_the_lines_do_not_add_up_to_is_a_difference_for_a_person(
    world: PaymentWorld,
) -> None:
    await paid(world)
    await paid(world, "25.00")
    world.clock.advance(DAY_SECONDS)
    losing = LosingChannel(
        base_url=world.sandbox.base_url, api_key=API_KEY, callback_secret=CALLBACK_SECRET
    )
    try:
        app = world.make_app(channels={"sandbox": losing})
        done = await compare(world, app=app)
        assert (await compare(world, app=app)).differences == 0
    finally:
        await losing.aclose()
    sentence = "CAPTURE in CNY: it says 2 lines of 125.00 CNY with fees of 0.00 CNY, there are 1 lines of 100.00 CNY with fees of 0.00 CNY"
    assert (done.state, done.lines, done.line_errors) == ("DONE", 1, (f"SUM: {sentence}",))
    missing, wrong = sorted(await differences(world), key=lambda found: found.finding.kind)
    assert (missing.finding.kind, wrong.finding.kind, wrong.finding.default_action) == (
        "MISSING_CHANNEL",
        "TOTAL_MISMATCH",
        "ATTENTION",
    )
    assert wrong.finding.reason == f"the statement's total is wrong: {sentence}"
    with pytest.raises(DifferenceStateInvalid):
        await resolve(world, wrong, "WRITE_OFF")
    assert (await resolve(world, wrong)).difference.state == "RESOLVED"
    assert "DIFFERENCE" in {kind for kind, _ in await world.attention()}


async def test_the_service_imports_lists_in_pages_and_resolves(world: PaymentWorld) -> None:
    for _ in range(4):
        await paid(world)
    world.clock.advance(DAY_SECONDS)
    await plant(world, 3, "amount_over", "missing_line", "unknown_fee")
    servicer = ReconciliationServicer(
        statement_imports=world.app.statement_imports,
        differences=world.app.differences,
        page_tokens=PageTokens(b"p" * 32),
    )
    begun = (
        await servicer.ImportStatement(
            pb.ImportStatementRequest(channel="sandbox", date=TODAY), None
        )
    ).statement_import
    assert begun.state == pb.IMPORT_STATE_FETCHING
    while await world.app.statement_imports.run_once():
        pass
    done = (
        await servicer.GetStatementImport(
            pb.GetStatementImportRequest(import_id=begun.import_id), None
        )
    ).statement_import
    assert (done.state, done.processed, done.differences) == (pb.IMPORT_STATE_DONE, done.lines, 3)
    found: list[Any] = []
    token = ""
    for _ in range(3):
        page = await servicer.ListDifferences(
            pb.ListDifferencesRequest(
                import_id=begun.import_id, state="OPEN", page_size=1, page_token=token
            ),
            None,
        )
        found += page.differences
        token = page.next_page_token
    assert (sorted(one.kind for one in found), token) == (
        ["AMOUNT_MISMATCH", "FEE_MISMATCH", "MISSING_CHANNEL"],
        "",
    )
    over = next(one for one in found if one.kind == "AMOUNT_MISMATCH")
    assert (over.statement_amount, over.book_amount, over.currency, over.default_action) == (
        "101.00",
        "100.00",
        "CNY",
        "ATTENTION",
    )
    assert over.reason == "amount differs: ours 100.00 CNY, channel 101.00 CNY"
    preview = await servicer.ResolveDifference(
        pb.ResolveDifferenceRequest(difference_id=over.difference_id, action="WRITE_OFF"), None
    )
    assert sorted(
        (posting.account, posting.side, posting.amount) for posting in preview.postings
    ) == [("channel_receivable:sandbox", "D", "1.00"), ("recon_clearing:sandbox", "C", "1.00")]


@pytest.mark.parametrize(
    ("channel", "day", "field"),
    [
        ("visa", TODAY, "channel"),
        ("sandbox", "2026-11-22", "date"),
        ("sandbox", "9999-12-31", "date"),
        ("sandbox", TODAY, "date"),
        ("sandbox", "2026-02-30", "date"),
        ("sandbox", "0001-01-01", "date"),
    ],
)
async def test_a_statement_that_cannot_be_is_refused_by_the_name_of_the_field(
    world: PaymentWorld, channel: str, day: str, field: str
) -> None:
    with pytest.raises((ChannelNotSupported, InvalidArgument)) as refusal:
        await world.app.statement_imports.import_statement(channel, day)
    assert list(refusal.value.fields) == [field]
    assert await count(world, STATEMENT_IMPORT) == 0


async def test_the_day_ends_at_the_cut_off_in_the_channels_time_zone(world: PaymentWorld) -> None:
    await paid(world)
    world.clock.advance(timedelta(hours=4, seconds=-1).total_seconds())  # 23:59:59 in Shanghai
    with pytest.raises(InvalidArgument, match="not over"):
        await world.app.statement_imports.import_statement("sandbox", TODAY)
    world.clock.advance(1)
    assert (await compare(world)).lines == 1
