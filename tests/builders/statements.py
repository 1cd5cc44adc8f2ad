"""A day of a channel, one capture and one refund of it, in its statement and in our books."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from mesh.money import Money
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Finding
from payment_rpc.domain.reconciliation import Matching, OurCapture, OurRefund
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.statement import (
    COLUMNS,
    BadLine,
    BadTotal,
    ChannelDay,
    Entry,
    Line,
    parse_statement,
)
from payment_rpc.domain.statement_index import StatementIndex

DAY = ChannelDay(time_zone=ZoneInfo("Asia/Shanghai"), cut_off=time(0))


NOON = datetime(2026, 11, 20, 4, tzinfo=UTC)


CAPTURE = "CAPTURE,SBX1,ATT1,,100.00,CNY,0.60,2026-11-20T12:00:00.000+08:00"


REFUND = "REFUND,R1,ATT1,RF1,25.00,CNY,0.15,2026-11-20T12:00:00.000+08:00"


OUR_CAPTURE = OurCapture(
    attempt_id="ATT1",
    payment_id="PAY1",
    state=AttemptState.CAPTURED,
    amount=Money(10000, "CNY"),
    fee=Money(60, "CNY"),
    trade_no="SBX1",
    captured_at=NOON,
)


OUR_REFUND = OurRefund(
    refund_id="RF1",
    payment_id="PAY1",
    attempt_id="ATT1",
    state=RefundState.SUCCESS,
    amount=Money(2500, "CNY"),
    fee=Money(15, "CNY"),
    refund_no="R1",
    refunded_at=NOON,
)


def statement(*lines: str) -> bytes:
    rows = [
        ",".join(COLUMNS),
        *(f"{number},{line}" for number, line in enumerate(lines, start=1)),
        f"END,{len(lines)}",
    ]
    return "\n".join(rows).encode()


@dataclass(frozen=True, slots=True)
class Whole:
    """All that stands in a statement."""

    lines: tuple[Line | BadLine, ...]
    bad_totals: tuple[BadTotal, ...]


def whole(entries: Iterable[Entry]) -> Whole:
    """A statement that was read to its end."""
    found = list(entries)
    return Whole(
        tuple(entry for entry in found if not isinstance(entry, BadTotal)),
        tuple(entry for entry in found if isinstance(entry, BadTotal)),
    )


def seen(entries: Iterable[Entry]) -> StatementIndex:
    """What stands in a statement that was read once."""
    index = StatementIndex()
    for entry in entries:
        index.see(entry)
    index.saw_all()
    return index


def matching_of(entries: Iterable[Entry], day: str = "2026-11-20") -> Matching:
    """Compares a statement of a day."""
    bounds = DAY.bounds(date.fromisoformat(day))
    return Matching(seen(entries), channel="sandbox", date=day, bounds=bounds)


def findings(
    *lines: str, capture: OurCapture | None = OUR_CAPTURE, refund: OurRefund | None = OUR_REFUND
) -> list[Finding]:
    content = statement(*lines)
    index = seen(parse_statement(content))
    bounds = DAY.bounds(date(2026, 11, 20))
    matching = Matching(index, channel="sandbox", date="2026-11-20", bounds=bounds)
    captures = {capture.attempt_id: capture} if capture else {}
    refunds = {refund.refund_id: refund} if refund else {}
    judged = list[Finding | None]()
    for line in whole(parse_statement(content)).lines:
        index.pass_by(line)
        judged.append(matching.judge(line, captures=captures, refunds=refunds))
    return [finding for finding in judged if finding is not None]
