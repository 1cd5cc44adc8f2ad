"""Operators: our own staff, invited from the command line of the installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LinkInvalid
from merchant_rpc.domain.member import email_digest
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.domain.session import OPERATOR
from merchant_rpc.store import members, people
from merchant_rpc.usecases.actions import Actions, digest_of
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from mesh.call import NOBODY
from mesh.clock import Clock
from mesh.ids import Ids


class Operators:
    """Invites operators, and takes them in when they use their link."""

    def __init__(self, *, clock: Clock, ids: Ids, links: OneTimeLinks, actions: Actions) -> None:
        self._clock = clock
        self._ids = ids
        self._links = links
        self._actions = actions

    async def invite(self, tx: AsyncConnection, email: str, *, actor: str) -> str:
        """The token of a link with which the owner of an address becomes an operator. Earlier links
        for him end.

        Args:
            email: as `parse_email` gives it.
            actor: who invites, for the log.
        """
        digest = email_digest(email)
        token = await self._links.issue(tx, LinkKind.OPERATOR, digest, {"email": email})
        await self._actions.record(
            tx,
            caller=NOBODY,
            merchant_id="",
            method="AddOperator",
            target=digest_of(email),
            actor=actor,
        )
        return token

    async def accept(
        self, tx: AsyncConnection, payload: Mapping[str, Any], *, name: str, password_hash: str
    ) -> str:
        """Makes the owner of a link an operator; returns his member id.

        Args:
            payload: of the link of kind OPERATOR, which was redeemed in this transaction.
            password_hash: of a new account. Of an account that exists: the one whose password was
                checked before this transaction; it stays.

        Raises:
            LinkInvalid: the account was disabled, or its password changed meanwhile.
        """
        email = str(payload["email"])
        now = self._clock.now()
        found = await people.find_by_email(tx, email_digest(email))
        if found is None:
            member_id = self._ids.new("MEM")
            await members.insert_account(
                tx,
                member_id=member_id,
                email=email,
                name=name,
                password_hash=password_hash,
                now=now,
                is_operator=True,
            )
        else:
            member_id = found.member_id
            person = await people.lock_person(tx, member_id)
            if person is None or not person.may_log_in or person.password_hash != password_hash:
                raise LinkInvalid
            await people.make_operator(tx, member_id, at=now)
        await self._actions.record(
            tx,
            caller=NOBODY,
            merchant_id="",
            method="AcceptInvitation",
            target=member_id,
            after={"is_operator": True},
            actor=OPERATOR + member_id,
        )
        return member_id
