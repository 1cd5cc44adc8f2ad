"""What buyers read: every text in English and in Chinese, one language in one text, and nothing
that only developers understand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from operator import itemgetter
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from paymesh.order.v1 import allocation_pb2, catalog_pb2, order_pb2, statistics_pb2
from paymesh.payment.v1 import (
    callback_pb2,
    channel_account_pb2,
    ledger_pb2,
    payment_pb2,
    reconciliation_pb2,
    refund_pb2,
)
from paymesh.seckill.v1 import activity_pb2, seckill_pb2

from gateway.codec.dialect import FieldError
from gateway.codec.reader import read_json
from gateway.codec.times import timestamp_fields
from mesh.bounds import rules_of
from mesh.call import Caller, Role, calling
from mesh.errors import InvalidArgument
from mesh.languages import Bilingual, Language, preferred
from mesh.problem_texts import UNKNOWN_PROBLEM, problem_text, rule_text
from mesh.validation import broken_rules, violations_of
from mesh.wire_errors import ErrorCatalogue
from payment_rpc.domain.payment import CANCELLED_BY_BUYER, Failure
from payment_rpc.servicer import callbacks, failure_texts
from sandbox.cashier_texts import Texts, texts_for
from seckill_rpc.domain.result import ResultCode
from seckill_rpc.servicer.texts import MESSAGES
from tests.support.sources import parsed

ROOT = Path(__file__).parents[3]
CATALOGUE = ErrorCatalogue.of_packages(
    ["paymesh.order.v1", "paymesh.payment.v1", "paymesh.seckill.v1"]
)
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
WORDS = re.compile(r"[A-Za-z]{2,}")
NAMES = {"ID", "JSON", "CNY", "UTC", "Asia", "Shanghai"}  # that stand in Chinese texts too
FOR_DEVELOPERS = re.compile(r"`|regex|metadata|reason|null|pattern|gRPC|[a-z]_[a-z]|\babout\b")


def is_english(text: str) -> bool:
    return bool(WORDS.search(text)) and CHINESE.search(text) is None


def is_chinese(text: str) -> bool:
    return (
        CHINESE.search(text) is not None
        and set(WORDS.findall(re.sub(r"<[^>]*>|\{\w*\}", "", text))) <= NAMES
    )


def pairs() -> Iterator[tuple[str, Bilingual]]:
    yield from ((f"{spec.domain}.{spec.reason}", spec.texts) for spec in CATALOGUE)
    yield from ((f"result {code}", texts) for code, texts in MESSAGES.items())
    yield from ((f"failure {reason}", texts) for reason, texts in failure_texts._OTHERS.items())
    yield from ((f"callback {result}", texts) for result, texts in callbacks._MESSAGES.items())


IN_ORDER = sorted(pairs(), key=itemgetter(0))  # alike in every test process


@pytest.mark.parametrize(("name", "texts"), IN_ORDER)
def test_every_text_for_buyers_is_in_both_languages_and_mixes_neither(
    name: str, texts: Bilingual
) -> None:
    assert is_english(texts.en), name
    assert is_chinese(texts.zh), name
    assert FOR_DEVELOPERS.search(texts.en) is None, name


def test_every_result_of_a_click_has_words() -> None:
    assert set(MESSAGES) == set(ResultCode)


def test_the_chinese_texts_that_the_sources_promise_are_spoken_unless_english_is_preferred() -> (
    None
):
    texts = {spec.reason: spec.texts for spec in CATALOGUE if spec.texts.promised_in_chinese}
    assert {reason: texts[reason].text(None) for reason in texts} == {
        "CARD_INVALID": "信用卡信息无效",
        "ORDER_ALREADY_PAID": "订单已存在，不能重复支付",
        "ORDER_NOT_PAYABLE": "订单状态异常",
        "ORDER_STATE_INVALID": "订单状态异常",
        "SIGNATURE_INVALID": "签名验证失败",
        "INSUFFICIENT_BALANCE": "余额不足",
        "TRANSACTION_ID_FAILED": "交易 ID 生成失败",
        "ORDER_CREATING": "订单创建中",
        "OUT_OF_STOCK": "库存不足",
        "SECKILL_BUSY": "系统繁忙",
    }
    assert all(is_english(text.text(Language.EN)) for text in texts.values())


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh", Language.ZH),
        ("zh-CN,zh;q=0.9,en;q=0.8", Language.ZH),
        ("ZH-Hant-TW", Language.ZH),
        ("en-GB,en;q=0.9", Language.EN),
        ("de,zh;q=0.4,en;q=0.5", Language.EN),
        ("en;q=0.5, zh;q=0.7", Language.ZH),
        ("en;q=0.50,zh;q=0.5", Language.EN),
        ("zh;q=0", None),
        ("zh;q=0,en;q=0.1", Language.EN),
        ("*", None),
        ("", None),
        ("de,fr", None),
        ("zh;q=2", None),
        ("zh;q=nan", None),
        ("zh;level=1", None),
        ("zhx", None),
        ("de," * 100 + "zh", None),
        (",;=,;q=,", None),
        ("zh;q=1.000", None),
        ("zh;q=0.999", None),
    ],
)
def test_the_language_is_the_one_that_the_header_weighs_most(
    header: str, language: Language | None
) -> None:
    if header in ("zh;q=1.000", "zh;q=0.999"):  # three digits, as RFC 9110 allows
        language = Language.ZH
    assert preferred(header) is language


def test_no_header_makes_the_choice_fail() -> None:
    for number in range(0x250):
        preferred(f"zh;q={chr(number)},{chr(number)}en;{chr(number)}=0.{chr(number)}")


# Problems of fields


def literals(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(
                str(value.value) if isinstance(value, ast.Constant) else "7" for value in values
            )
        case ast.IfExp(body=one, orelse=other):
            yield from (*literals(one), *literals(other))


def problems_in_the_code() -> Iterator[str]:
    for package in ("gateway", "mesh", "order_rpc", "payment_rpc", "seckill_rpc"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if not isinstance(node, ast.Call):
                    continue
                called = ast.unparse(node.func)
                if called == "_invalid" or (
                    called.endswith(("Argument.of", "Body.of", "Type.of", "TooLarge.of"))
                    and len(node.args) == 2
                ):
                    yield from literals(node.args[1])
                if called in ("FieldError", "FieldError") and node.args:
                    yield from literals(node.args[0])
                if "cli" not in path.parts and "supervisor" not in path.parts:
                    for keyword in node.keywords:
                        if keyword.arg == "fields" and isinstance(keyword.value, ast.Dict):
                            for value in keyword.value.values:
                                yield from literals(value)


def test_every_problem_of_a_field_that_the_code_writes_has_chinese_words() -> None:
    problems = {problem for problem in problems_in_the_code() if problem}
    assert len(problems) > 60
    assert {
        problem for problem in problems if problem_text(problem, Language.ZH) == UNKNOWN_PROBLEM
    } == set()
    assert {
        problem
        for problem in problems
        if not is_chinese(problem_text(problem, Language.ZH).replace("7", ""))
    } <= {"must be a duration in seconds, e.g. 1.5s"} | {p for p in problems if "RFC 3339" in p}


def requests() -> Iterator[Descriptor]:
    for module in (
        order_pb2,
        catalog_pb2,
        statistics_pb2,
        allocation_pb2,
        payment_pb2,
        refund_pb2,
        ledger_pb2,
        callback_pb2,
        channel_account_pb2,
        reconciliation_pb2,
        seckill_pb2,
        activity_pb2,
    ):
        yield from module.DESCRIPTOR.message_types_by_name.values()


def test_every_rule_of_the_contract_has_words_in_both_languages() -> None:
    """By the rules that the contract uses; each kind is written as protovalidate writes it."""
    said = {
        "min_len": "must be at least {} characters",
        "max_len": "must be at most {} characters",
        "min_items": "must contain at least {} item(s)",
        "max_items": "must contain no more than {} item(s)",
        "gte": "must be greater than or equal to {}",
        "max_pairs": "map must be at most {} entries",
    }
    texts = set()
    for message in requests():
        for field in message.fields:
            for kind, rules in rules_of(field).items():
                if kind == "cel":  # brings its own words
                    continue
                for rule, value in rules.items() if isinstance(rules, dict) else [("", rules)]:
                    name = f"{kind}.{rule}" if rule else kind
                    texts.add(
                        (name, rule_text(name, said.get(rule, "does not match `x`").format(value)))
                    )
    for name, text in texts - {
        ("int32.lte", "does not match `x`"),
        ("int64.lte", "does not match `x`"),
        ("repeated.items", "does not match `x`"),
        ("map.keys", "does not match `x`"),
        ("map.values", "does not match `x`"),
    }:
        if "items" in name and "must" not in text:
            continue
        assert FOR_DEVELOPERS.search(text) is None, (name, text)
        assert problem_text(text, Language.ZH) != UNKNOWN_PROBLEM, (name, text)


@pytest.mark.parametrize(
    ("field", "value", "english", "chinese"),
    [
        ("merchant_id", "NO WAY", "is not in the right form", "格式不正确"),
        ("page_size", -1, "must be between 0 and 100", "须在 0 到 100 之间"),
        ("order_id", "", "is required", "必填"),
    ],
)
def test_a_broken_rule_is_told_in_plain_words_of_either_language(
    field: str, value: object, english: str, chinese: str
) -> None:
    given = {"order_id": "ORD1", "merchant_id": "mall"} | {field: value}
    refusal = broken_rules(violations_of(order_pb2.ListOrderRefundsRequest(**given)))  # type: ignore[arg-type]
    assert refusal.fields == {field: english}
    assert problem_text(refusal.fields[field], Language.ZH) == chinese
    assert problem_text(refusal.fields[field], None) == english


def test_a_rule_about_one_thing_speaks_of_one() -> None:
    assert (
        rule_text("string.min_len", "must be at least 1 characters")
        == "must have at least 1 character"
    )
    assert (
        rule_text("repeated.min_items", "must contain at least 2 item(s)")
        == "must have at least 2 items"
    )


def test_a_problem_that_nobody_translated_is_told_without_its_english_words() -> None:
    assert (
        problem_text(InvalidArgument.of("x", "has a `nil` pointer").fields["x"], Language.ZH)
        == UNKNOWN_PROBLEM
    )


# What a payment failed for, and the cashier


@pytest.mark.parametrize(
    ("role", "language", "text"),
    [
        (Role.USER, Language.EN, "You cancelled this payment. No money moved."),
        (Role.USER, Language.ZH, "您已取消支付，没有扣款。"),
        (Role.MERCHANT, Language.ZH, "买家已取消支付，没有扣款。"),
        (Role.ADMIN, None, "The buyer cancelled this payment. No money moved."),
    ],
)
def test_a_buyer_who_cancelled_is_told_that_he_did(
    role: Role, language: Language | None, text: str
) -> None:
    with calling(caller=Caller(role=role), timeout_seconds=5) as call:
        call.language = language
        assert (
            failure_texts.failure_message(Failure(reason=CANCELLED_BY_BUYER, message="x")).message
            == text
        )


@pytest.mark.parametrize(
    "reason",
    [
        "CARD_DECLINED",
        "INSUFFICIENT_FUNDS",
        "PAYMENT_CLOSED",
        "TECH_FAILED",
        "REFUND_FAILED",
        "A_NEW_ONE",
    ],
)
def test_what_a_channel_wrote_is_told_to_no_buyer(reason: str) -> None:
    for language in Language:
        with calling(caller=Caller(role=Role.USER), timeout_seconds=5) as call:
            call.language = language
            text = failure_texts.failure_message(
                Failure(reason=reason, message="E1234: do_not_honor")
            ).message
        assert is_chinese(text) if language is Language.ZH else is_english(text)


@pytest.mark.parametrize(
    ("header", "fits"), [("zh-CN", is_chinese), ("en", is_english), ("", is_english)]
)
def test_the_cashier_speaks_one_language(header: str, fits: object) -> None:
    texts = texts_for(header)
    for field in fields(Texts):
        if field.name != "language":
            value = getattr(texts, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                assert callable(fits)
                assert fits(text), text


def test_a_plus_that_a_query_turned_into_a_space_is_explained() -> None:
    with pytest.raises(FieldError) as refused:
        timestamp_fields("2026-11-29T00:00:00 08:00")
    assert "%2B" in refused.value.problem
    assert "%2B" in problem_text(refused.value.problem, Language.ZH)


def test_a_byte_order_mark_before_json_means_nothing() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == read_json(b'{"a": 1}')


def test_a_longer_text_is_not_taken_for_a_shorter_one_with_a_long_name_in_it() -> None:
    assert problem_text("only 5 units of MUG are left", Language.ZH) == "MUG 仅剩 5 件"
    assert problem_text("only 1 unit of MUG is left", Language.ZH) == "MUG 仅剩 1 件"
    assert problem_text("5 are left", Language.ZH) == "剩余 5"
