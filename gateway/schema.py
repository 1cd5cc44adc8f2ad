"""The contract as the gateway reads it: the committed descriptor set in a pool of its own, its
methods with their HTTP rules and policies, and its error reasons. Everything that could go wrong
with an annotation is found here, at start-up, in one list; a gateway whose contract is broken does
not start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import paymesh.validate_rules  # noqa: F401  registers the extensions, so that field rules are readable from options
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pool import DescriptorPool

from gateway.codec import Decoders, Encoders, Numbers, UnsupportedField
from gateway.codec.dialect import HTTP_BODY, enum_names_in, field_policy, spellings
from gateway.routes import PathTemplate, TemplateInvalid
from mesh.call import Role
from mesh.policies import Idempotency, MethodPolicy, PolicyInvalid, policy_of
from mesh.wire_errors import ErrorCatalogue

_VERBS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_OUR_PACKAGES: Final = "paymesh."


_SMALL_BYTES: Final = 16 * 1024  # of a request with a fixed number of fields
_LISTS_BYTES: Final = 64 * 1024  # of one with lists


class SchemaInvalid(Exception):
    """The contract breaks a rule of the gateway. The message lists every problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRule:
    """One HTTP rule of a method."""

    verb: str  # "GET", "POST" …
    template: PathTemplate
    body: str  # "" none, "*" the whole request, else the name of a field
    response_body: str  # "" the whole response, else the name of a field


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of the contract."""

    descriptor: MethodDescriptor
    policy: MethodPolicy
    rules: tuple[HttpRule, ...]  # the canonical one first; none for methods between services

    @property
    def input_type(self) -> Descriptor:
        """The request message."""
        return self.descriptor.input_type

    @property
    def body_bytes_max(self) -> int:
        """The largest body that is read: what the method declares, else what its kind of request
        needs several times over.
        """
        return self.policy.http.max_body_bytes or (
            _LISTS_BYTES if _has_list(self.input_type, ()) else _SMALL_BYTES
        )

    @property
    def output_type(self) -> Descriptor:
        """The response message."""
        return self.descriptor.output_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The whole contract."""

    files: tuple[descriptor_pb2.FileDescriptorProto, ...]  # with comments, in order of import
    pool: DescriptorPool
    methods: tuple[Method, ...]
    errors: ErrorCatalogue
    encoders: Encoders
    decoders: Decoders
    # for merchants, who must write amounts as strings: a number of theirs may be minor units
    strict_decoders: Decoders
    # for those who have decided that their bare integers are minor units
    minor_decoders: Decoders

    @property
    def served_by(self) -> tuple[str, ...]:
        """The services that have HTTP rules, e.g. "payment_rpc"."""
        return tuple(sorted({method.policy.served_by for method in self.methods if method.rules}))

    @property
    def bound_headers(self) -> frozenset[str]:
        """Headers that fill fields of requests, in lower case."""
        return frozenset(
            binding.header
            for method in self.methods
            if method.rules
            for binding in method.policy.http.headers
        )

    def routed(self, *, development: bool) -> Iterator[Method]:
        """The methods with HTTP rules; those of development only where `development` is true."""
        return (
            method
            for method in self.methods
            if method.rules and (development or not method.policy.development_only)
        )


def _has_list(message: Descriptor, above: tuple[str, ...]) -> bool:
    if message.full_name in above or message.full_name.startswith("google."):
        return False
    return any(
        field.is_repeated
        or (
            field.message_type is not None
            and _has_list(field.message_type, (*above, message.full_name))
        )
        for field in message.fields
    )


def message_class(descriptor: Descriptor) -> Any:
    """The class of a message of the private pool."""
    return message_factory.GetMessageClass(descriptor)


