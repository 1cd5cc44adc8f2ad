"""Every request of the contract has an end, and its texts are what they say."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from paymesh.options.v1 import options_pb2
from paymesh.order.v1 import order_pb2

from mesh.bounds import BoundMissing, Bounds, _plain_rules, is_ascii, options_of, rules_of
from mesh.errors import InvalidArgument
from mesh.policies import PolicyInvalid, load_policies, policy_of
from tests.support.echo import EchoRequest, echo_file

_CONTRACT = Path(options_pb2.__file__).parents[2]


def methods() -> list[MethodDescriptor]:
    modules = [
        importlib.import_module(
            ".".join(("paymesh", *file.relative_to(_CONTRACT).with_suffix("").parts))
        )
        for file in sorted(_CONTRACT.glob("*/v1/*_pb2.py"))
    ]
    return [
        method
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def texts(descriptor: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor, bool]]:
    """Path, field and whether it stands in a list, of every text of a message."""
    for field in descriptor.fields:
        inner = field.message_type
        if field.type == FieldDescriptor.TYPE_STRING:
            yield f"{path}{field.name}", field, field.is_repeated
        elif inner is not None and inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                yield f"{path}{field.name}", field, False
        elif inner is not None and not inner.full_name.startswith("google."):
            for name, text, in_list in texts(inner, f"{path}{field.name}."):
                yield name, text, in_list or field.is_repeated


ALL = methods()


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.full_name)
def test_every_list_map_text_and_bytes_of_a_request_has_a_bound(method: MethodDescriptor) -> None:
    bounds = Bounds(method.input_type)
    # 200 lines with names and attributes, as merchants have them; a message of a provider with its
    # headers
    large = {"CreateOrder": 512, "HandleCallback": 512}
    most = 1024 if _only_siblings_call(method) else large.get(method.name, 72)
    assert bounds.bytes_max <= most * 1024
    assert policy_of(method).max_request_bytes >= bounds.bytes_max


@pytest.mark.parametrize("method", ALL, ids=lambda method: method.full_name)
def test_every_text_of_a_request_is_free_text_or_of_a_strict_pattern(
    method: MethodDescriptor,
) -> None:
    for path, field, in_list in texts(method.input_type):
        rules, own = text_rules(field), options_of(field)
        if "map" in rules_of(field):
            assert is_ascii(key_rules(field)["pattern"]), path
        if own.free_text:
            assert "pattern" not in rules, path
            is_item = in_list and field.type == FieldDescriptor.TYPE_STRING and field.is_repeated
            assert not is_item or _only_siblings_call(method), (
                f"{path}: free text that is an item of a list is not looked at"
            )
        elif own.sensitive and "pattern" not in rules:
            # judged by rules of their own, then hashed, encrypted or dropped
            assert path.startswith("credit_card.") or path in ("password", "credentials"), path
        else:
            assert "in" in rules or is_ascii(rules["pattern"]), path


def text_rules(field: FieldDescriptor) -> Mapping[str, Any]:
    """The rules of a text, of the items of a list, or of the values of a map."""
    rules = rules_of(field)
    inner = rules.get("map", {}).get("values") or rules.get("repeated", {}).get("items")
    found: Mapping[str, Any] = (rules if inner is None else _plain_rules(inner)).get("string", {})
    return found


def key_rules(field: FieldDescriptor) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _plain_rules(rules_of(field)["map"]["keys"])["string"]
    return found


def _only_siblings_call(method: MethodDescriptor) -> bool:
    return all(
        rule.role == options_pb2.ROLE_SERVICE
        for rule in method.GetOptions().Extensions[options_pb2.policy].rules
    )


def test_what_people_explain_may_hold_no_card_number() -> None:
    explaining = {"reason", "remark", "message", "note"}
    for method in ALL:
        for path, field, _ in texts(method.input_type):
            if field.name in explaining:
                assert options_of(field).free_text == options_pb2.FREE_TEXT_REMARK, (
                    f"{method.full_name} {path}"
                )


def test_a_request_without_an_end_stops_the_start_and_every_field_of_it_is_named() -> None:
    with pytest.raises(PolicyInvalid) as failed:
        load_policies(echo_file().services_by_name["EndlessService"])
    for path in ("text", "short_text", "raw", "numbers", "names.key", "names.value", "inner"):
        assert f" {path}" in str(failed.value)
    with pytest.raises(BoundMissing):
        Bounds(echo_file().message_types_by_name["Endless"])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"text": "a" * 33}, "text"),
        ({"inner": {"note": "a" * 401}}, "inner.note"),
        ({"inners": [{}] * 4}, "inners"),
        ({"inners": [{}, {"secret": "a" * 101}]}, "inners[1].secret"),
        ({"counts": {str(n): n for n in range(6)}}, "counts"),
        ({"counts": {"a" * 21: 1}}, "counts key"),
        ({"raw": b"a" * 1001}, "raw"),
    ],
)
def test_what_is_longer_than_its_bound_by_one_is_refused_and_named(
    request_: dict[str, Any], field: str
) -> None:
    bounds = Bounds(EchoRequest.DESCRIPTOR)
    bounds.check(
        EchoRequest(
            text="a" * 32,
            inner={"note": "é" * 400},
            inners=[{"secret": "a" * 100}] * 3,
            raw=b"a" * 1000,
            counts={f"{n}".rjust(20): n for n in range(5)},
        )
    )
    with pytest.raises(InvalidArgument) as failed:
        bounds.check(EchoRequest(**request_))
    assert list(failed.value.fields) == [field]


def test_no_request_that_keeps_the_rules_is_larger_than_its_method_takes() -> None:
    text = "\U0001f600"
    address: Any = {
        "recipient": text * 100,
        "phone": "1" * 32,
        "country": "CN",
        "region": text * 100,
        "city": text * 100,
        "street": text * 300,
        "postal_code": "1" * 12,
    }
    amount = "9" * 15 + ".999"
    item: Any = {
        "sku_id": "s" * 64,
        "unit_price": amount,
        "unit_price_minor": 10**15 - 1,
        "quantity": 2**31 - 1,
        "product_name": text * 200,
        "attributes": {f"{number}".rjust(40, "k"): text * 40 for number in range(5)},
    }
    largest = order_pb2.CreateOrderRequest(
        items=[item] * 200,
        user_id="u" * 64,
        merchant_id="m" * 32,
        client_request_id="c" * 64,
        shipping_address=address,
        shipping_fee=amount,
        discount=amount,
        amount=amount,
        customer_name=text * 100,
        description=text * 500,
        metadata={f"{number}".rjust(40, "k"): text * 500 for number in range(20)},
        notify_url="https://" + "u" * 500,
    )
    most = Bounds(order_pb2.CreateOrderRequest.DESCRIPTOR).bytes_max
    assert most * 3 / 4 < largest.ByteSize() <= most < 512 * 1024


@pytest.mark.parametrize(
    ("pattern", "strict"),
    [
        ("^[a-z]{1,3}$", True),
        (r"^[0-9]{1,15}(\.[0-9]{1,3})?$", True),
        ("^[!-~]{0,9}$", True),
        ("^[A-Za-z0-9_.:@-]*$", True),
        ("^.{1,3}$", False),
        ("^[^a]{1,3}$", False),
        (r"^\w{1,3}$", False),
        (r"^\S{1,3}$", False),
        ("^(?i)[a-z]$", False),
        ("^é$", False),
        (r"^[\w]{1,3}$", False),
        (r"^\p{L}$", False),
    ],
)
def test_a_pattern_is_strict_when_it_names_its_characters(pattern: str, strict: bool) -> None:
    assert is_ascii(pattern) is strict
