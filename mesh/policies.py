"""What every method declares about itself in the contract, read once at start. A method whose
declaration is missing or does not make sense stops the
process before it serves anything: there is no default access."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import MethodOptions
from paymesh.options.v1 import options_pb2

from mesh.bounds import BoundMissing, request_bytes_max
from mesh.call import Role
from mesh.scopes import SCOPES

# The tenant of a caller whose token names none. Here, because every service must mean the same one.
DEFAULT_MERCHANT = "mall"

_ROLES = {
    options_pb2.ROLE_PUBLIC: Role.PUBLIC,
    options_pb2.ROLE_USER: Role.USER,
    options_pb2.ROLE_MERCHANT: Role.MERCHANT,
    options_pb2.ROLE_ADMIN: Role.ADMIN,
    options_pb2.ROLE_SERVICE: Role.SERVICE,
}


class PolicyInvalid(ValueError):
    """The declaration of a method is missing or contradicts itself. The message names the
    method.
    """


class OwnershipKind(StrEnum):
    """How a method reaches only what is the caller's."""

    NONE = "none"  # nothing belongs to anybody
    REQUEST_FIELD = "request_field"  # the request names the owner, checked against the token
    RESOURCE = "resource"  # the row has the owner, loaded with visible_to


class Idempotency(StrEnum):
    """What an idempotency key means for a method."""

    NONE = "none"  # ignored
    OPTIONAL = "optional"  # the first final answer is replayed
    REQUIRED = "required"  # refused without one


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way in."""

    role: Role
    callers: frozenset[str]  # for SERVICE: who


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose data."""

    kind: OwnershipKind
    user_field: str
    merchant_field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A token bucket per caller."""

    per_second: int
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Calls that wait for news."""

    per_caller: int
    wait_field: str  # "": every call waits
    caller_field: str  # stands for the caller when there is no token


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusByEnum:
    """HTTP status of a success by the value of a response field."""

    field: str
    value: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderBinding:
    """A request field filled from a header (lower case) or metadata of the same name."""

    header: str
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPolicy:
    """What google.api.http cannot say."""

    success_status: int
    status_by_enum: tuple[StatusByEnum, ...]
    headers: tuple[HeaderBinding, ...]
    max_body_bytes: int  # 0: the gateway's default
    all_headers: str = ""  # the map of the request that every header fills; "" for none
    status_field: str = ""  # the number of the response that is its HTTP status; "" for none


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """Everything that a method declares."""

    path: str  # "/paymesh.payment.v1.PaymentService/Charge"
    service: str  # "paymesh.payment.v1.PaymentService"
    method: str  # "Charge"
    package: str  # "paymesh.payment.v1": domain of its error reasons
    served_by: str  # "payment_rpc"
    rules: tuple[Rule, ...]
    ownership: Ownership
    timeout_seconds: float
    idempotency: Idempotency
    limit: Limit | None
    max_request_bytes: int  # on the wire
    waiting: Waiting | None
    http: HttpPolicy
    development_only: bool
    moves_money: bool  # its refusals say what happened to the money
    scopes: frozenset[str]  # a MERCHANT caller needs all of them
    # None: refuses checkout tokens. Otherwise the field with the order, or "" where the row decides
    checkout_order_field: str | None
    wants_client_address: bool
    repeatable: bool  # NO_SIDE_EFFECTS or IDEMPOTENT: may be sent twice without a key
    side_effects: bool  # False for NO_SIDE_EFFECTS
    server_streaming: bool

    @property
    def roles(self) -> frozenset[Role]:
        """Roles that some rule admits."""
        return frozenset(rule.role for rule in self.rules)

    @property
    def service_callers(self) -> frozenset[str]:
        """Services that some rule admits."""
        return frozenset[str]().union(*(rule.callers for rule in self.rules))


def load_policies(service: ServiceDescriptor) -> dict[str, MethodPolicy]:
    """The policies of a service's methods by path.

    Raises:
        PolicyInvalid: a method without a sensible policy, named; every bad method in one message.
    """
    policies, problems = {}, []
    for method in service.methods:
        try:
            policy = policy_of(method)
        except PolicyInvalid as problem:
            problems.append(str(problem))
        else:
            policies[policy.path] = policy
    if problems:
        raise PolicyInvalid("; ".join(problems))
    return policies


