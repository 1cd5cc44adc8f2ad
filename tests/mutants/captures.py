"""What keeps captures of held money exact and refusals before anything is sent, removed piece by
piece.
"""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(f"payment_rpc/{path}.py", old, new),))


_REST = "test_captures_over_rest.py::"

MUTANTS = [
    _mutant(
        "usecases/captures",
        "a capture in minor units is of that amount, not of all that is held",
        old="command = replace(command, amount=command.amount.spelled_in(payment.amount.currency))",
        new="",
        fails=f"{_REST}test_a_shop_captures_what_it_names_or_all_of_it[body2-60.00]",
    ),
    _mutant(
        "servicer/payments",
        "nobody believes that a rest stays held",
        old="if request.keep_rest:",
        new="if False:",
        fails=f"{_REST}test_a_capture_that_cannot_be_is_refused_by_its_field_and_sends_nothing",
    ),
]
