"""What `paymesh audit` looks at, removed check by check: without a check, its row of
tests/builders/audit_corruptions.py or tests/builders/merchant_corruptions.py is not found.
"""

from __future__ import annotations

from tests.builders.audit_corruptions import ROWS
from tests.builders.merchant_corruptions import CORRUPTIONS
from tests.mutants.runner import Edit, Mutant

_CORRUPTIONS = "test_audit_corruptions.py::test_each_thing_that_somebody_changes_is_named"


def _row(damage: str) -> str:
    return f"{_CORRUPTIONS}[sqlite-{damage}]"


def _named(place: str, check: str) -> str:
    """The first row that only this check finds."""
    return _row(
        next(damage for damage, (_, where, what) in ROWS.items() if (where, what) == (place, check))
    )


def _at_merchants(check: str) -> str:
    name = "test_each_thing_that_somebody_changes_at_merchants_is_named"
    damage = next(damage for damage, planted in CORRUPTIONS.items() if planted.check == check)
    return f"test_merchant_corruptions.py::{name}[sqlite-{damage}]"


def _kin(damage: str) -> str:
    return f"test_seckill_audit.py::test_each_of_their_kin_is_found[{damage}-mariadb]"


def _damage(damage: str) -> str:
    return f"test_seckill_audit.py::test_each_thing_that_does_not_hold_is_found[{damage}-mariadb]"


def _query(check: str, fails: str, *, of: str) -> Mutant:
    """A check that asks the database is not asked."""
    old = "    rows = (await tx.execute(check.query.where(within).limit(limit))).mappings()\n"
    return Mutant(
        f"{of}: {check} is asked for",
        fails,
        (
            Edit(
                "mesh/audit/queries.py",
                old,
                f'    if check.name == "{check}":\n        return []\n{old}',
            ),
        ),
    )


def _said(path: str, check: str, fails: str) -> Mutant:
    """A check of Python code says nothing that anybody knows."""
    return Mutant(f"{path}: {check} is said", fails, (Edit(path, f'"{check}"', '"unseen"'),))


def _edit(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(path, old, new),))


_OF_ORDERS = (
    "order_late",
    "order_total",
    "history_leads_here",
    "history_unbroken",
    "order_took_payment",
    "taken_once",
    "line_reserved",
    "reservation_of_line",
    "old_reservation_released",
    "refunds_add_up",
    "refund_nobodys_work",
    "message_kept",
    "outbox_dead",
    "outbox_readable",
)
_OF_THE_SHELF = (
    "stock_available",
    "stock_reserved",
    "stock_sold",
    "stock_allocated",
    "allocation_steps",
)
_OF_PAYMENTS = (
    "payment_late",
    "attempt_late",
    "refund_late",
    "callback_late",
    "callback_unused",
    "payment_abandoned",
    "order_not_told",
    "refused_money_kept",
    "conflict_unseen",
    "parked_unseen",
    "surplus_unseen",
    "refund_unseen",
    "success_holds_slot",
    "trade_number_once",
    "refunds_within_capture",
    "attempt_of_payment",
    "refund_of_payment",
    "receipt_answered",
    "refund_receipt_answered",
    "attempt_has_payment",
    "attempt_booked",
    "refund_has_payment",
    "refund_has_attempt",
    "payment_has_attempt",
    "payment_ended",
    "receipt_of_something",
    "message_kept",
    "outbox_dead",
    "outbox_late",
)
_OF_MERCHANTS = (
    "sibling_exists",
    "sibling_of_merchant",
    "sibling_follows",
    "log_leads_here",
    "sign_up_late",
    "settings_in_force",
    "merchant_has_owner",
    "member_of_merchant",
    "closed_has_no_key",
    "closed_has_no_session",
    "one_link_works",
    "outbox_dead",
    "outbox_late",
    "outbox_readable",
)
_ACROSS = (
    "payment_has_order",
    "gate_closed",
    "gate_open",
    "hold_at_order",
    "order_held",
    "refund_at_payment",
    "refund_at_order",
    "same_buyer",
    "same_payment_state",
    "paid_once",
    "order_refunded",
)
_AT_CHANNEL = (
    "capture_same",
    "capture_fee",
    "capture_real",
    "refund_known",
    "refund_amount",
    "refund_fee",
)


def _readable(sentence: str, damage: str, *, old: str, new: str) -> Mutant:
    name = "test_a_row_that_no_code_can_read_is_named_and_the_audit_goes_on"
    fails = f"test_audit_corruptions.py::{name}[sqlite-{damage}]"
    return Mutant(sentence, fails, (Edit("mesh/audit/queries.py", old, new),))