def load_schema(descriptor_set: bytes | None = None) -> Schema:
    """Reads a FileDescriptorSet, the committed one by default.

    Raises:
        SchemaInvalid: a method without policy, a rule that does not bind, two routes for one path,
            an HTTP rule of a method between services …
    """
    if descriptor_set is None:
        descriptor_set = resources.files("paymesh").joinpath("descriptors.binpb").read_bytes()
    files = tuple(descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file)
    pool = DescriptorPool()
    for file in files:
        pool.Add(file)
    problems: list[str] = []
    encoders, decoders = Encoders(), Decoders()
    methods: list[Method] = []
    for service in _services(pool, files):
        for descriptor in service.methods:
            try:
                method = Method(
                    descriptor=descriptor,
                    policy=policy_of(descriptor),
                    rules=_http_rules(descriptor),
                )
            except (PolicyInvalid, TemplateInvalid) as problem:
                problems.append(str(problem))
                continue
            problems += (
                f"{descriptor.full_name}: {problem}"
                for problem in _lint(method, encoders, decoders)
            )
            methods.append(method)
    packages = {method.policy.package for method in methods}
    if problems:
        raise SchemaInvalid("; ".join(problems))
    return Schema(
        files=files,
        pool=pool,
        methods=tuple(methods),
        errors=ErrorCatalogue.of_packages(packages, pool=pool),
        encoders=encoders,
        decoders=decoders,
        strict_decoders=Decoders(Numbers.REFUSED),
        minor_decoders=Decoders(Numbers.MINOR),
    )


def _services(
    pool: DescriptorPool, files: tuple[descriptor_pb2.FileDescriptorProto, ...]
) -> Iterator[ServiceDescriptor]:
    for file in files:
        if file.package.startswith(_OUR_PACKAGES):
            for service in file.service:
                yield pool.FindServiceByName(f"{file.package}.{service.name}")


def _http_rules(descriptor: MethodDescriptor) -> tuple[HttpRule, ...]:
    options = descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return ()
    declared = options.Extensions[annotations_pb2.http]
    return tuple(_http_rule(descriptor, rule) for rule in (declared, *declared.additional_bindings))


def _http_rule(descriptor: MethodDescriptor, declared: http_pb2.HttpRule) -> HttpRule:
    verb = declared.WhichOneof("pattern")
    if verb is None or verb == "custom":
        raise TemplateInvalid(
            f"{descriptor.full_name}: a rule has one of get, put, post, delete, patch"
        )
    return HttpRule(
        verb=verb.upper(),
        template=PathTemplate.parse(getattr(declared, verb)),
        body=declared.body,
        response_body=declared.response_body,
    )


# The lint: each function yields problems of one method.


def _lint(method: Method, encoders: Encoders, decoders: Decoders) -> Iterator[str]:
    if not method.rules:
        return
    if method.policy.roles == {Role.SERVICE}:
        yield "is only for services and must not have google.api.http"
    if method.descriptor.client_streaming:
        yield "streaming requests are not carried over HTTP"
    if method.policy.server_streaming:
        yield from _lint_stream(method)
    yield from _lint_policy(method)
    yield from _lint_spellings(method.input_type, set())
    for rule in method.rules:
        for problem in _lint_rule(method, rule, encoders, decoders):
            yield f"{rule.verb} {rule.template.text}: {problem}"


def _lint_policy(method: Method) -> Iterator[str]:
    http = method.policy.http
    for status in (http.success_status, *(rule.status for rule in http.status_by_enum)):
        if not 200 <= status <= 299:
            yield f"{status} is not a status of a success"
    for rule in http.status_by_enum:
        field = find_field(method.output_type, tuple(rule.field.split(".")))
        if field is None or field.enum_type is None or field.is_repeated:
            yield f"status_by_enum: {rule.field} is not an enum of {method.output_type.full_name}"
        elif rule.value not in enum_names_in(field.enum_type):
            yield f"status_by_enum: {rule.value} is not a value of {field.enum_type.full_name}"


