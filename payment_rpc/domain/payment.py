"""A payment: what one order owes. How much money moved stands in the amounts, never in the state
(docs/protocols.md 1).

PAYMENT_STATES declares every step that exists; everything else is refused. One live payment per
(merchant, order) holds the slot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from mesh.errors import Outcome
from mesh.money import Money
from mesh.state_machine import Described, StateMachine
from payment_rpc.domain.card import CardSummary
from payment_rpc.domain.errors import PaymentStateInvalid
from payment_rpc.domain.hold import CaptureMode, let_go_at


class PaymentState(Described):
    """States of a payment."""

    INIT = (
        "INIT",
        (
            "no channel call was ever made; for payments that wait for a choice of channel, none "
            "is written so far"
        ),
    )
    PAYING = "PAYING", "sent to a channel; also while its outcome is unknown"
    AUTHORIZED = "AUTHORIZED", "the channel holds the money, and we have not taken it yet"
    SUCCESS = "SUCCESS", "captured, holds the slot"
    FAILED = "FAILED", "every attempt ended without money"
    CLOSING = "CLOSING", "being closed at the channel"
    CLOSED = "CLOSED", "closed without money"
    CONFLICTED = "CONFLICTED", "the channel took what is not ours"
    LATE_SUCCESS = "LATE_SUCCESS", "money that the order has not taken"
    LATE_REFUNDED = "LATE_REFUNDED", "late money that went back"


S = PaymentState
_OTHER_MONEY = "the channel took another amount or currency"
_LATE = "the channel took the money after all (a late callback or answer)"
PAYMENT_STATES = StateMachine(
    "Payment",
    PaymentState,
    (
        (S.INIT, "the attempt is about to be sent", S.PAYING),
        (S.INIT, "closed before any channel was called", S.CLOSED),
        (S.PAYING, "the channel took exactly what was owed", S.SUCCESS),
        (S.PAYING, "the channel holds exactly what is owed", S.AUTHORIZED),
        (S.PAYING, "declined, failed at the channel, or never arrived there", S.FAILED),
        (
            S.PAYING,
            (
                "the buyer cancels, the order is closed, the deadline is over, or another payment "
                "of the order took its place"
            ),
            S.CLOSING,
        ),
        (S.PAYING, "the channel closed or expired it", S.CLOSED),
        (S.PAYING, _OTHER_MONEY, S.CONFLICTED),
        (S.AUTHORIZED, "we captured what was held, or parts of it, and hold no rest", S.SUCCESS),
        (S.AUTHORIZED, "the channel refused it after all", S.FAILED),
        (
            S.AUTHORIZED,
            (
                "the shop lets the money go, the hold is about to end, or another payment of the "
                "order took its place"
            ),
            S.CLOSING,
        ),
        (S.AUTHORIZED, "the channel let the money go", S.CLOSED),
        (S.AUTHORIZED, _OTHER_MONEY, S.CONFLICTED),
        (S.CLOSING, "the channel closed it, declined it or never got it", S.CLOSED),
        (
            S.CLOSING,
            "it was paid before the channel could close it, and it still holds its order's slot",
            S.SUCCESS,
        ),
        (S.CLOSING, "it was paid, and another payment holds the slot", S.LATE_SUCCESS),
        (S.CLOSING, _OTHER_MONEY, S.CONFLICTED),
        (S.FAILED, _LATE, S.LATE_SUCCESS),
        (S.FAILED, f"{_OTHER_MONEY} after all", S.CONFLICTED),
        (S.CLOSED, _LATE, S.LATE_SUCCESS),
        (S.CLOSED, f"{_OTHER_MONEY} after all", S.CONFLICTED),
        (
            S.SUCCESS,
            "the order refused it, or took another payment; it goes back by itself",
            S.LATE_SUCCESS,
        ),
        (S.LATE_SUCCESS, "the order (or the wallet, for a top-up) took it", S.SUCCESS),
        (S.LATE_SUCCESS, "all of it went back", S.LATE_REFUNDED),
        (S.CONFLICTED, "an operator found that what was owed came in", S.LATE_SUCCESS),
        (S.CONFLICTED, "an operator gives it back, or writes it off, with a reason", S.FAILED),
    ),
    introduction="What one order owes. How much money moved stands in amounts, never in the state. "
    "INIT, PAYING, AUTHORIZED, CLOSING and SUCCESS may hold the one slot of an order.",
)
LIVE = (S.INIT, S.PAYING, S.AUTHORIZED, S.CLOSING, S.SUCCESS)  # may hold the slot
# no final answer yet
UNDECIDED = frozenset(
    {PaymentState.INIT, PaymentState.PAYING, PaymentState.AUTHORIZED, PaymentState.CLOSING}
)
# holds money of the buyer
MONEY = frozenset({PaymentState.SUCCESS, PaymentState.LATE_SUCCESS})

CREDIT_CARD = "credit_card"
CASHIER = "cashier"
BALANCE = "balance"  # out of the buyer's wallet
TOKEN = "token"  # noqa: S105  a payment method that the buyer left at a provider
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
    """What a buyer does next: `kind` is REDIRECT_URL, QR_CODE, CLIENT_SECRET or
    CLIENT_PARAMS.
    """

    kind: str
    value: str


# Reasons of a failure: the buyer cancelled the payment, or the order; the shop let held money go.
CANCELLED_BY_BUYER = "CANCELLED_BY_BUYER"
VOIDED = "VOIDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a payment ended without money: a reason, and what the channel said or we decided, for our
    own staff.
    """

    reason: str
    message: str


