"""A day of a channel, one capture and one refund of it, in its statement and in our books."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

from mesh.money import Money
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Finding
from payment_rpc.domain.reconciliation import Matching, OurCapture, OurRefund
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.statement import (
    COLUMNS,
    ChannelDay,
    parse_statement,
)

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


def findings(
    *lines: str, capture: OurCapture | None = OUR_CAPTURE, refund: OurRefund | None = OUR_REFUND
) -> list[Finding]:
    parsed = parse_statement(statement(*lines))
    matching = Matching(
        parsed, channel="sandbox", date="2026-11-20", bounds=DAY.bounds(date(2026, 11, 20))
    )
    captures = {capture.attempt_id: capture} if capture else {}
    refunds = {refund.refund_id: refund} if refund else {}
    judged = [matching.judge(line, captures=captures, refunds=refunds) for line in parsed.lines]
    return [finding for finding in judged if finding is not None]