MUTANTS = [
    _readable(
        "a row that went past a CHECK is named",
        "attempt-state = 'NONSENSE'-breaks the rule",
        old="        if isinstance(constraint, CheckConstraint):",
        new="        if False:",
    ),
    _readable(
        "a row of an unknown currency is named",
        "refund-currency = 'ZZZ'-has an unknown currency",
        old='        if column.name == "currency" or column.name.endswith("_currency"):',
        new="        if False:",
    ),
    _readable(
        "a row with an unknown word is named",
        "payment-outcome = 'NONSENSE'-has an unknown outcome",
        old="        if column in words:",
        new="        if False:",
    ),
    _readable(
        "a row whose document does not parse is named",
        "orders-address = '['-has no JSON in address",
        old="        if column in documents:",
        new="        if False:",
    ),
    _readable(
        "a row of a negative version is named",
        "payment-version = -1-has a negative version",
        old='        if column.name == "version":',
        new="        if False:",
    ),
    *(_query(check, _named("order_rpc", check), of="order_rpc") for check in _OF_ORDERS),
    *(
        _said("order_rpc/audit/stock.py", check, _named("order_rpc", check))
        for check in _OF_THE_SHELF
    ),
    *(_query(check, _named("payment_rpc", check), of="payment_rpc") for check in _OF_PAYMENTS),
    *(_query(check, _at_merchants(check), of="merchant_rpc") for check in _OF_MERCHANTS),
    _edit(
        "merchant_rpc/audit/checks.py",
        "the log of actions has its chains",
        old="        check_logs(db, ACTION_LOG),\n",
        new="",
        fails=_at_merchants("log_chained"),
    ),
    _edit(
        "merchant_rpc/audit/checks.py",
        "rows of merchants can be read",
        old="        check_rows(db, metadata, words={}, documents=(_L.payload, _S.body)),\n",
        new="",
        fails=_at_merchants("row_readable"),
    ),
    *(_said("paymesh_cli/audit/compare.py", check, _named("across", check)) for check in _ACROSS),
    *(
        _said("payment_rpc/audit/channel.py", check, _named("channel", check))
        for check in _AT_CHANNEL
    ),
    _edit(
        "paymesh_cli/audit/compare.py",
        "the amounts of an order are those of its payment",
        old='check=f"same_{name}"',
        new='check=f"unseen_{name}"',
        fails=_named("across", "same_amount"),
    ),
    _edit(
        "paymesh_cli/audit/compare.py",
        "a refund is the same on both sides",
        old='check=f"same_refund_{what}"',
        new='check=f"unseen_{what}"',
        fails=_named("across", "same_refund_amount"),
    ),
    _edit(
        "paymesh_cli/audit/compare.py",
        "an order is paid by a payment that is there",
        old="    if paying is None:\n",
        new="    if paying is None and order.paid_payment_id == '':\n        return\n    if "
        "paying is None:\n        return\n    if False:\n",
        fails=_row("payments: payments are gone"),
    ),
    _edit(
        "paymesh_cli/audit/compare.py",
        "and that is a SUCCESS",
        old='    if paying.state != "SUCCESS":\n',
        new="    if False:\n",
        fails=_row("payments: late money"),
    ),
    _edit(
        "mesh/audit/queries.py",
        "logs have their chains",
        old='Violation(check="log_chained"',
        new='Violation(check="unseen"',
        fails=_named("order_rpc", "log_chained"),
    ),
    _edit(
        "order_rpc/audit/checks.py",
        "a cancel that does not end is late",
        old="_O.state == OrderState.CANCELLING, _O.updated_at",
        new='_O.state == "", _O.updated_at',
        fails=_row("orders: an order that is being cancelled for ever"),
    ),
    _edit(
        "order_rpc/audit/checks.py",
        "an order that nobody paid in time is late",
        old="_O.state == OrderState.PENDING_PAYMENT, _O.expires_at",
        new='_O.state == "", _O.expires_at',
        fails=_row("orders: a late order"),
    ),
    _edit(
        "order_rpc/audit/checks.py",
        "a line is held in its quantity",
        old=", _R.quantity != _I.quantity),",
        new="),",
        fails=_row("orders: units of a reservation"),
    ),
    _edit(
        "order_rpc/audit/checks.py",
        "and in the state of its order",
        old=", _R.state != should, _R.quantity",
        new=", _R.quantity",
        fails=_row("orders: reserved for ever"),
    ),
    _edit(
        "order_rpc/audit/stock.py",
        "a log of movements explains the shelf",
        old="if available != left:",
        new="if available < left:",
        fails=_row("orders: available + 1"),
    ),
    _edit(
        "order_rpc/audit/stock.py",
        "also where it has too few",
        old="if available != left:",
        new="if available > left:",
        fails=_row("orders: available - 1"),
    ),
    _said("order_rpc/audit/kept.py", "message_kept", _named("order_rpc", "message_kept")),
    _edit(
        "order_rpc/audit/kept.py",
        "figures are those of the orders",
        old="    for entry in missing[:FOUND_MAX]:\n",
        new="    for entry in missing[:0]:\n",
        fails=_row("orders: figures"),
    ),
    _edit(
        "payment_rpc/audit/channel.py",
        "a capture that we do not know is found",
        old='        if own is None:\n            yield "capture_known"',
        new='        if own is None:\n            yield "unseen"',
        fails=_row("payments: an attempt is gone"),
    ),
    _edit(
        "payment_rpc/audit/channel.py",
        "the fee of a capture is the channel's",
        old="if fact.fee is not None and fact.fee.minor != fee_minor:",
        new="if False:",
        fails=_row("payments: a fee is gone, says the channel"),
    ),
    _edit(
        "payment_rpc/audit/channel.py",
        "a refund that stands on no day of the channel is asked for",
        old="                if _ENDED.get(found.status) != row.state:\n",
        new="                if False:\n",
        fails=_row("payments: the channel never had it"),
    ),
    _edit(
        "payment_rpc/audit/channel.py",
        "a refund ended as the channel says",
        old='            yield "refund_same", f"here it is',
        new='            yield "unseen", f"here it is',
        fails=_row("payments: FAILED here, SUCCESS there"),
    ),
    _edit(
        "payment_rpc/audit/kept.py",
        "the event of a refund is kept",
        old="                    told_refunds < done_refunds,\n",
        new="",
        fails=_row("payments: the event of a refund is gone"),
    ),
    _edit(
        "payment_rpc/audit/kept.py",
        "the message to the order is kept",
        old="or_(~told(_O.destination == ORDER_DESTINATION), ~told(topic, _O.tag == "
        '"PAYMENT_SUCCEEDED"))',
        new='~told(topic, _O.tag == "PAYMENT_SUCCEEDED")',
        fails=_row("payments: a delivered message is gone"),
    ),
    _said("seckill_rpc/audit/checks.py", "units_sold", _damage("a unit more is sold than live")),
    _said(
        "seckill_rpc/audit/checks.py",
        "never_oversold",
        _kin("more orders live than there are units"),
    ),
    _query("order_of_activity", _kin("an order of no sale"), of="seckill_rpc"),
    _query("units_of_closed", _kin("a closed sale that keeps units"), of="seckill_rpc"),
    _query("buyer_within_limit", _damage("a place above the limit"), of="seckill_rpc"),
    _query("order_written", _damage("an order that order_rpc never answered"), of="seckill_rpc"),
    _query("dead_entry", _damage("a dead entry"), of="seckill_rpc"),
    _query(
        "activity_late",
        "test_seckill_audit.py::test_an_end_that_nobody_saw_is_found[mariadb]",
        of="seckill_rpc",
    ),
    _said(
        "paymesh_cli/audit/compare.py",
        "unit_has_order",
        _kin("an order that is not there any more"),
    ),
    _said("paymesh_cli/audit/compare.py", "same_sale", _damage("another buyer over there")),
    _said(
        "paymesh_cli/audit/compare.py", "order_has_unit", _damage("an order that no sale decided")
    ),
    _edit(
        "paymesh_cli/audit/compare.py",
        "a unit that came back has a cancelled order",
        old='if unit.state == "RETURNED" and order.state != "CANCELLED":',
        new="if False:",
        fails=_damage("a unit that came back from a live order"),
    ),
    _edit(
        "paymesh_cli/audit/compare.py",
        "a cancelled order keeps no unit",
        old='if unit.state == "LIVE" and order.state == "CANCELLED" and not',
        new="if False and not",
        fails=_damage("a cancelled order that keeps its unit"),
    ),
    _edit(
        "paymesh_cli/audit/between.py",
        "a sale has the units that the shelf gave it",
        old="            if activity.activity_id in names:\n",
        new="            if False:\n",
        fails=_damage("units that the shelf has back"),
    ),
    *(
        _said("seckill_rpc/audit/stock.py", check, _damage(damage))
        for check, damage in (
            ("units_conserved", "units that do not exist"),
            ("line_empty", "somebody is left in the line"),
            ("holders_known", "a holder is forgotten"),
        )
    ),
]