def _lint_stream(method: Method) -> Iterator[str]:
    """A stream is cancelled when its client goes away, has sent its head before it knows its
    answers, and is opened by following a link.
    """
    policy = method.policy
    if any(rule.verb != "GET" for rule in method.rules):
        yield "a stream is opened by GET alone"
    if policy.side_effects or policy.idempotency is not Idempotency.NONE:
        yield "a stream has NO_SIDE_EFFECTS and takes no idempotency key"
    if policy.http.success_status != 200 or policy.http.status_by_enum:
        yield "a stream is always 200"
    for rule in method.rules:
        answer = (
            body_type(method.output_type, rule.response_body or "*")
            if rule.response_body in {"", *method.output_type.fields_by_name}
            else None
        )
        if answer is not None and answer.full_name == HTTP_BODY:
            yield "raw bytes are not events"


def _lint_spellings(message: Descriptor, seen: set[str]) -> Iterator[str]:
    """Two fields of one message must not answer to one spelling."""
    if message.full_name in seen or message.full_name.startswith("google."):
        return
    seen.add(message.full_name)
    owner: dict[str, str] = {}
    for field in message.fields:
        for name in spellings(field):
            other = owner.setdefault(name, field.name)
            if other != field.name:
                yield f"{message.full_name}: {name} means both {other} and {field.name}"
        if field_policy(field).number_ok and field.type != FieldDescriptor.TYPE_STRING:
            yield f"{field.full_name}: number_ok is for strings"
        minor_field = message.fields_by_name.get(field_policy(field).minor_units_field)
        if field_policy(field).minor_units_field and (
            field.type != FieldDescriptor.TYPE_STRING
            or field.is_repeated
            or minor_field is None
            or minor_field.type != FieldDescriptor.TYPE_INT64
            or minor_field.is_repeated
        ):
            yield f"{field.full_name}: minor_units_field joins a string and an int64 beside it"
        if field.message_type is not None:
            yield from _lint_spellings(field.message_type, seen)


def _lint_rule(
    method: Method, rule: HttpRule, encoders: Encoders, decoders: Decoders
) -> Iterator[str]:
    if rule.body and rule.verb not in _VERBS_WITH_BODY:
        yield f"{rule.verb} has no body"
    for path in (
        *rule.template.variables,
        *(tuple(header.field.split(".")) for header in method.policy.http.headers),
    ):
        field = find_field(method.input_type, path)
        if field is None or field.is_repeated or field.message_type is not None:
            yield f"{'.'.join(path)} is not a single value of {method.input_type.full_name}"
        elif field_policy(field).sensitive:
            yield f"{'.'.join(path)} is sensitive and must not stand in a path or header"
    if len(set(rule.template.variables)) != len(rule.template.variables):
        yield "a variable stands twice"
    try:
        body = body_type(method.input_type, rule.body)
        if body is not None and body.full_name != HTTP_BODY:
            decoders.of(body)
        answer = body_type(method.output_type, rule.response_body or "*")
        if answer is not None and answer.full_name != HTTP_BODY:
            encoders.of(answer)
    except (LookupError, UnsupportedField) as problem:
        yield str(problem).strip("'\"")


def find_field(message: Descriptor, path: tuple[str, ...]) -> FieldDescriptor | None:
    """The field at the end of a path of single messages, or None."""
    field: FieldDescriptor | None = None
    for name in path:
        if field is not None:
            if field.message_type is None or field.is_repeated:
                return None
            message = field.message_type
        field = message.fields_by_name.get(name)
        if field is None:
            return None
    return field


def body_type(message: Descriptor, body: str) -> Descriptor | None:
    """The message that a body ("*" or the name of a field) holds; None for no body or one that is
    not a message.

    Raises:
        LookupError: when there is no such field.
    """
    if body == "*":
        return message
    if not body:
        return None
    field = message.fields_by_name.get(body)
    if field is None:
        raise LookupError(f"{message.full_name} has no field {body}")
    return None if field.is_repeated else field.message_type
