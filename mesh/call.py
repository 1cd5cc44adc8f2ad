"""Holds the context of the call that is being served: caller, deadline, trace and idempotency key.
The pipeline fills it, use cases and clients read it.

One context variable holds one object, because every further variable that is set per call has a
measurable cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic
from typing import Final

from mesh.errors import MeshError, PermissionDenied
from mesh.languages import Language
from mesh.trace import Trace

# gRPC metadata of the mesh.
AUTHORIZATION: Final = "authorization"  # "Bearer " and a user token
CALLER: Final = "x-paymesh-caller"  # token of the calling service
IDEMPOTENCY_KEY: Final = "idempotency-key"
TRACEPARENT: Final = "traceparent"
REQUEST_ID: Final = "x-request-id"
CLIENT_ADDRESS: Final = "x-paymesh-client-address"  # of a gateway: where its caller is
KEY_SUBJECT: Final = "key:"  # with it begins the subject of a merchant's key
REPLAYED: Final = "x-paymesh-idempotent-replayed"  # trailing: the response of an earlier call


class Role(StrEnum):
    """The role of a caller in one call. Widest first: ADMIN, MERCHANT, USER, PUBLIC; SERVICE is not
    in this order.
    """

    PUBLIC = "public"  # any caller, also without a token
    USER = "user"  # a buyer, (merchant_id, subject)
    MERCHANT = "merchant"  # works for the shop merchant_id
    ADMIN = "admin"  # our own staff
    SERVICE = "service"  # a sibling process, by its caller token


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows that a caller may see: those with this merchant_id and user_id. None does not
    filter.
    """

    merchant_id: str | None
    user_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller, with the one role that the method admitted."""

    role: Role
    subject: str = ""  # `sub` of the user token, or the service's name
    merchant_id: str = ""  # tenant of the user token; "" for a service
    service: str = ""  # name in the caller token; "" without one
    on_behalf_of: str = ""  # user on whose behalf a service calls
    roles: frozenset[Role] = frozenset()
    # what a MERCHANT may do, with what follows from it; None: anything
    scopes: frozenset[str] | None = None
    order_id: str = ""  # of a checkout token: the one order that it is for
    session_id: str = ""  # of a member or operator who logged in
    minor_amounts: bool = False  # a bare integer in an amount is minor units

    @property
    def key(self) -> str:
        """The identity for idempotency keys: unique per person, and the same in every role. So a
        repeated call finds the first one, even when the person's token has gained a role
        meanwhile. All API keys of a merchant are one caller: a call that is repeated with a key
        that took the place of the first is the same call."""
        if self.role is Role.SERVICE:
            return f"service:{self.service}"
        if self.subject.startswith(KEY_SUBJECT):
            return f"{self.merchant_id}/{KEY_SUBJECT}"
        return f"{self.merchant_id}/{self.subject}"

    def as_buyer(self) -> Caller:
        """The same person as a buyer: who works for a shop may buy there too."""
        return replace(self, role=Role.USER)

    @property
    def limited_as(self) -> str:
        """The name under which calls are counted; "" for strangers and for publishable keys, which
        stand in pages that anybody opens: those are counted by address.
        """
        if not self.subject or (not self.roles and self.subject.startswith(KEY_SUBJECT)):
            return ""
        return f"{self.merchant_id}/{self.subject}"

    def scope(self) -> Scope:
        """Filters for `visible_to`.

        Raises:
            PermissionDenied: an anonymous caller owns nothing.
        """
        match self.role:
            case Role.USER:
                return Scope(self.merchant_id, self.subject)
            case Role.MERCHANT:
                return Scope(self.merchant_id, None)
            case Role.ADMIN | Role.SERVICE:
                return Scope(None, None)
            case _:
                raise PermissionDenied


NOBODY = Caller(role=Role.PUBLIC)


@dataclass(slots=True, eq=False)
class Call:
    """The state of one call in the pipeline. `deadline` is on the monotonic clock."""

    trace: Trace
    deadline: float
    caller: Caller = NOBODY
    idempotency_key: str = ""
    request_id: str = ""
    language: Language | None = None  # of the person who called; None: not given
    client_address: str = ""  # of methods that want it: the address that the call came from
    # the error with which the pipeline ended the call: at its deadline, or because it was shed
    cut: MeshError | None = None
    is_running: bool = False  # counted in `Load.running`
    # its transaction may be committed, or it made a call with effects to a sibling
    effects: bool = False
    refusal: str = ""  # reason of the error with which it ended, for the log
    trailing: tuple[tuple[str, str | bytes], ...] = ()  # metadata to send with the response

    def remaining_seconds(self) -> float:
        """Time until the deadline; negative after it."""
        return self.deadline - monotonic()


CURRENT: ContextVar[Call | None] = ContextVar("paymesh_call", default=None)


def current_call() -> Call | None:
    """The call that is being served, or None in a worker or test."""
    return CURRENT.get()


def current_caller() -> Caller:
    """The caller; NOBODY (role PUBLIC) outside of a call."""
    call = CURRENT.get()
    return NOBODY if call is None else call.caller


def current_idempotency_key() -> str:
    """The idempotency key of the call, or "" when it came without one or its method takes none."""
    call = CURRENT.get()
    return "" if call is None else call.idempotency_key


def current_trace_id() -> str:
    """The trace id of the call, or "" outside of a call."""
    call = CURRENT.get()
    return "" if call is None else call.trace.trace_id


def current_language() -> Language | None:
    """The language of the person who called; None when not given, or outside of a call."""
    call = CURRENT.get()
    return None if call is None else call.language


def current_client_address() -> str:
    """The address that the call came from; "" where the method does not want it, or outside of a
    call.
    """
    call = CURRENT.get()
    return "" if call is None else call.client_address


def mark_effects() -> None:
    """Records that the call may have had effects, so that an error no longer proves it had none."""
    call = CURRENT.get()
    if call is not None:
        call.effects = True


@contextmanager
def without_effects() -> Iterator[None]:
    """Runs a call to a sibling whose effects need nobody: whatever becomes of it, an error of the
    present call still proves that nothing of its own was done.
    """
    call = CURRENT.get()
    before = call is not None and call.effects
    try:
        yield
    finally:
        if call is not None:
            call.effects = before


def mark_replayed() -> None:
    """Tells the client in trailing metadata that the response is that of an earlier call with the
    same key.
    """
    call = CURRENT.get()
    if call is not None:
        call.trailing = (*call.trailing, (REPLAYED, "true"))


@contextmanager
def calling(
    *,
    caller: Caller = NOBODY,
    timeout_seconds: float,
    idempotency_key: str = "",
    trace: Trace | None = None,
) -> Iterator[Call]:
    """Runs a block as a call of its own, e.g. to give a worker a deadline and a trace."""
    call = Call(
        trace=trace or Trace.start(),
        deadline=monotonic() + timeout_seconds,
        caller=caller,
        idempotency_key=idempotency_key,
    )
    token = CURRENT.set(call)
    try:
        yield call
    finally:
        CURRENT.reset(token)
