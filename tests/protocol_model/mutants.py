"""Where the loss of each rule shows: a scenario small enough for it, and a seed whose run there
breaks something without the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from payment_rpc.channels.capabilities import Close
from tests.protocol_model.invariants import false_failures, needless_refusals, second_captures
from tests.protocol_model.scenario import Scenario
from tests.protocol_model.world import World

_CAPTURED, _DECLINED = ("CAPTURED",), ("DECLINED",)
_EITHER = ("CAPTURED", "DECLINED")
_PLAIN = Scenario(payments=1, calls=1, late_captures=True, repeated_keys=True, resends=True)
_TWO = Scenario(payments=2, calls=1, late_captures=True, answers=_EITHER)
_TWO_LATE = Scenario(payments=2, late_captures=True, answers=_DECLINED)
_TWO_WRONG = Scenario(payments=2, calls=1, wrong_amounts=True, answers=_CAPTURED)
_TWO_REFUNDED = Scenario(
    payments=2, calls=1, late_captures=True, answers=_EITHER, merchant_refunds=1
)
_TWO_STUCK = Scenario(
    payments=2,
    calls=1,
    tombstones=False,
    closable=False,
    late_captures=True,
    answers=("DECLINED", "OPEN"),
)
_TWO_STUCK_REFUNDED = Scenario(
    payments=2,
    calls=1,
    tombstones=False,
    closable=False,
    late_captures=True,
    answers=("DECLINED", "OPEN"),
    merchant_refunds=1,
)
_HELD = Scenario(payments=1, calls=1, answers=("HELD",), holds=True)
_PARTS = Scenario(payments=1, calls=1, amount=2, answers=("HELD",), holds=True, parts=True)
_MORE_PARTS = Scenario(payments=1, calls=2, amount=3, answers=("HELD",), holds=True, parts=True)
_LATE_PARTS = Scenario(payments=1, calls=3, amount=2, answers=("HELD",), holds=True, parts=True)
_SECOND = Scenario(
    payments=1,
    attempts=2,
    calls=1,
    answers=("CAPTURED", "OPEN"),
    fails_later=True,
    late_captures=True,
)
_SECOND_WRONG = Scenario(
    payments=1,
    attempts=2,
    calls=1,
    answers=("OPEN", "CAPTURED"),
    fails_later=True,
    late_captures=True,
    wrong_amounts=True,
)
_SECOND_REFUNDED = Scenario(
    payments=1,
    attempts=2,
    calls=1,
    answers=("CAPTURED", "OPEN"),
    fails_later=True,
    late_captures=True,
    merchant_refunds=1,
)
_SECOND_LATE = Scenario(
    payments=1, attempts=2, calls=1, answers=("OPEN",), fails_later=True, late_captures=True
)
_REFUNDS = Scenario(
    payments=1, calls=1, merchant_refunds=2, flips=True, bounces=True, answers=_CAPTURED
)
_LATE_REFUNDS = Scenario(
    payments=1, calls=1, merchant_refunds=2, amount=2, late_captures=True, answers=_DECLINED
)
_REVIVE = Scenario(
    payments=1,
    calls=1,
    amount=2,
    late_captures=True,
    revives=True,
    other_buyers=True,
    merchant_refunds=1,
    answers=_DECLINED,
)
_SHIP = Scenario(payments=1, calls=1, merchant_refunds=1, ships=True, answers=_CAPTURED)
_TWICE = Scenario(payments=1, late_captures=True, duplicates=True, answers=_DECLINED)
_KNOWN = Scenario(payments=1, calls=2, kind=Close.KNOWN, resends=True)
_UNHEARD = Scenario(payments=1, calls=1, kind=Close.NEVER, unheard=True)
_PROMISE = Scenario(payments=1, calls=2, kind=Close.PROMISE)

CAUGHT_IN: dict[str, tuple[Scenario, int]] = {
    "gate": (_TWO_LATE, 115),
    "gate_row": (_TWO_LATE, 3),
    "live_slot": (_TWO, 9),
    "late_blocks": (_TWO, 0),
    "resend_guard": (_PLAIN, 100),
    "late_success": (_LATE_REFUNDS, 0),
    "late_from_failed": (_LATE_REFUNDS, 0),
    "second_capture": (_SECOND, 376),
    "second_in_any_state": (_SECOND_LATE, 1575),
    "own_cap": (_SECOND_REFUNDED, 376),
    "conflict_keeps_paid": (_SECOND_WRONG, 1557),
    "statement": (_LATE_REFUNDS, 0),
    "receipt_final": (_PLAIN, 8),
    "void_held": (_HELD, 23),
    "capture_or_void": (_HELD, 20),
    "capture_again": (_HELD, 1136),
    "parts_once": (_PARTS, 309),
    "same_capture_key": (_MORE_PARTS, 984),
    "withdraw_once": (_LATE_PARTS, 2940),
    "rest_ends_paid": (_PARTS, 380),
    "deadline_close": (_TWO_STUCK_REFUNDED, 3066),
    "precedence": (_TWO_WRONG, 56),
    "order_state": (_TWO_LATE, 278),
    "disposition_once": (_REVIVE, 157),
    "money_decides": (_PLAIN, 50),
    "version": (_REFUNDS, 17),
    "paid_payment_id": (_TWO, 20),
    "refund_of_paid_only": (_TWO, 21),
    "release": (_PLAIN, 0),
    "revive_one_tx": (_REVIVE, 263),
    "revive_whole": (_REVIVE, 157),
    "ship_guard": (_SHIP, 8),
    "outbox_tx": (_PLAIN, 8),
    "redeliver": (_PLAIN, 26),
    "refused_leaves_slot": (_TWO_REFUNDED, 310),
    "auto_refund": (_PLAIN, 50),
    "refund_with_refusal": (_TWO, 28),
    "auto_rest": (_LATE_REFUNDS, 6),
    "auto_attention": (_TWO_REFUNDED, 20),
    "refund_cap": (_REFUNDS, 6),
    "same_refund_id": (_SECOND_REFUNDED, 109),
    "over_refund": (_REFUNDS, 19),
    "bounce_unheard": (_REFUNDS, 27),
    "same_step_key": (_PROMISE, 1109),
    "watched": (_UNHEARD, 256),
}


# The loss of these makes a step that no table has.
OUTSIDE = ("cancelling_first",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A scenario in which a rule alone keeps a count at zero. What is too rare for chance only the
    search of all states shows.
    """

    scenario: Scenario
    count: Callable[[World], int]
    too_rare_for_chance: bool = False


