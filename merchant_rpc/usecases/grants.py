"""Sessions that begin or go on: their tokens, and what those may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.merchant import sibling_id
from merchant_rpc.domain.session import (
    ACCESS_SECONDS,
    MEMBER,
    OPERATOR,
    ActsFor,
    Person,
    RefreshToken,
    Session,
    chosen,
)
from merchant_rpc.people_key import KEY_BYTES, PeopleKey
from merchant_rpc.store import people, sessions
from merchant_rpc.usecases.actions import Actions
from mesh.call import NOBODY, Role
from mesh.clock import Clock
from mesh.errors import Unavailable
from mesh.ids import Ids
from mesh.token_issuers import OwnTokenSigner


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A session with its tokens. `role` is None and the merchant "" for an operator."""

    session: Session
    access_token: str = field(repr=False)
    access_expires_at: datetime
    refresh_token: str = field(repr=False)
    merchant_id: str  # that the access token is for
    role: MemberRole | None
    scopes: frozenset[str]
    memberships: tuple[tuple[str, MemberRole], ...]  # with test siblings

    @property
    def is_operator(self) -> bool:
        """Whether its access token is an administrator's."""
        return self.role is None


class Grants:
    """Gives sessions and their tokens."""

    def __init__(
        self,
        *,
        clock: Clock,
        ids: Ids,
        key: PeopleKey,
        random_bytes: Callable[[int], bytes],
        actions: Actions,
        members: OwnTokenSigner,
        operators: OwnTokenSigner | None,
    ) -> None:
        """
        Args:
            members, operators: sign their tokens; without the second one operators do not log in
                here.
        """
        self._clock = clock
        self._ids = ids
        self._key = key
        self._random_bytes = random_bytes
        self._actions = actions
        self._members = members
        self._operators = operators

    async def begin(
        self,
        tx: AsyncConnection,
        person: Person,
        *,
        wanted: str,
        client_address: str,
        method: str,
        used_code: bool,
    ) -> Granted:
        """A new session, which stands in the log of actions of the merchant that it is for.

        Args:
            wanted: merchant to act for; "" for the usual one.
            method: RPC by which the person logged in.
            used_code: he gave a code of his second factor.

        Raises:
            MerchantNotFound: he does not work for it. Unavailable: operators do not log in here.
        """
        memberships = await people.memberships_of(tx, person.member_id)
        acting = chosen(wanted, memberships, is_operator=person.is_operator)
        session = Session.begin(
            session_id=self._ids.new("SES"),
            member_id=person.member_id,
            merchant_id="" if acting is None else acting.merchant_id,
            refresh_seed=self._random_bytes(KEY_BYTES).hex(),
            client_address=client_address,
            now=self._clock.now(),
        )
        granted = self._granted(session, acting, memberships)
        await sessions.insert_session(tx, session)
        prefix = OPERATOR if granted.is_operator else MEMBER
        await self._actions.record(
            tx,
            caller=NOBODY,
            merchant_id=granted.merchant_id,
            method=method,
            target=session.session_id,
            after={"second_factor": used_code},
            actor=prefix + person.member_id,
        )
        return granted

    async def go_on(
        self,
        tx: AsyncConnection,
        session: Session,
        person: Person,
        *,
        wanted: str,
        client_address: str | None,
    ) -> Granted:
        """A session that exists, with tokens for the same merchant or another one of the person.

        Args:
            wanted: "" for the merchant of the session.
            client_address: from where the refresh token was used, which ends it; None: it stays.

        Raises:
            MerchantNotFound: he does not work for it (any more). Unavailable.
        """
        memberships = await people.memberships_of(tx, person.member_id)
        wanted = wanted or session.merchant_id
        acting = chosen(wanted, memberships, is_operator=person.is_operator)
        if client_address is not None:
            session = session.used(
                merchant_id=wanted, client_address=client_address, now=self._clock.now()
            )
            await sessions.save_session(tx, session)
        return self._granted(session, acting, memberships)

    def refresh_token(self, session: Session) -> str:
        """The refresh token that is good for a session."""
        return str(
            RefreshToken(
                session_id=session.session_id,
                rotation=session.rotation,
                code=self._key.code(session.token_text),
            )
        )

    def _granted(
        self, session: Session, acting: ActsFor | None, memberships: tuple[ActsFor, ...]
    ) -> Granted:
        scopes = frozenset[str]() if acting is None else acting.role.scopes
        if acting is None:
            if self._operators is None:
                raise Unavailable("operators do not log in here: operator_key_file is not set")
            token = self._operators.sign(
                OPERATOR + session.member_id,
                merchant_id="",
                roles=(Role.ADMIN,),
                lifetime_seconds=ACCESS_SECONDS,
                session_id=session.session_id,
            )
        else:
            token = self._members.sign(
                MEMBER + session.member_id,
                merchant_id=acting.merchant_id,
                roles=(Role.MERCHANT,),
                lifetime_seconds=ACCESS_SECONDS,
                scopes=scopes,
                session_id=session.session_id,
            )
        return Granted(
            session=session,
            access_token=token,
            access_expires_at=self._clock.now() + timedelta(seconds=ACCESS_SECONDS),
            refresh_token=self.refresh_token(session),
            merchant_id="" if acting is None else acting.merchant_id,
            role=None if acting is None else acting.role,
            scopes=scopes,
            memberships=tuple(
                (merchant_id, one.role)
                for one in memberships
                for merchant_id in (one.merchant_id, sibling_id(one.merchant_id))
            ),
        )
