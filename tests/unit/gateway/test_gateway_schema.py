"""The lint of the contract: the committed one passes, and each rule refuses a descriptor set that
breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from paymesh.options.v1 import options_pb2

from gateway.routes import Router, TemplateInvalid
from gateway.schema import Schema, SchemaInvalid, load_schema
from tests.support.ticker import descriptor_set, ticker_schema

Files = descriptor_pb2.FileDescriptorSet
Options = descriptor_pb2.MethodOptions
HTTP = annotations_pb2.http
POLICY = options_pb2.policy


def files() -> Files:
    return Files.FromString(resources.files("paymesh").joinpath("descriptors.binpb").read_bytes())


def method(of: Files, name: str) -> descriptor_pb2.MethodDescriptorProto:
    return next(
        method
        for file in of.file
        for service in file.service
        for method in service.method
        if method.name == name
    )


def field(of: Files, message: str, name: str) -> descriptor_pb2.FieldDescriptorProto:
    return next(
        field
        for file in of.file
        for found in file.message_type
        if found.name == message
        for field in found.field
        if field.name == name
    )


def broken(change: Callable[[Options], object], name: str = "Charge") -> str:
    """What the lint says of the contract when one method's options are changed."""
    changed = files()
    change(method(changed, name).options)
    with pytest.raises(SchemaInvalid) as refusal:
        load_schema(changed.SerializeToString())
    return str(refusal.value)


def routes(schema: Schema) -> Router[str]:
    """Every route of a contract. Raises TemplateInvalid for a clash."""
    router: Router[str] = Router()
    for found in schema.routed(development=True):
        for rule in found.rules:
            router.add(rule.verb, rule.template, found.policy.path)
    return router


def test_the_committed_contract_is_sound_and_has_no_clash() -> None:
    schema = load_schema()
    assert {found.policy.served_by for found in schema.methods} == {
        "merchant_rpc",
        "order_rpc",
        "payment_rpc",
        "seckill_rpc",
    }
    assert len(list(routes(schema))) > 15


def test_methods_of_development_have_no_door_elsewhere() -> None:
    schema = load_schema()
    hidden = {found.policy.method for found in schema.routed(development=True)} - {
        found.policy.method for found in schema.routed(development=False)
    }
    assert hidden == {"GenerateSignature"}


def test_methods_between_services_have_no_door() -> None:
    schema = load_schema()
    update = next(found for found in schema.methods if found.policy.method == "UpdateOrderStatus")
    assert update.rules == ()
    assert update not in set(schema.routed(development=True))


def test_a_door_to_a_method_between_services_is_refused() -> None:
    def open_it(options: Options) -> None:
        options.Extensions[HTTP].post = "/api/v1/status"
        options.Extensions[HTTP].body = "*"

    assert "only for services" in broken(open_it, "UpdateOrderStatus")


def test_a_method_without_rules_is_refused_by_its_name() -> None:
    assert "Charge" in broken(lambda options: options.Extensions[POLICY].ClearField("rules"))


def test_every_problem_is_told_at_once() -> None:
    def spoil(options: Options) -> None:
        options.Extensions[HTTP].body = "nothing"
        options.Extensions[POLICY].http.success_status = 404

    text = broken(spoil)
    assert "404 is not a status of a success" in text
    assert "has no field nothing" in text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("/a/{order}", "order is not a single value"),
        ("/a/{credit_card}", "credit_card is not a single value"),
        ("/a/{credit_card.credit_card_number}", "is sensitive"),
        ("/a/{order_id}/{order_id}", "a variable stands twice"),
        ("/a/*", "neither a literal"),
    ],
)
def test_a_path_that_does_not_bind_is_refused(template: str, problem: str) -> None:
    def change(options: Options) -> None:
        options.Extensions[HTTP].post = template

    assert problem in broken(change)


def test_a_list_in_a_path_is_refused() -> None:
    def change(options: Options) -> None:
        options.Extensions[HTTP].post = "/a/{items}"

    assert "items is not a single value" in broken(change, "CreateOrder")


def test_a_body_on_a_get_is_refused() -> None:
    def change(options: Options) -> None:
        options.Extensions[HTTP].get = "/a"

    assert "GET has no body" in broken(change)


