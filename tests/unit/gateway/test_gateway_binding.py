"""Requests put together from path, headers, query and body: each field from one place, every
refusal by its name.
"""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from paymesh.options.v1 import options_pb2

from gateway.binding import QUERY_PARAMETERS_MAX, Binder
from gateway.errors import MalformedBody
from gateway.schema import load_schema, message_class
from mesh.errors import InvalidArgument
from tests.builders.gateway import FIELD_RULES

SCHEMA = load_schema()


def bind(
    method: str,
    *,
    door: int = 0,
    values: tuple[bytes, ...] = (),
    query: bytes = b"",
    headers: dict[bytes, bytes] | None = None,
    body: bytes = b"",
    content_type: bytes = b"",
) -> Any:
    found = next(candidate for candidate in SCHEMA.methods if candidate.policy.method == method)
    binder = Binder(found, found.rules[door], SCHEMA.decoders)
    raw = binder.bind(
        values=values, query=query, headers=headers or {}, body=body, content_type=content_type
    )
    return message_class(found.input_type).FromString(raw)


def refused(kind: type[Any], method: str, **parts: Any) -> dict[str, str]:
    with pytest.raises(kind) as refusal:
        bind(method, **parts)
    assert all(name in str(refusal.value) for name in refusal.value.fields)
    return refusal.value.fields


def test_a_path_variable_fills_its_field_decoded() -> None:
    assert bind("GetOrder", values=(b"a%2Fb",)).order_id == "a/b"


def test_a_path_variable_that_is_not_utf_8_is_named() -> None:
    assert refused(InvalidArgument, "GetOrder", values=(b"%FF",)) == {
        "order_id": "is not valid UTF-8"
    }


def test_query_parameters_fill_the_other_fields_in_every_spelling() -> None:
    for query in (
        b"order_id=X&page_size=5&page_token=a%2Bb",
        b"orderNo=X&pageSize=5&pageToken=a%2Bb",
    ):
        request = bind("ListPayments", query=query)
        assert (request.order_id, request.page_size, request.page_token) == ("X", 5, "a+b")


def test_an_enum_in_the_query_is_taken_by_name_and_by_number() -> None:
    for text in (b"PAID", b"ORDER_STATE_PAID", b"2"):
        assert bind("ListOrders", query=b"state=" + text).state == 2


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (b"nothing=1", {"nothing": "is not a query parameter of this path"}),
        (b"page_size=many", {"page_size": "must be an integer"}),
        (b"page_size=", {"page_size": "must be an integer"}),
        (b"page_size=99999999999", {"page_size": "must be between -2147483648 and 2147483647"}),
        (b"page_size=1&page_size=2", {"page_size": "is given twice"}),
        (b"page_size=1&pageSize=1", {"pageSize": "is given twice"}),
        (b"state=paid", {"state": "must be a value of OrderState"}),
        (b"page_token=%FF", {"query": "is not percent-encoded UTF-8"}),
        (b"page_token=\xff", {"query": "is not percent-encoded UTF-8"}),
        (
            b"&".join(b"a=1" for _ in range(QUERY_PARAMETERS_MAX + 1)),
            {"query": f"has more than {QUERY_PARAMETERS_MAX} parameters"},
        ),
    ],
)
def test_a_bad_query_names_its_parameter(query: bytes, fields: dict[str, str]) -> None:
    assert refused(InvalidArgument, "ListOrders", query=query) == fields


def test_a_field_of_the_path_is_not_taken_from_the_query() -> None:
    assert refused(InvalidArgument, "GetOrder", values=(b"A",), query=b"order_id=B") == {
        "order_id": "is part of the path"
    }


def test_a_path_with_a_whole_body_takes_no_query() -> None:
    body = b'{"items": [{"sku_id": "A", "quantity": 1}]}'
    assert refused(InvalidArgument, "CreateOrder", query=b"user_id=u1", body=body) == {
        "user_id": "is not a query parameter of this path"
    }


def test_a_body_may_repeat_the_path_and_must_not_contradict_it() -> None:
    assert bind("SetStock", values=(b"A",), body=b'{"available": 5, "skuId": "A"}').sku_id == "A"
    assert refused(
        InvalidArgument, "SetStock", values=(b"A",), body=b'{"available": 5, "skuId": "B"}'
    ) == {"sku_id": "differs from the path"}


