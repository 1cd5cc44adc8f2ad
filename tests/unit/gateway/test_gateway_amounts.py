"""Bare integers in the amounts of merchants: refused with both readings, or minor units where the
merchant has decided so. The tables of major and minor units are written out by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from paymesh.options.v1 import options_pb2

from gateway.codec import Decoders, FieldError, read_json
from gateway.codec.amounts import BareInteger
from gateway.codec.dialect import field_policy, map_entry
from gateway.schema import SchemaInvalid, load_schema, message_class
from mesh.bounds import rules_of
from mesh.call import Role
from mesh.languages import Language
from mesh.problem_texts import problem_text

SCHEMA = load_schema()
PAYMENT = SCHEMA.pool.FindMessageTypeByName("paymesh.payment.v1.CreatePaymentRequest")
ORDER = SCHEMA.pool.FindMessageTypeByName("paymesh.order.v1.CreateOrderRequest")


def decoded(decoders: Decoders, message: Any, document: str) -> Any:
    return message_class(message)(**decoders.of(message)(read_json(document.encode())))


def refusal(document: str, message: Any = PAYMENT, decoders: Decoders | None = None) -> FieldError:
    with pytest.raises(FieldError) as refused:
        decoded(decoders or SCHEMA.strict_decoders, message, document)
    return refused.value


@pytest.mark.parametrize(
    ("number", "currency", "problem"),
    [
        (
            10000,
            "USD",
            '10000 could be 10000.00 or 100.00 USD: send "amount":"100.00" or "amount_minor":10000',
        ),
        (1, "CNY", '1 could be 1.00 or 0.01 CNY: send "amount":"0.01" or "amount_minor":1'),
        (
            10000,
            "KWD",
            (
                '10000 could be 10000.000 or 10.000 KWD: send "amount":"10.000" or '
                '"amount_minor":10000'
            ),
        ),
        # the same in both readings, and still no text
        (
            10000,
            "JPY",
            (
                "a bare integer could be major or minor units: send "
                '"amount":"10000" or "amount_minor":10000'
            ),
        ),
        (
            0,
            "USD",
            (
                "a bare integer could be major or minor units: send "
                '"amount":"0.00" or "amount_minor":0'
            ),
        ),
        (
            999_999_999_999_999,
            "EUR",
            (
                "999999999999999 could be 999999999999999.00 or 9999999999999.99 EUR: send "
                '"amount":"9999999999999.99" or "amount_minor":999999999999999'
            ),
        ),
    ],
)
def test_a_bare_integer_of_a_merchant_is_refused_with_both_readings(
    number: int, currency: str, problem: str
) -> None:
    for document in (
        f'{{"amount": {number}, "currency": "{currency}"}}',
        f'{{"currency": "{currency}", "amount": {number}}}',
    ):
        mismatch = refusal(document)
        assert (mismatch.field, mismatch.problem) == ("amount", problem)


@pytest.mark.parametrize("currency", ["", ', "currency": "XXX"', ', "currency": null'])
def test_without_a_known_currency_both_fields_are_named(currency: str) -> None:
    mismatch = refusal(f'{{"amount": 10000{currency}}}')
    assert mismatch.problem == (
        '10000 could be in major or in minor units: send "amount" as text or "amount_minor":10000'
    )


def test_a_price_of_a_line_is_read_in_the_currency_of_the_order() -> None:
    mismatch = refusal(
        '{"items": [{"unit_price": "1.00"}, {"unitPrice": 250}], "currency": "EUR"}', ORDER
    )
    assert mismatch.field == "items[1].unitPrice"
    assert mismatch.problem == (
        '250 could be 250.00 or 2.50 EUR: send "unit_price":"2.50" or "unit_price_minor":250'
    )


def test_the_currency_beside_an_amount_counts_before_the_one_around_it() -> None:
    bare = BareInteger(250, "price", "price_minor")
    bare.inside_of({"currency": "?"}, ["currency"], "price")
    bare.inside_of({"currency": "EUR"}, ["currency"], "line")
    bare.inside_of({"currency": "JPY"}, ["currency"], "lines")
    assert bare.field == "lines.line.price"
    assert bare.problem.startswith("250 could be 250.00 or 2.50 EUR")


@pytest.mark.parametrize("decoders", [SCHEMA.strict_decoders, SCHEMA.minor_decoders])
@pytest.mark.parametrize(
    ("literal", "problem"),
    [
        ("-1", "must not be negative"),
        ("1000000000000000", "more than 15 digits"),
        ("100000000000000000000000", "more than 15 digits"),
        ("99.99", 'expected a decimal string in major units such as "99.99"'),
        ("100.0", 'expected a decimal string in major units such as "99.99"'),
        ("1e4", 'expected a decimal string in major units such as "99.99"'),
        ("true", "must be a string"),
        ("[1]", "must be a string"),
        ("{}", "must be a string"),
    ],
)
def test_any_other_amount_that_is_not_text_is_refused_by_name(
    decoders: Decoders, literal: str, problem: str
) -> None:
    mismatch = refusal(f'{{"amount": {literal}, "currency": "USD"}}', decoders=decoders)
    assert (mismatch.field, mismatch.problem) == ("amount", problem)


@pytest.mark.parametrize("decoders", [SCHEMA.strict_decoders, SCHEMA.minor_decoders])
def test_text_and_minor_units_pass_as_they_are(decoders: Decoders) -> None:
    message = decoded(decoders, PAYMENT, '{"amount": "100.00"}')
    assert (message.amount, message.HasField("amount_minor")) == ("100.00", False)
    for value in ("10000", '"10000"'):
        message = decoded(decoders, PAYMENT, f'{{"amountMinor": {value}}}')
        assert (message.amount, message.amount_minor) == ("", 10000)
    # both given: the service refuses it
    message = decoded(decoders, PAYMENT, '{"amount": "100.00", "amount_minor": 10000}')
    assert (message.amount, message.amount_minor) == ("100.00", 10000)


@pytest.mark.parametrize("number", [0, 1, 10000, 999_999_999_999_999])
def test_a_merchant_who_decided_so_writes_minor_units(number: int) -> None:
    message = decoded(SCHEMA.minor_decoders, PAYMENT, f'{{"amount": {number}}}')
    assert (message.amount, message.HasField("amount_minor"), message.amount_minor) == (
        "",
        True,
        number,
    )


def test_so_does_each_amount_of_an_order() -> None:
    document = {
        "items": [{"unit_price": 250}, {"unitPrice": "2.50"}],
        "shipping_fee": 300,
        "discount": 0,
        "amount": 800,
        "currency": "EUR",
    }
    order = decoded(SCHEMA.minor_decoders, ORDER, json.dumps(document))
    assert [(item.unit_price, item.unit_price_minor) for item in order.items] == [
        ("", 250),
        ("2.50", 0),
    ]
    assert (order.shipping_fee_minor, order.discount_minor, order.amount_minor) == (300, 0, 800)
    assert order.HasField("discount_minor")


@pytest.mark.parametrize(
    "document", ['{"amount": 1, "amount_minor": 1}', '{"amount_minor": 1, "amount": 1}']
)
def test_minor_units_are_not_given_twice(document: str) -> None:
    assert "is given twice" in refusal(document, decoders=SCHEMA.minor_decoders).problem


def test_other_numbers_of_a_merchant_are_text_in_both_ways() -> None:
    for decoders in (SCHEMA.strict_decoders, SCHEMA.minor_decoders):
        mismatch = refusal('{"order_id": 5}', decoders=decoders)
        assert (mismatch.field, mismatch.problem) == ("order_id", "must be a string")


def test_a_buyer_writes_major_units_as_before() -> None:
    message = decoded(SCHEMA.decoders, PAYMENT, '{"amount": 100}')
    assert (message.amount, message.HasField("amount_minor")) == ("100", False)


@pytest.mark.parametrize("currency", ["USD", "JPY", "?"])
def test_the_readings_are_told_in_chinese_too(currency: str) -> None:
    problem = refusal(f'{{"amount": 10000, "currency": "{currency}"}}').problem
    text = problem_text(problem, Language.ZH)
    assert '"amount_minor":10000' in text
    assert "could" not in text


@pytest.mark.parametrize("name", ["nowhere", "currency", "amount"])
def test_a_field_of_minor_units_that_is_none_is_found_at_start(name: str) -> None:
    files = descriptor_pb2.FileDescriptorSet(file=SCHEMA.files)
    [request] = [
        message
        for file in files.file
        for message in file.message_type
        if message.name == "CreatePaymentRequest"
    ]
    [field] = [field for field in request.field if field.name == "amount"]
    field.options.Extensions[options_pb2.field].minor_units_field = name
    with pytest.raises(SchemaInvalid, match="minor_units_field joins"):
        load_schema(files.SerializeToString())


def amounts_of(message: Descriptor) -> Iterator[FieldDescriptor]:
    """The amounts in major units that JSON may also write as a number."""
    for field in message.fields:
        if field.message_type is not None and map_entry(field) is None:
            yield from amounts_of(field.message_type)
        elif field_policy(field).number_ok and "\\.[0-9]" in str(rules_of(field)):
            yield field


def test_every_amount_that_a_merchant_writes_may_be_in_minor_units() -> None:
    amounts = {
        f"{method.descriptor.name}.{amount.name}": field_policy(amount).minor_units_field
        for method in SCHEMA.methods
        if Role.MERCHANT in method.policy.roles
        for amount in amounts_of(method.descriptor.input_type)
    }
    assert {"RefundOrder.amount", "CreateOrder.unit_price", "CreateActivity.price"} <= set(amounts)
    assert [name for name, minor_field in amounts.items() if not minor_field] == []
