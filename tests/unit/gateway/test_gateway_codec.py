"""The JSON dialect: json_format is the oracle wherever the two must agree; where the dialect
decides otherwise, tables say so.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import msgspec
import pytest
from google.protobuf import (
    descriptor_pb2,
    duration_pb2,
    json_format,
    message_factory,
    timestamp_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec import Decoders, Encoders, FieldError, UnsupportedField, read_json
from gateway.codec.dialect import TIMESTAMP, enum_prefix, map_entry
from gateway.codec.reader import DEPTH_MAX
from gateway.schema import load_schema

Field = FieldDescriptor
SCHEMA = load_schema()
POOL = SCHEMA.pool
ENCODERS, DECODERS = SCHEMA.encoders, SCHEMA.decoders


LOOSE_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.text(max_size=5)
    | st.sampled_from(
        ["12", "-3", "COLOUR_CODE_RED", "2026-01-31T12:00:00Z", "1.5s", "AAA=", "true"]
    ),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["1", "true", "k9_one"]), inner, max_size=2)
    ),
)


def message_class(descriptor: Descriptor) -> Any:
    return message_factory.GetMessageClass(descriptor)


def contract_messages() -> list[Descriptor]:
    """Every message of our own packages that JSON can hold."""
    found = []
    for file in SCHEMA.files:
        if file.package.startswith("paymesh.") and file.package != "paymesh.options.v1":
            for message in file.message_type:
                descriptor = POOL.FindMessageTypeByName(f"{file.package}.{message.name}")
                try:
                    ENCODERS.of(descriptor)
                except UnsupportedField:
                    continue  # it carries raw bytes of a callback
                found.append(descriptor)
    return found


def every_type_file() -> descriptor_pb2.FileDescriptorProto:
    """A message with every kind of field that the dialect speaks, most of which the contract does
    not have yet.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="every.proto",
        package="every.v1",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"],
    )
    colour = file.enum_type.add(name="ColourCode")
    for number, name in enumerate(("UNSPECIFIED", "RED", "BLUE")):
        colour.value.add(name=f"COLOUR_CODE_{name}", number=number)
    every = file.message_type.add(name="Every")
    scalars = [
        Field.TYPE_INT32,
        Field.TYPE_SINT32,
        Field.TYPE_SFIXED32,
        Field.TYPE_UINT32,
        Field.TYPE_FIXED32,
        Field.TYPE_INT64,
        Field.TYPE_SINT64,
        Field.TYPE_SFIXED64,
        Field.TYPE_UINT64,
        Field.TYPE_FIXED64,
        Field.TYPE_BOOL,
        Field.TYPE_STRING,
        Field.TYPE_BYTES,
    ]
    number = 0
    for kind in scalars:
        for label, suffix in ((Field.LABEL_OPTIONAL, "one"), (Field.LABEL_REPEATED, "many")):
            number += 1
            every.field.add(name=f"k{kind}_{suffix}", number=number, type=kind, label=label)
    for name, type_name, kind in (
        ("colour", ".every.v1.ColourCode", Field.TYPE_ENUM),
        ("at", ".google.protobuf.Timestamp", Field.TYPE_MESSAGE),
        ("for_long", ".google.protobuf.Duration", Field.TYPE_MESSAGE),
        ("inner", ".every.v1.Every", Field.TYPE_MESSAGE),
    ):
        for label, suffix in ((Field.LABEL_OPTIONAL, ""), (Field.LABEL_REPEATED, "_list")):
            number += 1
            every.field.add(
                name=name + suffix, number=number, type=kind, label=label, type_name=type_name
            )
    for name, key, value, type_name in (
        ("by_text", Field.TYPE_STRING, Field.TYPE_INT64, ""),
        ("by_flag", Field.TYPE_BOOL, Field.TYPE_STRING, ""),
        ("by_number", Field.TYPE_INT32, Field.TYPE_MESSAGE, ".every.v1.Every"),
        ("colours", Field.TYPE_UINT64, Field.TYPE_ENUM, ".every.v1.ColourCode"),
    ):
        number += 1
        entry_name = "".join(part.title() for part in name.split("_")) + "Entry"
        entry = every.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=key, label=Field.LABEL_OPTIONAL)
        entry.field.add(
            name="value",
            number=2,
            type=value,
            label=Field.LABEL_OPTIONAL,
            **({"type_name": type_name} if type_name else {}),
        )
        every.field.add(
            name=name,
            number=number,
            type=Field.TYPE_MESSAGE,
            label=Field.LABEL_REPEATED,
            type_name=f".every.v1.Every.{entry_name}",
        )
    every.oneof_decl.add(name="_maybe")
    every.field.add(
        name="maybe",
        number=number + 1,
        type=Field.TYPE_STRING,
        label=Field.LABEL_OPTIONAL,
        oneof_index=0,
        proto3_optional=True,
    )
    return file


