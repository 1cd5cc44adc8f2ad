"""What keeps the core within the limits of channels, removed piece by piece."""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant

_TESTS = "test_limits_of_channels.py::"


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, f"{_TESTS}{fails}", (Edit(f"payment_rpc/{path}.py", old, new),))


_start = partial(_mutant, "usecases/refund_start")
_refunds = partial(_mutant, "usecases/refunds")
_polling = partial(_mutant, "usecases/polling")
_WAITS = "test_a_refund_that_comes_too_soon_waits_and_is_sent_in_time[sqlite]"
_STEP = "test_a_step_whose_key_may_be_forgotten_is_not_taken_again_and_a_person_looks_at_it[sqlite]"

MUTANTS = [
    _start(
        "a refund that comes too soon is not sent at once",
        old="if waits is not None:",
        new="if False:",
        fails=_WAITS,
    ),
    _refunds(
        "two refunds that wait do not go out together",
        old="if waits is not None:",
        new="if False:",
        fails=_WAITS,
    ),
    _start(
        "a refund that its channel would not take reserves nothing",
        old="require_refundable(allows, capture, amount, refunds=earlier, at=now)",
        new="del now",
        fails="test_a_refund_that_its_channel_would_not_take_reserves_nothing"
        "[sqlite-able0-RefundNotAllowed-for 1 days]",
    ),
    _mutant(
        "channels/registry",
        "a repeated refund has its answer without its channel",
        old="            return ChannelUnavailable(problem.message)",
        new="            raise",
        fails="test_a_repeated_refund_is_answered_while_its_channel_cannot_be_opened[sqlite]",
    ),
    _refunds(
        "a refund is not sent again when its key may be forgotten",
        old="if channel.capabilities.may_repeat(since=refund.created_at, at=self._clock.now()):",
        new="if True:",
        fails="test_a_refund_whose_key_may_be_forgotten_is_asked_about_and_not_sent_again[sqlite]",
    ),
    _mutant(
        "usecases/channel_steps",
        "a step is not taken again when its key may be forgotten",
        old="if present.steps > 0 and not capabilities.may_repeat(",
        new="if present.steps < 0 and not capabilities.may_repeat(",
        fails=_STEP,
    ),
    _polling(
        "a step whose key may be forgotten does not keep a payment from closing",
        old="if channel.capabilities.may_repeat(since=present.created_at, at=now):",
        new="if True:",
        fails=_STEP,
    ),
    _polling(
        "a payment is not sent again when its key may be forgotten",
        old="return able.may_repeat(since=attempt.created_at, at=self._clock.now())",
        new="return True",
        fails="test_a_payment_is_not_sent_again_when_its_key_may_be_forgotten[sqlite]",
    ),
    _mutant(
        "usecases/payments",
        "a payment lives no longer than its channel lets it",
        old="order = chosen.within_its_life(order, at=self._clock.now())",
        new="pass",
        fails="test_a_payment_ends_when_its_channel_lets_it_live_no_longer[sqlite]",
    ),
    Mutant(
        "strangers cost the database a bounded number of questions",
        "test_unknown_accounts.py::test_strangers_cost_a_bounded_number_of_questions",
        (
            Edit(
                "payment_rpc/usecases/account_channels.py",
                "if is_new and (seconds := self._strangers.take()):",
                "if is_new and (seconds := 0):",
            ),
        ),
    ),
    Mutant(
        "unknown ids push no account out",
        "test_unknown_accounts.py::test_unknown_ids_push_no_account_out",
        (
            Edit(
                "payment_rpc/usecases/account_channels.py",
                "        if stored is None:\n            raise _NoSuchAccountError\n",
                "",
            ),
        ),
    ),
    Mutant(
        "a clock that is a minute off is told",
        "test_provider_clocks.py::test_a_clock_that_is_a_minute_off_is_told[62-0.2-True]",
        (
            Edit(
                "payment_rpc/channels/provider_clocks.py",
                "ALERT_SECONDS: Final = 60.0",
                "ALERT_SECONDS: Final = 600.0",
            ),
        ),
    ),
]
