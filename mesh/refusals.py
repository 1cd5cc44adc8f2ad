"""What a served call answers when it ends in an exception: a status with details for a refusal,
INTERNAL with a trace id for the unexpected, ABORTED for a stray cancellation (grpc.aio would leave
the client waiting for ever).
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.rpc import status_pb2
from grpc.aio import AbortError

from mesh.call import Call
from mesh.errors import (
    Conflict,
    IdempotencyKeyInUse,
    MeshError,
    Outcome,
    RemoteError,
    UpstreamUnavailable,
)
from mesh.logs import get_logger
from mesh.policies import MethodPolicy
from mesh.wire_errors import COMMON, ErrorCatalogue, MoneyOutcome, internal_status, to_status

# A sibling that refuses *us* says nothing about our caller: to the caller it is our fault.
_REFUSES_US = frozenset({7, 16})
_CANCELLED = 1

log = get_logger()


class Refusals:
    """The refusals of one method."""

    __slots__ = ("_catalogue", "_moves_money", "_package", "_path", "_repeatable")

    def __init__(self, policy: MethodPolicy, catalogue: ErrorCatalogue) -> None:
        self._path = policy.path
        self._package = policy.package
        self._moves_money = policy.moves_money
        self._repeatable = policy.repeatable
        self._catalogue = catalogue

    def status_of(
        self, error: BaseException, context: Any, call: Call
    ) -> tuple[int, status_pb2.Status | None]:
        """gRPC code and what to send; None to let the exception go on its way."""
        match error:
            case AbortError():  # a handler of somebody else that aborts by itself
                code = context.code()
                return (int(code.value[0]) if code is not None else 13), None
            case asyncio.CancelledError():
                task = asyncio.current_task()
                remaining = (
                    0
                    if task is None
                    else task.uncancel()
                    if call.cut is not None
                    else task.cancelling()
                )
                if remaining:  # the client went away, its deadline passed, or the server stops
                    call.refusal = "CANCELLED"
                    return _CANCELLED, None
                if call.cut is not None:
                    status = self._status(call.cut, call)
                else:
                    log.error("stray_cancellation", method=self._path, exc_info=error)
                    status = self._status(Conflict("The call was interrupted, try again."), call)
            case MeshError():
                status = self._status(error, call)
            case Exception():
                status = self._unexpected(error, call)
            case _:
                return 13, None
        return status.code, status

    def _status(self, error: MeshError, call: Call) -> status_pb2.Status:
        if (
            isinstance(error, RemoteError)
            and not isinstance(error, UpstreamUnavailable)
            and error.grpc_code in _REFUSES_US
        ):
            log.error(
                "sibling_refuses_us", method=self._path, domain=error.domain, reason=error.reason
            )
            return self._internal(error, call)
        status = to_status(
            error,
            package=self._package,
            catalogue=self._catalogue,
            money=self._money(error, call),
            language=call.language,
        )
        if status is None:
            return self._unexpected(error, call)
        call.refusal = error.reason
        return status

    def _money(self, error: BaseException, call: Call) -> MoneyOutcome | None:
        """What a refusal says of money that says nothing of it itself. We write down what we are
        about to do before we ask anybody to move money, so a call that committed nothing moved
        nothing. Any other may have; it is asked again with its key, or where repeating is
        harmless."""
        if not self._moves_money:
            return None
        # there another call with this key is at work
        if not call.effects and not isinstance(error, IdempotencyKeyInUse):
            return MoneyOutcome(Outcome.NOT_ATTEMPTED, safe_to_retry=True)
        return MoneyOutcome(
            Outcome.UNKNOWN, safe_to_retry=self._repeatable or bool(call.idempotency_key)
        )

    def _unexpected(self, error: BaseException, call: Call) -> status_pb2.Status:
        log.error("unexpected", method=self._path, exc_info=error)
        return self._internal(error, call)

    def _internal(self, error: BaseException, call: Call) -> status_pb2.Status:
        call.refusal = "INTERNAL"
        texts = self._catalogue.texts(COMMON, "INTERNAL")
        return internal_status(
            call.trace.trace_id, money=self._money(error, call), texts=texts, language=call.language
        )