def pool_of(*files: descriptor_pb2.FileDescriptorProto) -> DescriptorPool:
    pool = DescriptorPool()
    for known in (timestamp_pb2, duration_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        known.DESCRIPTOR.CopyToProto(file)
        pool.Add(file)
    for file in files:
        pool.Add(file)
    return pool


CONTRACT = contract_messages()
EVERY = pool_of(every_type_file()).FindMessageTypeByName("every.v1.Every")
EVERY_ENCODERS, EVERY_DECODERS = Encoders(), Decoders()

INTEGERS = {
    **dict.fromkeys(
        (Field.TYPE_INT32, Field.TYPE_SINT32, Field.TYPE_SFIXED32), st.integers(-(2**31), 2**31 - 1)
    ),
    **dict.fromkeys(
        (Field.TYPE_INT64, Field.TYPE_SINT64, Field.TYPE_SFIXED64), st.integers(-(2**63), 2**63 - 1)
    ),
    **dict.fromkeys((Field.TYPE_UINT32, Field.TYPE_FIXED32), st.integers(0, 2**32 - 1)),
    **dict.fromkeys((Field.TYPE_UINT64, Field.TYPE_FIXED64), st.integers(0, 2**64 - 1)),
}


def values(field: Field, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        if field.message_type.full_name == TIMESTAMP:
            return st.fixed_dictionaries(
                {
                    "seconds": st.integers(-62_135_596_800, 253_402_300_799),
                    "nanos": st.sampled_from([0, 5, 1000, 1_000_000, 999_999_999, 123_456_000]),
                }
            )
        if field.message_type.full_name == "google.protobuf.Duration":
            sign = st.sampled_from([-1, 1])
            return st.tuples(
                sign, st.integers(0, 315_575_999_999), st.sampled_from([0, 7, 20_000, 500_000_000])
            ).map(lambda parts: {"seconds": parts[0] * parts[1], "nanos": parts[0] * parts[2]})
        return arguments(field.message_type, depth + 1)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type in INTEGERS:
        return INTEGERS[field.type]
    if field.type == Field.TYPE_BOOL:
        return st.booleans()
    return st.binary(max_size=20) if field.type == Field.TYPE_BYTES else st.text(max_size=20)


def made_of(kind: Descriptor, fields: dict[str, Any]) -> Message:
    return message_class(kind)(**fields)


def arguments(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of a random message."""
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        entry = map_entry(field)
        is_message = (entry[1] if entry else field).message_type is not None
        if is_message and depth >= 2:
            continue
        if entry is not None:
            value = values(entry[1], depth)
            if entry[1].message_type is not None:
                # what the constructor wants in maps
                value = value.map(partial(made_of, entry[1].message_type))
            optional[field.name] = st.dictionaries(values(entry[0], depth), value, max_size=2)
        elif field.is_repeated:
            optional[field.name] = st.lists(values(field, depth), max_size=3)
        else:
            optional[field.name] = values(field, depth)
    return st.fixed_dictionaries({}, optional=optional)


def messages(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    return arguments(descriptor).map(lambda made: message_class(descriptor)(**made))


def oracle_tree(message: Any) -> Any:
    """What json_format says, adapted where the dialect differs on purpose: enum values lose their
    prefix, what is unset is null.
    """
    return adapt(
        message.DESCRIPTOR,
        json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        ),
    )


def adapt(descriptor: Descriptor, tree: dict[str, Any]) -> dict[str, Any]:
    adapted = dict(tree)
    for field in descriptor.fields:
        entry = map_entry(field)
        if field.name not in tree:
            adapted[field.name] = None
        elif entry is not None:
            adapted[field.name] = {
                key: adapt_value(entry[1], value) for key, value in tree[field.name].items()
            }
        elif field.is_repeated:
            adapted[field.name] = [adapt_value(field, value) for value in tree[field.name]]
        else:
            adapted[field.name] = adapt_value(field, tree[field.name])
    return adapted


def adapt_value(field: Field, value: Any) -> Any:
    if field.enum_type is not None and isinstance(value, str):
        return value.removeprefix(enum_prefix(field.enum_type))
    if field.message_type is not None and isinstance(value, dict):
        return adapt(field.message_type, value)
    return value


def decoded(descriptor: Descriptor, body: bytes, decoders: Decoders = DECODERS) -> Any:
    return message_class(descriptor)(**decoders.of(descriptor)(read_json(body)))


def refusal(name: str, body: bytes | str) -> FieldError:
    with pytest.raises(FieldError) as caught:
        decoded(
            POOL.FindMessageTypeByName(name), body if isinstance(body, bytes) else body.encode()
        )
    return caught.value


CHARGE = "paymesh.payment.v1.ChargeRequest"
ORDER = "paymesh.order.v1.CreateOrderRequest"


class TestAgreesWithTheOracle:
    @given(st.data())
    def test_every_message_of_the_contract_is_written_as_json_format_writes_it(
        self, data: st.DataObject
    ) -> None:
        descriptor = data.draw(st.sampled_from(CONTRACT))
        message = data.draw(messages(descriptor))
        assert json.loads(msgspec.json.encode(ENCODERS.of(descriptor)(message))) == oracle_tree(
            message
        )

    @given(st.data())
    def test_every_message_of_the_contract_is_read_back_from_either_writing(
        self, data: st.DataObject
    ) -> None:
        descriptor = data.draw(st.sampled_from(CONTRACT))
        message = data.draw(messages(descriptor))
        assert decoded(descriptor, json_format.MessageToJson(message).encode()) == message
        assert decoded(descriptor, msgspec.json.encode(ENCODERS.of(descriptor)(message))) == message

    @given(messages(EVERY))
    def test_every_kind_of_field_is_written_and_read_as_json_format_does(
        self, message: Any
    ) -> None:
        tree = EVERY_ENCODERS.of(EVERY)(message)
        assert json.loads(msgspec.json.encode(tree)) == oracle_tree(message)
        assert decoded(EVERY, msgspec.json.encode(tree), EVERY_DECODERS) == message
        assert (
            decoded(EVERY, json_format.MessageToJson(message).encode(), EVERY_DECODERS) == message
        )

    @given(
        st.dictionaries(
            st.sampled_from(
                [name for field in EVERY.fields for name in (field.name, field.json_name)]
            ),
            LOOSE_VALUES,
            max_size=3,
        )
    )
    def test_whatever_both_take_means_the_same(self, tree: dict[str, Any]) -> None:
        body = json.dumps(tree).encode()
        try:
            ours = decoded(EVERY, body, EVERY_DECODERS)
            oracle = json_format.Parse(body, message_class(EVERY)())
        except (FieldError, json_format.ParseError):
            return
        assert ours == oracle


class TestNumbers:
    @pytest.mark.parametrize(
        ("literal", "text"),
        [
            ("100.0", "100.0"),
            ("100.00", "100.00"),
            ("123", "123"),
            ("0", "0"),
            ("99.990000000000001", "99.990000000000001"),
            ("-1", "-1"),
            ("-1.50", "-1.50"),
            ("4111111111111111", "4111111111111111"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ('"007"', "007"),
            ('"NaN"', "NaN"),
        ],
    )
    def test_a_number_stands_in_a_string_field_digit_for_digit(
        self, literal: str, text: str
    ) -> None:
        message = decoded(POOL.FindMessageTypeByName(CHARGE), b'{"amount": %s}' % literal.encode())
        assert message.amount == text

    @pytest.mark.parametrize("literal", ["1e3", "1E3", "1.0e2", "1e400", "-1e-7"])
    def test_an_exponent_is_refused(self, literal: str) -> None:
        mismatch = refusal(CHARGE, f'{{"amount": {literal}}}')
        assert (mismatch.field, mismatch.problem) == (
            "amount",
            "must be written without an exponent",
        )

    @pytest.mark.parametrize("literal", ["true", "[]", "{}", "[1]"])
    def test_nothing_else_passes_for_a_number_or_a_string(self, literal: str) -> None:
        assert refusal(CHARGE, f'{{"amount": {literal}}}').field == "amount"

    def test_a_string_field_without_number_ok_takes_no_number(self) -> None:
        mismatch = refusal(CHARGE, '{"currency": 156}')
        assert (mismatch.field, mismatch.problem) == ("currency", "must be a string")

    def test_minus_zero_is_refused_because_its_sign_would_be_lost(self) -> None:
        assert "-0" in refusal(CHARGE, '{"amount": -0}').problem

    def test_dates_and_negative_numbers_are_not_taken_for_minus_zero(self) -> None:
        message = decoded(
            POOL.FindMessageTypeByName(CHARGE), b'{"order_id": "a-0", "amount": -0.5}'
        )
        assert (message.order_id, message.amount) == ("a-0", "-0.5")

    @pytest.mark.parametrize(
        "literal",
        [
            "2030.0",
            "2.03e3",
            '"2030.0"',
            '" 2030"',
            '"2_030"',
            '"２０３０"',
            "true",
            '""',
            "2147483648",
            '"-2147483649"',
        ],
    )
    def test_an_integer_field_takes_only_integers_of_its_width(self, literal: str) -> None:
        assert (
            refusal(
                CHARGE, f'{{"credit_card": {{"credit_card_expiration_year": {literal}}}}}'
            ).field
            == "credit_card.credit_card_expiration_year"
        )

    def test_a_64_bit_integer_is_taken_as_string_and_as_number_and_given_as_string(self) -> None:
        descriptor = POOL.FindMessageTypeByName("paymesh.order.v1.SetStockRequest")
        for literal in ("9007199254740993", '"9007199254740993"'):
            message = decoded(descriptor, b'{"available": %s}' % literal.encode())
            assert message.available == 9007199254740993
            assert ENCODERS.of(descriptor)(message)["available"] == "9007199254740993"


class TestNames:
    @pytest.mark.parametrize("name", ["order_id", "orderId", "orderNo", "order_no"])
    def test_every_spelling_of_a_field_is_taken(self, name: str) -> None:
        assert (
            decoded(POOL.FindMessageTypeByName(CHARGE), b'{"%s": "ORD1"}' % name.encode()).order_id
            == "ORD1"
        )

    def test_one_field_in_two_spellings_is_refused(self) -> None:
        mismatch = refusal(CHARGE, '{"order_id": "A", "orderNo": "B"}')
        assert mismatch.field == "orderNo"
        assert "order_id" in mismatch.problem

    def test_an_unknown_field_is_named_with_its_place(self) -> None:
        mismatch = refusal(ORDER, '{"items": [{"sku_id": "A"}, {"qty": 1}]}')
        assert (mismatch.field, mismatch.problem) == (
            "items[1].qty",
            "is not a field of this message",
        )

    def test_a_huge_name_is_not_repeated_whole(self) -> None:
        assert len(refusal(CHARGE, json.dumps({"x" * 10_000: 1})).field) < 100

    @pytest.mark.parametrize("value", ["SUCCESS", "PAYMENT_STATE_SUCCESS", 3])
    def test_an_enum_value_is_taken_with_and_without_prefix_and_by_number(
        self, value: object
    ) -> None:
        descriptor = POOL.FindMessageTypeByName("paymesh.payment.v1.Payment")
        message = decoded(descriptor, json.dumps({"state": value}).encode())
        assert ENCODERS.of(descriptor)(message)["state"] == "SUCCESS"

    @pytest.mark.parametrize("value", ["success", "PAID", 77, -1, True, None, 3.0, []])
    def test_other_enum_values_are_refused(self, value: object) -> None:
        if value is None:
            return
        assert (
            refusal("paymesh.payment.v1.Payment", json.dumps({"state": value})).problem
            == "must be a value of PaymentState"
        )

    def test_an_enum_number_that_we_do_not_know_goes_out_as_number(self) -> None:
        descriptor = POOL.FindMessageTypeByName("paymesh.payment.v1.Payment")
        assert ENCODERS.of(descriptor)(message_class(descriptor)(state=77))["state"] == 77

    def test_defaults_are_written_and_unset_messages_are_null(self) -> None:
        descriptor = POOL.FindMessageTypeByName("paymesh.payment.v1.Payment")
        tree = ENCODERS.of(descriptor)(message_class(descriptor)())
        assert list(tree) == [field.name for field in descriptor.fields]
        assert (tree["amount"], tree["state"], tree["version"], tree["card"], tree["paid_at"]) == (
            "",
            "UNSPECIFIED",
            "0",
            None,
            None,
        )

    def test_null_is_the_same_as_absent_but_not_inside_lists(self) -> None:
        assert (
            decoded(POOL.FindMessageTypeByName(CHARGE), b'{"amount": null, "credit_card": null}')
            == message_class(POOL.FindMessageTypeByName(CHARGE))()
        )
        mismatch = refusal(ORDER, '{"items": [null]}')
        assert (mismatch.field, mismatch.problem) == ("items[0]", "must not be null")


class TestDocuments:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ('{"amount": 1, "amount": 2}', "amount"),
            ('{"amount": 1, "\\u0061mount": 2}', "amount"),
            (
                '{"credit_card": {"credit_card_cvv": 1, "credit_card_cvv": 1}}',
                "credit_card.credit_card_cvv",
            ),
            ('{"order_id": "a:b", "user_id": "c:d", "amount": 1, "amount": 1}', "amount"),
            ('{"items": [{"sku_id": "a"}, {"sku_id": "b", "sku_id": "c"}]}', "items[1].sku_id"),
            ('{"x": {"a": 1}, "x": {"a": 1}}', "x"),
        ],
    )
    def test_a_key_that_stands_twice_is_named_with_its_place(self, body: str, field: str) -> None:
        mismatch = refusal(CHARGE, body)
        assert (mismatch.field, mismatch.problem) == (field, "is given twice")

    @given(
        st.dictionaries(
            st.text(max_size=4),
            st.recursive(
                st.integers() | st.text(max_size=6),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
                max_leaves=8,
            ),
        )
    )
    def test_a_document_without_double_keys_is_never_taken_for_one(
        self, tree: dict[str, Any]
    ) -> None:
        assert read_json(json.dumps(tree).encode()) == tree
        assert read_json(json.dumps(tree, ensure_ascii=False).encode()) == tree

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"{",
            b'{"amount": 1,}',
            b'{"amount": 1} x',
            b'{"amount": 1}{"amount": 2}',
            b"{'amount': 1}",
            b'{"amount": NaN}',
            b'{"amount": Infinity}',
            b'{"amount": 01}',
            b'{"amount": +1}',
            b'{"amount": .5}',
            b'{"amount": 1.}',
            b'{"amount": "a\nb"}',
            b'{"amount": "\xff"}',
            b'{"\xff": 1}',
            b'{"amount": "\\ud800"}',
            b'{"amount": "\\udc00\\ud800"}',
            b'{"amount": tru}',
            b"{amount: 1}",
            b'{"amount": ' + b"9" * 5000 + b"}",
            b"/* no */ {}",
            b"\x00",
        ],
    )
    def test_what_is_not_json_is_refused_without_repeating_it(self, body: bytes) -> None:
        mismatch = refusal(CHARGE, body)
        assert mismatch.path == []
        assert mismatch.problem.startswith("is not valid")

    @pytest.mark.parametrize(
        ("body", "problem"),
        [(b"[]", "must be an object"), (b'"x"', "must be an object"), (b"1", "must be an object")],
    )
    def test_a_document_of_another_type_is_refused(self, body: bytes, problem: str) -> None:
        assert refusal(CHARGE, body).problem == problem

    @pytest.mark.parametrize(
        ("body", "field", "problem"),
        [
            ('{"credit_card": []}', "credit_card", "must be an object"),
            ('{"credit_card": "4111"}', "credit_card", "must be an object"),
            ('{"items": {}}', "items", "must be a list"),
            ('{"items": [1]}', "items[0]", "must be an object"),
            ('{"items": [{"quantity": "many"}]}', "items[0].quantity", "must be an integer"),
        ],
    )
    def test_a_wrong_type_is_named_with_its_place(
        self, body: str, field: str, problem: str
    ) -> None:
        mismatch = refusal(ORDER if "items" in body else CHARGE, body)
        assert (mismatch.field, mismatch.problem) == (field, problem)

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_nesting_ends_at_64_levels(self, opening: str) -> None:
        closing = "]" if opening == "[" else "}"
        assert (
            read_json(
                (
                    opening * DEPTH_MAX + ("1" if opening != "[" else "") + closing * DEPTH_MAX
                ).encode()
            )
            is not None
        )
        for depth in (DEPTH_MAX + 1, 1000, 100_000):
            with pytest.raises(FieldError, match="nested deeper"):
                read_json(
                    (opening * depth + ("1" if opening != "[" else "") + closing * depth).encode()
                )

    def test_refusals_never_repeat_a_value(self) -> None:
        for member in (
            '"credit_card_number": [4111111111111111]',
            '"credit_card_expiration_year": "4111111111111111"',
        ):
            assert "4111" not in refusal(CHARGE, f'{{"credit_card": {{{member}}}}}').problem


class TestTimes:
    @pytest.mark.parametrize(
        ("text", "seconds", "nanos"),
        [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-01-31T12:00:00+02:00", 1769853600, 0),
            ("1969-12-31T23:59:59.000000001Z", -1, 1),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
        ],
    )
    def test_a_time_is_rfc_3339_with_an_offset(self, text: str, seconds: int, nanos: int) -> None:
        at = decoded(EVERY, json.dumps({"at": text}).encode(), EVERY_DECODERS).at
        assert (at.seconds, at.nanos) == (seconds, nanos)

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-02-30T12:00:00Z",
            "2026-01-31T12:00:60Z",
            "2026-01-31 12:00:00Z",
            "2026-01-31T12:00:00.1234567890Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-01:00",
            "２026-01-31T12:00:00Z",
            "",
            1,
            True,
        ],
    )
    def test_anything_else_is_no_time(self, text: object) -> None:
        with pytest.raises(FieldError) as caught:
            decoded(EVERY, json.dumps({"at": text}).encode(), EVERY_DECODERS)
        assert caught.value.field == "at"

    @pytest.mark.parametrize(
        "text", ["1", "s", "1.s", "-", "1.5", "1e3s", "315576000001s", "1.1234567890s", 5]
    )
    def test_anything_but_seconds_is_no_duration(self, text: object) -> None:
        with pytest.raises(FieldError):
            decoded(EVERY, json.dumps({"for_long": text}).encode(), EVERY_DECODERS)

    def test_a_time_out_of_range_cannot_be_written(self) -> None:
        with pytest.raises(ValueError, match="out of range"):
            EVERY_ENCODERS.of(EVERY)(message_class(EVERY)(at={"seconds": 253_402_300_800}))


class TestBytesAndMaps:
    @pytest.mark.parametrize("text", ["+/8=", "-_8=", "-_8"])
    def test_bytes_are_base64_of_either_alphabet(self, text: str) -> None:
        field = next(
            field.name
            for field in EVERY.fields
            if field.type == Field.TYPE_BYTES and not field.is_repeated
        )
        assert (
            getattr(decoded(EVERY, json.dumps({field: text}).encode(), EVERY_DECODERS), field)
            == b"\xfb\xff"
        )

    @pytest.mark.parametrize("text", ["?", "a", "+/8=x", 1])
    def test_other_text_is_no_bytes(self, text: object) -> None:
        field = next(
            field.name
            for field in EVERY.fields
            if field.type == Field.TYPE_BYTES and not field.is_repeated
        )
        with pytest.raises(FieldError, match="must be base64"):
            decoded(EVERY, json.dumps({field: text}).encode(), EVERY_DECODERS)

    @pytest.mark.parametrize(
        ("tree", "field"),
        [
            ({"by_flag": {"yes": "x"}}, "by_flag.yes"),
            ({"by_number": {"1.5": {}}}, "by_number.1.5"),
            ({"by_text": {"a": None}}, "by_text.a"),
            ({"by_text": []}, "by_text"),
        ],
    )
    def test_a_map_names_the_bad_key(self, tree: object, field: str) -> None:
        with pytest.raises(FieldError) as caught:
            decoded(EVERY, json.dumps(tree).encode(), EVERY_DECODERS)
        assert caught.value.field == field


class TestUnspoken:
    @pytest.mark.parametrize(
        ("kind", "type_name"),
        [
            (Field.TYPE_DOUBLE, ""),
            (Field.TYPE_FLOAT, ""),
            (Field.TYPE_MESSAGE, ".google.protobuf.Any"),
        ],
    )
    def test_floats_and_other_well_known_types_have_no_form(
        self, kind: int, type_name: str
    ) -> None:
        any_file = descriptor_pb2.FileDescriptorProto(
            name="google/protobuf/any.proto", package="google.protobuf", syntax="proto3"
        )
        any_file.message_type.add(name="Any")
        file = descriptor_pb2.FileDescriptorProto(
            name="odd.proto", package="odd.v1", syntax="proto3", dependency=[any_file.name]
        )
        file.message_type.add(name="Odd").field.add(
            name="odd",
            number=1,
            type=kind,
            label=Field.LABEL_OPTIONAL,
            **({"type_name": type_name} if type_name else {}),
        )
        odd = pool_of(any_file, file).FindMessageTypeByName("odd.v1.Odd")
        for compilers in (Encoders(), Decoders()):
            for _ in range(2):  # a failed compilation leaves nothing behind
                with pytest.raises(UnsupportedField, match=r"odd\.v1\.Odd\.odd"):
                    compilers.of(odd)

    def test_a_oneof_has_no_form(self) -> None:
        file = descriptor_pb2.FileDescriptorProto(
            name="odd.proto", package="odd.v1", syntax="proto3"
        )
        odd = file.message_type.add(name="Odd")
        odd.oneof_decl.add(name="choice")
        for number, name in enumerate(("this", "that"), 1):
            odd.field.add(
                name=name,
                number=number,
                type=Field.TYPE_STRING,
                label=Field.LABEL_OPTIONAL,
                oneof_index=0,
            )
        with pytest.raises(UnsupportedField, match="oneofs"):
            Decoders().of(pool_of(file).FindMessageTypeByName("odd.v1.Odd"))
