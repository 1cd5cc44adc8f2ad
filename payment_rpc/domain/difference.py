"""A difference between a statement and our books: its kind, what may be done about it, and what a
write-off books.

Nothing here moves a buyer's money. A difference is settled by querying the channel (its facts are
booked as always), or it is written off between the channel's account and `loss` or
`recon_clearing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mesh.money import Money
from payment_rpc.domain.errors import DifferenceStateInvalid
from payment_rpc.domain.ledger import (
    LOSS,
    WRITTEN_OFF,
    LedgerTransaction,
    Posting,
    Side,
    channel_fee_expense,
    channel_receivable,
)


class Kind(StrEnum):
    """What a statement and our books can disagree about."""

    MISSING_LOCAL = "MISSING_LOCAL"  # the channel has money that we do not know
    # it captured, we hold the attempt for open or failed
    LOCAL_NOT_PAID = "LOCAL_NOT_PAID"
    MISSING_CHANNEL = "MISSING_CHANNEL"  # we captured, it has no line
    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    FEE_MISMATCH = "FEE_MISMATCH"
    # it refunded, or took a refund back, and we did not
    STATUS_MISMATCH = "STATUS_MISMATCH"
    REFERENCE_MISMATCH = "REFERENCE_MISMATCH"  # our attempt under another number
    DUPLICATE_CHARGE = "DUPLICATE_CHARGE"
    DUPLICATE_LINE = "DUPLICATE_LINE"
    CUTOFF_SHIFT = "CUTOFF_SHIFT"  # in the statement of the day before or after
    REFUND_MISSING_LOCAL = "REFUND_MISSING_LOCAL"
    REFUND_MISSING_CHANNEL = "REFUND_MISSING_CHANNEL"
    REFUND_AMOUNT_MISMATCH = "REFUND_AMOUNT_MISMATCH"
    UNREADABLE_LINE = "UNREADABLE_LINE"
    # the statement's own SUM is not what its lines add up to
    TOTAL_MISMATCH = "TOTAL_MISMATCH"


class Action(StrEnum):
    """What can be done."""

    QUERY_CHANNEL = "QUERY_CHANNEL"  # query the channel and apply its answer
    ATTENTION = "ATTENTION"  # open a manual review
    IGNORE = "IGNORE"  # nothing is wrong
    WRITE_OFF = "WRITE_OFF"  # book what is missing or too much


class DifferenceState(StrEnum):
    """States of a difference."""

    OPEN = "OPEN"
    RESOLVED = "RESOLVED"


_DEFAULTS = {
    Kind.MISSING_LOCAL: Action.QUERY_CHANNEL,
    Kind.LOCAL_NOT_PAID: Action.QUERY_CHANNEL,
    Kind.MISSING_CHANNEL: Action.QUERY_CHANNEL,
    Kind.REFUND_MISSING_LOCAL: Action.QUERY_CHANNEL,
    Kind.REFUND_MISSING_CHANNEL: Action.QUERY_CHANNEL,
    Kind.STATUS_MISMATCH: Action.QUERY_CHANNEL,
    Kind.REFERENCE_MISMATCH: Action.QUERY_CHANNEL,
    Kind.DUPLICATE_LINE: Action.IGNORE,
    Kind.CUTOFF_SHIFT: Action.IGNORE,
}
_WRITTEN_OFF = frozenset(
    {
        Kind.AMOUNT_MISMATCH,
        Kind.FEE_MISMATCH,
        Kind.MISSING_CHANNEL,
        Kind.STATUS_MISMATCH,
        Kind.REFUND_MISSING_CHANNEL,
        Kind.REFUND_AMOUNT_MISMATCH,
    }
)
_FEE_TOLERANCE_MINOR = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found.

    Attributes:
        key: what makes it this finding and no other, for ever: the same statement, or a second
            version of it, finds it once.
        line_no: of the statement's line; 0 when it has none.
        attempt_id, refund_id: as the statement or our books name them; payment_id: ours, "" for
            none.
        statement_amount, book_amount: of the fee for FEE_MISMATCH; None where there is nothing.
    """

    key: str
    kind: Kind
    reason: str
    line_no: int = 0
    payment_id: str = ""
    attempt_id: str = ""
    refund_id: str = ""
    channel_trade_no: str = ""
    statement_amount: Money | None = None
    book_amount: Money | None = None

    @property
    def default_action(self) -> Action:
        """What we would do."""
        if self.kind is Kind.STATUS_MISMATCH and not self.refund_id:
            return Action.ATTENTION  # a refund of the channel's own has no id to query
        if (
            self.kind is Kind.FEE_MISMATCH
            and self.payment_id
            and self.statement_amount is not None
            and self.book_amount is not None
        ):
            off = abs(self.statement_amount.minor - self.book_amount.minor)
            return Action.WRITE_OFF if off <= _FEE_TOLERANCE_MINOR else Action.ATTENTION
        return _DEFAULTS.get(self.kind, Action.ATTENTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A finding that was filed, and what became of it."""

    difference_id: str
    import_id: str
    channel: str
    finding: Finding
    state: DifferenceState
    action: str
    actor: str
    resolution_reason: str
    created_at: datetime
    resolved_at: datetime | None

    def choose(self, action: str) -> Action:
        """The action by its name, "" for the default.

        Raises:
            DifferenceStateInvalid: it is resolved already, or the action does not fit.
        """
        if self.state is not DifferenceState.OPEN:
            raise DifferenceStateInvalid(
                f"This difference was resolved by {self.actor}: {self.action}."
            )
        finding = self.finding
        allowed = {Action.ATTENTION, Action.IGNORE}
        if finding.refund_id or finding.attempt_id:
            allowed.add(Action.QUERY_CHANNEL)
        if finding.kind in _WRITTEN_OFF and finding.payment_id and self._gain() is not None:
            allowed.add(Action.WRITE_OFF)
        chosen = action or finding.default_action
        if chosen not in allowed:
            problem = (
                f"{chosen} does not fit {finding.kind}; possible: {', '.join(sorted(allowed))}"
            )
            raise DifferenceStateInvalid(f"action: {problem}", fields={"action": problem})
        return Action(chosen)

    def write_off(self) -> LedgerTransaction:
        """What a write-off books: what the channel has more of ours waits in recon_clearing, what
        it has less is a loss, fees are what they are.
        """
        gain = self._gain()
        if gain is None:
            raise DifferenceStateInvalid("There is nothing to write off.")
        debt = channel_receivable(self.channel)
        if self.finding.kind is Kind.FEE_MISMATCH:
            other = channel_fee_expense(self.channel)
        else:
            other = recon_clearing(self.channel) if gain.minor > 0 else LOSS
        debit, credit = (debt, other) if gain.minor > 0 else (other, debt)
        amount = Money(abs(gain.minor), gain.currency)
        return LedgerTransaction(
            key=f"difference:{self.difference_id}:written_off",
            kind=WRITTEN_OFF,
            payment_id=self.finding.payment_id,
            postings=(
                Posting(account=debit, side=Side.DEBIT, amount=amount),
                Posting(account=credit, side=Side.CREDIT, amount=amount),
            ),
        )

    def _gain(self) -> Money | None:
        """What the channel owes us more than our books say; None when that is nothing or cannot be
        said.
        """
        stated, booked = self.finding.statement_amount, self.finding.book_amount
        known = stated or booked
        if known is None or (
            stated is not None and booked is not None and stated.currency != booked.currency
        ):
            return None
        more = (stated.minor if stated else 0) - (booked.minor if booked else 0)
        if self.finding.kind is Kind.STATUS_MISMATCH and self.finding.refund_id:
            return None  # a refund that came back: query the channel
        takes = self.finding.kind in (
            Kind.FEE_MISMATCH,
            Kind.STATUS_MISMATCH,
            Kind.REFUND_MISSING_CHANNEL,
            Kind.REFUND_AMOUNT_MISMATCH,
        )
        return Money(-more if takes else more, known.currency) if more else None


def recon_clearing(channel: str) -> str:
    """Unexplained money that a channel has for us (credit-normal)."""
    return f"recon_clearing:{channel}"