# What these let through is repaired by other rules before the end.
COUNTED_IN: dict[str, Counted] = {
    "lease": Counted(
        scenario=Scenario(
            payments=1, calls=3, tombstones=False, closable=False, punctual=True, answers=_CAPTURED
        ),
        count=false_failures,
    ),
    "tombstone": Counted(
        scenario=Scenario(payments=1, calls=3, answers=_CAPTURED), count=false_failures
    ),
    "same_attempt_id": Counted(
        scenario=Scenario(payments=1, attempts=2, resends=True, answers=_CAPTURED),
        count=second_captures,
    ),
    "no_failover_on_unknown": Counted(
        scenario=Scenario(payments=1, attempts=2, calls=3, answers=_CAPTURED), count=second_captures
    ),
    "remember_guard": Counted(scenario=_KNOWN, count=false_failures),
    "not_found_judged": Counted(scenario=_KNOWN, count=false_failures, too_rare_for_chance=True),
    "not_found_by_kind": Counted(
        scenario=Scenario(payments=1, calls=2, kind=Close.DEADLINE, resends=True),
        count=false_failures,
    ),
    "step_guard": Counted(scenario=_PROMISE, count=false_failures, too_rare_for_chance=True),
    "step_intention": Counted(scenario=_PROMISE, count=false_failures, too_rare_for_chance=True),
    "promise_waits": Counted(scenario=_PROMISE, count=false_failures, too_rare_for_chance=True),
    "closing_waits": Counted(scenario=Scenario(payments=1, punctual=True), count=needless_refusals),
    "already_paid": Counted(scenario=Scenario(payments=1, punctual=True), count=needless_refusals),
}

# Others do the same, or repair it: (those, whose loss alone shows nothing here; the scenario; a
# seed that breaks without them and it).
HIDDEN_IN: dict[str, tuple[tuple[str, ...], Scenario, int]] = {
    "settled_once": (("auto_unique", "auto_rest", "refund_cap"), _TWICE, 30),
    "auto_unique": (("settled_once", "auto_rest", "refund_cap"), _TWICE, 30),
    "slot_handover": (("deadline_close",), _TWO_STUCK, 2725),
}
