"""How often strangers may make us send mail and compute hashes. Counted beside the wrong attempts
to log in, so that all replicas see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.attempt_allowance import LINKS, MAILS, Allowance
from merchant_rpc.domain.errors import LoginDelayed
from merchant_rpc.domain.login_delay import subject_of
from merchant_rpc.domain.member import email_digest
from merchant_rpc.store import login_failures as store
from mesh.clock import Clock
from mesh.db import Database
from mesh.limits import network_of


class AttemptLimits:
    """Takes attempts one by one, each in a transaction of its own: what comes of it later does not
    give it back.
    """

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def take_sign_up(self, *, client_address: str, email: str) -> None:
        """One mail that a stranger asks for.

        Raises:
            LoginDelayed: there were too many from his network, or to the address.
        """
        sender = subject_of("sign_up", network_of(client_address))
        await self._db.run(self._take, ((sender, MAILS), (_mailbox(email), MAILS)))

    async def take_mail(self, *, email: str) -> None:
        """One mail to an address, whoever asks for it: nobody's mailbox is filled by us.

        Raises:
            LoginDelayed: there were too many.
        """
        await self._db.run(self._take, ((_mailbox(email), MAILS),))

    async def take_link(self, *, client_address: str, token_digest: str) -> None:
        """One look at the token of a link.

        Raises:
            LoginDelayed: there were too many from this network, or with this token.
        """
        network = subject_of("links_from", network_of(client_address))
        link = subject_of("link", token_digest)
        await self._db.run(self._take, ((network, LINKS), (link, MAILS)))

    async def _take(self, tx: AsyncConnection, wanted: Iterable[tuple[str, Allowance]]) -> None:
        """Takes one of each allowance, or none."""
        now = self._clock.now()
        allowances = dict(wanted)
        found = await store.lock(tx, allowances, now=now)
        wait = max(allowances[each.subject].wait(each, now) for each in found)
        if wait:
            raise LoginDelayed(retry_after_seconds=wait.total_seconds())
        for each in found:
            await store.save(tx, allowances[each.subject].taken(each, now))


def _mailbox(email: str) -> str:
    return subject_of("mailbox", email_digest(email))
