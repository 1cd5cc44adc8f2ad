"""RefreshSession, ListSessions, RevokeSession."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import SessionInvalid, SessionNotFound
from merchant_rpc.domain.session import RefreshToken, Session, Use, token_text
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.store import people
from merchant_rpc.store import sessions as store
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.grants import Granted, Grants
from merchant_rpc.usecases.second_factor import member_of
from mesh.call import Caller
from mesh.clock import Clock
from mesh.db import Database
from mesh.logs import get_logger

CURRENT: Final = "current"
# Ended sessions tell from where a person was logged in, and are evidence for a while.
KEPT_AFTER_END: Final = timedelta(days=30)
log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSession:
    """A refresh token, and the merchant to act for from now on ("": the same)."""

    refresh_token: str = field(repr=False)
    merchant_id: str
    client_address: str


class Sessions:
    """RefreshSession, ListSessions, RevokeSession."""

    def __init__(
        self, *, db: Database, clock: Clock, key: PeopleKey, grants: Grants, actions: Actions
    ) -> None:
        self._db = db
        self._clock = clock
        self._key = key
        self._grants = grants
        self._actions = actions

    async def refresh_session(self, command: RefreshSession) -> Granted:
        """New tokens for a session. An old refresh token ends it, unless it was good a moment ago.

        Raises:
            SessionInvalid: the token is not ours, was used before, or its session has ended.
                MerchantNotFound: the person does not work for this merchant.
        """
        token = RefreshToken.parse(command.refresh_token)
        if token is None:
            raise SessionInvalid
        granted = await self._db.run(self._refresh, token, command)
        if granted is None:  # committed: the session has ended
            log.warning("refresh_token_reused", alert=True, session_id=token.session_id)
            raise SessionInvalid
        return granted

    async def list_sessions(self, caller: Caller) -> tuple[Session, ...]:
        """The living sessions of the caller, newest first.

        Raises:
            PersonRequired: a key, or the token of another issuer.
        """
        return await self._db.read(
            store.list_sessions, member_id=member_of(caller), now=self._clock.now()
        )

    async def revoke_session(self, session_id: str, caller: Caller) -> None:
        """Ends a session of the caller. Its access token lives on, for five minutes at most.

        Args:
            session_id: "current" is the one of the call.

        Raises:
            PersonRequired, SessionNotFound: he has no such living one.
        """
        member_id = member_of(caller)
        wanted = caller.session_id if session_id == CURRENT else session_id
        await self._db.run(self._revoke, wanted, member_id, caller)

    async def purge_once(self) -> int:
        """Deletes some sessions that ended long ago; returns how many."""
        return await self._db.run(store.purge, before=self._clock.now() - KEPT_AFTER_END)

    async def _refresh(
        self, tx: AsyncConnection, token: RefreshToken, command: RefreshSession
    ) -> Granted | None:
        now = self._clock.now()
        session = await store.lock_session(tx, token.session_id)
        if session is None:
            raise SessionInvalid
        text = token_text(token.session_id, token.rotation, session.refresh_seed)
        # Before anything is done with the session: whoever knows its id must not be able to end it.
        if not self._key.is_code(token.code, text):
            raise SessionInvalid
        use = session.judge(token.rotation, now)
        person = await people.find_person(tx, session.member_id)
        if use is Use.REFUSE or person is None or not person.may_log_in:
            raise SessionInvalid
        if use is Use.END:
            await store.revoke(
                tx, session_id=session.session_id, member_id=session.member_id, now=now
            )
            return None
        return await self._grants.go_on(
            tx,
            session,
            person,
            wanted=command.merchant_id,
            client_address=command.client_address if use is Use.ROTATE else None,
        )

    async def _revoke(
        self, tx: AsyncConnection, session_id: str, member_id: str, caller: Caller
    ) -> None:
        now = self._clock.now()
        if not await store.revoke(tx, session_id=session_id, member_id=member_id, now=now):
            raise SessionNotFound
        await self._actions.record(
            tx,
            caller=caller,
            merchant_id=caller.merchant_id,
            method="RevokeSession",
            target=session_id,
        )
