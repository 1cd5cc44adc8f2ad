"""Authorises calls: applies the roles and the ownership rules of a method to caller and request."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from google.protobuf.message import Message

from mesh.auth import CallerClaims, UserClaims
from mesh.call import NOBODY, Caller, Role
from mesh.errors import NotFound, PermissionDenied, Unauthenticated
from mesh.policies import DEFAULT_MERCHANT, MethodPolicy, OwnershipKind

_WIDEST_FIRST = (Role.ADMIN, Role.MERCHANT, Role.USER)


class TextField:
    """A singular string field somewhere in a message, by its path."""

    __slots__ = ("_last", "_parents", "get", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.get: Callable[[Any], str] = attrgetter(path)  # "" when an enclosing message is not set
        *parents, self._last = path.split(".")
        self._parents = tuple(parents)

    def set(self, message: Message, text: str) -> None:
        """Sets the value, and creates the enclosing messages."""
        target: Any = message
        for name in self._parents:
            target = getattr(target, name)
        setattr(target, self._last, text)


class Access:
    """The access rules of one method."""

    __slots__ = (
        "_admits_checkout",
        "_kind",
        "_merchant",
        "_order",
        "_public",
        "_scopes",
        "_services",
        "_user",
        "_user_roles",
    )

    def __init__(self, policy: MethodPolicy) -> None:
        self._user_roles = tuple(role for role in _WIDEST_FIRST if role in policy.roles)
        self._public = Role.PUBLIC in policy.roles
        self._scopes = policy.scopes
        order_field = policy.checkout_order_field
        self._admits_checkout = order_field is not None
        self._order = TextField(order_field) if order_field else None
        self._services = policy.service_callers
        self._kind = policy.ownership.kind
        self._user = TextField(policy.ownership.user_field) if policy.ownership.user_field else None
        self._merchant = (
            TextField(policy.ownership.merchant_field) if policy.ownership.merchant_field else None
        )

    def admit(self, user: UserClaims | None, service: CallerClaims | None) -> Caller:
        """The caller with the widest role that the method admits. The user token is checked before
        the token of the service that forwards it, so that neither gains rights from the other.

        Raises:
            Unauthenticated: the call has no token and the method is not public.
            PermissionDenied: the call has a token and no rule admits it, or the token lacks a
                scope, which is named, or it is for the checkout of one order.
        """
        if user is not None:
            if user.order_id and not self._admits_checkout:
                raise PermissionDenied("A checkout token may only pay its order.")
            callers = user.callers
            for role in self._user_roles:
                caller = callers.get(role)
                if caller is not None:
                    if caller.scopes is not None and role is Role.MERCHANT:
                        self._check_scopes(caller.scopes)
                    return caller
        if service is not None and service.service in self._services:
            return service.caller
        if self._public:
            return NOBODY if user is None else user.callers[Role.PUBLIC]
        if user is None and service is None:
            raise Unauthenticated
        raise PermissionDenied

    def _check_scopes(self, scopes: frozenset[str]) -> None:
        if not self._scopes <= scopes:
            missing = " ".join(sorted(self._scopes - scopes))
            raise PermissionDenied(f"The token lacks the scope {missing}.", missing_scope=missing)

    def own(self, request: Message, caller: Caller) -> None:
        """Fills the owner fields from the caller, or refuses a request that names another owner.

        Raises:
            PermissionDenied: the request names another owner; names the field.
            NotFound: the same on a method that looks up a row, so that callers cannot find out
                which tenants exist.
        """
        role = caller.role
        if self._merchant is not None:
            bound = role is Role.USER or role is Role.MERCHANT
            if bound and self._kind is not OwnershipKind.NONE:
                if self._merchant.get(request) != caller.merchant_id:
                    self._bind(self._merchant, request, caller.merchant_id)
            elif not self._merchant.get(request):
                self._merchant.set(
                    request,
                    (caller.merchant_id if role is not Role.ADMIN else "") or DEFAULT_MERCHANT,
                )
        if (
            self._user is not None
            and role is Role.USER
            and self._user.get(request) != caller.subject
        ):
            self._bind(self._user, request, caller.subject)
        if (
            self._order is not None
            and caller.order_id
            and self._order.get(request) != caller.order_id
        ):
            self._bind(self._order, request, caller.order_id)

    def _bind(self, field: TextField, request: Message, owner: str) -> None:
        if not field.get(request):
            field.set(request, owner)
        elif self._kind is OwnershipKind.RESOURCE:
            raise NotFound
        else:
            raise PermissionDenied(
                f"{field.path}: is not the caller's", fields={field.path: "is not the caller's"}
            )
