"""The document: one operation for each HTTP rule of each method, with who may call it, what it takes
and what it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.codec.dialect import HTTP_BODY, field_policy
from gateway.openapi.comments import read_comments
from gateway.openapi.examples import Examples
from gateway.openapi.responses import Node, Responses, error_schema
from gateway.openapi.schemas import Direction, Schemas, is_required
from gateway.schema import HttpRule, Method, Schema, body_type, find_field
from mesh.call import Role
from mesh.policies import Idempotency

_DESCRIPTION: Final = """Payments, orders and flash sales over HTTP. Every method here is a gRPC method of the same name.

Answers are `{"code": "00000", "message": "success", "data": …, "trace_id": "…"}`. A refusal has the fitting HTTP status, its business code,
`data: null` and `details` with a `reason`, which is the stable contract. Its `message` is one sentence for a buyer, in English or Chinese as
`Accept-Language` prefers (`zh` or `en`, with weights); without the header it is English, but for those reasons whose Chinese text other documents
promise, such as 余额不足. What exactly was refused is told to developers in `details.explanation`, always in English; never show it to buyers.

Amounts are decimal strings in major units. `X-Request-Id` and `traceparent`
are honoured and returned. In a request, `null` is the same as leaving a field out, and a value of an enumeration may also be written with its prefix
or as its number. A request without required fields needs no body.

A method with many answers is a stream of Server-Sent Events. Each answer is an event without a name (`onmessage` of `EventSource`): `id:` counts
from 1, `data:` holds the envelope above on one line. A stream that is over ends with an event `end` whose envelope has no data; one that broke ends
with an event `error` whose `data:` is the envelope of the refusal. What is refused before the first event is an ordinary refusal with its HTTP
status. Comments (`: ping`) break long silence. `Last-Event-ID` is not looked at: a stream that is opened again begins anew. `EventSource` opens a
stream again by itself: close it at `end`.
"""
_ACCEPT_LANGUAGE: Final[Node] = {
    "name": "Accept-Language",
    "in": "header",
    "required": False,
    "description": "The language of texts for buyers: `zh` or `en`, with weights.",
    "schema": {"type": "string", "examples": ["zh-CN,zh;q=0.9,en;q=0.5"]},
}
_CREDENTIALS: Final = """A user token: a JWT with `iss`, `aud: paymesh`, `exp`, `sub`, `roles` and, for the tenant, `merchant_id`.

It comes from the shop's identity provider, whose keys the mesh knows. A mesh for development makes one: `paymesh token --sub alice`, and for a
shop's staff `paymesh token --sub clerk --role merchant`. Paste it here without the word `Bearer`.

A merchant's program shows an API key (`pmsk_…`, `pmrk_…`) in the same place, or in `X-API-Key`."""
_API_KEY: Final = """An API key of a merchant, e.g. `pmsk_test_…`, as CreateApiKey shows it once. `Authorization: Bearer` takes it too.

`pmsk_` keys may do everything but manage members, `pmrk_` keys what they name, `pmpk_` keys only what needs no right. Keep all but `pmpk_` keys
at your server: never in a page, an app or a URL."""


def build_document(schema: Schema, *, development: bool) -> Node:
    """The OpenAPI 3.1 document of every routed method; methods of development only where
    `development` is true.
    """
    comments = read_comments(schema.files)
    builder = _Builder(schema, comments)
    paths: dict[str, Node] = {}
    tags: dict[str, Node] = {}
    for method in sorted(schema.routed(development=development), key=partial(_audience, schema)):
        service = method.descriptor.containing_service
        tags[service.name] = {
            "name": service.name,
            "description": comments.get(service.full_name, ""),
        }
        for index, rule in enumerate(method.rules):
            path = rule.template.text
            paths.setdefault(path, {})[rule.verb.lower()] = builder.operation(method, rule, index)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "paymesh",
            "version": metadata.version("paymesh"),
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "tags": list(tags.values()),
        "paths": paths,
        "components": {
            "schemas": dict(
                sorted((builder.schemas.components | {"Error": error_schema()}).items())
            ),
            "examples": dict(sorted(builder.responses.examples.items())),
            "parameters": {"AcceptLanguage": _ACCEPT_LANGUAGE},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": _CREDENTIALS,
                },
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": _API_KEY,
                },
            },
        },
    }


