"""What an amount asks for: its minor units modulo 100. Any other ending is paid in full, in time,
and settled a minute later.

Invoices, when the buyer pays (button of the page, or `POST /_sim/buyer` with `pay`):

| digits | what happens |
|---|---|
| 11 | half is paid |
| 12 | a tenth too much is paid |
| 13 | paid, and never confirmed: Invalid when monitoring ends |
| 14 | paid a minute after the expiry |
| 15 | half is paid a minute after the expiry |
| 16 | a tenth too much is paid a minute after the expiry |
| 17 | paid a minute after the end of monitoring: the server never sees it |
| 18 | paid a minute after the expiry, and never confirmed |
| 21 | nothing is paid; a human marks the invoice Settled |
| 22 | nothing is paid; a human marks the invoice Invalid |
| 23 | paid, and marked Settled before it is confirmed |
| 24 | paid in two halves, a minute apart |
| 31 | no invoice: 503 payment-method-unavailable |

Refunds, by the amount of the claim, when the buyer claims it; otherwise the payout is paid within
two minutes:

| digits | what happens |
|---|---|
| 41 | the payout waits for approval |
| 42 | the payout is cancelled a minute later |
| 43 | the payout stays InProgress |
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.money import Money
from sandbox.providers.btcpay.objects import PayoutState, Status

LATER_SECONDS = 60
UNAVAILABLE = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How an invoice is paid.

    Attributes:
        per_cent: of what is due, each payment; a minute lies between two.
        when: "now", "after expiry" or "after monitoring".
        confirms: the payments are confirmed.
        marks: what a human then says.
    """

    per_cent: tuple[int, ...] = (100,)
    when: str = "now"
    confirms: bool = True
    marks: Status | None = None


COURSES = {
    11: Course(per_cent=(50,)),
    12: Course(per_cent=(110,)),
    13: Course(confirms=False),
    14: Course(when="after expiry"),
    15: Course(per_cent=(50,), when="after expiry"),
    16: Course(per_cent=(110,), when="after expiry"),
    17: Course(when="after monitoring"),
    18: Course(when="after expiry", confirms=False),
    21: Course(per_cent=(), marks=Status.SETTLED),
    22: Course(per_cent=(), marks=Status.INVALID),
    23: Course(confirms=False, marks=Status.SETTLED),
    24: Course(per_cent=(50, 50)),
}
PAYOUTS = {
    41: (),
    42: (PayoutState.CANCELLED,),
    43: (PayoutState.AWAITING_PAYMENT, PayoutState.IN_PROGRESS),
}
_PAID_OUT = (PayoutState.AWAITING_PAYMENT, PayoutState.IN_PROGRESS, PayoutState.COMPLETED)


def course_of_invoice(amount: Money | None) -> Course:
    """How an invoice is paid."""
    return COURSES.get(amount.minor % 100, Course()) if amount else Course()


def course_of_payout(amount: Money) -> tuple[PayoutState, ...]:
    """The states of a payout after AwaitingApproval; the first follows at once, the others a minute
    apart.
    """
    return PAYOUTS.get(amount.minor % 100, _PAID_OUT)