def test_no_body_is_an_empty_message() -> None:
    assert bind("CancelOrder", values=(b"ORD1",)).order_id == "ORD1"
    assert (
        bind("Charge")
        == message_class(SCHEMA.pool.FindMessageTypeByName("paymesh.payment.v1.ChargeRequest"))()
    )


@pytest.mark.parametrize("body", [b"  ", b"\n"])
def test_a_blank_body_is_no_json(body: bytes) -> None:
    assert refused(MalformedBody, "Charge", body=body) == {"body": "is blank"}


def test_the_body_may_repeat_what_a_header_says_and_must_not_contradict_it() -> None:
    ticket = {b"x-channel-timestamp": b"17"}
    assert (
        bind(
            "SeckillAction",
            headers={b"idempotency-key": b"R1"},
            body=b'{"sku_id": "A", "request_id": "R1"}',
        ).request_id
        == "R1"
    )
    problem = refused(
        InvalidArgument,
        "SeckillAction",
        headers={b"idempotency-key": b"R1"},
        body=b'{"sku_id": "A", "request_id": "R2"}',
    )
    assert problem == {"request_id": "differs from the header idempotency-key"}
    assert bind("HandleCallback", values=(b"sandbox",), headers=ticket).timestamp == "17"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"null", {"body": "must not be null"}),
        (b"[]", {"body": "must be an object"}),
        (b'{"cvv": 1}', {"cvv": "is not a field of this message"}),
        (b'{"amount": 1, "amount": 1}', {"amount": "is given twice"}),
        (b"{", {"body": "is not valid JSON: Input data was truncated"}),
    ],
)
def test_a_bad_body_names_its_place(body: bytes, fields: dict[str, str]) -> None:
    assert refused(MalformedBody, "Charge", body=body) == fields


def test_raw_bytes_and_headers_go_where_the_contract_says() -> None:
    request = bind(
        "HandleCallback",
        values=(b"sandbox",),
        headers={b"x-channel-timestamp": b"17", b"x-channel-signature": b"abc"},
        body=b"\x00not json",
        content_type=b"text/plain",
    )
    assert (request.channel, request.timestamp, request.signature) == ("sandbox", "17", "abc")
    assert (request.body.data, request.body.content_type) == (b"\x00not json", "text/plain")


def test_raw_bytes_may_be_none() -> None:
    assert bind("HandleCallback", values=(b"sandbox",)).body.data == b""


def test_a_field_of_a_header_is_not_taken_from_the_query() -> None:
    assert refused(
        InvalidArgument, "HandleCallback", values=(b"sandbox",), query=b"signature=abc"
    ) == {"signature": "is taken from the header x-channel-signature"}


def test_a_header_that_is_not_utf_8_is_named() -> None:
    assert refused(
        InvalidArgument,
        "HandleCallback",
        values=(b"sandbox",),
        headers={b"x-channel-signature": b"\xff"},
    ) == {"signature": "is not valid UTF-8"}


