"""Matches the lines of a statement with our attempts and refunds. Pure. Each line and each row of
ours gives at most one finding, with one sentence as its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import assert_never

from mesh.money import Money
from payment_rpc.domain import ledger
from payment_rpc.domain.attempt import AttemptState
from payment_rpc.domain.difference import Finding, Kind
from payment_rpc.domain.ledger import LedgerTransaction
from payment_rpc.domain.refund import RefundState
from payment_rpc.domain.statement import BadLine, Line, LineType
from payment_rpc.domain.statement_index import StatementIndex

# a reversed refund had been paid out before
_REFUNDED = frozenset({RefundState.SUCCESS, RefundState.REVERSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class OurCapture:
    """An attempt in our books. `captured_at` is by the channel's clock; `fee` is the booked fee."""

    attempt_id: str
    payment_id: str
    state: AttemptState
    amount: Money
    fee: Money
    trade_no: str
    captured_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OurRefund:
    """A refund in our books. `fee` is the fee that we booked as returned with it."""

    refund_id: str
    payment_id: str
    attempt_id: str
    state: RefundState
    amount: Money
    fee: Money
    refund_no: str
    refunded_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbookedFee:
    """A fee that only the statement tells. `trade_no`: of the capture that it was kept of, "" for
    what came back with a refund.
    """

    payment_id: str
    booking: LedgerTransaction
    fee: Money
    trade_no: str


