"""CreateSession: who gives the right password, and the right code where one is needed, is logged
in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LoginFailed, TotpRequired
from merchant_rpc.domain.member import email_digest
from merchant_rpc.domain.session import Person
from merchant_rpc.passwords import Passwords
from merchant_rpc.store import people, sessions
from merchant_rpc.usecases.grants import Granted, Grants
from merchant_rpc.usecases.login_attempts import (
    LoginAttempts,
    of_account,
    of_address,
    of_known_address,
)
from merchant_rpc.usecases.second_factor import SecondFactor
from mesh.clock import Clock
from mesh.db import Database
from mesh.failpoints import failpoint
from mesh.limits import network_of

# From an address where a person was logged in within this time, others' attempts on his account do
# not hold him up.
KNOWN_FOR: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSession:
    """What somebody gives who wants to log in."""

    email: str = field(repr=False)
    password: str = field(repr=False)
    code: str = field(repr=False)  # "" without one
    merchant_id: str  # "" for the usual one
    client_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A counted attempt, before the password is checked."""

    person: Person | None
    account: str  # subjects of attempts
    address: str


class Logins:
    """CreateSession."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        passwords: Passwords,
        attempts: LoginAttempts,
        second_factor: SecondFactor,
        grants: Grants,
    ) -> None:
        self._db = db
        self._clock = clock
        self._passwords = passwords
        self._attempts = attempts
        self._second_factor = second_factor
        self._grants = grants

    async def create_session(self, command: CreateSession) -> Granted:
        """Logs somebody in. An address without an account gets the same answer as a wrong password,
        after the same work.

        Raises:
            LoginFailed: no account, a wrong password or a wrong code. TotpRequired: the password is
                right, and a code is needed. LoginDelayed: too many wrong attempts.
                MerchantNotFound: he does not work for this merchant.
        """
        begun = await self._db.run(self._begin, command)
        person = begun.person
        known_hash = None if person is None else person.password_hash
        fits = await self._passwords.verify(known_hash, command.password)
        if not fits or person is None or not person.may_log_in or known_hash is None:
            raise LoginFailed
        new_hash = (
            await self._passwords.hash(command.password)
            if self._passwords.is_outdated(known_hash)
            else known_hash
        )
        result = await self._db.run(self._finish, command, begun, person, new_hash)
        if isinstance(result, TotpRequired):
            raise result
        failpoint("merchant.log_in.after_commit")
        return result

    async def _begin(self, tx: AsyncConnection, command: CreateSession) -> _Begun:
        digest = email_digest(command.email)
        person = await people.find_by_email(tx, digest)
        known = await sessions.addresses_of(
            tx,
            member_id="" if person is None else person.member_id,
            since=self._clock.now() - KNOWN_FOR,
        )
        is_known = network_of(command.client_address) in {network_of(each) for each in known}
        begun = _Begun(
            person=person,
            account=of_known_address(digest, command.client_address)
            if is_known
            else of_account(digest),
            address=of_address(command.client_address),
        )
        await self._attempts.count(tx, (begun.account, begun.address))
        return begun

    async def _finish(
        self,
        tx: AsyncConnection,
        command: CreateSession,
        begun: _Begun,
        checked: Person,
        new_hash: str,
    ) -> Granted | TotpRequired:
        person = await people.lock_person(tx, checked.member_id)
        # another password meanwhile: this one was right for the old one
        if person is None or not person.may_log_in or person.password_hash != checked.password_hash:
            raise LoginFailed
        if person.totp_secret is not None:
            if not command.code:
                # The attempt was no wrong one. Earlier ones stay: only a whole log-in ends them.
                await self._attempts.take_back(tx, (begun.account, begun.address))
                return TotpRequired()
            if not await self._second_factor.use(tx, person, command.code):
                raise LoginFailed
        await self._attempts.forget(tx, (begun.account,))
        # Not forgotten: one account of his own would free an address to try all others.
        await self._attempts.take_back(tx, (begun.address,))
        if new_hash != person.password_hash:
            await people.set_password(tx, person.member_id, new_hash, at=self._clock.now())
        granted = await self._grants.begin(
            tx,
            person,
            wanted=command.merchant_id,
            client_address=command.client_address,
            method="CreateSession",
            used_code=person.totp_secret is not None,
        )
        failpoint("merchant.log_in.before_commit")
        return granted