def policy_of(method: MethodDescriptor) -> MethodPolicy:
    """The policy of one method.

    Raises:
        PolicyInvalid: it is missing or contradicts itself.
    """
    service = method.containing_service
    options = method.GetOptions()
    if not options.HasExtension(options_pb2.policy):
        raise PolicyInvalid(f"{method.full_name}: has no paymesh.options.v1.policy")
    declared = options.Extensions[options_pb2.policy]
    ownership = _ownership(method, declared)
    rules = _rules(method, declared)
    return MethodPolicy(
        path=f"/{service.full_name}/{method.name}",
        service=service.full_name,
        method=method.name,
        package=service.file.package,
        served_by=_served_by(service),
        rules=rules,
        ownership=ownership,
        timeout_seconds=_timeout(method, declared),
        idempotency=_idempotency(method, declared),
        limit=Limit(per_second=declared.limit.per_second, burst=declared.limit.burst)
        if declared.HasField("limit")
        else None,
        max_request_bytes=_max_request_bytes(method, declared),
        waiting=_waiting(method, declared),
        http=_http(method, declared),
        development_only=declared.development_only,
        moves_money=declared.moves_money,
        scopes=_scopes(method, declared, rules),
        checkout_order_field=_checkout(method, declared),
        wants_client_address=declared.wants_client_address,
        repeatable=options.idempotency_level
        in {MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT},
        side_effects=options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS,
        server_streaming=method.server_streaming,
    )


def _rules(method: MethodDescriptor, declared: options_pb2.Policy) -> tuple[Rule, ...]:
    if not declared.rules:
        raise PolicyInvalid(f"{method.full_name}: admits nobody, give it at least one rule")
    rules = []
    for rule in declared.rules:
        role = _ROLES.get(rule.role)
        if role is None:
            raise PolicyInvalid(f"{method.full_name}: a rule without a role")
        if (role is Role.SERVICE) != bool(rule.callers):
            raise PolicyInvalid(
                f"{method.full_name}: `callers` stand with ROLE_SERVICE and only there"
            )
        rules.append(Rule(role=role, callers=frozenset(rule.callers)))
    return tuple(rules)


def _scopes(
    method: MethodDescriptor, declared: options_pb2.Policy, rules: tuple[Rule, ...]
) -> frozenset[str]:
    for scope in declared.scopes:
        if scope not in SCOPES:
            raise PolicyInvalid(f"{method.full_name}: there is no scope {scope!r}")
    admits_merchants = any(rule.role is Role.MERCHANT for rule in rules)
    if admits_merchants != (bool(declared.scopes) != declared.any_scope):
        raise PolicyInvalid(
            f"{method.full_name}: `scopes` or `any_scope` stand with ROLE_MERCHANT and only there"
        )
    return frozenset(declared.scopes)


def _checkout(method: MethodDescriptor, declared: options_pb2.Policy) -> str | None:
    if not declared.HasField("checkout"):
        return None
    path = declared.checkout.order_field
    if path:
        _check_text_field(method, path)
    if Role.USER not in {_ROLES.get(rule.role) for rule in declared.rules}:
        raise PolicyInvalid(f"{method.full_name}: `checkout` stands with ROLE_USER only")
    return path


def _ownership(method: MethodDescriptor, declared: options_pb2.Policy) -> Ownership:
    kinds = {
        options_pb2.OWNERSHIP_KIND_NONE: OwnershipKind.NONE,
        options_pb2.OWNERSHIP_KIND_REQUEST_FIELD: OwnershipKind.REQUEST_FIELD,
        options_pb2.OWNERSHIP_KIND_RESOURCE: OwnershipKind.RESOURCE,
    }
    kind = kinds.get(declared.ownership.kind)
    if kind is None:
        raise PolicyInvalid(f"{method.full_name}: says nothing about ownership")
    user_field, merchant_field = declared.ownership.user_field, declared.ownership.merchant_field
    if kind is OwnershipKind.REQUEST_FIELD and not (user_field or merchant_field):
        raise PolicyInvalid(f"{method.full_name}: OWNERSHIP_KIND_REQUEST_FIELD names no field")
    if kind is not OwnershipKind.REQUEST_FIELD and user_field:
        raise PolicyInvalid(
            f"{method.full_name}: user_field stands with OWNERSHIP_KIND_REQUEST_FIELD only"
        )
    for path in filter(None, (user_field, merchant_field)):
        _check_text_field(method, path)
    return Ownership(kind=kind, user_field=user_field, merchant_field=merchant_field)


