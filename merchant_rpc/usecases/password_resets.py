"""RequestPasswordReset, ResetPassword."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LinkInvalid
from merchant_rpc.domain.member import email_digest
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.domain.session import MEMBER
from merchant_rpc.passwords import Passwords
from merchant_rpc.store import people, sessions
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.login_attempts import (
    LoginAttempts,
    of_account,
    of_address,
    of_mail_from,
    of_mail_to,
    of_person,
)
from merchant_rpc.usecases.mail import Mail, Template
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from mesh.call import NOBODY
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPassword:
    """The token of a link, and the new password."""

    token: str = field(repr=False)
    password: str = field(repr=False)
    client_address: str


class PasswordResets:
    """RequestPasswordReset, ResetPassword."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        passwords: Passwords,
        attempts: LoginAttempts,
        links: OneTimeLinks,
        mail: Mail,
        actions: Actions,
    ) -> None:
        self._db = db
        self._clock = clock
        self._passwords = passwords
        self._attempts = attempts
        self._links = links
        self._mail = mail
        self._actions = actions

    async def request_password_reset(self, email: str, client_address: str) -> None:
        """Sends a link to an address that has an account. Nobody is told whether it has one.

        Raises:
            MailUnavailable: nothing delivers mail here. LoginDelayed: too many were asked for.
        """
        self._mail.check()
        digest = email_digest(email)
        # Never taken back: each may be a mail that somebody has to read.
        await self._db.run(self._attempts.count, (of_mail_to(digest), of_mail_from(client_address)))
        await self._db.run(self._send, digest)

    async def reset_password(self, command: ResetPassword) -> None:
        """Sets a new password and ends every session of the person. A second factor stays.

        Raises:
            LinkInvalid: the link is unknown, was used or is too old. LoginDelayed: too many such
                links from this address.
        """
        address = (of_address(command.client_address),)
        await self._db.run(self._attempts.count, address)
        # Before a hash is computed, which costs more than everything else here.
        await self._db.read(self._links.peek, LinkKind.PASSWORD_RESET, command.token)
        password_hash = await self._passwords.hash(command.password)
        await self._db.run(self._reset, command, password_hash, address)
        failpoint("merchant.reset.after_commit")

    async def _send(self, tx: AsyncConnection, digest: str) -> None:
        person = await people.find_by_email(tx, digest)
        may = person is not None and person.may_log_in
        # Also for nobody, so that it takes as long; no mail has that link, and it opens nothing.
        token = await self._links.issue(
            tx,
            LinkKind.PASSWORD_RESET,
            digest,
            {"member_id": person.member_id if person is not None and may else ""},
        )
        if person is not None and may:
            await self._mail.send(tx, Template.PASSWORD_RESET, address=person.email, token=token)

    async def _reset(
        self,
        tx: AsyncConnection,
        command: ResetPassword,
        password_hash: str,
        address: tuple[str, ...],
    ) -> None:
        payload = await self._links.redeem(tx, LinkKind.PASSWORD_RESET, command.token)
        person = await people.lock_person(tx, payload["member_id"])
        if person is None or not person.may_log_in:
            raise LinkInvalid
        now = self._clock.now()
        await people.set_password(tx, person.member_id, password_hash, at=now)
        await sessions.revoke_all(tx, member_id=person.member_id, now=now)
        # Who holds an account up with wrong passwords does not hold up the one who has its mail.
        await self._attempts.forget(
            tx, (of_account(email_digest(person.email)), of_person(person.member_id))
        )
        await self._attempts.take_back(tx, address)
        # Each merchant that he works for may know; logs are locked in one order.
        memberships = await people.memberships_of(tx, person.member_id)
        for merchant_id in sorted(one.merchant_id for one in memberships) or [""]:
            await self._actions.record(
                tx,
                caller=NOBODY,
                merchant_id=merchant_id,
                method="ResetPassword",
                target=person.member_id,
                actor=MEMBER + person.member_id,
            )
        failpoint("merchant.reset.before_commit")
