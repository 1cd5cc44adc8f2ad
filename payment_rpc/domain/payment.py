"""A payment: what one order owes. How much money moved stands in the amounts, never in the state
(docs/protocols.md 1).

Every transition that exists stands in NEXT; everything else is refused. One live payment per
(merchant, order) holds the slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mesh.errors import Outcome
from mesh.money import Money
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.errors import PaymentStateInvalid


class PaymentState(StrEnum):
    """States of a payment."""

    # no channel call was ever made; for payments that wait for a choice of channel, none is written
    # so far
    INIT = "INIT"
    PAYING = "PAYING"  # sent to a channel; also while its outcome is unknown
    SUCCESS = "SUCCESS"  # captured, holds the slot
    FAILED = "FAILED"  # every attempt ended without money
    CLOSING = "CLOSING"  # being closed at the channel
    CLOSED = "CLOSED"  # closed without money
    CONFLICTED = "CONFLICTED"  # the channel took what is not ours
    LATE_SUCCESS = "LATE_SUCCESS"  # money that the order has not taken
    LATE_REFUNDED = "LATE_REFUNDED"  # late money that went back


NEXT: dict[PaymentState, frozenset[PaymentState]] = {
    PaymentState.INIT: frozenset({PaymentState.PAYING, PaymentState.CLOSED}),
    PaymentState.PAYING: frozenset(
        {
            PaymentState.SUCCESS,
            PaymentState.FAILED,
            PaymentState.CLOSING,
            PaymentState.CLOSED,
            PaymentState.CONFLICTED,
        }
    ),
    PaymentState.CLOSING: frozenset(
        {
            PaymentState.CLOSED,
            PaymentState.SUCCESS,
            PaymentState.LATE_SUCCESS,
            PaymentState.CONFLICTED,
        }
    ),
    PaymentState.FAILED: frozenset({PaymentState.LATE_SUCCESS, PaymentState.CONFLICTED}),
    PaymentState.CLOSED: frozenset({PaymentState.LATE_SUCCESS, PaymentState.CONFLICTED}),
    PaymentState.SUCCESS: frozenset({PaymentState.LATE_SUCCESS}),
    PaymentState.LATE_SUCCESS: frozenset({PaymentState.SUCCESS, PaymentState.LATE_REFUNDED}),
    PaymentState.CONFLICTED: frozenset({PaymentState.LATE_SUCCESS, PaymentState.FAILED}),
    PaymentState.LATE_REFUNDED: frozenset(),
}
# may hold the slot
LIVE = frozenset(
    {PaymentState.INIT, PaymentState.PAYING, PaymentState.CLOSING, PaymentState.SUCCESS}
)
# no final answer yet
UNDECIDED = frozenset({PaymentState.INIT, PaymentState.PAYING, PaymentState.CLOSING})
# holds money of the buyer
MONEY = frozenset({PaymentState.SUCCESS, PaymentState.LATE_SUCCESS})

CREDIT_CARD = "credit_card"
CASHIER = "cashier"
BALANCE = "balance"  # out of the buyer's wallet
TOP_UP = "top_up"  # into it; no order is paid, `order_id` is the payment's own id

WALLET = "wallet"  # the channel of BALANCE: our own books, nobody to ask


class Disposition(StrEnum):
    """What the order did with a payment; decided once, by order_rpc (docs/protocols.md 3)."""

    APPLIED = "APPLIED"
    ALREADY = "ALREADY"
    REVIVED = "REVIVED"
    REFUSED_CANCELLED = "REFUSED_CANCELLED"
    REFUSED_PAID_BY_OTHER = "REFUSED_PAID_BY_OTHER"

    @property
    def is_refusal(self) -> bool:
        """True when the money has to go back."""
        return self in (Disposition.REFUSED_CANCELLED, Disposition.REFUSED_PAID_BY_OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextAction:
    """What a buyer does next: `kind` is REDIRECT_URL, QR_CODE or CLIENT_SECRET."""

    kind: str
    value: str


# reason of a failure: the buyer cancelled the payment, or the order
CANCELLED_BY_BUYER = "CANCELLED_BY_BUYER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a payment ended without money: a reason, and what the channel said or we decided, for our
    own staff.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What one order owes. `version` is raised by every change and read back by every UPDATE.
    `disputed` is for chargebacks, of which no channel
    tells so far: it stands in the cap on refunds already, so that no such money can go back
    twice."""

    payment_id: str
    merchant_id: str
    order_id: str
    user_id: str
    amount: Money
    captured: Money
    refunded: Money
    refund_reserved: Money
    disputed: Money
    fee: Money
    state: PaymentState
    holds_slot: bool
    payment_method: str
    channel: str
    channel_trade_no: str
    outcome: Outcome
    disposition: Disposition | None
    failure: Failure | None
    card: CardSummary | None
    next_action: NextAction | None
    ledger_head: str
    version: int
    paid_at: datetime | None
    expires_at: datetime
    created_at: datetime
    updated_at: datetime

    @classmethod
    def start(
        cls,
        *,
        payment_id: str,
        merchant_id: str,
        order_id: str,
        user_id: str,
        amount: Money,
        payment_method: str,
        channel: str,
        card: CardSummary | None,
        expires_at: datetime,
        at: datetime,
    ) -> Payment:
        """A payment that is about to be sent: PAYING, holding the slot of its order."""
        zero = Money.zero(amount.currency)
        return cls(
            payment_id=payment_id,
            merchant_id=merchant_id,
            order_id=order_id,
            user_id=user_id,
            amount=amount,
            captured=zero,
            refunded=zero,
            refund_reserved=zero,
            disputed=zero,
            fee=zero,
            state=PaymentState.PAYING,
            holds_slot=True,
            payment_method=payment_method,
            channel=channel,
            channel_trade_no="",
            outcome=Outcome.UNKNOWN,
            disposition=None,
            failure=None,
            card=card,
            next_action=None,
            ledger_head="",
            version=1,
            paid_at=None,
            expires_at=expires_at,
            created_at=at,
            updated_at=at,
        )

    @property
    def awaits_order(self) -> bool:
        """True while money is here and the order has not said whether it takes it."""
        return self.state in MONEY and self.disposition is None

    def wait_for_buyer(self, action: NextAction | None, *, at: datetime) -> Payment:
        """The channel accepted it and will tell the result later."""
        return replace(
            self._changed(at), outcome=Outcome.PENDING, next_action=action or self.next_action
        )

    def doubt(self, *, at: datetime) -> Payment:
        """No readable answer came: money may have moved."""
        return (
            self
            if self.outcome is Outcome.UNKNOWN
            else replace(self._changed(at), outcome=Outcome.UNKNOWN)
        )

    def begin_closing(self, *, by_buyer: bool = False, at: datetime) -> Payment:
        """Closing was decided; the channel is asked next. The slot is kept until it answers. A
        buyer's own decision is remembered as what the payment will have failed for."""
        failure = (
            Failure(reason=CANCELLED_BY_BUYER, message="cancelled by the buyer")
            if by_buyer
            else None
        )
        return replace(self.to(PaymentState.CLOSING, at=at), failure=failure)

    def capture(self, amount: Money, *, trade_no: str, at: datetime, paid_at: datetime) -> Payment:
        """Money for this payment arrived. With the slot it is a SUCCESS, without it LATE_SUCCESS:
        the order decides.

        Raises:
            PaymentStateInvalid: it has its money.
        """
        if self.captured.minor:
            raise PaymentStateInvalid("the payment has its money", payment_id=self.payment_id)
        in_time = self.holds_slot and self.state in (PaymentState.PAYING, PaymentState.CLOSING)
        changed = self.to(PaymentState.SUCCESS if in_time else PaymentState.LATE_SUCCESS, at=at)
        return replace(
            changed,
            captured=self.captured + amount,
            channel_trade_no=trade_no,
            outcome=Outcome.CAPTURED,
            paid_at=paid_at,
            failure=None,
            next_action=None,
        )

    def park(self, *, at: datetime) -> Payment:
        """The channel took an amount or a currency that is not ours."""
        return replace(
            self.to(PaymentState.CONFLICTED, at=at),
            outcome=Outcome.CAPTURED,
            failure=None,
            next_action=None,
        )

    def end(
        self, state: PaymentState, *, outcome: Outcome, failure: Failure | None, at: datetime
    ) -> Payment:
        """Ended without money: FAILED or CLOSED. While CLOSING it is CLOSED, whatever ended it."""
        target = PaymentState.CLOSED if self.state is PaymentState.CLOSING else state
        return replace(self.to(target, at=at), outcome=outcome, failure=failure, next_action=None)

    def take(self, disposition: Disposition, *, at: datetime) -> Payment:
        """The order took the money; a LATE_SUCCESS becomes SUCCESS and takes the slot."""
        taken = (
            self
            if self.state is PaymentState.SUCCESS
            else replace(self.to(PaymentState.SUCCESS, at=at), holds_slot=True)
        )
        return replace(taken, disposition=disposition, version=self.version + 1, updated_at=at)

    def refuse(self, disposition: Disposition, *, at: datetime) -> Payment:
        """The order refused the money; a SUCCESS becomes LATE_SUCCESS and gives up the slot."""
        refused = (
            self
            if self.state is PaymentState.LATE_SUCCESS
            else self.to(PaymentState.LATE_SUCCESS, at=at)
        )
        return replace(refused, disposition=disposition, version=self.version + 1, updated_at=at)

    def give_up_slot(self, *, at: datetime) -> Payment:
        """Another payment of the order took the slot: PAYING is closed, SUCCESS has become late
        money.
        """
        match self.state:
            case PaymentState.PAYING | PaymentState.CLOSING:
                return replace(
                    self
                    if self.state is PaymentState.CLOSING
                    else self.to(PaymentState.CLOSING, at=at),
                    holds_slot=False,
                    version=self.version + 1,
                    updated_at=at,
                )
            case PaymentState.SUCCESS:
                return self.to(PaymentState.LATE_SUCCESS, at=at)
            case _:
                raise PaymentStateInvalid(
                    f"a payment in state {self.state} holds no slot", payment_id=self.payment_id
                )

    def touched(self, *, at: datetime) -> Payment:
        """The same payment one version later: something that hangs on it changed."""
        return self._changed(at)

    def to(self, target: PaymentState, *, at: datetime) -> Payment:
        """The transition itself.

        Raises:
            PaymentStateInvalid: it does not exist.
        """
        if target not in NEXT[self.state]:
            raise PaymentStateInvalid(
                f"{self.state} does not become {target}", payment_id=self.payment_id
            )
        return replace(
            self._changed(at), state=target, holds_slot=self.holds_slot and target in LIVE
        )

    def _changed(self, at: datetime) -> Payment:
        return replace(self, version=self.version + 1, updated_at=at)
