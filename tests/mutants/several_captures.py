"""What keeps held money from being taken twice, more than was held, or lost, removed piece by piece."""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant

_ONE, _SEVERAL, _PARTS = "test_captures", "test_several_captures", "test_hold_parts"


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(f"payment_rpc/{path}.py", old, new),))


def _once(test: str) -> str:
    return f"{_ONE}.py::{test}[sqlite]"


def _several(test: str) -> str:
    return f"{_SEVERAL}.py::{test}[sqlite]"


def _keys(test: str) -> str:
    return f"test_capture_keys.py::{test}[sqlite]"


def _parts(test: str) -> str:
    return f"{_PARTS}.py::{test}"


_captures = partial(_mutant, "usecases/captures")
_steps = partial(_mutant, "usecases/channel_steps")
_polling = partial(_mutant, "usecases/polling")
_hold_parts = partial(_mutant, "domain/hold_parts")

MUTANTS = [
    _mutant(
        "store/own_records",
        "a statement is compared with the fees of all captures of a hold",
        old="fees[key] = fees[key] + fee if key in fees else fee",
        new="fees[key] = fee",
        fails=_several("test_a_statement_is_compared_with_the_fees_of_all_captures_of_a_hold"),
    ),
    _mutant(
        "channels/stripe/statements",
        "a row of one of several captures is of its own amount, not of all that was held",
        old="return money(row.amount - rest if is_whole else row.amount, row.currency)",
        new="return money(row.paid - rest, row.currency)",
        fails="test_stripe_answers.py::"
        "test_each_capture_of_a_hold_is_a_line_with_its_own_amount_and_fee",
    ),
    _mutant(
        "channels/stripe/statements",
        "what was let go of a hold is taken off no part of it",
        old="is_whole = row.amount == row.paid",
        new="is_whole = True",
        fails="test_stripe_answers.py::"
        "test_each_capture_of_a_hold_is_a_line_with_its_own_amount_and_fee",
    ),
    _mutant(
        "channels/stripe/statements",
        "what a part of a hold was in another currency is not guessed",
        old="    if rest:\n",
        new="    if False:\n",
        fails="test_stripe_answers.py::"
        "test_a_part_of_a_hold_in_another_currency_is_told_and_not_guessed",
    ),
    _captures(
        "one capture of a hold is under way at a time",
        old="if attempt.capture_amount is not None and found is None:",
        new="if False:",
        fails=_once("test_a_capture_whose_answer_was_lost_is_asked_for_and_not_sent_again"),
    ),
    _captures(
        "a hold that is over is not captured",
        old="if payment.expires_at <= now:",
        new="if False:",
        fails=_once("test_a_hold_that_is_over_is_not_captured_even_before_the_scan_comes"),
    ),
    _captures(
        "no more is captured than is still held",
        old="if amount > held:",
        new="if amount > payment.amount:",
        fails=_several("test_a_hold_is_taken_in_parts_and_its_order_hears_of_it_once_at_the_end"),
    ),
    _captures(
        "a channel that takes a hold once keeps no rest",
        old="if keeps_rest and not channel.capabilities.multiple_captures:",
        new="if False:",
        fails=_several("test_a_channel_that_takes_a_hold_once_keeps_no_rest"),
    ),
    _captures(
        "a capture that keeps the rest is not the last one",
        old="is_final=not begun.attempt.capture_keeps_rest",
        new="is_final=True",
        fails=_several("test_a_hold_is_taken_in_parts_and_its_order_hears_of_it_once_at_the_end"),
    ),
    _captures(
        "a capture that was sent twice is not forgotten by a refusal",
        old="(present.capture_id, present.capture_sends) != (begun.capture_id, 1)",
        new="present.capture_id != begun.capture_id",
        fails=_several("test_a_refusal_of_a_call_that_outlived_its_lease_proves_nothing"),
    ),
    _captures(
        "a key whose capture took nothing begins anew",
        old="        await idempotency.release(tx, resource_id=begun.payment_id, method=CAPTURE)\n",
        new="",
        fails=_several("test_each_key_has_the_answer_of_its_own_capture"),
    ),
    _mutant(
        "usecases/channel_results",
        "a part has its answer as soon as it is taken",
        old="elif after.captured > before.captured:",
        new="elif False:",
        fails=_several("test_each_key_has_the_answer_of_its_own_capture"),
    ),
    _mutant(
        "usecases/closing",
        "the end of a hold waits for a capture that is under way",
        old="if await is_being_captured(tx, payment):",
        new="if False:",
        fails=_once("test_the_end_of_a_hold_waits_for_a_capture_that_is_under_way"),
    ),
    _mutant(
        "usecases/cancel",
        "money that is being captured is not let go",
        old="is_held and lets_go and not await is_being_captured(tx, payment)",
        new="is_held and lets_go",
        fails=_once("test_a_capture_whose_answer_was_lost_is_asked_for_and_not_sent_again"),
    ),
    _mutant(
        "usecases/cancel",
        "a buyer lets no held money go",
        old="is_held and lets_go and not",
        new="is_held and not",
        fails=_once("test_a_buyer_cannot_take_held_money_back"),
    ),
    _mutant(
        "usecases/cancel",
        "a payment of which a part was captured is not cancelled",
        old="lets_go = not is_buyer and payment.captured.minor == 0",
        new="lets_go = not is_buyer",
        fails=_several("test_the_rest_is_let_go_and_the_parts_stay"),
    ),
    _steps(
        "a capture is repeated by one at a time",
        old="            or present.lease_until > now\n",
        new="",
        fails=_once("test_nobody_else_captures_while_the_lease_of_the_first_call_runs"),
    ),
    _steps(
        "a capture is repeated by who saw it",
        old="            or present.capture_id != seen.capture_id\n",
        new="",
        fails=_several("test_a_capture_is_repeated_by_who_saw_it"),
    ),
    _steps(
        "a capture that is repeated keeps the rest that it kept",
        old="            keeps_rest=present.capture_keeps_rest,\n",
        new="",
        fails=_several(
            "test_a_part_that_did_not_arrive_is_sent_again_under_its_key_and_keeps_the_rest"
        ),
    ),
    _steps(
        "a capture is repeated only as long as its channel knows its key",
        old="if not capabilities.may_repeat(since=began_at, at=now):",
        new="if False:",
        fails=_keys(
            "test_a_capture_whose_key_may_be_forgotten_is_asked_about_and_a_person_looks_at_it"
        ),
    ),
    _steps(
        "the age of a capture is not that of its hold",
        old="present.capture_began_at or present.created_at",
        new="present.created_at",
        fails=_keys("test_a_capture_is_sent_again_as_long_as_its_key_is_known"),
    ),
    _steps(
        "a capture of which nobody knows when it was sent is as old as its attempt",
        old="present.capture_began_at or present.created_at",
        new="present.capture_began_at or now",
        fails=_keys("test_a_capture_that_older_code_sent_is_as_old_as_its_attempt"),
    ),
    _mutant(
        "domain/attempt",
        "the key of a capture that is repeated grows no younger",
        old="at if is_first else self.capture_began_at",
        new="at",
        fails=_keys(
            "test_a_capture_whose_key_may_be_forgotten_is_asked_about_and_a_person_looks_at_it"
        ),
    ),
    _polling(
        "a repeated capture that keeps the rest is not the last one",
        old="is_final=not begun.capture_keeps_rest",
        new="is_final=True",
        fails=_several(
            "test_a_part_that_did_not_arrive_is_sent_again_under_its_key_and_keeps_the_rest"
        ),
    ),
    _polling(
        "a refusal of a repeated capture says nothing of the first call",
        old="return held if took_nothing(fact, begun) else fact",
        new="return fact",
        fails=_once("test_a_refusal_of_a_capture_that_was_sent_before_proves_nothing"),
    ),
    _polling(
        "a capture is not sent again once the channel took more",
        old="        and (fact.taken is None or fact.taken == attempt.taken)\n",
        new="",
        fails=_several("test_a_capture_is_not_sent_again_once_the_channel_took_more"),
    ),
    _mutant(
        "domain/attempt",
        "an attempt takes no more than it holds",
        old="if self.taken + amount > self.amount:",
        new="if False:",
        fails=_parts("test_a_part_makes_room_for_the_next_capture_of_what_is_left_and_no_more"),
    ),
    _mutant(
        "domain/ledger",
        "a further capture has a key of its own in the books",
        old="if not payment.captured.minor:\n        return first",
        new="if True:\n        return first",
        fails=_parts("test_each_capture_of_a_hold_is_booked_under_a_key_of_its_own"),
    ),
    _hold_parts(
        "older totals of a hold are no news",
        old="taken.total > known",
        new="taken.total != known",
        fails=_several("test_old_news_of_a_hold_take_nothing_back_and_count_nothing_again"),
    ),
    _hold_parts(
        "a total that nobody intended counts for nothing",
        old="if taken.total != attempt.intended:",
        new="if False:",
        fails=_several("test_a_capture_is_not_sent_again_once_the_channel_took_more"),
    ),
    _hold_parts(
        "a rest that nobody keeps is let go",
        old="payment.state is PaymentState.AUTHORIZED and not attempt.capture_keeps_rest",
        new="False",
        fails=_parts("test_a_rest_that_nobody_wanted_to_keep_is_let_go"),
    ),
    _hold_parts(
        "parts of a payment without a slot are late money",
        old="if ended.state is PaymentState.LATE_SUCCESS:",
        new="if False:",
        fails=_parts("test_parts_of_a_payment_that_gave_up_its_slot_are_late_money_in_the_end"),
    ),
    _mutant(
        "domain/facts",
        "the last capture of a hold is no second capture",
        old="if attempt.taken.minor:\n        total",
        new="if False:\n        total",
        fails=_several("test_the_rest_is_let_go_and_the_parts_stay"),
    ),
    _mutant(
        "domain/facts",
        "a hold that ends keeps what was taken of it",
        old="if attempt.taken.minor:  # the rest of a hold is over; what was taken of it stays",
        new="if False:",
        fails=_parts(
            "test_a_hold_that_ends_after_a_part_was_taken_ends_with_that_part[AUTHORIZED-CLOSED]"
        ),
    ),
]