BUYER_CANCELLED = Failure(reason=CANCELLED_BY_BUYER, message="cancelled by the buyer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What one order owes. Every change raises `version`, and every UPDATE compares it. `disputed`
    is for chargebacks and lowers what can be refunded, so that no money goes back twice. `captured`
    is `amount`, or less where the shop captured a part of what was held; while AUTHORIZED, so far.
    `expires_at` is the deadline of the buyer, from AUTHORIZED on that of the held money.
    """

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
    order_no: str = ""  # the merchant's own number of the order
    customer_digest: str = ""  # of the address of the merchant's customer, for searches
    capture_mode: CaptureMode = CaptureMode.AUTOMATIC

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
        order_no: str = "",
        customer_digest: str = "",
        capture_mode: CaptureMode = CaptureMode.AUTOMATIC,
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
            order_no=order_no,
            customer_digest=customer_digest,
            capture_mode=capture_mode,
        )

    @property
    def awaits_order(self) -> bool:
        """True while money is here and the order has not decided about it."""
        return self.state in MONEY and self.disposition is None

    @property
    def is_captured_in_part(self) -> bool:
        """True when the shop captured less than was held, on purpose."""
        return self.state in MONEY and self.captured < self.amount

    def wait_for_buyer(self, action: NextAction | None, *, at: datetime) -> Payment:
        """The channel accepted it; the result comes later."""
        return replace(
            self._changed(at), outcome=Outcome.PENDING, next_action=action or self.next_action
        )

    def authorize(self, *, held_until: datetime | None, at: datetime) -> Payment:
        """The channel holds the money until `held_until`, None where it does not say. From now on
        that deadline counts, not the buyer's.
        """
        return replace(
            self.to(PaymentState.AUTHORIZED, at=at),
            outcome=Outcome.PENDING,
            next_action=None,
            expires_at=let_go_at(held_until, at=at),
        )

    def hold_until(self, held_until: datetime, *, at: datetime) -> Payment:
        """The same hold, which ends at another time."""
        due = let_go_at(held_until, at=at)
        return self if due == self.expires_at else replace(self._changed(at), expires_at=due)

    def extend(self, by: timedelta, *, at: datetime) -> Payment:
        """Held money is not let go now, because it is being captured."""
        return replace(self._changed(at), expires_at=at + by)

    def mark_unknown(self, *, at: datetime) -> Payment:
        """No readable answer came: money may have moved."""
        return (
            self
            if self.outcome is Outcome.UNKNOWN
            else replace(self._changed(at), outcome=Outcome.UNKNOWN)
        )

    def begin_closing(self, *, failure: Failure | None = None, at: datetime) -> Payment:
        """Closing was decided; the channel is asked next. The slot is kept until it answers.
        `failure`: what the payment will have failed for, where somebody decided it."""
        return replace(self.to(PaymentState.CLOSING, at=at), failure=failure)

    def capture(self, amount: Money, *, trade_no: str, at: datetime, paid_at: datetime) -> Payment:
        """Money for this payment arrived. With the slot it is a SUCCESS, without it LATE_SUCCESS:
        the order decides.

        Raises:
            PaymentStateInvalid: it has its money.
        """
        if self.captured.minor:
            raise PaymentStateInvalid("the payment has its money", payment_id=self.payment_id)
        in_time = self.holds_slot and self.state in (
            PaymentState.PAYING,
            PaymentState.AUTHORIZED,
            PaymentState.CLOSING,
        )
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

    def accept(self, disposition: Disposition, *, at: datetime) -> Payment:
        """The order accepted the money; a LATE_SUCCESS becomes SUCCESS and holds the slot."""
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
        """Another payment of the order took the slot: PAYING and AUTHORIZED are closed, SUCCESS has
        become late money.
        """
        match self.state:
            case PaymentState.PAYING | PaymentState.AUTHORIZED | PaymentState.CLOSING:
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
        if not PAYMENT_STATES.allows(self.state, target):
            raise PaymentStateInvalid(
                f"{self.state} does not become {target}", payment_id=self.payment_id
            )
        return replace(
            self._changed(at), state=target, holds_slot=self.holds_slot and target in LIVE
        )

    def _changed(self, at: datetime) -> Payment:
        return replace(self, version=self.version + 1, updated_at=at)
