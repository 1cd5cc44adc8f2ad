"""Counts attempts to log in, by account and by address, before anything is checked."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LoginDelayed
from merchant_rpc.domain.login_delay import FORGOTTEN_AFTER, subject_of
from merchant_rpc.store import login_failures as store
from mesh.clock import Clock
from mesh.db import Database
from mesh.limits import network_of


class LoginAttempts:
    """The attempts of all accounts and addresses; every replica sees the same ones."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock

    async def count(self, tx: AsyncConnection, subjects: Iterable[str]) -> None:
        """Counts one attempt, as if it were wrong. Commit it before the password is checked, so
        that attempts at the same moment see each other.

        Raises:
            LoginDelayed: a subject has to wait. The attempt is not looked at and does not count.
        """
        now = self._clock.now()
        found = await store.lock(tx, subjects, now=now)
        wait = max(attempts.wait(now).total_seconds() for attempts in found)
        if wait > 0:
            raise LoginDelayed(retry_after_seconds=wait)
        for attempts in found:
            await store.save(tx, attempts.further(now))

    async def take_back(self, tx: AsyncConnection, subjects: Iterable[str]) -> None:
        """Takes back the attempt that was counted last: it was right."""
        now = self._clock.now()
        for attempts in await store.lock(tx, subjects, now=now):
            fewer = attempts.taken_back(now)
            if fewer is None:
                await store.forget(tx, [attempts.subject])
            else:
                await store.save(tx, fewer)

    async def forget(self, tx: AsyncConnection, subjects: Iterable[str]) -> None:
        """Forgets all attempts of some subjects: the person proved who he is."""
        await store.forget(tx, subjects)

    async def purge_once(self, db: Database) -> int:
        """Deletes some attempts that no longer count; returns how many."""
        return await db.run(store.purge, before=self._clock.now() - FORGOTTEN_AFTER)


def of_address(address: str) -> str:
    """Of all accounts together, from one address."""
    return subject_of("address", network_of(address))


def of_account(email_digest: str) -> str:
    """Of one account, from all addresses from which its person never logged in."""
    return subject_of("account", email_digest)


def of_known_address(email_digest: str, address: str) -> str:
    """Of one account, from an address from which its person logged in."""
    return subject_of("known", email_digest, network_of(address))


def of_person(member_id: str) -> str:
    """Of somebody who is logged in and proves himself once more."""
    return subject_of("person", member_id)


def of_mail_to(email_digest: str) -> str:
    """Of mails to one address that anybody may ask for."""
    return subject_of("mail", email_digest)


def of_mail_from(address: str) -> str:
    """Of mails that were asked for from one address."""
    return subject_of("mail_from", network_of(address))


def of_oidc_from(address: str) -> str:
    """Of log-ins at the identity provider that were begun from one address."""
    return subject_of("oidc_from", network_of(address))
