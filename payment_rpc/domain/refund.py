"""A refund: one return of money against one attempt. What is on its way back is reserved on the
payment before any channel is asked, so that refunds never exceed what was captured, however many
are asked for at once (docs/protocols.md 1, Refunds).

A refund of a second capture or of a surplus (`stands_alone`) is capped by its attempt and appears
in no column of the payment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mesh.money import Money
from mesh.state_machine import Described, StateMachine
from payment_rpc.domain import ledger
from payment_rpc.domain.attempt import QUERY_PAUSES
from payment_rpc.domain.errors import PaymentStateInvalid, RefundExceedsRefundable, RefundNotAllowed
from payment_rpc.domain.payment import MONEY, TOP_UP, Failure, Payment, PaymentState


class RefundState(Described):
    """States of a refund."""

    CREATED = "CREATED", "reserved; the channel was not asked"
    SUBMITTED = "SUBMITTED", "sent, or about to be"
    PENDING = "PENDING", "the channel decides later"
    UNKNOWN = "UNKNOWN", "no readable answer"
    SUCCESS = "SUCCESS", "the money went back"
    FAILED = "FAILED", "the channel refused it"
    REVERSED = "REVERSED", "it went back and bounced"
    CANCELED = "CANCELED", "taken back before it was sent"


# that somebody asked for, per payment: everything that reads them together stays small
REFUNDS_MAX = 100
# of the surplus of one attempt: whoever knows an address may send a coin to it every minute
SURPLUS_REFUNDS_MAX = 20

OPEN = frozenset(
    {RefundState.CREATED, RefundState.SUBMITTED, RefundState.PENDING, RefundState.UNKNOWN}
)
_RESULTS = {
    RefundState.SUCCESS: "the channel gave the money back",
    RefundState.FAILED: "the channel refused; the reservation is free again",
    RefundState.PENDING: "the channel decides later",
}
REFUND_STATES = StateMachine(
    "Refund",
    RefundState,
    (
        (RefundState.CREATED, "reserved and committed; now it is sent", RefundState.SUBMITTED),
        (RefundState.CREATED, "taken back before it was sent", RefundState.CANCELED),
        *(
            (source, cause, target)
            for source in (RefundState.SUBMITTED, RefundState.PENDING, RefundState.UNKNOWN)
            for target, cause in _RESULTS.items()
        ),
        (
            RefundState.SUBMITTED,
            "no readable answer; asked again, and sent again under the same id if it was lost",
            RefundState.UNKNOWN,
        ),
        (RefundState.FAILED, "evidence that the money left after all", RefundState.SUCCESS),
        (
            RefundState.SUCCESS,
            "it bounced: the money is here again and a person looks at it",
            RefundState.REVERSED,
        ),
    ),
    introduction="One return of money. It is reserved on its payment before the channel is asked, "
    "and sent under one id however often.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """One return of money.

    Attributes:
        attempt_id: whose capture goes back.
        request_id: the caller's own id, unique per merchant; "" without one.
        automatic_of: payment or attempt whose money we send back by ourselves, once, or the key of
            a surplus in the ledger; "" for a refund that somebody asked for.
        automatic: made because the order refused the money; a failure of it needs a person.
        stands_alone: of a second capture or a surplus; see the module.
        above_cap: money out that no capture covered: booked to `loss`, in no column of the payment.
        lease_until: until then a call may be sending it.
        next_query_at: when to query the channel (or submit it) next; None once it is final.
    """

    refund_id: str
    payment_id: str
    attempt_id: str
    merchant_id: str
    order_id: str
    user_id: str
    channel: str
    amount: Money
    state: RefundState
    reason: str
    request_id: str
    automatic_of: str
    automatic: bool
    stands_alone: bool
    above_cap: bool
    needs_attention: bool
    channel_refund_no: str
    failure: Failure | None
    lease_until: datetime
    next_query_at: datetime | None
    queries: int
    version: int
    refunded_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def start(
        cls,
        payment: Payment,
        *,
        refund_id: str,
        attempt_id: str,
        channel: str,
        amount: Money,
        reason: str,
        request_id: str = "",
        automatic_of: str = "",
        automatic: bool = False,
        stands_alone: bool = False,
        at: datetime,
    ) -> Refund:
        """A reserved refund, to be sent at once."""
        return cls(
            refund_id=refund_id,
            payment_id=payment.payment_id,
            attempt_id=attempt_id,
            merchant_id=payment.merchant_id,
            order_id=payment.order_id,
            user_id=payment.user_id,
            channel=channel,
            amount=amount,
            state=RefundState.CREATED,
            reason=reason,
            request_id=request_id,
            automatic_of=automatic_of,
            automatic=automatic or automatic_of != "",
            stands_alone=stands_alone,
            above_cap=False,
            needs_attention=False,
            channel_refund_no="",
            failure=None,
            lease_until=at,
            next_query_at=at,
            queries=0,
            version=1,
            refunded_at=None,
            created_at=at,
            updated_at=at,
        )

    @property
    def is_of_surplus(self) -> bool:
        """Whether it gives back what was paid beyond a capture, not the capture."""
        return self.stands_alone and self.automatic_of != self.attempt_id

    def submit(self, *, lease: timedelta, at: datetime) -> Refund:
        """The refund, submitted now under its id. The channel processes the first one only.

        Raises:
            PaymentStateInvalid: it has a result.
        """
        if self.state not in OPEN:
            raise PaymentStateInvalid(
                f"a refund in state {self.state} is not sent", payment_id=self.payment_id
            )
        state = RefundState.SUBMITTED if self.state is RefundState.CREATED else self.state
        return replace(
            self._changed(at), state=state, lease_until=at + lease, next_query_at=at + lease
        )

    def wait(self, *, until: datetime, at: datetime) -> Refund:
        """It is not sent before `until`: its channel wants time between two refunds."""
        return replace(self._changed(at), next_query_at=until)

    def postpone_query(self, *, at: datetime) -> Refund:
        """The channel is queried now. The next query follows after the pause of the schedule."""
        pause = QUERY_PAUSES[min(self.queries, len(QUERY_PAUSES) - 1)]
        return replace(self._changed(at), queries=self.queries + 1, next_query_at=at + pause)

    def to(self, target: RefundState, *, at: datetime) -> Refund:
        """A transition.

        Raises:
            PaymentStateInvalid: it does not exist.
        """
        if not REFUND_STATES.allows(self.state, target):
            raise PaymentStateInvalid(
                f"a refund in state {self.state} does not become {target}",
                payment_id=self.payment_id,
            )
        pause = QUERY_PAUSES[min(self.queries, len(QUERY_PAUSES) - 1)]
        due = min(self.next_query_at or at + pause, at + pause) if target in OPEN else None
        return replace(self._changed(at), state=target, next_query_at=due)

    def correct_clock(self, *, error: timedelta, at: datetime) -> Refund:
        """Its times without the error of the clock that wrote them, which was ahead."""
        due = None if self.next_query_at is None else self.next_query_at - error
        return replace(self._changed(at), lease_until=self.lease_until - error, next_query_at=due)

    def _changed(self, at: datetime) -> Refund:
        return replace(self, version=self.version + 1, updated_at=at)


def refundable(payment: Payment) -> Money:
    """What may still go back: captured − refunded − reserved − disputed."""
    return payment.captured - payment.refunded - payment.refund_reserved - payment.disputed


def reserve(payment: Payment, amount: Money | None, *, at: datetime) -> tuple[Payment, Money]:
    """Reserves a refund on a payment: the payment after it and the amount (everything that is left
    for None).

    Raises:
        RefundNotAllowed: the payment holds no money of the buyer's.
        RefundExceedsRefundable: more than is left, or nothing is left.
    """
    if payment.payment_method == TOP_UP:
        raise RefundNotAllowed(
            "Money that was paid into a wallet is spent from there.", payment_id=payment.payment_id
        )
    if payment.state not in MONEY:
        raise RefundNotAllowed(
            f"A payment in state {payment.state} has nothing to refund.",
            payment_id=payment.payment_id,
        )
    left = refundable(payment)
    wanted = left if amount is None else amount
    if wanted.minor <= 0 or wanted > left:
        raise RefundExceedsRefundable(
            f"amount: at most {left} can be refunded",
            payment_id=payment.payment_id,
            refundable=left.format(),
            fields={"amount": f"at most {left} can be refunded"},
        )
    return replace(
        payment,
        refund_reserved=payment.refund_reserved + wanted,
        version=payment.version + 1,
        updated_at=at,
    ), wanted


def settled(payment: Payment) -> Payment:
    """Late money of which nothing is left is LATE_REFUNDED; any other payment is as it was."""
    given_back = (
        payment.state is PaymentState.LATE_SUCCESS
        and payment.captured.minor > 0
        and payment.refunded >= payment.captured
    )
    return replace(payment, state=PaymentState.LATE_REFUNDED) if given_back else payment


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundPreview:
    """What a refund would do."""

    amount: Money
    refundable: Money
    refundable_after: Money
    fee_returned: Money
    postings: tuple[ledger.Posting, ...]


def preview(
    payment: Payment, amount: Money | None, *, fees_returned: Money, at: datetime
) -> RefundPreview:
    """What a refund would reserve and book. `fees_returned`: what came back of the fee so far.

    Raises:
        RefundNotAllowed, RefundExceedsRefundable: see `reserve`.
    """
    after, wanted = reserve(payment, amount, at=at)
    steps = (
        ledger.refund_reserved(
            refund_id="preview",
            payment_id=payment.payment_id,
            channel=payment.channel,
            held_by=ledger.holder(payment, stands_alone=False, channel=payment.channel),
            amount=wanted,
        ),
        ledger.refunded(
            refund_id="preview", payment=payment, channel=payment.channel, amount=wanted
        ),
    )
    return RefundPreview(
        amount=wanted,
        refundable=refundable(payment),
        refundable_after=refundable(after),
        fee_returned=ledger.fee_share(
            payment.fee,
            captured=payment.captured,
            refunded=payment.refunded + wanted,
            returned=fees_returned,
        ),
        postings=tuple(posting for step in steps for posting in step.postings),
    )
