"""What keeps captures of held money exact and refusals before anything is sent, removed piece by
piece.
"""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(f"payment_rpc/{path}.py", old, new),))


_HELD = "test_held_charges.py::"
_WHERE = f"{_HELD}test_money_is_held_only_where_it_can_be_and_where_the_order_can_wait[sqlite]"
_REST = "test_captures_over_rest.py::"

_WIRE = "test_held_money_over_wire.py::"

MUTANTS = [
    _mutant(
        "clients",
        "an order is told how much is held for it",
        old='held_amount=snapshot.get("held_amount", ""),',
        new="",
        fails=f"{_WIRE}test_held_money_is_captured_by_shipping_or_let_go_by_cancelling",
    ),
    _mutant(
        "clients",
        "an order is told until when its money is held",
        old="payment.held_until.FromJsonString(until)",
        new="pass",
        fails=f"{_WIRE}test_held_money_is_captured_by_shipping_or_let_go_by_cancelling",
    ),
    _mutant(
        "clients",
        "an order is told that a part was meant",
        old='captured_in_part=snapshot.get("captured_in_part", False),',
        new="",
        fails=f"{_WIRE}test_a_part_that_was_captured_counts_everywhere_as_what_it_is",
    ),
    _mutant(
        "usecases/messages",
        "the event of a payment names what was captured",
        old='"amount": payment.captured.format(),\n',
        new="",
        fails=f"{_WIRE}test_a_part_that_was_captured_counts_everywhere_as_what_it_is",
    ),
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
    _mutant(
        "usecases/payments",
        "money is held only by a channel that can",
        old="            chosen.require_hold()\n",
        new="            pass\n",
        fails=_WHERE,
    ),
    _mutant(
        "usecases/payments",
        "the shop decides whether a buyer may leave his order waiting",
        old="(await self._terms.of(command.merchant_id)).require_buyers_hold()",
        new="pass",
        fails=f"{_HELD}test_a_buyer_holds_money_only_where_the_shop_lets_him"
        "_and_the_shop_always_may[sqlite]",
    ),
    _mutant(
        "usecases/payments",
        "units of a flash sale do not wait for held money",
        old="                order.require_wait()\n",
        new="                pass\n",
        fails=_WHERE,
    ),
    _mutant(
        "usecases/payments",
        "a wallet holds nothing for later",
        old='raise InvalidArgument.of("capture", "a wallet pays at once")',
        new="pass",
        fails=_WHERE,
    ),
    _mutant(
        "usecases/payment_sending",
        "a charge by hand only holds the money",
        old="instrument=instrument, expires_at=payment.expires_at, "
        "remember=partial(self._steps.remember, attempt), "
        "timeout_seconds=self._channel_seconds(), "
        "capture=payment.capture_mode is CaptureMode.AUTOMATIC,",
        new="instrument=instrument, expires_at=payment.expires_at, "
        "remember=partial(self._steps.remember, attempt), "
        "timeout_seconds=self._channel_seconds(), "
        "capture=True,",
        fails=f"{_HELD}test_a_token_can_only_hold_money_too[sqlite]",
    ),
    _mutant(
        "usecases/payment_start",
        "a page for the other mode is not handed out",
        old="            and live.capture_mode is new.capture_mode\n",
        new="",
        fails=f"{_HELD}test_a_page_is_opened_for_the_capture_that_was_asked_for[sqlite]",
    ),
    _mutant(
        "usecases/payments",
        "a receipt keeps no token",
        old='digest = sha256(f"{command.merchant_id}\\n{command.payment_token}".encode()).hexdigest()',
        new="digest = command.payment_token",
        fails=f"{_HELD}test_a_token_is_charged_and_kept_nowhere[sqlite]",
    ),
    _mutant(
        "usecases/payments",
        "a token and a card are two ways to pay",
        old="if command.has_card:",
        new="if False:",
        fails=f"{_HELD}test_what_does_not_go_together_is_refused_by_its_field"
        "[sqlite-changes0-payment_token-InvalidArgument]",
    ),
    _mutant(
        "usecases/captures",
        "what no channel can be asked for is not begun: the scan would do it later",
        old="if isinstance(channel, ChannelUnavailable):\n"
        "            raise ChannelUnavailable(channel.message, payment_id=payment.payment_id)",
        new="",
        fails="test_captures.py::"
        "test_a_capture_at_a_channel_that_cannot_be_opened_is_not_begun[sqlite]",
    ),
    _mutant(
        "usecases/polling",
        "a capture that the channel refused keeps nobody from letting the money go",
        old="return _took_no_more(fact, attempt) or fact.status in (",
        new="return fact.status in (",
        fails="test_captures.py::"
        "test_money_whose_capture_the_channel_refused_can_be_let_go[sqlite]",
    ),
    _mutant(
        "channels/paypal/payments",
        "an order that does not show its capture yet is no refusal",
        old="if fact.status is ChannelStatus.AUTHORIZED and not is_refused:",
        new="if False:",
        fails="test_paypal_adapter.py::"
        "test_held_money_that_was_not_taken_is_told_by_the_capture_alone[1000-False]",
    ),
    _mutant(
        "domain/attempt",
        "a channel that refuses a capture is not asked for it every minute",
        old="pause = lease if is_first else max(lease, self._pause(self.state))",
        new="pause = lease",
        fails="test_captures.py::"
        "test_a_capture_that_is_refused_each_time_is_sent_less_and_less[sqlite]",
    ),
    _mutant(
        "domain/attempt",
        "a capture does not wait for what was asked about while the money was held",
        old="queries=0 if is_first else self.queries,",
        new="queries=self.queries,",
        fails="test_captures.py::"
        "test_a_capture_that_is_refused_each_time_is_sent_less_and_less[sqlite]",
    ),
]