def test_a_response_body_that_is_not_there_is_refused() -> None:
    def change(options: Options) -> None:
        options.Extensions[HTTP].response_body = "nothing"

    assert "has no field nothing" in broken(change)


def test_a_custom_verb_is_refused() -> None:
    def change(options: Options) -> None:
        options.Extensions[HTTP].custom.kind = "PURGE"

    assert "one of get, put, post" in broken(change)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("payment.amount", "X", "is not an enum"),
        ("payment.nothing", "X", "is not an enum"),
        ("payment.state", "PAYED", "PAYED is not a value"),
    ],
)
def test_a_status_by_a_value_that_is_not_there_is_refused(
    path: str, value: str, problem: str
) -> None:
    def change(options: Options) -> None:
        options.Extensions[POLICY].http.status_by_enum[0].field = path
        options.Extensions[POLICY].http.status_by_enum[0].value = value

    assert problem in broken(change)


def test_a_header_that_fills_a_sensitive_field_is_refused() -> None:
    def change(options: Options) -> None:
        options.Extensions[POLICY].http.headers.add(
            header="x-cvv", field="credit_card.credit_card_cvv"
        )

    assert "is sensitive" in broken(change)


def test_a_stream_of_requests_is_refused() -> None:
    changed = files()
    method(changed, "GetPayment").client_streaming = True
    with pytest.raises(SchemaInvalid, match="streaming requests are not carried"):
        load_schema(changed.SerializeToString())


def test_a_stream_of_answers_is_carried() -> None:
    assert {
        found.policy.method: found.policy.server_streaming for found in ticker_schema().methods
    } == {"Watch": True, "WatchMine": True}


def _by_post(options: Options) -> None:
    options.Extensions[HTTP].post = "/api/v1/watch"


def _with_effects(options: Options) -> None:
    options.idempotency_level = Options.IDEMPOTENT


def _with_key(options: Options) -> None:
    options.Extensions[POLICY].idempotency = options_pb2.IDEMPOTENCY_OPTIONAL


def _created(options: Options) -> None:
    options.Extensions[POLICY].http.success_status = 201


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_by_post, "opened by GET alone"),
        (_with_effects, "has NO_SIDE_EFFECTS"),
        (_with_key, "no idempotency key"),
        (_created, "is always 200"),
    ],
)
def test_a_stream_that_http_cannot_carry_is_refused(
    change: Callable[[Options], None], problem: str
) -> None:
    changed = Files.FromString(descriptor_set())
    change(method(changed, "Watch").options)
    with pytest.raises(SchemaInvalid, match=problem):
        load_schema(changed.SerializeToString())


def test_a_stream_of_raw_bytes_is_refused() -> None:
    changed = Files.FromString(descriptor_set())
    method(changed, "Watch").output_type = ".google.api.HttpBody"
    next(file for file in changed.file if file.name == "ticker.proto").dependency.append(
        "google/api/httpbody.proto"
    )
    with pytest.raises(SchemaInvalid, match="raw bytes are not events"):
        load_schema(changed.SerializeToString())


def test_two_fields_with_one_spelling_are_refused() -> None:
    changed = files()
    field(changed, "ChargeRequest", "user_id").options.Extensions[
        options_pb2.field
    ].json_alias.append("orderNo")
    with pytest.raises(SchemaInvalid, match="orderNo means both order_id and user_id"):
        load_schema(changed.SerializeToString())


def test_number_ok_on_a_number_is_refused() -> None:
    changed = files()
    field(changed, "SetStockRequest", "available").options.Extensions[
        options_pb2.field
    ].number_ok = True
    with pytest.raises(SchemaInvalid, match="number_ok is for strings"):
        load_schema(changed.SerializeToString())


def test_a_float_in_the_contract_is_refused() -> None:
    changed = files()
    field(changed, "Payment", "amount").type = descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE
    with pytest.raises(SchemaInvalid, match=r"Payment\.amount: floats"):
        load_schema(changed.SerializeToString())


def test_two_methods_on_one_path_are_refused_when_routes_are_made() -> None:
    changed = files()
    method(changed, "CreatePayment").options.Extensions[HTTP].post = "/api/v1/payments/charge"
    schema = load_schema(changed.SerializeToString())
    with pytest.raises(TemplateInvalid, match="/api/v1/payments/charge"):
        routes(schema)