class _Builder:
    def __init__(self, schema: Schema, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.schemas = Schemas(comments)
        self.responses = Responses(schema.errors, self.schemas, Examples(_messages(schema)))

    def operation(self, method: Method, rule: HttpRule, index: int) -> Node:
        """One operation object."""
        descriptor = method.descriptor
        comment = self._comments.get(descriptor.full_name, descriptor.name)
        roles = sorted(role.name for role in method.policy.roles - {Role.SERVICE})
        operation: Node = {
            "operationId": f"{descriptor.containing_service.name}_{descriptor.name}"
            + (f"_at_{_slug(rule)}" if index else ""),
            "tags": [descriptor.containing_service.name],
            "summary": re.split(r"(?<=[.:;]) ", comment, maxsplit=1)[0].rstrip(".:;"),
            "description": self._describe(method, index, comment, roles),
            "security": _security(method),
            "parameters": list(self._parameters(method, rule)),
            "responses": self.responses.of(method, rule),
        }
        if index:
            operation["deprecated"] = True
        if rule.body:
            operation["requestBody"] = self._request_body(method, rule)
        return operation

    def _describe(self, method: Method, index: int, comment: str, roles: list[str]) -> str:
        lines = [
            comment,
            (
                f"Roles: {', '.join(roles)}. gRPC: `{method.policy.path[1:]}`, at most "
                f"{method.policy.timeout_seconds:g} s."
            ),
        ]
        if method.policy.limit is not None:
            lines.append(
                f"Limit for each caller: {method.policy.limit.per_second} per second, "
                f"{method.policy.limit.burst} at once."
            )
        if method.policy.server_streaming:
            lines.append("A stream of Server-Sent Events; the time is that of the whole stream.")
        if index:
            canonical = method.rules[0]
            lines.append(
                f"Another address of `{canonical.verb} {canonical.template.text}`, which new "
                f"programs should use."
            )
        return "\n\n".join(lines)

    def _parameters(self, method: Method, rule: HttpRule) -> Iterator[Node]:
        taken = {rule.body} if rule.body else set()
        for path in rule.template.variables:
            taken.add(".".join(path))
            yield self._parameter(method.input_type, path, where="path", required=True)
        for binding in method.policy.http.headers:
            taken.add(binding.field)
            yield self._parameter(
                method.input_type,
                tuple(binding.field.split(".")),
                where="header",
                name=binding.header.title(),
            )
        if method.policy.idempotency is not Idempotency.NONE:
            yield {
                "name": "Idempotency-Key",
                "in": "header",
                "required": method.policy.idempotency is Idempotency.REQUIRED,
                "description": "The same key gives the first final answer again.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            }
        yield {"$ref": "#/components/parameters/AcceptLanguage"}
        if rule.body != "*":
            for path in _query_paths(method.input_type, (), taken):
                yield self._parameter(method.input_type, path, where="query")

    def _parameter(
        self,
        message: Descriptor,
        path: tuple[str, ...],
        *,
        where: str,
        name: str = "",
        required: bool = False,
    ) -> Node:
        field = find_field(message, path)
        if field is None:
            raise LookupError(".".join(path))
        schema = self.schemas.field(field, "in")
        if schema.get("type") == ["string", "number"]:
            schema["type"] = "string"  # a query string knows no numbers
        parameter: Node = {
            "name": name or ".".join(path),
            "in": where,
            "required": required or is_required(field),
            "schema": schema,
        }
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        return parameter

    def _request_body(self, method: Method, rule: HttpRule) -> Node:
        direction: Direction = "strict" if Role.MERCHANT in method.policy.roles else "in"
        body = body_type(method.input_type, rule.body)
        if body is None:
            field = self.schemas.field(method.input_type.fields_by_name[rule.body], direction)
            return {"required": True, "content": {"application/json": {"schema": field}}}
        if body.full_name == HTTP_BODY:
            return {"required": True, "content": {"*/*": {"schema": {}}}}
        without = {path[0] for path in rule.template.variables if len(path) == 1}
        schema = (
            self.schemas.object(body, direction, without=without)
            if rule.body == "*" and without
            else self.schemas.message(body, direction)
        )
        required = any(is_required(field) for field in body.fields if field.name not in without)
        return {"required": required, "content": {"application/json": {"schema": schema}}}


def _security(method: Method) -> list[Node]:
    """Any one of the credentials that a method takes; none where it needs none."""
    if Role.PUBLIC in method.policy.roles:
        return []
    return [{"bearer": []}, *([{"apiKey": []}] if Role.MERCHANT in method.policy.roles else [])]


def _audience(schema: Schema, method: Method) -> int:
    """The position of a method's service in the document: first what buyers use, then shops, then
    staff, and last what is called without a token.
    """
    policies = [
        other.policy
        for other in schema.methods
        if other.rules and other.policy.service == method.policy.service
    ]
    roles = frozenset[Role]().union(*(policy.roles for policy in policies))
    is_read_by_anybody = any(
        Role.PUBLIC in policy.roles and not policy.side_effects for policy in policies
    )
    if Role.USER in roles or (is_read_by_anybody and Role.MERCHANT in roles):
        return 0
    return 1 if Role.MERCHANT in roles else 2 if Role.ADMIN in roles else 3


def _slug(rule: HttpRule) -> str:
    """A name for an address that stays when others are added."""
    return re.sub(r"[^a-z0-9]+", "_", f"{rule.verb}_{rule.template.text}".lower()).strip("_")


def _messages(schema: Schema) -> Iterator[Descriptor]:
    """Every message that the routed methods take or give, those inside others too."""
    waiting = [
        descriptor
        for method in schema.methods
        if method.rules
        for descriptor in (method.input_type, method.output_type)
    ]
    seen: set[str] = set()
    while waiting:
        message = waiting.pop(0)
        if message.full_name not in seen and not message.full_name.startswith("google."):
            seen.add(message.full_name)
            yield message
            waiting += (
                field.message_type for field in message.fields if field.message_type is not None
            )


def _query_paths(
    message: Descriptor, prefix: tuple[str, ...], taken: set[str]
) -> Iterator[tuple[str, ...]]:
    for field in message.fields:
        path = (*prefix, field.name)
        if ".".join(path) in taken or field_policy(field).sensitive:
            continue
        if _is_message(field):
            if field.message_type is not None and not field.is_repeated and len(path) < 4:
                yield from _query_paths(field.message_type, path, taken)
        else:
            yield path


def _is_message(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name not in {
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
    }
