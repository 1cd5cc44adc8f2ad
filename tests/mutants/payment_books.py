"""What the verification of the books and the reconciliation with channels look at in payment_rpc,
removed piece by piece: see payment_code_mutants."""

from __future__ import annotations

from functools import partial

from tests.mutants.payment import _attempt, _boundaries, _mutant, _of, _test

_books: _of = partial(_mutant, "domain/books.py")
_matching: _of = partial(_mutant, "domain/reconciliation.py")
_difference: _of = partial(_mutant, "domain/difference.py")
_days: _of = partial(_mutant, "store/own_records.py")
_difference_rows: _of = partial(_mutant, "store/differences.py")

_of_days = partial(_test, "test_reconciliation_days")
_rules = partial(_test, "test_books", on="")

_PROVEN = [  # what the verification of the books looks at
    _books(
        "a transaction has postings",
        old="if not transaction.postings:",
        new="if False:",
        fails=_rules("test_a_transaction_has_postings_and_they_balance"),
    ),
    _books(
        "a transaction balances",
        old="            if minor:\n",
        new="            if False:\n",
        fails=_rules("test_a_transaction_has_postings_and_they_balance"),
    ),
    _books(
        "a chain goes on from the transaction before",
        old="if transaction.previous_hash != head:",
        new="if False:",
        fails=_rules("test_whoever_repairs_the_rest_of_a_chain_is_still_found"),
    ),
    _books(
        "a transaction says what it said",
        old="if transaction.hash != head:",
        new="if False:",
        fails=_rules("test_whoever_repairs_the_rest_of_a_chain_is_still_found"),
    ),
    _books(
        "the last transaction is the one that the payment remembers",
        old="if books.payment.ledger_head != head:",
        new="if False:",
        fails=_rules("test_whoever_repairs_the_rest_of_a_chain_is_still_found"),
    ),
    _books(
        "what no column covers is in no column",
        old="if not refund.stands_alone and not refund.above_cap]",
        new="]",
        fails=_rules("test_what_no_column_covers_is_in_no_column"),
    ),
    _books(
        "only a capture is booked as one",
        old="    for key in booked:\n",
        new="    for key in ():\n",
        fails=_rules("test_a_capture_is_booked_once_with_what_was_captured"),
    ),
    _books(
        "a fee belongs to a capture or a refund",
        old="if transaction.kind in _FEES and key not in (captured if "
        'transaction.kind == "FEE" else '
        "left):",
        new="if False:",
        fails=_rules("test_a_fee_belongs_to_a_capture_or_to_a_refund_that_left"),
    ),
    _books(
        "a payment remembers its fee",
        old="if books.payment.fee.minor != own:",
        new="if False:",
        fails=_rules("test_a_payment_remembers_the_fee_of_its_capture"),
    ),
    _mutant(
        "usecases/ledger_verification.py",
        "what the second look at a busy wallet finds is told",
        old="only=changed)\n                violations += found",
        new="only=changed)",
        fails=_test(
            "test_verify_ledger",
            "test_a_wallet_that_is_wrong_is_found_although_it_changed_while_it_was_read",
        ),
    ),
]

