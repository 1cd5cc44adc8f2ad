"""EnrolTotp, ConfirmTotp, DisableTotp, and the check of a code at log-in."""

from __future__ import annotations

from collections.abc import Callable

import pyotp
from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain import totp
from merchant_rpc.domain.errors import (
    LoginFailed,
    PersonRequired,
    TotpAlreadyEnrolled,
    TotpInvalid,
)
from merchant_rpc.domain.session import MEMBER, OPERATOR, Person
from merchant_rpc.passwords import Passwords
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.store import people
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.login_attempts import LoginAttempts, of_person
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.logs import get_logger

log = get_logger()


def member_of(caller: Caller) -> str:
    """The person who calls.

    Raises:
        PersonRequired: a key, or the token of another issuer.
    """
    for prefix in (MEMBER, OPERATOR):
        # No other issuer may claim these subjects, and every session gives its id.
        if caller.subject.startswith(prefix) and caller.session_id:
            return caller.subject.removeprefix(prefix)
    raise PersonRequired


class SecondFactor:
    """Secrets of authenticator apps and recovery codes."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        key: PeopleKey,
        passwords: Passwords,
        attempts: LoginAttempts,
        actions: Actions,
        random_bytes: Callable[[int], bytes],
        name: str,
    ) -> None:
        """
        Args:
            name: of this installation, which apps show.
        """
        self._db = db
        self._clock = clock
        self._key = key
        self._passwords = passwords
        self._attempts = attempts
        self._actions = actions
        self._random_bytes = random_bytes
        self._name = name

    async def enrol(self, password: str, caller: Caller) -> tuple[str, str]:
        """A new secret in base 32 and its otpauth:// URI. It counts when `confirm` has seen a code
        of it.

        Raises:
            PersonRequired, LoginFailed: the password is wrong. LoginDelayed, TotpAlreadyEnrolled.
        """
        person = await self._prove(password, caller)
        if person.totp_secret is not None:
            raise TotpAlreadyEnrolled
        secret = totp.new_secret(self._random_bytes)
        sealed = self._key.encrypt(secret, owner=person.member_id)
        await self._db.run(self._enrol, person.member_id, sealed)
        uri = pyotp.TOTP(secret).provisioning_uri(name=person.email, issuer_name=self._name)
        return secret, uri

    async def confirm(self, code: str, caller: Caller) -> tuple[str, ...]:
        """Lets the secret count from now on; ten recovery codes, which are shown once.

        Raises:
            PersonRequired, TotpInvalid: the code does not fit, or nothing was begun.
            TotpAlreadyEnrolled. LoginDelayed: too many codes did not fit.
        """
        member_id = member_of(caller)
        codes = totp.new_recovery_codes(self._random_bytes)
        await self._db.run(self._attempts.count, (of_person(member_id),))
        await self._db.run(self._confirm, member_id, code, codes, caller)
        return codes

    async def disable(self, password: str, code: str, caller: Caller) -> None:
        """Ends the second factor.

        Raises:
            PersonRequired, LoginFailed: the password is wrong. TotpInvalid, LoginDelayed.
        """
        person = await self._prove(password, caller, keeps_attempt=True)
        await self._db.run(self._disable, person.member_id, code, caller)

    async def use(self, tx: AsyncConnection, person: Person, code: str) -> bool:
        """Uses a code of the app or a recovery code up; False when it is neither (any more). The
        person is locked.
        """
        step = self._step(person, person.totp_secret, code, used_step=person.totp_last_step)
        if step is not None:
            return await people.use_step(tx, person.member_id, step)
        return await people.use_recovery_code(
            tx,
            person.member_id,
            totp.recovery_digest(person.member_id, code),
            at=self._clock.now(),
        )

    async def _prove(self, password: str, caller: Caller, *, keeps_attempt: bool = False) -> Person:
        member_id = member_of(caller)
        subjects = (of_person(member_id),)
        await self._db.run(self._attempts.count, subjects)
        person = await self._db.read(people.find_person, member_id)
        fits = await self._passwords.verify(
            person.password_hash if person is not None else None, password
        )
        if person is None or not person.may_log_in or not fits:
            raise LoginFailed
        if not keeps_attempt:
            await self._db.run(self._attempts.take_back, subjects)
        return person

    async def _enrol(self, tx: AsyncConnection, member_id: str, sealed: str) -> None:
        person = await people.lock_person(tx, member_id)
        if person is None or person.totp_secret is not None:
            raise TotpAlreadyEnrolled
        await people.begin_totp(tx, member_id, sealed, at=self._clock.now())

    async def _confirm(
        self, tx: AsyncConnection, member_id: str, code: str, codes: tuple[str, ...], caller: Caller
    ) -> None:
        person = await people.lock_person(tx, member_id)
        if person is None:
            raise TotpInvalid
        if person.totp_secret is not None:
            raise TotpAlreadyEnrolled
        step = self._step(person, person.totp_pending, code, used_step=None)
        if step is None:
            raise TotpInvalid
        now = self._clock.now()
        await people.set_totp(tx, member_id, person.totp_pending, step=step, at=now)
        await people.replace_recovery_codes(
            tx, member_id, [totp.recovery_digest(member_id, each) for each in codes], at=now
        )
        await self._attempts.take_back(tx, (of_person(member_id),))
        await self._record(tx, "ConfirmTotp", member_id, caller)

    async def _disable(
        self, tx: AsyncConnection, member_id: str, code: str, caller: Caller
    ) -> None:
        person = await people.lock_person(tx, member_id)
        if person is None or person.totp_secret is None or not await self.use(tx, person, code):
            raise TotpInvalid
        now = self._clock.now()
        await people.set_totp(tx, member_id, None, step=None, at=now)
        await people.replace_recovery_codes(tx, member_id, (), at=now)
        await self._attempts.take_back(tx, (of_person(member_id),))
        await self._record(tx, "DisableTotp", member_id, caller)

    async def _record(
        self, tx: AsyncConnection, method: str, member_id: str, caller: Caller
    ) -> None:
        await self._actions.record(
            tx, caller=caller, merchant_id=caller.merchant_id, method=method, target=member_id
        )

    def _step(
        self, person: Person, sealed: str | None, code: str, *, used_step: int | None
    ) -> int | None:
        if sealed is None:
            return None
        try:
            secret = self._key.decrypt(sealed, owner=person.member_id)
        except ValueError as problem:
            log.error(
                "totp_secret_unreadable",
                alert=True,
                member_id=person.member_id,
                problem=str(problem),
            )
            return None
        return totp.fitting_step(
            code,
            code_of=pyotp.TOTP(secret).generate_otp,
            now=self._clock.now(),
            used_step=used_step,
        )
