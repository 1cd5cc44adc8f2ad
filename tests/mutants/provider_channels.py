"""What the core and the adapters to Stripe, PayPal and BTCPay Server hold, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

_MONEY = "test_provider_money.py"
_MESSAGES = "test_channel_messages.py"


def _mutant(sentence: str, test: str, path: str, old: str, new: str) -> Mutant:
    return Mutant(sentence, test, (Edit(f"payment_rpc/{path}", old, new),))


MUTANTS = [
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
        "channels/btcpay/answers.py",
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
]
