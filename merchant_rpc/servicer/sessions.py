"""SessionService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.merchant.v1 import member_pb2, session_pb2, session_pb2_grpc

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.session import Session
from merchant_rpc.usecases.grants import Granted
from merchant_rpc.usecases.logins import CreateSession, Logins
from merchant_rpc.usecases.oidc_logins import FinishOidcLogin, OidcLogins
from merchant_rpc.usecases.password_resets import PasswordResets, ResetPassword
from merchant_rpc.usecases.second_factor import SecondFactor
from merchant_rpc.usecases.sessions import RefreshSession, Sessions
from mesh.call import current_caller, current_client_address
from mesh.times import timestamp

_ROLES = {role: member_pb2.MemberRole.Value(f"MEMBER_ROLE_{role}") for role in MemberRole}


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Logging in."""

    def __init__(
        self,
        *,
        logins: Logins,
        sessions: Sessions,
        second_factor: SecondFactor,
        password_resets: PasswordResets,
        oidc_logins: OidcLogins,
    ) -> None:
        self._logins = logins
        self._sessions = sessions
        self._second_factor = second_factor
        self._password_resets = password_resets
        self._oidc_logins = oidc_logins

    async def CreateSession(
        self, request: session_pb2.CreateSessionRequest, context: Any
    ) -> session_pb2.CreateSessionResponse:
        """Logs in with a password."""
        granted = await self._logins.create_session(
            CreateSession(
                email=request.email,
                password=request.password,
                code=request.code,
                merchant_id=request.merchant_id,
                client_address=current_client_address(),
            )
        )
        return session_pb2.CreateSessionResponse(session=_session_message(granted))

    async def RefreshSession(
        self, request: session_pb2.RefreshSessionRequest, context: Any
    ) -> session_pb2.RefreshSessionResponse:
        """Gives new tokens."""
        granted = await self._sessions.refresh_session(
            RefreshSession(
                refresh_token=request.refresh_token,
                merchant_id=request.merchant_id,
                client_address=current_client_address(),
            )
        )
        return session_pb2.RefreshSessionResponse(session=_session_message(granted))

    async def ListSessions(
        self, request: session_pb2.ListSessionsRequest, context: Any
    ) -> session_pb2.ListSessionsResponse:
        """Lists the living sessions of the caller."""
        caller = current_caller()
        found = await self._sessions.list_sessions(caller)
        return session_pb2.ListSessionsResponse(
            sessions=[_info_message(one, current=caller.session_id) for one in found]
        )

    async def RevokeSession(
        self, request: session_pb2.RevokeSessionRequest, context: Any
    ) -> session_pb2.RevokeSessionResponse:
        """Ends a session of the caller."""
        await self._sessions.revoke_session(request.session_id, current_caller())
        return session_pb2.RevokeSessionResponse()

    async def EnrolTotp(
        self, request: session_pb2.EnrolTotpRequest, context: Any
    ) -> session_pb2.EnrolTotpResponse:
        """Begins the enrolment of a second factor."""
        secret, uri = await self._second_factor.enrol(request.password, current_caller())
        return session_pb2.EnrolTotpResponse(secret=secret, uri=uri)

    async def ConfirmTotp(
        self, request: session_pb2.ConfirmTotpRequest, context: Any
    ) -> session_pb2.ConfirmTotpResponse:
        """Ends the enrolment of a second factor."""
        codes = await self._second_factor.confirm(request.code, current_caller())
        return session_pb2.ConfirmTotpResponse(recovery_codes=codes)

    async def DisableTotp(
        self, request: session_pb2.DisableTotpRequest, context: Any
    ) -> session_pb2.DisableTotpResponse:
        """Ends the second factor."""
        await self._second_factor.disable(request.password, request.code, current_caller())
        return session_pb2.DisableTotpResponse()

    async def RequestPasswordReset(
        self, request: session_pb2.RequestPasswordResetRequest, context: Any
    ) -> session_pb2.RequestPasswordResetResponse:
        """Sends a link that sets a new password."""
        await self._password_resets.request_password_reset(request.email, current_client_address())
        return session_pb2.RequestPasswordResetResponse()

    async def ResetPassword(
        self, request: session_pb2.ResetPasswordRequest, context: Any
    ) -> session_pb2.ResetPasswordResponse:
        """Sets a new password."""
        await self._password_resets.reset_password(
            ResetPassword(
                token=request.token,
                password=request.password,
                client_address=current_client_address(),
            )
        )
        return session_pb2.ResetPasswordResponse()

    async def BeginOidcLogin(
        self, request: session_pb2.BeginOidcLoginRequest, context: Any
    ) -> session_pb2.BeginOidcLoginResponse:
        """Begins a log-in at the identity provider."""
        url, token = await self._oidc_logins.begin_oidc_login(
            request.merchant_id, current_client_address()
        )
        return session_pb2.BeginOidcLoginResponse(authorization_url=url, login_token=token)

    async def FinishOidcLogin(
        self, request: session_pb2.FinishOidcLoginRequest, context: Any
    ) -> session_pb2.FinishOidcLoginResponse:
        """Ends a log-in at the identity provider."""
        granted = await self._oidc_logins.finish_oidc_login(
            FinishOidcLogin(
                login_token=request.login_token,
                state=request.state,
                code=request.code,
                client_address=current_client_address(),
                totp_code=request.totp_code,
            )
        )
        return session_pb2.FinishOidcLoginResponse(session=_session_message(granted))


def _session_message(granted: Granted) -> session_pb2.Session:
    session = granted.session
    return session_pb2.Session(
        session_id=session.session_id,
        access_token=granted.access_token,
        access_expires_at=timestamp(granted.access_expires_at),
        refresh_token=granted.refresh_token,
        idle_expires_at=timestamp(session.idle_expires_at),
        expires_at=timestamp(session.expires_at),
        member_id=session.member_id,
        merchant_id=granted.merchant_id,
        role=_ROLES[granted.role]
        if granted.role is not None
        else member_pb2.MemberRole.MEMBER_ROLE_UNSPECIFIED,
        scopes=sorted(granted.scopes),
        memberships=[
            session_pb2.Membership(merchant_id=merchant_id, role=_ROLES[role])
            for merchant_id, role in granted.memberships
        ],
        is_operator=granted.is_operator,
    )


def _info_message(session: Session, *, current: str) -> session_pb2.SessionInfo:
    return session_pb2.SessionInfo(
        session_id=session.session_id,
        merchant_id=session.merchant_id,
        client_address=session.client_address,
        created_at=timestamp(session.created_at),
        last_used_at=timestamp(session.last_used_at),
        expires_at=timestamp(session.expires_at),
        is_current=session.session_id == current,
    )