_DAYS = [  # reconciliation
    _attempt(
        "the day of a capture is the channel's",
        old="captured_at=captured_at or at",
        new="captured_at=at",
        fails=_boundaries("test_the_day_of_a_capture_is_the_channels_not_ours"),
    ),
    _matching(
        "a day begins with its first moment",
        old="self._begins <= at",
        new="self._begins < at",
        fails=_boundaries(
            "test_a_capture_belongs_to_the_day_from_its_first_moment_to_before_the_next"
        ),
    ),
    _matching(
        "a day ends before the next begins",
        old="at < self._ends",
        new="at <= self._ends",
        fails=_boundaries(
            "test_a_refund_belongs_to_the_day_from_its_first_moment_to_before_the_next"
        ),
    ),
    _matching(
        "a refund that did not leave here is a finding",
        old="if our.state not in _REFUNDED:",
        new="if False:",
        fails=_boundaries(
            "test_money_that_the_channel_gave_back_and_our_refund_did_not_is_asked_for"
        ),
    ),
    _matching(
        "a refund under another number is a finding",
        old="if line.trade_no != our.refund_no:",
        new="if False:",
        fails=_boundaries("test_a_refund_under_another_number_is_a_difference"),
    ),
    _matching(
        "what bounced had left before",
        old="_REFUNDED = frozenset({RefundState.SUCCESS, RefundState.REVERSED})",
        new="_REFUNDED = frozenset({RefundState.SUCCESS})",
        fails=_boundaries("test_a_refund_under_another_number_is_a_difference"),
    ),
    _matching(
        "the fee of what our books have on another day is no difference",
        old="return found is None or found.kind is Kind.CUTOFF_SHIFT",
        new="return found is None",
        fails="test_statement_fees.py::"
        "test_the_fee_of_what_our_books_have_on_another_day_is_booked_too[sqlite]",
    ),
    _days(
        "captures of a day begin with its first moment",
        old="_A.captured_at >= begins",
        new="_A.captured_at > begins",
        fails=_of_days(
            "test_captures_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment"
        ),
    ),
    _days(
        "captures of a day end before the next",
        old="_A.captured_at < ends",
        new="_A.captured_at <= ends",
        fails=_of_days(
            "test_captures_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment"
        ),
    ),
    _days(
        "captures of a day are of one channel",
        old="(_A.channel == channel) & (_A.captured_at >= begins)",
        new="(_A.captured_at >= begins)",
        fails=_of_days(
            "test_captures_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment"
        ),
    ),
    _days(
        "refunds of a day begin with its first moment",
        old="_R.refunded_at >= begins",
        new="_R.refunded_at > begins",
        fails=_of_days(
            "test_refunds_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment"
        ),
    ),
    _days(
        "refunds of a day end before the next",
        old="_R.refunded_at < ends",
        new="_R.refunded_at <= ends",
        fails=_of_days(
            "test_refunds_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment"
        ),
    ),
    _days(
        "refunds of a day are of one channel",
        old="(_R.channel == channel) & (_R.refunded_at >= begins)",
        new="(_R.refunded_at >= begins)",
        fails=_of_days(
            "test_refunds_of_a_day_are_those_of_this_channel_from_its_first_to_its_last_moment"
        ),
    ),
    _difference_rows(
        "a shift rewrites nothing that a person resolved",
        old="_D.state == DifferenceState.OPEN, _D.kind.in_(_NOT_YET),",
        new="_D.kind.in_(_NOT_YET),",
        fails=_of_days(
            "test_a_shift_explains_what_is_open_and_rewrites_nothing_that_a_person_resolved"
        ),
    ),
    _difference_rows(
        "a difference is resolved as what it is",
        old=" _D.kind == difference.finding.kind,",
        new="",
        fails=_of_days(
            "test_a_difference_whose_kind_changed_while_somebody_looked_is_not_resolved_as_what_it_was"
        ),
    ),
    _difference_rows(
        "a difference is resolved once",
        old="_D.difference_id == difference.difference_id, _D.state == DifferenceState.OPEN,",
        new="_D.difference_id == difference.difference_id,",
        fails=_of_days("test_two_who_resolve_one_difference_at_once_do_it_once"),
    ),
    _mutant(
        "usecases/differences.py",
        "a difference about a refund closes when channel and books agree",
        old="refund.state.value == fact.status.value and refund.channel_refund_no == "
        "fact.channel_refund_no",
        new="True",
        fails=_of_days(
            "test_a_difference_about_a_refund_closes_only_when_channel_and_books_agree", on=""
        ),
    ),
    _difference(
        "a refund that the channel does not know is a gain",
        old="Kind.STATUS_MISMATCH, Kind.REFUND_MISSING_CHANNEL, Kind.REFUND_AMOUNT_MISMATCH)\n",
        new="Kind.STATUS_MISMATCH, Kind.REFUND_AMOUNT_MISMATCH)\n",
        fails=_boundaries("test_a_write_off_books_each_kind_on_its_own_side"),
    ),
    _difference(
        "currencies are not written off against each other",
        old="stated.currency != booked.currency",
        new="False",
        fails=_boundaries("test_two_currencies_are_never_written_off_against_each_other"),
    ),
    _difference(
        "a refund that came back is asked for",
        old="if self.finding.kind is Kind.STATUS_MISMATCH and self.finding.refund_id:",
        new="if False:",
        fails=_boundaries("test_a_refund_that_came_back_is_no_write_off"),
    ),
]

MUTANTS = [*_PROVEN, *_DAYS]
