"""What a request may hold by its contract: the lists of the decoder, and the size of each method's
body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.codec import Decoders, FieldError, read_json
from gateway.codec.dialect import TIMESTAMP, field_policy, longest, map_entry
from gateway.schema import Method, SchemaInvalid, load_schema
from mesh.bounds import _plain_rules, rules_of
from tests.builders.gateway import FIELD_RULES

SCHEMA = load_schema()
WITH_BODY = [method for method in SCHEMA.methods if any(rule.body == "*" for rule in method.rules)]


class Untouchable(dict[str, object]):
    """An item that must not be looked at."""

    def items(self) -> Any:
        raise AssertionError("an item was decoded")


def order() -> Descriptor:
    return SCHEMA.pool.FindMessageTypeByName("paymesh.order.v1.CreateOrderRequest")


@pytest.mark.parametrize("count", [201, 100_000])
def test_a_list_that_is_too_long_is_refused_before_an_item_is_looked_at(count: int) -> None:
    decode = SCHEMA.decoders.of(order())
    assert len(decode({"items": [{"sku_id": "A"}] * 200})["items"]) == 200
    with pytest.raises(FieldError, match="at most 200 items") as refusal:
        decode({"items": [Untouchable()] * count})
    assert refusal.value.field == "items"


def test_a_map_that_is_too_long_is_refused_before_an_entry_is_looked_at() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="maps.proto", package="maps", syntax="proto3")
    message = file.message_type.add(name="Labels")
    entry = message.nested_type.add(name="LabelsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=1)
    entry.field.add(name="value", number=2, type=9, label=1)
    labels = message.field.add(
        name="labels", number=1, type=11, label=3, type_name=".maps.Labels.LabelsEntry"
    )
    labels.options.Extensions[FIELD_RULES].map.max_pairs = 2
    pool = DescriptorPool()
    pool.Add(file)
    decode = Decoders().of(pool.FindMessageTypeByName("maps.Labels"))
    assert decode({"labels": {"a": "1", "b": "2"}}) == {"labels": {"a": "1", "b": "2"}}
    with pytest.raises(FieldError, match="at most 2 entries"):
        decode({"labels": Untouchable({str(number): "1" for number in range(3)})})


def test_every_list_that_a_caller_may_send_has_an_end() -> None:
    changed = descriptor_pb2.FileDescriptorSet(file=SCHEMA.files)
    request = next(
        message
        for file in changed.file
        for message in file.message_type
        if message.name == "RefundOrderRequest"
    )
    next(found for found in request.field if found.name == "items").options.Extensions[
        FIELD_RULES
    ].repeated.ClearField("max_items")
    with pytest.raises(SchemaInvalid, match=r"RefundOrderRequest: items without a bound"):
        load_schema(changed.SerializeToString())


def longest_text(rules: Mapping[str, Any]) -> int:
    """How many characters a text may have by its rules."""
    if "const" in rules or "in" in rules:
        return max(map(len, [rules.get("const", ""), *rules.get("in", [])]))
    bounds = [rules[name] for name in ("max_len", "len", "max_bytes") if name in rules]
    if "pattern" in rules:
        width = re._parser.parse(rules["pattern"]).getwidth()[1]  # type: ignore[attr-defined]  # no public way to ask a pattern how wide it is
        bounds += [width] if width < 100_000 else []
    return min(bounds)


def largest(message: Descriptor, above: tuple[str, ...] = ()) -> dict[str, object]:
    """The largest tree that the rules of a message allow, in characters that take the most room."""
    return {
        found.name: largest_map(found)
        if map_entry(found)
        else [largest_value(found, above)] * (longest(found) or 1)
        if found.is_repeated
        else largest_value(found, above)
        for found in message.fields
        if found.message_type is None or found.message_type.full_name not in above
    }


def largest_map(found: FieldDescriptor) -> dict[str, str]:
    rules = rules_of(found)["map"]
    key, value = (largest_text(_plain_rules(rules[part])) for part in ("keys", "values"))
    return {f"{number:02}{key[2:]}": value for number in range(int(rules["max_pairs"]))}


def largest_text(rules: Mapping[str, Any]) -> str:
    rules = rules.get("string", {})
    return ("A" if "pattern" in rules else "\N{MONEY BAG}") * longest_text(rules)


def largest_value(found: FieldDescriptor, above: tuple[str, ...]) -> object:
    if (
        found.message_type is not None
        and found.message_type.full_name != TIMESTAMP
        and not found.message_type.full_name.startswith("google.")
    ):
        return largest(found.message_type, (*above, found.message_type.full_name))
    if found.type == FieldDescriptor.TYPE_STRING:
        rules = rules_of(found)
        items = rules.get("repeated", {}).get("items")
        return largest_text(_plain_rules(items) if items is not None else rules)
    return "1970-01-01T00:00:00.000000000+00:00"


@pytest.mark.parametrize("method", WITH_BODY, ids=lambda method: method.policy.method)
def test_the_largest_request_of_a_method_fits_into_its_body(method: Method) -> None:
    body = largest(method.input_type)
    assert len(msgspec.json.encode(body)) <= method.body_bytes_max
    if all(not field_policy(found).sensitive for found in method.input_type.fields):  # indented too
        assert len(json.dumps(body, indent=2, ensure_ascii=False).encode()) <= method.body_bytes_max


def test_most_methods_take_small_bodies_alone() -> None:
    assert {method.body_bytes_max for method in WITH_BODY} == {16 * 1024, 64 * 1024, 512 * 1024}
    assert sorted(
        method.policy.method for method in WITH_BODY if method.body_bytes_max > 16 * 1024
    ) == [
        "CreateApiKey",
        "CreateChannelAccount",
        "CreateOrder",
        "CreatePayment",
        "RefundOrder",
        "UpdateChannelAccount",
        "UpdateSettings",
    ]


@pytest.mark.parametrize(
    "body", [b"[" * 65 + b"]" * 65, b"[" * 60_000, b'{"a":' * 10_000, b"[" * 30_000 + b"]" * 30_000]
)
def test_nesting_has_an_end(body: bytes) -> None:
    with pytest.raises(FieldError, match="deeper than 64"):
        read_json(body)
    read_json(b"[" * 64 + b"]" * 64)


@pytest.mark.parametrize("digits", [5_000, 60_000])
def test_a_number_of_many_digits_is_no_work(digits: int) -> None:
    decode = SCHEMA.decoders.of(order())
    with pytest.raises(FieldError):
        decode(read_json(b'{"items": [{"quantity": %s}]}' % (b"9" * digits)))
