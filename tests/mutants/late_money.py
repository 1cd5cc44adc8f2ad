"""What gives back what nobody owed, removed piece by piece."""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, module: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, f"{module}.py::{fails}", (Edit(f"payment_rpc/{path}.py", old, new),))


_surplus = partial(_mutant, "domain/facts", "test_surplus")
_results = partial(_mutant, "usecases/refund_results", "test_surplus")
_watch = partial(_mutant, "domain/attempt", "test_watched_attempts")
_RARE = "test_questions_become_rare_and_end_with_the_first_answer_after_the_watch[sqlite]"
_GROWS = "test_a_surplus_that_grows_goes_back_once_however_often_and_disordered_it_is_told[sqlite]"
_LEFT = (
    "test_a_surplus_that_cannot_go_back_needs_a_person_and_is_not_lost_when_it_left_after_all"
    "[sqlite]"
)

MUTANTS = [
    _mutant(
        "store/ledger",
        "test_surplus",
        "a review that is there is no news",
        old='(await tx.execute(_REVIEW, {"key": key})).first() is None',
        new="True",
        fails="test_a_surplus_in_another_currency_needs_a_person[sqlite]",
    ),
    _surplus(
        "only what a surplus grew by is news",
        old="surplus if attempt.surplus is None else surplus - attempt.surplus",
        new="surplus",
        fails=_GROWS,
    ),
    _surplus(
        "an older sum of a surplus is no news",
        old="    if grown.minor <= 0:\n        return decision\n",
        new="",
        fails=_GROWS,
    ),
    _surplus(
        "a surplus in another currency is not added up",
        old=" or attempt.captured.currency != surplus.currency",
        new="",
        fails="test_a_surplus_in_another_currency_needs_a_person[sqlite]",
    ),
    _mutant(
        "domain/facts",
        "test_payment_facts",
        "a surplus beside a contradiction moves nothing",
        old="    if decision.review_reason == CAPTURE_CONTRADICTED:\n        return decision\n",
        new="",
        fails="test_a_surplus_beside_a_contradiction_moves_nothing",
    ),
    _surplus(
        "a channel that counts all that came may name another part of it",
        old=" or fact.surplus is not None",
        new="",
        fails="test_another_part_of_what_came_may_count_as_the_capture[sqlite]",
    ),
    _results(
        "the refunds of a surplus have an end",
        old="if len(earlier) >= SURPLUS_REFUNDS_MAX:",
        new="if False:",
        fails="test_of_very_many_surpluses_the_last_wait_for_a_person[sqlite]",
    ),
    _results(
        "a surplus that left is no loss of the capture",
        old="        and not refund.is_of_surplus\n        and await",
        new="        and await",
        fails=_LEFT,
    ),
    _mutant(
        "usecases/conflicts",
        "test_surplus",
        "a capture is not given back because its surplus is",
        old="            and not refund.is_of_surplus\n",
        new="",
        fails="test_a_conflict_is_decided_beside_its_surplus[sqlite]",
    ),
    _mutant(
        "domain/facts",
        "test_watched_attempts",
        "the watch of an attempt has an end",
        old="if decision.attempt.is_watch_over(at) and",
        new="if False and",
        fails=_RARE,
    ),
    _watch(
        "the last question comes when the channel stops to look",
        old="            last_chance = self.watch_until or last_chance\n",
        new="            pass\n",
        fails=_RARE,
    ),
    _mutant(
        "domain/facts",
        "test_watched_attempts",
        "no answer ends no watch",
        old=" and fact.status not in _NO_ANSWERS",
        new="",
        fails=_RARE,
    ),
    _mutant(
        "usecases/payment_start",
        "test_watched_attempts",
        "an attempt that can be paid for ever is watched",
        old="None if new.watch is None else order.expires_at + new.watch",
        new="None",
        fails="test_late_money_that_nobody_tells_of_is_found_and_goes_back[sqlite]",
    ),
]
