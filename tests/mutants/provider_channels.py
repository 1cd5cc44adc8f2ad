"""What the core and the adapters to Stripe, PayPal and BTCPay Server hold, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

_STRIPE = "channels/stripe"
_PAYPAL = "channels/paypal"
_BTCPAY = "channels/btcpay"
_MONEY = "test_provider_money.py"
_MESSAGES = "test_channel_messages.py"


def _mutant(sentence: str, test: str, path: str, old: str, new: str) -> Mutant:
    return Mutant(sentence, test, (Edit(f"payment_rpc/{path}", old, new),))


MUTANTS = [
    _mutant(
        "what is sent to stripe is what its document takes",
        "test_stripe_requests.py::test_every_operation_of_the_adapter_is_in_the_document",
        f"{_STRIPE}/channel.py",
        '"/v1/payment_intents", [("limit", "1")]',
        '"/v1/payment_intents", [("limit", "one")]',
    ),
    _mutant(
        "what a buyer was never shown is opened again",
        f"{_MONEY}::test_what_a_lost_answer_had_for_the_buyer_is_shown_to_the_same_call"
        "[sqlite-wechat]",
        "usecases/payment_completion.py",
        "(is_unknown or _lacks_its_page(payment, attempt))",
        "is_unknown",
    ),
    _mutant(
        "btcpay tells the page of what waits for its buyer",
        "test_btcpay_answers.py::test_the_page_of_what_waits_for_its_buyer_is_told_again",
        f"{_BTCPAY}/answers.py",
        "return page_of(invoice) if is_open and _URL.fullmatch(invoice.checkout_link) else None",
        "return None",
    ),
    _mutant(
        "messages that wait for one key share its fetch",
        f"{_MESSAGES}::test_messages_that_come_while_a_key_is_fetched_share_it[sqlite]",
        "usecases/callbacks.py",
        "task = self._fetching.get(about)",
        "task = None",
    ),
    _mutant(
        "stripe moves no money before its payment is remembered",
        "test_stripe_adapter.py::test_no_money_moves_when_nothing_can_be_committed",
        f"{_STRIPE}/channel.py",
        "if not await is_remembered(remember, intent.id, attempt_id=attempt_id):",
        "if False:",
    ),
    _mutant(
        "a payment of stripe of another attempt is no answer",
        "test_stripe_adapter.py::test_a_payment_of_another_attempt_is_no_answer",
        f"{_STRIPE}/answers.py",
        "if metadata.get(ATTEMPT) != attempt_id:",
        "if False:",
    ),
    _mutant(
        "a charge of stripe that was declined is cancelled",
        "test_stripe_adapter.py::test_a_decline_is_final_because_the_payment_is_cancelled",
        f"{_STRIPE}/payments.py",
        "if not is_ours_to_end(intent):",
        "if True:",
    ),
    _mutant(
        "a refund of stripe that was done is never called refused",
        "test_stripe_adapter_doubt.py::"
        "test_a_full_refund_that_is_sent_again_after_the_key_is_forgotten_is_found",
        f"{_STRIPE}/refunds.py",
        "if listed.status is not RefundChannelStatus.NOT_FOUND:",
        "if False:",
    ),
    _mutant(
        "an event of stripe of the other mode is refused",
        "test_stripe_signatures.py::test_events_of_the_other_mode_or_account_are_refused",
        f"{_STRIPE}/events.py",
        "if event.livemode is not is_live:",
        "if False:",
    ),
    _mutant(
        "an event of stripe is fresh",
        "test_stripe_signatures.py::test_old_and_future_messages_are_refused[301]",
        f"{_STRIPE}/signatures.py",
        'raise SignatureInvalid("the timestamp is more than 5 minutes off")',
        "pass",
    ),
    _mutant(
        "an order of paypal of another attempt is no answer",
        "test_paypal_answers.py::test_an_order_of_another_attempt_is_unclear",
        f"{_PAYPAL}/answers.py",
        "if named - {attempt_id}:",
        "if False:",
    ),
    _mutant(
        "an order of paypal that was not remembered is not shown",
        "test_paypal_adapter.py::test_an_order_that_was_not_remembered_is_never_captured",
        f"{_PAYPAL}/payments.py",
        "if not await is_remembered(remember, made.id, attempt_id=attempt_id):",
        "if False:",
    ),
    _mutant(
        "a refund of paypal that was done is never called refused",
        "test_paypal_adapter.py::test_a_refund_that_was_done_is_never_called_refused",
        f"{_PAYPAL}/refunds.py",
        "if issue not in answers.REFUSED_AGAIN:",
        "if True:",
    ),
    _mutant(
        "a certificate of notices is one of paypal's",
        "test_paypal_signatures.py::test_a_certificate_that_is_not_paypals_is_refused",
        f"{_PAYPAL}/signatures.py",
        "if not name.endswith(_NAME_END):",
        "if False:",
    ),
    _mutant(
        "coins that are not confirmed are no money",
        "test_btcpay_answers.py::test_less_than_was_due_is_what_it_is_once_it_is_confirmed",
        f"{_BTCPAY}/answers.py",
        "for one, rate in settled if one.status == SETTLED]",
        "for one, rate in settled]",
    ),
    _mutant(
        "a repeated checkout at btcpay makes no second invoice",
        "test_btcpay_adapter.py::test_a_repeated_checkout_gives_the_invoice_that_is_there",
        f"{_BTCPAY}/channel.py",
        "if before:",
        "if False:",
    ),
    _mutant(
        "a claim at btcpay is made once",
        "test_btcpay_adapter.py::test_a_claim_is_made_once",
        f"{_BTCPAY}/refunds.py",
        "if claim is not None:",
        "if False:",
    ),
    _mutant(
        "a notice of another store of btcpay is refused",
        "test_btcpay_answers.py::test_a_notice_of_another_store_is_refused",
        f"{_BTCPAY}/events.py",
        "if event.store_id != store_id:",
        "if False:",
    ),
]
