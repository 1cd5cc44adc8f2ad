"""What the books say about a channel's day, on real databases: first and last moments, two
channels, differences that change meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.money import Money, RequestedAmount
from payment_rpc.domain.difference import Action, Difference, Finding, Kind
from payment_rpc.domain.errors import DifferenceStateInvalid
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact
from payment_rpc.store import differences as difference_rows
from payment_rpc.store import own_records
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.tables import ATTEMPT, REFUND, STATEMENT_IMPORT
from payment_rpc.usecases.differences import ResolveDifference
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import ADMIN, merchant
from tests.builders.payment import PaymentWorld
from tests.builders.statements import DAY

BEGINS, ENDS = (moment.astimezone(UTC) for moment in DAY.bounds(date(2026, 11, 20)))
MILLISECOND = timedelta(milliseconds=1)
MOMENTS = {
    "before": BEGINS - MILLISECOND,
    "first": BEGINS,
    "last": ENDS - MILLISECOND,
    "after": ENDS,
}


async def copies(world: PaymentWorld, table: Any, key: str, column: str) -> None:
    """The one row of a table again and again: at each moment, for this channel and another one,
    under the name of both.
    """
    (row,) = await world.rows(table)
    for channel in ("sandbox", "other"):
        for name, moment in MOMENTS.items():
            changes: dict[str, Any] = {key: f"{channel}-{name}", "channel": channel, column: moment}
            if table is REFUND:
                changes |= {"request_id": None}
            await world.execute(insert(table).values({**row, **changes}))


async def test_captures_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment(
    world: PaymentWorld,
) -> None:
    payment = await world.charge(await world.order())
    await world.execute(update(ATTEMPT).values(captured_at=BEGINS - timedelta(days=9)))
    await copies(world, ATTEMPT, "attempt_id", "captured_at")
    found = await world.db.read(
        own_records.captures_of_day,
        channel="sandbox",
        begins=BEGINS,
        ends=ENDS,
        after="",
        limit=100,
    )
    assert [capture.attempt_id for capture in found] == ["sandbox-first", "sandbox-last"]
    assert {capture.payment_id for capture in found} == {payment.payment_id}
    rest = await world.db.read(
        own_records.captures_of_day,
        channel="sandbox",
        begins=BEGINS,
        ends=ENDS,
        after="sandbox-first",
        limit=100,
    )
    assert [capture.attempt_id for capture in rest] == ["sandbox-last"]


async def test_refunds_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment(
    world: PaymentWorld,
) -> None:
    payment = await world.charge(await world.order())
    await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount("1.00"),
            reason="",
            request_id="",
            key="",
        ),
        merchant(),
    )
    await world.execute(update(REFUND).values(refunded_at=BEGINS - timedelta(days=9)))
    await copies(world, REFUND, "refund_id", "refunded_at")
    found = await world.db.read(
        own_records.refunds_of_day, channel="sandbox", begins=BEGINS, ends=ENDS, after="", limit=100
    )
    assert [refund.refund_id for refund in found] == ["sandbox-first", "sandbox-last"]


async def filed(
    world: PaymentWorld, finding: Finding, *, difference_id: str = "DIF1"
) -> Difference:
    """A finding in the books."""
    now = datetime(2026, 11, 21, tzinfo=UTC)
    of = StatementImport(
        import_id="IMP1",
        channel="sandbox",
        date="2026-11-20",
        content_hash="",
        state="DONE",
        lines=1,
        processed=1,
        matched=0,
        is_complete=True,
        differences=1,
        line_errors=(),
        error="",
        created_at=now,
        finished_at=now,
    )

    async def write(tx: AsyncConnection) -> Difference:
        if not await world.rows(STATEMENT_IMPORT):
            await tx.execute(
                insert(STATEMENT_IMPORT).values(
                    import_id="IMP1",
                    channel="sandbox",
                    statement_date="2026-11-20",
                    content_hash="",
                    content="",
                    state="DONE",
                    line_count=1,
                    processed=1,
                    matched=0,
                    is_complete=True,
                    line_errors="[]",
                    error="",
                    created_at=now,
                    finished_at=now,
                )
            )
        await difference_rows.file(tx, finding, difference_id=difference_id, of=of, at=now)
        return await difference_rows.get_difference(tx, "DIF1")

    return await world.db.run(write)


MISSING = Finding(
    key="k1",
    kind=Kind.MISSING_CHANNEL,
    reason="no line",
    payment_id="PAY1",
    attempt_id="ATT1",
    book_amount=Money(100, "CNY"),
)
SHIFTED = replace(
    MISSING,
    kind=Kind.CUTOFF_SHIFT,
    reason="in the statement of 2026-11-21",
    statement_amount=Money(100, "CNY"),
)


async def test_a_shift_explains_what_is_open_and_rewrites_nothing_that_a_person_resolved(
    world: PaymentWorld,
) -> None:
    opened = await filed(world, MISSING)
    resolved = await world.db.run(
        difference_rows.resolve,
        opened,
        action=Action.ATTENTION,
        actor="ann",
        reason="asked them",
        at=world.clock.now(),
    )
    assert await filed(world, SHIFTED, difference_id="DIF2") == resolved


async def test_a_difference_whose_kind_changed_while_somebody_looked_is_not_resolved_as_what_it_was(
    world: PaymentWorld,
) -> None:
    seen = await filed(world, MISSING)
    changed = await filed(world, SHIFTED, difference_id="DIF2")
    assert changed.finding.kind is Kind.CUTOFF_SHIFT
    with pytest.raises(DifferenceStateInvalid, match="changed meanwhile"):
        await world.db.run(
            difference_rows.resolve,
            seen,
            action=Action.WRITE_OFF,
            actor="ann",
            reason="r",
            at=world.clock.now(),
        )
    assert await filed(world, SHIFTED, difference_id="DIF3") == changed


async def test_two_who_resolve_one_difference_at_once_do_it_once(world: PaymentWorld) -> None:
    seen = await filed(world, MISSING)
    await world.db.run(
        difference_rows.resolve,
        seen,
        action=Action.IGNORE,
        actor="ann",
        reason="r",
        at=world.clock.now(),
    )
    with pytest.raises(DifferenceStateInvalid, match="changed meanwhile"):
        await world.db.run(
            difference_rows.resolve,
            seen,
            action=Action.IGNORE,
            actor="bob",
            reason="r",
            at=world.clock.now(),
        )


@pytest.mark.parametrize(
    ("told", "closes"),
    [
        ({"status": RefundChannelStatus.SUCCESS}, True),
        ({"status": RefundChannelStatus.SUCCESS, "channel_refund_no": "R-OTHER"}, False),
        ({"status": RefundChannelStatus.FAILED, "reason": "refused"}, False),
        ({"status": RefundChannelStatus.PENDING}, False),
        ({"status": RefundChannelStatus.NOT_FOUND}, False),
    ],
)
async def test_a_difference_about_a_refund_closes_only_when_channel_and_books_agree(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], closes: bool
) -> None:
    payment = await world.charge(await world.order())
    refund = await world.app.refunds.create_refund(
        CreateRefund(
            payment_id=payment.payment_id,
            amount=RequestedAmount("1.00"),
            reason="",
            request_id="",
            key="",
        ),
        merchant(),
    )
    assert refund.state is RefundState.SUCCESS
    await filed(
        world,
        Finding(
            key="k2",
            kind=Kind.REFUND_MISSING_CHANNEL,
            reason="no line",
            payment_id=payment.payment_id,
            attempt_id=refund.attempt_id,
            refund_id=refund.refund_id,
            book_amount=refund.amount,
        ),
    )

    async def query_refund(refund_id: str, **call: Any) -> RefundFact:
        return RefundFact(
            refund_id=refund_id, **{"channel_refund_no": refund.channel_refund_no, **told}
        )

    monkeypatch.setattr(world.channel, "query_refund", query_refund)
    resolution = await world.app.differences.resolve_difference(
        ResolveDifference(difference_id="DIF1", action="QUERY_CHANNEL", reason="r", execute=True),
        ADMIN,
    )
    assert (resolution.difference.state == "RESOLVED") is closes
    assert (("DIFFERENCE_UNSETTLED", "DIF1") in await world.attention()) is not closes
