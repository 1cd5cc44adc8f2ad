"""What keeps money single when channels close in other ways than the sandbox, and what keeps their
messages true, removed piece by piece.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, module: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, f"{module}.py::{fails}", (Edit(f"payment_rpc/{path}.py", old, new),))


_KINDS, _MESSAGES = "test_closing_kinds", "test_channel_messages"
_steps = partial(_mutant, "usecases/channel_steps", _KINDS)
_polling = partial(_mutant, "usecases/polling", _KINDS)
_callbacks = partial(_mutant, "usecases/callbacks", _MESSAGES)
_ANOTHER_ACCOUNT = "test_an_account_speaks_of_its_own_attempts_only"

MUTANTS = [
    _steps(
        "no id is remembered of an attempt whose payment is being closed",
        old="payment.state is not PaymentState.PAYING\n            or present.state not in OPEN",
        new="present.state not in OPEN",
        fails="test_what_is_closed_while_it_is_being_sent_is_not_handed_out[sqlite-KNOWN]",
    ),
    _steps(
        "no id is remembered after the lease",
        old="            or present.lease_until <= now\n",
        new="",
        fails="test_what_outlived_its_lease_is_not_handed_out[sqlite-KNOWN]",
    ),
    _steps(
        "an attempt has one id at its channel",
        old='            or present.channel_ref not in ("", ref)\n',
        new="",
        fails="test_an_attempt_has_one_id_at_its_channel[sqlite]",
    ),
    _mutant(
        "domain/facts",
        _KINDS,
        "only money makes us believe another id",
        old="is_moved = fact.status in _WITH_MONEY and decision.attempt is not attempt",
        new="is_moved = decision.attempt is not attempt",
        fails="test_an_attempt_has_one_id_at_its_channel[sqlite]",
    ),
    _steps(
        "a step is taken by one at a time",
        old="if not may_step or present.state not in OPEN or present.has_call_under_way(now):",
        new="if not may_step or present.state not in OPEN:",
        fails="test_two_workers_take_the_step_once[sqlite]",
    ),
    _steps(
        "no first step is begun while closing",
        old="payment.state is PaymentState.CLOSING and present.steps > 0",
        new="payment.state is PaymentState.CLOSING",
        fails="test_a_first_step_is_refused_as_soon_as_closing_is_committed[sqlite]",
    ),
    _polling(
        "an attempt with a step is not closed by promise",
        old="if present.steps == 0:",
        new="if True:",
        fails="test_a_lost_answer_of_a_step_is_learned_under_the_same_attempt[sqlite]",
    ),
    _polling(
        "an attempt with an id at its channel is not lost",
        old="return attempt.state is not AttemptState.PENDING and not attempt.channel_ref",
        new="return attempt.state is not AttemptState.PENDING",
        fails="test_what_was_remembered_is_never_taken_for_lost[sqlite-KNOWN]",
    ),
    _polling(
        "an attempt with an id at its channel is not sent again",
        old="if fact.status is ChannelStatus.NOT_FOUND and not attempt.channel_ref:",
        new="if fact.status is ChannelStatus.NOT_FOUND:",
        fails="test_what_was_remembered_is_never_taken_for_lost[sqlite-KNOWN]",
    ),
    _polling(
        "what its channel forgot is closed in the end",
        old="if fact.status in (ChannelStatus.NOT_CLOSABLE, ChannelStatus.NOT_FOUND):",
        new="if fact.status is ChannelStatus.NOT_CLOSABLE:",
        fails="test_what_its_channel_forgot_is_closed_after_deadline_and_grace[sqlite-KNOWN]",
    ),
    _polling(
        "an attempt that is being sent is not closed by the clock",
        old="if is_unpaid and present.lease_until <= asked_at:",
        new="if is_unpaid:",
        fails="test_past_the_deadline_an_attempt_that_is_being_sent_is_not_closed_here[sqlite]",
    ),
    _mutant(
        "usecases/channel_results",
        _KINDS,
        "what we concluded holds for the attempt as it was",
        old="if judged is not None and attempt.progress != judged.progress:",
        new="if False:",
        fails="test_a_step_that_begins_while_it_is_promised_away_is_not_closed[sqlite]",
    ),
    _mutant(
        "usecases/channel_results",
        _MESSAGES,
        "a channel tells of its own attempts",
        old="if channel and any(sibling.channel != channel for sibling in siblings):",
        new="if False:",
        fails=f"{_ANOTHER_ACCOUNT}[sqlite-fact]",
    ),
    _callbacks(
        "a channel tells of its own refunds",
        old="if refund.channel != applied.callback.channel:",
        new="if False:",
        fails=f"{_ANOTHER_ACCOUNT}[sqlite-refund]",
    ),
    _callbacks(
        "a channel lets us ask about its own attempts",
        old="if found.channel != channel:",
        new="if False:",
        fails=f"{_ANOTHER_ACCOUNT}[sqlite-question]",
    ),
    _callbacks(
        "a message that waits says what it is about",
        old="await callbacks.finish(tx, waits)",
        new="pass",
        fails="test_a_crash_before_the_question_leaves_it_to_the_worker[sqlite]",
    ),
    _callbacks(
        "deliveries that come meanwhile share the question",
        old="task = self._asking.get(callback_id)",
        new="task = None",
        fails="test_deliveries_that_come_during_the_question_share_it[sqlite]",
    ),
    _callbacks(
        "keys are fetched for strangers so often",
        old="if self._keys.take(source.name):",
        new="if False:",
        fails="test_keys_are_fetched_for_strangers_so_often[sqlite]",
    ),
    _callbacks(
        "an unknown type is acknowledged with its name in the log",
        old="reason=said or message.summary",
        new="reason=said",
        fails="test_a_type_that_means_nothing_to_us_is_acknowledged_and_logged[sqlite]",
    ),
    _mutant(
        "usecases/callback_questions",
        _MESSAGES,
        "news beside a question counts for the result",
        old="changed = changed or any(",
        new="changed = any(",
        fails="test_news_beside_a_question_counts_for_the_result[sqlite]",
    ),
    _mutant(
        "usecases/callback_log",
        _MESSAGES,
        "a believed message ends the row of refused ones",
        old="self._refused_in_a_row.pop(channel, None)",
        new="pass",
        fails="test_somebody_is_told_when_nothing_of_a_channel_is_believed[sqlite]",
    ),
    Mutant(
        "our credentials are not told to those who read the message of a channel",
        "test_gateway_request.py::"
        "test_all_headers_are_those_without_credentials_that_a_message_may_hold",
        (Edit("gateway/request.py", "key not in _CREDENTIALS and ", ""),),
    ),
    Mutant(
        "a channel is answered with the status that it expects",
        "test_gateway_channel_answers.py::"
        "test_the_status_of_an_answer_is_the_one_that_it_names[204-204]",
        (Edit("gateway/responses.py", "if self._status_field:", "if False:"),),
    ),
    _mutant(
        "domain/callback",
        _MESSAGES,
        "one name with other bytes is applied again",
        old="return self.payload_digest == other.payload_digest",
        new="return True",
        fails="test_one_name_with_other_bytes_is_one_message_and_applied_again[sqlite]",
    ),
]
