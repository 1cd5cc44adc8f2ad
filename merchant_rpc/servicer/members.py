"""MemberService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.merchant.v1 import member_pb2, member_pb2_grpc

from merchant_rpc.servicer.messages import ROLES_OF_MESSAGES, member_message, operator_message
from merchant_rpc.usecases.invitations import AcceptInvitation, Invitations, InviteMember
from merchant_rpc.usecases.members import Members, SetMemberRole
from mesh.call import current_caller, current_client_address


class MemberServicer(member_pb2_grpc.MemberServiceServicer):
    """Who works for a merchant."""

    def __init__(self, members: Members, invitations: Invitations) -> None:
        self._members = members
        self._invitations = invitations

    async def ListMembers(
        self, request: member_pb2.ListMembersRequest, context: Any
    ) -> member_pb2.ListMembersResponse:
        """Lists members, oldest first."""
        found = await self._members.list_members(
            merchant_id=request.merchant_id, caller=current_caller()
        )
        return member_pb2.ListMembersResponse(members=[member_message(each) for each in found])

    async def InviteMember(
        self, request: member_pb2.InviteMemberRequest, context: Any
    ) -> member_pb2.InviteMemberResponse:
        """Invites somebody by mail."""
        await self._invitations.invite(
            InviteMember(
                merchant_id=request.merchant_id,
                email=request.email,
                role=ROLES_OF_MESSAGES[request.role],
            ),
            current_caller(),
        )
        return member_pb2.InviteMemberResponse()

    async def AcceptInvitation(
        self, request: member_pb2.AcceptInvitationRequest, context: Any
    ) -> member_pb2.AcceptInvitationResponse:
        """Accepts an invitation."""
        account, membership = await self._invitations.accept(
            AcceptInvitation(
                token=request.token,
                password=request.password,
                name=request.name,
                client_address=current_client_address(),
            ),
            current_caller(),
        )
        return member_pb2.AcceptInvitationResponse(
            member=operator_message(account) if membership is None else member_message(membership)
        )

    async def SetMemberRole(
        self, request: member_pb2.SetMemberRoleRequest, context: Any
    ) -> member_pb2.SetMemberRoleResponse:
        """Changes what a member may do."""
        membership = await self._members.set_role(
            SetMemberRole(
                merchant_id=request.merchant_id,
                member_id=request.member_id,
                role=ROLES_OF_MESSAGES[request.role],
                reason=request.reason,
            ),
            current_caller(),
        )
        return member_pb2.SetMemberRoleResponse(member=member_message(membership))

    async def RemoveMember(
        self, request: member_pb2.RemoveMemberRequest, context: Any
    ) -> member_pb2.RemoveMemberResponse:
        """Ends a membership."""
        await self._members.remove(
            merchant_id=request.merchant_id,
            member_id=request.member_id,
            reason=request.reason,
            caller=current_caller(),
        )
        return member_pb2.RemoveMemberResponse()
