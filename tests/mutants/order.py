"""What order_rpc promises, removed piece by piece. The name of a mutant is the sentence that it
breaks.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(
    path: str, sentence: str, *, old: str, new: str, fails: str, behind: Edit | None = None
) -> Mutant:
    return Mutant(
        sentence,
        fails,
        (Edit(f"order_rpc/{path}", old, new), *(() if behind is None else (behind,))),
    )


def _test(module: str, name: str, *, on: str = "sqlite") -> str:
    return f"test_order_{module}.py::{name}" + (f"[{on}]" if on else "")


_outbox_to_payment = partial(_mutant, "usecases/outbox_to_payment.py")
_cancellations = partial(_mutant, "usecases/cancellations.py")
_apply_payment = partial(_mutant, "usecases/apply_payment.py")
_payments = partial(_mutant, "usecases/payments.py")
_refunds = partial(_mutant, "usecases/refunds.py")
_apply_refunds = partial(_mutant, "usecases/apply_refunds.py")
_orders = partial(_mutant, "usecases/orders.py")
_catalog = partial(_mutant, "usecases/catalog.py")
_catalog_stock = partial(_mutant, "usecases/catalog_stock.py")
_allocations = partial(_mutant, "usecases/allocations.py")
_shipments = partial(_mutant, "usecases/shipments.py")
_events = partial(_mutant, "usecases/events.py")
_clients = partial(_mutant, "clients.py")
_stock = partial(_mutant, "store/stock.py")
_order_rows = partial(_mutant, "store/orders.py")
_first_answers = partial(_mutant, "usecases/first_answers.py")
_order_pages = partial(_mutant, "store/order_pages.py")
_external_rows = partial(_mutant, "store/external_orders.py")
_external_orders = partial(_mutant, "usecases/external_orders.py")
_external_order = partial(_mutant, "domain/external_order.py")
_external_messages = partial(_mutant, "servicer/external_orders.py")
_messages = partial(_mutant, "servicer/messages.py")
_statistics = partial(_mutant, "store/statistics.py")
_statistic_uses = partial(_mutant, "usecases/statistics.py")
_order = partial(_mutant, "domain/order.py")
_order_line = partial(_mutant, "domain/order_line.py")
_payment = partial(_mutant, "domain/payment.py")
_refund = partial(_mutant, "domain/refund.py")
_plan = partial(_mutant, "domain/refund_plan.py")
_figures = partial(_mutant, "domain/statistics.py")


_in_external = partial(_test, "external")
_in_external_rpc = partial(_test, "external_rpc")
_in_terms = partial(_test, "merchant_terms")
_in_cancel = partial(_test, "cancel")
_in_payments = partial(_test, "payments")
_in_holds = partial(_test, "holds")
_WIRE = "test_held_money_over_wire.py::"
_OVER_WIRE = f"{_WIRE}test_held_money_is_captured_by_shipping_or_let_go_by_cancelling"
_PART = f"{_WIRE}test_a_part_that_was_captured_counts_everywhere_as_what_it_is"
_in_refunds = partial(_test, "refunds")
_in_create = partial(_test, "create")
_in_stock = partial(_test, "stock")
_in_catalog = partial(_test, "catalog")
_in_free = partial(_test, "free")
_in_statistics = partial(_test, "statistics")
_in_shipping = partial(_test, "shipping")


def _keyed(method: str) -> str:
    return f"test_keyed_methods.py::test_two_people_with_one_key_never_hear_of_each_other[{method}]"


def _in_bad_rows(name: str) -> str:
    return f"test_bad_rows.py::{name}"


def _in_lists(name: str) -> str:
    return f"test_bad_rows_in_lists.py::{name}"


_BAD_ROWS = [
    _cancellations(
        "an order that cannot expire stops no other",
        old="count = len(await self._batches.run())",
        new="count = len(await self._db.run(self._batches._batch, 100, []))",
        fails=_in_bad_rows(
            "test_as_many_bad_orders_as_a_batch_takes_do_not_hide_those_behind_them[sqlite]"
        ),
    ),
    _order_rows(
        "an order without lines is not shown as if it had none",
        old='    if not lines:\n        raise ValueError("an order has no lines")\n',
        new="",
        fails=_in_lists(
            "test_a_list_of_orders_goes_on_behind_one_that_cannot_be_read[sqlite-DELETE FROM "
            "order_item WHERE order_id = '{}']"
        ),
    ),
    _statistics(
        "a figure that cannot be read is left out of its day",
        old='    return readable_rows(rows, _entry, of="statistic",',
        new="    rows = list(map(_entry, rows))\n    return readable_rows(rows, lambda row: row, "
        'of="statistic",',
        fails=_in_lists("test_a_figure_that_cannot_be_read_is_left_out_of_its_day[sqlite]"),
    ),
    _statistic_uses(
        "an entry that cannot be counted keeps no other out of the figures",
        old="return len(await self._folding.run())",
        new="return len(await self._db.run(self._folding._batch, 100, []))",
        fails=_in_bad_rows(
            "test_an_entry_that_cannot_be_counted_keeps_no_other_out_of_the_figures[sqlite]"
        ),
    ),
]

_CANCEL = [
    _outbox_to_payment(
        "an order whose payment is still being closed is not cancelled",
        old="        if answer.result is CloseResult.CLOSING:\n            raise StillClosing(",
        new="        if False:\n            raise StillClosing(",
        behind=Edit(
            "order_rpc/usecases/outbox_to_payment.py",
            "            case CloseResult.CLOSING:\n                raise StillClosing\n",
            "            case CloseResult.CLOSING:\n                await self._cancel(tx, order, "
            "cause=cause, remark=answer.result, at=now)\n",
        ),
        fails=_in_cancel("test_nothing_is_freed_while_a_channel_has_not_answered"),
    ),
    _outbox_to_payment(
        "a settlement never cancels an order whose payment is still being closed",
        old="            case CloseResult.CLOSING:\n                raise StillClosing\n",
        new="            case CloseResult.CLOSING:\n                await self._cancel(tx, order, "
        "cause=cause, remark=answer.result, at=now)\n",
        fails=_in_cancel("test_a_settlement_of_a_close_that_is_under_way_cancels_nothing"),
    ),
    _outbox_to_payment(
        "a close that was answered after the payment took the order settles nothing",
        old="        if order.state is not OrderState.CANCELLING:  # a payment arrived first\n    "
        "        return\n",
        new="",
        fails=_in_cancel(
            "test_a_close_that_was_answered_late_does_not_cancel_what_was_paid_meanwhile"
        ),
    ),
    _outbox_to_payment(
        "the units of a cancelled order come back",
        old="        await stock.release(tx, cancelled, at=at)\n",
        new="",
        fails=_in_cancel("test_a_cancelled_order_gives_its_units_back_and_says_so"),
    ),
    _outbox_to_payment(
        "a cancelled order counts as cancelled",
        old="counts=[entry(cancelled, Figure.CANCELLED, at=at)])",
        new="counts=[])",
        fails=_in_statistics("test_a_day_counts_what_happened_in_it"),
    ),
    _outbox_to_payment(
        "a cancelled order of a flash sale gives its unit back",
        old="    if not order.is_of_activity:\n",
        new="    if True:\n",
        fails=_in_cancel("test_a_cancelled_order_of_a_flash_sale_gives_its_unit_back_to_the_sale"),
    ),
    _cancellations(
        "an order that is being cancelled is not cancelled a second time",
        old="if order.state is not OrderState.PENDING_PAYMENT or (",
        new="if order.state not in (OrderState.PENDING_PAYMENT, OrderState.CANCELLING) or (",
        behind=Edit(
            "order_rpc/domain/order.py",
            "    (OrderState.CANCELLING, Verb.PAY, OrderState.PAID),",
            "    (OrderState.CANCELLING, Verb.BEGIN_CANCEL, OrderState.CANCELLING),\n    "
            "(OrderState.CANCELLING, Verb.PAY, OrderState.PAID),",
        ),
        fails=_in_cancel("test_nothing_is_freed_while_a_channel_has_not_answered"),
    ),
    _cancellations(
        "a cancel that met a payment is refused",
        old="        if order.state not in (OrderState.CANCELLING, OrderState.CANCELLED):\n"
        "            raise OrderAlreadyPaid(payment_id=order.paid_payment_id)\n",
        new="",
        fails=_in_cancel(
            "test_an_order_that_turns_out_to_be_paid_is_paid_and_the_cancel_is_refused"
        ),
    ),
    _cancellations(
        "a cancel asks payment_rpc",
        old="remark=reason, messages=[message])",
        new="remark=reason)",
        fails=_in_cancel(
            "test_while_payment_rpc_is_away_expired_orders_wait_and_finish_after_it_returns"
        ),
    ),
    _cancellations(
        "a free order that was returned in part is not cancelled",
        old=" and not await refunds.refunds_of(tx, order, limit=1)",
        new="",
        fails=_in_free("test_units_of_a_free_order_come_back_one_by_one_and_once"),
    ),
    _cancellations(
        "the units of a free order that was cancelled come back",
        old="        await stock.release_sold(tx, cancelled, at=at)\n",
        new="",
        fails=_in_free(
            "test_a_free_order_is_cancelled_at_once_and_its_units_come_back", on="sqlite-False"
        ),
    ),
    _cancellations(
        "a free order that was cancelled does not count as paid",
        old=", *entries_of_payment(order, at=order.paid_at or at, count=-1)]",
        new="]",
        fails=_in_free(
            "test_a_free_order_is_cancelled_at_once_and_its_units_come_back", on="sqlite-False"
        ),
    ),
    _order_rows(
        "an order expires at its deadline",
        old="ORDERS.c.expires_at <= now)",
        new="ORDERS.c.expires_at < now)",
        fails=_in_cancel("test_an_unpaid_order_expires_at_its_deadline_and_not_before"),
    ),
    _order_rows(
        "and only while it waits for money",
        old="ORDERS.c.state == OrderState.PENDING_PAYMENT, ORDERS.c.expires_at <= now",
        new="ORDERS.c.expires_at <= now",
        fails=_in_cancel("test_paid_and_cancelled_orders_do_not_expire"),
    ),
    _payments(
        "an order that expired starts no payment",
        old="        if order.expires_at <= self._clock.now():\n            raise OrderExpired\n",
        new="",
        fails=_in_cancel("test_an_expired_order_starts_no_payment_even_before_the_worker_came"),
    ),
    _payments(
        "not even at its last moment",
        old="order.expires_at <= self._clock.now()",
        new="order.expires_at < self._clock.now()",
        fails=_in_cancel("test_an_expired_order_starts_no_payment_even_before_the_worker_came"),
    ),
    _payments(
        "an order that is being cancelled starts no payment",
        old="frozenset({OrderState.CANCELLING, OrderState.CANCELLED})",
        new="frozenset({OrderState.CANCELLED})",
        behind=Edit(
            "order_rpc/usecases/payments.py",
            "if order.state is not OrderState.PENDING_PAYMENT:",
            "if order.state not in {OrderState.PENDING_PAYMENT, OrderState.CANCELLING}:",
        ),
        fails=_in_cancel(
            "test_an_order_that_waits_for_no_money_starts_no_payment",
            on="sqlite-CANCELLING-OrderStateInvalid",
        ),
    ),
]

_MONEY = [
    _payment(
        "money of another currency pays nothing",
        old="snapshot.captured.currency != order.amount.currency or (\n"
        "                snapshot.captured < order.amount and not is_in_part\n"
        "            )",
        new="snapshot.captured.minor < order.amount.minor and not is_in_part",
        fails="test_order_domain.py::test_money_that_is_not_the_price_of_the_order_pays_nothing_and_is_shown_to_a_person",
    ),
    _payment(
        "money that is too little pays nothing",
        old=" or (\n"
        "                snapshot.captured < order.amount and not is_in_part\n"
        "            )",
        new="",
        fails="test_order_domain.py::test_money_that_is_not_the_price_of_the_order_pays_nothing_and_is_shown_to_a_person",
    ),
    _payment(
        "money in part that no shop captured so pays nothing",
        old="is_in_part = snapshot.captured_in_part and snapshot.captured.minor > 0",
        new="is_in_part = snapshot.captured.minor > 0",
        fails="test_order_domain.py::test_money_that_is_not_the_price_of_the_order_pays_nothing_and_is_shown_to_a_person",
    ),
    _payment(
        "a second payment is refused",
        old="Disposition.ALREADY if is_ours else Disposition.REFUSED_PAID_BY_OTHER",
        new="Disposition.ALREADY",
        fails=_in_payments("test_a_second_payment_is_refused_and_both_keep_their_dispositions"),
    ),
    _payment(
        "what is already going back revives nothing",
        old="self.captured - self.refunded - self.refund_reserved >= order.amount",
        new="self.captured - self.refunded >= order.amount",
        fails=_in_cancel("test_money_that_is_partly_gone_revives_nothing", on="sqlite-money1"),
    ),
    _payment(
        "what went back revives nothing",
        old="self.captured - self.refunded - self.refund_reserved >= order.amount",
        new="self.captured - self.refund_reserved >= order.amount",
        fails=_in_cancel("test_money_that_is_partly_gone_revives_nothing", on="sqlite-money1"),
    ),
    _payment(
        "an order of a flash sale is never revived",
        old=" or order.is_of_activity:",
        new=":",
        fails=_in_cancel("test_late_money_never_revives_an_order_of_a_flash_sale"),
    ),
    _apply_payment(
        "an order is revived only where its shop wants it",
        old="            wanted\n            and order.external",
        new="            order.external",
        fails=_in_cancel("test_late_money_on_a_cancelled_order_is_refused_by_default"),
    ),
    _apply_payment(
        "and while its units are there",
        old=" and await stock.has_units(tx, order)",
        new="",
        behind=Edit(
            "order_rpc/store/stock.py",
            "        expect_one(await tx.execute(_SELL_AT_ONCE, _parameters(order, line)))\n",
            "        await tx.execute(_SELL_AT_ONCE, _parameters(order, line))\n",
        ),
        fails=_in_cancel("test_late_money_is_refused_when_one_of_the_units_is_gone"),
    ),
    _order(
        "an order does not expire while its money is held",
        old="held=held, expires_at=money.until, cancel_reason",
        new="held=held, cancel_reason",
        fails=_in_holds("test_a_hold_that_moves_moves_the_deadline"),
    ),
    _order(
        "nobody has time to pay an order that came back, once its hold has ended",
        old="waiting, due = self._step(Verb.HOLD, at), at",
        new="waiting, due = self._step(Verb.HOLD, at), self.expires_at",
        fails=_in_holds(
            "test_an_order_whose_hold_is_learnt_by_closing_comes_back_and_waits_for_its_shop"
        ),
    ),
    _payment(
        "news of an older payment do not replace the hold of a newer one",
        old="or (known is not None and known.payment_id > snapshot.payment_id)",
        new="",
        fails=_in_holds("test_news_of_holds_may_come_in_any_order", on="sqlite-news2-PAY2"),
    ),
    _payment(
        "the end of one hold does not end that of another payment",
        old="known is not None and known.payment_id == snapshot.payment_id",
        new="known is not None",
        fails=_in_holds("test_news_of_holds_may_come_in_any_order", on="sqlite-news3-PAY2"),
    ),
    _apply_payment(
        "an answer that is older than what is known brings no order back",
        old="or (known is not None and known.version > snapshot.version)",
        new="",
        behind=Edit(
            "order_rpc/usecases/apply_payment.py",
            "elif known.version < snapshot.version:",
            "elif False:",
        ),
        fails=_in_holds(
            "test_an_answer_of_a_hold_that_has_ended_brings_nothing_back", on="sqlite-newer news"
        ),
    ),
    _apply_payment(
        "a hold that is over brings no order back",
        old="or snapshot.held.until <= at",
        new="",
        fails=_in_holds(
            "test_an_answer_of_a_hold_that_has_ended_brings_nothing_back",
            on="sqlite-the hold is over",
        ),
    ),
    _cancellations(
        "a buyer does not cancel an order whose money is held",
        old=" or (order.held is not None and is_buyer):",
        new=":",
        fails=_in_holds("test_a_buyer_cannot_cancel_an_order_whose_money_is_held"),
    ),
    _cancellations(
        "the shop that cancels lets held money go",
        old="lets_go=not is_buyer,",
        new="lets_go=False,",
        fails=_in_holds(
            "test_the_shop_cancels_a_held_order_and_lets_the_money_go", on="sqlite-shop"
        ),
    ),
    _cancellations(
        "the clock does not let held money go",
        old="lets_go=False,",
        new="lets_go=True,",
        fails=_in_holds("test_an_expired_order_whose_money_is_held_comes_back_and_can_be_paid"),
    ),
    _shipments(
        "held money is captured for shipping only where its shop wants it",
        old="if not (await self._terms.of(order.merchant_id)).policy.ships_on_authorized:",
        new="if False:",
        fails=_in_holds("test_a_held_order_is_not_shipped_before_its_shop_has_captured"),
    ),
    _shipments(
        "nothing is shipped before the money has moved",
        old="if not payment.has_money:",
        new="if False:",
        behind=Edit(
            "order_rpc/domain/order.py",
            "(OrderState.PAID, Verb.SHIP, OrderState.SHIPPED),",
            "(OrderState.PAID, Verb.SHIP, OrderState.SHIPPED), "
            "(OrderState.PENDING_PAYMENT, Verb.SHIP, OrderState.SHIPPED),",
        ),
        fails=_in_holds(
            "test_nothing_is_shipped_while_the_outcome_of_the_capture_is_unknown",
            on="sqlite-unknown",
        ),
    ),
    _shipments(
        "a capture whose answer was lost is not one that was refused",
        old="if error.is_definite and error.reason",
        new="if error.reason",
        fails=_in_holds(
            "test_nothing_is_shipped_while_the_outcome_of_the_capture_is_unknown",
            on="sqlite-no answer",
        ),
    ),
    _shipments(
        "what a person must see of a captured payment is logged when it ships",
        old="applied.log_alerts(captured.payment_id)",
        new="pass",
        fails=_in_holds("test_what_a_person_must_see_of_a_captured_payment_is_told_when_it_ships"),
    ),
    _clients(
        "the shop that cancels lets held money go, also over the wire",
        old="                lets_go=lets_go,\n",
        new="",
        fails=_OVER_WIRE,
    ),
    _clients(
        "the key of a capture for shipping arrives",
        old="metadata=((IDEMPOTENCY_KEY, key),),",
        new="",
        fails=_OVER_WIRE,
    ),
    _figures(
        "a part of held money counts as that part",
        old="count=count, amount=order.captured)",
        new="count=count)",
        fails=_PART,
    ),
    _events(
        "who hears of a paid order hears what came for it",
        old='"captured_amount": order.captured.format(),',
        new='"captured_amount": order.amount.format(),',
        fails=_PART,
    ),
    _shipments(
        "every repetition of a shipment captures under one key",
        old='key=f"ship:{payment_id}"',
        new='key=""',
        fails=_in_holds("test_a_shop_that_ships_on_held_money_has_it_captured_first"),
    ),
    _apply_payment(
        "an older snapshot decides nothing",
        old="known.version > snapshot.version:",
        new="False:",
        behind=Edit(
            "order_rpc/usecases/apply_payment.py", "known.version == snapshot.version:", "False:"
        ),
        fails=_in_payments(
            "test_an_older_or_equal_version_changes_nothing_and_hears_what_was_decided"
        ),
    ),
    _apply_payment(
        "a payment that was decided is not decided again",
        old="if seen.disposition is None and snapshot.has_money:",
        new="if snapshot.has_money:",
        fails=_in_payments(
            "test_each_state_has_its_disposition_and_keeps_it",
            on="sqlite-CANCELLED--REFUSED_CANCELLED-SUCCESS",
        ),
    ),
    _apply_payment(
        "a snapshot without money decides nothing",
        old="if seen.disposition is None and snapshot.has_money:",
        new="if seen.disposition is None:",
        fails=_in_payments(
            "test_a_snapshot_without_money_is_noted_and_decides_nothing", on="sqlite-PAYING"
        ),
    ),
    _apply_payment(
        "the units of a paid order are sold",
        old="                await stock.commit(tx, after, at=at)",
        new="                pass",
        fails=_in_payments("test_a_success_pays_the_order_sells_its_units_and_says_so"),
    ),
    _apply_payment(
        "the units of a revived order are taken again",
        old="                await stock.reserve_again(tx, after)",
        new="                pass",
        fails=_in_cancel("test_late_money_revives_a_cancelled_order_while_its_units_are_there"),
    ),
    _apply_payment(
        "the sums of an older snapshot are not looked at",
        old="is_newest=False",
        new="is_newest=True",
        fails=_in_refunds(
            "test_news_of_two_refunds_count_in_whatever_order_they_come", on="sqlite-True"
        ),
    ),
    _apply_payment(
        "a paid order counts as paid",
        old=", counts=entries_of_payment(after, at=at))",
        new=")",
        fails=_in_statistics("test_a_day_counts_what_happened_in_it"),
    ),
    _payments(
        "an event changes an order once",
        old="        if not is_new:\n",
        new="        if False:\n",
        fails=_in_payments("test_the_same_event_with_other_content_changes_nothing"),
    ),
    _payments(
        "a payment can only ask for PAID",
        old="command.wanted not in {None, OrderState.PAID}:",
        new="False:",
        fails="test_order_rpc.py::test_messages_about_payments_come_from_payment_rpc_only_and_make_sense",
    ),
]

_REFUNDS = [
    _outbox_to_payment(
        "an answer to a refund that has ended changes nothing",
        old="        if refund.state is not RefundState.APPROVED:\n            return\n",
        new="",
        fails=_in_refunds("test_an_answer_that_comes_after_the_end_of_a_refund_changes_nothing"),
    ),
    _outbox_to_payment(
        "a refusal of a refund that has ended changes nothing",
        old="        if refund.state is not RefundState.APPROVED:\n            return\n",
        new="",
        fails=_in_refunds(
            "test_a_refusal_that_comes_after_the_end_of_a_refund_changes_nothing",
            on="sqlite-FAILED",
        ),
    ),
    _outbox_to_payment(
        "an unclear answer fails no refund",
        old="            if not error.is_definite:\n                raise\n",
        new="",
        fails=_in_refunds(
            "test_while_payment_rpc_is_away_a_refund_waits_and_is_carried_out_when_it_returns"
        ),
    ),
    _refunds(
        "a key of RefundOrder is its caller's",
        old='caller=caller.key, method="RefundOrder"',
        new='caller="", method="RefundOrder"',
        fails=_keyed("RefundOrder"),
    ),
    _refunds(
        "another amount is another refund, in whatever units it was sent",
        old='            fingerprint["amount"] = amount.canonical\n',
        new="            pass\n",
        fails=_test("rpc", "test_a_refund_in_minor_units_is_the_same_refund_in_major_ones"),
    ),
    _refunds(
        "a replay of a refund is no second one",
        old="        if record is not None:\n",
        new="        if False:\n",
        fails=_in_refunds("test_one_key_twenty_times_in_parallel_makes_one_refund"),
    ),
    _refunds(
        "a shipped order waits for its shop",
        old="not is_buyer or order.state is OrderState.PAID",
        new="True",
        fails=_in_refunds("test_a_shipped_order_is_refunded_when_the_shop_approves"),
    ),
    _refunds(
        "an approval looks at what is left",
        old="        if approved.amount > left:\n",
        new="        if False:\n",
        fails=_in_refunds("test_an_approval_finds_the_money_gone"),
    ),
    _refunds(
        "an approval needs an order that can be refunded",
        old="        require_refundable(order)\n",
        new="",
        behind=Edit(
            "order_rpc/usecases/refunds.py",
            "        if approved.amount > left:\n",
            "        if False:\n",
        ),
        fails=_in_refunds("test_an_approval_finds_the_money_gone"),
    ),
    _refunds(
        "the number of refunds has an end",
        old=" >= REFUNDS_MAX:",
        new=" > REFUNDS_MAX:",
        fails=_in_refunds("test_an_order_takes_a_hundred_refunds_and_refuses_one_more_by_name"),
    ),
    _refunds(
        "an approved refund is sent once",
        old="        if refund.state not in (RefundState.REQUESTED, RefundState.REJECTED):\n      "
        "      return refund, None  # approved before\n",
        new="",
        behind=Edit(
            "order_rpc/domain/refund.py",
            '(R.APPROVED, "payment_rpc says that the money went back", R.SUCCEEDED),',
            '(R.APPROVED, "again", R.APPROVED), (R.APPROVED, "it went back", R.SUCCEEDED),',
        ),
        fails=_in_refunds("test_a_shipped_order_is_refunded_when_the_shop_approves"),
    ),
    _refunds(
        "a list of refunds is for those whom the order concerns",
        old="order_id=order_id, visible_to=caller)\n            return await refunds.refunds_of",
        new='order_id=order_id, visible_to=Caller(role=Role.ADMIN, subject=""))\n            '
        "return await refunds.refunds_of",
        fails=_in_refunds(
            "test_lists_of_refunds_come_in_pages_and_only_to_those_whom_they_concern"
        ),
    ),
    _apply_refunds(
        "a refund that failed does not count as refunded",
        old="if not after.of_sale or after.state not in MONEY_LEFT:",
        new="if False:",
        fails=_in_statistics("test_a_refund_that_failed_counts_nothing_and_brings_nothing_back"),
    ),
    _apply_refunds(
        "a refund of another payment does not count",
        old="if not after.of_sale or after.state",
        new="if after.state",
        fails=_in_statistics("test_a_refund_of_another_payment_counts_nothing"),
    ),
    _apply_refunds(
        "goods come back once",
        old="        if before.succeeded_at is None:",
        new="        if True:",
        fails=_in_refunds("test_a_refund_that_bounced_is_visible_and_calls_a_person"),
    ),
    _apply_refunds(
        "a bounce is taken off the figures",
        old="        if is_bounced:\n",
        new="        if False:\n",
        fails=_in_statistics("test_the_daily_summary_equals_a_recount_after_random_operations"),
    ),
    _apply_refunds(
        "a refund is looked for among those of its payment",
        old="refund.payment_id == snapshot.payment_id and ",
        new="",
        fails=_in_refunds(
            "test_a_refund_of_another_payment_with_a_known_request_id_is_another_one"
        ),
    ),
    _apply_refunds(
        "the sums of the order are those of the payment that paid it",
        old="is_of_sale = bool(order.paid_payment_id) and snapshot.payment_id == "
        "order.paid_payment_id",
        new="is_of_sale = bool(order.paid_payment_id)",
        fails=_in_refunds("test_refunds_of_another_payment_are_recorded_only"),
    ),
    _apply_refunds(
        "a full refund ends the order",
        old="after.refund_status is RefundStatus.REFUNDED and after.state in REFUNDABLE:",
        new="False:",
        fails=_in_refunds("test_a_full_refund_ends_the_order_and_says_so"),
    ),
    _refund(
        "money that left after all is believed",
        old='(R.FAILED, "evidence that the money left after all", R.SUCCEEDED),\n        (R.FAILED, '
        '"evidence that it left, and it came back", R.BOUNCED),\n',
        new="",
        fails=_in_refunds("test_money_that_left_after_all_is_believed"),
    ),
    _refund(
        "what the shop has not approved is not approved by news",
        old=" and self.state is not R.REQUESTED:",
        new=":",
        behind=Edit(
            "order_rpc/domain/refund.py",
            '(R.REQUESTED, "the shop said no", R.REJECTED),',
            '(R.REQUESTED, "the shop said no", R.REJECTED), (R.REQUESTED, "news", R.SUCCEEDED),',
        ),
        fails="test_order_refund.py::test_what_the_shop_has_not_approved_is_not_approved_by_news",
    ),
    _refund(
        "units that bounced are not given back twice",
        old="HOLDS_UNITS = frozenset({R.APPROVED, R.SUCCEEDED, R.BOUNCED})",
        new="HOLDS_UNITS = frozenset({R.APPROVED, R.SUCCEEDED})",
        fails="test_order_refund.py::test_units_that_bounced_are_not_given_back_twice",
    ),
    _plan(
        "what buyers asked for holds what they may ask for",
        old="{RefundState.REQUESTED} if with_requested else frozenset()",
        new="frozenset()",
        fails="test_order_refund.py::test_what_waits_for_the_shop_counts_for_buyers_only",
    ),
    _plan(
        "no more money goes back than is left",
        old="if wanted > left or left.minor == 0:",
        new="if left.minor == 0:",
        fails=_in_refunds("test_refunds_at_once_never_exceed_what_was_paid"),
    ),
    _plan(
        "no more units go back than are left",
        old="        if wanted[line.sku_id] > left[line.sku_id]:\n",
        new="        if False:\n",
        fails="test_order_refund.py::test_more_than_is_left_is_refused_with_its_field",
    ),
    _plan(
        "a discount is shared by the lines",
        old="    discount = order.discount.minor * gross // items if items else 0\n",
        new="    discount = 0\n",
        fails=_in_refunds("test_a_discount_is_shared_by_the_lines_that_go_back"),
    ),
]

_ORDERS = [
    _orders(
        "a key of CreateOrder is its caller's",
        old="caller=self.caller.key, method",
        new='caller="", method',
        fails=_keyed("CreateOrder"),
    ),
    _first_answers(
        "a replay shows nothing that came later",
        old="captured=zero, refunded=zero, refund_status=RefundStatus.NONE,",
        new="",
        fails=_in_create("test_a_replay_after_a_refund_shows_nothing_of_it"),
    ),
    _orders(
        "a client_request_id is for one basket",
        old="                _require_same(earlier, command)\n",
        new="",
        fails=_in_stock("test_a_client_request_id_makes_one_order_for_ever"),
    ),
    _orders(
        "a ticket shows its own order alone",
        old="(expected.merchant_id, expected.order_id) == (merchant_id, order_id)\n",
        new="True\n",
        fails="test_order_seckill.py::test_a_ticket_that_does_not_fit_shows_nothing",
    ),
    _orders(
        "and to its own buyer",
        old=" and scope.user_id in {None, expected.user_id})",
        new=")",
        fails="test_order_seckill.py::test_a_ticket_that_does_not_fit_shows_nothing",
    ),
    _orders(
        "a ticket that could not be checked is unclear",
        old="                return False\n            raise\n",
        new="                return False\n            return False\n",
        fails="test_order_seckill.py::test_nobody_is_told_no_such_order_while_seckill_rpc_is_away[sqlite]",
    ),
    _order_rows(
        "an order is its buyer's",
        old=" or scope.user_id not in {None, rows[0].user_id}",
        new="",
        fails=_in_create("test_an_order_of_somebody_else_is_not_found", on="sqlite-another buyer"),
    ),
    _order_rows(
        "and its shop's",
        old=" or scope.merchant_id not in {None, rows[0].merchant_id}",
        new="",
        fails=_in_create("test_an_order_of_somebody_else_is_not_found", on="sqlite-another shop"),
    ),
    _order_pages(
        "a list shows a buyer his own orders",
        old="*(() if scope.user_id is None else (ORDERS.c.user_id == scope.user_id,)))",
        new="*())",
        fails="test_order_list.py::test_a_list_shows_only_what_is_the_callers[sqlite-caller0-wanted0-5]",
    ),
    _order_pages(
        "and a shop its own",
        old="        *(() if scope.merchant_id is None else (ORDERS.c.merchant_id == "
        "scope.merchant_id,)),\n",
        new="",
        fails="test_order_list.py::test_a_list_shows_only_what_is_the_callers[sqlite-caller5-wanted5-0]",
    ),
    _order_rows(
        "a client_request_id is its buyer's",
        old="ORDERS.c.user_id == user_id, ORDERS.c.client_request_id == client_request_id)",
        new="ORDERS.c.client_request_id == client_request_id)",
        fails=_in_stock("test_a_client_request_id_makes_one_order_for_ever"),
    ),
    _orders(
        "a page token is of its list and filter",
        old='list_name="ListOrders", filter=selection,',
        new='list_name="ListOrders", filter={},',
        fails="test_order_list.py::test_a_page_token_is_good_for_its_own_list_only[sqlite]",
    ),
    _shipments(
        "an order whose money is all on its way back is not shipped",
        old="        if is_full_refund_open(order, of_sale):\n            raise FullRefundOpen\n",
        new="",
        fails=_in_refunds("test_an_order_whose_money_is_all_on_its_way_back_is_not_shipped"),
    ),
    _shipments(
        "another parcel is no repetition",
        old=" and (order.carrier, order.tracking_number) == parcel:",
        new=":",
        fails=_in_shipping(
            "test_the_same_parcel_again_is_no_second_step_and_another_one_is_refused"
        ),
    ),
    _order(
        "an address is fixed once the order does not wait for money",
        old="        if self.state is not OrderState.PENDING_PAYMENT:\n            raise "
        'OrderStateInvalid(f"the address',
        new='        if False:\n            raise OrderStateInvalid(f"the address',
        fails=_in_shipping(
            "test_an_address_is_fixed_once_the_order_does_not_wait_for_money",
            on="sqlite-CANCELLING",
        ),
    ),
    _order(
        "an order that cost something is never cancelled as a free one",
        old="        if not self.is_free:\n",
        new="        if False:\n",
        fails="test_order_domain.py::test_an_order_that_cost_something_is_not_cancelled_as_a_free_one",
    ),
    _order_line(
        "the price that a buyer saw is the price that he pays",
        old="        product.require_price(item.unit_price, "
        'field=f"items[{position}].unit_price")\n',
        new="",
        fails="test_order_domain.py::test_another_price_than_the_client_saw_is_refused_with_the_price_now",
    ),
    _order(
        "a cancel reason is gone once the order is paid",
        old='captured=captured or self.captured, paid_at=at, cancel_reason="")',
        new="captured=captured or self.captured, paid_at=at)",
        fails=_in_cancel(
            "test_an_order_that_turns_out_to_be_paid_is_paid_and_the_cancel_is_refused"
        ),
    ),
]

_UNITS = [
    _stock(
        "more than there is is not reserved",
        old="_RESERVE = ( update(STOCK) .where(_THIS_STOCK, STOCK.c.available >= _UNITS)",
        new="_RESERVE = ( update(STOCK) .where(_THIS_STOCK)",
        fails=_in_create(
            "test_a_second_product_that_is_gone_when_its_units_are_taken_gives_back_the_first",
            on="sqlite-10.00",
        ),
    ),
    _stock(
        "units that came back between two statements are taken",
        old='    if available >= this["units"]:\n        raise StaleRow\n',
        new="",
        fails=_in_stock("test_units_that_come_back_while_they_are_refused_are_taken", on="mariadb"),
    ),
    _stock(
        "a release finds every reservation",
        old="    if released.rowcount != len(order.catalog_lines):\n        raise StaleRow\n"
        "    for line in order.catalog_lines:\n        expect_one(await tx.execute(_FREE_RESERVED,",
        new="    for line in order.catalog_lines:\n        expect_one(await "
        "tx.execute(_FREE_RESERVED,",
        fails=_in_cancel("test_units_that_are_not_reserved_are_not_freed"),
    ),
    _stock(
        "a commit finds every reservation",
        old="    if committed.rowcount != len(order.catalog_lines):\n        raise StaleRow\n",
        new="",
        fails=_in_payments("test_units_that_are_not_reserved_cannot_be_sold"),
    ),
    _stock(
        "a free order gives back what was sold to it",
        old="    if released.rowcount != len(order.catalog_lines):\n        raise StaleRow\n"
        "    for line in order.catalog_lines:\n        expect_one(await tx.execute(_RETURN_SOLD,",
        new="    for line in order.catalog_lines:\n        expect_one(await tx.execute(_RETURN_SOLD,",
        fails=_in_free("test_units_that_were_not_sold_to_a_free_order_do_not_come_back"),
    ),
    _stock(
        "units of a sale come back from what the sale was given",
        old="_RETURN_SOLD if sources[line.sku_id] is StockSource.CATALOG else _RETURN_ALLOCATED",
        new="_RETURN_SOLD",
        fails=_in_stock(
            "test_an_order_of_a_sale_has_the_sales_price_and_takes_nothing_from_the_shelf"
        ),
    ),
    _stock(
        "a revived order takes its units under a new generation",
        old="generation=last.scalar_one() + 1",
        new="generation=last.scalar_one() + 0",
        fails=_in_cancel("test_late_money_revives_a_cancelled_order_while_its_units_are_there"),
    ),
    _catalog_stock(
        "a key of AdjustStock is its caller's",
        old='caller=caller.key, method="AdjustStock"',
        new='caller="", method="AdjustStock"',
        fails=_keyed("AdjustStock"),
    ),
    _catalog(
        "a key of CreateProduct is its caller's",
        old='caller=caller.key, method="CreateProduct"',
        new='caller="", method="CreateProduct"',
        fails=_keyed("CreateProduct"),
    ),
    _catalog_stock(
        "an adjustment with a key happens once",
        old="        if record is not None and record.answer is not None:\n            return "
        "_movement_from_answer(record.answer), True\n",
        new="",
        fails=_in_stock("test_an_adjustment_with_a_key_happens_once"),
    ),
    _catalog_stock(
        "more than is there is not taken away",
        old="        if left < 0:\n",
        new="        if False:\n",
        fails=_in_stock("test_more_than_is_there_is_not_taken_away"),
    ),
    _catalog(
        "what is not on sale is hidden from buyers",
        old="        if not (product.on_sale or with_hidden):\n",
        new="        if False:\n",
        fails="test_order_rpc.py::test_figures_and_what_is_not_on_sale_are_for_the_shop_alone",
    ),
    _catalog_stock(
        "another shop's shelf is not adjusted",
        old='sku_id=command.sku_id, visible_to=caller, changes={"updated_at": now})',
        new='sku_id=command.sku_id, visible_to=_ANYBODY, changes={"updated_at": now})',
        behind=Edit(
            "order_rpc/usecases/catalog_stock.py",
            "class CatalogStock:\n",
            "from mesh.call import Role\n_ANYBODY = Caller(role=Role.ADMIN, "
            'subject="")\n\n\nclass CatalogStock:\n',
        ),
        fails=_in_stock("test_another_shops_shelf_is_not_touched"),
    ),
    _allocations(
        "an order of a sale may be paid for as long as any other",
        old="expires_at=now + self._payment_window)",
        new="expires_at=now + self._payment_window / 10)",
        fails=_in_stock(
            "test_an_order_of_a_sale_has_the_sales_price_and_takes_nothing_from_the_shelf"
        ),
    ),
    _allocations(
        "a step of an allocation happens once",
        old="        if not is_new:\n            return held.allocated\n",
        new="",
        fails=_in_stock("test_units_leave_the_shelf_for_a_sale_and_come_back_once_each"),
    ),
    _allocations(
        "a sale gives back no more than it has",
        old="        if is_new and left < command.quantity:\n",
        new="        if False:\n",
        fails=_in_stock("test_a_sale_takes_and_gives_back_no_more_than_there_is"),
    ),
    _allocations(
        "a sale takes no more than is there",
        old="        if stock.available < command.quantity:\n",
        new="        if False:\n",
        fails=_in_stock("test_a_sale_takes_and_gives_back_no_more_than_there_is"),
    ),
    _allocations(
        "an activity is of one product",
        old="if held is None or held.sku_id != command.sku_id:",
        new="if held is None:",
        fails=_in_stock("test_an_activity_is_of_one_product"),
    ),
    _allocations(
        "an id is good for one step",
        old="if earlier is not None and earlier != step:",
        new="if False:",
        fails=_in_stock("test_an_id_is_good_for_one_step", on="sqlite-other0"),
    ),
    _allocations(
        "an order of a sale that is there belongs to its buyer",
        old="                elif owner != each.user_id:\n",
        new="                elif False:\n",
        fails=_in_stock(
            "test_an_order_of_a_sale_that_can_never_be_written_does_not_keep_the_others_from_it"
        ),
    ),
]

_COUNTED = [
    _figures(
        "money of a bounce is taken off with its sign",
        old="amount_minor=amount.minor * count)",
        new="amount_minor=amount.minor)",
        fails=_in_statistics("test_the_daily_summary_equals_a_recount_after_random_operations"),
    ),
    _figures(
        "a conversion counts on the day of the order",
        old="entry(order, Figure.CONVERTED, at=order.created_at, count=count)",
        new="entry(order, Figure.CONVERTED, at=at, count=count)",
        fails=_in_statistics("test_the_daily_summary_equals_a_recount_after_random_operations"),
    ),
    _statistics(
        "figures are of one shop",
        old="table.c.merchant_id == merchant_id, table.c.quarter >= begin",
        new="table.c.quarter >= begin",
        fails=_in_statistics("test_a_period_shows_its_days_of_one_shop_and_one_currency"),
    ),
    _statistics(
        "a day ends before the next one begins",
        old="table.c.quarter < end]",
        new="table.c.quarter <= end]",
        fails=_in_statistics(
            "test_a_day_is_a_day_of_its_time_zone",
            on="sqlite-2026-11-20T16:00:00-Asia/Shanghai-2026-11-21",
        ),
    ),
    _statistics(
        "what was folded is not counted twice",
        old="    await tx.execute(delete(STATISTIC_ENTRY).where(STATISTIC_ENTRY.c.id.in_(ids)))\n",
        new="    pass\n",
        fails=_in_statistics("test_folding_changes_no_figure"),
    ),
]

_EXTERNAL = [
    _external_messages(
        "a buyer says neither prices nor customers",
        old="    fields = _merchant_fields(request)\n    if fields:",
        new="    fields = _merchant_fields(request)\n    if False:",
        fails=_in_external_rpc(
            "test_a_buyer_says_neither_prices_nor_customers", on="sqlite-amount_minor"
        ),
    ),
    _external_order(
        "the sum of a merchant is ours",
        old="    if sent is not None and sent != total - discount:",
        new="    if False:",
        fails=_in_external("test_a_sum_that_is_not_ours_is_refused"),
    ),
    _external_order(
        "no more is taken off than the order costs",
        old="    if discount > total:",
        new="    if False:",
        fails=_in_external("test_more_cannot_be_taken_off_than_the_order_costs"),
    ),
    _external_order(
        "a deadline is at most a week away",
        old="    if not now < expires_at <= now + LIFE_MAX:",
        new="    if not now < expires_at:",
        fails=_in_external(
            "test_a_deadline_is_in_the_future_and_at_most_a_week_away", on="sqlite-7.1"
        ),
    ),
    _external_orders(
        "the same number for another order is refused",
        old="    if fields:\n        raise OrderExistsDifferent",
        new="    if False:\n        raise OrderExistsDifferent",
        fails=_in_external("test_another_currency_is_another_order"),
    ),
    _external_orders(
        "a merchant that is suspended registers no order",
        old="        terms.require_open()\n        await self._write(tx, order, command.operator, now)",
        new="        await self._write(tx, order, command.operator, now)",
        fails=_in_terms(
            "test_no_new_order_is_made_and_none_begins_to_be_paid",
            on="sqlite-SUSPENDED-MerchantSuspended",
        ),
    ),
    _external_rows(
        "a number is its merchant's",
        old='    EXTERNAL_ORDER.c.merchant_id == bindparam("merchant"),\n'
        '    EXTERNAL_ORDER.c.order_no == bindparam("number"),\n',
        new='    EXTERNAL_ORDER.c.order_no == bindparam("number"),\n',
        fails=_in_external("test_two_merchants_may_use_one_number"),
    ),
    _apply_payment(
        "late money of an external order goes back",
        old="            and order.external is None  # its merchant was told that it is over\n",
        new="",
        fails=_in_external(
            "test_late_money_of_an_external_order_goes_back_whatever_the_shop_does_else"
        ),
    ),
    _apply_refunds(
        "units that we do not hold do not come back",
        old="line.stock_source is not StockSource.MERCHANT",
        new="True",
        fails=_in_external("test_a_refund_of_units_that_we_do_not_hold_brings_none_back"),
    ),
    _messages(
        "a buyer does not see what a merchant notes",
        old="        if caller.role is not Role.USER:\n            message.customer_email",
        new="        if True:\n            message.customer_email",
        fails=_in_external_rpc(
            "test_the_buyer_of_an_external_order_does_not_see_what_its_merchant_notes"
        ),
    ),
    _orders(
        "a suspended merchant takes no order of a buyer",
        old="        request.terms.require_open()\n",
        new="",
        fails=_in_terms(
            "test_no_new_order_is_made_and_none_begins_to_be_paid",
            on="sqlite-SUSPENDED-MerchantSuspended",
        ),
    ),
]

MUTANTS = [*_EXTERNAL, *_BAD_ROWS, *_CANCEL, *_MONEY, *_REFUNDS, *_ORDERS, *_UNITS, *_COUNTED]