def _check_text_field(method: MethodDescriptor, path: str) -> None:
    field: FieldDescriptor | None = None
    message: Descriptor | None = method.input_type
    for name in path.split("."):
        field = message.fields_by_name.get(name) if message is not None else None
        if field is None or field.is_repeated:
            raise PolicyInvalid(
                f"{method.full_name}: {method.input_type.full_name} has no single field {path}"
            )
        message = field.message_type
    if field is None or field.type != FieldDescriptor.TYPE_STRING:
        raise PolicyInvalid(f"{method.full_name}: {path} is not a string")


def _timeout(method: MethodDescriptor, declared: options_pb2.Policy) -> float:
    seconds = declared.timeout.seconds + declared.timeout.nanos / 1e9
    if not 0 < seconds <= 3600:
        raise PolicyInvalid(
            f"{method.full_name}: timeout must be more than 0 s and at most an hour"
        )
    return seconds


def _idempotency(method: MethodDescriptor, declared: options_pb2.Policy) -> Idempotency:
    kinds = {
        options_pb2.IDEMPOTENCY_NONE: Idempotency.NONE,
        options_pb2.IDEMPOTENCY_OPTIONAL: Idempotency.OPTIONAL,
        options_pb2.IDEMPOTENCY_REQUIRED: Idempotency.REQUIRED,
    }
    kind = kinds.get(declared.idempotency)
    if kind is None:
        raise PolicyInvalid(f"{method.full_name}: says nothing about idempotency")
    return kind


def _http(method: MethodDescriptor, declared: options_pb2.Policy) -> HttpPolicy:
    http = declared.http
    for binding in http.headers:
        _check_text_field(method, binding.field)
    return HttpPolicy(
        success_status=http.success_status or 200,
        status_by_enum=tuple(
            StatusByEnum(field=rule.field, value=rule.value, status=rule.status)
            for rule in http.status_by_enum
        ),
        headers=tuple(
            HeaderBinding(header=binding.header.lower(), field=binding.field)
            for binding in http.headers
        ),
        max_body_bytes=http.max_body_bytes,
        all_headers=_all_headers(method, http.all_headers),
        status_field=_status_field(method, http.status_field),
    )


def _all_headers(method: MethodDescriptor, name: str) -> str:
    if name:
        field = method.input_type.fields_by_name.get(name)
        entry = None if field is None or not field.is_repeated else field.message_type
        if entry is None or not entry.GetOptions().map_entry:
            raise PolicyInvalid(f"{method.full_name}: all_headers: {name} is no map of the request")
    return name


def _status_field(method: MethodDescriptor, name: str) -> str:
    if name:
        field = method.output_type.fields_by_name.get(name)
        if field is None or field.is_repeated or field.type != FieldDescriptor.TYPE_UINT32:
            raise PolicyInvalid(
                f"{method.full_name}: status_field: {name} is no uint32 of the response"
            )
    return name


def _max_request_bytes(method: MethodDescriptor, declared: options_pb2.Policy) -> int:
    try:
        return request_bytes_max(method.input_type, declared.max_request_bytes)
    except BoundMissing as problem:
        raise PolicyInvalid(f"{method.full_name}: {problem}") from None


def _waiting(method: MethodDescriptor, declared: options_pb2.Policy) -> Waiting | None:
    if not declared.HasField("waiting"):
        return None
    waiting = declared.waiting
    if not waiting.per_caller:
        raise PolicyInvalid(f"{method.full_name}: waiting needs per_caller")
    for name in filter(None, (waiting.wait_field, waiting.caller_field)):
        if name not in method.input_type.fields_by_name:
            raise PolicyInvalid(
                f"{method.full_name}: {method.input_type.full_name} has no field {name}"
            )
    return Waiting(
        per_caller=waiting.per_caller,
        wait_field=waiting.wait_field,
        caller_field=waiting.caller_field,
    )


def _served_by(service: ServiceDescriptor) -> str:
    served_by: str = service.GetOptions().Extensions[options_pb2.served_by]
    if not served_by:
        raise PolicyInvalid(f"{service.full_name}: has no paymesh.options.v1.served_by")
    return served_by
