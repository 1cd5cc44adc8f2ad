"""Converts `MeshError` to `google.rpc.Status` and back. The meaning of a reason (gRPC code, HTTP
status, business code) is declared beside the enum value of the same name in the contract. A reason
that the contract does not know is never sent; it becomes INTERNAL.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from paymesh.common.v1 import errors_pb2 as common_errors
from paymesh.options.v1 import options_pb2

from mesh.call import REPLAYED
from mesh.clock_skew import UNSERVED
from mesh.errors import (
    DeadlineExceeded,
    MeshError,
    MoneyError,
    Outcome,
    RemoteError,
    UpstreamUnavailable,
)
from mesh.languages import Bilingual, Language
from mesh.problem_texts import problem_text

COMMON = "paymesh.common.v1"
DETAILS_KEY = "grpc-status-details-bin"
# HTTP/2 peers accept 8 KiB of header fields by default (grpc.max_metadata_size). Base64 adds a
# third to the details. The message is sent a second time, percent-encoded: nine bytes for a Chinese
# character.
STATUS_BYTES_MAX = 4000
MESSAGE_MAX = 200
FIELDS_MAX = 32
TEXT_MAX = 300

STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSpec:
    """The meaning of a reason on the wire."""

    domain: str  # proto package of the enum
    reason: str
    grpc_code: int
    http_status: int
    business_code: str
    texts: Bilingual  # for buyers
    methods: frozenset[str] = frozenset()  # methods that may return it; empty: any of its package


class RemoteMoneyError(RemoteError):
    """A sibling service refused something about money.

    Attributes:
        outcome: what happened to the money; None when the sibling named one that we do not know.
        safe_to_retry: as the sibling said.
        payment_id: the payment, or "".
    """

    outcome: Outcome | None = None
    safe_to_retry: bool = False
    payment_id: str = ""


class ErrorCatalogue:
    """The error reasons of some proto packages and of the common one."""

    def __init__(self, enums: Iterable[EnumDescriptor]) -> None:
        """Raises ValueError for a reason without a specification."""
        self._specs: dict[tuple[str, str], ErrorSpec] = {}
        for enum in enums:
            for spec in _read(enum):
                self._specs[spec.domain, spec.reason] = spec

    @classmethod
    def of_packages(
        cls, packages: Iterable[str], *, pool: DescriptorPool | None = None
    ) -> ErrorCatalogue:
        """The reasons of `<package>.ErrorReason` for each package that has one, and the common
        ones.
        """
        enums = []
        for package in sorted({*packages, COMMON}):  # /openapi.json is the same in every process
            if pool is None:
                _import_errors(package)
            try:
                enums.append(
                    (pool or descriptor_pool.Default()).FindEnumTypeByName(f"{package}.ErrorReason")
                )
            except KeyError:
                continue  # a package without reasons of its own
        return cls(enums)

    def find(self, domain: str, reason: str) -> ErrorSpec | None:
        """The specification of a reason in a domain, else in the common one."""
        return self._specs.get((domain, reason)) or self._specs.get((COMMON, reason))

    def texts(self, domain: str, reason: str) -> Bilingual | None:
        """The text for buyers of a reason; None for a reason that the contract does not know."""
        spec = self.find(domain, reason)
        return None if spec is None else spec.texts

    def __iter__(self) -> Iterator[ErrorSpec]:
        return iter(self._specs.values())


def _import_errors(package: str) -> None:
    module = f"{package}.errors_pb2"
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not module.startswith(missing.name):
            raise


def _read(enum: EnumDescriptor) -> Iterable[ErrorSpec]:
    for value in enum.values:
        if value.number == 0:
            continue
        if not value.GetOptions().HasExtension(options_pb2.error):
            raise ValueError(f"{enum.full_name}.{value.name} has no paymesh.options.v1.error")
        declared = value.GetOptions().Extensions[options_pb2.error]
        if declared.grpc_code not in STATUS_CODES or declared.grpc_code == 0:
            raise ValueError(f"{enum.full_name}.{value.name} has no gRPC error code")
        if not (declared.message and declared.message_zh):
            raise ValueError(
                f"{enum.full_name}.{value.name} lacks what a buyer is told, in English or in "
                f"Chinese"
            )
        texts = Bilingual(declared.message, declared.message_zh, declared.promised_in_chinese)
        yield ErrorSpec(
            domain=enum.file.package,
            reason=value.name.removeprefix("ERROR_REASON_"),
            grpc_code=declared.grpc_code,
            http_status=declared.http_status,
            business_code=declared.business_code,
            texts=texts,
            methods=frozenset(declared.methods),
        )


# Outbound


@dataclass(frozen=True, slots=True)
class MoneyOutcome:
    """The money outcome in an error of a method that moves money, when the error itself has
    none.
    """

    outcome: Outcome
    safe_to_retry: bool


def internal_status(
    trace_id: str,
    *,
    money: MoneyOutcome | None = None,
    texts: Bilingual | None = None,
    language: Language | None = None,
) -> status_pb2.Status:
    """The status for an unexpected error. It tells the peer only where to look in our log and what
    happened to money. `texts` and `language` make the message for the end user.
    """
    status = status_pb2.Status(code=13, message="internal error")
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(
            reason="INTERNAL", domain=COMMON, metadata={"trace_id": trace_id}
        )
    )
    if money is not None:
        status.details.add().Pack(_money_outcome(money.outcome, safe_to_retry=money.safe_to_retry))
    if texts is not None and language is not None:
        status.details.add().Pack(
            error_details_pb2.LocalizedMessage(locale=language, message=texts.text(language))
        )
    return status


def to_status(
    error: MeshError,
    *,
    package: str,
    catalogue: ErrorCatalogue,
    money: MoneyOutcome | None = None,
    language: Language | None = None,
) -> status_pb2.Status | None:
    """The wire form of an error of a service of `package`; None when the contract does not know its
    reason.

    Args:
        money: the money outcome for an error that has none of its own.
        language: of the end user, for the LocalizedMessage; the message of the status is for
            developers.
    """
    if isinstance(error, RemoteError) and not isinstance(error, UpstreamUnavailable):
        spec = catalogue.find(error.domain, error.reason)
        return _status(
            error,
            domain=error.domain,
            code=error.grpc_code,
            money=money,
            spec=spec,
            language=language,
        )
    spec = catalogue.find(package, error.reason)
    if spec is None:
        return None
    return _status(
        error, domain=spec.domain, code=spec.grpc_code, money=money, spec=spec, language=language
    )


def _money_outcome(
    outcome: Outcome | None, *, safe_to_retry: bool, payment_id: str = ""
) -> common_errors.MoneyOutcome:
    number = (
        common_errors.Outcome.Value(f"OUTCOME_{outcome}")
        if outcome
        else common_errors.OUTCOME_UNSPECIFIED
    )
    return common_errors.MoneyOutcome(
        outcome=number, safe_to_retry=safe_to_retry, payment_id=payment_id
    )


def _status(
    error: MeshError,
    *,
    domain: str,
    code: int,
    money: MoneyOutcome | None,
    spec: ErrorSpec | None,
    language: Language | None,
) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=error.message[:MESSAGE_MAX])
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=domain, metadata=_bounded(error.metadata)
        )
    )
    if isinstance(error, MoneyError | RemoteMoneyError):
        status.details.add().Pack(
            _money_outcome(
                error.outcome, safe_to_retry=error.safe_to_retry, payment_id=error.payment_id
            )
        )
    elif money is not None:
        status.details.add().Pack(_money_outcome(money.outcome, safe_to_retry=money.safe_to_retry))
    if error.retry_after_seconds is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        status.details.add().Pack(info)
    if language is not None and spec is not None:
        status.details.add().Pack(
            error_details_pb2.LocalizedMessage(locale=language, message=spec.texts.text(language))
        )
    room = STATUS_BYTES_MAX - status.ByteSize()
    bad = error_details_pb2.BadRequest()
    for field, problem in _bounded(error.fields).items():
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
        if language is not None:
            violation.localized_message.locale = language
            violation.localized_message.message = problem_text(problem, language)
        room -= violation.ByteSize() + 16
        if room < 0:
            break
        bad.field_violations.append(violation)
    if bad.field_violations:
        status.details.add().Pack(bad)
    return status


def _bounded(pairs: Mapping[str, str]) -> dict[str, str]:
    bounded: dict[str, str] = {}
    room = STATUS_BYTES_MAX // 2
    for name, value in list(pairs.items())[:FIELDS_MAX]:
        text = value[:TEXT_MAX]
        room -= len(name.encode()) + len(text.encode())
        if room < 0:
            break
        bounded[name] = text
    return bounded


# Inbound

_UNAVAILABLE = 14
_COMMON_REASONS = {
    3: "INVALID_ARGUMENT",
    5: "NOT_FOUND",
    7: "PERMISSION_DENIED",
    10: "CONFLICT",
    12: "UNIMPLEMENTED",
    16: "UNAUTHENTICATED",
}


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """Converts a failed call: `DeadlineExceeded` when no answer came in time, `UpstreamUnavailable`
    when there was no answer at all, else a `RemoteError` with the reason of the upstream service.
    The text of transport errors is dropped, because it holds addresses.
    """
    code = int(error.code().value[0])
    status = _details(error)
    info = error_details_pb2.ErrorInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return _without_details(code)
    if info.reason == "DEADLINE_EXCEEDED" and info.domain == COMMON:
        return DeadlineExceeded()
    remote = _remote(status, info, code)
    remote.is_replayed = any(key == REPLAYED for key, _ in error.trailing_metadata() or ())
    return remote


def has_details(error: grpc.aio.AioRpcError) -> bool:
    """Whether a failure was sent by one of our servers and not generated by the transport."""
    return any(key == DETAILS_KEY for key, _ in error.trailing_metadata() or ())


# Messages of C-core's balancing policies when they have no connection for a call. An answer of a
# server has details and never these texts.
_NO_CONNECTION = ("connections to all backends failing", "failed to connect to all addresses")


def never_sent(error: grpc.aio.AioRpcError) -> bool:
    """Whether a failed call certainly never left this process. The status alone does not tell;
    without these texts the call counts as sent.
    """
    return not has_details(error) and (error.details() or "").startswith(_NO_CONNECTION)


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _without_details(code: int) -> MeshError:
    match code:
        case 4:
            return DeadlineExceeded()
        case 1 | 8 | 14:  # the transport, or a server that sheds load before it looks at a call
            return UpstreamUnavailable(grpc_code=code)
        case _:
            return RemoteError(
                remote_reason=_COMMON_REASONS.get(code, "INTERNAL"), domain=COMMON, grpc_code=code
            )


def _remote(status: status_pb2.Status, info: error_details_pb2.ErrorInfo, code: int) -> RemoteError:
    bad, retry, money = (
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
        common_errors.MoneyOutcome(),
    )
    has_money = False
    for detail in status.details:
        has_money = detail.Unpack(money) or has_money
        detail.Unpack(bad)
        detail.Unpack(retry)
    remote = (RemoteMoneyError if has_money else RemoteError)(
        status.message,
        remote_reason=info.reason,
        domain=info.domain,
        grpc_code=code,
        fields={violation.field: violation.description for violation in bad.field_violations},
        retry_after_seconds=retry.retry_delay.ToNanoseconds() / 1e9
        if retry.HasField("retry_delay")
        else None,
    )
    remote.metadata = dict(info.metadata)
    # meant for this service, not for its callers
    remote.is_unserved = code == _UNAVAILABLE and remote.metadata.pop(UNSERVED, "") != ""
    if isinstance(remote, RemoteMoneyError):
        name = (
            common_errors.Outcome.Name(money.outcome).removeprefix("OUTCOME_")
            if money.outcome in common_errors.Outcome.values()
            else ""
        )
        remote.outcome = Outcome(name) if name in Outcome.__members__ else None
        remote.safe_to_retry = money.safe_to_retry
        remote.payment_id = money.payment_id
    return remote
