"""The OpenAPI document: valid, complete, and the same as what the gateway does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from gateway.openapi import build_document
from gateway.schema import load_schema, message_class
from mesh.call import Role
from mesh.wire_errors import COMMON
from tests.support.sources import ROOT
from tests.support.ticker import ticker_schema

SCHEMA = load_schema()
DOCUMENT = build_document(SCHEMA, development=True)


def operation(method: str, path: str) -> Any:
    return DOCUMENT["paths"][path][method]


def test_the_document_is_valid_openapi_3_1_and_json() -> None:
    validate(DOCUMENT)
    assert json.loads(json.dumps(DOCUMENT))["openapi"] == "3.1.0"


def test_every_door_stands_in_it_and_nothing_else() -> None:
    doors = {
        (rule.verb.lower(), rule.template.text)
        for method in SCHEMA.routed(development=True)
        for rule in method.rules
    }
    assert {(verb, path) for path, verbs in DOCUMENT["paths"].items() for verb in verbs} == doors
    identifiers = [
        entry["operationId"] for verbs in DOCUMENT["paths"].values() for entry in verbs.values()
    ]
    assert len(set(identifiers)) == len(identifiers)


def test_methods_of_development_stand_only_in_developments_document() -> None:
    assert "/payments/generate-signature" in DOCUMENT["paths"]
    assert "/payments/generate-signature" not in build_document(SCHEMA, development=False)["paths"]


def test_every_field_operation_and_service_has_its_comment() -> None:
    for verbs in DOCUMENT["paths"].values():
        for entry in verbs.values():
            assert entry["summary"]
            assert len(entry["description"]) > len(entry["summary"])
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if name != "Error":
            assert all(
                field.get("description") for field in schema.get("properties", {}).values()
            ), name
    assert all(tag["description"] for tag in DOCUMENT["tags"])


def test_public_methods_need_no_token_and_the_others_do() -> None:
    assert operation("get", "/api/v1/products")["security"] == []
    assert {"bearer": []} in operation("post", "/api/v1/orders")["security"]
    assert {"UNAUTHENTICATED", "PERMISSION_DENIED"} <= refusals("post", "/api/v1/orders")
    public = refusals("get", "/api/v1/products")
    assert "UNAUTHENTICATED" not in public
    # one that comes without need is looked at, and a checkout token is for its checkout
    assert {"TOKEN_EXPIRED", "TOKEN_INVALID", "PERMISSION_DENIED"} <= public


def test_an_api_key_is_shown_where_a_merchant_may_call() -> None:
    schemes = DOCUMENT["components"]["securitySchemes"]
    assert (schemes["apiKey"]["in"], schemes["apiKey"]["name"]) == ("header", "X-API-Key")
    assert operation("post", "/api/v1/api-keys")["security"] == [{"bearer": []}, {"apiKey": []}]
    assert operation("post", "/payment/charge")["security"] == [{"bearer": []}]
    assert operation("post", "/api/v1/api-keys:exchange")["security"] == []
    assert {"API_KEY_INVALID", "RATE_LIMITED"} <= refusals("get", "/api/v1/products")


def test_rules_of_the_contract_become_rules_of_the_schema() -> None:
    charge = DOCUMENT["components"]["schemas"]["paymesh.payment.v1.ChargeRequest.Input"]
    assert charge["required"] == ["amount", "order_id"]
    assert charge["additionalProperties"] is False
    assert charge["properties"]["amount"]["pattern"] == r"^[0-9]{1,15}(\.[0-9]{1,3})?$"
    assert "orderNo" in charge["properties"]["order_id"]["description"]
    page_size = next(
        parameter
        for parameter in operation("get", "/api/v1/orders")["parameters"]
        if parameter.get("name") == "page_size"
    )
    assert (
        page_size["in"],
        page_size["required"],
        page_size["schema"]["minimum"],
        page_size["schema"]["maximum"],
    ) == ("query", False, 0, 100)


def test_sensitive_fields_are_only_written() -> None:
    card = DOCUMENT["components"]["schemas"]["paymesh.payment.v1.CreditCard.Input"]
    assert all(field["writeOnly"] for field in card["properties"].values())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("400", "4004001"),
        ("409", "4005002"),
        ("402", "C0301"),
        ("401", "A0201"),
        ("429", "A0501"),
        ("413", "A0105"),
        ("503", "C0100"),
        ("422", "A0402"),
    ],
)
def test_errors_stand_with_their_business_codes(status: str, code: str) -> None:
    assert (
        f"`{code}`"
        in operation("post", "/api/v1/payments/charge")["responses"][status]["description"]
    )


def test_statuses_of_success_are_those_of_the_policy() -> None:
    assert {"200", "202"} <= set(operation("post", "/api/v1/payments/charge")["responses"])
    assert "201" in operation("post", "/api/v1/orders")["responses"]
    assert "200" not in operation("post", "/api/v1/orders")["responses"]


def test_a_path_variable_is_not_asked_for_in_the_body() -> None:
    schema = operation("put", "/api/v1/products/{sku_id}/stock")["requestBody"]["content"][
        "application/json"
    ]["schema"]
    assert list(schema["properties"]) == ["available", "merchant_id"]


def test_raw_bytes_have_no_schema_and_their_headers_are_parameters() -> None:
    callback = operation("post", "/api/v1/callbacks/{channel}")
    assert callback["requestBody"]["content"] == {"*/*": {"schema": {}}}
    names = {parameter.get("name", "shared") for parameter in callback["parameters"]}
    assert names == {"channel", "X-Channel-Timestamp", "X-Channel-Signature", "shared"}


def test_examples_satisfy_their_own_schemas() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for example in schema.get("examples", []):
            jsonschema.Draft202012Validator(
                {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
            ).validate(example)
    for example in DOCUMENT["components"]["examples"].values():
        jsonschema.Draft202012Validator(DOCUMENT["components"]["schemas"]["Error"]).validate(
            example["value"]
        )


def test_what_the_gateway_writes_satisfies_the_schema_of_its_answer() -> None:
    for method in SCHEMA.routed(development=True):
        name = method.output_type.full_name
        if name in DOCUMENT["components"]["schemas"]:
            tree = SCHEMA.encoders.of(method.output_type)(message_class(method.output_type)())
            jsonschema.Draft202012Validator(
                {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
            ).validate(tree)


def test_a_stream_is_described_by_its_events() -> None:
    document = build_document(ticker_schema(), development=True)
    validate(document)
    watch = document["paths"]["/api/v1/ticks/{topic}"]["get"]
    assert "Server-Sent Events" in watch["description"]
    content = watch["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    assert content["text/event-stream"]["schema"]["properties"]["data"] == {
        "$ref": "#/components/schemas/paymesh.ticking.v1.Tick"
    }
    assert {"200", "400", "429", "503"} <= set(watch["responses"])
    assert [parameter.get("name", "shared") for parameter in watch["parameters"]] == [
        "topic",
        "shared",
        "ticks",
    ]
    assert "401" in document["paths"]["/api/v1/my/ticks"]["get"]["responses"]


def success(entry: Any) -> Any:
    status = min(status for status in entry["responses"] if status.startswith("2"))
    return entry["responses"][status].get("content", {}).get("application/json")


ENTRIES = [
    (f"{verb} {path}", entry)
    for path, verbs in DOCUMENT["paths"].items()
    for verb, entry in verbs.items()
]


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[name for name, _ in ENTRIES])
def test_an_answer_has_data_and_a_real_example(name: str, entry: Any) -> None:
    content = success(entry)
    if content is None:
        assert (
            "callbacks" in name
            or "/webhooks/{channel}" in name
            or "/watch" in name
            or "text/event-stream" in str(entry["responses"]["200"])
        )
        return
    data = content["schema"]["properties"]["data"]
    assert "null" not in str(data.get("oneOf", data.get("type", "")))
    example = content["example"]
    jsonschema.Draft202012Validator(
        content["schema"] | {"components": DOCUMENT["components"]}
    ).validate(example)
    assert '"string"' not in json.dumps(example)
    assert '"UNSPECIFIED"' not in json.dumps(example)


def refusals(method: str, path: str) -> set[str]:
    return {
        name.rsplit(".", 1)[1]
        for answer in operation(method, path)["responses"].values()
        for name in answer.get("content", {}).get("application/json", {}).get("examples", {})
    }


def test_an_operation_lists_its_own_errors_alone() -> None:
    charge = refusals("post", "/api/v1/payments/charge")
    assert {
        "CARD_INVALID",
        "CARD_DECLINED",
        "ORDER_ALREADY_PAID",
        "INTERNAL",
        "BODY_TOO_LARGE",
    } <= charge
    assert charge.isdisjoint(
        {
            "REFUND_FAILED",
            "RECONCILIATION_NOT_FOUND",
            "DIFFERENCE_STATE_INVALID",
            "SIGNATURE_INVALID",
            "REFUND_NOT_FOUND",
        }
    )
    read = refusals("get", "/api/v1/payments/{payment_id}")
    assert "PAYMENT_NOT_FOUND" in read
    assert read.isdisjoint(
        {
            "CARD_DECLINED",
            "CARD_INVALID",
            "PAYMENT_IN_PROGRESS",
            "UNSUPPORTED_MEDIA_TYPE",
            "TRANSACTION_ID_FAILED",
        }
    )
    # some of payment_rpc, passed on
    assert {"CHANNEL_NOT_SUPPORTED", "ORDER_EXPIRED"} <= refusals(
        "post", "/api/v1/orders/{order_id}/pay"
    )
    assert refusals("get", "/api/v1/orders").isdisjoint({"ORDER_STATE_INVALID", "OUT_OF_STOCK"})


def test_every_error_names_methods_that_exist() -> None:
    known = {method.policy.method for method in SCHEMA.methods}
    for spec in SCHEMA.errors:
        assert spec.methods <= known, spec.reason
        assert spec.methods or spec.domain == COMMON, spec.reason


def test_other_addresses_are_deprecated_and_their_names_stay() -> None:
    assert "deprecated" not in operation("post", "/api/v1/payments/charge")
    assert operation("post", "/api/v1/payments/charge")["operationId"] == "PaymentService_Charge"
    alias = operation("post", "/payment/charge")
    assert (alias["deprecated"], alias["operationId"]) == (
        True,
        "PaymentService_Charge_at_post_payment_charge",
    )
    for method in SCHEMA.routed(development=True):
        for index, rule in enumerate(method.rules):
            assert operation(rule.verb.lower(), rule.template.text).get(
                "deprecated", False
            ) is bool(index)


def test_services_stand_in_the_order_of_those_who_use_them() -> None:
    names = [tag["name"] for tag in DOCUMENT["tags"]]
    assert names.index("WalletService") < names.index("MerchantService")
    assert names[0] == "CatalogService"
    assert names[-1] == "CallbackService"
    assert (
        names.index("OrderService")
        < names.index("StatisticsService")
        < names.index("LedgerService")
    )


def test_what_is_optional_is_not_required() -> None:
    patch = operation("patch", "/api/v1/products/{sku_id}")["requestBody"]
    assert "required" not in patch["content"]["application/json"]["schema"]
    assert patch["required"] is False
    assert operation("post", "/api/v1/orders/{order_id}/cancel")["requestBody"]["required"] is False
    assert operation("post", "/api/v1/orders")["requestBody"]["required"] is True


def test_a_shop_is_told_to_write_amounts_as_text() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    product = schemas["paymesh.order.v1.CreateProductRequest.StrictInput"]["properties"]["price"]
    assert product["type"] == "string"
    assert schemas["paymesh.payment.v1.ChargeRequest.Input"]["properties"]["amount"]["type"] == [
        "string",
        "number",
    ]
    for method in SCHEMA.routed(development=True):
        if Role.MERCHANT in method.policy.roles and method.rules[0].body == "*":
            entry = operation(method.rules[0].verb.lower(), method.rules[0].template.text)
            body = entry["requestBody"]["content"]["application/json"]["schema"]
            assert "'number'" not in str(
                schemas[body["$ref"].rsplit("/", 1)[1]] if "$ref" in body else body
            )


def test_a_shop_is_told_what_its_bare_integers_mean() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    amount = schemas["paymesh.payment.v1.CreatePaymentRequest.StrictInput"]["properties"]["amount"]
    assert amount["type"] == "string"
    assert "refused with both of its readings" in amount["description"]
    assert "`amount_minor`" in amount["description"]


def test_every_process_makes_the_same_document() -> None:
    """Replicas behind one address answer with one ETag, whatever order their sets have."""
    code = (
        "import json; from gateway.openapi import build_document; "
        "from gateway.schema import load_schema; "
        "print(json.dumps(build_document(load_schema(), development=True), default=str))"
    )
    documents = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (0, 1)
    }
    assert len(documents) == 1
