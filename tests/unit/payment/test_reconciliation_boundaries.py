"""Days of a channel to the millisecond, and write-offs by kind, sign and side."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from mesh.money import Money
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Difference, DifferenceState, Finding, Kind
from payment_rpc.domain.errors import DifferenceStateInvalid
from payment_rpc.domain.ledger import Side
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.statement import Line, LineType, parse_statement
from tests.builders.payment import an_attempt
from tests.builders.statements import (
    CAPTURE,
    DAY,
    NOON,
    OUR_CAPTURE,
    OUR_REFUND,
    REFUND,
    findings,
    matching_of,
    statement,
)
from tests.support.fakes import EPOCH

BEGINS, ENDS = DAY.bounds(date(2026, 11, 20))
MILLISECOND = timedelta(milliseconds=1)
AROUND_MIDNIGHTS = [
    (BEGINS - MILLISECOND, False),
    (BEGINS, True),
    (BEGINS + MILLISECOND, True),
    (ENDS - MILLISECOND, True),
    (ENDS, False),
    (ENDS + MILLISECOND, False),
]


@pytest.mark.parametrize(("moment", "is_of_day"), AROUND_MIDNIGHTS)
def test_a_capture_belongs_to_the_day_from_its_first_moment_to_before_the_next(
    moment: datetime, is_of_day: bool
) -> None:
    found = findings(CAPTURE, capture=replace(OUR_CAPTURE, captured_at=moment.astimezone(UTC)))
    assert [finding.kind for finding in found] == ([] if is_of_day else [Kind.CUTOFF_SHIFT])


@pytest.mark.parametrize(("moment", "is_of_day"), AROUND_MIDNIGHTS)
def test_a_refund_belongs_to_the_day_from_its_first_moment_to_before_the_next(
    moment: datetime, is_of_day: bool
) -> None:
    found = findings(REFUND, refund=replace(OUR_REFUND, refunded_at=moment.astimezone(UTC)))
    assert [finding.kind for finding in found] == ([] if is_of_day else [Kind.CUTOFF_SHIFT])


def test_the_day_of_a_capture_is_the_channels_not_ours() -> None:
    theirs, ours = NOON - timedelta(days=1), NOON
    captured = an_attempt(AttemptState.UNKNOWN).capture(
        Money(10000, "CNY"), trade_no="T1", at=ours, captured_at=theirs
    )
    assert (captured.captured_at, captured.updated_at) == (theirs, ours)
    assert (
        an_attempt(AttemptState.UNKNOWN)
        .capture(Money(10000, "CNY"), trade_no="T1", at=ours)
        .captured_at
        == ours
    )


def test_an_open_attempt_keeps_its_place_in_the_schedule_of_questions() -> None:
    soon = EPOCH + timedelta(milliseconds=100)
    pending = an_attempt(AttemptState.UNKNOWN, next_query_at=soon).to(
        AttemptState.PENDING, at=EPOCH
    )
    assert pending.next_query_at == soon
    late = an_attempt(AttemptState.UNKNOWN, next_query_at=EPOCH + timedelta(days=1), queries=0).to(
        AttemptState.PENDING, at=EPOCH
    )
    assert late.next_query_at is not None
    assert late.next_query_at < EPOCH + timedelta(minutes=1)


@pytest.mark.parametrize(
    "state",
    [
        RefundState.CREATED,
        RefundState.SUBMITTED,
        RefundState.PENDING,
        RefundState.UNKNOWN,
        RefundState.FAILED,
        RefundState.CANCELED,
    ],
)
def test_money_that_the_channel_gave_back_and_our_refund_did_not_is_asked_for(
    state: RefundState,
) -> None:
    (found,) = findings(REFUND, refund=replace(OUR_REFUND, state=state))
    assert found.kind is Kind.REFUND_MISSING_LOCAL


@pytest.mark.parametrize("state", [RefundState.SUCCESS, RefundState.REVERSED])
def test_a_refund_under_another_number_is_a_difference(state: RefundState) -> None:
    assert findings(REFUND, refund=replace(OUR_REFUND, state=state)) == []
    (found,) = findings(REFUND, refund=replace(OUR_REFUND, state=state, refund_no="R9"))
    assert found.kind is Kind.REFERENCE_MISMATCH


def test_a_refund_that_came_back_is_missing_when_its_going_out_is() -> None:
    back = REFUND.replace("REFUND", "REFUND_REVERSED")
    ours = replace(OUR_REFUND, state=RefundState.REVERSED)
    for lines, missing in (((back,), True), ((REFUND, back), False)):
        matching = matching_of(parse_statement(statement(*lines)))
        found = list(matching.missing_refunds([ours], elsewhere={}))
        assert [finding.kind for finding in found] == [Kind.REFUND_MISSING_CHANNEL] * missing


CNY = "CNY"
RECEIVABLE, LOSS, CLEARING, FEES = (
    "channel_receivable:sandbox",
    "loss",
    "recon_clearing:sandbox",
    "channel_fee_expense:sandbox",
)


@pytest.mark.parametrize(
    ("kind", "stated", "booked", "sides", "minor"),
    [
        # it has less of ours than we believed
        (Kind.AMOUNT_MISMATCH, 9900, 10000, (LOSS, RECEIVABLE), 100),
        (Kind.AMOUNT_MISMATCH, 10100, 10000, (RECEIVABLE, CLEARING), 100),  # it has more
        (Kind.MISSING_CHANNEL, None, 10000, (LOSS, RECEIVABLE), 10000),  # it never had it
        # it still holds what we booked as given back
        (Kind.REFUND_MISSING_CHANNEL, None, 2500, (RECEIVABLE, CLEARING), 2500),
        # it gave back more than we believed
        (Kind.REFUND_AMOUNT_MISMATCH, 2600, 2500, (LOSS, RECEIVABLE), 100),
        (Kind.REFUND_AMOUNT_MISMATCH, 2400, 2500, (RECEIVABLE, CLEARING), 100),
        # it gave back by itself
        (Kind.STATUS_MISMATCH, 2500, None, (LOSS, RECEIVABLE), 2500),
        (Kind.FEE_MISMATCH, 61, 60, (FEES, RECEIVABLE), 1),
        (Kind.FEE_MISMATCH, 59, 60, (RECEIVABLE, FEES), 1),
    ],
)
def test_a_write_off_books_each_kind_on_its_own_side(
    kind: Kind, stated: int | None, booked: int | None, sides: tuple[str, str], minor: int
) -> None:
    postings = difference(kind, stated=stated, booked=booked).write_off().postings
    assert [(posting.side, posting.account, posting.amount) for posting in postings] == [
        (Side.DEBIT, sides[0], Money(minor, CNY)),
        (Side.CREDIT, sides[1], Money(minor, CNY)),
    ]


@pytest.mark.parametrize(
    "kind", [Kind.AMOUNT_MISMATCH, Kind.FEE_MISMATCH, Kind.REFUND_AMOUNT_MISMATCH]
)
def test_two_currencies_are_never_written_off_against_each_other(kind: Kind) -> None:
    with pytest.raises(DifferenceStateInvalid):
        difference(kind, stated=9900, booked=10000, stated_currency="USD").write_off()


def test_a_refund_that_came_back_is_no_write_off() -> None:
    with pytest.raises(DifferenceStateInvalid):
        difference(Kind.STATUS_MISMATCH, stated=2500, booked=2500, refund_id="RF1").write_off()
    with pytest.raises(DifferenceStateInvalid):
        difference(Kind.STATUS_MISMATCH, stated=2500, booked=None, refund_id="RF1").write_off()


def test_nothing_is_written_off_where_nothing_differs() -> None:
    with pytest.raises(DifferenceStateInvalid):
        difference(Kind.AMOUNT_MISMATCH, stated=10000, booked=10000).write_off()


def difference(
    kind: Kind,
    *,
    stated: int | None,
    booked: int | None,
    stated_currency: str = CNY,
    refund_id: str = "",
) -> Difference:
    finding = Finding(
        key="k",
        kind=kind,
        reason="r",
        payment_id="PAY1",
        attempt_id="ATT1",
        refund_id=refund_id,
        statement_amount=None if stated is None else Money(stated, stated_currency),
        book_amount=None if booked is None else Money(booked, CNY),
    )
    return Difference(
        difference_id="DIF1",
        import_id="IMP1",
        channel="sandbox",
        finding=finding,
        state=DifferenceState.OPEN,
        action="",
        actor="",
        resolution_reason="",
        created_at=NOON,
        resolved_at=None,
    )


@pytest.mark.parametrize(
    "kind",
    [LineType.DISPUTE, LineType.DISPUTE_REVERSED, LineType.ADJUSTMENT, LineType.PAYOUT],
)
def test_what_a_person_decides_is_no_difference_and_books_no_fee(kind: LineType) -> None:
    line = Line(
        line_no=1,
        type=kind,
        trade_no=OUR_CAPTURE.trade_no,
        attempt_id=OUR_CAPTURE.attempt_id,
        refund_id="",
        amount=OUR_CAPTURE.amount,
        fee=Money(1500, "CNY"),
        occurred_at=NOON,
    )
    matching = matching_of([line])
    known = {OUR_CAPTURE.attempt_id: replace(OUR_CAPTURE, fee=Money.zero("CNY"))}
    assert matching.judge(line, captures=known, refunds={}) is None
    assert not list(matching.unbooked_fees([line], captures=known, refunds={}))
    # and it is not the line of the capture
    [missing] = matching.missing_captures([OUR_CAPTURE], elsewhere={})
    assert missing.kind is Kind.MISSING_CHANNEL
