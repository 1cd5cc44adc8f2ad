"""Maps amounts to misbehaviour of the channel: the last four digits in minor units choose.
docs/sandbox.md explains this table.

Amounts of payments end in 7701 to 7739 (77.01, 177.01, …), amounts of refunds in 7741 to 7759.
Cards of Stripe's that name a refund do the same.
Changes are committed before the response, and later steps wait in the file: `kill -9` changes none
of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mesh.money import Money
from sandbox.domain import RefundStatus, Status


class ResponseFault(StrEnum):
    """The fault in the response to a request that was carried out."""

    NORMAL = "NORMAL"
    SLOW = "SLOW"  # a tenth of `slow_seconds` late
    LATE = "LATE"  # `slow_seconds` late: after every deadline
    LOST = "LOST"  # the connection breaks in the middle of the answer
    GARBAGE = "GARBAGE"  # 200 with a page of HTML
    ERROR = "ERROR"  # 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Misbehaviour:
    """The misbehaviour of a payment. The defaults are correct behaviour.

    Attributes:
        is_recorded: False when the request fails before anything is done.
        callbacks: how often the outcome is reported; 0: never, the shop has to query.
        callback_first: the callback is delivered before the answer.
        ends_later: a charge is accepted (PENDING) and ends so after `later_seconds`; None: it ends
            at once. PENDING: it never ends by itself.
        expires: its deadline closes it.
        closable: the shop may close it.
        paid_after_all_seconds: the money moves so long after it was closed or declined, or after a
            close that was refused; None: never.
        declines: a payment that would be captured is declined first.
        second_capture_seconds: the buyer is charged once more so long after the first capture;
            None: never.
        surplus_minor: captured above the requested amount, in minor units; below when negative.
        foreign: captured in another currency.
    """

    answer: ResponseFault = ResponseFault.NORMAL
    is_recorded: bool = True
    callbacks: int = 1
    callback_first: bool = False
    ends_later: Status | None = None
    later_seconds: float = 30
    expires: bool = True
    closable: bool = True
    paid_after_all_seconds: float | None = None
    declines: bool = False
    second_capture_seconds: float | None = None
    surplus_minor: int = 0
    foreign: bool = False

    def captured(self, amount: Money) -> Money:
        """The captured amount when `amount` was requested."""
        currency = (
            ("USD" if amount.currency != "USD" else "EUR") if self.foreign else amount.currency
        )
        return Money(amount.minor + self.surplus_minor, currency)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundMisbehaviour:
    """The misbehaviour of a refund.

    Attributes:
        steps: (seconds after the step before, what it becomes); the first step is taken when it is
            asked for.
        callbacks: how often each step but PENDING is reported.
    """

    answer: ResponseFault = ResponseFault.NORMAL
    steps: tuple[tuple[float, RefundStatus], ...] = ((0, RefundStatus.SUCCESS),)
    callbacks: int = 1


GOOD = Misbehaviour()
GOOD_REFUND = RefundMisbehaviour()

PAYMENTS: dict[int, tuple[str, Misbehaviour]] = {
    7701: ("timeout_but_charged", Misbehaviour(answer=ResponseFault.LATE, callbacks=0)),
    7702: ("answer_lost", Misbehaviour(answer=ResponseFault.LOST)),
    7703: ("callback_twice", Misbehaviour(callbacks=2)),
    7704: ("callback_thrice", Misbehaviour(callbacks=3)),
    7705: ("callback_first", Misbehaviour(callback_first=True)),
    7706: ("paid_after_close", Misbehaviour(ends_later=Status.PENDING, paid_after_all_seconds=60)),
    7707: ("captures_less", Misbehaviour(surplus_minor=-100)),
    7708: ("captures_more", Misbehaviour(surplus_minor=100)),
    7709: ("wrong_currency", Misbehaviour(foreign=True)),
    7710: ("not_closable", Misbehaviour(ends_later=Status.PENDING, closable=False, expires=False)),
    7711: (
        "not_closable_then_paid",
        Misbehaviour(
            ends_later=Status.PENDING, closable=False, expires=False, paid_after_all_seconds=60
        ),
    ),
    7712: ("second_capture", Misbehaviour(second_capture_seconds=60)),
    7713: ("garbage_answer", Misbehaviour(answer=ResponseFault.GARBAGE)),
    7714: ("slow", Misbehaviour(answer=ResponseFault.SLOW)),
    7715: ("error_after_doing_it", Misbehaviour(answer=ResponseFault.ERROR)),
    7716: ("error_before_doing_it", Misbehaviour(answer=ResponseFault.ERROR, is_recorded=False)),
    7717: ("pending_then_paid", Misbehaviour(ends_later=Status.CAPTURED)),
    7718: ("pending_then_declined", Misbehaviour(ends_later=Status.DECLINED)),
    7719: ("declined_then_paid", Misbehaviour(declines=True, paid_after_all_seconds=60)),
}
_PENDING, _SUCCESS, _FAILED, _REVERSED = (
    RefundStatus.PENDING,
    RefundStatus.SUCCESS,
    RefundStatus.FAILED,
    RefundStatus.REVERSED,
)
REFUNDS: dict[int, tuple[str, RefundMisbehaviour]] = {
    7741: ("refund_pending", RefundMisbehaviour(steps=((0, _PENDING), (60, _SUCCESS)))),
    7742: (
        "refund_bounces",
        RefundMisbehaviour(steps=((0, _PENDING), (60, _SUCCESS), (3600, _REVERSED))),
    ),
    7743: ("refund_refused", RefundMisbehaviour(steps=((0, _FAILED),))),
    7744: ("refund_pending_then_refused", RefundMisbehaviour(steps=((0, _PENDING), (60, _FAILED)))),
    7745: ("refund_answer_lost", RefundMisbehaviour(answer=ResponseFault.LOST)),
    7746: ("refund_timeout_but_done", RefundMisbehaviour(answer=ResponseFault.LATE, callbacks=0)),
    7747: ("refund_garbage_answer", RefundMisbehaviour(answer=ResponseFault.GARBAGE)),
    7748: ("refund_error_after_doing_it", RefundMisbehaviour(answer=ResponseFault.ERROR)),
    7749: ("refund_callback_thrice", RefundMisbehaviour(callbacks=3)),
}
# Stripe's cards for asynchronous refunds; the number is gone when the refund comes, so the charge
# keeps the name.
REFUND_CARDS = {"4000000000007726": "refund_pending", "4000000000005126": "refund_bounces"}
_REFUNDS_BY_NAME = dict(REFUNDS.values())


def of_payment(amount: Money) -> Misbehaviour:
    """The behaviour of a payment of this amount."""
    return PAYMENTS.get(amount.minor % 10_000, ("", GOOD))[1]


def of_refund(amount: Money, *, card: str) -> RefundMisbehaviour:
    """The behaviour of a refund of this amount.

    Args:
        card: the name that the charge's card gave its refunds, or "".
    """
    return REFUNDS.get(amount.minor % 10_000, ("", _REFUNDS_BY_NAME.get(card, GOOD_REFUND)))[1]
