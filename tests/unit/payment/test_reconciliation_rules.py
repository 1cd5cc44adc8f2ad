"""Statements are read row by row, and each line against our books makes one finding of the right
kind.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Action, Difference, DifferenceState, Finding, Kind
from payment_rpc.domain.errors import DifferenceStateInvalid
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.statement import (
    BadLine,
    Line,
    StatementUnreadable,
    parse_statement,
)
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
    whole,
)


def test_what_agrees_is_no_finding() -> None:
    assert findings(CAPTURE, REFUND) == []


@pytest.mark.parametrize(
    ("line", "kind", "sentence"),
    [
        (
            CAPTURE.replace("100.00", "99.00"),
            Kind.AMOUNT_MISMATCH,
            "amount differs: ours 100.00 CNY, channel 99.00 CNY",
        ),
        (
            CAPTURE.replace("CNY", "USD"),
            Kind.CURRENCY_MISMATCH,
            "currency differs: ours 100.00 CNY, channel 100.00 USD",
        ),
        (
            CAPTURE.replace("0.60", "0.61"),
            Kind.FEE_MISMATCH,
            "fee differs: ours 0.60 CNY, channel 0.61 CNY",
        ),
        (
            CAPTURE.replace("SBX1", "SBX2"),
            Kind.REFERENCE_MISMATCH,
            "the trade number differs: ours SBX1, channel SBX2",
        ),
        (
            CAPTURE.replace("ATT1", "ATT9"),
            Kind.MISSING_LOCAL,
            "the channel captured 100.00 CNY under SBX1, and we do not know it",
        ),
        (
            REFUND.replace("25.00", "26.00"),
            Kind.REFUND_AMOUNT_MISMATCH,
            "refund differs: ours 25.00 CNY, channel 26.00 CNY",
        ),
        (
            REFUND.replace("RF1", "RF9"),
            Kind.REFUND_MISSING_LOCAL,
            "the channel refunded 25.00 CNY under R1, and we do not know it",
        ),
        (
            REFUND.replace("RF1", ""),
            Kind.STATUS_MISMATCH,
            "the channel refunded 25.00 CNY by itself, under R1",
        ),
        (
            REFUND.replace("REFUND,", "REFUND_REVERSED,"),
            Kind.STATUS_MISMATCH,
            "the channel says that the refund of 25.00 CNY came back, ours is SUCCESS",
        ),
        (
            CAPTURE.replace("CAPTURE", "FEE"),
            Kind.FEE_MISMATCH,
            "the channel kept a fee of 100.00 CNY that our books do not know",
        ),
    ],
)
def test_a_line_that_differs_is_told_in_one_sentence(line: str, kind: Kind, sentence: str) -> None:
    (found,) = findings(line)
    assert (found.kind, found.reason) == (kind, sentence)


def test_the_same_line_twice_is_a_duplicate_and_another_trade_of_one_attempt_is_a_second_charge() -> (
    None
):
    assert [found.kind for found in findings(CAPTURE, CAPTURE)] == [Kind.DUPLICATE_LINE]
    assert [found.kind for found in findings(CAPTURE, CAPTURE.replace("SBX1", "SBX2"))] == [
        Kind.DUPLICATE_CHARGE
    ]


@pytest.mark.parametrize(
    "state", [AttemptState.UNKNOWN, AttemptState.CLOSED, AttemptState.DECLINED]
)
def test_money_for_an_attempt_that_we_hold_for_unpaid_is_asked_for(state: AttemptState) -> None:
    (found,) = findings(CAPTURE, capture=replace(OUR_CAPTURE, state=state))
    assert (found.kind, found.default_action) == (Kind.LOCAL_NOT_PAID, Action.QUERY_CHANNEL)


def test_a_refund_that_bounced_had_left_before() -> None:
    assert (
        findings(
            REFUND,
            REFUND.replace("REFUND,", "REFUND_REVERSED,"),
            refund=replace(OUR_REFUND, state=RefundState.REVERSED),
        )
        == []
    )


def test_a_capture_of_another_day_is_a_shift_and_has_the_key_of_the_missing_one() -> None:
    ours = replace(OUR_CAPTURE, captured_at=NOON - timedelta(days=1))
    (found,) = findings(CAPTURE, capture=ours)
    assert found.kind is Kind.CUTOFF_SHIFT
    matching = matching_of((), "2026-11-19")
    (missing,) = matching.missing_captures([ours], elsewhere={})
    assert (missing.kind, missing.key) == (Kind.MISSING_CHANNEL, found.key)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (CAPTURE.replace("100.00", "n/a"), "amount"),
        (CAPTURE.replace("100.00", "1.001"), "amount"),
        (CAPTURE.replace("CNY", "XXX"), "currency"),
        (CAPTURE.replace("0.60", "-1"), "fee"),
        (CAPTURE.replace("2026-11-20T", "noon"), "occurred_at"),
        (CAPTURE.replace("+08:00", ""), "time zone"),
        (CAPTURE.replace("CAPTURE", "GIFT"), "type"),
        (CAPTURE + ",more", "10 fields"),
        (CAPTURE.replace("ATT1", "../refunds"), "attempt_id"),
    ],
)
def test_a_bad_row_is_told_and_the_next_one_is_read(line: str, problem: str) -> None:
    bad, good = whole(parse_statement(statement(line, REFUND))).lines
    assert isinstance(bad, BadLine)
    assert problem in bad.problem
    assert isinstance(good, Line)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "first line"),
        (b"\xff\xfe", "UTF-8"),
        (b"<html>", "first line"),
        (statement(CAPTURE)[:-6], "cut off"),
        (statement(CAPTURE).replace(b"END,1", b"END,2"), "END says 2"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(StatementUnreadable, match=problem):
        whole(parse_statement(content))


SUMS = ("SUM,CAPTURE,CNY,2,150.00,0.90", "SUM,REFUND,CNY,1,25.00,0.15")
OTHER = CAPTURE.replace("100.00", "50.00").replace("0.60", "0.30").replace("ATT1", "ATT2")


def with_totals(*sums: str, lines: tuple[str, ...] = (CAPTURE, OTHER, REFUND)) -> bytes:
    return statement(*lines).replace(b"END", "\n".join([*sums, "END"]).encode())


def test_totals_that_the_lines_add_up_to_are_fine() -> None:
    assert whole(parse_statement(with_totals(*SUMS))).bad_totals == ()
    assert whole(parse_statement(statement())).bad_totals == ()


def test_a_line_without_money_counts_in_no_total_and_one_that_is_bad_otherwise_does() -> None:
    assert (
        whole(
            parse_statement(
                with_totals(*SUMS, lines=(CAPTURE, OTHER, REFUND, CAPTURE.replace("100.00", "n/a")))
            )
        ).bad_totals
        == ()
    )
    assert (
        whole(
            parse_statement(
                with_totals(*SUMS, lines=(CAPTURE, OTHER.replace("2026-11-20T", "noon"), REFUND))
            )
        ).bad_totals
        == ()
    )


@pytest.mark.parametrize(
    ("sums", "problem"),
    [
        (
            (SUMS[0].replace(",2,", ",3,"), SUMS[1]),
            "it says 3 lines of 150.00 CNY with fees of 0.90 CNY, there are 2 lines of 150.00 CNY",
        ),
        ((SUMS[0].replace("150.00", "150.01"), SUMS[1]), "it says 2 lines of 150.01 CNY"),
        ((SUMS[0].replace("0.90", "0.91"), SUMS[1]), "with fees of 0.91 CNY"),
        (
            SUMS[:1],
            "REFUND in CNY: there are 1 lines of 25.00 CNY with fees of 0.15 CNY, and no total",
        ),
        (
            (*SUMS, "SUM,FEE,CNY,1,5.00,0.00"),
            "FEE in CNY: it says 1 lines of 5.00 CNY with fees of 0.00 CNY, there are 0 lines",
        ),
        ((*SUMS, SUMS[0]), "a second total of CAPTURE in CNY"),
        ((*SUMS, "SUM,CAPTURE,CNY"), "cannot be read"),
        ((*SUMS, "SUM,CAPTURE,CNY,many,1.00,0.00"), "cannot be read"),
        ((*SUMS, "SUM,CAPTURE,XXX,1,1.00,0.00"), "cannot be read"),
    ],
)
def test_a_total_that_the_lines_do_not_add_up_to_is_one_finding(
    sums: tuple[str, ...], problem: str
) -> None:
    parsed = whole(parse_statement(with_totals(*sums)))
    assert len(parsed.lines) == 3
    (total,) = parsed.bad_totals
    assert problem in total.problem
    (found,) = matching_of(parse_statement(with_totals(*sums))).wrong_totals()
    assert (found.kind, found.default_action) == (Kind.TOTAL_MISMATCH, Action.ATTENTION)
    assert problem in found.reason


def test_a_days_bounds_follow_the_zone_and_the_cut_off() -> None:
    assert DAY.bounds(date(2026, 11, 20)) == (
        datetime(2026, 11, 19, 16, tzinfo=UTC),
        datetime(2026, 11, 20, 16, tzinfo=UTC),
    )
    late = replace(DAY, cut_off=time(23))
    assert late.bounds(date(2026, 11, 20))[0] == datetime(2026, 11, 20, 15, tzinfo=UTC)


def difference(finding: Finding, **changes: Any) -> Difference:
    return replace(
        Difference(
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
        ),
        **changes,
    )


@pytest.mark.parametrize(
    ("line", "debit", "credit", "minor"),
    [
        (CAPTURE.replace("100.00", "99.00"), "loss", "channel_receivable:sandbox", 100),
        (
            CAPTURE.replace("100.00", "101.00"),
            "channel_receivable:sandbox",
            "recon_clearing:sandbox",
            100,
        ),
        (
            CAPTURE.replace("0.60", "0.61"),
            "channel_fee_expense:sandbox",
            "channel_receivable:sandbox",
            1,
        ),
        (
            CAPTURE.replace("0.60", "0.59"),
            "channel_receivable:sandbox",
            "channel_fee_expense:sandbox",
            1,
        ),
        (REFUND.replace("25.00", "26.00"), "loss", "channel_receivable:sandbox", 100),
        (REFUND.replace("RF1", ""), "loss", "channel_receivable:sandbox", 2500),
    ],
)
def test_a_write_off_moves_what_the_channel_owes_us(
    line: str, debit: str, credit: str, minor: int
) -> None:
    (found,) = findings(line)
    postings = difference(found).write_off().postings
    assert [(posting.account, posting.amount.minor) for posting in postings] == [
        (debit, minor),
        (credit, minor),
    ]


def test_a_fee_that_is_off_by_one_minor_unit_is_written_off_by_default() -> None:
    assert findings(CAPTURE.replace("0.60", "0.61"))[0].default_action is Action.WRITE_OFF
    assert findings(CAPTURE.replace("0.60", "0.62"))[0].default_action is Action.ATTENTION


@pytest.mark.parametrize(
    "line",
    [CAPTURE.replace("CNY", "USD"), CAPTURE.replace("ATT1", "ATT9"), REFUND.replace("RF1", "RF9")],
)
def test_what_has_no_payment_or_another_currency_is_not_written_off(line: str) -> None:
    with pytest.raises(DifferenceStateInvalid, match="does not fit"):
        difference(findings(line)[0]).choose("WRITE_OFF")


def test_a_difference_is_resolved_once() -> None:
    done = difference(
        findings(CAPTURE.replace("ATT1", "ATT9"))[0],
        state=DifferenceState.RESOLVED,
        action="IGNORE",
        actor="ann",
    )
    with pytest.raises(DifferenceStateInvalid, match="resolved by ann"):
        done.choose("")