class TestShapesThatTheContractDoesNotHaveYet:
    """Nested path variables, lists and messages in a query, a body in one field."""

    @staticmethod
    def binder(**rule: str) -> tuple[Binder, Any]:
        files = descriptor_pb2.FileDescriptorSet(file=SCHEMA.files)
        odd = descriptor_pb2.FileDescriptorProto(
            name="odd.proto",
            package="paymesh.odd.v1",
            syntax="proto3",
            dependency=[
                "buf/validate/validate.proto",
                "paymesh/options/v1/options.proto",
                "google/api/annotations.proto",
                "google/protobuf/timestamp.proto",
            ],
        )
        deeper = odd.message_type.add(name="Deeper")
        inner = odd.message_type.add(name="Inner")
        for part in (deeper, inner):
            part.field.add(name="id", number=1, type=9, label=1).options.Extensions[
                FIELD_RULES
            ].string.max_len = 20
        inner.field.add(name="count", number=2, type=5, label=1)
        inner.field.add(
            name="deeper", number=3, type=11, label=1, type_name=".paymesh.odd.v1.Deeper"
        )
        outer = odd.message_type.add(name="Outer")
        outer.field.add(name="inner", number=1, type=11, label=1, type_name=".paymesh.odd.v1.Inner")
        tags = (
            outer.field.add(name="tags", number=2, type=9, label=3)
            .options.Extensions[FIELD_RULES]
            .repeated
        )
        tags.max_items = 3
        tags.items.string.max_len = 20
        outer.field.add(
            name="since", number=3, type=11, label=1, type_name=".google.protobuf.Timestamp"
        )
        outer.field.add(name="flag", number=4, type=8, label=1)
        secret = outer.field.add(name="secret", number=5, type=9, label=1).options
        secret.Extensions[options_pb2.field].sensitive = True
        secret.Extensions[FIELD_RULES].string.max_len = 20
        service = odd.service.add(name="OddService")
        service.options.Extensions[options_pb2.served_by] = "order_rpc"
        method = service.method.add(
            name="Odd", input_type=".paymesh.odd.v1.Outer", output_type=".paymesh.odd.v1.Outer"
        )
        policy = method.options.Extensions[options_pb2.policy]
        policy.rules.add(role=options_pb2.ROLE_PUBLIC)
        policy.ownership.kind = options_pb2.OWNERSHIP_KIND_NONE
        policy.timeout.seconds = 1
        policy.idempotency = options_pb2.IDEMPOTENCY_NONE
        from google.api import annotations_pb2

        for name, value in rule.items():
            setattr(method.options.Extensions[annotations_pb2.http], name, value)
        files.file.append(odd)
        schema = load_schema(files.SerializeToString())
        found = next(candidate for candidate in schema.methods if candidate.policy.method == "Odd")
        return Binder(found, found.rules[0], schema.decoders), message_class(found.input_type)

    def bind(self, rule: dict[str, str], **parts: Any) -> Any:
        binder, kind = self.binder(**rule)
        return kind.FromString(
            binder.bind(
                **{"values": (), "query": b"", "headers": {}, "body": b"", "content_type": b""}
                | parts
            )
        )

    def test_a_nested_variable_and_the_body_meet_in_one_message(self) -> None:
        request = self.bind(
            {"post": "/odd/{inner.id}", "body": "*"},
            values=(b"x",),
            body=b'{"inner": {"count": 2}}',
        )
        assert (request.inner.id, request.inner.count) == ("x", 2)

    def test_a_query_reaches_into_messages_collects_lists_and_reads_times(self) -> None:
        request = self.bind(
            {"get": "/odd/{inner.id}"},
            values=(b"x",),
            query=b"inner.count=3&tags=a&tags=b&since=1970-01-01T00%3A00%3A05Z&flag=true&inner.deeper.id=y",
        )
        assert (request.inner.id, request.inner.count, request.inner.deeper.id) == ("x", 3, "y")
        assert (list(request.tags), request.since.seconds, request.flag) == (["a", "b"], 5, True)

    def test_a_sensitive_field_is_never_taken_from_a_query(self) -> None:
        with pytest.raises(InvalidArgument, match="secret"):
            self.bind({"get": "/odd"}, query=b"secret=1")

    def test_a_body_in_one_field_leaves_the_others_to_the_query(self) -> None:
        request = self.bind(
            {"post": "/odd", "body": "inner"}, body=b'{"id": "x"}', query=b"flag=true"
        )
        assert (request.inner.id, request.flag) == ("x", True)
        with pytest.raises(InvalidArgument, match=r"inner\.count"):
            self.bind(
                {"post": "/odd", "body": "inner"}, body=b'{"id": "x"}', query=b"inner.count=1"
            )

    def test_a_body_that_is_a_list_fills_its_field(self) -> None:
        assert list(self.bind({"post": "/odd", "body": "tags"}, body=b'["a", "b"]').tags) == [
            "a",
            "b",
        ]

    def test_a_list_of_a_query_has_its_end_too(self) -> None:
        assert len(self.bind({"get": "/odd"}, query=b"tags=a&tags=b&tags=c").tags) == 3
        with pytest.raises(InvalidArgument, match="at most 3 items"):
            self.bind({"get": "/odd"}, query=b"tags=a&tags=b&tags=c&tags=d")
