"""What keeps money exact and private in payment_rpc, removed piece by piece: each mutant is a
change of its code (one of them of what order_rpc makes of its news), and the test that must fail
with it. The name of a mutant is the sentence that it breaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.mutants.runner import Edit, Mutant


def _edit(path: str, old: str, new: str) -> Edit:
    """A change of a file below payment_rpc."""
    return Edit(f"payment_rpc/{path}", old, new)


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (_edit(path, old, new),))


def _test(module: str, name: str, *, on: str = "sqlite") -> str:
    """A test by its module; `on` is its id in brackets, "" for a test without one or for all of
    them.
    """
    return f"{module}.py::{name}" + (f"[{on}]" if on else "")


_of = Callable[..., Mutant]
_order_answers: _of = partial(_mutant, "usecases/order_answers.py")
_refunds: _of = partial(_mutant, "usecases/refunds.py")
_refund_start: _of = partial(_mutant, "usecases/refund_start.py")
_payment_start: _of = partial(_mutant, "usecases/payment_start.py")
_cancel: _of = partial(_mutant, "usecases/cancel.py")
_polling: _of = partial(_mutant, "usecases/polling.py")
_callbacks: _of = partial(_mutant, "usecases/callbacks.py")
_statement_imports: _of = partial(_mutant, "usecases/statement_imports.py")
_conflicts: _of = partial(_mutant, "usecases/conflicts.py")
_channel_results: _of = partial(_mutant, "usecases/channel_results.py")
_decided: _of = partial(_mutant, "domain/facts.py")
_refund: _of = partial(_mutant, "domain/refund.py")
_refund_facts: _of = partial(_mutant, "domain/refund_facts.py")
_ledger: _of = partial(_mutant, "domain/ledger.py")
_attempt: _of = partial(_mutant, "domain/attempt.py")
_refund_rows: _of = partial(_mutant, "store/refunds.py")
_gates: _of = partial(_mutant, "store/order_gates.py")
_wallets: _of = partial(_mutant, "store/wallets.py")

_bad_rows = partial(_test, "test_bad_rows")
_before_answer = partial(_test, "test_refunds_before_the_answer")
_in_refunds = partial(_test, "test_refunds")
_joining = partial(_test, "test_payment_joining")
_late = partial(_test, "test_payment_late_money")
_in_conflicts = partial(_test, "test_payment_conflicts")
_reads = partial(_test, "test_refund_reads")
_news = partial(_test, "test_refund_facts", on="")
_states = partial(_test, "test_refund_states", on="")
_boundaries = partial(_test, "test_reconciliation_boundaries", on="")
_verdicts = partial(
    _test, "test_closing_verdict", "test_the_strongest_payment_of_an_order_decides", on=""
)

_BAD_ROWS = [  # one stops no other
    _payment_start(
        "a top-up that a wallet cannot hold is refused",
        old="            await self._require_room(tx, payment)",
        new="            pass",
        fails=_test(
            "test_large_amounts",
            "test_a_top_up_that_a_wallet_cannot_hold_is_refused_before_the_card_is_asked",
        ),
    ),
    _mutant(
        "usecases/closing.py",
        "a payment that cannot expire stops no other",
        old="len(await batches.run())",
        new="len(await self._db.run(batches._batch, 100, []))",
        fails=_bad_rows(
            "test_a_payment_that_cannot_expire_stops_no_other", on="sqlite-outcome = 'NONSENSE'"
        ),
    ),
    _polling(
        "an attempt that cannot be asked for keeps no other from being asked for",
        old="await each(await self._batches.run(), self._poll,",
        new="await each(await self._db.run(self._batches._batch, 100, []), self._poll,",
        fails=_bad_rows(
            "test_an_attempt_that_cannot_be_asked_for_keeps_no_other_from_being_asked_for",
            on="sqlite-payment_id = 'PAY0'",
        ),
    ),
    _refunds(
        "a refund that cannot be read keeps no other from going on",
        old="await each(await self._batches.run(), self._advance,",
        new="await each(await self._db.run(self._batches._batch, 100, []), self._advance,",
        fails=_bad_rows("test_a_refund_that_cannot_be_read_keeps_no_other_from_going_on"),
    ),
    _mutant(
        "usecases/callback_questions.py",
        "a callback that cannot be read is left out",
        old="self._quarantine.add(self._quarantine.key_of(row), error)",
        new="raise",
        fails=_bad_rows("test_a_callback_that_cannot_be_read_keeps_no_other_from_being_finished"),
    ),
    _statement_imports(
        "a statement that cannot be read keeps no other from being compared",
        old="self._quarantine.add((import_id,), error)",
        new="raise",
        fails=_bad_rows("test_a_statement_that_cannot_be_read_keeps_no_other_from_being_compared"),
    ),
]

_OWNERS = [  # whose money it is
    _refund_rows(
        "a refund is shown to its own shop",
        old="scope.merchant_id not in (None, refund.merchant_id) or ",
        new="",
        fails=_reads(
            "test_a_refund_of_somebody_else_is_not_there", on="sqlite-merchant shop2/clerk"
        ),
    ),
    _refund_rows(
        "a refund is shown to its own buyer",
        old=" or scope.user_id not in (None, refund.user_id):",
        new=":",
        fails=_reads("test_a_refund_of_somebody_else_is_not_there", on="sqlite-user mall/u2"),
    ),
    _refund_rows(
        "refunds are listed for their own shop",
        old="condition = and_(condition, REFUND.c.merchant_id == scope.merchant_id)",
        new="pass",
        fails=_reads(
            "test_a_refund_of_somebody_else_is_not_there", on="sqlite-merchant shop2/clerk"
        ),
    ),
    _refund_rows(
        "refunds are listed for their own buyer",
        old="condition = and_(condition, REFUND.c.user_id == scope.user_id)",
        new="pass",
        fails=_reads("test_a_refund_of_somebody_else_is_not_there", on="sqlite-user mall/u2"),
    ),
    _refund_rows(
        "refunds of an order are those of its shop",
        old="of_order = and_(REFUND.c.merchant_id == merchant_id, ",
        new="of_order = and_(",
        fails=_reads("test_refunds_of_an_order_are_those_of_its_shop"),
    ),
    _wallets(
        "entries of a wallet are of one currency",
        old=",\n                                       WALLET_ENTRY.c.currency == currency)",
        new=")",
        fails=_reads("test_wallet_entries_are_those_of_one_buyer_in_one_currency"),
    ),
    _wallets(
        "entries of a wallet are of one buyer",
        old=" WALLET_ENTRY.c.user_id == user_id,",
        new="",
        fails=_reads("test_wallet_entries_are_those_of_one_buyer_in_one_currency"),
    ),
    _wallets(
        "entries of a wallet are of one shop",
        old="WALLET_ENTRY.c.merchant_id == merchant_id, WALLET_ENTRY",
        new="WALLET_ENTRY",
        fails=_reads("test_wallet_entries_are_those_of_one_buyer_in_one_currency"),
    ),
    _refund_start(
        "a shop refunds its own payments only",
        old="if not payments.may_see(payment, caller):",
        new="if False:",
        fails=_in_refunds("test_bad_requests_reserve_nothing", on=""),
    ),
]

_KEYS = [  # what makes a request happen once
    _refund_start(
        "the key of a refund is its caller's",
        old='idempotency_key_of(caller, "CreateRefund"',
        new='idempotency_key_of(Caller(role=caller.role, subject=""), "CreateRefund"',
        fails=_test(
            "test_keyed_methods",
            "test_two_people_with_one_key_never_hear_of_each_other",
            on="CreateRefund",
        ),
    ),
    _mutant(
        "usecases/payment_start.py",
        "the key of a charge is its caller's",
        old="caller=caller.key, method=method",
        new='caller="", method=method',
        fails=_test(
            "test_keyed_methods",
            "test_two_people_with_one_key_never_hear_of_each_other",
            on="Charge",
        ),
    ),
    _refund_start(
        "a request id stands for a refund of one payment",
        old='("payment_id", earlier.payment_id != payment.payment_id)',
        new='("payment_id", False)',
        fails=_in_refunds("test_a_request_id_of_one_payment_is_refused_for_another"),
    ),
    _refund_start(
        "a request id stands for a refund of one amount",
        old="not command.amount.matches(earlier.amount)",
        new="False",
        fails=_in_refunds("test_the_same_request_again_is_the_same_refund", on="sqlite-request_id"),
    ),
    _refund_rows(
        "a request id belongs to its shop",
        old='REFUND.c.merchant_id == bindparam("merchant"), ',
        new="",
        fails=_in_refunds("test_a_request_id_belongs_to_its_shop"),
    ),
    _refund_rows(
        "refunds that nobody asked for count against no limit",
        old=", REFUND.c.automatic_of.is_(None))",
        new=")",
        fails=_in_refunds("test_refunds_that_we_make_ourselves_leave_a_shop_its_own"),
    ),
    _mutant(
        "usecases/cancel.py",
        "held money stays held unless its shop lets it go",
        old="failure=failure, lets_go=lets_go or is_over",
        new="failure=failure, lets_go=True",
        fails="test_held_orders.py::"
        "test_a_buyer_whose_money_is_held_cannot_cancel_even_before_the_order_knows[sqlite]",
    ),
    _mutant(
        "usecases/cancel.py",
        "held money whose time is over is let go with its order",
        old="failure=failure, lets_go=lets_go or is_over",
        new="failure=failure, lets_go=lets_go",
        fails="test_held_orders.py::"
        "test_held_money_whose_time_is_over_is_let_go_when_its_order_is_closed[sqlite]",
    ),
    _mutant(
        "usecases/messages.py",
        "the order hears that a hold has ended",
        old="or payment.state is _HELD or is_end:",
        new="or payment.state is _HELD:",
        fails="test_held_orders.py::test_the_order_is_told_of_a_hold_and_of_its_end[sqlite]",
    ),
    _mutant(
        "usecases/messages.py",
        "the order hears that a hold ends at another time",
        old="payment.state is _HELD and payment.expires_at != before.expires_at",
        new="False",
        fails="test_held_orders.py::test_a_hold_that_the_channel_ends_later_moves_the_order[sqlite]",
    ),
    _mutant(
        "usecases/cancel.py",
        "a call is taken back by the method that it called",
        old="method=method, key=key",
        new='method="CreatePayment", key=key',
        fails=_joining(
            "test_a_call_of_another_method_or_buyer_is_not_taken_back", on="sqlite-Charge-u1"
        ),
    ),
    _mutant(
        "usecases/cancel.py",
        "a call that is taken back is closed",
        old="return ( await self.close_one( payment_id, failure=BUYER_CANCELLED if "
        "caller.role is Role.USER else None ) if payment.state in UNDECIDED else payment )",
        new="return payment",
        fails=_joining(
            "test_a_page_whose_call_is_taken_back_is_closed_at_the_channel", on="sqlite-once"
        ),
    ),
]

_ANSWERS = [  # refunds that exist before the order answers
    _order_answers(
        "the order takes what did not go back",
        old="amount=left), at=now)",
        new="amount=payment.captured), at=now)",
        fails=_before_answer("test_of_late_money_the_order_takes_what_did_not_go_back"),
    ),
    _order_answers(
        "nothing is taken of money that is leaving whole",
        old=" and left.minor > 0:",
        new=":",
        fails=_before_answer(
            "test_an_order_that_takes_money_of_which_all_is_leaving_takes_nothing_and_is_refunded"
        ),
    ),
    _order_answers(
        "money in time that is taken is the merchant's already",
        old="if payment.state is PaymentState.LATE_SUCCESS and left.minor > 0:",
        new="if left.minor > 0:",
        fails=_before_answer(
            "test_money_that_came_in_time_and_went_back_in_part_stays_the_merchants"
        ),
    ),
    _order_answers(
        "refunds of refused money become automatic",
        old="if not refund.automatic:",
        new="if False:",
        fails=_before_answer(
            "test_a_refund_of_refused_money_that_fails_afterwards_calls_a_person",
            on="sqlite-late_money",
        ),
    ),
    _refund_start(
        "a refund that is asked for of refused money is automatic",
        old="automatic=payment.disposition is not None and payment.disposition.is_refusal, at=now,",
        new="at=now,",
        fails=_before_answer(
            "test_whoever_refunds_refused_money_again_after_our_refund_failed_is_watched_too"
        ),
    ),
    _order_answers(
        "refused money that went back whole is over",
        old="settled(refused), read_version",
        new="refused, read_version",
        fails=_before_answer(
            "test_a_success_that_went_back_whole_before_it_was_refused_is_over_at_once"
        ),
    ),
    _order_answers(
        "a holder that gives way and went back whole is over",
        old="            given_up = settled(given_up)\n",
        new="",
        fails=_before_answer(
            "test_a_success_that_went_back_whole_before_it_gives_way_is_over_at_once"
        ),
    ),
    _order_answers(
        "a refusal books what is left",
        old="amount=left),\n            at=self._clock.now())",
        new="amount=payment.captured),\n            at=self._clock.now())",
        fails=_before_answer(
            "test_what_is_left_of_refused_money_goes_back_by_itself", on="sqlite-untold_money"
        ),
    ),
    _order_answers(
        "a refusal of which nothing is left books nothing",
        old="        if left.minor == 0:\n            return refused\n",
        new="",
        fails=_before_answer(
            "test_a_success_that_went_back_whole_before_it_was_refused_is_over_at_once"
        ),
    ),
    _order_answers(
        "late money that is refused is nobody's already",
        old="if payment.state is PaymentState.SUCCESS:",
        new="if True:",
        fails=_before_answer(
            "test_what_is_left_of_refused_money_goes_back_by_itself", on="sqlite-late_money"
        ),
    ),
    _order_answers(
        "money that is leaving whole needs no refund of ours",
        old="if refundable(refused).minor == 0:",
        new="if False:",
        fails=_before_answer(
            "test_refused_money_of_which_all_is_leaving_needs_no_refund_of_ours",
            on="sqlite-late_money",
        ),
    ),
    _order_answers(
        "what a holder that gives way has left is nobody's",
        old="given_up = await self._book_refusal(tx, holder, given_up)",
        new="pass",
        fails=_before_answer(
            "test_what_is_left_of_a_success_that_gives_way_is_nobodys_and_goes_back"
        ),
    ),
    _order_answers(
        "a holder that gives way asks its order again",
        old="            await outbox.put(tx, order_message(given_up, ids=self._ids, at=now))\n",
        new="",
        fails=_before_answer(
            "test_what_is_left_of_a_success_that_gives_way_is_nobodys_and_goes_back"
        ),
    ),
    _order_answers(
        "an answer that comes late settles nothing",
        old="if not payment.awaits_order:",
        new="if False:",
        fails=_late("test_news_of_a_payment_that_is_decided_changes_nothing_more"),
    ),
    _order_answers(
        "what goes back by itself is nobody's money",
        old="held_by=bookings.unapplied_receipts(payment.channel)",
        new="held_by=bookings.merchant_payable(payment.merchant_id)",
        fails=_before_answer(
            "test_what_is_left_of_refused_money_goes_back_by_itself", on="sqlite-late_money"
        ),
    ),
    _refund_start(
        "a refund takes from whoever holds the money",
        old="refund, held_by=bookings.holder(payment, stands_alone=False, channel=payment.channel)",
        new="refund, held_by=bookings.merchant_payable(payment.merchant_id)",
        fails=_before_answer("test_of_late_money_the_order_takes_what_did_not_go_back"),
    ),
    Mutant(
        "a refund that failed counts in no figure of the order",
        _test(
            "test_order_statistics",
            "test_the_daily_summary_equals_a_recount_after_random_operations",
        ),
        (
            Edit(
                "order_rpc/usecases/apply_refunds.py",
                "if not after.of_sale or after.state not in MONEY_LEFT:",
                "if False:",
            ),
        ),
    ),
]

_REFUND_NEWS = [  # what news of a refund makes of it
    _refund(
        "disputed money is not refunded",
        old=" - payment.disputed",
        new="",
        fails=_states("test_what_went_back_is_reserved_or_is_disputed_cannot_be_refunded_again"),
    ),
    _refund(
        "reserved money is not refunded again",
        old=" - payment.refund_reserved - payment.disputed",
        new=" - payment.disputed",
        fails=_states("test_what_went_back_is_reserved_or_is_disputed_cannot_be_refunded_again"),
    ),
    _refund(
        "a refund with a result is not sent",
        old="if self.state not in OPEN:",
        new="if False:",
        fails=_states("test_only_a_refund_without_a_result_is_sent"),
    ),
    _refund(
        "a refund takes the steps of its table only",
        old="if not REFUND_STATES.allows(self.state, target):",
        new="if False:",
        fails=_states("test_a_refund_takes_the_transitions_of_the_protocol_and_no_other"),
    ),
    _refund(
        "late money is over with its last cent",
        old="payment.refunded >= payment.captured",
        new="payment.refunded > payment.captured",
        fails=_news("test_late_money_is_over_with_its_last_cent"),
    ),
    _refund_facts(
        "exactly what is left still fits",
        old="refundable(payment) >= refund.amount",
        new="refundable(payment) > refund.amount",
        fails=_news("test_what_left_after_all_is_a_loss_only_above_what_was_left"),
    ),
    _refund_facts(
        "money left when the channel says",
        old="refunded_at=fact.occurred_at or at",
        new="refunded_at=at",
        fails=_news("test_money_left_when_the_channel_says_not_when_we_heard_of_it"),
    ),
    _refund_facts(
        "an automatic refund that failed is marked",
        old="needs_attention=refund.automatic)",
        new="needs_attention=False)",
        fails=_news(
            "test_what_failed_is_its_holders_again_and_calls_a_person_when_nobody_asked_for_it"
        ),
    ),
    _refund_facts(
        "a refund that somebody asked for and that failed calls nobody",
        old='review_reason="REFUND_FAILED" if refund.automatic else "")',
        new='review_reason="REFUND_FAILED")',
        fails=_news(
            "test_what_failed_is_its_holders_again_and_calls_a_person_when_nobody_asked_for_it"
        ),
    ),
    _refund_facts(
        "a bounce of what was held for failed says that it left",
        old="was_sent or refund.state is RefundState.FAILED",
        new="was_sent",
        fails=_news("test_a_bounce_tells_of_the_success_before_it_where_nobody_heard_of_that"),
    ),
    _refund_facts(
        "a kept capture that leaves after all is a loss",
        old="fits = not is_captured_attempt if",
        new="fits = True if",
        fails=_news("test_a_capture_that_is_the_payments_by_now_and_leaves_after_all_is_a_loss"),
    ),
    _refund_facts(
        "what was a loss and bounced makes the loss good",
        old="held_by = ( ledger.LOSS if refund.above_cap else ledger.holder(",
        new="held_by = ( ledger.holder(",
        fails=_news("test_what_bounced_is_here_again_and_a_person_looks"),
    ),
    _refund_facts(
        "what no column covered leaves no column",
        old="counted = not refund.stands_alone and not refund.above_cap",
        new="counted = not refund.stands_alone",
        fails=_news("test_what_bounced_is_here_again_and_a_person_looks"),
    ),
    _refund_facts(
        "late money whose refund left is over",
        old="settled(moved), refund=done, booking=booking, fee_booking",
        new="moved, refund=done, booking=booking, fee_booking",
        fails=_news("test_late_money_is_over_with_its_last_cent"),
    ),
    _refund_facts(
        "late money whose refund left after all is over",
        old="settled(moved), refund=done, booking=booking)",
        new="moved, refund=done, booking=booking)",
        fails=_news("test_late_money_is_over_with_its_last_cent"),
    ),
    _refund_facts(
        "pending is no news of what is pending or not sent",
        old="if refund.state not in (RefundState.SUBMITTED, RefundState.UNKNOWN):",
        new="if refund.state not in OPEN:",
        fails=_news("test_each_news_does_what_the_table_says_and_repeats_without_effect"),
    ),
    _refund_facts(
        "a bounce of what never left is no news",
        old="at=at) if refund.state is RefundState.SUCCESS else same",
        new="at=at)",
        fails=_news("test_each_news_does_what_the_table_says_and_repeats_without_effect"),
    ),
    _ledger(
        "a refund that stands alone gives nobody's money back",
        old="stands_alone or payment.state is not",
        new="payment.state is not",
        fails=_news("test_a_refund_that_stands_alone_touches_no_column_of_its_payment"),
    ),
    _refunds(
        "a refund whose lease runs is not sent again",
        old=" and refund.lease_until <= self._clock.now():",
        new=":",
        fails=_in_refunds(
            "test_a_refund_that_the_channel_does_not_know_yet_is_not_sent_again_while_its_lease_runs",
            on="sqlite-1",
        ),
    ),
    _refunds(
        "a refund that was sent is on its way although the database is away",
        old='            log.exception("refund_fact_written_later", refund_id=refund.refund_id)\n '
        "           "
        "return refund",
        new="            raise",
        fails=_test(
            "test_database_gone_midway",
            "test_a_refund_whose_database_dies_after_it_was_sent_is_on_its_way",
            on="",
        ),
    ),
]

_CAPTURES = [  # what news of a capture makes of a payment
    _channel_results(
        "an attempt that is not ours is no duplicate of ours",
        old="if not fact.duplicate_of or fact.status is not ChannelStatus.CAPTURED:",
        new="if fact.status is not ChannelStatus.CAPTURED:",
        fails=_late("test_news_of_an_attempt_that_is_not_ours_is_no_duplicate_of_ours", on=""),
    ),
    _channel_results(
        "a duplicate without money is nothing",
        old="if not fact.duplicate_of or fact.status is not ChannelStatus.CAPTURED:",
        new="if not fact.duplicate_of:",
        fails=_late("test_news_of_an_attempt_that_is_not_ours_is_no_duplicate_of_ours", on=""),
    ),
    _mutant(
        "usecases/refund_results.py",
        "a second capture goes back in its own amount",
        old="attempt, attempt.captured, reason=reason,",
        new="attempt, payment.amount, reason=reason,",
        fails=_late("test_a_second_capture_goes_back_in_its_own_amount", on=""),
    ),
    _decided(
        "money of a conflict is a second capture",
        old=" or payment.state in (PaymentState.CONFLICTED, PaymentState.LATE_REFUNDED)",
        new="",
        fails=_test(
            "test_payment_facts",
            "test_a_fact_does_what_the_table_says_and_nothing_else",
            on="",
        ),
    ),
    _decided(
        "another currency is another amount",
        old="if fact.amount != (attempt.capture_amount or payment.amount):",
        new="if fact.amount.minor != (attempt.capture_amount or payment.amount).minor:",
        fails=_test(
            "test_payment_facts", "test_money_that_is_not_ours_is_parked_as_what_it_is", on=""
        ),
    ),
    _decided(
        "a payment was paid when the channel says",
        old="paid_at=fact.occurred_at or at",
        new="paid_at=at",
        fails=_test(
            "test_payment_facts",
            "test_late_money_is_parked_and_keeps_the_moment_of_the_channel",
            on="",
        ),
    ),
    _conflicts(
        "only a conflict is resolved",
        old="if payment.state is not PaymentState.CONFLICTED:",
        new="if False:",
        fails=_in_conflicts("test_only_a_conflict_is_resolved", on=""),
    ),
    _conflicts(
        "a capture that goes back is not kept",
        old=" and attempt.attempt_id not in refunded",
        new="",
        fails=_in_conflicts(
            "test_a_conflict_is_not_kept_by_a_capture_of_another_amount_nor_by_one_that_goes_back"
        ),
    ),
    _conflicts(
        "only exactly what was owed is kept",
        old="attempt.captured == payment.amount and ",
        new="",
        fails=_in_conflicts(
            "test_a_conflict_is_not_kept_by_a_capture_of_another_amount_nor_by_one_that_goes_back"
        ),
    ),
    _gates(
        "late money that was refused keeps no payment away",
        old="and_(PAYMENT.c.state == PaymentState.LATE_SUCCESS, PAYMENT.c.disposition.is_(None))",
        new="PAYMENT.c.state == PaymentState.LATE_SUCCESS",
        fails=_joining("test_late_money_that_the_order_refused_keeps_no_other_payment_away"),
    ),
    _gates(
        "late money that waits for its order keeps other payments away",
        old="or_(PAYMENT.c.live_slot == 1, and_(PAYMENT.c.state == PaymentState.LATE_SUCCESS, "
        "PAYMENT.c.disposition.is_(None)))",
        new="PAYMENT.c.live_slot == 1",
        fails=_joining("test_late_money_that_the_order_refused_keeps_no_other_payment_away"),
    ),
    _payment_start(
        "a page of another channel is not the answer",
        old=" and live.channel == new.channel",
        new="",
        fails=_joining("test_a_page_of_another_channel_is_closed_and_not_the_answer"),
    ),
    _payment_start(
        "a page that is being closed is not the answer",
        old=" and live.state is PaymentState.PAYING)",
        new=")",
        fails=_joining("test_a_page_that_is_being_closed_is_nobodys_answer"),
    ),
    _payment_start(
        "a key is bound to a page as it was read",
        old="live.payment_id)).version != live.version:",
        new="live.payment_id)).version < 0:",
        fails=_joining(
            "test_a_page_that_is_paid_while_a_second_key_joins_it_is_not_bound_to_that_key", on=""
        ),
    ),
    _mutant(
        "usecases/callback_log.py",
        "a callback whose database is away is not logged as failed",
        old="if isinstance(problem, Unavailable | OutcomeUnknown):",
        new="if False:",
        fails=_test(
            "test_database_gone_midway",
            "test_a_genuine_callback_whose_database_dies_is_not_logged_as_failed_and_comes_again",
            on="",
        ),
    ),
    _cancel(
        "money that waits for its order keeps the order from being closed",
        old=" or payment.awaits_order",
        new="",
        fails=_verdicts(),
    ),
    _cancel(
        "a conflict has its own verdict",
        old="CloseResult.CONFLICTED if PaymentState.CONFLICTED in states else CloseResult.CLOSED",
        new="CloseResult.CLOSED",
        fails=_verdicts(),
    ),
    _cancel(
        "a payment that is under way keeps the order closing",
        old="if states & UNDECIDED:",
        new="if False:",
        fails=_verdicts(),
    ),
    _cancel(
        "what has moved money is not cancelled",
        old="if payment.state not in (PaymentState.CLOSING, PaymentState.CLOSED, "
        "PaymentState.FAILED):",
        new="if False:",
        fails=_test(
            "test_closing",
            "test_a_paid_payment_cannot_be_cancelled_and_somebody_elses_is_not_there",
        ),
    ),
    _attempt(
        "an attempt keeps its place in the schedule",
        old="next_query_at=min(self.next_query_at or due, due)",
        new="next_query_at=due",
        fails=_boundaries("test_an_open_attempt_keeps_its_place_in_the_schedule_of_questions"),
    ),
]

_in_model = _test("test_model_and_product", "test_the_product_leaves_what_the_model_leaves", on="")
_ANSWERED = "order_rpc/usecases/outbox_to_payment.py"
_MODEL = [  # the protocol model and the product say the same
    _order_answers(
        "the model and the product call the same refunds automatic",
        old="if not refund.automatic:",
        new="if False:",
        fails=_in_model,
    ),
    _cancel(
        "the model and the product close no order that late money waits for",
        old=" or payment.awaits_order",
        new="",
        fails=_in_model,
    ),
    _gates(
        "the model and the product start nothing beside late money that waits",
        old="or_(PAYMENT.c.live_slot == 1, "
        "and_(PAYMENT.c.state == PaymentState.LATE_SUCCESS, PAYMENT.c.disposition.is_(None)))",
        new="PAYMENT.c.live_slot == 1",
        fails=_in_model,
    ),
    _gates(
        "the model and the product start beside late money that was refused",
        old="and_(PAYMENT.c.state == PaymentState.LATE_SUCCESS, PAYMENT.c.disposition.is_(None))",
        new="PAYMENT.c.state == PaymentState.LATE_SUCCESS",
        fails=_in_model,
    ),
    Mutant(
        "the model and the product cancel no order while its payment is being closed",
        _in_model,
        (
            Edit(
                _ANSWERED,
                "        if answer.result is CloseResult.CLOSING:\n",
                "        if False:\n",
            ),
            Edit(
                _ANSWERED,
                "case CloseResult.CLOSED | CloseResult.CONFLICTED:",
                "case CloseResult.CLOSED | CloseResult.CONFLICTED | CloseResult.CLOSING:",
            ),
            Edit(
                _ANSWERED,
                "            case CloseResult.CLOSING:\n                raise StillClosing\n",
                "",
            ),
        ),
    ),
]

_terms: _of = partial(_mutant, "domain/merchant_terms.py")
_payments: _of = partial(_mutant, "usecases/payments.py")
_queries: _of = partial(_mutant, "usecases/queries.py")
_checkouts: _of = partial(_mutant, "usecases/checkouts.py")
_external_messages: _of = partial(_mutant, "servicer/external_orders.py")
_external = partial(_test, "test_payment_external")
_external_rpc = partial(_test, "test_payment_external_rpc", on="")
_of_terms = partial(_test, "test_payment_merchant_terms")

_EXTERNAL = [
    _payments(
        "a suspended merchant takes no money",
        old="        terms.require_open(channel=new.channel, mode=mode)\n",
        new="",
        fails=_of_terms("test_no_way_to_pay_begins", on="sqlite-SUSPENDED-MerchantSuspended"),
    ),
    _terms(
        "a test merchant has the sandbox only",
        old="(self.is_test and not moves_test_money)",
        new="False",
        fails=_of_terms(
            "test_a_channel_is_one_of_the_merchants_and_a_test_merchant_has_the_sandbox_only",
            on="",
        ),
    ),
    _checkouts(
        "a checkout token is of an external order",
        old=" or payment.user_id != buyer_of(payment.order_id)",
        new="",
        fails=_external(
            "test_there_is_no_checkout_token_without_a_key_or_for_an_order_of_the_catalogue"
        ),
    ),
    _queries(
        "a buyer names an order",
        old="        if not query.order and not searches:",
        new="        if False:",
        fails=_external("test_a_buyer_and_a_service_name_an_order", on="sqlite-user"),
    ),
    _queries(
        "only a merchant looks for customers",
        old="        if query.customer_email and not searches:",
        new="        if False:",
        fails=_external("test_a_buyer_and_a_service_name_an_order", on="sqlite-user"),
    ),
    _external_messages(
        "a buyer says nothing of a merchant's",
        old='    fields = _sent(request, ("amount_minor", *_OF_THE_ORDER))\n    if fields:',
        new='    fields = _sent(request, ("amount_minor", *_OF_THE_ORDER))\n    if False:',
        fails=_external_rpc("test_a_buyer_says_nothing_of_a_merchants"),
    ),
]

MUTANTS = [*_EXTERNAL, *_BAD_ROWS, *_OWNERS, *_KEYS, *_ANSWERS, *_REFUND_NEWS, *_CAPTURES, *_MODEL]
