"""The refusals of merchant_rpc. Each `reason` is a value of `paymesh.merchant.v1.ErrorReason`,
which says what it means on the wire.
"""

from __future__ import annotations

from mesh.errors import MeshError, NotFound, PermissionDenied, Unauthenticated, Unavailable


class MerchantNotFound(NotFound):
    """There is no such merchant, or it is not the caller's."""

    reason = "MERCHANT_NOT_FOUND"


class MerchantIdTaken(MeshError):
    """Another merchant has this id, or it is reserved."""

    reason = "MERCHANT_ID_TAKEN"


class MerchantStateInvalid(MeshError):
    """The state of the merchant does not allow this step.

    `metadata` has state and verb.
    """

    reason = "MERCHANT_STATE_INVALID"


class MerchantSuspended(MeshError):
    """The merchant is suspended or closed: no new payments, orders and keys."""

    reason = "MERCHANT_SUSPENDED"


class MerchantNotLive(MeshError):
    """The merchant may only use its test sibling."""

    reason = "MERCHANT_NOT_LIVE"


class SettingsChanged(MeshError):
    """Another version of the settings is in force than the one that was read.

    `metadata` has version, the one in force.
    """

    reason = "SETTINGS_CHANGED"


class LinkInvalid(MeshError):
    """The token of a link is unknown, was used, or is too old."""

    reason = "LINK_INVALID"


class MailUnavailable(Unavailable):
    """This installation has nothing that sends mail, nothing was done."""

    reason = "MAIL_UNAVAILABLE"


class LoginFailed(Unauthenticated):
    """Wrong address, password or code; nobody is told which."""

    reason = "LOGIN_FAILED"


class TotpRequired(Unauthenticated):
    """The password is right and a second factor is enrolled."""

    reason = "TOTP_REQUIRED"


class TotpInvalid(MeshError):
    """The code does not fit the secret, or was used before."""

    reason = "TOTP_INVALID"


class LoginDelayed(MeshError):
    """Too many attempts of this account or address; `retry_after_seconds` says when to try
    again.
    """

    reason = "LOGIN_DELAYED"


class SessionInvalid(Unauthenticated):
    """The refresh token is unknown, was used, or its session ended."""

    reason = "SESSION_INVALID"


class MemberNotFound(NotFound):
    """There is no such member of this merchant, and none who was removed is removed again."""

    reason = "MEMBER_NOT_FOUND"


class MemberLimitReached(MeshError):
    """The merchant has as many members and open invitations as it may have."""

    reason = "MEMBER_LIMIT_REACHED"


class LastOwner(MeshError):
    """The only owner can neither leave nor become something else."""

    reason = "LAST_OWNER"


class SessionNotFound(NotFound):
    """There is no such session of the caller."""

    reason = "SESSION_NOT_FOUND"


class ApiKeyInvalid(Unauthenticated):
    """The key is malformed, unknown, revoked, expired, of another mode, or not for this address;
    nobody is told which.
    """

    reason = "API_KEY_INVALID"


class ApiKeyNotFound(NotFound):
    """There is no such key of this merchant."""

    reason = "API_KEY_NOT_FOUND"


class ApiKeyLimitReached(MeshError):
    """The merchant has as many living keys as it may have."""

    reason = "API_KEY_LIMIT_REACHED"


class ScopeNotHeld(PermissionDenied):
    """A scope or role is wider than the caller's own; the fields name it."""

    reason = "SCOPE_NOT_HELD"


class PersonRequired(PermissionDenied):
    """The caller is a key or a token of another issuer, not a session."""

    reason = "PERSON_REQUIRED"


class OidcUnavailable(MeshError):
    """No identity provider is configured for logging in."""

    reason = "OIDC_UNAVAILABLE"


class TotpAlreadyEnrolled(MeshError):
    """A second factor is enrolled already; DisableTotp ends it."""

    reason = "TOTP_ALREADY_ENROLLED"
