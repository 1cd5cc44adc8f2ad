"""What the adapters to Alipay and WeChat Pay hold, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

_ALIPAY = "payment_rpc/channels/alipay"
_WECHAT = "payment_rpc/channels/wechat"
_ON_ALIPAY = "test_alipay_adapter.py"
_ON_WECHAT = "test_wechat_adapter.py"


def _mutant(sentence: str, test: str, path: str, old: str, new: str) -> Mutant:
    return Mutant(sentence, test, (Edit(path, old, new),))


MUTANTS = [
    _mutant(
        "an answer that alipay did not sign says nothing",
        f"{_ON_ALIPAY}::test_another_key_of_ours_or_theirs_is_noticed",
        f"{_ALIPAY}/signatures.py",
        "if not any(is_signed(key, value, signature) for key in keys):",
        "if False:",
    ),
    _mutant(
        "a notice of alipay names its algorithm",
        "test_alipay_signatures.py::test_a_notice_without_its_algorithm_is_refused",
        f"{_ALIPAY}/signatures.py",
        'if fields.get("sign_type") != ALGORITHM:',
        "if False:",
    ),
    _mutant(
        "no field of a notice of alipay is there twice",
        "test_alipay_signatures.py::test_a_field_may_not_be_there_twice",
        f"{_ALIPAY}/signatures.py",
        "if len(fields) != len(pairs):",
        "if False:",
    ),
    _mutant(
        "a genuine notice of alipay for somebody else is refused",
        f"{_ON_ALIPAY}::test_a_notice_for_another_account_is_refused",
        f"{_ALIPAY}/notices.py",
        "    if not is_ours:\n",
        "    if False:\n",
    ),
    _mutant(
        "a notice of alipay about a refund is no payment",
        "test_alipay_answers.py::test_a_notice_of_a_refund_is_a_reason_to_ask[changed2]",
        f"{_ALIPAY}/notices.py",
        'if speaks_of_refund or fields.get("trade_status")',
        'if fields.get("trade_status")',
    ),
    _mutant(
        "a page of alipay that nobody opened is not closed",
        f"{_ON_ALIPAY}::test_a_page_is_signed_here_and_known_there_once_the_buyer_opens_it[page]",
        f"{_ALIPAY}/channel.py",
        "if reply.sub_code == answers.NO_TRADE:",
        "if False:",
    ),
    _mutant(
        "the success of a call to alipay is no refund",
        "test_alipay_answers.py::test_a_success_of_the_call_is_no_refund[answer0]",
        f"{_ALIPAY}/answers.py",
        'if done.fund_change != "Y":',
        "if False:",
    ),
    _mutant(
        "a refusal of alipay is believed after a question only",
        "test_china_refund_refusals.py::test_a_refusal_of_alipay_is_believed_after_a_question[done]",
        f"{_ALIPAY}/channel.py",
        "if asked.status is RefundChannelStatus.NOT_FOUND",
        "if True",
    ),
    _mutant(
        "credit at alipay is no money",
        "test_alipay_answers.py::test_a_notice_that_is_not_understood_is_unknown[changed2]",
        f"{_ALIPAY}/answers.py",
        "if status is ChannelStatus.CAPTURED and trade.credit_pay_mode:",
        "if False:",
    ),
    _mutant(
        "a trade of alipay that was paid and given back was paid",
        f"{_ON_ALIPAY}::test_a_refund_that_was_done_is_never_called_refused",
        f"{_ALIPAY}/answers.py",
        "if status is ChannelStatus.CLOSED and paid_at:",
        "if False:",
    ),
    _mutant(
        "a bill of alipay comes from alipay",
        "test_alipay_statements.py::test_a_bill_is_fetched_from_alipay_only[https://127.0.0.1/x]",
        f"{_ALIPAY}/statements.py",
        "if not (is_own or is_alipays):",
        "if False:",
    ),
    _mutant(
        "a bill of alipay that is not ready is no empty day",
        f"{_ON_ALIPAY}::test_a_day_without_trades_is_empty_once_its_bill_would_be_there",
        f"{_ALIPAY}/statements.py",
        "if now < ends + READY:",
        "if False:",
    ),
    _mutant(
        "an answer that wechat pay did not sign says nothing",
        f"{_ON_WECHAT}::test_another_key_of_ours_or_theirs_is_noticed",
        f"{_WECHAT}/api.py",
        "        if is_success:\n",
        "        if False:\n",
    ),
    _mutant(
        "an old signature of wechat pay is none",
        "test_wechat_signatures.py::test_more_than_five_minutes_either_way_are_not[301]",
        f"{_WECHAT}/signatures.py",
        "if abs(now - (EPOCH + timedelta(seconds=int(timestamp)))) > FRESHNESS:",
        "if False:",
    ),
    _mutant(
        "a signature of wechat pay from the future is none",
        "test_wechat_signatures.py::test_more_than_five_minutes_either_way_are_not[-301]",
        f"{_WECHAT}/signatures.py",
        "if abs(now - (EPOCH + timedelta(seconds=int(timestamp)))) > FRESHNESS:",
        "if now - (EPOCH + timedelta(seconds=int(timestamp))) > FRESHNESS:",
    ),
    _mutant(
        "a genuine notice of wechat pay for somebody else is refused",
        f"{_ON_WECHAT}::test_a_notice_for_another_account_is_refused[changed0]",
        f"{_WECHAT}/notices.py",
        "if (order.mchid, order.appid) != (credentials.mchid, credentials.appid):",
        "if False:",
    ),
    _mutant(
        "a refund that a bank refused is not failed at wechat pay",
        f"{_ON_WECHAT}::test_each_row_of_the_table_of_refunds[7743-PENDING-PENDING-PENDING]",
        f"{_WECHAT}/answers.py",
        '"ABNORMAL": RefundChannelStatus.PENDING',
        '"ABNORMAL": RefundChannelStatus.FAILED',
    ),
    _mutant(
        "a refusal of wechat pay is believed after a question only",
        "test_china_refund_refusals.py::"
        "test_a_refusal_of_wechat_pay_is_believed_after_a_question[done]",
        f"{_WECHAT}/channel.py",
        "if asked.status is not RefundChannelStatus.NOT_FOUND:",
        "if False:",
    ),
    _mutant(
        "a bill of wechat pay has the hash that was signed",
        f"{_ON_WECHAT}::test_a_bill_with_another_hash_or_no_bill_is_no_statement",
        f"{_WECHAT}/statements.py",
        "await asyncio.to_thread(_must_have_hash, answer.body, told)",
        "await asyncio.to_thread(len, answer.body)",
    ),
    _mutant(
        "a test account never reaches the real wechat pay",
        "test_wechat_credentials.py::test_a_test_account_never_reaches_the_real_merchant",
        f"{_WECHAT}/channel.py",
        "if base_url is None and not is_live:",
        "if False:",
    ),
]