class Matching:
    """Matches the statement of one day against our books."""

    def __init__(
        self, index: StatementIndex, *, channel: str, date: str, bounds: tuple[datetime, datetime]
    ) -> None:
        self._index = index
        self._channel = channel
        self._date = date
        self._begins, self._ends = bounds

    def judge(
        self,
        line: Line | BadLine,
        *,
        captures: Mapping[str, OurCapture],
        refunds: Mapping[str, OurRefund],
    ) -> Finding | None:
        """The finding about a line, or None when it matches our books."""
        if isinstance(line, BadLine):
            return Finding(
                key=self._key("bad", str(line.line_no), line.text),
                kind=Kind.UNREADABLE_LINE,
                line_no=line.line_no,
                reason=f"line {line.line_no} cannot be read: {line.problem}",
            )
        first = self._index.first(line)
        if first != line.line_no:
            return self._found(
                line,
                captures.get(line.attempt_id),
                Kind.DUPLICATE_LINE,
                f"line {line.line_no} says the same as line {first}",
            )
        match line.type:
            case LineType.CAPTURE:
                return self._judge_capture(line, captures.get(line.attempt_id))
            case LineType.REFUND | LineType.REFUND_REVERSED:
                return self._judge_refund(
                    line, refunds.get(line.refund_id), captures.get(line.attempt_id)
                )
            case LineType.FEE:
                return self._found(
                    line,
                    None,
                    Kind.FEE_MISMATCH,
                    f"the channel kept a fee of {line.amount} that our books do not know",
                )
            case (
                LineType.DISPUTE | LineType.DISPUTE_REVERSED | LineType.ADJUSTMENT | LineType.PAYOUT
            ):
                return None
            case _:
                assert_never(line.type)

    def unbooked_fees(
        self,
        lines: Sequence[Line | BadLine],
        *,
        captures: Mapping[str, OurCapture],
        refunds: Mapping[str, OurRefund],
    ) -> Iterator[UnbookedFee]:
        """Fees in some lines that match our books in everything else but the day, of a channel that
        tells its fees by its statement only.
        """
        for line in lines:
            if isinstance(line, BadLine) or self._index.first(line) != line.line_no:
                continue
            if line.fee.minor <= 0 or line.fee.currency != line.amount.currency:
                continue
            capture = captures.get(line.attempt_id)
            refund = refunds.get(line.refund_id)
            if line.type is LineType.CAPTURE and capture is not None:
                without_fee = replace(line, fee=capture.fee)
                found = self._judge_capture(without_fee, capture)
                if capture.fee.minor == 0 and _is_ours(found):
                    yield UnbookedFee(
                        payment_id=capture.payment_id,
                        booking=ledger.fee_charged(
                            attempt_id=capture.attempt_id,
                            payment_id=capture.payment_id,
                            channel=self._channel,
                            fee=line.fee,
                        ),
                        fee=line.fee,
                        trade_no=line.trade_no,
                    )
            elif line.type is LineType.REFUND and refund is not None:
                without_fee = replace(line, fee=refund.fee)
                found = self._judge_refund(without_fee, refund, capture)
                if refund.fee.minor == 0 and _is_ours(found):
                    yield UnbookedFee(
                        payment_id=refund.payment_id,
                        booking=ledger.fee_returned(
                            refund_id=refund.refund_id,
                            payment_id=refund.payment_id,
                            channel=self._channel,
                            fee=line.fee,
                        ),
                        fee=line.fee,
                        trade_no="",
                    )

    def wrong_totals(self) -> Iterator[Finding]:
        """Findings about totals that differ from the sum of the lines: lines were lost, added or
        changed in transit, or by the channel.
        """
        for total in self._index.bad_totals:
            yield Finding(
                key=self._key("total", total.text, total.problem),
                kind=Kind.TOTAL_MISMATCH,
                reason=f"the statement's total is wrong: {total.problem}",
            )

    def missing_captures(
        self, ours: Sequence[OurCapture], *, elsewhere: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Findings about captures of the day without a line. `elsewhere` maps an attempt to the
        adjacent day whose statement contains it.
        """
        for capture in ours:
            if self._index.lists_attempt(capture.attempt_id):
                continue
            missing = Finding(
                key=self._absent(capture.attempt_id),
                kind=Kind.MISSING_CHANNEL,
                payment_id=capture.payment_id,
                attempt_id=capture.attempt_id,
                channel_trade_no=capture.trade_no,
                book_amount=capture.amount,
                reason=f"we captured {capture.amount} under {capture.trade_no}, and the statement "
                f"has no line of it",
            )
            day = elsewhere.get(capture.attempt_id)
            yield missing if day is None else _shifted(missing, capture, "capture", day)

    def missing_refunds(
        self, ours: Sequence[OurRefund], *, elsewhere: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Findings about refunds of the day without a line."""
        for refund in ours:
            # of one that did not come back here, the line that it did is a difference already
            is_listed = (
                self._index.lists_sent
                if refund.state is RefundState.REVERSED
                else self._index.lists_refund
            )
            if is_listed(refund.refund_id):
                continue
            missing = Finding(
                key=self._absent(refund.refund_id),
                kind=Kind.REFUND_MISSING_CHANNEL,
                payment_id=refund.payment_id,
                attempt_id=refund.attempt_id,
                refund_id=refund.refund_id,
                channel_trade_no=refund.refund_no,
                book_amount=refund.amount,
                reason=f"we refunded {refund.amount} under {refund.refund_no}, and the statement "
                f"has no line of it",
            )
            day = elsewhere.get(refund.refund_id)
            yield missing if day is None else _shifted(missing, refund, "refund", day)

    def _judge_capture(self, line: Line, our: OurCapture | None) -> Finding | None:
        found = partial(self._found, line, our)
        if our is None:
            return self._found(
                line,
                None,
                Kind.MISSING_LOCAL,
                f"the channel captured {line.amount} under {line.trade_no}, and we do not know it",
            )
        if our.state is not AttemptState.CAPTURED:
            return found(
                Kind.LOCAL_NOT_PAID,
                f"the channel captured {line.amount}, our attempt is {our.state}",
            )
        if line.trade_no != our.trade_no:
            if self._index.lists_trade(line.attempt_id, our.trade_no):
                return found(
                    Kind.DUPLICATE_CHARGE,
                    f"the channel captured {line.amount} a second time, under {line.trade_no}",
                )
            return found(
                Kind.REFERENCE_MISMATCH,
                f"the trade number differs: ours {our.trade_no}, channel {line.trade_no}",
            )
        amounts = self._compare(line, our, Kind.AMOUNT_MISMATCH, "amount")
        return amounts or self._shift(line, our.captured_at, our.attempt_id, our)

    def _judge_refund(
        self, line: Line, our: OurRefund | None, capture: OurCapture | None
    ) -> Finding | None:
        found = partial(self._found, line, our)
        if not line.refund_id and capture is not None:
            return self._found(
                line,
                capture,
                Kind.STATUS_MISMATCH,
                f"the channel refunded {line.amount} by itself, under {line.trade_no}",
            )
        if our is None:
            return self._found(
                line,
                capture,
                Kind.REFUND_MISSING_LOCAL,
                f"the channel refunded {line.amount} under {line.trade_no}, and we do not know it",
            )
        if line.type is LineType.REFUND_REVERSED:
            if our.state is RefundState.REVERSED:
                return None
            return found(
                Kind.STATUS_MISMATCH,
                f"the channel says that the refund of {line.amount} came back, ours is {our.state}",
            )
        if our.state not in _REFUNDED:
            return found(
                Kind.REFUND_MISSING_LOCAL,
                f"the channel refunded {line.amount}, our refund is {our.state}",
            )
        if line.trade_no != our.refund_no:
            return found(
                Kind.REFERENCE_MISMATCH,
                f"the refund number differs: ours {our.refund_no}, channel {line.trade_no}",
            )
        amounts = self._compare(line, our, Kind.REFUND_AMOUNT_MISMATCH, "refund")
        return amounts or self._shift(line, our.refunded_at, our.refund_id, our)

    def _compare(
        self, line: Line, our: OurCapture | OurRefund, kind: Kind, name: str
    ) -> Finding | None:
        found = partial(self._found, line, our)
        if line.amount.currency != our.amount.currency:
            return found(
                Kind.CURRENCY_MISMATCH,
                f"currency differs: ours {our.amount}, channel {line.amount}",
            )
        if line.amount != our.amount:
            return found(kind, f"{name} differs: ours {our.amount}, channel {line.amount}")
        if line.fee != our.fee:
            differing = found(Kind.FEE_MISMATCH, f"fee differs: ours {our.fee}, channel {line.fee}")
            return replace(differing, statement_amount=line.fee, book_amount=our.fee)
        return None

    def _shift(
        self, line: Line, at: datetime | None, subject: str, our: OurCapture | OurRefund
    ) -> Finding | None:
        if at is None or self._begins <= at < self._ends:
            return None
        found = self._found(
            line,
            our,
            Kind.CUTOFF_SHIFT,
            f"{line.amount} is in the statement of {self._date}, in our books on another day",
        )
        return replace(found, key=self._absent(subject))

    def _found(
        self, line: Line, our: OurCapture | OurRefund | None, kind: Kind, reason: str
    ) -> Finding:
        is_pair = our is not None and (isinstance(our, OurRefund) or line.type is LineType.CAPTURE)
        says = (
            line.type,
            line.trade_no,
            line.attempt_id,
            line.refund_id,
            line.amount.format(),
            line.amount.currency,
            line.fee.format(),
            line.occurred_at.isoformat(),
            str(line.line_no) if kind is Kind.DUPLICATE_LINE else "",
        )
        return Finding(
            key=self._key(kind, *says),
            kind=kind,
            reason=reason,
            line_no=line.line_no,
            payment_id=our.payment_id if our else "",
            attempt_id=line.attempt_id,
            refund_id=line.refund_id,
            channel_trade_no=line.trade_no,
            statement_amount=line.amount,
            book_amount=our.amount if our is not None and is_pair else None,
        )

    def _absent(self, subject: str) -> str:
        """The key that "not in its own day's statement" and "in another day's" share, so that the
        two are one finding.
        """
        return hashlib.sha256(f"{self._channel}\nabsent\n{subject}".encode()).hexdigest()

    def _key(self, *parts: str) -> str:
        return hashlib.sha256("\n".join((self._channel, self._date, *parts)).encode()).hexdigest()


def _is_ours(found: Finding | None) -> bool:
    """Whether a line with this finding is of our own row. The fee of one that our books have on
    another day is told here only: without it the day is a difference, and the fee another one.
    """
    return found is None or found.kind is Kind.CUTOFF_SHIFT


def _shifted(missing: Finding, our: OurCapture | OurRefund, name: str, day: str) -> Finding:
    """The finding, now that the line is in the statement of an adjacent day."""
    return replace(
        missing,
        kind=Kind.CUTOFF_SHIFT,
        statement_amount=our.amount,
        reason=f"our {name} of {our.amount} is in the statement of {day}",
    )
